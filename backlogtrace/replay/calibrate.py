"""The server's clock, worked out from the SYN-ACKs its timers sent.

The timer wheel fires on multiples of 8, 64 or 512 ticks. With HZ and the boot time given, the
repeated SYN-ACKs of a capture tell which ticks those are, and whether the machine kept to them.
Refuses to guess: without HZ and boot time, or with timers that fit no wheel, time stays a window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backlogtrace.kernel.clock import NS, Clock, TickClock, WindowClock, wheel_level
from backlogtrace.segment import ACK, SYN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from backlogtrace.segment import Segment

_LAGS = 512  # the coarsest wheel level that intervals up to 120 s use at HZ=250 and the first at 1000
_TOLERANCE = 2  # ticks
_FIT = 0.9
_MAX_INTERVAL_S = 64


def server_clock(segments: Iterable[Segment], hz: int | None, boot_ns: int | None) -> Clock:
    """TickClock when HZ and boot time (ns) are given and the capture's repeated SYN-ACKs agree with them."""
    if hz is None or boot_ns is None:
        return WindowClock()
    clock = TickClock(hz, boot_ns, 0)
    seen = [(clock.jiffies(when), 8 ** wheel_level(seconds * hz)) for when, seconds in _timer_packets(segments)]
    if not seen:
        return WindowClock()
    votes = [sum(_fits(jiffies - lag, granule) for jiffies, granule in seen) for lag in range(_LAGS)]
    best = max(votes)
    if best < _FIT * len(seen):
        return WindowClock()
    top = [lag for lag, count in enumerate(votes) if count == best]
    clock.lag = top[len(_run(top)) // 2]
    return clock


def _run(values: list[int]) -> list[int]:
    """The first run of consecutive values: lags within the tolerance of one another."""
    length = 1
    while length < len(values) and values[length] == values[length - 1] + 1:
        length += 1
    return values[:length]


def _fits(jiffies: int, granule: int) -> bool:
    off = jiffies % granule
    return min(off, granule - off) <= _TOLERANCE


def _timer_packets(segments: Iterable[Segment]) -> Iterator[tuple[int, int]]:
    """(time in ns, timer interval in s) of SYN-ACKs that were repeated without a SYN asking for it."""
    last: dict[bytes, tuple[int, int]] = {}
    for segment in segments:
        if not segment.flags & SYN:
            continue
        if not segment.flags & ACK:
            last.pop(segment.src + segment.dst, None)
            continue
        key = segment.dst + segment.src
        before = last.get(key)
        last[key] = (segment.time_ns, segment.seq)
        if before is None or before[1] != segment.seq:
            continue
        seconds = 1 << max(0, ((segment.time_ns - before[0]) // NS).bit_length() - 1)
        if seconds <= _MAX_INTERVAL_S and segment.time_ns - before[0] < seconds * NS * 6 // 5:
            yield segment.time_ns, seconds
