"""The server's clock, worked out from the SYN-ACKs its timers sent.

The timer wheel fires on multiples of 8, 64 or 512 ticks. With HZ and the boot time given, the
repeated SYN-ACKs of a capture tell which ticks those are, and whether the machine kept to them.
Refuses to guess: without HZ and boot time, or with timers that fit no wheel, time stays a window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backlogtrace.kernel.clock import NS, Clock, TickClock, WindowClock
from backlogtrace.segment import ACK, SYN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from backlogtrace.segment import Segment

_LAGS = 512  # the coarsest wheel level that intervals up to 120 s use at HZ=250 and the first at 1000
_USUAL_LAGS = 64  # 20 to 25 ticks in every kernel measured
_TOLERANCE = 2  # ticks
_FIT = 0.9
_MAX_INTERVAL_S = 64


def server_clock(segments: Iterable[Segment], hz: int | None, boot_ns: int | None) -> Clock:
    """TickClock when HZ and boot time (ns) are given and the capture's repeated SYN-ACKs agree with them."""
    if hz is None or boot_ns is None:
        return WindowClock()
    clock = TickClock(hz, boot_ns)
    seen = list(_timer_packets(segments))
    if not seen:
        return WindowClock()
    votes = [_vote(clock, seen, lag) for lag in range(_LAGS)]
    best = max(votes)
    if best[1] < _FIT * len(seen):
        return WindowClock()
    lags = [lag for lag, vote in enumerate(votes) if vote == best]
    return TickClock(hz, boot_ns, [lag for lag in lags if lag < _USUAL_LAGS] or lags)


def _vote(clock: TickClock, seen: list[tuple[int, int]], lag: int) -> tuple[int, int]:
    """How many packets came exactly at a tick of their wheel level, and how many nearly."""
    offs = [abs(clock.off(when, seconds, lag)) for when, seconds in seen]
    return offs.count(0), sum(off <= _TOLERANCE for off in offs)


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
        gap = segment.time_ns - before[0]
        seconds = 1 << max(0, (gap // NS).bit_length() - 1)
        # one interval of 1, 2, 4 … s, or with TCP_DEFER_ACCEPT several silent ones: 1+2, 1+2+4 …
        if seconds <= _MAX_INTERVAL_S and any(
            0 <= gap - NS * total < NS * total // 5 for total in (seconds, 2 * seconds - 1)
        ):
            yield segment.time_ns, seconds
