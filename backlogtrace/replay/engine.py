"""Capture x model: feeds inbound packets, events and time to the stack and holds it to the wire.

Every prediction (a reply, silence, a timer's packet) is compared with what the capture shows. A
difference becomes a MismatchRow, and the model then follows the wire, so that one surprise does not
become a hundred. Refuses to know files and formats.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

from backlogtrace.kernel import outcomes as out
from backlogtrace.kernel.connection import Child, child_sent
from backlogtrace.kernel.request import Request
from backlogtrace.kernel.timers import NEVER
from backlogtrace.replay.calibrate import sent_ns
from backlogtrace.replay.rows import EventRow, MismatchRow, OutRow, PacketRow
from backlogtrace.segment import ACK, FIN, RST, SYN, endpoint_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.kernel.outcome import Outcome, Reply
    from backlogtrace.kernel.stack import Stack
    from backlogtrace.replay.events import EventQueue
    from backlogtrace.replay.rows import Certainty, Row
    from backlogtrace.replay.track import Track
    from backlogtrace.segment import Segment

AHEAD_NS = 1_300_000_000
"""How far ahead of a packet the capture may be searched for what settles it: the first SYN-ACK timer."""
_ANSWER_NS = 300_000_000  # a direct answer comes within this
_LATE_NS = 1_000_000_000  # a packet of the server is missing if the capture has not shown it by then
SKEW_NS = 2_000_000
"""How far capture time and timer ticks may be apart: a packet this close before a tick may come after it."""
HOLD_NS = 4_000_000_000
"""How long a row waits for the packet that proves it."""
_HOLD_ROWS = 65_536
_EARLY_NS = 16_000_000  # a timer's packet may be captured this much before the computed tick
_ROUTINE = frozenset({"queued", "established", "passed"})
_HARMFUL = frozenset({"dropped", "overflow", "rst"})


class Expectation:
    """A packet the server is predicted to send."""

    __slots__ = ("attempt", "cause", "done", "due_ns", "key", "outcome", "reply", "row", "time_ns", "track")

    def __init__(  # noqa: PLR0913 - a record
        self, key: bytes, track: Track, reply: Reply, time_ns: int, cause: int | None,
        outcome: Outcome | None, row: PacketRow | None,
    ) -> None:  # fmt: skip
        self.key = key
        self.track = track
        self.reply = reply
        self.time_ns = time_ns
        self.cause = cause
        self.outcome = outcome
        self.row = row
        self.attempt = 0
        self.due_ns = time_ns
        """Earliest time a timer may have sent it."""
        self.done = False


class Replay:
    """One pass over a capture.

    `routine` says whether rows are wanted for packets that went the ordinary way; `everything`
    adds the packets of established connections.
    """

    def __init__(  # noqa: PLR0913 - the parts of a replay
        self, stack: Stack, route: dict[bytes, Track | None], events: EventQueue, certainty: Certainty,
        *, routine: bool, everything: bool,
    ) -> None:  # fmt: skip
        self.stack = stack
        self.route = route
        self.events = events
        self.certainty = certainty
        self.routine = routine
        self.everything = everything
        self.now = 0
        self.last_ns = 0
        self.handshake_packets = 0
        self.unrelated = 0
        self._rows: deque[Row] = deque()
        self._expected: dict[bytes, list[Expectation]] = {}
        self._awaited: deque[Expectation] = deque()
        self._unproved: dict[bytes, PacketRow] = {}
        self._windows: list[tuple[int, int, Request, int, bool]] = []
        self._serial = 0
        self._segments: list[Segment] = []
        self._at = 0
        stack.witness = self._witness
        events.replay = self

    # ---- the pass ----

    def run(self, segments: list[Segment], upto: int) -> Iterator[Row]:
        """Replay segments[:upto]; the rest may be looked ahead into."""
        self._segments = segments
        for index in range(upto):
            self._at = index
            self._step(segments[index])
            if self._rows:
                yield from self._release()

    def finish(self) -> Iterator[Row]:
        """The rows still held; nothing after the last packet is predicted."""
        self._miss_late(self.now + _LATE_NS + 1, at_end=True)
        yield from self._rows
        self._rows.clear()

    def _release(self) -> Iterator[Row]:
        rows = self._rows
        horizon = self.now - HOLD_NS
        while rows:
            row = rows[0]
            if (
                type(row) is PacketRow
                and row.resolved_by is None
                and row.segment.time_ns > horizon
                and len(rows) < _HOLD_ROWS
                and row.outcome is not out.PASSED
            ):
                return
            yield rows.popleft()

    def _step(self, segment: Segment) -> None:
        now = segment.time_ns
        if now < self.now:  # the clock never runs backward in the model
            now = self.now
            segment = segment._replace(time_ns=now)
        if now >= self.stack.timers.next_due or now >= self.events.next_ns or self._windows:
            self.advance(now)
        self.now = now
        awaited = self._awaited
        if awaited and awaited[0].time_ns + _LATE_NS < now:
            self._miss_late(now)
        route = self.route
        track = route.get(segment.dst)
        if track is not None:
            other = route.get(segment.src)
            if other is None or not self._is_reply(segment):
                self._inbound(track, segment)
                return
            self._outbound(other, segment)
            return
        track = route.get(segment.src)
        if track is None:
            self.unrelated += 1
            return
        self._outbound(track, segment)

    def _is_reply(self, segment: Segment) -> bool:
        """Both ends listen: whether this packet goes from the server's side to the client's."""
        if segment.flags & SYN:
            return bool(segment.flags & ACK)
        return segment.dst + segment.src in self.stack.ehash

    # ---- inbound ----

    def _inbound(self, track: Track, segment: Segment) -> None:
        key = segment.src + segment.dst
        entry = self.stack.ehash.get(key)
        born = entry.born if type(entry) is Request else None
        if self._windows:
            self._settle_windows(track, segment, entry)
        outcome = self.stack.receive(segment)
        if outcome is out.PASSED and not self.everything:
            return
        self.handshake_packets += 1
        hits = track.hits
        hits[outcome] = hits.get(outcome, 0) + 1
        socket = track.socket
        if socket is None:
            accept = syn_high = syn_low = 0
        else:
            accept = len(socket.accept_queue)
            syn_high = socket.qlen
            syn_low = syn_high - socket.expiring
            if self.stack.timers.next_due - self.now < SKEW_NS:
                syn_low -= self._about_to_expire(socket)
        track.sample(segment.time_ns, accept, syn_low, syn_high)
        decision = outcome.decision
        row: PacketRow | None = None
        if self.everything or (
            decision != "passed" and (self.routine or decision not in _ROUTINE)
        ):
            row = PacketRow(
                segment, track.name, outcome, (accept, accept), (syn_low, syn_high), self.certainty
            )
            self._rows.append(row)
            self._link(key, row, decision)
        if outcome.reply is not None:
            self._expect(key, track, outcome, segment, row)
        self._impact(track, key, segment, decision, born)
        self.events.after_packet(self.now)

    def _link(self, key: bytes, row: PacketRow, decision: str) -> None:
        """Rows without a direct reply wait for what proves them later."""
        segment = row.segment
        if segment.flags & (SYN | ACK) == SYN:
            before = self._unproved.pop(key, None)
            if before is not None and before.outcome.decision == "dropped" and before.resolved_by is None:
                before.resolved_by = segment.frame  # the client asks again: it got no answer
        if decision in {"dropped", "overflow", "established", "deferred"}:
            self._unproved[key] = row

    def _impact(self, track: Track, key: bytes, segment: Segment, decision: str, born: int | None) -> None:
        if decision in _HARMFUL:
            track.hit(key, segment, decision, born)
            if decision == "rst":
                track.ended(key, segment.time_ns, by_client=False)
        elif track.attempts:
            if decision == "established":
                track.connected(key, segment.time_ns)
            elif decision in {"queued", "cookie"}:
                track.taken(key, segment.time_ns)
            elif decision == "aborted":
                track.ended(key, segment.time_ns, by_client=True)
        if decision in {"queued", "cookie"} or (decision == "dropped" and track.attempts.get(key) is None):
            track.summary.clients += 1

    def _expect(
        self, key: bytes, track: Track, outcome: Outcome, segment: Segment, row: PacketRow | None
    ) -> None:
        assert outcome.reply is not None
        expectation = Expectation(
            key, track, outcome.reply, segment.time_ns, segment.frame, outcome, row
        )
        waiting = self._expected.get(key)
        if waiting is None:
            self._expected[key] = [expectation]
        else:
            waiting.append(expectation)
        self._awaited.append(expectation)

    # ---- outbound ----

    def _outbound(self, track: Track, segment: Segment) -> None:
        key = segment.dst + segment.src
        flags = segment.flags
        kind: Reply | None
        if flags & (SYN | ACK) == SYN | ACK:
            kind = "synack"
        elif flags & RST:
            kind = "rst"
        else:
            kind = "ack" if not segment.length and not flags & FIN else None
        waiting = self._expected.get(key)
        if waiting is not None and kind is not None:
            for position, expectation in enumerate(waiting):
                if expectation.reply == kind:
                    del waiting[position]
                    if not waiting:
                        del self._expected[key]
                    self._matched(track, expectation, segment, key)
                    return
        entry = self.stack.ehash.get(key)
        if kind == "synack":
            self._repeated(track, segment, key, entry)
            return
        if type(entry) is Child:
            child_sent(self.stack, entry, segment)
            self._proved(key, segment)
            if self.everything:
                self._out(track, segment, "rst" if kind == "rst" else "passed", "application", None)
            elif kind == "rst":
                self._out(track, segment, "rst", "application", None)
            return
        if type(entry) is Request:
            self._unexpected_on_request(track, segment, key, entry, kind)
        elif kind == "rst":
            self._out(track, segment, "rst", "application", None)

    def _matched(self, track: Track, expectation: Expectation, segment: Segment, key: bytes) -> None:
        """The wire shows what was predicted."""
        expectation.done = True
        reply = expectation.reply
        row = expectation.row
        if row is not None and row.resolved_by is None:
            row.resolved_by = segment.frame
            row.certainty = "certain"
        outcome = expectation.outcome
        reason = "reply"
        attempt = None
        counters: dict[str, int] = {}
        if reply == "synack":
            attempt = expectation.attempt
            entry = self.stack.ehash.get(key)
            if type(entry) is Request:
                entry.synack_seen(segment)
                attempt = entry.num_retrans if outcome is not None else attempt
            elif outcome is not None and outcome.decision == "cookie" and track.socket is not None:
                track.socket.cookies.seen(key, segment.seq)
                reason = "cookie"
        if outcome is None:
            reason = "timer"
            counters = {"TCPSynRetrans": 1}
            self._pin(segment, expectation, key)
            self._proved(key, segment)
        if self.routine or reason == "timer" or outcome is None or outcome.decision not in _ROUTINE:
            self._out(track, segment, reply, reason, expectation.cause, attempt=attempt, counters=counters)

    def _pin(self, segment: Segment, expectation: Expectation, key: bytes) -> None:
        """A timer's packet tells when the timer really fired; the next interval counts from there."""
        clock = self.stack.clock
        request = self.stack.ehash.get(key)
        alive = type(request) is Request and request.num_retrans == expectation.attempt
        fired = segment.time_ns
        if alive:
            fired = sent_ns(segment, request.born, request.snt_tsval_first)  # type: ignore[union-attr]
        timed = segment.tsval >= 0
        if clock.exact and (fired < segment.time_ns or fired - expectation.time_ns < clock.tick_ns):
            clock.pin(fired, 1 << max(expectation.attempt - 1, 0), precise=fired == segment.time_ns)
        if alive and request.timer and abs(fired - expectation.due_ns) > clock.tick_ns:  # type: ignore[union-attr]
            seconds = request.listener.interval(request.num_timeout)  # type: ignore[union-attr]
            earliest = fired if timed or not clock.exact else expectation.due_ns
            self.stack.timers.arm(request, earliest, seconds, fired)  # type: ignore[arg-type]

    def _proved(self, key: bytes, segment: Segment) -> None:
        """A later packet of the server settles what it did with an earlier one of the client."""
        row = self._unproved.pop(key, None)
        if row is not None and row.resolved_by is None:
            row.resolved_by = segment.frame
            row.certainty = "certain"

    def _out(  # noqa: PLR0913 - a row
        self, track: Track, segment: Segment, decision: str, reason: str, cause: int | None,
        *, attempt: int | None = None, expected: bool = True, counters: dict[str, int] | None = None,
    ) -> None:  # fmt: skip
        self.handshake_packets += 1
        self._rows.append(
            OutRow(segment, track.name, decision, reason, cause, attempt, expected, counters or {})  # type: ignore[arg-type]
        )

    def _repeated(self, track: Track, segment: Segment, key: bytes, entry: object) -> None:
        """A SYN-ACK that answers no packet: a timer's, or one the model did not foresee."""
        if type(entry) is Request:
            listener = entry.listener
            if entry.timer and segment.time_ns >= entry.due - _EARLY_NS:
                expire, _ = listener.timer_plan(entry)
                if entry.due <= segment.time_ns and not entry.expiring:
                    expire = False  # its window opened when it was not to expire yet
                if expire:
                    expire = not self._relieve(entry, track)
                if not expire:
                    fired = entry.due if self.stack.clock.exact else segment.time_ns
                    self._fire(track, entry, min(fired, segment.time_ns), expire=False, send=True)
                    waiting = self._expected[key]
                    expectation = waiting.pop()
                    if not waiting:
                        del self._expected[key]
                    self._matched(track, expectation, segment, key)
                    return
                detail = "SYN-ACK repeated although its request should have expired: more retries than assumed?"
            else:
                detail = "SYN-ACK repeated before its timer was due: a duplicate SYN is missing from the capture?"
            self._mismatch(track, key, segment.time_ns, "unexpected_packet", detail, segment.frame)
            entry.synack_seen(segment)
            entry.num_retrans += 1
            listener.rearm(entry, segment.time_ns)
        elif type(entry) is Child:
            self._mismatch(
                track, key, segment.time_ns, "unexpected_packet",
                "SYN-ACK repeated: the kernel did not take the ACK that completed the handshake in the model",
                segment.frame,
            )  # fmt: skip
            entry.listener.demote(entry, segment)
        else:
            self._mismatch(
                track, key, segment.time_ns, "unexpected_reply", self._why_unexpected(key), segment.frame
            )
            if track.socket is not None and track.socket.listening:
                track.socket.adopt(key, segment)
        self._out(track, segment, "synack", "timer", None, expected=False)

    def _why_unexpected(self, key: bytes) -> str:
        row = self._unproved.get(key)
        if row is not None and row.outcome.decision == "dropped":
            return f"SYN-ACK seen, the model dropped the SYN of frame {row.segment.frame} ({row.outcome.reason})"
        return "SYN-ACK seen, the model has no SYN to answer"

    def _unexpected_on_request(
        self, track: Track, segment: Segment, key: bytes, entry: Request, kind: Reply | None
    ) -> None:
        if kind == "rst":
            detail = "RST seen, the model still has the request in its SYN queue"
            entry.listener.remove(entry)
            track.ended(key, segment.time_ns, by_client=False)
        else:
            detail = "the server talks on a connection whose handshake is not complete in the model"
            entry.listener.promote(entry, segment)
            track.connected(key, segment.time_ns)
        self._mismatch(track, key, segment.time_ns, "unexpected_packet", detail, segment.frame)
        self._proved(key, segment)
        self._out(track, segment, kind or "passed", "unexplained", None, expected=False)

    # ---- what did not come ----

    def _miss_late(self, now: int, *, at_end: bool = False) -> None:
        awaited = self._awaited
        while awaited and (awaited[0].done or awaited[0].time_ns + _LATE_NS < now):
            expectation = awaited.popleft()
            if expectation.done or (at_end and self.last_ns - expectation.time_ns < _LATE_NS):
                continue
            self._missing(expectation)

    def _missing(self, expectation: Expectation) -> None:
        key, track = expectation.key, expectation.track
        waiting = self._expected.get(key)
        if waiting is not None and expectation in waiting:
            waiting.remove(expectation)
            if not waiting:
                del self._expected[key]
        name = {"synack": "SYN-ACK", "rst": "RST", "ack": "ACK"}[expectation.reply]
        if expectation.cause is None:
            self._mismatch(
                track, key, expectation.time_ns, "missing_packet", f"{name} predicted by the timer, none seen", None
            )
            return
        self._mismatch(
            track, key, expectation.time_ns, "missing_reply",
            f"{name} predicted for frame {expectation.cause}, none seen", expectation.cause,
        )  # fmt: skip
        entry = self.stack.ehash.get(key)
        if type(entry) is Request and expectation.reply == "synack" and not entry.num_retrans:
            entry.listener.remove(entry)  # the kernel seems not to have made it

    def _mismatch(  # noqa: PLR0913 - a row
        self, track: Track, key: bytes, time_ns: int, what: str, detail: str, frame: int | None
    ) -> None:
        track.summary.mismatches += 1
        peer = endpoint_text(key[: len(key) // 2])
        self._rows.append(MismatchRow(time_ns, track.name, peer, what, detail, frame))  # type: ignore[arg-type]

    # ---- time ----

    def advance(self, now: int) -> None:
        """Everything that happens before the packet at `now`: timers up to it, events before it."""
        timers = self.stack.timers
        events = self.events
        while True:
            event_ns = events.next_ns
            due = timers.next_due
            edge = self._windows[0][0] if self._windows else NEVER
            first = min(event_ns, due, edge)
            if first > now or (first == now and first == event_ns and due > now):
                return
            self.now = first
            if due <= event_ns and due <= edge:
                for request in timers.pop_due(due):
                    self._timer_due(request)
            elif edge <= event_ns:
                self._window_closed()
            else:
                events.pop()

    def _timer_due(self, request: Request) -> None:
        track = self.track_of(request.key)
        listener = request.listener
        if not listener.listening:
            listener.remove(request)
            self._event(track, request.due, "expired", request.key, "its listener is closed")
            return
        expire, send = listener.timer_plan(request)
        if request.deadline == request.due or not (expire or send):
            self._fire(track, request, request.due, expire=expire, send=send)
            return
        if expire:
            request.expiring = True
            listener.expiring += 1
        self._serial += 1
        heapq.heappush(
            self._windows, (request.deadline, self._serial, request, request.timer, expire)
        )

    def _window_closed(self) -> None:
        """A timer that was to fire in a window has fired by now, and the wire showed nothing."""
        deadline, _, request, timer, expire = heapq.heappop(self._windows)
        if request.timer != timer:
            return
        track = self.track_of(request.key)
        plan_expire, send = request.listener.timer_plan(request)
        expire = expire or plan_expire
        self._fire(track, request, deadline, expire=expire, send=send and not expire)

    def _fire(self, track: Track, request: Request, when: int, *, expire: bool, send: bool) -> None:
        listener = request.listener
        if request.expiring:
            request.expiring = False
            listener.expiring -= 1
        due = min(request.due, when)
        listener.timer_fired(request, when, expire=expire, send=send)
        if send:
            track.resends += 1
            expectation = Expectation(request.key, track, "synack", when, None, None, None)
            expectation.attempt = request.num_retrans
            expectation.due_ns = due
            self._expected.setdefault(request.key, []).append(expectation)
            self._awaited.append(expectation)
        elif expire:
            track.summary.expired += 1
            self._event(track, when, "expired", request.key)
        track.sample(
            when, len(listener.accept_queue), listener.qlen - listener.expiring, listener.qlen
        )

    def _about_to_expire(self, listener: ListenSocket) -> int:
        """Requests whose silent expiry is so near that it may have come before the packet."""
        due = self.stack.timers.due_by(self.now + SKEW_NS)
        return sum(r.listener is listener and listener.timer_plan(r)[0] for r in due)

    def _relieve(self, request: Request, track: Track) -> bool:
        """The wire shows that `request` was kept: others must have expired before it under pressure."""
        listener = request.listener
        for _, _, other, timer, expire in sorted(self._windows, key=lambda window: -window[1]):
            if other.timer == timer and expire and other is not request and other.listener is listener:
                self._fire(track, other, self.now, expire=True, send=False)
                if not listener.timer_plan(request)[0]:
                    return True
        return not listener.timer_plan(request)[0]

    def _settle_windows(self, track: Track, segment: Segment, entry: object) -> None:
        """An inbound packet whose fate depends on whether a request has expired already."""
        listener = track.socket
        if listener is None or not listener.expiring:
            return
        if type(entry) is Request:
            if entry.expiring and self._witness(segment) == "rst":
                self._fire(track, entry, self.now, expire=True, send=False)
            return
        if segment.flags & (SYN | ACK) != SYN or listener.accept_queue_full():
            return
        high, low = listener.qlen, listener.qlen - listener.expiring
        if not listener.syn_queue_refuses(high) or listener.syn_queue_refuses(low):
            return
        if not self._was_queued(segment, cookies=bool(listener.settings.tcp_syncookies)):
            return
        for _, _, other, timer, expire in sorted(self._windows, key=lambda window: window[1]):
            if other.timer == timer and expire and other.listener is listener:
                self._fire(self.track_of(other.key), other, self.now, expire=True, send=False)
                if not listener.syn_queue_refuses(listener.qlen):
                    return

    def _was_queued(self, syn: Segment, *, cookies: bool) -> bool:
        """Whether the wire shows that a SYN got a request: an answer, and with cookies on its repetition."""
        answer: Segment | None = None
        end = syn.time_ns + AHEAD_NS
        segments = self._segments
        for index in range(self._at + 1, len(segments)):
            later = segments[index]
            if later.time_ns > end:
                return False
            if later.src == syn.dst and later.dst == syn.src and later.flags & SYN:
                if not cookies or (answer is not None and later.seq == answer.seq):
                    return True
                answer = later
            elif later.src == syn.src and later.dst == syn.dst and later.flags & SYN:
                return False
        return False

    def track_of(self, key: bytes) -> Track:
        """The listener that a client-server key belongs to."""
        track = self.route[key[len(key) // 2 :]]
        assert track is not None
        return track

    def _event(self, track: Track, when: int, event: str, key: bytes | None, detail: str = "") -> None:
        listener = track.socket
        accept = syn_high = syn_low = 0
        if listener is not None:
            accept = len(listener.accept_queue)
            syn_high = listener.qlen
            syn_low = syn_high - listener.expiring
        peer = None if key is None else endpoint_text(key[: len(key) // 2])
        self._rows.append(
            EventRow(when, track.name, peer, event, (accept, accept), (syn_low, syn_high), detail=detail)
        )
        track.sample(when, accept, syn_low, syn_high)

    def event(self, track: Track, when: int, event: str, key: bytes | None, detail: str = "") -> None:
        """A row for something an application did."""
        self._event(track, when, event, key, detail)

    def differs(self, track: Track, peer: bytes | None, when: int, detail: str) -> None:
        """The host file says something that the model can't follow."""
        self._mismatch(track, (peer or bytes(6)) * 2, when, "unexpected_packet", detail, None)

    def expect_resets(self, track: Track, children: Iterable[Child], when: int) -> None:
        """close() of a listener resets the connections nobody accepted."""
        for child in children:
            expectation = Expectation(child.key, track, "rst", when, None, out.PASSED_CLOSE, None)
            self._expected.setdefault(child.key, []).append(expectation)
            self._awaited.append(expectation)

    def _witness(self, segment: Segment) -> Reply | None:
        """What the server is seen to answer to `segment` (looked up ahead in the capture)."""
        end = segment.time_ns + _ANSWER_NS
        segments = self._segments
        for index in range(self._at + 1, len(segments)):
            later = segments[index]
            if later.time_ns > end:
                return None
            if later.src == segment.dst and later.dst == segment.src:
                if later.flags & SYN:
                    return "synack"
                return "rst" if later.flags & RST else "ack"
            if later.src == segment.src and later.dst == segment.dst:
                return None
        return None
