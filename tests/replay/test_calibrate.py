"""The server's clock from repeated SYN-ACKs: found where there is one, refused where there is none."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from backlogtrace.kernel.clock import NS, PruneClock, TickClock, WindowClock
from backlogtrace.kernel.profiles import DEFAULT, find
from backlogtrace.replay.calibrate import sent_ns, server_clock
from backlogtrace.segment import ACK, SYN
from tests.kernel.build import MS, SERVER, START, client, segment, server_isn, syn
from tests.replay.wire import Wire

if TYPE_CHECKING:
    from backlogtrace.segment import Segment

BOOT = START - 1000 * NS
LAG = 23  # ticks


def recording(late_ms: tuple[int, int] = (0, 0), *, hz: int = 250, stamped: bool = True) -> list[Segment]:
    """Eight clients that never answer; packets are captured `late_ms` (lowest, highest) late."""
    chance = random.Random(5)  # noqa: S311 - a repeatable capture
    clock = TickClock(hz, BOOT, [LAG])
    made = []
    for c in range(1, 9):
        start = START + c * 137 * MS + c * 211_003
        made.append(syn(c)._replace(time_ns=start))
        sent = start + 40_000
        for repeat in range(5):
            time_ns = sent + chance.randint(*late_ms) * MS * bool(repeat)
            made.append(
                segment(SYN | ACK, c)._replace(
                    time_ns=time_ns, src=SERVER, dst=client(c), seq=server_isn(c),
                    tsval=(sent - BOOT) // MS + 77 if stamped else -1,
                )
            )  # fmt: skip
            sent = clock.arm(sent, 1 << repeat)[0]
    return sorted(made, key=lambda packet: packet.time_ns)


@pytest.mark.parametrize("hz", [100, 250, 1000])
def test_lag_is_found_in_a_prompt_capture(hz: int) -> None:
    """One lag explains every timer packet."""
    clock = server_clock(DEFAULT, recording(hz=hz, stamped=False), hz, BOOT)
    assert isinstance(clock, TickClock)
    assert LAG in clock.lags
    assert not clock.busy
    assert clock.arm(START, 1) == TickClock(hz, BOOT, clock.lags).arm(START, 1)


def test_lag_is_found_by_timestamps_in_a_late_capture() -> None:
    """Captured up to 300 ms late, but TSval counts the milliseconds; the machine is known to be busy."""
    clock = server_clock(DEFAULT, recording((50, 300)), 250, BOOT)
    assert isinstance(clock, TickClock)
    assert all(abs(lag - LAG) <= 1 for lag in clock.lags)
    assert clock.busy


def timed(*moments: tuple[int, int]) -> list[Segment]:
    """Clients whose SYN-ACK was repeated (ticks late, how many at once), each time some seconds later."""
    clock = TickClock(250, BOOT, [LAG])
    made, c = [], 0
    for number, (late, count) in enumerate(moments):
        start = START + number * 5 * NS
        for c in range(c + 1, c + 1 + count):  # noqa: B020 - numbers go on
            synack = segment(SYN | ACK, c)._replace(src=SERVER, dst=client(c), seq=server_isn(c))
            again = clock.arm(start, 1)[0] + late * clock.tick_ns + 50_000
            made += [syn(c)._replace(time_ns=start)]
            made += [synack._replace(time_ns=start), synack._replace(time_ns=again)]
    return sorted(made, key=lambda packet: packet.time_ns)


@pytest.mark.parametrize(
    ("moments", "lags", "busy"),
    [
        (((0, 1),), {LAG - 1, LAG}, False),  # one may have been a tick late
        (((0, 1), (0, 1), (0, 1)), {LAG}, False),  # all of them hardly
        (((1, 1), (0, 1)), {LAG}, False),
        (((1, 9), (0, 1)), {LAG}, False),  # a burst is late together and has one vote
        (((0, 1), (0, 1), (2, 1), (0, 1)), {LAG}, True),
    ],
)
def test_timers_may_be_late_but_never_early(
    moments: tuple[tuple[int, int], ...], lags: set[int], busy: bool
) -> None:
    clock = server_clock(DEFAULT, timed(*moments), 250, BOOT)
    assert isinstance(clock, TickClock)
    assert {lag for lag in clock.lags if abs(lag - LAG) < 4} == lags
    assert clock.busy is busy


def test_late_capture_without_timestamps_has_no_ticks() -> None:
    assert isinstance(server_clock(DEFAULT, recording((50, 300), stamped=False), 250, BOOT), WindowClock)


def test_wrong_hz_fits_no_wheel() -> None:
    """Ticks of 250 Hz taken for those of 1000 Hz."""
    assert isinstance(server_clock(DEFAULT, recording(stamped=False), 1000, BOOT), WindowClock)


def test_capture_without_timer_packets_has_no_ticks() -> None:
    wire = Wire()
    wire.handshake(1, 0)
    assert isinstance(server_clock(DEFAULT, wire.segments, 250, BOOT), WindowClock)
    assert isinstance(server_clock(DEFAULT, [], 250, BOOT), WindowClock)


@pytest.mark.parametrize(("hz", "boot"), [(None, BOOT), (250, None), (None, None)])
def test_without_hz_or_boot_time_nothing_is_guessed(hz: int | None, boot: int | None) -> None:
    assert isinstance(server_clock(DEFAULT, recording(), hz, boot), WindowClock)


def test_answer_to_a_duplicate_syn_is_no_timer_packet() -> None:
    """Its SYN asked for it: with such packets alone there is nothing to learn from."""
    made = []
    for c in range(1, 5):
        for place, packet in enumerate(p for p in recording() if client(c) in (p.src, p.dst)):
            if place > 1:
                made.append(syn(c)._replace(time_ns=packet.time_ns - MS))
            made.append(packet)
    assert isinstance(server_clock(DEFAULT, made, 250, BOOT), WindowClock)


def test_older_kernels_have_clocks_of_their_own() -> None:
    """3.10 prunes every 200 ms, 4.4 fires at the tick: nothing to calibrate."""
    assert isinstance(server_clock(find("3.10")[0], [], 250, BOOT), PruneClock)
    clock = server_clock(find("4.4")[0], [], 250, BOOT)
    assert isinstance(clock, TickClock)
    assert not clock.wheel


# ---- sent_ns ----


@pytest.mark.parametrize(
    ("captured_ms", "tsval", "sent_ms"),
    [
        (1300, 1020, 1020),  # late: the timestamp knows
        (1020, 1020, 1020),
        (1021, 1019, 1021),  # within 2 ms: the capture knows better
        (1000, 1020, 1000),  # never later than captured
        (60_000, 1020, 60_000),  # half a minute late is no lateness
    ],
)
def test_sent_time_is_corrected_by_the_timestamp_only_when_late(
    captured_ms: int, tsval: int, sent_ms: int
) -> None:
    synack = segment(SYN | ACK, 1, captured_ms, tsval=5000 + tsval)
    assert sent_ns(synack, START, 5000) == START + sent_ms * MS


@pytest.mark.parametrize(("tsval", "first"), [(-1, 5000), (6020, None), (6020, -1)])
def test_sent_time_without_timestamps_is_the_captured(tsval: int, first: int | None) -> None:
    assert sent_ns(segment(SYN | ACK, 1, 1300, tsval=tsval), START, first) == START + 1300 * MS


def test_sent_time_survives_the_wrap_of_timestamps() -> None:
    synack = segment(SYN | ACK, 1, 1300, tsval=520)
    assert sent_ns(synack, START, 2**32 - 500) == START + 1020 * MS
