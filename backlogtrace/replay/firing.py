"""When request timers fire: at a tick that is known, or somewhere in a window.

A timer whose tick is known fires there. One with a window fires when the capture shows its
SYN-ACK; if it is to send none (a silent expiry) the request counts as possibly gone until the
window closes. What the wire shows overrides what was planned.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from backlogtrace.kernel.clock import EARLY_NS, TickClock, WindowClock
from backlogtrace.kernel.connection import Child
from backlogtrace.kernel.cookie_signs import Offers
from backlogtrace.kernel.listener import at_timer, settle
from backlogtrace.kernel.request import Request
from backlogtrace.kernel.timers import NEVER, level_of
from backlogtrace.replay.calibrate import sent_ns
from backlogtrace.replay.expect import Expectation
from backlogtrace.segment import ACK, SYN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.kernel.stack import Stack
    from backlogtrace.replay.expect import Expectations
    from backlogtrace.replay.journal import Journal
    from backlogtrace.replay.lookahead import Lookahead
    from backlogtrace.replay.route import Route
    from backlogtrace.segment import Segment

SKEW_NS = 2_000_000
"""How far capture time and timer ticks may be apart: a packet this close before a tick may come after it."""
_REMEMBERED = 10_000  # expired requests kept for the case that the wire shows them alive
_BUSY_NS = 60_000_000  # how late a silent expiry may come on a busy machine
_EARLY_NS = 16_000_000  # a timer's packet may be captured this much before the computed tick


class Firing:
    """The pending timers of a replay."""

    def __init__(
        self, stack: Stack, route: Route, journal: Journal, expected: Expectations, ahead: Lookahead
    ) -> None:
        self._stack = stack
        self._timers = stack.timers
        self._route = route
        self._journal = journal
        self._expected = expected
        self._ahead = ahead
        self._windows: list[tuple[int, int, Request, int, bool]] = []
        self._serial = 0
        self.edge_ns = NEVER
        """When the first window closes."""
        self._gone: dict[bytes, Request] = {}
        self.unclear = False
        self.goes_on: Callable[[Request], bool] | None = None
        """Whether the capture shows that a request is there after the last SYN-ACK seen, however late."""

    def run_due(self, now: int) -> None:
        """Fire what is due at `now`, the first due time."""
        for request in self._timers.pop_due(now):
            self._due(request)

    def _due(self, request: Request) -> None:
        listener = at_timer(request)
        if listener is None:
            self._orphaned(request, request.due)
            return
        expire, send = listener.timer_plan(request)
        clock = self._stack.clock
        maybe_gone = expire
        group = self._route.of(request.key).group
        shared = group is not None and len(group.alive) > 1  # how full its member is: a guess
        if (expire or send) and (clock.busy or not clock.exact or shared) and request.snt_isn is not None:
            shown = self._repeated(request, request.due)
            exhausted = expire and not listener.under_pressure()
            may_expire, may_send = listener.timer_bounds(request)
            maybe_gone = expire if shown is None or exhausted else may_expire and not shown
            if shown is not None and may_expire and may_send and (listener.under_pressure() or shared):
                expire, send = not shown, shown  # the order of timers decides who expires: not known here
        deadline = request.deadline
        if expire and clock.exact and clock.busy:
            deadline += _BUSY_NS
        silent = not (expire or send)
        if deadline == request.due or (silent and not self._gates_by_youth(listener)):
            self._fire(request, request.due, expire=expire, send=send)
            return
        if maybe_gone:
            request.expiring = True
            listener.expiring += 1
        self._serial += 1
        heapq.heappush(self._windows, (deadline, self._serial, request, request.timer, expire))
        self.edge_ns = self._windows[0][0]

    def _repeated(self, request: Request, when: int) -> bool | None:
        """Whether a SYN-ACK that was seen is sent again soon after `when`; None where that cannot be told.

        Under pressure requests expire early: one whose SYN-ACK comes much later was kept, and the capture
        lost what its timer sent.
        """
        if request.snt_isn is None:
            return None
        shown = self._ahead.repeated(request.key, request.snt_isn, when)
        if not shown and self.goes_on is not None and request.listener.under_pressure():
            return self.goes_on(request) or shown
        return shown

    def _orphaned(self, request: Request, when: int) -> None:
        """The timer finds the listener closed: the request goes, and nothing is sent."""
        request.listener.remove(request)
        track = self._route.of(request.key)
        self._journal.event(track, when, "expired", request.key, "its listener is closed")

    def close_window(self) -> None:
        """The first window is over: its timer has fired, and the wire has shown nothing so far."""
        deadline, _, request, timer, expire = heapq.heappop(self._windows)
        self.edge_ns = self._windows[0][0] if self._windows else NEVER
        listener = at_timer(request) if request.timer == timer else request.listener
        if listener is None:
            self._orphaned(request, deadline)
        elif request.timer == timer:
            plan_expire, send = listener.timer_plan(request)
            expire = expire or plan_expire
            if expire and self._repeated(request, deadline):
                expire, send = False, True  # its SYN-ACK comes late
            self._fire(request, deadline, expire=expire, send=send and not expire)

    def _fire(self, request: Request, when: int, *, expire: bool, send: bool) -> Expectation | None:
        listener = request.listener
        track = self._route.of(request.key)
        settle(request)
        due = min(request.due, when)
        listener.timer_fired(request, when, expire=expire, send=send)
        if expire:
            if len(self._gone) >= _REMEMBERED:
                self._gone.clear()
            self._gone[request.key] = request
            counters = {"AttemptFails": 1} if request.child is not None else {}
            track.expired(request.key, counters)
            self._journal.event(track, when, "expired", request.key, counters=counters)
        if not send:
            return None
        track.resends += 1
        expectation = Expectation(request.key, track, "synack", when)
        expectation.attempt = request.num_retrans
        expectation.due_ns = due
        self._expected.add(expectation)
        return expectation

    def seen(self, request: Request, synack: Segment) -> str:
        """The capture shows a SYN-ACK of `request` that nothing asked for.

        If a timer explains it, that timer fires now (its packet waits in the expectations), and the
        answer is empty. Else the answer says why none does.
        """
        now = synack.time_ns
        if not request.timer or now < request.due - _EARLY_NS:
            return "SYN-ACK repeated before its timer was due: a duplicate SYN is missing from the capture?"
        expire, _ = request.listener.timer_plan(request)
        if request.due <= now and not request.expiring:
            expire = False  # its window opened when it was not to expire yet
        if expire and not self._relieved(request, now):
            return "SYN-ACK repeated although its request should have expired: more retries than assumed?"
        self._fire(
            request, min(request.due, now) if self._stack.clock.exact else now, expire=False, send=True
        )
        return ""

    def revive(self, key: bytes, synack: Segment) -> bool:
        """A SYN-ACK shows that a request the model gave up is still there; False when there was none."""
        request = self._gone.pop(key, None)
        if request is None or request.snt_isn != synack.seq or not request.listener.listening:
            return False
        request.listener.revive(request, synack.time_ns)
        return True

    def pin(self, expectation: Expectation, synack: Segment) -> None:
        """A timer's packet tells when the timer really fired; the next interval counts from there."""
        request: object = self._stack.ehash.get(expectation.key)
        if type(request) is Child:
            request = request.fastopen
        if type(request) is not Request or request.num_retrans != expectation.attempt:
            return
        clock = self._stack.clock
        listener = request.listener
        fired = sent_ns(synack, request.born, request.snt_tsval_first)
        corrected = fired < synack.time_ns
        if isinstance(clock, TickClock) and (corrected or fired - expectation.time_ns < clock.tick_ns):
            clock.pin(fired, listener.interval(request.num_timeout - 1), precise=not corrected)
        if request.timer:
            self._timers.saw(request, fired)
        if request.timer and abs(fired - expectation.due_ns) > clock.tick_ns:
            # a tick that was not counted yet when the timer ran does not count for the next one either
            earliest = fired
            if clock.exact:
                earliest = expectation.due_ns
                if synack.tsval >= 0:
                    earliest = max(earliest, fired - clock.tick_ns)
            elif isinstance(clock, WindowClock) and clock.busy_at(
                expectation.due_ns, fired, listener.interval(request.num_timeout - 1)
            ):
                earliest = expectation.due_ns + EARLY_NS
            self._timers.arm(request, earliest, listener.interval(request.num_timeout), fired)

    def unseen(self, request: Request, expectation: Expectation) -> None:
        """The capture lost a timer's packet: the next interval began when that was due, or later."""
        if request.timer:
            interval = request.listener.interval(request.num_timeout)
            self._timers.arm(request, expectation.due_ns, interval, expectation.time_ns)

    def about_to_expire(self, listener: ListenSocket, now: int) -> int:
        """Requests whose silent expiry is so near that it may have come before the packet at `now`."""
        if not self._stack.clock.exact or self._timers.next_due > now + SKEW_NS:
            return 0
        due = self._timers.due_by(now + SKEW_NS)
        return sum(request.listener is listener and listener.timer_plan(request)[0] for request in due)

    def _gates_by_youth(self, listener: ListenSocket) -> bool:
        """Whether the number of young requests decides about SYNs: then even a silent timer matters."""
        return listener.profile.full_queue_admits_young >= 0

    def unsettled(self, listener: ListenSocket) -> bool:
        """Whether timers that may have fired leave the fate of a packet open."""
        return listener.expiring > 0 or (bool(self._windows) and self._gates_by_youth(listener))

    def settle(self, listener: ListenSocket, segment: Segment, entry: object) -> None:
        """An inbound packet whose fate depends on whether requests have expired: ask the wire.

        `unclear` says whether the wire, too, leaves open if a SYN got a request or a cookie.
        """
        self.unclear = False
        now = segment.time_ns
        if type(entry) is Request:
            if entry.expiring and self._shown_gone(entry, segment):
                self._fire(entry, now, expire=True, send=False)
            return
        if segment.flags & (SYN | ACK) != SYN:
            return
        if listener.accept_queue_full():
            self._settle_youth(listener, segment)
            if not 0 <= listener.young <= listener.profile.full_queue_admits_young:
                return  # dropped for the accept queue, whatever the SYN queue is like
        if not listener.syn_queue_refuses(listener.qlen):
            return
        if listener.syn_queue_refuses(listener.qlen - listener.expiring):
            return
        settings = listener.settings
        offers = Offers(bool(settings.tcp_sack), bool(settings.tcp_window_scaling))
        queued = self._ahead.was_queued(
            segment,
            offers if settings.tcp_syncookies else None,
            repeats=bool(listener.syncnt or settings.tcp_synack_retries),
        )
        self.unclear = queued is None
        if queued is False:
            return
        for request in list(self._expiring(listener)):
            if queued or self._likely_fired(request, now):
                self._fire(request, now, expire=True, send=False)
                if not listener.syn_queue_refuses(listener.qlen):
                    return

    def _likely_fired(self, request: Request, now: int) -> bool:
        """Whether the timer has fired if jiffies lag behind by the likeliest number of ticks."""
        clock = self._stack.clock
        if not isinstance(clock, TickClock) or not clock.exact:
            return False
        return clock.likely(request.due, request.deadline, level_of(request)) <= now

    def _shown_gone(self, request: Request, segment: Segment) -> bool:
        """Whether the answer to a segment shows that its request has expired."""
        listener = request.listener
        if listener.settings.tcp_abort_on_overflow and listener.accept_queue_full():
            return False
        answer = self._ahead.answer(segment)
        if segment.flags & (SYN | ACK) != SYN or answer == "rst":
            return answer == "rst"
        synack = self._ahead.synack(segment) if answer == "synack" else None
        return answer is None or (synack is not None and synack.seq != request.snt_isn)

    def _settle_youth(self, listener: ListenSocket, syn: Segment) -> None:
        """Accept queue full, but a SYN passes while few requests are young: have some timers fired?"""
        most = listener.profile.full_queue_admits_young
        if most < 0 or listener.young <= most or self._ahead.answer(syn) != "synack":
            return
        for window in sorted(self._windows, key=lambda window: window[1]):
            request, expire = window[2], window[4]
            if request.timer == window[3] and request.listener is listener and not request.num_timeout:
                self._fire(request, syn.time_ns, expire=expire, send=False)
                if listener.young <= most:
                    return

    def _relieved(self, request: Request, now: int) -> bool:
        """The wire shows that `request` was kept: others expired before it, which took the pressure off."""
        listener = request.listener
        for other in self._expiring(listener, last_first=True):
            if other is not request and not self._repeated(other, now):
                self._fire(other, now, expire=True, send=False)
                if not listener.timer_plan(request)[0]:
                    return True
        return not listener.timer_plan(request)[0]

    def _expiring(self, listener: ListenSocket, *, last_first: bool = False) -> Iterator[Request]:
        """Requests of a listener that may have expired, in the order in which their windows opened."""
        for window in sorted(self._windows, key=lambda window: window[1], reverse=last_first):
            request = window[2]
            if request.timer == window[3] and request.expiring and request.listener is listener:
                yield request
