"""Capture x model: feeds inbound packets, events and time to the stack and holds it to the wire.

Every prediction (a reply, silence, a timer's packet) is compared with what the capture shows. A
difference becomes a MismatchRow, and the model then follows the wire, so that one surprise does not
become a hundred. Refuses to know files and formats.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from backlogtrace.kernel import outcomes as out
from backlogtrace.kernel.connection import Child, child_receive, child_sent
from backlogtrace.kernel.request import Request, check_req
from backlogtrace.replay.expect import LATE_NS, Expectation
from backlogtrace.replay.firing import Firing
from backlogtrace.replay.journal import prove
from backlogtrace.replay.lookahead import Lookahead
from backlogtrace.segment import ACK, FIN, RST, SYN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backlogtrace.kernel.outcome import Outcome, Reply
    from backlogtrace.kernel.stack import Stack
    from backlogtrace.replay.events import EventQueue
    from backlogtrace.replay.journal import Journal
    from backlogtrace.replay.route import Route
    from backlogtrace.replay.rows import Row
    from backlogtrace.replay.track import Track
    from backlogtrace.segment import Segment

_SYN_RST = SYN | RST
_SYN_RST_FIN = SYN | RST | FIN
_CONTROL = SYN | RST | ACK | FIN
_REPLY_NAMES = {"synack": "SYN-ACK", "rst": "RST", "ack": "ACK"}


class Replay:
    """One pass over a capture."""

    def __init__(self, stack: Stack, route: Route, journal: Journal, events: EventQueue) -> None:
        self.stack = stack
        self.now = 0
        self.handshake_packets = 0
        self.last_ns = 0
        """Time of the last packet of the capture; what would come after it is not missing."""
        self._route = route
        self._journal = journal
        self._events = events
        self._expected = events.expected
        self._ahead = Lookahead()
        self._firing = Firing(stack, route, journal, self._expected, self._ahead)
        self._unanswered: deque[Request] = deque()
        """Requests made in the ordinary way whose SYN-ACK has not been seen."""
        stack.witness = self._ahead.answer
        stack.synack_of = self._ahead.synack

    # ---- the pass ----

    def run(self, segments: list[Segment], upto: int) -> Iterator[Row]:  # noqa: PLR0915 - one flat loop
        """Replay segments[:upto]; the rest may be looked ahead into.

        The loop is flat because most packets of a big capture belong to ordinary handshakes and
        established connections.
        """
        ahead, journal, events, firing = self._ahead, self._journal, self._events, self._firing
        ahead.segments = segments
        rows, timers, ehash = journal.rows, self.stack.timers, self.stack.ehash
        route, exact = self._route, self._route.exact
        everything, unproved = journal.everything, journal.unproved
        quick = not journal.routine and self.stack.profile.full_queue_admits_young < 0
        stop = 0
        last = self.now
        for index, segment in enumerate(islice(segments, upto)):
            now = segment.time_ns
            if now < last:  # the clock never runs backward in the model
                now = last
                segment = segment._replace(time_ns=now)  # noqa: PLW2901
            last = now
            if now >= stop:
                ahead.at = index
                self.advance(now)
                stop = min(timers.next_due, events.next_ns, firing.edge_ns)
            src, dst, flags = segment.src, segment.dst, segment.flags
            track = exact.get(dst)
            if track is None and route.wild:
                track = route.find(dst)
            if track is not None and (src not in exact or not self._is_reply(segment)):
                key = src + dst
                entry = ehash.get(key)
                if type(entry) is Child and not everything:
                    if entry.plain and not flags & _SYN_RST_FIN:
                        continue
                    if not (flags & _SYN_RST or entry.doubtful or entry.fastopen):
                        child_receive(self.stack, entry, segment)
                        continue
                self.now, ahead.at = now, index
                if not quick or not self._ordinary(track, segment, key, entry):
                    self._inbound(track, segment, key, entry)
            else:
                track = exact.get(src)
                if track is None and (not route.wild or (track := route.find(src)) is None):
                    continue
                key = dst + src
                entry = ehash.get(key)
                if type(entry) is Child and not (flags & _SYN_RST or entry.fastopen or everything):
                    child_sent(self.stack, entry, segment)
                    if unproved:
                        journal.proved(key, segment.frame)
                    continue
                if type(entry) is Request and entry.unanswered and flags & SYN:
                    entry.unanswered = False
                    entry.synack_seen(segment)
                    self.handshake_packets += 1
                    continue
                self.now, ahead.at = now, index
                self._outbound(track, segment, key, entry)
            stop = min(timers.next_due, events.next_ns, firing.edge_ns)
            if rows:
                yield from journal.release(now)
        self.now = last
        self._give_up(last - LATE_NS)  # only to let go of what has been answered

    def finish(self) -> Iterator[Row]:
        """The rows still held; nothing after the last packet is predicted."""
        self._give_up(self.last_ns)
        yield from self._journal.rows
        self._journal.rows.clear()

    def _is_reply(self, segment: Segment) -> bool:
        """Both ends listen: whether this packet goes from the server's side to the client's."""
        if segment.flags & SYN:
            return bool(segment.flags & ACK)
        return segment.dst + segment.src in self.stack.ehash

    def advance(self, now: int) -> None:
        """Everything that happens before the packet at `now`: timers up to it, events before it."""
        timers, events, firing = self.stack.timers, self._events, self._firing
        while True:
            event_ns, due, edge = events.next_ns, timers.next_due, firing.edge_ns
            first = min(event_ns, due, edge)
            if first > now or (first == now and first == event_ns and due > now):
                break
            if due == first:
                firing.run_due(due)
            elif edge == first:
                firing.close_window()
            else:
                events.pop()
        self._give_up(now)

    # ---- inbound ----

    def _ordinary(self, track: Track, segment: Segment, key: bytes, entry: object) -> bool:
        """The SYN and the ACK of an ordinary handshake, where no rows are wanted for them.

        Does what `_inbound` does, without what ordinary packets do not need; False leaves the packet to it.
        """
        socket = track.socket
        if socket is None or socket.expiring or track.attempts or not socket.listening:
            return False
        control = segment.flags & _CONTROL
        born = None
        if entry is None and control == SYN:
            outcome = socket.conn_request(segment, key)
            ordinary = outcome is out.QUEUED
        elif type(entry) is Request and control == ACK and entry.listener is socket:
            born = entry.born
            outcome = check_req(entry, segment)
            ordinary = outcome is out.ESTABLISHED
        else:
            return False
        if not ordinary:
            self._account(track, segment, key, born, outcome)
            return True
        self.handshake_packets += 1
        hits = track.hits
        hits[outcome] = hits.get(outcome, 0) + 1
        accept = len(socket.accept_queue)
        if self.now >= track.edge_ns or accept > track.top_accept or socket.qlen > track.top_syn:
            track.sample(self.now, *track.queues())
        if entry is None:
            request = self.stack.ehash[key]
            assert type(request) is Request
            request.unanswered = True
            waiting = self._unanswered
            while waiting and not waiting[0].unanswered:
                waiting.popleft()
            waiting.append(request)
        if accept:
            self._events.after_packet(track, self.now)
        return True

    def _inbound(self, track: Track, segment: Segment, key: bytes, entry: object) -> None:
        socket = track.socket
        if socket is not None and self._firing.unsettled(socket):
            self._firing.settle(socket, segment, entry)
        born = entry.born if type(entry) is Request else None
        self._account(track, segment, key, born, self.stack.receive(segment))

    def _account(
        self, track: Track, segment: Segment, key: bytes, born: int | None, outcome: Outcome
    ) -> None:
        """Count the decision, write its row, expect the reply."""
        socket = track.socket
        journal = self._journal
        if outcome.decision != "passed":
            self.handshake_packets += 1
        hits = track.hits
        hits[outcome] = hits.get(outcome, 0) + 1
        if socket is None:
            accept = syn_low = syn_high = 0
        else:
            accept = len(socket.accept_queue)
            syn_high = syn_low = socket.syn_length
            if syn_high:
                syn_low -= socket.expiring + self._firing.about_to_expire(socket, self.now)
            if self.now >= track.edge_ns or accept > track.top_accept or syn_high > track.top_syn:
                track.sample(self.now, accept, syn_low, syn_high)
        row = None
        if journal.wants(outcome.decision):
            row = journal.packet(key, track, segment, outcome, (accept, syn_low, syn_high))
        if outcome.reply is not None:
            expectation = Expectation(key, track, outcome.reply, self.now)
            expectation.cause = segment.frame
            expectation.outcome = outcome
            expectation.row = row
            self._expected.add(expectation)
        if outcome is not out.QUEUED or track.attempts:
            track.account(key, segment, outcome.decision, born)
        if accept:
            self._events.after_packet(track, self.now)

    # ---- outbound ----

    def _outbound(self, track: Track, segment: Segment, key: bytes, entry: object) -> None:
        flags = segment.flags
        if type(entry) is not Child or flags & _SYN_RST:
            self.handshake_packets += 1
        kind: Reply | None
        if flags & SYN:
            kind = "synack"
        elif flags & RST:
            kind = "rst"
        else:
            kind = "ack" if not segment.length and not flags & FIN else None
        expectation = self._expected.take(key, kind) if kind is not None else None
        if expectation is not None:
            self._matched(track, expectation, segment, entry)
        elif kind == "synack":
            self._repeated(track, segment, key, entry)
        elif type(entry) is Request:
            self._unexpected_on_request(track, segment, key, entry, kind)
        else:
            if type(entry) is Child:
                child_sent(self.stack, entry, segment)
                self._journal.proved(key, segment.frame)
            if kind == "rst" or (self._journal.everything and type(entry) is Child):
                self._journal.sent(track, segment, "rst" if kind == "rst" else "passed", "application")

    def _matched(self, track: Track, expectation: Expectation, segment: Segment, entry: object) -> None:
        """The wire shows what was predicted."""
        if expectation.row is not None:
            prove(expectation.row, segment.frame)
        outcome = expectation.outcome
        attempt = expectation.attempt
        journal = self._journal
        request = _pending(entry)
        if request is not None and expectation.reply == "synack":
            request.synack_seen(segment)
            if outcome is not None:
                attempt = request.num_retrans
            if segment.fastopen:
                self.stack.fastopen_cookies[segment.dst[:-2] + segment.src[:-2]] = segment.fastopen
        if outcome is None:
            self._firing.pin(expectation, segment)
            journal.proved(expectation.key, segment.frame)
            counters = {"TCPSynRetrans": 1} if self.stack.profile.counts_syn_retrans else {}
            journal.sent(track, segment, "synack", "timer", attempt=attempt, counters=counters)
            return
        reason = "reply"
        if outcome.decision == "cookie" and track.socket is not None:
            track.socket.cookies.seen(expectation.key, segment.seq)
            reason = "cookie"
        if journal.wants(outcome.decision):
            synack = expectation.reply == "synack"
            journal.sent(
                track,
                segment,
                expectation.reply,
                reason,
                expectation.cause,
                attempt=attempt if synack else None,
            )

    def _repeated(self, track: Track, segment: Segment, key: bytes, entry: object) -> None:
        """A SYN-ACK that answers no packet: a timer's, or one the model did not foresee."""
        what = "unexpected_packet"
        request = _pending(entry)
        if request is not None:
            detail = self._firing.seen(request, segment)
            if not detail:
                expectation = self._expected.take(key, "synack")
                assert expectation is not None
                self._matched(track, expectation, segment, entry)
                return
            request.synack_seen(segment)
            request.num_retrans += 1
            request.listener.rearm(request, segment.time_ns)
        elif type(entry) is Child:
            detail = (
                "SYN-ACK repeated: the kernel did not take the ACK that completed the handshake in the model"
            )
            entry.listener.demote(entry, segment)
        else:
            what = "unexpected_reply"
            detail = "SYN-ACK seen, the model has no SYN to answer"
            row = self._journal.unproved.get(key)
            if row is not None and row.outcome.decision == "dropped":
                reason = row.outcome.reason
                detail = f"SYN-ACK seen, the model dropped the SYN of frame {row.segment.frame} ({reason})"
            alive = track.socket is not None and track.socket.listening
            if not self._firing.revive(key, segment) and alive:
                track.socket.adopt(key, segment)  # type: ignore[union-attr]
        self._journal.mismatch(track, key, segment.time_ns, what, detail, segment.frame)
        self._journal.sent(track, segment, "synack", "timer", expected=False)

    def _unexpected_on_request(
        self, track: Track, segment: Segment, key: bytes, entry: Request, kind: Reply | None
    ) -> None:
        if kind == "rst":
            detail = "RST seen, the model still has the request in its SYN queue"
            entry.listener.remove(entry)
            track.ended(key, segment.time_ns, by_client=False)
        else:
            detail = "the server talks on a connection whose handshake is not complete in the model"
            entry.listener.promote(entry, segment._replace(src=segment.dst, dst=segment.src))
            track.connected(key, segment.time_ns)
        self._journal.mismatch(track, key, segment.time_ns, "unexpected_packet", detail, segment.frame)
        self._journal.proved(key, segment.frame)
        self._journal.sent(track, segment, kind or "passed", "unexplained", expected=False)

    # ---- what did not come ----

    def _give_up(self, now: int) -> None:
        """Predicted packets that the capture has not shown in time."""
        for expectation in self._expected.overdue(now):
            self._missing(expectation)
        waiting = self._unanswered
        while waiting and (not waiting[0].unanswered or waiting[0].born + LATE_NS < now):
            request = waiting.popleft()
            if request.unanswered:
                request.unanswered = False
                expectation = Expectation(request.key, self._route.of(request.key), "synack", request.born)
                expectation.cause = request.frame
                self._missing(expectation)

    def _missing(self, expectation: Expectation) -> None:
        name = _REPLY_NAMES[expectation.reply]
        track, key, cause = expectation.track, expectation.key, expectation.cause
        if cause is None:
            what, detail = "missing_packet", f"{name} predicted, none seen"
        else:
            what, detail = "missing_reply", f"{name} predicted for frame {cause}, none seen"
        self._journal.mismatch(track, key, expectation.time_ns, what, detail, cause)
        entry = self.stack.ehash.get(key)
        if (
            type(entry) is Request
            and expectation.reply == "synack"
            and entry.num_retrans == expectation.attempt
        ):
            entry.listener.remove(entry)  # the kernel seems not to have it


def _pending(entry: object) -> Request | None:
    """The request whose SYN-ACK may be repeated: a half-open connection's, or a Fast Open child's."""
    if type(entry) is Child:
        return entry.fastopen
    return entry if type(entry) is Request else None
