"""What a report for people keeps of an analysis: a bounded choice of rows and when each kind happened.

Knows which rows matter. Routine rows, by far the most, cost a look at their decision and no memory.
Refuses to format anything.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backlogtrace.replay.rows import EventRow, MismatchRow, OutRow, PacketRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from backlogtrace.replay.rows import Row
    from backlogtrace.report import Analysis

ROUTINE = frozenset({"queued", "established", "passed", "fastopen"})
"""Decisions on inbound packets that are how it should be."""

_ROUTINE_OUT = frozenset({"reply", "cookie"})
_ROUTINE_EVENTS = frozenset({"accepted", "accept"})
_PER_KIND = 2
_MISMATCH_LIMIT = 10


@dataclass(slots=True)
class Span:
    """How often something happened and when first and last (ns since the epoch)."""

    count: int
    first_ns: int
    last_ns: int


class Selection:
    """The first and the last rows, and the first of every kind in between; at most `limit` + 2 a kind."""

    def __init__(self, limit: int) -> None:
        self.seen = 0
        self._head_limit = (limit + 1) // 2
        self._head: list[tuple[int, Row]] = []
        self._tail: deque[tuple[int, Row]] = deque(maxlen=limit // 2)
        self._kinds: dict[object, int] = {}
        self._samples: list[tuple[int, Row]] = []

    def add(self, kind: object, row: Row) -> None:
        """Consider `row`; rows come in order."""
        self.seen += 1
        entry = (self.seen, row)
        if len(self._head) < self._head_limit:
            self._head.append(entry)
        else:
            self._tail.append(entry)
        number = self._kinds.get(kind, 0)
        if number < _PER_KIND:
            self._kinds[kind] = number + 1
            self._samples.append(entry)

    def chosen(self) -> list[tuple[int, Row]]:
        """(rows hidden before this one, row) in order."""
        if self._head_limit == 0:
            return []
        by_number = dict(self._head) | dict(self._samples) | dict(self._tail)
        result, before = [], 0
        for number in sorted(by_number):
            result.append((number - before - 1, by_number[number]))
            before = number
        return result


@dataclass(slots=True)
class Digest:
    """What remains of the rows once they have been consumed."""

    selection: Selection
    spans: dict[str, dict[tuple[str, str], Span]] = field(default_factory=dict)
    """Listener -> (decision, reason) -> when; only what matters."""
    mismatches: list[MismatchRow] = field(default_factory=list)
    """The first few."""
    mismatch_count: int = 0


def matters(row: Row) -> bool:
    """Whether the timeline shows `row` without being asked for all."""
    if isinstance(row, PacketRow):
        return row.outcome.decision not in ROUTINE
    if isinstance(row, OutRow):
        return row.decision != "passed" and (row.reason not in _ROUTINE_OUT or not row.expected)
    return not isinstance(row, EventRow) or row.event not in _ROUTINE_EVENTS


def digest(analysis: Analysis, limit: int, every_row: Callable[[Row], None] | None = None) -> Digest:
    """Consume `analysis`; `limit` rows are kept for the timeline.

    `every_row` is called with every row, also those that do not matter (for a timeline of all).
    """
    selection = Selection(limit)
    result = Digest(selection)
    spans: dict[tuple[str, object], Span] = {}
    named: dict[tuple[str, object], tuple[str, str]] = {}
    for row in analysis:
        if every_row is not None:
            every_row(row)
        if type(row) is PacketRow:
            outcome = row.outcome
            if outcome.decision in ROUTINE:
                continue
            key: tuple[str, object] = (row.listener, outcome)
            time_ns = row.segment.time_ns
        elif not matters(row):
            continue
        else:
            key, time_ns = _key(row), _time(row)
            if isinstance(row, MismatchRow):
                result.mismatch_count += 1
                if len(result.mismatches) < _MISMATCH_LIMIT:
                    result.mismatches.append(row)
        span = spans.get(key)
        if span is None:
            spans[key] = Span(1, time_ns, time_ns)
            named[key] = _name(row)
        else:
            span.count += 1
            span.last_ns = time_ns
        selection.add(key, row)
    for key, span in spans.items():
        _merge(result.spans.setdefault(key[0], {}), named[key], span)
    return result


def _key(row: Row) -> tuple[str, object]:
    return row.listener, _name(row)


def _name(row: Row) -> tuple[str, str]:
    if isinstance(row, PacketRow):
        return row.outcome.decision, row.outcome.reason
    if isinstance(row, OutRow):
        return f"out {row.decision}", row.reason
    return ("event", row.event) if isinstance(row, EventRow) else ("mismatch", row.what)


def _time(row: Row) -> int:
    return row.segment.time_ns if isinstance(row, PacketRow | OutRow) else row.time_ns


def _merge(spans: dict[tuple[str, str], Span], name: tuple[str, str], span: Span) -> None:
    """Several outcomes can share decision and reason (they differ in counters)."""
    known = spans.get(name)
    if known is None:
        spans[name] = span
        return
    known.count += span.count
    known.first_ns = min(known.first_ns, span.first_ns)
    known.last_ns = max(known.last_ns, span.last_ns)
