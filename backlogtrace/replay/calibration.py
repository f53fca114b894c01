"""Is the capture what it seems? Packets captured twice, and directions that are missing.

Leaves out second copies before anything is made of them. Refuses to guess at packets that were not
captured: it says what is missing, and what can be told without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backlogtrace.segment import ACK, HANDSHAKE, SYN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from backlogtrace.segment import Segment

_COPY_NS = 5_000_000  # a retransmission takes far longer
_REMEMBERED = 50_000
_ENOUGH = 20
"""Packets that tell whether a kind is missing."""


class Copies:
    """Leaves out packets that were captured more than once (bridges, `-i any`, VLAN and its parent)."""

    def __init__(self) -> None:
        self.dropped = 0
        """Copies left out so far."""
        self._recent: dict[tuple[object, ...], int] = {}
        self._found = False

    def without(self, chunks: Iterable[list[Segment]]) -> Iterator[list[Segment]]:
        """The chunks without second copies.

        SYNs and SYN-ACKs tell whether there are any; only then other packets are compared.
        """
        for chunk in chunks:
            kept = [segment for segment in chunk if not self._is_copy(segment)]
            yield chunk if len(kept) == len(chunk) else kept

    def _is_copy(self, segment: Segment) -> bool:
        flags = segment.flags
        if flags & HANDSHAKE or not (flags & SYN or self._found):
            return False
        key = (
            segment.src, segment.dst, segment.seq, segment.ack, flags, segment.length, segment.tsval,
            segment.tsecr,
        )  # fmt: skip
        recent, now = self._recent, segment.time_ns
        before = recent.get(key)
        recent[key] = now
        if before is not None and abs(now - before) <= _COPY_NS:
            self.dropped += 1
            self._found = True
            return True
        if len(recent) > _REMEMBERED:
            self._recent = {key: when for key, when in recent.items() if now - when <= _COPY_NS}
        return False


@dataclass(slots=True)
class Directions:
    """Which packets of the listeners a capture has at all."""

    syns: int = 0
    synacks: int = 0
    others_in: int = 0
    out: int = 0
    """Everything the server sent."""
    whole: int = 0
    """Handshakes seen whole."""

    def count(self, segment: Segment, *, inbound: bool) -> None:
        """Take note of a packet to or from a listener."""
        flags = segment.flags
        if flags & HANDSHAKE:
            self.whole += 1
        elif inbound:
            self.syns += flags & (SYN | ACK) == SYN
            self.others_in += not flags & SYN
        else:
            self.out += 1
            self.synacks += bool(flags & SYN)

    def missing(self, repeats: int) -> str:
        """What is missing, in words; empty when nothing is. `repeats`: SYN-ACKs repeated by timers."""
        if self.whole:
            return ""
        if not self.out and self.syns + self.others_in >= _ENOUGH:
            return "only packets to the server were captured: what it answered is not known"
        if not self.syns and not self.others_in and self.out >= _ENOUGH:
            return "only packets from the server were captured: what it answers is not known"
        # clients that never answer get their SYN-ACK again; those whose ACK a filter left out do not
        if not self.others_in and not repeats and min(self.synacks, self.syns) >= _ENOUGH:
            return "only SYNs and SYN-ACKs were captured (a filter?): how handshakes end is not known"
        return ""
