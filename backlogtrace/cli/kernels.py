"""`backlogtrace kernels`: which kernels are modelled, and what differs between them.

Knows what can be asked for and in which format. Refuses to know what the profiles say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from backlogtrace.cli.app import CONTEXT
from backlogtrace.errors import UsageError

if TYPE_CHECKING:
    from backlogtrace.kernel.profile import Profile
    from backlogtrace.report.kernels import Page


@click.command(context_settings=CONTEXT, short_help="List the modelled kernels and what changed between.")
@click.argument("name", required=False)
@click.option(
    "--diff", nargs=2, metavar="NAME NAME", help="What the second kernel does differently, and since when."
)
@click.option(
    "-T",
    "--format",
    "form",
    type=click.Choice(("rich", "text", "json")),
    default="rich",
    show_default=True,
    help="Output format.",
)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, whole or not at all.")
@click.option(
    "--color", type=click.Choice(("auto", "always", "never")), default="auto", show_default=True,
    help="Colour in the rich output.",
)  # fmt: skip
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


def find_kernel(text: str) -> tuple[Profile, str]:
    """Profile for --kernel and a note; raises UsageError for an unknown name."""
    from backlogtrace.kernel import profiles

    try:
        return profiles.find(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def write_page(page: Page, values: dict[str, Any]) -> None:
    """Write a page in the format and to the place that the options say."""
    from backlogtrace.cli.output import ascii_only, opened, wants_colour, width
    from backlogtrace.report import kernels as report

    to_file = values["output"] not in {None, "-"}
    with opened(values["output"], ()) as out:
        if values["form"] == "json":
            report.write_json(page, out)
        elif values["form"] == "text":
            report.write_text(page, out)
        else:
            from backlogtrace.report.rich_report import Look

            look = Look(
                width=width(to_file=to_file),
                colour=wants_colour(values["color"], to_file=to_file),
                ascii_only=ascii_only(to_file=to_file),
            )
            report.write_rich(page, out, look)
