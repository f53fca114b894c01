"""Request timers of kernels before 4.1: one timer per listener that walks the hash buckets.

Every 200 ms, while there are requests, the next two fifths of the buckets are looked at. A client's
bucket is unknown (a keyed hash of its address and port) but stays the same, so each SYN-ACK that is
repeated tells which buckets it can be in, relative to where the walk is, and that narrows the
windows of its next timers. What is not consistent is forgotten, and learning starts anew.

Source: net/ipv4/inet_connection_sock.c (inet_csk_reqsk_queue_prune).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backlogtrace.kernel.clock import EARLY_NS, NS, PRUNE_NS, PruneClock
from backlogtrace.kernel.timers import RequestTimers, WindowTimers

if TYPE_CHECKING:
    from backlogtrace.kernel.clock import Clock
    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.kernel.request import Request

_REMEMBERED = 4096  # clients whose buckets are remembered
_FIRST_NS = 1_002_000_000  # from the first request to the first run, with the slack of the timer
_TOLERANCE_NS = 15_000_000  # ticks and slack
_ALIGNED_NS = 4_000_000
_LATE_NS = 90_000_000  # a run that finds the socket busy comes 50 ms later


class _Walk:
    """Where the timer of one listener is, counted from a run that is taken to start at bucket 0."""

    def __init__(self, buckets: int, run_ns: int) -> None:
        self.buckets = buckets
        self.step = 2 * (buckets // 5)
        self.run_ns = run_ns
        self.hand = 0
        """First bucket of the run at `run_ns`."""
        self.known: dict[bytes, int] = {}
        """Buckets that a client can be in, as a bit mask; all, where it is missing."""
        self.all = (1 << buckets) - 1

    def number(self, when_ns: int) -> int:
        """The first run at or after `when_ns`."""
        return -((self.run_ns - when_ns) // PRUNE_NS)

    def mask(self, number: int) -> int:
        """The buckets that a run looks at."""
        first = (self.hand + number * self.step) % self.buckets
        bits = ((1 << self.step) - 1) << first
        return (bits | bits >> self.buckets) & self.all

    def time(self, number: int) -> int:
        return self.run_ns + number * PRUNE_NS

    def window(self, client: bytes, earliest: int, latest: int, *, by_run: bool) -> tuple[int, int]:
        """First and last run (ns) that may find a request that is due between two times.

        `by_run`: a run has armed it, so another run comes right when it is due.
        """
        left = self.known.get(client, self.all)
        first = self.number(earliest - _TOLERANCE_NS)
        while not self.mask(first) & left:
            first += 1
        aligned = by_run and (earliest - self.run_ns + _ALIGNED_NS) % PRUNE_NS < 2 * _ALIGNED_NS
        last = self.number(latest - _TOLERANCE_NS if aligned else latest + _TOLERANCE_NS)
        while left := left & ~self.mask(last):
            last += 1
        return self.time(first), self.time(last)

    def saw(self, client: bytes, due: int, when: int) -> bool:
        """A request that was due was found at `when`; False where that fits nothing that is known."""
        number = self.number(when - PRUNE_NS // 2)
        left = self.known.get(client, self.all) & self.mask(number)
        for missed in range(max(self.number(due + _TOLERANCE_NS), number - 4), number):
            left &= ~self.mask(missed)
        if len(self.known) >= _REMEMBERED:
            self.known.clear()
        self.known[client] = left
        self.hand = (self.hand + number * self.step) % self.buckets
        self.run_ns = when
        return left != 0


class PruneTimers(WindowTimers):
    """Pending request timers of a host whose listeners walk their buckets."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._walks: dict[ListenSocket, _Walk] = {}

    def window(self, request: Request, earliest: int, latest: int, seconds: int) -> tuple[int, int]:
        """(earliest, latest) ns at which a timer fires that was armed between two times."""
        listener = request.listener
        request.fired_ns, request.nominal_ns = request.nominal_ns, earliest + seconds * NS
        if request.child is not None:  # a Fast Open child has a timer of its own
            return super().window(request, earliest, latest, seconds)
        if listener.qlen == 1 and request.num_timeout == 0 and earliest == latest:
            self._walks[listener] = _Walk(listener.syn_capacity, earliest + _FIRST_NS)
        elif listener.qlen - listener.expiring <= 1:
            self._walks.pop(listener, None)  # nothing may be left: whether the timer still runs is not known
        walk = self._walks.get(listener)
        if walk is None:
            return super().window(request, earliest, latest, seconds)
        client = request.key[: len(request.key) // 2]
        nominal = request.nominal_ns
        by_run = request.num_timeout > 0 or listener.qlen == 1
        due, deadline = walk.window(client, nominal, nominal + latest - earliest, by_run=by_run)
        return due - EARLY_NS, deadline + _LATE_NS

    def saw(self, request: Request, when_ns: int) -> None:
        """The SYN-ACK of a request's timer was seen."""
        walk = self._walks.get(request.listener)
        client = request.key[: len(request.key) // 2]
        if walk is None or not walk.saw(client, request.fired_ns, when_ns):
            self._walks[request.listener] = walk = _Walk(request.listener.syn_capacity, when_ns)
            walk.known[client] = walk.mask(0)


def make_timers(clock: Clock, *, lifo: bool) -> RequestTimers | WindowTimers:
    """The kind of timers that fits the clock."""
    if isinstance(clock, PruneClock):
        return PruneTimers(clock)
    return RequestTimers(clock, lifo=lifo) if clock.exact else WindowTimers(clock)
