"""The server's clock, worked out from the SYN-ACKs its timers sent.

The timer wheel fires on multiples of 8, 64 or 512 ticks. With HZ and the boot time given, the
repeated SYN-ACKs of a capture tell which ticks those are, and whether the machine kept to them.
Refuses to guess: without HZ and boot time, or with timers that fit no wheel, time stays a window.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, NamedTuple

from backlogtrace.kernel.clock import LATE_TICKS, NS, Clock, PruneClock, TickClock, WindowClock
from backlogtrace.segment import ACK, SYN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from backlogtrace.kernel.profile import Profile
    from backlogtrace.segment import Segment

_LAGS = 512  # the coarsest wheel level that intervals up to 120 s use at HZ=250 and the first at 1000
_USUAL_LAGS = 64  # 20 to 25 ticks in every kernel measured
_TOLERANCE = 2  # ticks
_CHANCES = {0: log(0.8), 1: log(0.2), -1: log(0.01)}
"""How often a timer fires at its tick, one later, or as if earlier because clocks drift."""
_NO_CHANCE = log(1e-4)
_PLAUSIBLE = log(20)
"""What is this much less likely than the best is not considered."""
_FIT = 0.9
_MAX_INTERVAL_S = 64
_LATE_NS = 2_000_000
_ABSURD_NS = 30 * NS


def server_clock(profile: Profile, segments: Iterable[Segment], hz: int | None, boot_ns: int | None) -> Clock:
    """The clock of a host: how timers fire is the kernel's, HZ and boot time (ns) are the machine's.

    TickClock when HZ and boot time (ns) are given and the capture's repeated SYN-ACKs agree with them.
    """
    if profile.timer == "prune":
        return PruneClock(hz or 0, boot_ns or 0)
    if hz is None or boot_ns is None:
        return WindowClock()
    if profile.timer == "tick":
        return TickClock(hz, boot_ns, wheel=False)
    clock = TickClock(hz, boot_ns)
    found = list(_timer_packets(segments))
    late = any(packet.late for packet in found)
    seen = [(packet.sent_ns, packet.seconds) for packet in found if packet.timed or not late]
    if not seen:
        return WindowClock()
    # packets of one tick are late together: one vote
    moments = {(when // clock.tick_ns, seconds): when for when, seconds in seen}
    ticks = [
        [clock.off(when, seconds, lag) for (_, seconds), when in moments.items()] for lag in range(_LAGS)
    ]
    chances = [sum(_CHANCES.get(off, _NO_CHANCE) for off in offs) for offs in ticks]
    best = max(chances)
    if sum(abs(off) <= _TOLERANCE for off in ticks[chances.index(best)]) < _FIT * len(moments):
        return WindowClock()
    lags = [lag for lag, chance in enumerate(chances) if chance > best - _PLAUSIBLE]
    lags.sort(key=lambda lag: -chances[lag])
    clock.lags = [lag for lag in lags if lag < _USUAL_LAGS] or lags
    clock.busy = late or any(off > LATE_TICKS for off in ticks[clock.lags[0]])
    return clock


def sent_ns(synack: Segment, syn_ns: int, first_tsval: int | None) -> int:
    """When a repeated SYN-ACK was sent: by its timestamp where the capture shows it later than that.

    TSval counts milliseconds from the first SYN-ACK's `first_tsval`, sent at once at `syn_ns`.
    """
    if synack.tsval < 0 or first_tsval is None or first_tsval < 0:
        return synack.time_ns
    by_clock = syn_ns + ((synack.tsval - first_tsval) & 0xFFFFFFFF) * 1_000_000
    return by_clock if _LATE_NS < synack.time_ns - by_clock < _ABSURD_NS else synack.time_ns


def _timer_packets(segments: Iterable[Segment]) -> Iterator[_TimerPacket]:
    """SYN-ACKs that were repeated without a SYN asking for it."""
    seen: dict[bytes, _Handshake] = {}
    for segment in segments:
        if not segment.flags & SYN:
            continue
        if not segment.flags & ACK:
            seen[segment.src + segment.dst] = _Handshake(segment.time_ns)
            continue
        known = seen.get(segment.dst + segment.src)
        if known is None:
            continue
        if known.isn != segment.seq:
            known.isn, known.first_tsval = segment.seq, segment.tsval
            continue
        sent = sent_ns(segment, known.syn_ns, known.first_tsval)
        gap = sent - known.last_ns
        known.last_ns = sent
        seconds = 1 << max(0, (gap // NS).bit_length() - 1)
        # one interval of 1, 2, 4 … s, or with TCP_DEFER_ACCEPT several silent ones: 1+2, 1+2+4 …
        if seconds <= _MAX_INTERVAL_S and any(
            0 <= gap - NS * total < NS * total // 5 for total in (seconds, 2 * seconds - 1)
        ):
            yield _TimerPacket(sent, seconds, segment.tsval >= 0, sent < segment.time_ns)


class _TimerPacket(NamedTuple):
    sent_ns: int
    seconds: int
    """The timer's nominal interval."""
    timed: bool
    """Whether it carries a timestamp."""
    late: bool
    """Captured later than sent."""


class _Handshake:
    """The last SYN of a connection, and the SYN-ACKs that followed it."""

    __slots__ = ("first_tsval", "isn", "last_ns", "syn_ns")

    def __init__(self, syn_ns: int) -> None:
        self.syn_ns = self.last_ns = syn_ns
        self.isn: int | None = None
        self.first_tsval = -1
