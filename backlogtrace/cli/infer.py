"""`backlogtrace infer`: which server explains a capture.

Knows options and formats. Refuses to know how anything is worked out.
"""

from __future__ import annotations

from typing import Any

import click

from backlogtrace.cli.app import CONTEXT, fail
from backlogtrace.cli.completion import files
from backlogtrace.cli.options import input_files, model_options, parse_model
from backlogtrace.cli.pages import output_options, write_page


@click.command(context_settings=CONTEXT, short_help="Work out kernel, backlog and settings from a capture.")
@click.argument("captures", nargs=-1, required=True, metavar="CAPTURE...", shell_complete=files)
@model_options
@output_options(
    click.option("--strict", is_flag=True, help="Exit with 4 when the best explanation has contradictions.")
)
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
    write_page(page(inference), values, input_files(captures, values))
    problems = capture.info.problems
    if problems:
        return fail(problems[0], 3)
    undecided = any(one.ranked and one.ranked[0].score.contradictions for one in inference.listeners)
    return 4 if values["strict"] and undecided else 0
