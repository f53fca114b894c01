"""The short way for ordinary handshakes: most of what a big capture holds.

Does to the model what the long way would do (the guards are the listener's own), but predicts no
packets: those of an ordinary handshake are there. Whatever turns out not to be ordinary is handed
back, packet by packet.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from backlogtrace.kernel import outcomes as out
from backlogtrace.kernel.connection import Child, closed
from backlogtrace.kernel.listener import ListenSocket
from backlogtrace.kernel.request import Request, check_req
from backlogtrace.kernel.timers import NEVER
from backlogtrace.replay.expect import LATE_NS
from backlogtrace.replay.journal import prove
from backlogtrace.segment import ACK, FIN, RST, SYN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.kernel.stack import Stack
    from backlogtrace.replay.acceptance import Acceptance
    from backlogtrace.replay.events import EventQueue
    from backlogtrace.replay.firing import Firing
    from backlogtrace.replay.journal import Journal
    from backlogtrace.replay.track import Track
    from backlogtrace.segment import Handshake, Segment

_CONTROL = SYN | RST | ACK | FIN


class _Shown(NamedTuple):
    """What has rows of a handshake whose SYN `socket` took."""

    socket: ListenSocket
    syn: Segment
    synack: Segment
    ack: Segment
    proof: Segment | None
    """The server's first packet after them, where it is in the item."""


