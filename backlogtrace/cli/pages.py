"""Commands that show a page (`explain`, `infer`, `kernels`): their options, and how a page is written.

Knows formats and places. Refuses to know what is on the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from backlogtrace.cli.options import OUTPUT, with_options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backlogtrace.report.kernels import Page

_FORMAT = click.option(
    "-T", "--format", "form", type=click.Choice(("rich", "text", "json")), default="rich", show_default=True,
    help="Output format.",
)  # fmt: skip
_COLOR = click.option(
    "--color", type=click.Choice(("auto", "always", "never")), default="auto", show_default=True,
    help="Colour in the rich output.",
)  # fmt: skip


def output_options(*between: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Decorator: format, output file, then the command's own options `between`, then colour."""
    return with_options(_FORMAT, OUTPUT, *between, _COLOR)


def write_page(page: Page, values: dict[str, Any], inputs: Sequence[str] = ()) -> None:
    """Write a page in the format and to the place that the options say; never over one of `inputs`."""
    from backlogtrace.cli.output import ascii_only, opened, wants_colour, width
    from backlogtrace.report import kernels as report

    to_file = values["output"] not in {None, "-"}
    with opened(values["output"], inputs) as out:
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
