"""accept() worked out from the capture: where nobody logged it, the wire tells when there was room.

The application is taken to call accept() as late as the evidence allows: when the wire shows that
the kernel found room in a queue that the model has full, or that the server's application uses a
connection (accept() takes them in order). The queue is then as long as it can have been. Where a
packet's fate hangs on it and nothing on the wire tells, that is said. What the wire shows against
the model is followed and counted.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from backlogtrace.kernel import outcomes as out
from backlogtrace.kernel.connection import Child, TimeWait, die
from backlogtrace.kernel.request import Request
from backlogtrace.replay.bits import (
    ACK_REPLY,
    ACKED_AGAIN,
    CLOCK_SIGN,
    COOKIE_SIGN,
    CROSSED,
    FASTOPEN_SIGN,
    FOREIGN,
    GOES_ON,
    GONE,
    IGNORED,
    NOT_RESET,
    REPEATED,
    REPLY,
    REQUEST_SIGN,
    RST_REPLY,
    SYNACK_REPLY,
    UNSEEN_SYN,
    USED,
    WAITED,
)
from backlogtrace.segment import ACK, RST, SYN, asked_by, end_seq

if TYPE_CHECKING:
    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.kernel.stack import Stack
    from backlogtrace.replay.evidence import Evidence
    from backlogtrace.replay.journal import Journal
    from backlogtrace.replay.route import Route
    from backlogtrace.replay.track import Track
    from backlogtrace.segment import Segment

_ENTERS = frozenset({"established", "fastopen"})
_CONNECTED = frozenset({"established", "passed"})
_NO_CONNECTION = frozenset({"aborted", "ignored"})
_UNKNOWN = frozenset(
    {out.RST_NO_REQUEST, out.RST_NO_REQUEST_FAILED, out.RST_COOKIE_INVALID, out.RST_COOKIE_EXPIRED}
)
"""The server knows neither a request nor a cookie that fits."""
_SILENCE_NS = 50_000_000
"""A reply to a SYN that came this short before the end of the capture may be missing."""
_LAST_WORD_NS = 1_300_000_000
"""Likewise for the repetition of a SYN-ACK."""
_LATELY_NS = 1_000_000_000
_AT_ONCE_NS = 10_000_000
_SAFE_REPEATS = 2
_BY_CHANCE = 3
"""Four ticks of 64: how weakly the clock of a SYN-ACK speaks against a cookie, in missing SYN-ACKs."""
_NO_RESET = 2
"""How weakly it speaks against a connection in the queue that close() did not reset it, and against one that
was accepted that it did, likewise."""
_CLEARLY = 3  # one explanation is this much likelier than the other


class Floor:
    """What later packets prove of the accept queue of one listener: how long it was at least."""

    __slots__ = ("_born", "_full", "_length", "_place")

    def __init__(self) -> None:
        self._born = array("q")
        """When connections entered it (ns)."""
        self._full = array("q")
        """When it was seen full (ns), and how many connections that is."""
        self._length = array("q")
        self._place = 0
        """In `_full`, of the time asked for last: it is mostly the next one that is asked for next."""

    def entered(self, now_ns: int) -> None:
        """A connection entered the queue."""
        self._born.append(now_ns)

    def seen_full(self, now_ns: int, length: int) -> None:
        """The wire shows that the queue was full, with `length` connections."""
        self._full.append(now_ns)
        self._length.append(length)

    @property
    def highest(self) -> int:
        """Connections that it had for certain at some time."""
        return max(self._length, default=0)

    def lowest(self, now_ns: int) -> int:
        """Connections that it had at least after the packet at `now_ns`: accept() only takes away."""
        full, place = self._full, self._place
        if not full or full[-1] < now_ns:
            return 0
        if place and full[place - 1] >= now_ns:
            place = bisect_left(full, now_ns, 0, place)
        while full[place] < now_ns:
            place += 1
        self._place = place
        if full[place] == now_ns:
            return self._length[place]
        entered = bisect_right(self._born, self._full[place]) - bisect_right(self._born, now_ns)
        return max(0, self._length[place] - entered)


class Acceptance:
    """Stands between replay and model while accept() is inferred."""

    def __init__(
        self,
        stack: Stack,
        route: Route,
        journal: Journal,
        evidence: Evidence,
        floors: dict[str, Floor] | None = None,
    ) -> None:
        """`floors`: what an earlier replay of the same packets proved, by listener."""
        self._stack = stack
        self._route = route
        self._journal = journal
        self._evidence = evidence
        self.accepts = 0
        """accept() calls assumed so far."""
        self.weak = 0
        """Those among them that only a missing SYN-ACK speaks for, and chances as slim."""
        self.relieved: list[int] = []
        """When a full queue had room again (ns), the first time after each refusal: it may have been made
        longer then, instead."""
        self.open = False
        """Whether the fate of the last packet is not told by the wire."""
        self.rivals: tuple[str, ...] = ()
        """What else explains what became of it."""
        self.floors: dict[str, Floor] = {}
        """What this replay proves, by listener."""
        self._known_floors = floors or {}
        self._waits: set[bytes] = set()
        """Connections that seem never to have been accepted, as far as they came by now."""
        self.completing: frozenset[int] = frozenset()
        """ACKs (frames) whose SYN is not among the packets replayed."""
        self._unknown: set[bytes] = set()
        """Connections from before the capture that the server says nothing on, as far as they came by now."""
        self._answers_unseen: set[int] = set()
        """ACKs (frames) that may answer a SYN-ACK that the capture lost, and complete the handshake."""
        self._perhaps_connected: set[bytes] = set()
        """Connections of which it was left open whether an ACK completed the handshake."""
        stack.room = self._full
        journal.lowest = self.lowest
        journal.taken_at_once = self.taken_at_once

    def whole(self, handshake: list[Segment]) -> None:
        """A handshake that came as one item is replayed packet by packet: each did what it had to."""
        self._evidence.whole(handshake)

    def lowest(self, track: Track, now_ns: int, most: int) -> int:
        """The least that the accept queue of a listener can hold at a time when it holds `most` at most."""
        if not most:
            return 0
        known, proved = self._known_floors.get(track.name), self.floors.get(track.name)
        least = 0 if known is None else known.lowest(now_ns)
        return min(most, least if proved is None else max(least, proved.lowest(now_ns)))

    def taken_at_once(self, segment: Segment) -> bool:
        """Whether a connection in use was completed by this packet, and not by a later one of the client.

        Where queues were full at times it may have met one: if something else was refused shortly before
        the later packet, or if accept() had time to come in between.
        """
        taken = self._evidence.taken_by(segment.frame)
        if taken is None or not self._evidence.troubled(segment.dst):
            return True
        since = self._evidence.last_refusal(segment.dst, taken)
        return taken - segment.time_ns < _AT_ONCE_NS and (since is None or taken - since > _LATELY_NS)

    def peak(self, track: Track) -> tuple[int, int]:
        """The longest the accept queue of a listener was: proved, and possible."""
        proved = self.floors[track.name].highest if track.name in self.floors else 0
        return proved, max(proved, track.summary.peak_accept_queue[1])

    def entered(self, track: Track, now_ns: int) -> None:
        """A connection entered the accept queue of a listener."""
        self._floor_of(track.name).entered(now_ns)

    def _floor(self, end: bytes) -> Floor:
        track = self._route.find(end)
        assert track is not None
        return self._floor_of(track.name)

    def _floor_of(self, name: str) -> Floor:
        found = self.floors.get(name)
        if found is None:
            found = self.floors[name] = Floor()
        return found

    # ---- accept() ----

    def served(self, child: Child, track: Track) -> None:
        """The server's application uses a connection: it and all before it were accepted."""
        listener = child.listener
        while not child.accepted and self._accept(listener, track):
            pass
        child.accepted = True

    def closing(self, listener: ListenSocket, spared: set[bytes]) -> None:
        """close() comes, which does not reset the connections `spared`: those at the head were accepted.

        Behind one that was never accepted the capture has lost the RST.
        """
        queue = list(listener.accept_queue)
        waiting = next((place for place, child in enumerate(queue) if child.key in self._waits), len(queue))
        accepted = [child for child in queue[:waiting] if child.key in spared]
        if accepted:
            self.served(accepted[-1], self._route.of(accepted[-1].key))
        for child in queue[waiting:]:
            if child.key in spared:
                listener.accept_queue.remove(child)

    def make_room(self, listener: ListenSocket) -> None:
        """The kernel found room: some connections were accepted before."""
        while listener.accept_queue_full() and self._accept(listener):
            pass

    def _accept(self, listener: ListenSocket, track: Track | None = None) -> bool:
        child = listener.accept()
        if child is None:
            return False
        self.accepts += 1
        if child.key in self._waits:
            self.weak += _NO_RESET
        (track or self._route.of(child.key)).summary.accepted += 1
        return True

    def _full(self, listener: ListenSocket, segment: Segment) -> bool:
        """sk_acceptq_is_full() when `segment` comes, as the wire has it."""
        full = listener.accept_queue_full()
        bits = self._evidence.of(segment.frame)
        if segment.flags & (SYN | ACK) == SYN:
            grace = 0 <= listener.young <= listener.profile.full_queue_admits_young
            # with few young requests only Fast Open asks, and a SYN-ACK alone does not answer it
            room: bool | None = bool(bits & (FASTOPEN_SIGN if grace else SYNACK_REPLY)) or None
            evidence = self._evidence
            if segment.frame in evidence.unsure and evidence.refuses_next(segment.dst, segment.time_ns):
                room = None  # rather the SYN that came again was answered
        else:
            request = self._stack.ehash.get(segment.src + segment.dst)
            room = self._room_for(listener, segment, bits, request, full=full)
        if full and room:
            self._note_relief(segment)
            self.make_room(listener)
        refused = (full and not room) or room is False
        silent = segment.flags & SYN and segment.time_ns < self._evidence.last_ns - _SILENCE_NS
        if refused and (room is False or silent):
            self._floor(segment.dst).seen_full(segment.time_ns, len(listener.accept_queue))
        return refused

    def _note_relief(self, segment: Segment) -> None:
        since = self._evidence.last_refusal(segment.dst, segment.time_ns)
        if since is not None and (not self.relieved or self.relieved[-1] < since):
            self.relieved.append(segment.time_ns)

    def _room_for(
        self, listener: ListenSocket, segment: Segment, bits: int, request: object, *, full: bool
    ) -> bool | None:
        """Whether the wire shows room for a segment that would complete a handshake; None: it is silent."""
        aborts = type(request) is Request and bool(listener.settings.tcp_abort_on_overflow)
        if bits & (REPEATED | IGNORED) or (aborts and bits & RST_REPLY):
            if not full and self._perhaps_full(listener, segment):
                self.weak += 1
            elif not full:
                self._contradiction(
                    segment,
                    "unexpected_packet",
                    "not let in, but the model's accept queue has room",
                )
            return False
        if bits & RST_REPLY:
            return None
        if bits & NOT_RESET and not full:
            self.weak += _NO_RESET
        if aborts:
            if full and not bits & USED:
                self.open, self.rivals = True, ("rst",)
            return True
        again = self._evidence.acked_again(segment.frame) if type(request) is Request else None
        if again is not None:  # maybe because this one was ignored
            self._answers_unseen.add(again.frame)
            self.open, self.rivals = True, ("established" if full else "overflow",)
        if bits & USED:
            if segment.frame in self._evidence.unsure:
                self.open, self.rivals = True, ("overflow",)
            return not (full and self._taken_later(request, segment))
        if bits & ACKED_AGAIN and full and type(request) is Request:
            self.open, self.rivals = True, ("established",)
            return None
        if full and type(request) is Request and not bits & GONE and self._would_repeat(request, segment):
            self.weak += 1 + (_NO_RESET if bits & NOT_RESET else 0)
            # or its request had fewer retries left than the model believes
            self.open, self.rivals = True, ("overflow",)
            return True
        known = self.accepts == 0 or self._evidence.refuses_next(segment.dst, segment.time_ns)
        if full and not known:
            self.open, self.rivals = True, ("established", "lost_after_capture")
        if not full and self._perhaps_full(listener, segment):
            self.open, self.rivals = True, ("overflow",)
        return None

    def _perhaps_full(self, listener: ListenSocket, segment: Segment) -> bool:
        """Whether the accept queue is full with the connections whose ACK the capture may have lost."""
        room = listener.accept_capacity - len(listener.accept_queue)
        return self._evidence.perhaps_in(segment.dst, segment.time_ns) >= room

    def _taken_later(self, request: object, segment: Segment) -> bool:
        """Whether rather a later packet of the client completed the handshake: accept() came in between.

        It came before this packet or after, at some time at which nothing was refused: the longer
        stretch is the likelier.
        """
        taken = self._evidence.taken_by(segment.frame)
        if taken is None or (type(request) is Request and self._would_show(request, segment, taken)):
            return False
        now = segment.time_ns
        since = self._evidence.last_refusal(segment.dst, now)
        if since is None:
            return False
        early = now - since
        late = taken - max(self._evidence.last_refusal(segment.dst, taken) or 0, now)
        self.open = early < _CLEARLY * late and late < _CLEARLY * early
        if self.open:
            self.rivals = ("established" if late > early else "overflow",)
        return late > early

    def _would_show(self, request: Request, segment: Segment, until: int) -> bool:
        """Whether the timer of a request that was still there at `until` would have shown itself by then.

        It sends the SYN-ACK again or removes the request; only TCP_DEFER_ACCEPT keeps it silent.
        """
        return any(self._plan_if_ignored(request)) and max(request.deadline, segment.time_ns) < until

    def _plan_if_ignored(self, request: Request) -> tuple[bool, bool]:
        """(expire, send a SYN-ACK) at the next timer if the packet at hand is ignored."""
        acked, request.acked = request.acked, True
        plan = request.listener.timer_plan(request)
        request.acked = acked
        return plan

    def _would_repeat(self, request: Request, segment: Segment) -> bool:
        """Whether the SYN-ACK would come again within the capture if this packet were ignored."""
        _, send = self._plan_if_ignored(request)
        # under pressure, which may come, only the first two repetitions are safe
        send = send and (request.num_timeout < _SAFE_REPEATS or not request.listener.under_pressure())
        return send and self._evidence.last_ns > max(request.deadline, segment.time_ns) + _LAST_WORD_NS

    # ---- following the wire ----

    def crossed(self, synack: Segment) -> bool:
        """Whether a SYN-ACK that came again may have been sent before the client's last packet came."""
        return bool(self._evidence.of(synack.frame) & CROSSED)

    def unasked(self, listener: ListenSocket, synack: Segment, key: bytes) -> bool:
        """A SYN-ACK without a SYN: the model takes the SYN that the capture lost; False if it did not."""
        if not self._evidence.of(synack.frame) & UNSEEN_SYN:
            return False
        entry = self._stack.ehash.get(key)
        if type(entry) is Request and entry.frame in self._evidence.unsure:
            return False  # the model took an earlier one
        if type(entry) is Request and entry.snt_isn == synack.seq:
            self._stack.receive(asked_by(synack))  # the same one again
            return True
        self._forget(key)
        syn = asked_by(synack)
        outcome = listener.conn_request(syn, key, timewait=type(entry) is TimeWait)
        if outcome.reply != "synack":
            return False
        request = self._stack.ehash.get(key)
        if type(request) is Request:
            request.synack_seen(synack)
        else:
            listener.cookies.seen(key, synack.seq)
        return True

    def completes_unseen_ns(self, synack: Segment) -> int | None:
        """When an ACK that the capture lost completed the handshake of a SYN-ACK; None: none did."""
        return self._evidence.unseen_ack_ns(synack)

    def completed_unseen(self, listener: ListenSocket, synack: Segment, key: bytes, now: int) -> bool:
        """An ACK that the capture lost comes at `now`; whether it puts a connection into the queue."""
        entry = self._stack.ehash.get(key)
        ack = asked_by(synack)._replace(time_ns=now, flags=ACK, seq=synack.ack, ack=end_seq(synack))
        if type(entry) is Child:
            if entry.fastopen is not None:
                self._stack.receive(ack)
            return False
        self.make_room(listener)
        self._floor(synack.src).entered(now)
        if type(entry) is Request:
            entry.listener.promote(entry, ack)
        else:
            listener.add_child(key, now, ack.tsval, ack.seq)
        return True

    def goes_on(self, request: Request) -> bool:
        """Whether a request is there still after the SYN-ACK that is missing now, as the wire shows."""
        return bool(self._evidence.of(request.synack_frame or request.frame) & GOES_ON)

    def receive(self, segment: Segment) -> Outcome:
        """What the host does with an inbound segment: the model's word, unless the wire contradicts."""
        self.open, self.rivals = False, ()
        key = segment.src + segment.dst
        before = self._stack.ehash.get(key)
        request = before.fastopen if type(before) is Child else before
        acked = type(request) is Request and request.acked
        outcome = self._stack.receive(segment)
        bits = self._evidence.of(segment.frame)
        if outcome.decision in _ENTERS:
            self._floor(segment.dst).entered(segment.time_ns)
            if bits & WAITED:
                self._waits.add(key)
        if bits & FOREIGN and outcome.reply == "rst" and not bits & RST_REPLY:
            return self._foreign(segment, key)
        if (
            outcome in _UNKNOWN
            and not bits & RST_REPLY
            and segment.time_ns < self._evidence.last_ns - _SILENCE_NS
        ):
            return self._spared(segment, key, bits)
        if type(before) is Child and bits & SYNACK_REPLY and outcome.reply != "synack":
            outcome = self._succeeded(segment, key, before)
        if segment.flags & (SYN | ACK | RST) == SYN:
            fresh = type(before) not in {Request, Child}
            outcome = self._syn(segment, key, outcome, bits, fresh=fresh)
        if bits & RST_REPLY and outcome.reply != "rst" and (type(before) is not Child or segment.flags & SYN):
            return self._reset(segment, key, outcome)
        if self.open and segment.flags & ACK and not _CONNECTED.isdisjoint({outcome.decision, *self.rivals}):
            self._perhaps_connected.add(key)
        rival = self._rival_of_loss(segment, before, outcome, acked=acked)
        if rival:
            self.open, self.rivals = True, (rival,)
        return outcome

    def _rival_of_loss(self, segment: Segment, before: object, outcome: Outcome, *, acked: bool) -> str:
        """What else became of a packet if the capture has lost the one before it; empty: nothing else.

        `acked`: an ACK of its request had come before.
        """
        if outcome.decision in _ENTERS and self._evidence.ack_missing(segment):
            return "passed"
        if outcome is out.DEFERRED and acked and type(before) is Request and before.due <= segment.time_ns:
            return "established"  # what comes again is acknowledged again: the timer may have fired
        if outcome.decision in _NO_CONNECTION and segment.flags & RST:
            key = segment.src + segment.dst
            connected = segment.frame in self._evidence.connected or key in self._perhaps_connected
            return "passed" if connected else ""
        return self._rival_of_passing(segment, before) if type(before) is Child else ""

    def _rival_of_passing(self, segment: Segment, child: Child) -> str:
        """Likewise of a packet of a connection that is there."""
        if segment.frame in self._answers_unseen:
            return "established"
        begun_unseen = child.key in self._unknown and self._evidence.unanswered(segment.frame)
        return "overflow" if begun_unseen or segment.frame in self._evidence.unsure else ""

    def _reset(self, segment: Segment, key: bytes, outcome: Outcome) -> Outcome:
        """The server answered with a RST what the model would not."""
        self._contradiction(segment, "unexpected_reply", f"RST seen, the model has {outcome.decision}")
        self._forget(key)
        return out.RST_NO_LISTENER if segment.flags & (SYN | ACK) == SYN else out.RST_NO_REQUEST

    def syn(self, listener: ListenSocket, syn: Segment, key: bytes) -> Outcome:
        """receive() of a SYN that belongs to nothing known: most packets of a flood are one."""
        self.open, self.rivals = False, ()
        outcome = listener.conn_request(syn, key)
        bits = self._evidence.of(syn.frame)
        if outcome.decision == "fastopen":
            self._floor(syn.dst).entered(syn.time_ns)
        outcome = self._syn(syn, key, outcome, bits, fresh=True)
        if bits & RST_REPLY and outcome.reply != "rst":
            return self._reset(syn, key, outcome)
        return outcome

    def _succeeded(self, syn: Segment, key: bytes, child: Child) -> Outcome:
        """A SYN-ACK answers a SYN on a connection that the model still has: it was over."""
        self._contradiction(syn, "unexpected_reply", "SYN-ACK seen, the model has a connection there")
        self._forget(key)
        return (self._stack.listener(syn) or child.listener).conn_request(syn, key)

    def _foreign(self, segment: Segment, key: bytes) -> Outcome:
        """A packet of a connection from before the capture, which the server does not reset."""
        listener = self._stack.listener(segment)
        known = bool(self._evidence.of(segment.frame) & (USED | ACK_REPLY))
        if not known:
            self.open, self.rivals = True, ("rst", "lost_after_capture")
        if listener is not None:
            child = Child(key, listener, segment.tsval, end_seq(segment))
            child.accepted = True
            child.doubtful = not known
            child.plain = known
            if not known:
                self._unknown.add(key)
            self._stack.ehash[key] = child
        return out.PASSED

    def _spared(self, segment: Segment, key: bytes, bits: int) -> Outcome:
        """An ACK that the model would reset, but the server did not: it knows the connection."""
        if segment.frame not in self.completing:
            self._contradiction(segment, "missing_reply", "RST predicted, none seen")
        listener = self._stack.listener(segment)
        if listener is None:
            return out.PASSED
        refused = bits & (REPEATED | IGNORED) or (not bits & USED and listener.accept_queue_full())
        self.open, self.rivals = True, ("established" if refused else "overflow",)
        if refused:
            return out.COOKIE_OVERFLOW
        self.make_room(listener)
        listener.add_child(key, segment.time_ns, segment.tsval, end_seq(segment))
        return out.COOKIE_VALID

    def _syn(self, syn: Segment, key: bytes, outcome: Outcome, bits: int, *, fresh: bool) -> Outcome:
        if outcome.reply == "synack" and fresh and not bits & REPLY:
            if syn.time_ns > self._evidence.last_ns - _SILENCE_NS:
                self.open, self.rivals = True, ("dropped",)
                return outcome
            # not for the queues' sake, as far as is known: something else may have taken it
            self.open, self.rivals = True, ("firewall", "lost_after_capture")
            self._contradiction(syn, "missing_reply", "SYN-ACK predicted, none seen: the SYN was dropped")
            self._forget(key)
            return out.UNANSWERED
        if syn.frame in self._evidence.unsure:
            self.open, self.rivals = True, ("queued" if outcome.reply is None else "dropped",)
            if outcome.reply is None:
                return outcome
        if outcome.reply is None and bits & SYNACK_REPLY and outcome.decision == "dropped":
            self._contradiction(
                syn, "unexpected_reply", f"SYN-ACK seen, the model dropped the SYN ({outcome.reason})"
            )
            listener = self._stack.listener(syn)
            if listener is not None:
                listener.enqueue(syn, key)
            return out.QUEUED
        if outcome.decision == "cookie" and bits & REQUEST_SIGN:
            self._wrong_origin(syn, outcome)
            listener = self._stack.listener(syn)
            assert listener is not None
            listener.cookies.take_back(key)
            listener.enqueue(syn, key)
            return out.QUEUED
        if outcome.decision == "queued" and bits & COOKIE_SIGN:
            self._wrong_origin(syn, outcome)
        elif outcome.decision == "cookie" and bits & CLOCK_SIGN:
            self.weak += _BY_CHANCE
        child = bool(bits & FASTOPEN_SIGN)
        if syn.length and bits & SYNACK_REPLY and child != (outcome.decision == "fastopen"):
            taken = "acknowledged" if child else "not acknowledged"
            self._contradiction(
                syn, "wrong_reply", f"{outcome.decision} in the model, but the data of the SYN was {taken}"
            )
        return outcome

    def _forget(self, key: bytes) -> None:
        entry = self._stack.ehash.get(key)
        if type(entry) is Request:
            entry.listener.remove(entry)
        elif type(entry) is Child:
            if entry in entry.listener.accept_queue:
                entry.listener.accept_queue.remove(entry)
            die(self._stack, entry)
        elif entry is not None:
            del self._stack.ehash[key]

    def _wrong_origin(self, syn: Segment, outcome: Outcome) -> None:
        self._contradiction(
            syn, "wrong_reply", f"{outcome.decision} in the model, the SYN-ACK does not look like it"
        )

    def _contradiction(self, segment: Segment, what: str, detail: str) -> None:
        key = segment.src + segment.dst
        self._journal.mismatch(self._route.of(key), key, segment.time_ns, what, detail, segment.frame)
