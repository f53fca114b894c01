"""The host: the hash of requests and connections, and who listens where.

Finds the socket a segment belongs to and lets it decide. Knows no capture, no replies seen, and no
time but that of the segments.

Source: net/ipv4/tcp_ipv4.c (tcp_v4_rcv), net/ipv4/inet_hashtables.c (__inet_lookup_listener).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from backlogtrace.kernel import outcomes as out
from backlogtrace.kernel.challenge import ChallengeAcks
from backlogtrace.kernel.connection import (
    Child,
    PeerStamps,
    TimeWait,
    child_receive,
    closing_receive,
    outlived,
    timewait_receive,
)
from backlogtrace.kernel.cookies import SentCookies
from backlogtrace.kernel.listener import ListenSocket
from backlogtrace.kernel.prune import make_timers
from backlogtrace.kernel.request import Request, check_req
from backlogtrace.segment import ACK, RST, SYN

if TYPE_CHECKING:
    from collections.abc import Callable

    from backlogtrace.kernel.clock import Clock
    from backlogtrace.kernel.outcome import Outcome, Reply
    from backlogtrace.kernel.profile import Profile
    from backlogtrace.kernel.settings import Settings
    from backlogtrace.segment import Segment

_ANY_V4 = bytes(4)
_ANY_V6 = bytes(16)


class Stack:
    """The TCP stack of one host (one network namespace)."""

    def __init__(self, profile: Profile, settings: Settings, clock: Clock) -> None:
        self.profile = profile
        self.settings = settings
        self.clock = clock
        self.ehash: dict[bytes, Request | Child | TimeWait] = {}
        """Key: client endpoint + server endpoint."""
        self.timers = make_timers(clock, lifo=profile.timer == "wheel")
        self.leaving: deque[tuple[int, Child | TimeWait]] = deque()
        """Closing connections and TIME_WAITs, and when they are over (ns)."""
        self.cookies = SentCookies()
        self._listeners: dict[bytes, ListenSocket] = {}
        self._mates: dict[bytes, list[ListenSocket]] = {}
        """All sockets of an address and port that had more than one (SO_REUSEPORT, or one after another)."""
        self.member: Callable[[Segment, list[ListenSocket]], ListenSocket] = lambda _, members: members[0]
        """Asked which of several listening sockets gets a segment: a keyed hash of its 4-tuple decides."""
        self.heir: Callable[[Request | Child, list[ListenSocket]], ListenSocket] = lambda _, members: members[
            0
        ]
        """Asked which of them gets what a closed socket of their group had: a hash decides that, too."""
        self.witness: Callable[[Segment], Reply | None] = lambda _: None
        """Asked what the wire shows where the given facts leave the answer open."""
        self.synack_of: Callable[[Segment], Segment | None] = lambda _: None
        """Likewise, for the SYN-ACK that answers a SYN."""
        self.challenges = ChallengeAcks(profile, settings, clock)
        self.peers = PeerStamps(profile.tw_recycle_needs_timestamp)
        self.room: Callable[[ListenSocket, Segment], bool] | None = None
        """Where accept() is not known: asked whether the accept queue is full when a segment comes."""
        self.fastopen_cookies: dict[bytes, bytes] = {}
        """Fast Open cookies the server gave out, by client and server address."""
        self.child_born: Callable[[Child, int], None] = lambda _child, _now_ns: None
        """Told of every child that enters an accept queue."""

    @property
    def recycles(self) -> bool:
        """Whether tcp_tw_recycle is at work."""
        return bool(self.settings.tcp_tw_recycle and self.profile.tw_recycle)

    def challenges_too(self, segment: Segment) -> bool:
        """Whether one more challenge ACK may answer `segment`: where that is not known, the wire tells."""
        allowed = self.challenges.allowed(segment.time_ns)
        if allowed is None:
            allowed = self.witness(segment) == "ack"
        if allowed:
            self.challenges.sent(segment.time_ns)
        return allowed

    def open(
        self,
        end: bytes,
        backlog: int,
        *,
        defer_accept_s: int = 0,
        syncnt: int = 0,
        fastopen_qlen: int | None = None,
    ) -> ListenSocket:
        """socket(), bind() to `end` (address and port), socket options (None: not set) and listen()."""
        listener = ListenSocket(
            self, backlog, defer_accept_s=defer_accept_s, syncnt=syncnt, fastopen_qlen=fastopen_qlen
        )
        before = self._listeners.get(end)
        if before is not None:
            mates = self._mates.setdefault(end, [before])
            mates.append(listener)
            group = next(
                (mate.mates for mate in mates if mate.listening and mate is not listener), listener.mates
            )
            if group is not listener.mates:
                group.append(listener)
                listener.mates = group
            if self.profile.cookie_stamp_of_group and before.listening:
                listener.cookies = before.cookies
        self._listeners[end] = listener
        return listener

    def listener(self, segment: Segment) -> ListenSocket | None:
        """Who listens for a segment: the exact address before the wildcards, one of a group at random."""
        listeners = self._listeners
        dst = end = segment.dst
        found = listeners.get(end)
        if found is None and len(dst) == 6:  # noqa: PLR2004 - IPv4
            end = _ANY_V4 + dst[-2:]
            found = listeners.get(end)
        if found is None:
            end = _ANY_V6 + dst[-2:]
            found = listeners.get(end)
        if found is not None and self._mates and (mates := self._mates.get(end)) is not None:
            members = [mate for mate in mates if mate.listening]
            return self.member(segment, members) if len(members) > 1 else members[0] if members else None
        return found if found is not None and found.listening else None

    def receive(self, segment: Segment) -> Outcome:
        """What the host does with an inbound segment (tcp_v4_rcv)."""
        key = segment.src + segment.dst
        entry = self.ehash.get(key)
        if type(entry) is Child and (not entry.doubtful or outlived(self, entry, segment)):
            if entry.fin_seq_out is None or not segment.flags & SYN:
                return child_receive(self, entry, segment)
            outcome = closing_receive(self, entry, segment)
            if outcome is not None:
                return outcome
            listener = self.listener(segment)
            if listener is not None and entry.fin_seq_in is None:  # the client's FIN came, but was not seen
                return listener.conn_request(segment, key, timewait=True)
        elif type(entry) is Request:
            if entry.listener.listening:
                return check_req(entry, segment)
            heir = entry.listener.heir(entry)
            if heir is not None:
                return check_req(entry, segment, heir)
            entry.listener.remove(entry)  # its listener is gone: look again
        elif type(entry) is TimeWait:
            return self._timewait(entry, segment, key)
        listener = self.listener(segment)
        if listener is None:
            return out.IGNORED_NO_LISTENER if segment.flags & RST else out.RST_NO_LISTENER
        return listener.receive(segment, key)

    def _timewait(self, entry: TimeWait, segment: Segment, key: bytes) -> Outcome:
        listener = self.listener(segment)
        if segment.time_ns >= entry.until:
            del self.ehash[key]
        elif segment.flags & (SYN | ACK | RST) == SYN and listener is None:
            return out.TIMEWAIT_ACK
        else:
            outcome = timewait_receive(self, entry, segment)
            if outcome is not None:
                return outcome
            if listener is not None:
                return listener.conn_request(segment, key, timewait=True)
        if listener is None:
            return out.IGNORED_NO_LISTENER if segment.flags & RST else out.RST_NO_LISTENER
        return listener.receive(segment, key)
