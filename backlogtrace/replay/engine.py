"""Capture x model: feeds inbound packets, events and time to the stack and holds it to the wire.

Every prediction (a reply, silence, a timer's packet) is compared with what the capture shows. A
difference becomes a MismatchRow, and the model then follows the wire, so that one surprise does not
become a hundred. Refuses to know files and formats.
"""

from __future__ import annotations

import sys
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

from backlogtrace.kernel import outcomes as out
from backlogtrace.kernel.connection import Child, child_receive, child_sent
from backlogtrace.kernel.path import path, settle, wrong_checksum
from backlogtrace.kernel.request import Request
from backlogtrace.replay.acceptance import Acceptance
from backlogtrace.replay.expect import Expectation
from backlogtrace.replay.firing import Firing
from backlogtrace.replay.journal import prove
from backlogtrace.replay.lookahead import Lookahead
from backlogtrace.replay.ordinary import Ordinary
from backlogtrace.segment import ACK, DAMAGED, FIN, FLAG_BITS, HANDSHAKE, RST, SYN, undamaged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.kernel.outcome import Outcome, Reply
    from backlogtrace.kernel.path import Check
    from backlogtrace.kernel.stack import Stack
    from backlogtrace.replay.acceptance import Floor
    from backlogtrace.replay.events import EventQueue
    from backlogtrace.replay.evidence import Evidence
    from backlogtrace.replay.journal import Journal
    from backlogtrace.replay.route import Route
    from backlogtrace.replay.rows import Row
    from backlogtrace.replay.track import Track
    from backlogtrace.segment import Segment

_RELEASE_MASK = 63  # rows leave once in this many packets
_SAMPLES = 2  # the first of each kind have rows
_CONTROL = SYN | RST | ACK | FIN
_SYN_RST = SYN | RST
_SYN_RST_FIN = SYN | RST | FIN
_REPLY_NAMES = {"synack": "SYN-ACK", "rst": "RST", "ack": "ACK"}


