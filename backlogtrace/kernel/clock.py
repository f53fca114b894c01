"""Kernel time: jiffies, the timer wheel's rounding and the cookie minute, from nanoseconds.

Two clocks with one interface. `TickClock` knows HZ and when the machine booted and computes ticks
exactly; `WindowClock` does not and answers with windows. Reads no clock: time is an argument.

Sources: kernel/time/timer.c (calc_wheel_index, since v4.8), include/linux/jiffies.h
(INITIAL_JIFFIES), net/ipv4/syncookies.c (tcp_cookie_time).
"""

from __future__ import annotations

NS = 1_000_000_000
_WHEEL_LEVEL_BITS = 3
_WHEEL_SLOTS = 63  # timers up to 63 granules away live on a level
COOKIE_PERIOD_S = 60
LATE_NS = 250_000_000  # how late a timer may fire on a busy machine
EARLY_NS = 20_000_000  # capture time of the packet that armed it may lag behind the arming


def wheel_level(ticks: int) -> int:
    """Level of the timer wheel that holds a timer `ticks` away."""
    level = 0
    while ticks >= _WHEEL_SLOTS << (_WHEEL_LEVEL_BITS * level):
        level += 1
    return level


class TickClock:
    """Exact jiffies of a machine whose HZ and boot time are known.

    `lag` is how many ticks jiffies run behind (now - boot) * HZ: ticks that passed before the tick
    device started. It is constant per boot and pinned by the first timer packets seen.
    """

    exact = True

    def __init__(self, hz: int, boot_ns: int, lag: int) -> None:
        self.hz = hz
        self.tick_ns = NS // hz
        self.boot_ns = boot_ns
        self.lag = lag
        self._base = (1 << 32) - 300 * hz

    def jiffies(self, now_ns: int) -> int:
        """jiffies_64 at `now_ns` (starts at 2^32 - 300 s, INITIAL_JIFFIES)."""
        return (now_ns - self.boot_ns) // self.tick_ns + self._base - self.lag

    def arm(self, now_ns: int, seconds: int) -> tuple[int, int, int]:
        """(earliest ns, latest ns, wheel level) at which a timer armed now fires.

        The wheel rounds up to the granularity of the level: never early, at most one granule late.
        """
        ticks = seconds * self.hz
        level = wheel_level(ticks)
        shift = _WHEEL_LEVEL_BITS * level
        fires = (((self.jiffies(now_ns) + ticks) >> shift) + 1) << shift
        at = (fires - self._base + self.lag) * self.tick_ns + self.boot_ns
        return at, at, level

    def pin(self, seen_ns: int, seconds: int) -> bool:
        """Correct the lag by a timer packet seen; False when it fits no tick of the wheel.

        A clock that is being disciplined (NTP) drifts by a few ticks over minutes.
        """
        granule = 1 << (_WHEEL_LEVEL_BITS * wheel_level(seconds * self.hz))
        off = self.jiffies(seen_ns) % granule
        if off > granule // 2:
            off -= granule
        if abs(off) > _DRIFT_TICKS:
            return False
        self.lag += off
        return True

    def minute(self, now_ns: int) -> tuple[int, int]:
        """Cookie minute counter, as [lowest, highest]."""
        count = self.jiffies(now_ns) // (COOKIE_PERIOD_S * self.hz)
        return count, count

    def tick(self, now_ns: int) -> int:
        """Tick number, for comparisons in ticks of `hz`."""
        return self.jiffies(now_ns)


_DRIFT_TICKS = 3


class WindowClock:
    """Time on a machine of unknown HZ or phase: timers are windows, minutes are ranges."""

    exact = False
    hz = 1000
    """Resolution of `tick`; the machine's own HZ is not known."""

    def arm(self, now_ns: int, seconds: int) -> tuple[int, int, int]:
        """(earliest ns, latest ns, 0): the wheel adds at most 8/63 of the interval and a tick."""
        span = seconds * NS
        return now_ns + span - EARLY_NS, now_ns + span + span * 8 // 63 + LATE_NS, 0

    def minute(self, now_ns: int) -> tuple[int, int]:
        """Minute counter for any phase: [lowest, highest] relative to an arbitrary start."""
        low = now_ns // (COOKIE_PERIOD_S * NS)
        return low, low + 1

    def tick(self, now_ns: int) -> int:
        """Milliseconds."""
        return now_ns // (NS // self.hz)


Clock = TickClock | WindowClock
