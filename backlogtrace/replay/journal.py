"""The rows of a replay, held back until what they wait for has been seen.

A decision is often proved only later: an ignored ACK by the SYN-ACK that is repeated a second
after it. Rows leave in order, each when it is proved or its time is over. Decides nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from backlogtrace.kernel import outcomes as out
from backlogtrace.replay.lookahead import AHEAD_NS
from backlogtrace.replay.rows import EventRow, MismatchRow, OutRow, PacketRow, Span
from backlogtrace.replay.stranger import NOT_LINUX
from backlogtrace.segment import ACK, SYN, endpoint_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.replay.cookie_witness import SideWitness
    from backlogtrace.replay.rows import Certainty, Row
    from backlogtrace.replay.track import Track
    from backlogtrace.segment import Segment

HOLD_NS = 4_000_000_000
"""How long a row waits for the packet that proves it."""
_HOLD_ROWS = 65_536
_SECOND_NS = 1_000_000_000
_PER_SECOND = 2_000
_ROUTINE = frozenset({"queued", "established", "passed"})
_SILENT = frozenset({"dropped", "overflow", "deferred"})
_OTHER_ORIGIN = {"queued": "cookie", "retransmitted": "cookie", "fastopen": "cookie", "cookie": "queued"}
"""Decisions that a SYN-ACK answers -> what else may have sent it."""
_LOOK_THE_SAME = frozenset({NOT_LINUX, "defer_accept", "overflow"})
"""Rivals that no later packet tells from the decision."""
_PROVED_LATER = frozenset({"dropped", "overflow", "established", "deferred"})


class Journal:
    """Rows in the making.

    `routine` says whether rows are wanted for packets that went the ordinary way; `everything`
    adds the packets of established connections.
    """

    def __init__(
        self, certainty: Certainty, *, routine: bool, everything: bool, silence_rivals: tuple[str, ...] = ()
    ) -> None:
        self.certainty = certainty
        self._silence_rivals = silence_rivals
        """What else may explain that the server did not answer."""
        self.witness: SideWitness | None = None
        """Asked whether a SYN-ACK is a cookie, where that is not certain from what is given."""
        self.routine = routine or everything
        self.everything = everything
        self.rows: deque[Row] = deque()
        self.lowest: Callable[[Track, int, int], int] | None = None
        """Where accept() is worked out: the least that an accept queue can hold at a time (ns)."""
        self.taken_at_once: Callable[[Segment], bool] | None = None
        """Likewise: whether a packet that completed a handshake is the only one that can have done so."""
        self.blind = False
        """Too much is missing from the capture to hold the model to it."""
        self.differing: dict[int, tuple[str, ...]] = {}
        """Packets (frames) whose decision the evidence leaves open -> the other decisions."""
        self.doubted: dict[int, tuple[str, ...]] = {}
        """Likewise where the others are much less likely, but nothing on the wire rules them out."""
        self.strangers: frozenset[str] = frozenset()
        """Listeners whose server is no Linux kernel, as the capture shows: the model may not apply."""
        self.thin_until = 0
        """Before this time (ns) packets are only counted where more come in a second than anybody reads."""
        self.many: dict[str, dict[Outcome, Span]] = {}
        """Listener -> kind -> those that are only counted."""
        self._left_out = self._second = self._made = 0
        self.unproved: dict[bytes, PacketRow] = {}
        """Last row of a connection that waits for proof, by client + server endpoint."""

    def wants(self, decision: str) -> bool:
        """Whether a packet with this decision gets a row."""
        return self.everything or (decision != "passed" and (self.routine or decision not in _ROUTINE))

    def only_counted(self, track: Track, outcome: Outcome, now: int) -> bool:
        """Whether an inbound packet is one of too many to have a row; it is counted then."""
        if now - self._second >= _SECOND_NS:
            self._second, self._made = now, 0
        self._made += 1
        if self._made <= _PER_SECOND:
            return False
        kinds = self.many.setdefault(track.name, {})
        known = kinds.get(outcome)
        if known is None:
            kinds[outcome] = Span(1, now, now)
        else:
            known.count += 1
            known.last_ns = now
        self._left_out += 1
        return True

    def packet(
        self, key: bytes, track: Track, segment: Segment, outcome: Outcome, queues: tuple[int, int, int]
    ) -> PacketRow | None:
        """An inbound packet; `queues` are accept queue, lowest and highest SYN queue after it."""
        accept, syn_low, syn_high = queues
        least = accept if self.lowest is None else self.lowest(track, segment.time_ns, accept)
        rivals = self._silence_rivals if outcome.decision in _SILENT else ()
        row = PacketRow(
            segment, track.name, outcome, (least, accept), (syn_low, syn_high), self.certainty, rivals=rivals
        )
        row.left_out, self._left_out = self._left_out, 0
        if self.blind:
            row.certainty = "undecided"
        if segment.frame in self.differing:
            row.certainty = "undecided"
            row.rivals = (*rivals, *self.differing[segment.frame])
        elif segment.frame in self.doubted:
            row.rivals = (*rivals, *self.doubted[segment.frame])
        if track.name in self.strangers:
            self._doubt(row)
        self.rows.append(row)
        if segment.flags & (SYN | ACK) == SYN:
            before = self.unproved.pop(key, None)
            if before is not None and before.outcome.decision == "dropped":
                _settle(before, segment)  # the client asks again: it got no answer
        if outcome.decision in _PROVED_LATER:
            self.unproved[key] = row
        return row

    def left_open(self, segment: Segment, row: PacketRow | None, rivals: tuple[str, ...]) -> None:
        """The evidence leaves open what became of a packet: also possible is one of `rivals`."""
        del segment
        if row is not None:
            row.certainty = "undecided"
            add_rivals(row, *rivals)

    @staticmethod
    def _doubt(row: PacketRow) -> None:
        """What another system did is not known where it refused something, and no proof is one of it."""
        row.rivals = (*row.rivals, NOT_LINUX)
        if row.outcome.decision not in _ROUTINE:
            row.certainty = "undecided"
        elif row.certainty == "certain":
            row.certainty = "likely"

    def proved(self, key: bytes, later: Segment) -> None:
        """A later packet of the server settles what it did with an earlier one of the client."""
        row = self.unproved.pop(key, None)
        if row is None:
            return
        established = row.outcome.decision == "established"
        if established and self.taken_at_once is not None and not self.taken_at_once(row.segment):
            return  # in use since, but it may be a later packet that completed the handshake
        if _settle(row, later):
            _now_certain(row)

    def sent(  # noqa: PLR0913 - the columns of a row
        self, track: Track, segment: Segment, decision: str, reason: str, cause: int | None = None,
        *, attempt: int | None = None, expected: bool = True, counters: dict[str, int] | None = None,
    ) -> None:  # fmt: skip
        """A packet of the server."""
        self.rows.append(
            OutRow(segment, track.name, decision, reason, cause, attempt, expected, counters or {})  # type: ignore[arg-type]
        )

    def event(
        self, track: Track, when: int, event: str, key: bytes | None, detail: str = "",
        *, counters: dict[str, int] | None = None,
    ) -> None:  # fmt: skip
        """Something that left no packet."""
        accept, syn_low, syn_high = track.queues()
        least = accept if self.lowest is None else self.lowest(track, when, accept)
        peer = None if key is None else endpoint_text(key[: len(key) // 2])
        row = EventRow(
            when, track.name, peer, event, (least, accept), (syn_low, syn_high), counters or {}, detail
        )
        if track.group is not None:
            track.group.qualify_event(row, key)
        self.rows.append(row)
        track.sample(when, accept, syn_low, syn_high)

    def mismatch(
        self, track: Track, key: bytes, when: int, what: str, detail: str, frame: int | None = None
    ) -> None:
        """The wire shows something else than the model predicted."""
        if self.blind:
            return
        track.summary.mismatches += 1
        track.doubt.grow()
        peer = endpoint_text(key[: len(key) // 2])
        self.rows.append(MismatchRow(when, track.name, peer, what, detail, frame))  # type: ignore[arg-type]

    def release(self, now: int) -> Iterator[Row]:
        """The rows at the head that wait for nothing any more."""
        rows = self.rows
        while rows:
            row = rows[0]
            if type(row) is PacketRow and row.resolved_by is None and row.outcome is not out.PASSED:
                if row.segment.time_ns > now - HOLD_NS and len(rows) < _HOLD_ROWS:
                    return
                key = row.segment.src + row.segment.dst
                if self.unproved.get(key) is row:
                    del self.unproved[key]
            yield rows.popleft()


def prove(row: PacketRow, reply: Segment, witness: SideWitness | None = None) -> None:
    """The server's reply shows that the row's decision is what happened, unless a cookie looks the same."""
    if not _settle(row, reply):
        return
    other = _OTHER_ORIGIN.get(row.outcome.decision)
    known = witness.of(reply, reply.time_ns + AHEAD_NS) if witness is not None and other else None
    if known is None or other is None:
        if witness is not None and witness.exhausted and other is not None:
            add_rivals(row, other)
        else:
            _now_certain(row)
        return
    verdict = known.verdict
    if verdict == "either":
        add_rivals(row, other)
    elif (verdict == "cookie") != (other == "queued"):
        add_rivals(row, other)
        if known.proved:
            row.certainty = "undecided"
    elif known.proved and _LOOK_THE_SAME.isdisjoint(row.rivals):
        row.certainty = "certain"


def _now_certain(row: PacketRow) -> None:
    """A row is proved, unless something else would look the same."""
    if row.certainty != "undecided" and _LOOK_THE_SAME.isdisjoint(row.rivals):
        row.certainty = "certain"


def add_rivals(row: PacketRow, *others: str) -> None:
    """Name other explanations that the evidence leaves open, each once."""
    row.rivals = tuple(dict.fromkeys((*row.rivals, *others)))


def _settle(row: PacketRow, by: Segment) -> bool:
    """Note the packet that settles a row; a row whose time is over may have left already."""
    if row.resolved_by is not None or by.time_ns > row.segment.time_ns + HOLD_NS:
        return False
    row.resolved_by = by.frame
    return True
