"""Plain timeline: one line per row, for grep and awk; no colour, no width, no cutting.

Rows are written as they come (a live capture can be watched); lines with `#` are comments.
Refuses to summarise beyond one closing line per listener.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from backlogtrace.replay.rows import EventRow, OutRow, PacketRow
from backlogtrace.report.clock import seconds
from backlogtrace.report.safe import safe
from backlogtrace.report.words import span
from backlogtrace.segment import endpoint_text, flag_text

if TYPE_CHECKING:
    from backlogtrace.replay.rows import Header, ListenerSummary, Row
    from backlogtrace.report import Analysis


def write_text(analysis: Analysis, out: TextIO) -> None:
    """The rows, then what was read and the totals as `#` lines."""
    start: int | None = None
    for row in analysis:
        if start is None:
            first = analysis.header.first_ns
            start = first if first is not None else _time_of(row)
        out.write(row_text(row, start))
    out.write(_closing(analysis.header))
    for summary in analysis.listeners:
        out.write(_totals(summary))


def _time_of(row: Row) -> int:
    return row.segment.time_ns if isinstance(row, PacketRow | OutRow) else row.time_ns


def row_text(row: Row, start_ns: int) -> str:
    """One line; the time is in seconds after `start_ns`."""
    when = seconds(_time_of(row) - start_ns)
    if isinstance(row, PacketRow):
        parts = _packet(row, when)
    elif isinstance(row, OutRow):
        parts = _out(row, when)
    elif isinstance(row, EventRow):
        parts = [
            f"event t={when} {safe(row.listener)} {safe(row.event)}",
            safe(row.peer or ""),
            f"accept_queue={span(row.accept_queue)} syn_queue={span(row.syn_queue)}",
            _counters(row.counters),
            safe(row.detail),
        ]
    else:
        frame = "" if row.frame is None else f" frame={row.frame}"
        parts = [
            f"mismatch{frame} t={when} {safe(row.listener)} {safe(row.peer)} MISMATCH {row.what}:",
            safe(row.detail),
        ]
    return " ".join(filter(None, parts)) + "\n"


def _packet(row: PacketRow, when: str) -> list[str]:
    segment, outcome = row.segment, row.outcome
    return [
        f"frame={segment.frame} t={when} {endpoint_text(segment.src)} > {safe(row.listener)}",
        f"[{flag_text(segment.flags)}] {outcome.decision.upper()} {outcome.reason}",
        f"accept_queue={span(row.accept_queue)} syn_queue={span(row.syn_queue)}",
        f"rule={outcome.rule}@{outcome.function}",
        _counters(outcome.counters),
        row.certainty,
        "" if row.resolved_by is None else f"resolved_by={row.resolved_by}",
        f"rivals={','.join(row.rivals)}" if row.rivals else "",
    ]


def _out(row: OutRow, when: str) -> list[str]:
    segment = row.segment
    return [
        f"frame={segment.frame} t={when} {safe(row.listener)} > {endpoint_text(segment.dst)}",
        f"[{flag_text(segment.flags)}] {row.decision} {row.reason}",
        "" if row.cause is None else f"cause={row.cause}",
        "" if row.attempt is None else f"attempt={row.attempt}",
        _counters(row.counters),
        "" if row.expected else "UNEXPECTED",
    ]


def _counters(counters: dict[str, int]) -> str:
    return " ".join(f"+{name}={count}" for name, count in counters.items())


def _closing(header: Header) -> str:
    lines = [
        f"# {safe(header.capture)}: {header.packets} packets, {header.handshake_packets} of handshakes",
        f"# kernel {safe(header.kernel)}, mode {header.mode}, quality {header.quality}",
    ]
    lines += [f"# quality: {safe(reason)}" for reason in header.quality_reasons]
    lines += [f"# assumed: {safe(what)}" for what in header.assumed]
    lines += [f"# note: {safe(note)}" for note in header.notes]
    lines += [f"# skipped: {count} packets, {safe(reason)}" for reason, count in header.skipped.items()]
    return "\n".join(lines) + "\n"


def _totals(summary: ListenerSummary) -> str:
    decisions = " ".join(f"{name}={count}" for name, count in summary.decisions.items())
    counters = " ".join(f"{name}={count}" for name, count in summary.counters.items())
    return (
        f"# listener {safe(summary.name)}: {decisions or 'no packets'}"
        f"; peak accept_queue={span(summary.peak_accept_queue)} of {summary.accept_capacity}"
        f" syn_queue={span(summary.peak_syn_queue)} of {summary.syn_capacity}"
        f"; counters {counters or 'none'}; mismatches={summary.mismatches}\n"
    )
