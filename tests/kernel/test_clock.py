"""Kernel time: the table of wheel roundings, jiffies, cookie minutes, and clocks that learn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlogtrace.kernel.clock import NS, TickClock, WindowClock, wheel_level

BOOT = 1_700_000_000_000_000_000
HZ = (100, 250, 1000)
# interval s -> HZ -> (earliest, latest) delay in s when armed by the timer before it; D4 of the rules
CHAIN = {
    2: {100: (2.08, 2.08), 250: (2.016, 2.016), 1000: (2.048, 2.048)},
    4: {100: (4.08, 4.08), 250: (4.032, 4.256), 1000: (4.032, 4.032)},
    8: {100: (8.08, 8.64), 250: (8.192, 8.192), 1000: (8.064, 8.512)},
    16: {100: (16.64, 16.64), 250: (16.128, 16.128), 1000: (16.384, 16.384)},
    32: {100: (32.64, 32.64), 250: (32.256, 34.048), 1000: (32.256, 32.256)},
}
FIRST = {100: 1.08, 250: 1.032, 1000: 1.064}
REMOVED = {100: (64.5, 65.2), 250: (63.6, 65.7), 1000: (63.8, 64.3)}

hz_values = st.sampled_from(HZ)
moments = st.integers(0, 10**13).map(lambda uptime: BOOT + uptime)


@pytest.mark.parametrize(
    ("ticks", "level"),
    [(1, 0), (62, 0), (63, 1), (503, 1), (504, 2), (4031, 2), (4032, 3), (32255, 3), (32256, 4)],
)
def test_level_is_the_smallest_that_holds_the_interval(ticks: int, level: int) -> None:
    """L is the smallest with T < 63 * 8^L."""
    assert wheel_level(ticks) == level


@given(hz_values, moments)
def test_chain_of_timers_keeps_to_the_table(hz: int, now: int) -> None:
    """From any moment the six SYN-ACK intervals are as measured and computed for this HZ."""
    clock = TickClock(hz, BOOT)
    due = clock.arm(now, 1)[0]
    assert NS < due - now <= FIRST[hz] * NS
    for seconds, delays in CHAIN.items():
        before = due
        due = clock.arm(before, seconds)[0]
        low, high = delays[hz]
        assert round(low * NS) <= due - before <= round(high * NS)
    low, high = REMOVED[hz]
    assert low <= round((due - now) / NS, 1) <= high


@given(hz_values, moments, st.integers(1, 120))
def test_timer_fires_after_its_interval_and_at_most_one_granule_late(hz: int, now: int, seconds: int) -> None:
    """Never early; on a multiple of the granule, counted in jiffies, or one tick after that."""
    clock = TickClock(hz, BOOT)
    due, latest, level = clock.arm(now, seconds)
    granule = 8**level
    assert latest == due + clock.tick_ns
    assert 0 < due - now - seconds * NS <= granule * clock.tick_ns
    assert clock.jiffies(due) % granule == 0


@given(hz_values, moments, st.integers(1, 120), st.integers(0, 511))
def test_window_clock_contains_every_wheel(hz: int, now: int, seconds: int, lag: int) -> None:
    """Whatever HZ and phase the machine has, its timer fires within the window."""
    low, high, _ = WindowClock().arm(now, seconds)
    assert low < TickClock(hz, BOOT, [lag]).arm(now, seconds)[0] <= high


def test_jiffies_start_300_seconds_before_32_bits_wrap() -> None:
    """INITIAL_JIFFIES is 2^32 - 300 s."""
    assert TickClock(250, BOOT).jiffies(BOOT + 300 * NS) == 1 << 32


@pytest.mark.parametrize(("hz", "flip_s"), [(250, 50.816), (1000, 12.704)])
def test_cookie_minute_flips_where_jiffies_say(hz: int, flip_s: float) -> None:
    """Uptime = 50.8 s (mod 60) with HZ 250, 12.7 s with HZ 1000."""
    clock = TickClock(hz, BOOT)
    for minute in range(3):
        flip = BOOT + round((flip_s + 60 * minute) * NS)
        assert clock.minute(flip) == clock.minute(flip - clock.tick_ns) + 1


def test_lags_make_a_timer_a_window() -> None:
    """Two possible lags, two possible ticks."""
    now = BOOT + 1_000 * NS
    low, high, _ = TickClock(250, BOOT, [3, 4]).arm(now, 1)
    exact = {TickClock(250, BOOT, [lag]).arm(now, 1)[0] for lag in (3, 4)}
    assert low == min(exact)
    assert high == max(exact) + 4_000_000


def test_timer_seen_narrows_the_lags() -> None:
    """A SYN-ACK leaves the lag whose tick it was sent at, and the one before: a tick late is usual."""
    truth = TickClock(250, BOOT, [5])
    clock = TickClock(250, BOOT, list(range(8)))
    clock.pin(truth.arm(BOOT + 777 * NS, 1)[0], 1, precise=True)
    assert clock.lags == [4, 5]
    clock.pin(truth.arm(BOOT + 780 * NS, 1)[0] - clock.tick_ns, 1, precise=True)
    assert clock.lags == [4]  # early is impossible


def test_late_packet_once_changes_nothing_twice_is_drift() -> None:
    """One packet two ticks late may be an accident; two of them are a clock that is being disciplined."""
    clock = TickClock(250, BOOT, [5])
    due = clock.arm(BOOT + 777 * NS, 1)[0]
    for _ in range(3):  # a burst is late as one
        clock.pin(due + 2 * clock.tick_ns, 1, precise=True)
        assert clock.lags == [5]
    later = clock.arm(BOOT + 790 * NS, 1)[0]
    clock.pin(later + 2 * clock.tick_ns, 1, precise=True)
    assert clock.lags == [7]


def test_packet_far_from_any_tick_is_no_drift() -> None:
    """Four ticks off is a late packet, however often it comes."""
    clock = TickClock(250, BOOT, [5])
    due = clock.arm(BOOT + 777 * NS, 1)[0]
    for _ in range(3):
        clock.pin(due + 4 * clock.tick_ns, 1, precise=True)
    assert clock.lags == [5]


def test_imprecise_time_may_be_off_by_a_tick() -> None:
    """A time worked out from a millisecond timestamp keeps the neighbouring lags."""
    clock = TickClock(250, BOOT, list(range(8)))
    clock.pin(TickClock(250, BOOT, [5]).arm(BOOT + 777 * NS, 1)[0], 1, precise=False)
    assert clock.lags == [3, 4, 5, 6]  # or a tick late, too


def test_kernel_without_wheel_fires_at_the_tick() -> None:
    """Before 4.8 a timer fires at its own tick."""
    clock = TickClock(250, BOOT, wheel=False)
    now = BOOT + 1_000 * NS + 3_000_000
    assert clock.arm(now, 1) == (BOOT + 1_001 * NS, BOOT + 1_001 * NS, 0)


def test_window_clock_counts_milliseconds() -> None:
    """Without HZ, ticks are milliseconds and minutes have no known edge."""
    clock = WindowClock()
    assert clock.tick(BOOT + 2_500_000) - clock.tick(BOOT) == 2
    assert clock.minute(BOOT + 60 * NS) - clock.minute(BOOT) == 1
    assert not clock.exact


@given(hz_values, moments, st.sampled_from([1, 2, 4, 8]))
def test_likely_tick_is_that_of_the_first_lag(hz: int, now: int, seconds: int) -> None:
    clock = TickClock(hz, BOOT, [5, 4])
    alone = TickClock(hz, BOOT, [5])
    assert clock.likely(*clock.arm(now, seconds)) == alone.arm(now, seconds)[0]
