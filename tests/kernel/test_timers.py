"""The order in which request timers fire."""

from __future__ import annotations

from backlogtrace.kernel.clock import TickClock
from backlogtrace.kernel.timers import NEVER, RequestTimers
from tests.kernel.build import MS, SERVER, START, Server, client, syn
from backlogtrace.kernel.request import Request


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


def test_armed_by_a_late_packet_is_a_window_up_to_it() -> None:
    """When the timer fired is known only to be between two times: so is the next one."""
    timers, (request,) = make(1)
    timers.arm(request, START, 1, latest_ns=START + 100 * MS)
    due = request.due
    deadline = request.deadline
    timers.arm(request, START + 100 * MS, 1)
    assert deadline == request.due > due
