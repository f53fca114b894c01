"""`backlogtrace infer`: which server explains a capture.

Knows options and formats. Refuses to know how anything is worked out.
"""

from __future__ import annotations

from typing import Any

import click

from backlogtrace.cli.app import CONTEXT, fail
from backlogtrace.cli.options import model_options, parse_model


@click.command(context_settings=CONTEXT, short_help="Work out kernel, backlog and settings from a capture.")
@click.argument("captures", nargs=-1, required=True, metavar="CAPTURE...")
@model_options
@click.option(
    "-T", "--format", "form", type=click.Choice(("rich", "text", "json")), default="rich", show_default=True,
    help="Output format.",
)  # fmt: skip
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, whole or not at all.")
@click.option("--strict", is_flag=True, help="Exit with 4 when the best explanation has contradictions.")
@click.option(
    "--color", type=click.Choice(("auto", "always", "never")), default="auto", show_default=True,
    help="Colour in the rich output.",
)  # fmt: skip
def infer(captures: tuple[str, ...], **values: Any) -> int:
    """Say which kernel, backlog, sysctls and accept() behaviour explain CAPTURE.

    Tries servers one after another, ranks them by what contradicts them and then by how usual they
    are, and names the runner-up, the packet that separates the two, and what cannot be told. What is
    given (--kernel, --sysctl, --backlog, --host) is not tried.
    """
    from backlogtrace.capture import open_capture
    from backlogtrace.cli.progress import progress
    from backlogtrace.replay import infer_capture
    from backlogtrace.report.inference import page

    model = parse_model(values)
    with (
        progress(captures) as tell,
        open_capture(
            captures, reader=model.reader, ports=model.ports, progress=tell, bundle=True, keep_small=True
        ) as capture,
    ):
        inference = infer_capture(capture, model.host, model.options)
    _write(page(inference), captures, values)
    problems = capture.info.problems
    if problems:
        return fail(problems[0], 3)
    undecided = any(one.ranked and one.ranked[0].score.contradictions for one in inference.listeners)
    return 4 if values["strict"] and undecided else 0


def _write(shown: Any, captures: tuple[str, ...], values: dict[str, Any]) -> None:
    from backlogtrace.cli.output import ascii_only, opened, wants_colour, width
    from backlogtrace.report import kernels as report

    to_file = values["output"] not in {None, "-"}
    inputs = [*captures, *([values["host_file"]] if values["host_file"] else [])]
    with opened(values["output"], inputs) as out:
        if values["form"] == "json":
            report.write_json(shown, out)
        elif values["form"] == "text":
            report.write_text(shown, out)
        else:
            from backlogtrace.report.rich_report import Look

            look = Look(
                width=width(to_file=to_file),
                colour=wants_colour(values["color"], to_file=to_file),
                ascii_only=ascii_only(to_file=to_file),
            )
            report.write_rich(shown, out, look)
