"""Steps of the clock that stamped the packets, proved by TCP timestamps (RFC 7323) on both sides.

Where the time between two packets is long, or negative, the timestamps of connections that go on afterwards
tell how much time really passed. If those of both directions miss the same amount, it is the capture's clock
that was set (NTP, a machine that was resumed), and no timer ran for it. How fast a host's timestamps count
is learnt from the rest of the capture. Refuses to correct what only one side shows: packets that were held
up, or a machine that stood still, look like that.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from itertools import accumulate, pairwise
from operator import itemgetter, sub
from typing import TYPE_CHECKING, NamedTuple

from backlogtrace.replay.rows import MismatchRow, OutRow, PacketRow
from backlogtrace.segment import FLAG_BITS, HANDSHAKE, RST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from backlogtrace.replay.rows import Row
    from backlogtrace.segment import Handshake, Segment

_LEAST_NS = 100_000_000
"""Smaller steps are not looked for, and after shorter silence none of them."""
_BACK_NS = 1_000_000  # packets of several queues are captured out of order by less
_AROUND = 10_000
"""Packets looked at before and after a gap."""
_FLOWS = 50_000
_SPANS = 200_000
_GAPS_SPANNED = 32  # a connection that is silent for longer shows nothing about one of them
_RATES = (1000, 250, 100, 300)
"""Ticks of a timestamp clock in a second: milliseconds, or HZ of older kernels."""
_VOTE_NS = 400_000_000
"""Two packets this far apart tell a rate within 5 %, and so one of them from any other."""
_VOTES = 2
_JITTER_NS = 20_000_000
_DRIFT = 2_000
_OTHER_RATE = 20
"""A step is larger than what so small a part of the time, an error of the rate, comes to."""
_AGAINST = 4
_MASK = 0xFFFFFFFF
_NS = 1_000_000_000


class Step(NamedTuple):
    """The clock was set between two packets."""

    frame: int
    """The first packet afterwards."""
    by_ns: int
    """How far the clock went ahead (back: below 0) of the time that passed."""


class _Gap(NamedTuple):
    frame: int
    """The first packet after it."""
    ns: int


class _Span(NamedTuple):
    """Two packets of one direction of a connection, before and after gaps."""

    first: int
    """Gaps before the first packet."""
    end: int
    """Gaps before the second."""
    passed_ns: int
    ticks: int
    """How far the timestamps went."""
    src: bytes
    """Addresses without ports."""
    dst: bytes

    def step(self, rate: int) -> int:
        """How much more time passed by the capture's clock than by the sender's (ns)."""
        return self.passed_ns - self.ticks * _NS // rate

    def noise(self, rate: int) -> int:
        """What that may come to without any step (ns)."""
        return 2 * _NS // rate + _JITTER_NS + self.ticks * _NS // rate // _DRIFT

    def is_odd(self, rate: int) -> bool:
        """Whether nothing but a step explains it."""
        least = _LEAST_NS + self.noise(rate) + self.ticks * _NS // rate // _OTHER_RATE
        return abs(self.step(rate)) >= least


class _Point(NamedTuple):
    """The last packet with a timestamp of one direction of a connection."""

    gaps: int
    """Gaps before it."""
    time_ns: int
    tsval: int
    since_ns: int
    since_tsval: int
    """An earlier one, from which the rate is measured."""


class ClockWatch:
    """Looks for steps while the packets of a capture pass."""

    def __init__(self) -> None:
        self.backward_ns = 0
        """The largest step back between two packets but for those that `steps` gives."""
        self.suspicious = False
        """Handshakes that came whole hide where the clock may have been set: see them packet by packet."""
        self._gaps: list[_Gap] = []
        self._last_ns: int | None = None
        self._left = 0
        """Packets still to be looked at after the last gap."""
        self._before: list[Segment] = []
        """The last packets that were not looked at: a gap may follow."""
        self._points: dict[bytes, _Point] = {}
        """By source and destination."""
        self._spans: list[_Span] = []
        self._whole: list[_Span] = []
        """Likewise from handshakes that came whole."""
        self._bundled = False
        self._votes: dict[bytes, Counter[int]] = {}
        """Address -> rate that two packets agree with (0: none) -> how many did."""

    def watched(self, chunks: Iterable[list[Segment]]) -> Iterator[list[Segment]]:
        """The chunks as they are."""
        for chunk in chunks:
            if chunk:
                self._look(chunk)
            yield chunk

    def steps(self) -> list[Step]:
        """The steps that are proved, once all packets have passed."""
        rates = self._rates()
        self.suspicious = self._bundled and _agreeing([*self._whole, *self._spans], rates)
        at: dict[int, list[_Span]] = {}
        for span in self._spans:
            if span.src in rates and span.end - span.first <= _GAPS_SPANNED:
                for gap in range(span.first, span.end):
                    at.setdefault(gap, []).append(span)
        proved: dict[int, tuple[int, set[_Span]]] = {}
        for gap, spans in sorted(at.items()):
            found = _step(spans, rates)
            if found is not None and self._gaps[gap].ns >= found[0] - _LEAST_NS:
                proved[gap] = found
        chosen = {gap: by_ns for gap, (by_ns, _) in proved.items() if self._stands_out(gap, proved)}
        self.backward_ns = max((-gap.ns for n, gap in enumerate(self._gaps) if n not in chosen), default=0)
        return [Step(self._gaps[gap].frame, by_ns) for gap, by_ns in chosen.items()]

    def _stands_out(self, gap: int, proved: dict[int, tuple[int, set[_Span]]]) -> bool:
        """Whether a step was in this gap and not in another that the same packets span."""
        by_ns, mine = proved[gap]
        for other, (_, theirs) in proved.items():
            if other == gap or mine.isdisjoint(theirs):
                continue
            if len(theirs) > len(mine):
                return False
            back = by_ns < 0 and self._gaps[gap].ns < 0 <= self._gaps[other].ns
            if len(theirs) == len(mine) and not back:
                return False
        return True

    def _look(self, chunk: list[Segment]) -> None:
        times = list(map(itemgetter(1), chunk))
        gaps = list(map(sub, times, [times[0] if self._last_ns is None else self._last_ns, *times]))
        self._last_ns = times[-1]
        places: list[int] = []
        if max(gaps) >= _LEAST_NS or min(gaps) <= -_BACK_NS:
            places = [n for n, gap in enumerate(gaps) if gap >= _LEAST_NS or gap <= -_BACK_NS]
        at = 0
        for end in [*places, len(chunk)]:
            near = min(at + self._left, end)
            self._take(chunk[at:near])
            self._left -= near - at
            if near < end:
                self._before = [*self._before[near - end - _AROUND :], *chunk[max(near, end - _AROUND) : end]]
            if end < len(chunk):
                self._take(self._before[-_AROUND:])
                self._before = []
                self._gaps.append(_Gap(chunk[end].frame, gaps[end]))
                self._left = _AROUND
            at = end

    def _take(self, segments: list[Segment]) -> None:
        """Notes timestamps before or after a gap."""
        points, now = self._points, len(self._gaps)
        for segment in segments:
            flags, tsval = segment.flags, segment.tsval
            if flags > FLAG_BITS:
                if flags & HANDSHAKE:
                    self._bundled = True
                    self._take_whole(segment)  # type: ignore[arg-type]
                continue
            if tsval < 0 or flags & RST:
                continue
            key = segment.src + segment.dst
            known = points.get(key)
            if known is None and len(points) >= _FLOWS:
                points.clear()
            points[key] = self._point(known, segment, now)

    def _point(self, known: _Point | None, segment: Segment, now: int) -> _Point:
        """The next packet of a direction of which `known` was the last one; `now`: gaps so far."""
        time_ns, tsval = segment.time_ns, segment.tsval
        if known is None:
            return _Point(now, time_ns, tsval, time_ns, tsval)
        ticks = (tsval - known.tsval) & _MASK
        if ticks > _MASK // 2:  # out of order
            return known
        if known.gaps != now and len(self._spans) < _SPANS:
            hosts = segment.src[:-2], segment.dst[:-2]
            self._spans.append(_Span(known.gaps, now, time_ns - known.time_ns, ticks, *hosts))
        passed = time_ns - known.since_ns
        if 0 <= passed < _VOTE_NS:
            return _Point(now, time_ns, tsval, known.since_ns, known.since_tsval)
        self._vote(segment.src[:-2], passed, (tsval - known.since_tsval) & _MASK)
        return _Point(now, time_ns, tsval, time_ns, tsval)

    def _take_whole(self, item: Handshake) -> None:
        """Of a handshake that came as one item the client's packets are known, between which a gap may be."""
        if item.tsval < 0:
            return
        self._points[item.src + item.dst] = _Point(
            len(self._gaps), item.ack_ns, item.tsval, item.ack_ns, item.tsval
        )
        if item.closed and item.fin_tsval >= 0:
            passed = (item.last_ns if item.server_first else item.fin_ns) - item.ack_ns
            ticks = (item.fin_tsval - item.tsval) & _MASK
            if passed >= _VOTE_NS:
                self._vote(item.src[:-2], passed, ticks)
            if passed >= _LEAST_NS and len(self._whole) < _SPANS:
                self._whole.append(_Span(0, 0, passed, ticks, item.src[:-2], item.dst[:-2]))

    def _vote(self, address: bytes, passed_ns: int, ticks: int) -> None:
        """Note which rate of timestamps fits two packets."""
        fits = 0
        for rate in _RATES:
            expected = passed_ns * rate // _NS
            if abs(ticks - expected) <= 2 + rate // 200 + expected // _DRIFT:
                fits = rate
        self._votes.setdefault(address, Counter())[fits] += 1

    def _rates(self) -> dict[bytes, int]:
        """How fast the timestamps of each address count, where that is clear."""
        rates = {}
        for address, votes in self._votes.items():
            none = votes[0]
            rate, most = max(((rate, votes[rate]) for rate in _RATES), key=itemgetter(1))
            others = votes.total() - none - most
            if most >= max(_VOTES, _AGAINST * others, none // 2):
                rates[address] = rate
        return rates


def _agreeing(spans: list[_Span], rates: dict[bytes, int]) -> bool:
    """Whether two connections miss the same time."""
    odd = sorted(
        span.step(rate) for span in spans if (rate := rates.get(span.src)) is not None and span.is_odd(rate)
    )
    return any(later - step <= _JITTER_NS for step, later in pairwise(odd))


def _step(spans: list[_Span], rates: dict[bytes, int]) -> tuple[int, set[_Span]] | None:
    """(the step that the spans over one gap prove, those that agree on it)"""
    seen = [(span.step(rates[span.src]), span.noise(rates[span.src]), span) for span in spans]
    odd = sorted(step for step, _, span in seen if span.is_odd(rates[span.src]))
    if not odd:
        return None
    by_ns = odd[len(odd) // 2]
    agree = {span for step, noise, span in seen if abs(step - by_ns) <= noise}
    against = sum(
        span not in agree and (abs(step) <= noise or span.end - span.first == 1) for step, noise, span in seen
    )
    both = {span.src for span in agree} & {span.dst for span in agree}
    if len(agree) <= 1 or not both or against * _AGAINST > len(agree):
        return None
    return by_ns, agree


class Steps:
    """The times of a capture without the steps of its clock, and back."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        self._frames = [step.frame for step in steps]
        self._offsets = [0, *accumulate(step.by_ns for step in steps)]
        self._since: list[int | None] = [None] * len(steps)
        """When each was, without the steps (ns); None until its packet has passed."""

    def corrected(self, chunks: Iterable[list[Segment]]) -> Iterator[list[Segment]]:
        """The chunks, whose packets must come one by one, with the time that passed."""
        for chunk in chunks:
            yield [self._corrected(segment) for segment in chunk]

    def _corrected(self, segment: Segment) -> Segment:
        number = bisect_right(self._frames, segment.frame)
        if not number:
            return segment
        made = segment._replace(time_ns=segment.time_ns - self._offsets[number])
        if self._since[number - 1] is None:
            self._since[number - 1] = made.time_ns
        return made

    def captured_ns(self, time_ns: int) -> int:
        """What the clock of the capture said at a time without steps."""
        number = sum(since is not None and since <= time_ns for since in self._since)
        return time_ns + self._offsets[number]

    def captured(self, row: Row) -> Row:
        """A row with the times of the capture."""
        if isinstance(row, PacketRow | OutRow):
            segment = row.segment
            number = bisect_right(self._frames, segment.frame)
            row.segment = segment._replace(time_ns=segment.time_ns + self._offsets[number])
        elif isinstance(row, MismatchRow) and row.frame is not None:
            row.time_ns += self._offsets[bisect_right(self._frames, row.frame)]
        else:
            row.time_ns = self.captured_ns(row.time_ns)
        return row

    def reason(self) -> str:
        """What is wrong with the clock, in words."""
        told = ", ".join(
            f"{abs(step.by_ns) / _NS:.3f} s {'ahead' if step.by_ns > 0 else 'back'} before frame {step.frame}"
            for step in self.steps
        )
        return f"the capture's clock was set {told}, as TCP timestamps prove"
