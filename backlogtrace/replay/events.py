"""What applications and administrators do while the capture runs, in order of time.

Events of the host file, and the accept() model where no accept log is given. Refuses to know
packets.
"""

from __future__ import annotations

import heapq
from functools import partial
from typing import TYPE_CHECKING

from backlogtrace.kernel import outcomes as out
from backlogtrace.kernel.timers import NEVER
from backlogtrace.replay.expect import Expectation, Expectations
from backlogtrace.segment import endpoint_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from backlogtrace.kernel.connection import Child
    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.kernel.stack import Stack
    from backlogtrace.replay.host import AcceptModel, Host, HostEvent
    from backlogtrace.replay.journal import Journal
    from backlogtrace.replay.route import Route
    from backlogtrace.replay.track import Track

    Action = Callable[[int], None]


class EventQueue:
    """Pending events; `next_ns` is when the first is due.

    `tracks` are the listeners of `host.listeners`, in the same order.
    """

    def __init__(
        self,
        stack: Stack,
        route: Route,
        journal: Journal,
        host: Host,
        tracks: list[Track],
        accept: AcceptModel,
    ) -> None:
        self.next_ns = NEVER
        self.expected = Expectations()
        self._stack = stack
        self._route = route
        self._journal = journal
        self._tracks = tracks
        self._listeners = host.listeners
        self._queue: list[tuple[int, int, Action]] = []
        self._serial = 0
        self._gap_ns = round(1e9 / accept.per_second) if accept.kind == "rate" else 0
        self._free_ns: dict[Track, int] = {}
        for index, listener in enumerate(host.listeners):
            if listener.opened_ns is not None:
                self.at(listener.opened_ns, partial(self._open, index, listener.backlog))
        for event in host.events:
            self.at(event.time_ns, partial(self._given, event))
        self.before_close: Callable[[ListenSocket, int], None] | None = None
        """Asked where accept() is worked out: what is reset then was not accepted before."""
        self.immediate = accept.kind == "immediate"
        """The application takes what is there after every packet."""
        if accept.kind == "rate":
            stack.child_born = self._accept_in_turn

    def at(self, when: int, action: Action) -> None:
        """Do something at `when`; a packet of the same time comes first."""
        self._serial += 1
        heapq.heappush(self._queue, (when, self._serial, action))
        self.next_ns = self._queue[0][0]

    def pop(self) -> None:
        """Carry out the first event."""
        when, _, action = heapq.heappop(self._queue)
        self.next_ns = self._queue[0][0] if self._queue else NEVER
        action(when)

    # ---- accept() models ----

    def after_packet(self, track: Track, now: int) -> None:
        """`--accept immediate`: the application takes what the packet completed."""
        if self.immediate:
            self._accept(track, now)

    def _accept_in_turn(self, child: Child, now: int) -> None:
        track = self._route.of(child.key)
        if len(child.listener.accept_queue) == 1:  # else the next accept() is planned already
            self.at(max(now, self._free_ns.get(track, 0)), partial(self._accept_next, track))

    def _accept_next(self, track: Track, when: int) -> None:
        self._accept(track, when)
        self._free_ns[track] = when + self._gap_ns
        if track.socket is not None and track.socket.accept_queue:
            self.at(when + self._gap_ns, partial(self._accept_next, track))

    def _accept(self, track: Track, now: int) -> None:
        socket = track.socket
        if socket is not None and socket.accept() is not None:
            track.summary.accepted += 1
            if now >= track.edge_ns:
                track.sample(now, *track.queues())

    # ---- the host file ----

    def _open(self, index: int, backlog: int | None, when: int) -> None:
        track, given = self._tracks[index], self._listeners[index]
        track.open(self._stack, given, backlog)
        if track.group is not None:
            track.group.changed()
        self._journal.event(track, when, "listen", None, _backlog_text(track))

    def _given(self, event: HostEvent, when: int) -> None:
        if event.op == "sysctl":
            self._stack.settings.set(event.name, event.value)
            for track in self._tracks:
                self._journal.event(track, when, "sysctl", None, f"{event.name}={event.value}")
            return
        index = event.listener or 0
        track = self._tracks[index]
        socket = track.socket
        if event.op == "accept":
            self._accept_given(track, event.peer, when)
        elif event.op == "listen":
            if socket is None or not socket.listening:
                self._open(index, event.backlog, when)
            elif event.backlog is not None:
                socket.listen(event.backlog)
                self._journal.event(track, when, "listen", None, _backlog_text(track))
        elif socket is not None and socket.listening:
            if track.group is not None:
                track.group.closes(track, when)
            if self.before_close is not None:
                self.before_close(socket, when)
            waiting = len(socket.accept_queue)
            victims = socket.close()
            moved = waiting if socket.leaves_heirs and any(mate.listening for mate in socket.mates) else 0
            if track.group is not None:
                track.group.changed()
            text = (
                f"{moved} connections moved to another socket"
                if moved
                else f"{len(victims)} connections reset"
            )
            self._journal.event(track, when, "closed", None, text)
            self._expect_resets(track, victims, when)

    def _accept_given(self, track: Track, peer: bytes | None, when: int) -> None:
        """accept() of the log; another peer than the model has at the head is a difference."""
        socket = track.socket
        queue = socket.accept_queue if socket is not None else ()
        child = next((c for c in queue if peer is None or c.key.startswith(peer)), None)
        if child is None and peer is not None and track.group is not None:
            child = track.group.claim(track, peer)
        if child is None or socket is None:
            name = "a client" if peer is None else endpoint_text(peer)
            self._differs(
                track, peer, when, f"accept() returned {name}, which is not in the model's accept queue"
            )
            return
        if track.group is not None:
            for passed in list(socket.accept_queue)[: socket.accept_queue.index(child)]:
                track.group.passed_over(passed, track)
        group = track.group
        if child is not socket.accept_queue[0] and not (group and group.in_any_order(child, socket)):
            head = endpoint_text(socket.accept_queue[0].key[: len(child.key) // 2])
            self._differs(
                track,
                peer,
                when,
                f"accept() returned {endpoint_text(peer or b'')}, the model has {head} at the head",
            )
        socket.accept_queue.remove(child)
        child.accepted = True
        track.summary.accepted += 1
        self._journal.event(track, when, "accepted", child.key)

    def _differs(self, track: Track, peer: bytes | None, when: int, detail: str) -> None:
        """The host file says something that the model can't follow."""
        self._journal.mismatch(track, (peer or bytes(6)) * 2, when, "unexpected_packet", detail)

    def _expect_resets(self, track: Track, children: list[Child], when: int) -> None:
        """close() of a listener resets the connections nobody accepted."""
        for child in children:
            expectation = Expectation(child.key, track, "rst", when)
            expectation.outcome = out.PASSED_CLOSE
            self.expected.add(expectation)


def _backlog_text(track: Track) -> str:
    socket = track.socket
    return f"backlog {socket.backlog}" if socket is not None else ""
