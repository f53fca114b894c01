"""Several listening sockets on one address and port: a SO_REUSEPORT group, or one after the other.

The kernel gives every 4-tuple to one member, chosen by a keyed hash: unknown here, but always the
same while no member comes or goes. A member is sure where the accept log names it, where it is the
only one, or where what the server did fits no other; else one that fits is taken, and queue lengths
are the range that all possible members allow. Refuses to guess what the members would decide
differently: that is undecided.

Sources: net/core/sock_reuseport.c (reuseport_select_sock), net/ipv4/inet_hashtables.c
(__inet_lookup_listener).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backlogtrace.kernel.connection import Child
from backlogtrace.kernel.cookie_signs import Offers
from backlogtrace.kernel.request import Request
from backlogtrace.segment import ACK, SYN

if TYPE_CHECKING:
    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.replay.host import HostEvent
    from backlogtrace.replay.lookahead import Lookahead
    from backlogtrace.replay.rows import EventRow, PacketRow
    from backlogtrace.replay.track import Track
    from backlogtrace.segment import Segment

_FITS = {
    "drop": frozenset({"drop"}),
    "queue": frozenset({"queue"}),
    "cookie": frozenset({"cookie"}),
    "answer": frozenset({"queue", "cookie"}),
}
"""What the wire shows -> what fits it."""
_FULL = frozenset({"accept_queue_full", "cookie_accept_queue_full"})
"""Reasons that tell how long the accept queue was."""
_REMEMBERED = 65_536  # 4-tuples whose member is remembered
Interval = tuple[int, int]


class Group:
    """The members of one address and port; `tracks[0]` counts for all of them."""

    def __init__(self, first: Track) -> None:
        self.tracks = [first]
        self.last = first
        """Member that got the packet at hand."""
        self._ahead: Lookahead | None = None
        self._chosen: dict[bytes, tuple[Track, bool]] = {}
        """By 4-tuple: the member, and whether it is sure."""
        self._accepted: dict[bytes, list[tuple[int, Track]]] = {}
        self.peaks: tuple[Interval, Interval] = ((0, 0), (0, 0))
        """Highest accept queue and SYN queue of any member."""
        self._open = False
        """Whether what happens to the packet at hand depends on the member, and nothing tells which."""

    def add(self, track: Track) -> None:
        """One more member."""
        self.tracks.append(track)
        track.group = self
        track.end, track.name = self.tracks[0].end, self.tracks[0].name

    def learn(self, events: list[HostEvent], tracks: list[Track]) -> None:
        """accept() calls of the host file tell which member a peer's connection belongs to."""
        for event in events:
            track = tracks[event.listener or 0]
            if event.op == "accept" and event.peer is not None and track in self.tracks:
                self._accepted.setdefault(event.peer, []).append((event.time_ns, track))

    def changed(self) -> None:
        """A member came or went: the hash spreads new 4-tuples differently from now on."""
        socket = self.tracks[0].socket
        ehash = socket.stack.ehash if socket is not None else {}
        self._chosen = {key: choice for key, choice in self._chosen.items() if key in ehash}

    @property
    def alive(self) -> list[Track]:
        """Members that listen."""
        return [track for track in self.tracks if track.socket is not None and track.socket.listening]

    def of(self, key: bytes) -> Track:
        """The member that a 4-tuple belongs to, as far as is known."""
        found = self._chosen.get(key)
        return found[0] if found is not None else (self.alive or self.tracks)[0]

    # ---- a packet ----

    def route(self, segment: Segment, key: bytes, entry: object, ahead: Lookahead) -> Track:
        """The member that gets an inbound packet; what is pending may move to another that fits better."""
        self._open = False
        self._ahead = ahead
        if type(entry) is Request or type(entry) is Child:
            track = next((t for t in self.tracks if t.socket is entry.listener), self.of(key))
            if type(entry) is Request and not self.sure(key) and segment.flags & (SYN | ACK) == ACK:
                track = self._completes(entry, segment, track, ahead)
        else:
            track = self._chosen_for(segment, key, ahead)
        self.last = track
        return track

    def sure(self, key: bytes) -> bool:
        """Whether it is known which member a 4-tuple belongs to."""
        return len(self.alive) < 2 or self._chosen.get(key, (None, False))[1]  # noqa: PLR2004 - no choice

    def _chosen_for(self, segment: Segment, key: bytes, ahead: Lookahead) -> Track:
        known = self._chosen.get(key)
        alive = self.alive
        if known is not None and (known[1] or segment.flags & (SYN | ACK) != SYN):
            return known[0]
        if len(alive) < 2:  # noqa: PLR2004 - no choice
            return self.of(key)
        named = [track for when, track in self._accepted.get(segment.src, ()) if when >= segment.time_ns]
        if named and named[0] in alive:
            return self._remember(key, named[0], sure=True)
        if segment.flags & (SYN | ACK) != SYN:
            return self.of(key)
        plans = {track: _plan(track.socket) for track in alive}  # type: ignore[arg-type]
        shown = _shown(segment, alive[0].socket, ahead)  # type: ignore[arg-type]
        answered = shown != "drop"
        fit = [track for track in alive if plans[track] in _FITS[shown]]
        if not fit:
            fit = self._rearranged(alive, _FITS[shown]) or alive
        self._open = len({plans[track] for track in fit}) > 1
        if known is not None and known[0] in fit:
            track = known[0]
        else:
            track = (min if answered else max)(fit, key=_load)
        return self._remember(key, track, sure=len(fit) == 1)

    def _rearranged(self, alive: list[Track], wanted: frozenset[str]) -> list[Track]:
        """No member would do what the wire shows: those that are not sure are spread differently."""
        answered = "queue" in wanted
        for track in sorted(alive, key=_load, reverse=not answered):
            socket = track.socket
            assert socket is not None
            others = [other for other in alive if other is not track]
            givers, takers = ([track], others) if answered else (others, [track])
            unsure: list[Child | Request] = [*self._unsure_children(givers), *self._unsure_requests(givers)]
            for pending in unsure:
                if _plan(socket) in wanted:
                    break
                taker = min(takers, key=_load)
                assert taker.socket is not None
                _move(pending, taker.socket)
                self._remember(pending.key, taker, sure=False)
            if _plan(socket) in wanted:
                return [track]
        return []

    def passed_over(self, child: Child, track: Track) -> None:
        """accept() of a member did not return the child at its head: it is another member's."""
        others = [other for other in self.alive if other is not track]
        if others and not self.sure(child.key):
            taker = min(others, key=_load)
            assert taker.socket is not None
            _move(child, taker.socket)
            self._remember(child.key, taker, sure=len(others) == 1)

    def closes(self, track: Track, when: int) -> None:
        """A member is closed: its connections that nobody accepted are reset, those of the others are not."""
        ahead, others = self._ahead, [other for other in self.alive if other is not track]
        if ahead is None or not others:
            return
        for child in self._unsure_children(self.tracks):
            owner = track if ahead.reset(child.key, when) else min(others, key=_load)
            if (child.listener is track.socket) is not (owner is track):
                assert owner.socket is not None
                _move(child, owner.socket)
            self._remember(child.key, owner, sure=owner is track or len(others) == 1)

    def _completes(self, request: Request, segment: Segment, track: Track, ahead: Lookahead) -> Track:
        """An ACK of a request whose member is not sure: full and roomy members would do different things."""
        alive = self.alive
        full = {t: t.socket.accept_queue_full() for t in alive if t.socket is not None}
        if len(set(full.values())) < 2:  # noqa: PLR2004 - all the same
            return track
        isn = request.snt_isn
        repeated = None if isn is None else ahead.repeated(request.key, isn, segment.time_ns)
        if ahead.answer(segment) == "rst":  # tcp_abort_on_overflow
            repeated = True
        self._open = repeated is None
        fit = [t for t in alive if full[t] is bool(repeated)]
        if track not in fit:
            track = (max if repeated else min)(fit, key=_load)
            _move(request, track.socket)  # type: ignore[arg-type]
        return self._remember(request.key, track, sure=len(fit) == 1 and not self._open)

    def _remember(self, key: bytes, track: Track, *, sure: bool) -> Track:
        self._chosen[key] = track, sure
        if len(self._chosen) > _REMEMBERED:
            del self._chosen[next(iter(self._chosen))]
        return track

    # ---- what rows say ----

    def qualify(self, row: PacketRow, key: bytes) -> None:
        """Put what is not known of the members into a row."""
        row.accept_queue, row.syn_queue = self.intervals(key, row.accept_queue, row.syn_queue)
        if row.outcome.reason in _FULL:
            row.accept_queue = row.accept_queue[1], row.accept_queue[1]
        self.peaks = _higher(self.peaks[0], row.accept_queue), _higher(self.peaks[1], row.syn_queue)
        if self._open and row.resolved_by is None:
            row.certainty = "undecided"
            row.rivals = (*row.rivals, "other_listener")

    def qualify_event(self, row: EventRow, key: bytes | None) -> None:
        """Likewise for an event."""
        if key is not None:
            row.accept_queue, row.syn_queue = self.intervals(key, row.accept_queue, row.syn_queue)

    def intervals(self, key: bytes, accept: Interval, syn: Interval) -> tuple[Interval, Interval]:
        """(accept queue, SYN queue) of the member of `key`: what is surely in it, and what may be."""
        tracks = [self.of(key)] if self.sure(key) else self.alive or self.tracks
        unsure = len(self._unsure_children(self.tracks)), len(self._unsure_requests(self.tracks))
        if len(tracks) == 1 and not any(unsure):
            return accept, syn
        sockets = [track.socket for track in tracks if track.socket is not None]
        children = [
            len(track.socket.accept_queue) - len(self._unsure_children([track]))
            for track in tracks
            if track.socket is not None
        ]
        requests = [
            track.socket.syn_length - len(self._unsure_requests([track]))
            for track in tracks
            if track.socket is not None
        ]
        room = max((socket.accept_capacity for socket in sockets), default=0)
        most = max((socket.syn_capacity for socket in sockets), default=0)
        return (
            (min(children), min(max(children) + unsure[0], max(room, accept[1]))),
            (min(requests), min(max(requests) + unsure[1], max(most, syn[1]))),
        )

    def _unsure_children(self, tracks: list[Track]) -> list[Child]:
        return [
            child
            for track in tracks
            if track.socket is not None
            for child in track.socket.accept_queue
            if not self.sure(child.key)
        ]

    def _unsure_requests(self, tracks: list[Track]) -> list[Request]:
        sockets = [track.socket for track in tracks if track.socket is not None and track.socket.qlen]
        entries = (
            (sockets[0].stack.ehash.get(key) for key in self._chosen if not self.sure(key)) if sockets else ()
        )
        return [entry for entry in entries if type(entry) is Request and entry.listener in sockets]


