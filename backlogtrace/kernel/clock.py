"""Kernel time: jiffies, the timer wheel's rounding and the cookie minute, from nanoseconds.

Three clocks with one interface. `TickClock` knows HZ and when the machine booted and computes ticks
exactly; `WindowClock` does not and answers with windows; `PruneClock` is for kernels before 4.1, whose
one timer per listener gives windows either way. Reads no clock: time is an argument.

Sources: kernel/time/timer.c (calc_wheel_index, since v4.8), include/linux/jiffies.h
(INITIAL_JIFFIES), net/ipv4/syncookies.c (tcp_cookie_time).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NS = 1_000_000_000
_BITS = 3  # granularity of a wheel level is 8^level ticks
_WHEEL_SLOTS = 63  # timers up to 63 granules away live on a level
_DRIFT_TICKS = 3
LATE_TICKS = 1
"""A CPU may look for due timers before another one has counted the tick: it then runs them one later."""
COOKIE_PERIOD_S = 60
PRUNE_NS = NS // 5
LATE_NS = 250_000_000  # how late a timer may fire on a busy machine
_LONGEST_TICK_NS = 10_000_000  # HZ=100
EARLY_NS = 20_000_000  # capture time of the packet that armed it may lag behind the arming


def wheel_level(ticks: int) -> int:
    """Level of the timer wheel that holds a timer `ticks` away."""
    level = 0
    while ticks >= _WHEEL_SLOTS << _BITS * level:
        level += 1
    return level


class TickClock:
    """Exact jiffies of a machine whose HZ and boot time are known.

    `lags` are the possible numbers of ticks that jiffies run behind (now - boot) * HZ: ticks that
    passed before the tick device started. It is one number per boot; timer packets seen narrow it,
    and what it leaves open makes a timer a window. The likeliest comes first.
    """

    exact = True

    def __init__(self, hz: int, boot_ns: int, lags: Sequence[int] = (0,), *, wheel: bool = True) -> None:
        self.hz = hz
        self.tick_ns = NS // hz
        self.boot_ns = boot_ns
        self.lags = list(lags)
        self.wheel = wheel
        """False: timers fire at their tick (kernels before 4.8)."""
        self.busy = False
        """Packets leave or are captured late: what happens within one tick has no sure order."""
        self._base = (1 << 32) - 300 * hz
        self._drift = self._drift_tick = 0

    def jiffies(self, now_ns: int) -> int:
        """jiffies_64 at `now_ns` (starts at 2^32 - 300 s, INITIAL_JIFFIES)."""
        return (now_ns - self.boot_ns) // self.tick_ns + self._base - self.lags[0]

    def arm(self, now_ns: int, seconds: int) -> tuple[int, int, int]:
        """(earliest ns, latest ns, wheel level) at which a timer armed now fires.

        The wheel rounds up to the granularity of the level: never early, at most one granule late.
        """
        ticks = seconds * self.hz
        if not self.wheel:
            at = self._at((now_ns - self.boot_ns) // self.tick_ns + self._base + ticks)
            return at, at, 0
        level = wheel_level(ticks)
        shift = _BITS * level
        raw = (now_ns - self.boot_ns) // self.tick_ns + self._base + ticks
        fires = [((((raw - lag) >> shift) + 1) << shift) + lag for lag in self.lags]
        return self._at(min(fires)), self._at(max(fires) + LATE_TICKS), level

    def likely(self, earliest_ns: int, latest_ns: int, level: int) -> int:
        """When in its window a timer fires if the first of the lags is the right one."""
        granule = 1 << _BITS * level
        raw = (earliest_ns - self.boot_ns) // self.tick_ns + self._base
        return min(latest_ns, earliest_ns + (self.lags[0] - raw) % granule * self.tick_ns)

    def _at(self, raw: int) -> int:
        return (raw - self._base) * self.tick_ns + self.boot_ns

    def off(self, seen_ns: int, seconds: int, lag: int) -> int:
        """Ticks between `seen_ns` and the nearest tick at which timers of this interval fire."""
        granule = 1 << _BITS * wheel_level(seconds * self.hz)
        off = ((seen_ns - self.boot_ns) // self.tick_ns + self._base - lag) % granule
        return off - granule if off > granule // 2 else off

    def pin(self, seen_ns: int, seconds: int, *, precise: bool) -> None:
        """Learn from a timer packet seen: which lags remain, or a drift of the clock.

        A clock that is being disciplined (NTP) drifts by a few ticks over minutes. A time that is
        not `precise` (worked out from a millisecond timestamp) may be off by a tick.
        """
        if not self.wheel:
            return
        offs = [self.off(seen_ns, seconds, lag) for lag in self.lags]
        slack = 0 if precise else 1
        if min(map(abs, offs)) <= slack:
            kept = range(-slack, slack + LATE_TICKS + 1)  # a tick late is usual, early is impossible
            self.lags = [lag for lag, off in zip(self.lags, offs, strict=True) if off in kept]
            self._drift = 0
            return
        off = min(offs, key=abs)
        if not precise or abs(off) > _DRIFT_TICKS:
            return
        tick = seen_ns // self.tick_ns
        if off == self._drift and tick != self._drift_tick:  # at another time again: drift; once: it was late
            self.lags = [lag + off for lag in self.lags]
            off = 0
        self._drift, self._drift_tick = off, tick

    def minute(self, now_ns: int) -> int:
        """Cookie minute counter (tcp_cookie_time)."""
        return self.jiffies(now_ns) // (COOKIE_PERIOD_S * self.hz)

    def tick(self, now_ns: int) -> int:
        """Tick number, for comparisons in ticks of `hz`."""
        return self.jiffies(now_ns)


class WindowClock:
    """Time on a machine of unknown HZ or phase: timers are windows, minutes have no known edge."""

    exact = False
    busy = False
    hz = 1000
    """Resolution of `tick`; the machine's own HZ is not known."""
    tick_ns = NS // hz

    def arm(self, now_ns: int, seconds: int) -> tuple[int, int, int]:
        """(earliest ns, latest ns, 0): the wheel adds at most 8/63 of the interval and a tick."""
        span = seconds * NS
        return now_ns + span - EARLY_NS, now_ns + span + span * 8 // 63 + LATE_NS, 0

    def busy_at(self, due_ns: int, fired_ns: int, seconds: int) -> bool:
        """Whether a timer that may have fired from `due_ns` on came later than the wheel alone makes it."""
        return fired_ns > due_ns + EARLY_NS + seconds * NS * 8 // 63 + _LONGEST_TICK_NS

    def minute(self, now_ns: int) -> int:
        """Minutes from an arbitrary start."""
        return now_ns // (COOKIE_PERIOD_S * NS)

    def tick(self, now_ns: int) -> int:
        """Milliseconds."""
        return now_ns // (NS // self.hz)


class PruneClock(TickClock):
    """Kernels before 4.1: one timer per listener looks at two fifths of the hash buckets every 200 ms.

    A request is handled when the timer comes by its bucket, which a keyed hash chose: a window.
    Without HZ and boot time (both 0) ticks are milliseconds from an arbitrary start.
    """

    exact = False

    def __init__(self, hz: int, boot_ns: int) -> None:
        super().__init__(hz or 1000, boot_ns, wheel=False)

    def arm(self, now_ns: int, seconds: int) -> tuple[int, int, int]:
        """(earliest ns, latest ns, 0): up to three runs late, and a few ticks of timer slack."""
        due = now_ns + seconds * NS
        return due - EARLY_NS, due + 3 * PRUNE_NS + 2 * EARLY_NS, 0


Clock = TickClock | WindowClock
