"""The order in which request timers fire."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backlogtrace.kernel.clock import TickClock, WindowClock
from backlogtrace.kernel.request import Request
from backlogtrace.kernel.timers import NEVER, RequestTimers, WindowTimers
from tests.kernel.build import MS, SERVER, START, Server, client, syn


def make(count: int) -> tuple[RequestTimers, list[Request]]:
    """Timers of a machine with HZ=250 and requests to arm."""
    server = Server()
    timers = RequestTimers(TickClock(250, START - 1000 * 1000 * MS), lifo=True)
    return timers, [
        Request(client(c) + SERVER, server.listener, syn(c), tstamp_ok=False) for c in range(1, count + 1)
    ]


def test_nothing_armed_is_never_due() -> None:
    timers, _ = make(0)
    assert timers.next_due == NEVER
    assert list(timers.pop_due(START)) == []


def test_same_tick_last_armed_fires_first() -> None:
    """Inside a bucket of the wheel the order is LIFO."""
    timers, (first, second, third) = make(3)
    for request in (first, second, third):
        timers.arm(request, START, 1)
    assert first.due == second.due == third.due
    assert list(timers.pop_due(first.due)) == [third, second, first]


def test_same_tick_before_4_8_first_armed_fires_first() -> None:
    """The old wheel appends."""
    _, (first, second) = make(2)
    timers = RequestTimers(TickClock(250, START - 1000 * 1000 * MS, wheel=False), lifo=False)
    timers.arm(first, START, 1)
    timers.arm(second, START, 1)
    assert list(timers.pop_due(first.due)) == [first, second]


def test_same_tick_higher_level_fires_first() -> None:
    """A timer of a higher wheel level fires before one of the same tick that was armed later."""
    timers, (near, far) = make(2)
    timers.arm(far, START, 4)  # 1000 ticks: level 2 with HZ=250
    at = far.due
    for back in range(0, 3_000, 4):  # find a 1 s timer (level 1) that fires in the same tick
        timers.arm(near, at - 1_000 * MS - back * MS, 1)
        if near.due == at:
            break
    assert near.due == far.due
    assert list(timers.pop_due(at)) == [far, near]


def test_earlier_tick_fires_first_whatever_the_order_of_arming() -> None:
    timers, (first, second) = make(2)
    timers.arm(first, START + 100 * MS, 1)
    timers.arm(second, START, 1)
    assert timers.next_due == second.due < first.due
    assert list(timers.pop_due(first.due)) == [second, first]
    assert timers.next_due == NEVER


def test_not_yet_due_stays() -> None:
    timers, (request,) = make(1)
    timers.arm(request, START, 1)
    assert list(timers.pop_due(request.due - 1)) == []
    assert timers.next_due == request.due
    assert list(timers.pop_due(request.due)) == [request]


def test_stopped_timer_does_not_fire() -> None:
    """A request that is gone has timer 0."""
    timers, (request,) = make(1)
    timers.arm(request, START, 1)
    request.timer = 0
    assert list(timers.pop_due(request.due)) == []


def test_restarted_timer_fires_once_at_the_new_time() -> None:
    timers, (request,) = make(1)
    timers.arm(request, START, 1)
    early = request.due
    timers.arm(request, START + 500 * MS, 1)
    assert list(timers.pop_due(early)) == []
    assert list(timers.pop_due(request.due)) == [request]


def test_timer_armed_twice_for_one_tick_fires_once() -> None:
    timers, (request,) = make(1)
    timers.arm(request, START, 1)
    timers.arm(request, START, 1)
    fired = []
    for due in timers.pop_due(request.due):
        timers.arm(due, START + 5_000 * MS, 1)  # as a handler does
        fired.append(due)
    assert fired == [request]


def test_due_by_shows_what_is_due_and_takes_nothing() -> None:
    timers, requests = make(5)
    for place, request in enumerate(requests):
        timers.arm(request, START + place * 200 * MS, 1)
    third = requests[2].due
    assert set(timers.due_by(third)) == set(requests[:3])
    assert timers.due_by(requests[0].due - 1) == []
    assert list(timers.pop_due(third)) == requests[:3]


def test_due_by_shows_a_timer_armed_twice_for_one_tick_once() -> None:
    timers, (request,) = make(1)
    timers.arm(request, START, 1)
    timers.arm(request, START, 1)
    assert timers.due_by(request.due) == [request]


def test_armed_by_a_late_packet_is_a_window_up_to_it() -> None:
    """When the timer fired is known only to be between two times: so is the next one."""
    timers, (request,) = make(1)
    timers.arm(request, START, 1, latest_ns=START + 100 * MS)
    due = request.due
    deadline = request.deadline
    timers.arm(request, START + 100 * MS, 1)
    assert deadline == request.deadline
    assert request.due > due


def handled(timers: RequestTimers | WindowTimers, requests: list[Request], now: int) -> list[tuple[int, int]]:
    """(time, which) of the timers that fire; each is over then."""
    fired = []
    for request in timers.pop_due(now):
        fired.append((request.due, requests.index(request)))
        request.timer = 0
    return fired


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("arm"), st.integers(0, 5), st.integers(0, 3000), st.sampled_from((1, 2, 4))),
            st.tuples(st.just("stop"), st.integers(0, 5), st.just(0), st.just(0)),
            st.tuples(st.just("pop"), st.just(0), st.integers(0, 6000), st.just(0)),
        ),
        max_size=40,
    )
)
def test_window_timers_fire_what_the_ordered_ones_fire(steps: list[tuple[str, int, int, int]]) -> None:
    """The cheap queues of a machine without known ticks agree with the buckets, order within a tick aside."""
    ordered, requests = make(6)
    ordered = RequestTimers(WindowClock(), lifo=False)
    _, twins = make(6)
    cheap = WindowTimers(WindowClock())
    for request in (*requests, *twins):
        request.timer = 0
    for what, which, ms, seconds in steps:
        now = START + ms * MS
        if what == "arm":
            ordered.arm(requests[which], now, seconds)
            cheap.arm(twins[which], now, seconds)
            assert (requests[which].due, requests[which].deadline) == (
                twins[which].due,
                twins[which].deadline,
            )
        elif what == "stop":
            requests[which].timer = twins[which].timer = 0
        else:
            shown = {requests.index(request) for request in ordered.due_by(now)}
            assert shown == {twins.index(request) for request in cheap.due_by(now)}
            fired = handled(ordered, requests, now)
            same = handled(cheap, twins, now)
            assert sorted(fired) == sorted(same)
            assert [due for due, _ in same] == sorted(due for due, _ in same)
        assert cheap.next_due <= min((t.due for t in twins if t.timer), default=NEVER)