def _higher(one: Interval, other: Interval) -> Interval:
    return max(one[0], other[0]), max(one[1], other[1])


def _shown(syn: Segment, socket: ListenSocket, ahead: Lookahead) -> str:
    """What the wire shows that a SYN got: drop, queue, cookie or answer."""
    if ahead.answer(syn) != "synack":
        return "drop"
    settings = socket.settings
    if not settings.tcp_syncookies:
        return "queue"
    offers = Offers(bool(settings.tcp_sack), bool(settings.tcp_window_scaling))
    repeats = bool(socket.syncnt or settings.tcp_synack_retries)
    queued = ahead.was_queued(syn, offers, repeats=repeats)
    return "answer" if queued is None else "queue" if queued else "cookie"


def _plan(socket: ListenSocket) -> str:
    """What a SYN gets from a member: drop, cookie or queue."""
    settings = socket.settings
    full = socket.qlen >= socket.syn_capacity
    if full and not settings.tcp_syncookies:
        return "drop"
    if socket.accept_queue_full() and socket.young > socket.profile.full_queue_admits_young:
        return "drop"
    if full or settings.tcp_syncookies == 2:  # noqa: PLR2004 - always
        return "cookie"
    return "drop" if socket.syn_queue_refuses(socket.qlen) else "queue"


def _load(track: Track) -> tuple[int, int]:
    socket = track.socket
    return (len(socket.accept_queue), socket.qlen) if socket is not None else (0, 0)


def _move(pending: Request | Child, socket: ListenSocket) -> None:
    """A request or child belongs to another member than was taken."""
    before = pending.listener
    if isinstance(pending, Child):
        before.accept_queue.remove(pending)
        socket.accept_queue.append(pending)
    else:
        before.settle(pending)
        for listener, step in ((before, -1), (socket, 1)):
            listener.qlen += step
            listener.young += step * (pending.num_timeout == 0)
    pending.listener = socket
