"""Several listening sockets on one address and port: a SO_REUSEPORT group, or one after the other.

The kernel gives every 4-tuple to one member, chosen by a keyed hash: unknown here, but always the
same while no member comes or goes. With tcp_migrate_req a member that is closed leaves what it had to
another one, which the hash chooses, too. A member is sure where the accept log names it, where it is the
only one, or where what the server did fits no other; else one that fits is taken, and queue lengths
are the range that all possible members allow. Refuses to guess what the members would decide
differently: that is undecided.

Sources: net/core/sock_reuseport.c (reuseport_select_sock), net/ipv4/inet_hashtables.c
(__inet_lookup_listener).
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from backlogtrace.kernel.connection import Child
from backlogtrace.kernel.cookie_signs import Offers
from backlogtrace.kernel.request import Request
from backlogtrace.segment import ACK, SYN

if TYPE_CHECKING:
    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.kernel.outcome import Outcome
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


class _Choice(NamedTuple):
    """The member that a 4-tuple belongs to."""

    track: Track
    sure: bool
    era: int
    """What the hash says holds until a member comes or goes; a request or connection stays where it is."""


class Group:
    """The members of one address and port; `tracks[0]` counts for all of them."""

    def __init__(self, first: Track) -> None:
        self.tracks = [first]
        self.last = first
        """Member that got the packet at hand."""
        self._ahead: Lookahead | None = None
        self._chosen: dict[bytes, _Choice] = {}
        """By 4-tuple."""
        self._era = 0
        """How often a member came or went."""
        self._accepted: dict[bytes, list[tuple[int, Track]]] = {}
        self._closings: list[int] = []
        """When members are closed and may leave what they have to others."""
        self._shuffled: set[bytes] = set()
        """Connections whose place in the accept queue is not known: they may have come from another one."""
        self._adrift: dict[bytes, int] = {}
        """Requests that may be a closed member's or the last one's, until a timer: rounds of it by then."""
        self.peaks: tuple[Interval, Interval] = ((0, 0), (0, 0))
        """Highest accept queue and SYN queue of any member."""
        self._open = False
        """Whether what happens to the packet at hand depends on the member, and nothing tells which."""

    def add(self, track: Track) -> None:
        """One more member."""
        self.tracks.append(track)
        track.group = self
        track.end, track.name = self.tracks[0].end, self.tracks[0].name

    def learn(self, events: list[HostEvent], tracks: list[Track], *, migrates: bool = False) -> None:
        """accept() calls of the host file tell which member a peer's connection belongs to.

        `migrates`: it may have moved there when another one was closed.
        """
        for event in events:
            track = tracks[event.listener or 0]
            if event.op == "accept" and event.peer is not None and track in self.tracks:
                self._accepted.setdefault(event.peer, []).append((event.time_ns, track))
            elif event.op == "close" and migrates and track in self.tracks:
                self._closings.append(event.time_ns)

    def _named(self, peer: bytes, now: int) -> Track | None:
        """The member that `peer`'s next connection is accepted from, if it stays in one until then."""
        for when, track in self._accepted.get(peer, ()):
            if when >= now:
                return None if any(now <= closing < when for closing in self._closings) else track
        return None

    def changed(self) -> None:
        """A member came or went: the hash spreads new 4-tuples differently from now on."""
        self._era += 1
        sockets = [track.socket for track in self.tracks if track.socket is not None]
        kept = set(sockets[0].stack.ehash) if sockets else set()
        kept.update(child.key for socket in sockets for child in socket.accept_queue)
        self._chosen = {key: choice for key, choice in self._chosen.items() if key in kept}

    @property
    def alive(self) -> list[Track]:
        """Members that listen."""
        return [track for track in self.tracks if track.socket is not None and track.socket.listening]

    def of(self, key: bytes) -> Track:
        """The member that a 4-tuple belongs to, as far as is known."""
        found = self._known(key)
        return found.track if found is not None else (self.alive or self.tracks)[0]

    def _known(self, key: bytes) -> _Choice | None:
        """The member chosen for a 4-tuple and whether it is sure; None if just that one is closed."""
        found = self._chosen.get(key)
        if found is None or found.track in (alive := self.alive) or not alive:
            return found
        return None

    def heir(self, pending: Request | Child, members: list[ListenSocket], now: int) -> ListenSocket:
        """Which of them gets what a closed member had."""
        tracks = [track for track in self.alive if track.socket in members]
        known = self._known(pending.key)
        track = None if known is None else known.track
        if track not in tracks:
            named = self._named(pending.key[: len(pending.key) // 2], now)
            track = named if named in tracks else min(tracks, key=_load)
            self._remember(pending.key, track, sure=track is named or len(tracks) == 1)
        assert track is not None
        assert track.socket is not None
        return track.socket

    # ---- a packet ----

    def route(self, segment: Segment, key: bytes, entry: object, ahead: Lookahead) -> Track:
        """The member that gets an inbound packet; what is pending may move to another that fits better."""
        self._open = False
        self._ahead = ahead
        if type(entry) is Request or type(entry) is Child:
            socket: ListenSocket | None = entry.listener
            if type(entry) is Request and not entry.listener.listening:
                socket = entry.listener.heir(entry)
            if socket is None:  # the request goes, and the segment is a new one
                track = self._chosen_for(segment, key, ahead)
            else:
                track = next((t for t in self.tracks if t.socket is socket), self.of(key))
            if (
                type(entry) is Request
                and socket is not None
                and not self.sure(key)
                and segment.flags & (SYN | ACK) == ACK
            ):
                track = self._completes(entry, segment, track, ahead)
        else:
            track = self._chosen_for(segment, key, ahead)
        self.last = track
        return track

    def sure(self, key: bytes) -> bool:
        """Whether it is known which member a 4-tuple belongs to."""
        known = self._known(key)
        return (known is not None and known.sure) or len(self.alive) < 2  # noqa: PLR2004 - no choice

    def _chosen_for(self, segment: Segment, key: bytes, ahead: Lookahead) -> Track:
        known = self._known(key)
        if known is not None and known.era != self._era:
            known = None
        alive = self.alive
        if known is not None and (known.sure or segment.flags & (SYN | ACK) != SYN):
            return known.track
        if len(alive) < 2:  # noqa: PLR2004 - no choice
            track = (alive or self.tracks)[0]
            self._remember(key, track, sure=True)
            if self._adrift and track.socket is not None and segment.flags & (SYN | ACK) == SYN:
                fewer, more = self._drifting(track)
                likely = {_plan(track.socket, track.socket.qlen + off) for off in (-fewer, 0, more)}
                self._open = len(likely) > 1
            return track
        named = self._named(segment.src, segment.time_ns)
        if named is not None and named in alive:
            return self._remember(key, named, sure=True)
        if segment.flags & (SYN | ACK) != SYN:
            return self.of(key)
        plans = {track: _plan(track.socket) for track in alive}  # type: ignore[arg-type]
        shown = _shown(segment, alive[0].socket, ahead)  # type: ignore[arg-type]
        answered = shown != "drop"
        fit = [track for track in alive if plans[track] in _FITS[shown]]
        if not fit:
            fit = self._rearranged(alive, _FITS[shown]) or alive
        self._open = len({plans[track] for track in fit}) > 1
        if known is not None and known.track in fit:
            track = known.track
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
                taker.socket.take(pending)
                self._remember(pending.key, taker, sure=False)
            if _plan(socket) in wanted:
                return [track]
        return []

    def claim(self, track: Track, peer: bytes) -> Child | None:
        """accept() of a member returned a connection that was taken for another one's: it was at its head."""
        socket = track.socket
        unsure = (child for child in self._unsure_children(self.alive) if child.key.startswith(peer))
        child = next(unsure, None)
        if child is not None and socket is not None:
            socket.take(child)
            socket.accept_queue.rotate(1)
            self._remember(child.key, track, sure=True)
        return child

    def passed_over(self, child: Child, track: Track) -> None:
        """accept() of a member did not return the child at its head: it is another member's."""
        others = [other for other in self.alive if other is not track]
        if others and not self.sure(child.key):
            taker = min(others, key=_load)
            assert taker.socket is not None
            taker.socket.take(child)
            self._remember(child.key, taker, sure=len(others) == 1)

    def closes(self, track: Track, when: int) -> None:
        """A member is closed: its connections that nobody accepted are reset, those of the others are not."""
        ahead, others = self._ahead, [other for other in self.alive if other is not track]
        if ahead is None or not others:
            return
        if track.socket is not None and track.socket.migrates:
            self._shuffled.update(child.key for child in self._unsure_children(self.tracks))
            self._adrift |= {r.key: r.num_timeout for r in self._unsure_requests(self.tracks)}
            return
        for child in self._unsure_children(self.tracks):
            owner = track if ahead.reset(child.key, when) else min(others, key=_load)
            if (child.listener is track.socket) is not (owner is track):
                assert owner.socket is not None
                owner.socket.take(child)
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
            if request.listener.listening:
                track.socket.take(request)  # type: ignore[union-attr]
        return self._remember(request.key, track, sure=len(fit) == 1 and not self._open)

    def _remember(self, key: bytes, track: Track, *, sure: bool) -> Track:
        self._chosen[key] = _Choice(track, sure, self._era)
        if len(self._chosen) > _REMEMBERED:
            del self._chosen[next(iter(self._chosen))]
        return track

    # ---- what rows say ----

    def qualify(self, row: PacketRow, key: bytes) -> None:
        """Put what is not known of the members into a row."""
        row.accept_queue, row.syn_queue = self.lengths(key, row.outcome, row.accept_queue, row.syn_queue)
        if self._open and row.resolved_by is None:
            row.certainty = "undecided"
            row.rivals = (*row.rivals, "other_listener")

    def lengths(
        self, key: bytes, outcome: Outcome, accept: Interval, syn: Interval
    ) -> tuple[Interval, Interval]:
        """Accept queue and SYN queue after a packet; the highest are remembered."""
        accept, syn = self.intervals(key, accept, syn)
        if outcome.reason in _FULL:
            accept = accept[1], accept[1]
        self.peaks = _higher(self.peaks[0], accept), _higher(self.peaks[1], syn)
        return accept, syn

    def qualify_event(self, row: EventRow, key: bytes | None) -> None:
        """Likewise for an event."""
        if key is not None:
            row.accept_queue, row.syn_queue = self.intervals(key, row.accept_queue, row.syn_queue)

    def intervals(self, key: bytes, accept: Interval, syn: Interval) -> tuple[Interval, Interval]:
        """(accept queue, SYN queue) of the member of `key`: what is surely in it, and what may be."""
        tracks = [self.of(key)] if self.sure(key) else self.alive or self.tracks
        unsure = len(self._unsure_children(self.tracks)), len(self._unsure_requests(self.tracks))
        if len(tracks) == 1 and not any(unsure):
            fewer, more = self._drifting(tracks[0]) if self._adrift else (0, 0)
            return accept, (max(syn[0] - fewer, 0), syn[1] + more)
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

    def _drifting(self, track: Track) -> tuple[int, int]:
        """Requests that may be a closed member's and not this one's, and the other way round."""
        ehash = track.socket.stack.ehash if track.socket is not None else {}
        self._adrift = {
            key: rounds
            for key, rounds in self._adrift.items()
            if type(entry := ehash.get(key)) is Request and entry.num_timeout == rounds
        }
        own = sum(ehash[key].listener is track.socket for key in self._adrift)  # type: ignore[union-attr]
        return own, len(self._adrift) - own

    def in_any_order(self, child: Child, socket: ListenSocket) -> bool:
        """Whether accept() may well return a connection before others that the model has before it."""
        before = takewhile(lambda other: other is not child, socket.accept_queue)
        return child.key in self._shuffled or all(other.key in self._shuffled for other in before)

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


def _plan(socket: ListenSocket, qlen: int | None = None) -> str:
    """What a SYN gets from a member (with `qlen` requests): drop, cookie or queue."""
    settings = socket.settings
    if qlen is None:
        qlen = socket.qlen
    full = not 0 <= qlen < socket.syn_capacity
    if full and not settings.tcp_syncookies:
        return "drop"
    if socket.accept_queue_full() and not 0 <= socket.young <= socket.profile.full_queue_admits_young:
        return "drop"
    if full or settings.tcp_syncookies == 2:  # noqa: PLR2004 - always
        return "cookie"
    return "drop" if socket.syn_queue_refuses(qlen) else "queue"


def _load(track: Track) -> tuple[int, int]:
    socket = track.socket
    return (len(socket.accept_queue), socket.qlen) if socket is not None else (0, 0)