class Ordinary:
    """Handshakes that go the ordinary way."""

    def __init__(self, stack: Stack, events: EventQueue, journal: Journal, firing: Firing) -> None:
        self._stack = stack
        self._events = events
        self._journal = journal
        self._firing = firing
        self.acceptance: Acceptance | None = None
        """Set where accept() is worked out."""
        self.packets = 0
        """Packets of handshakes seen."""
        self._unanswered: deque[Request] = deque()
        """Requests whose SYN-ACK is still to be seen, in order of their SYN."""
        self.loss_ns = NEVER
        """None of them is overdue before this time."""
        self._open: list[tuple[int, int, Track, Handshake, ListenSocket | Child | _Shown]] = []
        """Whole handshakes: with the socket that took the SYN by the time of their ACK (where they have
        rows, of their SYN-ACK first), with the child that it became by the time of what comes next. The
        frame next to the time is that of the packet, or an earlier one."""
        self.next_ns = NEVER
        """When the first of them goes on."""
        self.last_ns = 0
        """Time of the last packet in a whole handshake."""
        self.packets_left: list[Segment] = []
        """Packets of a handshake that could not be completed in the ordinary way."""

    def segment(
        self, track: Track, segment: Segment, key: bytes, entry: object
    ) -> tuple[bool, Outcome | None]:
        """A SYN that is queued or an ACK that completes a request.

        (False, None) leaves the packet alone; (True, None) is done with it; (True, outcome) has let
        the model decide, and the decision was not the ordinary one.
        """
        socket = track.socket
        if socket is None or socket.expiring or track.attempts or not socket.listening or track.group:
            return False, None
        if track.left_behind():
            return False, None
        control = segment.flags & _CONTROL
        if entry is None and control == SYN:
            outcome = socket.conn_request(segment, key)
            if outcome is not out.QUEUED:
                return True, outcome
        elif type(entry) is Request and control == ACK and entry.listener is socket:
            outcome = check_req(entry, segment)
            if outcome is not out.ESTABLISHED:
                return True, outcome
        else:
            return False, None
        self.packets += 1
        track.count(outcome, segment.time_ns, len(socket.accept_queue))
        if outcome is out.ESTABLISHED:
            self._events.after_packet(track, segment.time_ns)
            return True, None
        request = self._stack.ehash[key]
        assert type(request) is Request
        request.unanswered = True
        if not self._unanswered:
            self.loss_ns = request.born + LATE_NS
        self._unanswered.append(request)
        return True, None

    def overdue(self, now: int) -> Iterator[Request]:
        """Requests whose SYN-ACK should have been seen by `now`; they are not waited for any longer."""
        waiting = self._unanswered
        while waiting and (not waiting[0].unanswered or waiting[0].born + LATE_NS <= now):
            request = waiting.popleft()
            if request.unanswered:
                request.unanswered = False
                yield request
        self.loss_ns = waiting[0].born + LATE_NS if waiting else NEVER

    def handshake(self, track: Track, item: Handshake) -> bool:
        """Take the SYN of a whole handshake; False when its packets must go one by one."""
        socket = track.socket
        shown = self._journal.routine
        if (
            socket is None
            or not socket.listening
            or socket.expiring
            or track.attempts
            or track.group is not None
            or track.left_behind()
            or socket.defer_accept
            or ((shown or self.acceptance is None) and socket.accept_queue_full())
            or socket.settings.tcp_syncookies == 2  # noqa: PLR2004 - always
            or socket.syn_queue_refuses(socket.qlen)
            or item.src + item.dst in self._stack.ehash
        ):
            return False
        socket.qlen += 1
        socket.young += 1
        self.packets += 2  # and its SYN-ACK
        track.count(out.QUEUED, item.time_ns, len(socket.accept_queue))
        if shown:
            self._show_syn(track, item, socket)
        else:
            heapq.heappush(self._open, (item.ack_ns, item.frame, track, item, socket))
        self.next_ns = self._open[0][0]
        self.last_ns = max(self.last_ns, item.last_ns)
        return True

    def due(self, now: int, frame: int) -> bool:
        """Whether an open handshake goes on before the packet `frame`, which comes at `now`."""
        return self.next_ns < now or (self.next_ns == now and self._open[0][1] < frame)

    def complete_until(self, now: int, frame: int) -> bool:
        """Go on with what is `due`, until the application has something to do.

        False when a handshake is not ordinary, see `complete`.
        """
        while self.due(now, frame) and self._events.next_ns > now:
            if not self.complete():
                return False
        return True

    def complete(self) -> bool:
        """The ACK of the first open handshake arrives, or both sides close; False when that is not ordinary.

        Then `packets_left` holds what follows; a request whose ACK does not complete it is made.
        """
        now, frame, track, item, socket = heapq.heappop(self._open)
        self.next_ns = self._open[0][0] if self._open else NEVER
        if type(socket) is Child:
            return self._use(track, item, socket, now)
        shown = None
        if type(socket) is _Shown:
            shown, socket = socket, socket.socket
            if frame == shown.synack.frame:
                self._show_synack(track, item, shown)
                return True
        assert isinstance(socket, ListenSocket)
        key = item.src + item.dst
        full = socket.accept_queue_full()
        if full and self.acceptance is not None and shown is None:
            self.acceptance.make_room(socket)  # the wire shows that this one was let in
            full = socket.accept_queue_full()
        if full or socket is not track.socket or not socket.listening:
            syn, synack, *self.packets_left = item.segments()
            socket.resume(key, syn, synack)
            return False
        socket.qlen -= 1
        socket.young -= 1
        self.packets += 1
        queued = len(socket.accept_queue) + 1
        track.count(out.ESTABLISHED, now, queued)
        if self.acceptance is not None:
            self.acceptance.entered(track, now)
        if shown is not None:
            self._show_ack(track, key, shown, queued)
        if queued == 1 and self._events.immediate:
            # accepted at once: nobody asks about it before the next packet that is not in the item
            track.summary.accepted += 1
            child = self._stack.ehash[key] = Child(key, socket, item.tsval, item.rcv_nxt)
            child.accepted = True
            if item.closed:
                closed(self._stack, child, item, now)
            return True
        child = socket.add_child(key, now, item.tsval, item.rcv_nxt)
        self._events.after_packet(track, now)
        if self.acceptance is not None and item.served_ns >= 0:
            self._later(item.served_ns, track, item, child)
        elif item.closed:
            self._later(item.fin_ns, track, item, child)
        return True

    # ---- rows, where they are wanted ----

    def _show_syn(self, track: Track, item: Handshake, socket: ListenSocket) -> None:
        journal = self._journal
        packets = item.opening() if journal.witness is None else journal.witness.opening(item)
        syn, synack, ack = packets[:3]
        row = journal.packet(syn.src + syn.dst, track, syn, out.QUEUED, self._queues(track, syn.time_ns))
        if row is not None:
            prove(row, synack, journal.witness)
        shown = _Shown(socket, syn, synack, ack, packets[3] if len(packets) > 3 else None)  # noqa: PLR2004
        heapq.heappush(self._open, (synack.time_ns, synack.frame, track, item, shown))

    def _show_synack(self, track: Track, item: Handshake, shown: _Shown) -> None:
        self._journal.sent(track, shown.synack, "synack", "reply", shown.syn.frame, attempt=0)
        heapq.heappush(self._open, (item.ack_ns, shown.ack.frame, track, item, shown))
        self.next_ns = self._open[0][0]

    def _show_ack(self, track: Track, key: bytes, shown: _Shown, queued: int) -> None:
        _, syn_low, syn_high = self._queues(track, shown.ack.time_ns)
        self._journal.packet(key, track, shown.ack, out.ESTABLISHED, (queued, syn_low, syn_high))
        if shown.proof is not None:
            self._journal.proved(key, shown.proof)

    def _queues(self, track: Track, now: int) -> tuple[int, int, int]:
        """Accept queue, lowest and highest SYN queue."""
        accept, syn_low, syn_high = track.queues()
        if syn_high and track.socket is not None:
            syn_low -= self._firing.about_to_expire(track.socket, now)
        return accept, syn_low, syn_high

    def _later(self, when: int, track: Track, item: Handshake, child: Child) -> None:
        """Ask again for a completed handshake."""
        heapq.heappush(self._open, (when, item.frame, track, item, child))
        self.next_ns = self._open[0][0]

    def _use(self, track: Track, item: Handshake, child: Child, now: int) -> bool:
        """The server uses the connection, or both sides close; False when it is not there any more."""
        if child.dead:
            self.packets_left = item.segments()[-2:] if item.closed else []
            return not item.closed
        if self.acceptance is not None and not child.accepted:
            self.acceptance.served(child, track)
        if not item.closed:
            return True
        if child.accepted or now >= item.fin_ns:  # nobody asks about an accepted one before it is closed
            closed(self._stack, child, item, now)
        else:
            self._later(item.fin_ns, track, item, child)
        return True
