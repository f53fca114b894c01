"""The walk over the buckets of kernels before 4.1, against a simulation that knows the buckets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlogtrace.kernel.clock import PRUNE_NS, PruneClock
from backlogtrace.kernel.profiles import find
from backlogtrace.kernel.prune import PruneTimers
from backlogtrace.kernel.request import Request
from tests.kernel.build import MS, SERVER, START, Server, client, syn

PROFILE = find("rhel7")[0]


class Kernel:
    """inet_csk_reqsk_queue_prune() with known buckets, next to the model's windows."""

    def __init__(self, backlog: int, buckets: list[int], retries: int) -> None:
        self.server = Server(PROFILE, backlog, clock=PruneClock(1000, 0), tcp_synack_retries=retries)
        self.listener = self.server.listener
        self.size = self.listener.syn_capacity
        self.buckets = buckets
        self.hand = 0
        self.run_ns: int | None = None
        self.expires: dict[int, int] = {}
        self.widths: list[int] = []

    def arrive(self, c: int, ms: int) -> None:
        """A SYN of client `c`."""
        self.run_until(START + ms * MS)
        if client(c) + SERVER in self.server.stack.ehash:
            return
        if not self.listener.qlen:
            self.run_ns = START + (ms + 1002) * MS
        self.server.receive(syn(c, ms))
        self.expires[c] = START + (ms + 1000) * MS

    def run_until(self, end_ns: int) -> None:
        """All runs of the timer up to then."""
        while self.run_ns is not None and self.run_ns <= end_ns:
            self._run(self.run_ns)
            self.run_ns = self.run_ns + PRUNE_NS if self.listener.qlen else None

    def _run(self, now: int) -> None:
        step = 2 * (self.size // 5)
        for c, due in sorted(self.expires.items()):
            if due > now or (self.buckets[c] - self.hand) % self.size >= step:
                continue
            request = self.server.stack.ehash[client(c) + SERVER]
            assert isinstance(request, Request)
            assert request.due <= now <= request.deadline
            self.widths.append(request.deadline - request.due)
            expire, send = self.listener.timer_plan(request)
            self.listener.timer_fired(request, now, expire=expire, send=send)
            if expire:
                del self.expires[c]
                continue
            self.server.stack.timers.saw(request, now)
            self.expires[c] = now + self.listener.interval(request.num_timeout) * 1000 * MS
        self.hand = (self.hand + step) % self.size


@given(
    backlog=st.sampled_from((1, 20, 300)), seeds=st.lists(st.integers(0, 1 << 16), min_size=13, max_size=13),
    arrivals=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 3000)), min_size=1, max_size=20),
    retries=st.integers(1, 5),
)  # fmt: skip
def test_no_request_fires_outside_its_window(
    backlog: int, seeds: list[int], arrivals: list[tuple[int, int]], retries: int
) -> None:
    kernel = Kernel(backlog, seeds, retries)
    kernel.buckets = [seed % kernel.size for seed in seeds]
    now = 0
    for c, gap in arrivals:
        now += gap
        kernel.arrive(c, now)
    kernel.run_until(START + (now + 130_000) * MS)
    assert not kernel.listener.qlen


def test_windows_become_narrow_once_a_client_was_seen() -> None:
    """Of the three runs that may find a request, its bucket leaves two."""
    kernel = Kernel(20, [5 * c % 32 for c in range(13)], 5)
    for c in range(1, 13):
        kernel.arrive(c, 70 * c)
    kernel.run_until(START + 70_000 * MS)
    first, later = kernel.widths[:12], kernel.widths[12:]
    assert sum(later) / len(later) < sum(first) / len(first)
    assert max(later) <= 510 * MS


def test_what_does_not_fit_starts_the_learning_anew() -> None:
    server = Server(PROFILE, clock=PruneClock(1000, 0))
    timers = server.stack.timers
    assert isinstance(timers, PruneTimers)
    server.receive(syn(1))
    request = server.request(1)
    seen = request.due
    for ms in (1000, 1430, 1777, 5000):  # no walk does that
        timers.saw(request, START + ms * MS)
        timers.arm(request, START + ms * MS, 1)
        assert request.due <= START + (ms + 1000) * MS + 3 * PRUNE_NS
        assert request.deadline >= START + (ms + 1000) * MS
    assert request.due > seen


@pytest.mark.parametrize("backlog", [1, 15, 16, 128])
def test_three_runs_look_at_every_bucket(backlog: int) -> None:
    server = Server(PROFILE, backlog, clock=PruneClock(1000, 0))
    server.receive(syn(1))
    request = server.request(1)
    assert request.deadline - request.due - 110 * MS == 2 * PRUNE_NS
