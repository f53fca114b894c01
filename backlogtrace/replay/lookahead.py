"""What the capture shows around a packet: the server's answer ahead, what it answers behind.

Used only where the facts given leave open what the kernel did.
"""

from __future__ import annotations

from math import isinf
from typing import TYPE_CHECKING

from backlogtrace.kernel.cookie_signs import option_signs
from backlogtrace.segment import ACK, FLAG_BITS, RST, SYN, end_seq

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backlogtrace.kernel.cookie_signs import Offers
    from backlogtrace.kernel.outcome import Reply
    from backlogtrace.segment import Segment

AHEAD_NS = 1_300_000_000
"""How far ahead the capture may be searched: until the first SYN-ACK timer."""
_ANSWER_NS = 300_000_000  # a direct answer comes within this
_SEARCH = 2_000  # segments looked at for one question
_BEHIND = 64  # segments kept for what a RST answers: it is sent at once
_CREDIT = 1_000_000  # segments that may be looked at before searching has to be earned
_EARNED = 2  # per segment replayed: a flood must not make this quadratic


class Lookahead:
    """The segments of the chunk at hand, and where the replay is in them."""

    __slots__ = ("_before", "_credit", "_segments", "at")

    def __init__(self) -> None:
        self._before: list[Segment] = []
        self._segments: list[Segment] = []
        self._credit = _CREDIT
        self.at = 0

    def begin(self, segments: list[Segment], upto: int) -> None:
        """A new list of segments, of which `upto` will be replayed."""
        self._segments = segments
        self._credit = min(self._credit + _EARNED * upto, _CREDIT)

    def end(self, count: int) -> None:
        """The first `count` segments of the list have been replayed."""
        self._before = (self._before + self._segments[max(count - _BEHIND, 0) : count])[-_BEHIND:]

    def asked(self, rst: Segment) -> Segment | None:
        """The packet that a RST answers (tcp_v4_send_reset); None for one that the application caused.

        An answer takes its sequence number from the packet's acknowledgement and has no ACK itself;
        one to a packet without ACK acknowledges that packet, from sequence number 0.
        """
        behind = (self._before + self._segments[max(self.at - _BEHIND, 0) : self.at])[-_BEHIND:]
        for earlier in reversed(behind):
            if earlier.src != rst.dst or earlier.dst != rst.src or earlier.flags > FLAG_BITS:
                continue
            if rst.flags & ACK:
                answered = not rst.seq and not earlier.flags & ACK and end_seq(earlier) == rst.ack
            else:
                answered = bool(earlier.flags & ACK) and earlier.ack == rst.seq
            if answered:
                return earlier
        return None

    def _from(self, start: int) -> Iterator[Segment]:
        """The segments from index `start` on, as many as may be looked at."""
        if self._credit <= 0:
            return iter(())
        stop = min(start + _SEARCH, len(self._segments))
        self._credit -= stop - start
        return map(self._segments.__getitem__, range(start, stop))  # islice() would count up to the start

    def answer(self, segment: Segment) -> Reply | None:
        """The server's next packet to the client, before the client sends again."""
        end = segment.time_ns + _ANSWER_NS
        for later in self._from(self.at + 1):
            if later.time_ns > end:
                return None
            if later.src == segment.dst and later.dst == segment.src:
                if later.flags & SYN:
                    return "synack"
                return "rst" if later.flags & RST else "ack"
            if later.src == segment.src and later.dst == segment.dst:
                return None
        return None

    def reset(self, key: bytes, when: int) -> bool:
        """Whether the server resets a connection right after `when`."""
        client, server = key[: len(key) // 2], key[len(key) // 2 :]
        for later in self._from(self.at):
            if later.time_ns > when + _ANSWER_NS:
                break
            if later.flags & RST and later.src == server and later.dst == client and later.time_ns >= when:
                return True
        return False

    def synack(self, syn: Segment) -> Segment | None:
        """The SYN-ACK that answers a SYN."""
        end = syn.time_ns + _ANSWER_NS
        for later in self._from(self.at + 1):
            if later.time_ns > end:
                return None
            if later.flags & SYN and later.src == syn.dst and later.dst == syn.src:
                return later
        return None

    def was_queued(self, syn: Segment, offers: Offers | None, *, repeats: bool) -> bool | None:
        """Whether the wire shows that a SYN got a request; None: an answer that may be a cookie, too.

        `offers` are the options that the server answers with; None where it sends no cookies.
        `repeats`: a request's SYN-ACK is sent again.
        """
        answer: Segment | None = None
        touched = False
        end = syn.time_ns + AHEAD_NS
        for later in self._from(self.at + 1):
            if later.time_ns > end:
                break
            if later.src == syn.dst and later.dst == syn.src and later.flags & SYN:
                if offers is None or (answer is not None and later.seq == answer.seq):
                    return True
                if answer is None:
                    for sign in option_signs(syn, later, offers):
                        if isinf(sign.odds):
                            return sign.odds < 0
                answer = later
            elif later.src == syn.src and later.dst == syn.dst:
                touched = True
                if later.flags & SYN:
                    break
        return None if answer is not None and (touched or not repeats) else False

    def repeated(self, key: bytes, isn: int, when: int) -> bool | None:
        """Whether a SYN-ACK with this ISN follows `when`, soon and unasked.

        None where that cannot be told: the capture ends before, or the client's packets may have
        ended the request.
        """
        client, server = key[: len(key) // 2], key[len(key) // 2 :]
        touched = False
        for later in self._from(self.at):
            if later.time_ns > when + AHEAD_NS:
                return None if touched else False
            if later.time_ns < when:
                continue
            if later.src == client and later.dst == server:
                if later.flags & SYN:
                    return False
                touched = True
            elif later.flags & SYN and later.dst == client and later.src == server:
                return later.seq == isn
        return None
