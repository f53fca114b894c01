"""Packets with a wrong checksum: the kernel drops them before it looks for a socket (tcp_v4_rcv, ip_rcv).

Marks those that their server cannot have got, so that no queue is blamed for its silence. Refuses to believe
checksums that are wrong for another reason: where a SYN with one was answered, or many SYNs have one, the
network card was to fill them in or the capture was rewritten, and nothing follows from them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import islice
from typing import TYPE_CHECKING

from backlogtrace.segment import ACK, DAMAGED, HANDSHAKE, RST, SYN, damaged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from backlogtrace.capture.info import CaptureInfo, Checksums
    from backlogtrace.replay.route import Route
    from backlogtrace.segment import Segment

_SHARE = 4
"""Where more than one in so many SYNs is wrong, that is how the capture was made."""
_ANSWER_NS = 980_000_000  # before any SYN-ACK timer
_WAITING = 200_000
_SEARCH = 20_000
"""Packets looked at for one answer."""
_CREDIT = 5_000_000
"""Packets looked at in all: a flood of damaged packets must not make this quadratic."""
_TOLD = 8


class Damage:
    """Marks damaged packets; their chunks are held back until it shows whether the server reacts."""

    def __init__(self) -> None:
        self.frames: list[int] = []
        """Those marked so far."""
        self.mistaken = False
        """Checksums of this capture mean nothing after all."""
        self._settled = False
        self._open: set[int] = set()
        """Frames with a wrong checksum that are not judged yet."""
        self._wrong: set[int] = set()
        self._before: list[Segment] = []
        """What was handed on last."""
        self._servers: set[bytes] = set()
        self._credit = _CREDIT

    def marked(
        self, chunks: Iterable[list[Segment]], info: CaptureInfo, route: Route
    ) -> Iterator[list[Segment]]:
        """The chunks with damaged packets marked; `route` knows listeners, those of SYNs are found here."""
        if self._settled:
            yield from map(self._again, chunks)
            return
        wrong, seen = info.checksums.wrong, 0
        waiting: list[Segment] = []
        for chunk in chunks:
            if len(wrong) > seen:
                self._open.update(wrong[seen:])
                self._wrong.update(wrong[seen:])
                seen = len(wrong)
            if not self._open:
                self._before = chunk
                yield chunk
            elif not self.believes(info.checksums):
                yield [*waiting, *chunk]
                waiting = []
                self._open.clear()
            else:
                self._servers.update(one.dst for one in chunk if one.flags & (SYN | ACK) == SYN)
                waiting += chunk
                until = waiting[-1].time_ns - _ANSWER_NS if len(waiting) < _WAITING else None
                done = self._judged(waiting, until, route)
                waiting = waiting[len(done) :]
                if done:
                    self._before = done
                    yield done
        done = self._judged(waiting, None, route)
        if done:
            yield done

    def settle(self, info: CaptureInfo) -> None:
        """All has been seen: from now on the same packets are marked; none where that was a mistake."""
        if self.frames and not self.believes(info.checksums):
            self.mistaken = True
            self.frames = []
        self._settled = True

    def believes(self, checksums: Checksums) -> bool:
        """Whether what is wrong was wrong on the wire."""
        right, wrong = checksums.syns_right, checksums.syns_wrong
        return not (self.mistaken or checksums.full or not right or wrong * _SHARE > right + wrong)

    def note(self) -> str:
        """What was found, with the frames; empty when nothing was."""
        if not self.frames:
            return ""
        told = ", ".join(map(str, self.frames[:_TOLD]))
        more = f" and {len(self.frames) - _TOLD:,} more" if len(self.frames) > _TOLD else ""
        many = len(self.frames) > 1
        return (
            f"frame{'s' if many else ''} {told}{more} came with a wrong TCP or IP checksum and without an "
            f"answer: dropped before any socket saw {'them' if many else 'it'}, so no queue is to blame"
        )

    def doubt(self, checksums: Checksums) -> str:
        """Why wrong checksums are not believed; empty when they are, or there are none to be believed."""
        if not checksums.syns_wrong or self.believes(checksums):
            return ""
        total = checksums.syns_right + checksums.syns_wrong
        many = f"{checksums.syns_wrong:,} of {total:,} SYNs have a wrong checksum"
        if self.mistaken:
            return f"{many}, and the server answered some: checksums of this capture say nothing"
        return (
            f"{many}: captured before the network card filled them in, rewritten, or broken on the way "
            "(TcpInCsumErrors of the server tells); taken for right"
        )

    def _again(self, chunk: list[Segment]) -> list[Segment]:
        """A chunk of a capture that has been read before."""
        frames = self.frames
        first, last = bisect_left(frames, chunk[0].frame), bisect_right(frames, chunk[-1].frame)
        if first >= last:
            return chunk
        some = set(frames[first:last])
        return [
            damaged(one) if one.frame in some and not one.flags & (HANDSHAKE | DAMAGED) else one
            for one in chunk
        ]

    def _judged(self, waiting: list[Segment], until: int | None, route: Route) -> list[Segment]:
        """What is waiting up to the first packet after `until` that is to be judged, with marks."""
        done: list[Segment] = []
        for place, segment in enumerate(waiting):
            found = segment
            if segment.frame in self._open:
                if until is not None and segment.time_ns > until:
                    break
                self._open.discard(segment.frame)
                if not self.mistaken and self._unseen(segment, waiting, place, route):
                    found = damaged(segment)
                    self.frames.append(segment.frame)
            done.append(found)
        return done

    def _unseen(self, segment: Segment, waiting: list[Segment], place: int, route: Route) -> bool:
        """Whether the server did not react to a packet for it."""
        if segment.flags & HANDSHAKE:
            self.mistaken = True
            return False
        syn = segment.flags & (SYN | ACK) == SYN
        served = segment.dst in self._servers or route.find(segment.dst) is not None
        if not syn and (not served or segment.flags & SYN):
            return False
        client, server = segment.src, segment.dst
        for number in range(place + 1, len(waiting)):
            later = waiting[number]
            self._credit -= 1
            if number - place > _SEARCH or self._credit < 0:
                return False  # taken for received: that it was not cannot be shown
            if later.time_ns > segment.time_ns + _ANSWER_NS:
                break
            if later.src == server and later.dst == client:
                if not syn:  # whatever is no SYN-ACK again shows that the server went on
                    return bool(later.flags & SYN)
                if not self._answered(segment, waiting, place):
                    self.mistaken = True
                    return False
                break
            if later.src == client and later.dst == server and later.frame not in self._wrong:
                if syn and later.flags & (SYN | RST | ACK) == ACK:  # a SYN-ACK that was not captured
                    self.mistaken = True
                    return False
                break
        return True

    def _answered(self, syn: Segment, waiting: list[Segment], place: int) -> bool:
        """Whether a SYN-ACK came before a SYN: what follows it may be a timer's."""
        earlier = (self._before, islice(waiting, place))
        return any(
            one.src == syn.dst and one.dst == syn.src and one.flags & SYN for some in earlier for one in some
        )
