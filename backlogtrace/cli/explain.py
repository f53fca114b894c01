"""`backlogtrace explain`: what a setting, counter, decision or reason does, and why a packet fared as it did.

Knows options and formats. Refuses to know what anything means.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from backlogtrace.cli.app import CONTEXT
from backlogtrace.cli.completion import files, topics
from backlogtrace.cli.options import KERNEL, find_kernel, input_files
from backlogtrace.cli.pages import output_options, write_page
from backlogtrace.errors import UsageError

if TYPE_CHECKING:
    from backlogtrace.api import Analysis
    from backlogtrace.report.kernels import Page

_BACKLOG = 4
_TOPIC_BACKLOG = 511
"""What nginx and Redis ask for."""
_TRIED_ROWS = 5_000
"""Captures with more rows are not analysed again with other settings: it would take minutes."""
_ALL_PACKETS = 200_000
"""In larger captures packets of established connections are not looked for: rows would fill the memory."""


@click.command(context_settings=CONTEXT, short_help="Show what a setting does, or what a word means.")
@click.argument("topic", required=False, metavar="[TOPIC|CAPTURE]", shell_complete=topics)
@click.option("--frame", type=click.IntRange(1), metavar="N", help="Explain packet N of CAPTURE.")
@click.option(
    "--host", "host_file", metavar="FILE", shell_complete=files, help="Host file of CAPTURE, as for analyze."
)
@click.option(
    "--sysctl", "sysctls", multiple=True, metavar="NAME=VALUE",
    help="Setting to try, short or full name; repeatable.",
)  # fmt: skip
@click.option(
    "--backlog", type=click.IntRange(0, 2**31 - 1),
    help="What the application passes to listen() "
    f"[default: {_BACKLOG}, for a TOPIC {_TOPIC_BACKLOG}; a CAPTURE's own].",
)  # fmt: skip
@KERNEL
@output_options()
def explain(topic: str | None, sysctls: tuple[str, ...], frame: int | None, **values: Any) -> None:
    """Play what settings change, or say what a TOPIC means; without either, list the topics.

    With --sysctl, small situations (a SYN while a queue is full, an ACK that nobody can take, ...) are
    run on the model of the kernel twice, with its defaults and as given, and shown side by side. TOPIC is
    a question (syn-queue), sysctl, socket option (TCP_DEFER_ACCEPT), counter (ListenDrops), decision
    (overflow) or reason (syn_queue_full); --kernel and --backlog say of which server.

    With CAPTURE and --frame, one packet is explained: what happened to it, who sat in the queues, what else
    its client sent and, where the host file or backlog is given, which setting would have changed it.
    """
    from backlogtrace.kernel.families import DEFAULT
    from backlogtrace.replay.host import parse_sysctl
    from backlogtrace.replay.situations import Setup
    from backlogtrace.report import explain as report

    if frame is not None:
        if topic is None:
            raise UsageError("--frame is a packet of a capture: give the capture, too")
        write_page(
            _packet(topic, frame, dict(map(parse_sysctl, sysctls)), values),
            values,
            input_files((topic,), values),
        )
        return
    if values["host_file"]:
        raise UsageError("--host belongs to a capture: give the capture and --frame, too")
    if topic is not None and os.path.isfile(topic):  # noqa: PTH113 - starts faster
        raise UsageError(f"{topic} is a file: say which of its packets with --frame N")
    if topic is not None and sysctls:
        raise UsageError(f"--sysctl plays settings and {topic!r} is a topic: give one of them")
    profile, note = find_kernel(values["kernel"]) if values["kernel"] else (DEFAULT, "")
    given = values["backlog"]
    if sysctls:
        setup = Setup(profile, backlog=_BACKLOG if given is None else given)
        page = report.effect(setup, dict(map(parse_sysctl, sysctls)), note)
    elif topic is not None:
        page = report.topic(topic, Setup(profile, backlog=_TOPIC_BACKLOG if given is None else given), note)
    else:
        page = report.overview()
    write_page(page, values)


def _packet(capture: str, frame: int, sysctl: dict[str, int], values: dict[str, Any]) -> Page:
    """The page of one packet; settings are tried on files of moderate size only."""
    from backlogtrace.api import analyze
    from backlogtrace.capture.reader import rereadable
    from backlogtrace.report.frame import page

    def run(more: dict[str, int], backlog: int | None, *, everything: bool = False) -> Analysis:
        return analyze(
            capture, host=values["host_file"], kernel=values["kernel"], sysctl=sysctl | more,
            backlog=values["backlog"] if backlog is None else backlog,
            checks_of=frame, all_packets=everything,
        )  # fmt: skip

    analysis = run({}, None)
    missing = all(row["type"] != "packet" or row["frame"] != frame for row in analysis.rows)
    if missing and analysis.header["packets"] <= _ALL_PACKETS and rereadable(capture):
        analysis = run({}, None, everything=True)
    known = values["host_file"] or values["backlog"] is not None  # else inference would bend to what is tried
    tried = known and rereadable(capture) and len(analysis.rows) <= _TRIED_ROWS
    return page(analysis, frame, run if tried else None)
