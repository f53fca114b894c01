"""Aligned lines of the timeline, fast and never wider than the terminal (rich's tables are too slow).

Knows columns, widths and ANSI colours of decisions; a decision is always worded, never only coloured.
Refuses to choose which rows are shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from backlogtrace.replay.rows import EventRow, OutRow, PacketRow
from backlogtrace.report import words
from backlogtrace.report.clock import seconds
from backlogtrace.report.safe import safe
from backlogtrace.segment import endpoint_text, flag_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backlogtrace.replay.rows import Row

COLOURS = {
    "queued": "32", "established": "32", "fastopen": "32", "cookie": "36", "retransmitted": "33",
    "deferred": "33",
    "synack": "33", "dropped": "31", "overflow": "1;31", "rst": "35", "aborted": "33", "ignored": "33",
    "expired": "33", "MISMATCH": "1;7;31",
}  # fmt: skip
"""Word in the decision column -> ANSI SGR parameters."""

_HEADINGS = ("frame", "time", "client", "flag", "accq", "synq")
WIDE = 110
"""From here on there is room for sentences instead of labels."""
_WHY_MIN = 18


class Cells(NamedTuple):
    """One row as text."""

    frame: str
    time: str
    peer: str
    flags: str
    accept_queue: str
    syn_queue: str
    decision: str
    why: str


def cells(row: Row, start_ns: int, *, long: bool, listener: bool) -> Cells:
    """`row` as text; `long` for sentences, `listener` to name the listener too."""
    prefix = f"{safe(row.listener)} " if listener else ""
    if isinstance(row, PacketRow):
        segment, outcome = row.segment, row.outcome
        why = words.sentence(outcome.decision, outcome.reason) if long else words.label(outcome.reason)
        return Cells(
            str(segment.frame), seconds(segment.time_ns - start_ns), endpoint_text(segment.src),
            flag_text(segment.flags), words.span(row.accept_queue), words.span(row.syn_queue),
            outcome.decision, prefix + why + _certainty(row),
        )  # fmt: skip
    if isinstance(row, OutRow):
        segment = row.segment
        why = words.out_sentence(row.decision, row.reason) if long else words.label(row.reason)
        why += f" #{row.attempt}" if row.attempt else ""
        why += "" if row.expected else " (not expected)"
        return Cells(
            str(segment.frame), seconds(segment.time_ns - start_ns), endpoint_text(segment.dst),
            flag_text(segment.flags), "", "", row.decision, f"{prefix}<- {why}",
        )  # fmt: skip
    if isinstance(row, EventRow):
        why = row.detail and safe(row.detail)
        why = why or (words.EVENT_SENTENCES.get(row.event, "") if long else "")
        return Cells(
            "", seconds(row.time_ns - start_ns), safe(row.peer or ""), "", words.span(row.accept_queue),
            words.span(row.syn_queue), safe(words.label(row.event)), prefix + why,
        )  # fmt: skip
    what = words.MISMATCHES[row.what] if long else words.label(row.what)
    return Cells(
        "" if row.frame is None else str(row.frame), seconds(row.time_ns - start_ns), safe(row.peer), "", "",
        "",
        "MISMATCH", f"{prefix}{what}",
    )  # fmt: skip


def _certainty(row: PacketRow) -> str:
    if row.certainty != "certain":
        rivals = f": {', '.join(map(words.label, row.rivals))}?" if row.rivals else ""
        return f" ({row.certainty}{rivals})"
    return ""


class Layout:
    """Column widths that fit the rows they were made from; other rows fit too, if less neatly."""

    def __init__(self, rows: Sequence[Cells], width: int, *, colour: bool) -> None:
        self._width = width
        self._colour = colour
        self._widths = [
            max([len(_HEADINGS[n]), *(len(row[n]) for row in rows)]) for n in range(len(_HEADINGS))
        ]
        self._decision = max([len("decision"), *(len(row.decision) for row in rows)])
        left = sum(self._widths) + len(self._widths) + self._decision + 1
        self._two_lines = left + _WHY_MIN > width

    def heading(self) -> str:
        """The line above the rows."""
        left = self._left(_HEADINGS)
        text = left.rstrip() if self._two_lines else f"{left}{'decision':{self._decision}} why"
        return f"\x1b[2m{text}\x1b[0m\n" if self._colour else f"{text}\n"

    def line(self, row: Cells) -> str:
        """`row` on one line, or on two where its client's address leaves no room for the why."""
        left = self._left(row[:6])
        why = row.why
        if self._two_lines:
            lead, pad = f"{left.rstrip()}\n{' ' * (self._widths[0] + 1)}", ""
            room = self._width - self._widths[0] - 1 - len(row.decision) - 1
        else:
            lead, pad = left, " " * (self._decision - len(row.decision))
            room = self._width - len(left) - max(self._decision, len(row.decision)) - 1
        rest = f"{pad} {self._cut(why, room)}" if why else ""
        return f"{lead}{self._paint(row.decision)}{rest}\n"

    def _left(self, row: Sequence[str]) -> str:
        frame, time, peer, flags, accept, syn = self._widths
        return (
            f"{row[0]:>{frame}} {row[1]:>{time}} {row[2]:<{peer}} {row[3]:<{flags}} "
            f"{row[4]:>{accept}} {row[5]:>{syn}} "
        )

    @staticmethod
    def _cut(text: str, room: int) -> str:
        return text if len(text) <= room else f"{text[: max(room - 2, 0)]}.."

    def _paint(self, decision: str) -> str:
        code = COLOURS.get(decision) if self._colour else None
        return f"\x1b[{code}m{decision}\x1b[0m" if code else decision


def lines(
    rows: Iterable[tuple[int, Row]], start_ns: int, width: int, *, colour: bool, listener: bool
) -> Iterable[str]:
    """Heading and lines for (hidden before, row) pairs; `listener` when there are several."""
    entries = [(hidden, cells(row, start_ns, long=width >= WIDE, listener=listener)) for hidden, row in rows]
    layout = Layout([row for _, row in entries], width, colour=colour)
    if entries:
        yield layout.heading()
    for hidden, row in entries:
        if hidden:
            yield f"  ... {words.count(hidden, 'row')} not shown\n"
        yield layout.line(row)
