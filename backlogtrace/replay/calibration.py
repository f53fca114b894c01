"""Is the capture what it seems? Packets captured twice, and directions that are missing.

Leaves out second copies before anything is made of them. Refuses to guess at packets that were not
captured: it says what is missing, and what can be told without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backlogtrace.segment import ACK, HANDSHAKE, SYN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from backlogtrace.segment import Segment

_COPY_NS = 5_000_000  # a retransmission takes far longer
_REMEMBERED = 50_000
_NONE_AFTER = 50_000
"""Where so many SYNs and SYN-ACKs were captured once only, the capture does not copy packets."""
_HANDSHAKES = 200
_FEW_HANDSHAKES = 5
_FAR_NS = 5_000_000  # no server near takes so long for half of its SYN-ACKs
_FARTHER = 4
_LARGEST = 9_000  # bytes of payload in a jumbo frame
_ENOUGH = 20
"""Packets that tell whether a kind is missing."""


class Copies:
    """Leaves out packets that were captured more than once (bridges, `-i any`, VLAN and its parent)."""

    def __init__(self) -> None:
        self.dropped = 0
        """Copies left out so far."""
        self._recent: dict[tuple[bytes, int, int], Segment] = {}
        """Last packet of a source with a sequence number and flags."""
        self._found = False
        self._looked = 0
        """SYNs and SYN-ACKs so far."""

    def without(self, chunks: Iterable[list[Segment]]) -> Iterator[list[Segment]]:
        """The chunks without second copies.

        SYNs and SYN-ACKs tell whether there are any; only then other packets are compared.
        """
        for chunk in chunks:
            copies = self._copies(chunk)
            if not copies:
                yield chunk
                continue
            self.dropped += len(copies)
            yield [segment for place, segment in enumerate(chunk) if place not in copies]

    def _copies(self, chunk: list[Segment]) -> set[int]:
        """Where in a chunk the copies are."""
        copies: set[int] = set()
        recent, found = self._recent, self._found
        if self._looked > _NONE_AFTER and not found:
            return copies
        for place, segment in enumerate(chunk):
            flags = segment.flags
            if flags & HANDSHAKE:  # found by its packets, each of which was captured once
                self._looked += 2
                continue
            if not (flags & SYN or found):
                continue
            key = (segment.src, segment.seq, flags)
            before = recent.get(key)
            recent[key] = segment
            self._looked += 1
            if before is not None and _same(before, segment):
                copies.add(place)
                self._found = found = True
            elif len(recent) > _REMEMBERED:
                now = segment.time_ns
                self._recent = recent = {
                    key: known for key, known in recent.items() if now - known.time_ns <= _COPY_NS
                }
        return copies


def _same(before: Segment, segment: Segment) -> bool:
    """Whether two segments are one packet; but for when and where they were captured, all is alike."""
    return abs(segment.time_ns - before.time_ns) <= _COPY_NS and before[2:] == segment[2:]


@dataclass(slots=True)
class Vantage:
    """Where the capture was taken, as handshakes show: whoever is near answers at once."""

    server_ns: list[int] = field(default_factory=list)
    """From SYN to SYN-ACK, of the first handshakes."""
    client_ns: list[int] = field(default_factory=list)
    """From there to the client's ACK."""

    def full(self) -> bool:
        """Whether more would tell no more."""
        return len(self.server_ns) >= _HANDSHAKES

    def add(self, server_ns: int, client_ns: int) -> None:
        """Take note of a handshake."""
        self.server_ns.append(server_ns)
        self.client_ns.append(client_ns)

    def trip_ns(self) -> int:
        """How long most clients took to answer a SYN-ACK; 0: not known."""
        trips = sorted(self.client_ns)
        return trips[len(trips) // 2] if trips else 0

    def away(self) -> str:
        """What it means, in words, if the capture was not taken at the server; empty if it was, or may be."""
        if len(self.server_ns) < _FEW_HANDSHAKES or max(self.server_ns) < _FAR_NS:
            return ""
        from statistics import median  # slow to import, and captures are mostly taken at the server

        server, client = median(self.server_ns), median(self.client_ns)
        if server < _FAR_NS or server < client / _FARTHER:
            return ""
        place = "near the clients" if server > _FARTHER * client else "between clients and server"
        return (
            f"captured {place} (SYN-ACKs take {server / 1e6:.1f} ms, ACKs {client / 1e6:.1f} ms): what was "
            "lost on the way to the server is in it, too"
        )


@dataclass(slots=True)
class Directions:
    """Which packets of the listeners a capture has at all."""

    syns: int = 0
    synacks: int = 0
    others_in: int = 0
    out: int = 0
    """Everything the server sent."""
    shut: int = 0
    """SYN-ACKs with a window of 0: a SYN proxy sends them until it has reached the server itself."""
    merged: int = 0
    """Packets larger than any frame."""
    whole: int = 0
    """Handshakes seen whole."""

    def count(self, segment: Segment, *, inbound: bool) -> None:
        """Take note of a packet to or from a listener."""
        flags = segment.flags
        self.merged += segment.length > _LARGEST
        if inbound:
            self.syns += flags & (SYN | ACK) == SYN
            self.others_in += not flags & SYN
        else:
            self.out += 1
            self.synacks += bool(flags & SYN)
            self.shut += bool(flags & SYN) and not segment.window

    def missing(self, repeats: int) -> str:
        """What is missing, in words; empty when nothing is. `repeats`: SYN-ACKs repeated by timers."""
        if self.whole:
            return ""
        if self.shut >= _ENOUGH // 4 and self.shut == self.synacks:
            return "every SYN-ACK has a window of 0: a SYN proxy answers, the server's queues are not seen"
        if not self.out and self.syns + self.others_in >= _ENOUGH:
            return "only packets to the server were captured: what it answered is not known"
        if not self.syns and not self.others_in and self.out >= _ENOUGH:
            return "only packets from the server were captured: what it answers is not known"
        # clients that never answer get their SYN-ACK again; those whose ACK a filter left out do not
        if not self.others_in and not repeats and min(self.synacks, self.syns) >= _ENOUGH:
            return "only SYNs and SYN-ACKs were captured (a filter?): how handshakes end is not known"
        return ""
