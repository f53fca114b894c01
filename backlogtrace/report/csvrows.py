"""CSV: one line per row of the analysis, for spreadsheets and dataframes.

Knows the columns and how to keep a spreadsheet from running a cell. Refuses to show totals.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, TextIO

from backlogtrace.replay.rows import EventRow, OutRow, PacketRow
from backlogtrace.report.safe import csv_text, safe
from backlogtrace.segment import endpoint_text, flag_text

if TYPE_CHECKING:
    from backlogtrace.replay.rows import MismatchRow, Row
    from backlogtrace.report import Analysis

COLUMNS = (
    "type", "frame", "time_ns", "listener", "peer", "dir", "flags", "decision", "reason", "rule", "function",
    "reply", "counters", "accept_queue_low", "accept_queue_high", "syn_queue_low", "syn_queue_high",
    "certainty", "resolved_by", "rivals", "cause", "attempt", "expected", "detail",
)  # fmt: skip

_BATCH = 2048
_Cell = str | int | None


def write_csv(analysis: Analysis, out: TextIO) -> None:
    """A heading line, then the rows; lines end with LF."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    batch: list[list[_Cell]] = []
    for row in analysis:
        batch.append(_cells(row))
        if len(batch) == _BATCH:
            writer.writerows(batch)
            batch.clear()
    writer.writerows(batch)


def _cells(row: Row) -> list[_Cell]:
    """The cells of `row` in the order of COLUMNS; what a kind of row has not stays empty."""
    if isinstance(row, PacketRow):
        outcome, segment = row.outcome, row.segment
        return [
            "packet", segment.frame, segment.time_ns, _text(row.listener), endpoint_text(segment.src), "in",
            flag_text(segment.flags), outcome.decision, outcome.reason, outcome.rule, outcome.function,
            outcome.reply, _counters(outcome.counters), *row.accept_queue, *row.syn_queue, row.certainty,
            row.resolved_by, " ".join(row.rivals), None, None, None, None,
        ]  # fmt: skip
    if isinstance(row, OutRow):
        segment = row.segment
        return [
            "packet", segment.frame, segment.time_ns, _text(row.listener), endpoint_text(segment.dst), "out",
            flag_text(segment.flags), row.decision, _text(row.reason), None, None, None,
            _counters(row.counters), *[None] * 7, row.cause, row.attempt,
            "true" if row.expected else "false", None,
        ]  # fmt: skip
    if isinstance(row, EventRow):
        return [
            "event", None, row.time_ns, _text(row.listener), _text(row.peer or ""), None, None,
            _text(row.event),
            *[None] * 4, _counters(row.counters), *row.accept_queue, *row.syn_queue, *[None] * 6,
            _text(row.detail),
        ]  # fmt: skip
    return _mismatch(row)


def _mismatch(row: MismatchRow) -> list[_Cell]:
    return [
        "mismatch", row.frame, row.time_ns, _text(row.listener), _text(row.peer), None, None, row.what,
        *[None] * (len(COLUMNS) - 9), _text(row.detail),
    ]  # fmt: skip


def _text(text: str) -> str:
    return csv_text(safe(text))


def _counters(counters: dict[str, int]) -> str:
    return " ".join(f"{name}={count}" for name, count in counters.items())
