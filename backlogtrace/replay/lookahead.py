"""What the capture shows after a packet: the server's answer, looked up ahead.

Used only where the facts given leave open what the kernel did.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from backlogtrace.segment import RST, SYN

if TYPE_CHECKING:
    from backlogtrace.kernel.outcome import Reply
    from backlogtrace.segment import Segment

AHEAD_NS = 1_300_000_000
"""How far ahead the capture may be searched: until the first SYN-ACK timer."""
_ANSWER_NS = 300_000_000  # a direct answer comes within this
_SEARCH = 2_000  # segments looked at for one question; a flood must not make this quadratic


class Lookahead:
    """The segments of the chunk at hand, and where the replay is in them."""

    __slots__ = ("at", "segments")

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.at = 0

    def answer(self, segment: Segment) -> Reply | None:
        """The server's next packet to the client, before the client sends again."""
        end = segment.time_ns + _ANSWER_NS
        for later in islice(self.segments, self.at + 1, self.at + _SEARCH):
            if later.time_ns > end:
                return None
            if later.src == segment.dst and later.dst == segment.src:
                if later.flags & SYN:
                    return "synack"
                return "rst" if later.flags & RST else "ack"
            if later.src == segment.src and later.dst == segment.dst:
                return None
        return None

    def synack(self, syn: Segment) -> Segment | None:
        """The SYN-ACK that answers a SYN."""
        end = syn.time_ns + _ANSWER_NS
        for later in islice(self.segments, self.at + 1, self.at + _SEARCH):
            if later.time_ns > end:
                return None
            if later.flags & SYN and later.src == syn.dst and later.dst == syn.src:
                return later
        return None

    def was_queued(self, syn: Segment, *, cookies: bool) -> bool:
        """Whether the wire shows that a SYN got a request: an answer, and with cookies on its repetition."""
        answer: Segment | None = None
        end = syn.time_ns + AHEAD_NS
        for later in islice(self.segments, self.at + 1, self.at + _SEARCH):
            if later.time_ns > end:
                return False
            if later.src == syn.dst and later.dst == syn.src and later.flags & SYN:
                if not cookies or (answer is not None and later.seq == answer.seq):
                    return True
                answer = later
            elif later.src == syn.src and later.dst == syn.dst and later.flags & SYN:
                return False
        return False

    def repeated(self, key: bytes, isn: int, when: int) -> bool | None:
        """Whether a SYN-ACK with this ISN follows `when`, soon and unasked.

        None where that cannot be told: the capture ends before, or the client's packets may have
        ended the request.
        """
        client, server = key[: len(key) // 2], key[len(key) // 2 :]
        touched = False
        for later in islice(self.segments, self.at, self.at + _SEARCH):
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
