"""`backlogtrace analyze`: the main job.

Knows how options, reader, replay and report are put together and what the exit code says.
Refuses to read, model or format anything itself.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import click

from backlogtrace.cli.app import CONTEXT, fail
from backlogtrace.cli.completion import files, listed
from backlogtrace.cli.options import (
    ALL_PACKETS,
    FAIL_CONDITIONS,
    OUTPUT,
    Model,
    input_files,
    model_options,
    parse_fail_on,
    parse_model,
)  # fmt: skip
from backlogtrace.report import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TextIO

    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.replay.rows import Header, ListenerSummary, Row, Span
    from backlogtrace.report import Analysis

    Write = Callable[[Analysis, TextIO], None]

_LIMIT = 40


@click.command(context_settings=CONTEXT, short_help="Explain every packet of a capture: the main job.")
@click.argument("captures", nargs=-1, required=True, metavar="CAPTURE...", shell_complete=files)
@model_options
@click.option(
    "-T",
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="rich",
    show_default=True,
    help="Output format.",
)
@OUTPUT
@ALL_PACKETS
@click.option(
    "--limit",
    type=click.IntRange(0),
    metavar="N",
    help=f"Rows in the timeline of the rich report [default: {_LIMIT}; all with --all].",
)
@click.option(
    "--fail-on",
    multiple=True,
    metavar="LIST",
    shell_complete=listed(FAIL_CONDITIONS),
    help=f"Exit with 1 when one of these happened: {', '.join(FAIL_CONDITIONS)}.",
)
@click.option("--strict", is_flag=True, help="Exit with 4 when the evidence is not enough for a firm answer.")
@click.option(
    "--color",
    type=click.Choice(("auto", "always", "never")),
    default="auto",
    show_default=True,
    help="Colour in the rich report.",
)
def analyze(captures: tuple[str, ...], **values: Any) -> int:  # fmt: skip
    """Say what the listen socket did with every packet of CAPTURE, and why.

    CAPTURE is a pcap or pcapng file, also compressed with gzip, zstd or lz4, or - for standard input.
    Several captures of one host are merged by time.
    """
    fail_on = parse_fail_on(values["fail_on"])
    everything = values["all_packets"]
    routine_rows = everything or values["form"] in {"text", "jsonl", "csv"}
    model = parse_model(
        values, all_packets=everything, routine_rows=routine_rows, every_row=routine_rows or values["strict"]
    )
    header, listeners, undecided = _analyze(captures, model, values)
    return _verdict(header, listeners, fail_on=fail_on, strict=values["strict"], undecided=undecided)


def _analyze(
    captures: tuple[str, ...], model: Model, values: dict[str, Any]
) -> tuple[Header, list[ListenerSummary], int]:
    """Read, replay and write; returns what the exit code depends on."""
    from backlogtrace.capture import open_capture
    from backlogtrace.cli.output import opened
    from backlogtrace.cli.progress import progress
    from backlogtrace.replay import analyze as replay

    write = _writer(values)
    with (
        progress(captures) as tell,
        open_capture(
            captures,
            reader=model.reader,
            keep_all=values["all_packets"],
            ports=model.ports,
            progress=tell,
            bundle=not model.options.all_packets,
            keep_small=True,
        ) as capture,  # fmt: skip
    ):
        analysis = replay(capture, model.host, model.options)
        watched = _Watched(analysis) if values["strict"] else None
        with opened(values["output"], input_files(captures, values)) as out:
            write(watched or analysis, out)
    return analysis.header, analysis.listeners, watched.undecided if watched else 0


def _writer(values: dict[str, Any]) -> Write:
    """The function that writes the format asked for; only that one is imported."""
    form = values["form"]
    if form == "jsonl":
        from backlogtrace.report.jsonl import write_jsonl

        return write_jsonl
    if form == "csv":
        from backlogtrace.report.csvrows import write_csv

        return write_csv
    if form == "prom":
        from backlogtrace.report.prom import write_prom

        return write_prom
    if form == "text":
        from backlogtrace.report.text import write_text

        return write_text
    return _rich_writer(values)


def _rich_writer(values: dict[str, Any]) -> Write:
    from backlogtrace.cli.output import ascii_only, wants_colour, width
    from backlogtrace.report.rich_report import Look, write_rich

    to_file = values["output"] not in {None, "-"}
    limit = values["limit"]
    look = Look(
        width=width(to_file=to_file),
        colour=wants_colour(values["color"], to_file=to_file),
        ascii_only=ascii_only(to_file=to_file),
        every_row=values["all_packets"] and limit is None,
        limit=_LIMIT if limit is None else limit,
    )
    return functools.partial(write_rich, look=look)


class _Watched:
    """An analysis that counts the rows that stay undecided as they pass."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self.undecided = 0

    @property
    def header(self) -> Header:
        return self._analysis.header

    @property
    def listeners(self) -> list[ListenerSummary]:
        return self._analysis.listeners

    @property
    def many(self) -> Mapping[str, Mapping[Outcome, Span]]:
        return self._analysis.many

    def __iter__(self) -> Iterator[Row]:
        for row in self._analysis:
            if getattr(row, "certainty", "") == "undecided":
                self.undecided += 1
            yield row


def _verdict(
    header: Header, listeners: list[ListenerSummary], *, fail_on: frozenset[str], strict: bool, undecided: int
) -> int:
    """The exit code; what is wrong with the input comes before what was found in it."""
    if header.problems:
        sys.stdout.flush()
        return max(fail(problem, 3) for problem in header.problems)
    for condition in FAIL_CONDITIONS:
        if condition not in fail_on:
            continue
        if condition == "mismatch":
            found = sum(summary.mismatches for summary in listeners)
        else:
            found = sum(summary.decisions.get(condition, 0) for summary in listeners)
        if found:
            return fail(f"--fail-on {condition}: {found} found", 1)
    if strict and (undecided or header.quality in {"C", "D"}):
        reasons = "; ".join(header.quality_reasons)
        return fail(
            f"--strict: inconclusive: capture quality {header.quality}{f' ({reasons})' if reasons else ''}, "
            f"{undecided} undecided packets",
            4,
        )
    return 0
