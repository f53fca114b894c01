"""What a report for people keeps of an analysis: a bounded choice of rows and when each kind happened.

Knows which rows matter. Routine rows, by far the most, cost a look at their decision and no memory.
Refuses to format anything.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from backlogtrace.replay.rows import EventRow, MismatchRow, OutRow, PacketRow, Span

if TYPE_CHECKING:
    from collections.abc import Callable

    from backlogtrace.replay.rows import Row
    from backlogtrace.report import Analysis

Kind = tuple[str, str]
"""Decision and reason, or `event` and its name, or `mismatch` and what."""

ROUTINE = frozenset({"queued", "established", "passed", "fastopen"})
"""Decisions on inbound packets that are how it should be."""

_ROUTINE_OUT = frozenset({"reply", "cookie"})
_ROUTINE_EVENTS = frozenset({"accepted", "accept"})
_PER_KIND = 2
_MISMATCH_LIMIT = 10


class Selection:
    """The first and the last rows, and samples from in between; at most `limit` and the samples."""

    def __init__(self, limit: int) -> None:
        self.seen = 0
        self._limit = limit
        self._head: list[tuple[int, Row]] = []
        self._head_limit = (limit + 1) // 2
        self._tail: deque[tuple[int, Row]] = deque(maxlen=limit // 2)
        self._samples: list[tuple[int, Row]] = []

    def add(self, row: Row, *, sample: bool) -> None:
        """Consider `row`, the next in order; a sample is kept wherever it stands."""
        self.seen += 1
        if type(row) is PacketRow:
            self.seen += row.left_out
        if sample:
            self._samples.append((self.seen, row))
        if len(self._head) < self._head_limit:
            self._head.append((self.seen, row))
        else:
            self._tail.append((self.seen, row))

    def chosen(self) -> list[tuple[int, Row]]:
        """(rows hidden before this one, row) in order."""
        if not self._limit:
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
    spans: dict[str, dict[Kind, Span]] = field(default_factory=dict)
    """Listener -> (decision, reason) -> when; only what matters."""
    mismatches: list[MismatchRow] = field(default_factory=list)
    """The first few."""
    thinned: bool = False
    """Whether there were packets without rows of their own."""
    undecided: dict[str, dict[tuple[str, ...], int]] = field(default_factory=dict)
    """Listener -> what else may have become of a packet -> packets; of those that matter."""

    @property
    def mismatch_count(self) -> int:
        """All of them."""
        kinds = (kind for spans in self.spans.values() for kind in spans.items())
        return sum(span.count for (name, _), span in kinds if name == "mismatch")


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
    listeners: dict[str, dict[object, tuple[Kind, Span]]] = {}
    for row in analysis:
        if every_row is not None:
            every_row(row)
        kind: object
        if type(row) is PacketRow:
            kind, time_ns = row.outcome, row.segment.time_ns
            if kind.decision in ROUTINE:
                continue
            if row.rivals and row.certainty == "undecided":
                open_ = result.undecided.setdefault(row.listener, {})
                open_[row.rivals] = open_.get(row.rivals, 0) + 1
        elif matters(row):
            kind, time_ns = _name(row), _time(row)
        else:
            continue
        known = listeners.get(row.listener)
        if known is None:
            known = listeners[row.listener] = {}
        entry = known.get(kind)
        if entry is None:
            entry = known[kind] = (_name(row), Span(0, time_ns, time_ns))
        span = entry[1]
        span.count += 1
        span.last_ns = time_ns
        selection.add(row, sample=span.count <= _PER_KIND)
        if type(row) is MismatchRow and len(result.mismatches) < _MISMATCH_LIMIT:
            result.mismatches.append(row)
    for listener, several in analysis.many.items():
        known = listeners.setdefault(listener, {})
        for outcome, span in several.items():
            if outcome.decision not in ROUTINE:
                known["counted", outcome] = ((outcome.decision, outcome.reason), replace(span))
                result.thinned = True
    for listener, kinds in listeners.items():
        spans = result.spans[listener] = {}
        for name, span in kinds.values():
            _merge(spans, name, span)
    return result


def _name(row: Row) -> Kind:
    if isinstance(row, PacketRow):
        return row.outcome.decision, row.outcome.reason
    if isinstance(row, OutRow):
        return f"out {row.decision}", row.reason
    return ("event", row.event) if isinstance(row, EventRow) else ("mismatch", row.what)


def _time(row: Row) -> int:
    return row.segment.time_ns if isinstance(row, PacketRow | OutRow) else row.time_ns


def _merge(spans: dict[Kind, Span], name: Kind, span: Span) -> None:
    """Several outcomes can share decision and reason (they differ in counters)."""
    known = spans.get(name)
    if known is None:
        spans[name] = span
        return
    known.count += span.count
    known.first_ns = min(known.first_ns, span.first_ns)
    known.last_ns = max(known.last_ns, span.last_ns)
