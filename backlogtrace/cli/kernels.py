"""`backlogtrace kernels`: which kernels are modelled, and what differs between them.

Knows what can be asked for and in which format. Refuses to know what the profiles say.
"""

from __future__ import annotations

from typing import Any

import click

from backlogtrace.cli.app import CONTEXT
from backlogtrace.cli.completion import kernels as names
from backlogtrace.cli.options import find_kernel
from backlogtrace.cli.pages import output_options, write_page
from backlogtrace.errors import UsageError


@click.command(context_settings=CONTEXT, short_help="List the modelled kernels and what changed between.")
@click.argument("name", required=False, shell_complete=names)
@click.option(
    "--diff", nargs=2, metavar="NAME NAME", shell_complete=names,
    help="What the second kernel does differently, and since when.",
)  # fmt: skip
@output_options()
def kernels(name: str | None, diff: tuple[str, str] | None, **values: Any) -> None:
    """List the modelled kernels, show one with all its changes, or compare two.

    NAME is a family (5.10), a distribution (rhel8, ubuntu22.04, bookworm) or what `uname -r` prints.
    """
    from backlogtrace.report import kernels as report

    if diff is not None and name is not None:
        raise UsageError(f"--diff takes two kernels; {name!r} is a third one")
    if diff is not None:
        (before, first), (after, second) = map(find_kernel, diff)
        page = report.comparison(before, after, (first, second))
    elif name is not None:
        page = report.portrait(*find_kernel(name))
    else:
        page = report.overview()
    write_page(page, values)