class Replay:
    """One pass over a capture."""

    def __init__(
        self,
        stack: Stack,
        route: Route,
        journal: Journal,
        events: EventQueue,
        evidence: Evidence | None = None,
        floors: dict[str, Floor] | None = None,
    ) -> None:
        """`evidence` of the same packets where accept() is to be worked out, with what is proved already."""
        self.stack = stack
        self.now = 0
        self.split_at: int | None = None
        """Where `run` stopped because the packets from there on are needed one by one."""
        self.watched: int | None = None
        """Frame whose checks are to be kept in `checks`."""
        self.checks: list[Check] = []
        self._packets = 0
        self.last_ns = 0
        """Time of the last packet of the capture; what would come after it is not missing."""
        self._route = route
        self._journal = journal
        self._events = events
        self._expected = events.expected
        self._ahead = Lookahead()
        self._firing = Firing(stack, route, journal, self._expected, self._ahead)
        self._ordinary = Ordinary(stack, events, journal, self._firing)
        stack.member = self._member
        stack.heir = self._heir
        self.acceptance = (
            Acceptance(stack, route, journal, evidence, floors) if evidence is not None else None
        )
        self._ordinary.acceptance = self.acceptance
        if self.acceptance is not None:
            events.before_close = self._accepted_before
            self._firing.goes_on = self.acceptance.goes_on
        self._lost = evidence.lost if evidence is not None else frozenset[int]()
        """SYNs whose answer the capture does not show."""
        stack.witness = self._ahead.answer
        stack.synack_of = self._ahead.synack

    # ---- the pass ----

    def run(self, segments: list[Segment], upto: int) -> Iterator[Row]:  # noqa: C901, PLR0912, PLR0915 - one flat loop
        """Replay segments[:upto]; the rest may be looked ahead into.

        The loop is flat because most packets of a big capture belong to ordinary handshakes and
        established connections.
        """
        ahead, journal = self._ahead, self._journal
        ahead.begin(segments, upto)
        rows, ehash, expected = journal.rows, self.stack.ehash, self._expected.waiting
        route, exact = self._route, self._route.exact
        everything, unproved = journal.everything, journal.unproved
        ordinary, acceptance = self._ordinary, self.acceptance
        timers, events, firing, predicted = self.stack.timers, self._events, self._firing, self._expected
        whole = not everything and self.stack.profile.full_queue_admits_young < 0
        quick = whole and not journal.routine and acceptance is None
        self.split_at = None
        stop = 0
        last = self.now
        for index, segment in enumerate(islice(segments, upto)):
            now = segment.time_ns
            if now < last:  # the clock never runs backward in the model
                now = last
                segment = segment._replace(time_ns=now)  # noqa: PLW2901
            if now >= stop or now >= ordinary.next_ns:
                ahead.at = index
                stop = self._catch_up(now, segment.frame, stop)
                if stop < 0:
                    self.split_at = index
                    break
            last = now
            src, dst, flags = segment.src, segment.dst, segment.flags
            track = exact.get(dst)
            if track is None and route.wild:
                track = route.find(dst)
            if flags > FLAG_BITS:
                if flags & DAMAGED:
                    self.now, ahead.at = now, index
                    self._damaged(segment)
                elif track is not None and not (whole and ordinary.handshake(track, segment)):  # type: ignore[arg-type]
                    self.split_at = index
                    break
                if rows and not index & _RELEASE_MASK:
                    yield from journal.release(now)
                continue
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
                done, outcome = ordinary.segment(track, segment, key, entry) if quick else (False, None)
                if outcome is not None:
                    born = entry.born if type(entry) is Request else None
                    self._account(track, segment, key, born, outcome)
                elif not done:
                    self._inbound(track, segment, key, entry)
            else:
                track = exact.get(src)
                if track is None and (not route.wild or (track := route.find(src)) is None):
                    continue
                key = dst + src
                entry = ehash.get(key)
                if (
                    type(entry) is Child
                    and key not in expected
                    and not (flags & _SYN_RST or entry.fastopen or everything)
                ):
                    child_sent(self.stack, entry, segment)
                    if acceptance is not None and not entry.accepted and (segment.length or flags & FIN):
                        acceptance.served(entry, track)
                    if unproved:
                        journal.proved(key, segment)
                    continue
                if type(entry) is Request and entry.unanswered and flags & SYN:
                    entry.unanswered = False
                    entry.synack_seen(segment)
                    self._packets += 1
                    continue
                self.now, ahead.at = now, index
                self._outbound(track, segment, key, entry)
            if (
                timers.next_due < stop
                or events.next_ns < stop
                or firing.edge_ns < stop
                or predicted.loss_ns < stop
                or ordinary.loss_ns < stop
            ):
                stop = self._next_other()
            if rows and not index & _RELEASE_MASK:
                yield from journal.release(now)
        self.now = max(self.now, last)
        ahead.end(upto if self.split_at is None else self.split_at)

    def finish(self) -> Iterator[Row]:
        """The rows still held; nothing after the last packet is predicted."""
        self.last_ns = max(self.last_ns, self._ordinary.last_ns)
        while not self.advance(self.last_ns, sys.maxsize):
            left = self.single([])
            yield from self.run(left, len(left))
        self._give_up(self.last_ns)
        yield from self._journal.rows
        self._journal.rows.clear()

    @property
    def handshake_packets(self) -> int:
        """Packets so far that concern a connection not yet accepted into the accept queue."""
        return self._packets + self._ordinary.packets

    def single(self, segments: list[Segment]) -> list[Segment]:
        """`segments` with every whole handshake as its packets, after `run` stopped before them."""
        singles = self._ordinary.packets_left
        self._ordinary.packets_left = []
        for item in segments:
            if item.flags & HANDSHAKE:
                packets = item.segments()  # type: ignore[attr-defined]
                if self.acceptance is not None:
                    self.acceptance.whole(packets)
                singles += packets
            else:
                singles.append(item)
        singles.sort(key=itemgetter(0))
        return singles

    def _is_reply(self, segment: Segment) -> bool:
        """Both ends listen: whether this packet goes from the server's side to the client's."""
        if segment.flags & SYN:
            return bool(segment.flags & ACK)
        return segment.dst + segment.src in self.stack.ehash

    def _catch_up(self, now: int, frame: int, stop: int) -> int:
        """advance(), shorter while nothing but ordinary handshakes goes on before `stop`.

        When the next other thing happens; -1 when advance() is False.
        """
        ordinary, events = self._ordinary, self._events
        if now < stop:
            if not ordinary.complete_until(now, frame):
                return -1
            if ordinary.next_ns > now and events.next_ns > now:
                return min(stop, events.next_ns)  # a handshake changes nothing else
        return self._next_other() if self.advance(now, frame) else -1

    def advance(self, now: int, frame: int) -> bool:
        """Everything that happens before the packet `frame` at `now`: timers up to it, events before it.

        False when a handshake on the way turns out not to be ordinary: see `single`.
        """
        timers, events, firing, ordinary = self.stack.timers, self._events, self._firing, self._ordinary
        while (first := self._next_other()) <= now or ordinary.due(now, frame):
            if ordinary.next_ns <= first and ordinary.due(now, frame):
                first = ordinary.next_ns
                self.now = max(self.now, first)
                if not ordinary.complete():
                    return False
            elif first == timers.next_due:
                firing.run_due(first)
            elif first == firing.edge_ns:
                firing.close_window()
            elif first in (self._expected.loss_ns, ordinary.loss_ns):
                self._give_up(first)
            elif first < now:
                events.pop()
            else:  # an event and a packet at the same time: the packet goes first
                break
        return True

    def _next_other(self) -> int:
        """When the next thing happens that is no packet and no ordinary handshake."""
        return min(
            self.stack.timers.next_due,
            self._events.next_ns,
            self._firing.edge_ns,
            self._expected.loss_ns,
            self._ordinary.loss_ns,
        )

    def _member(self, segment: Segment, members: list[ListenSocket]) -> ListenSocket:
        """The stack asks which socket of a group gets a segment."""
        track = self._route.find(segment.dst)
        socket = track.group.last.socket if track is not None and track.group is not None else None
        return socket if socket is not None and socket in members else members[0]

    def _accepted_before(self, listener: ListenSocket, when: int) -> None:
        """close() comes: what it does not reset was accepted before, and so was what came before that."""
        spared = {child.key for child in listener.accept_queue if not self._ahead.reset(child.key, when)}
        if spared and self.acceptance is not None:
            self.acceptance.closing(listener, spared)

    def _heir(self, pending: Request | Child, members: list[ListenSocket]) -> ListenSocket:
        """The stack asks which of them gets what a closed socket of a group had."""
        group = self._route.of(pending.key).group
        return members[0] if group is None else group.heir(pending, members, self.now)

    # ---- inbound ----

    def _inbound(self, track: Track, segment: Segment, key: bytes, entry: object) -> None:
        member = track if track.group is None else track.group.route(segment, key, entry, self._ahead)
        socket = member.socket
        self._firing.unclear = False
        if socket is not None and self._firing.unsettled(socket):
            self._firing.settle(socket, segment, entry)
        born = entry.born if type(entry) is Request else None
        if (
            entry is None
            and segment.flags & _CONTROL == SYN
            and self.acceptance is not None
            and track.group is None
            and socket is not None
            and socket.listening
            and segment.frame != self.watched
        ):
            self._account(track, segment, key, None, self.acceptance.syn(socket, segment, key))
            return
        receive = self.stack.receive if self.acceptance is None else self.acceptance.receive
        if segment.frame != self.watched:
            self._account(track, segment, key, born, receive(segment))
            return
        checks = path(self.stack, segment)
        outcome = receive(segment)
        self.checks = settle(checks, outcome)
        self._account(track, segment, key, born, outcome)

    def _damaged(self, segment: Segment) -> None:
        """A packet with a wrong checksum: the kernel looks for no socket, and nothing changes."""
        segment = undamaged(segment)
        key = segment.src + segment.dst
        track = self._route.find(segment.dst)
        if track is None or (type(self.stack.ehash.get(key)) is Child and not self._journal.everything):
            return
        self._packets += 1
        track.hits[out.WRONG_CHECKSUM] = track.hits.get(out.WRONG_CHECKSUM, 0) + 1
        if segment.frame == self.watched:
            self.checks = wrong_checksum()
        if self._journal.wants(out.WRONG_CHECKSUM.decision):
            queues = track.member(key).queues()
            row = self._journal.packet(key, track, segment, out.WRONG_CHECKSUM, queues)
            if row is not None and not self._journal.blind:
                row.certainty = "certain"

    def _account(
        self, track: Track, segment: Segment, key: bytes, born: int | None, outcome: Outcome
    ) -> None:
        """Count the decision, write its row, expect the reply."""
        member = track if track.group is None else track.group.last
        socket = member.socket
        journal = self._journal
        if outcome.decision != "passed":
            self._packets += 1
        hits = track.hits
        hits[outcome] = hits.get(outcome, 0) + 1
        if socket is None:
            accept = syn_low = syn_high = 0
        else:
            accept = len(socket.accept_queue)
            syn_high = syn_low = socket.syn_length
            if syn_high:
                syn_low -= socket.expiring + self._firing.about_to_expire(socket, self.now)
            if member.former:
                left = member.left_behind()
                syn_low += left
                syn_high += left
            if self.now >= track.edge_ns or accept > track.top_accept or syn_high > track.top_syn:
                track.sample(self.now, accept, syn_low, syn_high)
        unclear = self._firing.unclear or self._in_doubt(track, segment, key, outcome)
        row = None
        if journal.wants(outcome.decision) and not (
            self.now < journal.thin_until
            and hits[outcome] > _SAMPLES
            and not (unclear or (self.acceptance is not None and self.acceptance.open))
            and segment.frame not in journal.differing
            and journal.only_counted(track, outcome, self.now)
        ):
            row = journal.packet(key, track, segment, outcome, (accept, syn_low, syn_high))
            if row is not None and track.group is not None:
                track.group.qualify(row, key)
            if unclear:
                journal.left_open(segment, row, ("queued" if outcome.decision == "cookie" else "cookie",))
            if self.acceptance is not None and self.acceptance.open:
                journal.left_open(segment, row, self.acceptance.rivals)
        if row is None and track.group is not None:
            track.group.lengths(key, outcome, (accept, accept), (syn_low, syn_high))
        if outcome.reply is not None and segment.frame not in self._lost:
            expectation = Expectation(key, track, outcome.reply, self.now)
            expectation.cause = segment.frame
            expectation.outcome = outcome
            expectation.row = row
            self._expected.add(expectation)
        if outcome is not out.QUEUED or track.attempts:
            track.account(key, segment, outcome.decision, born)
        if accept:
            self._events.after_packet(member, self.now)

    def _in_doubt(self, track: Track, segment: Segment, key: bytes, outcome: Outcome) -> bool:
        """Whether what the capture has lost leaves open if a SYN got a request or a cookie."""
        if self.acceptance is None or track.socket is None:
            return False
        if segment.frame in self._lost:
            track.doubt.grow()
        return track.doubt.about(outcome, key, track.socket)

    # ---- outbound ----

    def _outbound(self, track: Track, segment: Segment, key: bytes, entry: object) -> None:
        flags = segment.flags
        if type(entry) is not Child or flags & _SYN_RST:
            self._packets += 1
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
                if self.acceptance is not None and not entry.accepted and (segment.length or flags & FIN):
                    self.acceptance.served(entry, track)
                self._journal.proved(key, segment)
            if kind == "rst":
                asked = self._ahead.asked(segment)
                cause = None if asked is None else asked.frame
                self._journal.sent(track, segment, "rst", "application" if asked is None else "reply", cause)
            elif self._journal.everything and type(entry) is Child:
                self._journal.sent(track, segment, "passed", "application")
        if kind == "synack" and self.acceptance is not None:
            when = self.acceptance.completes_unseen_ns(segment)
            if when is not None:
                self._events.at(when, partial(self._completed_unseen, track, segment, key))

    def _completed_unseen(self, track: Track, synack: Segment, key: bytes, when: int) -> None:
        """The ACK comes that the capture lost after a SYN-ACK."""
        assert self.acceptance is not None
        socket = track.member(key).socket
        if socket is not None and self.acceptance.completed_unseen(socket, synack, key, when):
            track.connected(key, when)
            track.doubt.grow()

    def _matched(self, track: Track, expectation: Expectation, segment: Segment, entry: object) -> None:
        """The wire shows what was predicted."""
        if expectation.row is not None:
            prove(expectation.row, segment, self._journal.witness)
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
            journal.proved(expectation.key, segment)
            counters = {"TCPSynRetrans": 1} if self.stack.profile.counts_syn_retrans else {}
            journal.sent(track, segment, "synack", "timer", attempt=attempt, counters=counters)
            return
        reason = "reply"
        if outcome.decision == "cookie" and (socket := track.member(expectation.key).socket) is not None:
            socket.cookies.seen(expectation.key, segment.seq)
            reason = "cookie"
        if journal.routine and journal.wants(outcome.decision):
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
        if self._asked_unseen(track, segment, key):
            return
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
        elif type(entry) is Child and self.acceptance is not None and self.acceptance.crossed(segment):
            self._journal.sent(track, segment, "synack", "timer")
            return
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
            socket = track.member(key).socket
            if not self._firing.revive(key, segment) and socket is not None and socket.listening:
                socket.adopt(key, segment)
        self._journal.mismatch(track, key, segment.time_ns, what, detail, segment.frame)
        self._journal.sent(track, segment, "synack", "timer", expected=False)

    def _unexpected_on_request(
        self, track: Track, segment: Segment, key: bytes, entry: Request, kind: Reply | None
    ) -> None:
        if kind == "rst":
            detail = "RST seen, the model still has the request in its SYN queue"
            entry.listener.remove(entry)
            track.ended(key, segment.time_ns, by_client=False)
        elif kind == "ack" and segment.ack == (entry.rcv_isn + 1) & 0xFFFFFFFF:
            detail = "ACK seen, the model has nothing of the client's to answer: lost by the capture?"
        else:
            detail = "the server talks on a connection whose handshake is not complete in the model"
            entry.listener.promote(entry, segment._replace(src=segment.dst, dst=segment.src))
            track.connected(key, segment.time_ns)
            child = self.stack.ehash[key]
            assert type(child) is Child
            child_sent(self.stack, child, segment)
        self._journal.mismatch(track, key, segment.time_ns, "unexpected_packet", detail, segment.frame)
        self._journal.proved(key, segment)
        self._journal.sent(track, segment, kind or "passed", "unexplained", expected=False)

    def _asked_unseen(self, track: Track, synack: Segment, key: bytes) -> bool:
        """Whether a SYN-ACK answers a SYN that the capture lost, and that the model takes."""
        socket = track.member(key).socket
        if socket is None or not socket.listening or self.acceptance is None:
            return False
        if not self.acceptance.unasked(socket, synack, key):
            return False
        track.doubt.grow()
        self._journal.sent(track, synack, "synack", "reply", attempt=0)
        return True

    # ---- what did not come ----

    def _give_up(self, now: int) -> None:
        """Predicted packets that the capture has not shown in time."""
        for expectation in self._expected.overdue(now):
            self._missing(expectation)
        for request in self._ordinary.overdue(now):
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
        entry = self.stack.ehash.get(key)
        if (
            type(entry) is Request
            and expectation.reply == "synack"
            and entry.num_retrans == expectation.attempt
        ):
            if self.acceptance is not None and self.acceptance.goes_on(entry):
                detail += ", but the request is there still: lost by the capture?"
                self._firing.unseen(entry, expectation)
            else:
                entry.listener.remove(entry)  # the kernel seems not to have it
        self._journal.mismatch(track, key, expectation.time_ns, what, detail, cause)


def _pending(entry: object) -> Request | None:
    """The request whose SYN-ACK may be repeated: a half-open connection's, or a Fast Open child's."""
    if type(entry) is Child:
        return entry.fastopen
    return entry if type(entry) is Request else None
