"""The listening socket: two queues, their limits, and what a segment without a request does.

Theory of operation. A SYN makes a request (SYN queue, `qlen`; `young` counts those whose timer has
not fired). The completing segment turns the request into a child at the tail of the accept queue
(`sk_ack_backlog`); accept() takes the head. Requests live in the host's hash, the listener only
counts them. The accept queue is full when sk_ack_backlog > backlog, so backlog + 1 children fit; the
SYN queue is full at qlen >= backlog, or > backlog on newer kernels. Kernels with a SYN table per
listener (`syn_table`) raise that limit to the next power of two, once, at the first listen().
Both tests are written as `length >= capacity`, and both capacities are set in `listen()` alone.

A closed socket hands what it has to another one of its SO_REUSEPORT group where tcp_migrate_req is
set: connections at once, a request when its timer fires or a segment comes for it. The kernel counts a
request that such a segment ends (RST, SYN) at the new socket, which never had it: its `qlen` goes
below 0, and as an unsigned number that is a full SYN queue. `miscounted` keeps what was counted wrongly.

Not modelled: routing, memory and security failures, sockets filters, MD5/AO, multicast addresses,
the per-peer "proven" mark of the tcp_syncookies=0 reserve, that 6.12.104 charges the new socket's Fast
Open queue for a connection that moves.

Sources: net/ipv4/tcp_input.c (tcp_conn_request, tcp_rcv_state_process), net/ipv4/tcp_ipv4.c
(tcp_v4_syn_recv_sock), net/ipv4/syncookies.c (cookie_v4_check), net/ipv4/inet_connection_sock.c
(inet_csk_listen_start, inet_csk_reqsk_queue_add, reqsk_timer_handler, inet_csk_listen_stop),
net/core/sock_reuseport.c (reuseport_stop_listen_sock, reuseport_migrate_sock), net/socket.c
(__sys_listen).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from backlogtrace.kernel import outcomes as out
from backlogtrace.kernel.connection import Child, die
from backlogtrace.kernel.cookies import ECN, SACK, WINDOW_SCALE, CookieJar
from backlogtrace.kernel.fastopen import (
    ALL_LISTENERS,
    EVERY_SYN,
    SERVER,
    FastOpenQueue,
    classify,
    give_up_place,
    leave_syn_recv,
    release,
)
from backlogtrace.kernel.request import Request
from backlogtrace.segment import ACK, CWR, ECE, FIN, RST, SYN, asked_by, end_seq

if TYPE_CHECKING:
    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.kernel.stack import Stack
    from backlogtrace.segment import Segment

_U32 = 0xFFFFFFFF
_U16 = 0xFFFF
_UNLIMITED = 1 << 62
_MAX_INTERVAL_S = 120
_MIN_PRESSURE = 8  # reqsk_timer_handler: no pressure below this many requests
_MIN_RETRIES = 2
_MIN_TABLE = 8


class ListenSocket:
    """One socket in state LISTEN, or closed after it."""

    __slots__ = (
        "accept_capacity",
        "accept_queue",
        "backlog",
        "clock",
        "cookies",
        "defer_accept",
        "expiring",
        "fastopen",
        "leaves_heirs",
        "listening",
        "mates",
        "miscounted",
        "profile",
        "qlen",
        "settings",
        "stack",
        "syn_capacity",
        "syncnt",
        "young",
    )

    def __init__(
        self,
        stack: Stack,
        backlog: int,
        *,
        defer_accept_s: int = 0,
        syncnt: int = 0,
        fastopen_qlen: int | None = None,
    ) -> None:
        self.stack = stack
        self.profile = stack.profile
        self.settings = stack.settings
        self.clock = stack.clock
        self.defer_accept = defer_accept_retries(defer_accept_s)
        self.syncnt = syncnt
        self.accept_queue: deque[Child] = deque()
        self.qlen = 0
        self.young = 0
        self.expiring = 0
        """Requests that may have expired already: their timer's window is open."""
        self.cookies = CookieJar(stack.profile, stack.clock, stack.cookies)
        self.fastopen = FastOpenQueue()
        self.listening = True
        self.leaves_heirs = False
        """Closed, but still known to its group: what it had can move to another member."""
        self.mates = [self]
        """The sockets of its SO_REUSEPORT group, closed ones too."""
        self.miscounted = 0
        """By how much `qlen` is more than the requests there are."""
        self.syn_capacity = 0
        self.listen(backlog)
        flags = self.settings.tcp_fastopen
        if fastopen_qlen is not None:
            clamp = self.settings.somaxconn if self.profile.fastopen_clamped else fastopen_qlen
            self.fastopen.max_qlen = min(fastopen_qlen, clamp)
        elif flags & ALL_LISTENERS and flags & SERVER:
            self.fastopen.max_qlen = self.backlog

    def listen(self, backlog: int) -> None:
        """listen(): clamp and set both limits; again on a listening socket it changes only them."""
        somaxconn = self.settings.somaxconn
        self.backlog = min(backlog & _U32, somaxconn)  # unsigned: a negative backlog is huge
        self.accept_capacity = self.backlog + 1
        if self.profile.backlog_bits == 16:  # noqa: PLR2004 - u16
            self.backlog = min(self.backlog, _U16)
            # sk_ack_backlog > 65535 cannot be: the length goes back to 0 first
            self.accept_capacity = self.backlog + 1 if self.backlog < _U16 else _UNLIMITED
        if not self.profile.syn_table:
            self.syn_capacity = self.backlog + self.profile.syn_spare
        elif not self.syn_capacity:  # reqsk_queue_alloc(): only at the first listen()
            wanted = max(min(self.backlog, self.settings.tcp_max_syn_backlog), _MIN_TABLE)
            self.syn_capacity = 1 << wanted.bit_length()

    @property
    def requests(self) -> int:
        """How many requests there are, which is `qlen` unless the kernel miscounts."""
        return self.qlen - self.miscounted

    @property
    def syn_length(self) -> int:
        """Sockets in SYN_RECV: requests, and Fast Open children whose handshake is not complete."""
        return self.qlen - self.miscounted + self.fastopen.pending

    def accept_queue_full(self) -> bool:
        """sk_acceptq_is_full()."""
        return len(self.accept_queue) >= self.accept_capacity

    def refuses(self, segment: Segment) -> bool:
        """sk_acceptq_is_full() when `segment` comes; where accept() is not known the wire is asked."""
        room = self.stack.room
        return len(self.accept_queue) >= self.accept_capacity if room is None else room(self, segment)

    def accept(self) -> Child | None:
        """accept(): the head of the queue, None when it is empty."""
        if not self.accept_queue:
            return None
        child = self.accept_queue.popleft()
        child.accepted = True
        return child

    def conn_request(self, syn: Segment, key: bytes, *, timewait: bool = False) -> Outcome:
        """A SYN without a request or connection (tcp_conn_request)."""
        settings = self.settings
        syncookies = settings.tcp_syncookies
        profile = self.profile
        if profile.syncookies_2_is_1:
            syncookies = min(syncookies, 1)
        cookie = False

        # SYN queue full
        full = not 0 <= self.qlen < self.syn_capacity
        plain = not timewait or profile.timewait_syn_is_plain
        if (full or syncookies == 2) and plain:  # noqa: PLR2004 - tcp_syncookies=2: always
            if not syncookies:
                return out.DROP_SYN_QUEUE
            cookie = True

        # accept queue full
        if not 0 <= self.young <= profile.full_queue_admits_young and self.refuses(syn):
            return out.DROP_BOTH_FULL if cookie else out.DROP_ACCEPT_QUEUE

        if cookie:
            self.cookies.send(key, syn, self._kept(syn) if syn.tsval >= 0 else 0)
            if profile.cookie_counts_drop:
                return out.COOKIE_ALWAYS_DROP if syncookies == 2 else out.COOKIE_FULL_DROP  # noqa: PLR2004
            return out.COOKIE_ALWAYS if syncookies == 2 else out.COOKIE_FULL  # noqa: PLR2004

        if plain and self.stack.recycles:
            if not self.stack.peers.proven(syn):
                return out.DROP_TW_RECYCLE
        elif plain and self._reserved(self.qlen):
            return out.DROP_RESERVED

        request = self._request(syn, key)
        outcome = out.QUEUED_TIMEWAIT if timewait else out.QUEUED
        if syn.fastopen is not None or syn.length or settings.tcp_fastopen & EVERY_SYN:
            outcome, child = classify(self, syn)
            if child and self.refuses(syn):
                outcome = out.QUEUED_FASTOPEN_OVERFLOW
            elif child:
                self._fastopen_child(request, syn)
                return outcome
        self._hash(request, syn.time_ns)
        return outcome

    def enqueue(self, syn: Segment, key: bytes) -> None:
        """A request for `syn`, whatever the queues are like: the wire has shown that there is one."""
        self._hash(self._request(syn, key), syn.time_ns)

    def _request(self, syn: Segment, key: bytes) -> Request:
        tstamp_ok = syn.tsval >= 0 and self.settings.tcp_timestamps != 0
        return Request(key, self, syn, tstamp_ok=tstamp_ok)

    def _hash(self, request: Request, now_ns: int) -> None:
        """The request enters the SYN queue (inet_csk_reqsk_queue_hash_add)."""
        self.stack.ehash[request.key] = request
        self.qlen += 1
        self.young += 1
        self.stack.timers.arm(request, now_ns, 1)

    def syn_queue_refuses(self, qlen: int) -> bool:
        """Whether a SYN would not be queued for the length of the SYN queue alone."""
        return self._reserved(qlen) or not 0 <= qlen < self.syn_capacity

    def _reserved(self, qlen: int) -> bool:
        """Without cookies the last quarter of tcp_max_syn_backlog is kept for proven peers."""
        limit = self.settings.tcp_max_syn_backlog
        return not self.settings.tcp_syncookies and limit - qlen < limit >> 2

    def receive(self, segment: Segment, key: bytes) -> Outcome:
        """A segment that matched neither request nor connection (tcp_rcv_state_process, LISTEN)."""
        flags = segment.flags
        if flags & ACK:
            return out.IGNORED_RST if flags & RST else self._stray_ack(segment, key)
        if flags & RST:
            return out.IGNORED_RST
        if flags & SYN:
            return out.DROP_BAD_FLAGS if flags & FIN else self.conn_request(segment, key)
        return out.IGNORED_FLAGS

    def wrong_ack(self, request: Request, segment: Segment) -> Outcome:
        """A segment of a request that acknowledges something else; the request stays."""
        if segment.flags & RST:
            return out.IGNORED_WRONG_ACK_RST
        if not self.profile.wrong_ack_may_be_cookie:
            return out.RST_WRONG_ACK
        outcome = self._stray_ack(segment, request.key)
        if outcome is out.RST_NO_REQUEST:
            return out.RST_WRONG_ACK
        return out.RST_WRONG_ACK_COOKIE if outcome is out.RST_COOKIE_INVALID else outcome

    def _stray_ack(self, segment: Segment, key: bytes) -> Outcome:
        """An ACK nobody waits for: maybe a cookie comes back (cookie_v4_check), else a RST."""
        if segment.flags & SYN or not self.settings.tcp_syncookies:
            return out.RST_NO_REQUEST
        if not self.cookies.recent_overflow(segment.time_ns):
            return out.RST_NO_REQUEST_FAILED if self.profile.stray_ack_counts_failed else out.RST_NO_REQUEST
        verdict = self.cookies.verify(key, segment)
        if verdict == "unclear":
            verdict = "expired" if self.stack.witness(segment) == "rst" else "valid"
        if verdict != "valid":
            return out.RST_COOKIE_EXPIRED if verdict == "expired" else out.RST_COOKIE_INVALID
        if self.cookie_option_off(key, segment):
            return out.RST_COOKIE_OPTION
        # accept queue full; tcp_abort_on_overflow is not asked
        if self.refuses(segment):
            return out.COOKIE_OVERFLOW
        self._add_child(key, segment)
        return out.COOKIE_VALID

    def _kept(self, syn: Segment) -> int:
        """Options of a SYN with a timestamp that its cookie's SYN-ACK agrees to (cookie_init_timestamp)."""
        settings = self.settings
        if not settings.tcp_timestamps:
            return 0
        kept = SACK if syn.sack_ok and settings.tcp_sack else 0
        if self.accepts_ecn(syn):
            kept |= ECN
        return kept | (WINDOW_SCALE if syn.wscale >= 0 and settings.tcp_window_scaling else 0)

    def accepts_ecn(self, syn: Segment) -> bool:
        """Whether the SYN-ACK says ECE (tcp_ecn_create_request); IP's ECN bits of the SYN are taken as 0."""
        return bool(self.settings.tcp_ecn) and syn.flags & (ECE | CWR) == ECE | CWR

    def cookie_option_off(self, key: bytes, ack: Segment) -> bool:
        """Whether an option that the cookie agreed to has been switched off (cookie_timestamp_decode)."""
        settings = self.settings
        if (
            ack.tsval < 0
            or not settings.tcp_timestamps
            or (settings.tcp_sack and settings.tcp_window_scaling and settings.tcp_ecn)
        ):
            return False
        agreed = self.cookies.options(key)
        return bool(
            (agreed & SACK and not settings.tcp_sack)
            or (agreed & WINDOW_SCALE and not settings.tcp_window_scaling)
            or (agreed & ECN and not settings.tcp_ecn and self.profile.cookie_needs_ecn)
        )

    def promote(self, request: Request, segment: Segment) -> None:
        """The request becomes a child at the tail of the accept queue."""
        request.listener.forget(request)
        child = self._add_child(request.key, segment)
        if segment.flags & SYN and self.profile.established_syn_acked:
            child.half_open = True
            child.plain = False
            self.fastopen.pending += 1

    def _add_child(self, key: bytes, segment: Segment) -> Child:
        return self.add_child(key, segment.time_ns, segment.tsval, end_seq(segment))

    def add_child(self, key: bytes, now_ns: int, tsval: int, rcv_nxt: int) -> Child:
        """A child at the tail of the accept queue (inet_csk_reqsk_queue_add)."""
        child = Child(key, self, tsval, rcv_nxt)
        self.stack.ehash[key] = child
        self.accept_queue.append(child)
        self.stack.child_born(child, now_ns)
        return child

    def _fastopen_child(self, request: Request, syn: Segment) -> None:
        """A child straight from the SYN; its request lives on until the handshake is complete."""
        child = self._add_child(request.key, syn)
        child.fastopen = request
        child.plain = False
        request.child = child
        self.fastopen.qlen += 1
        self.fastopen.pending += 1
        self.stack.timers.arm(request, syn.time_ns, 1)

    def remove(self, request: Request) -> None:
        """The request is gone without a child, or with one that Fast Open had made.

        It is counted at this socket, also while it still belongs to a closed one of its group.
        """
        if request.child is not None:
            release(request.child, request)
            die(self.stack, request.child)
            return
        self.forget(request)
        del self.stack.ehash[request.key]

    def forget(self, request: Request) -> None:
        """The request leaves the SYN queue (inet_csk_reqsk_queue_drop)."""
        request.timer = 0
        self.qlen -= 1
        if request.num_timeout == 0:
            self.young -= 1
        if request.listener is not self:
            self.miscounted -= 1
            request.listener.miscounted += 1
        settle(request)

    def rearm(self, request: Request, now_ns: int) -> None:
        """A duplicate SYN was answered: the timer starts its current interval anew."""
        settle(request)
        self.stack.timers.arm(request, now_ns, self.interval(request.num_timeout))

    def interval(self, num_timeout: int) -> int:
        """Seconds until the next timer event after `num_timeout` of them."""
        limit = _MAX_INTERVAL_S
        if self.profile.rto_max_setting:
            limit = min(limit, self.settings.tcp_rto_max_ms // 1000)
        return min(1 << num_timeout, limit)

    def timer_plan(self, request: Request) -> tuple[bool, bool]:
        """(expire, send a SYN-ACK) if the request's timer fires now (reqsk_timer_handler)."""
        if request.child is not None:  # tcp_fastopen_synack_timer
            expire = request.num_timeout >= (self.syncnt or self.settings.tcp_synack_retries + 1)
            return expire, not expire
        retries = self.syncnt or self.settings.tcp_synack_retries
        if self.under_pressure():  # requests that are not young get fewer retries
            young = 2 * self.young
            while retries > _MIN_RETRIES:
                if self.qlen < young:
                    break
                retries -= 1
                young *= 2
        fired = request.num_timeout
        defer = self.defer_accept
        if not defer:
            return fired >= retries, fired < retries
        expire = fired >= retries and (not request.acked or fired >= defer)
        return expire, not expire and (not request.acked or fired >= defer - 1)

    def timer_bounds(self, request: Request) -> tuple[bool, bool]:
        """(may expire, may send a SYN-ACK) at the request's timer, whatever timers have fired before it.

        Under pressure those decide how many retries are left, between _MIN_RETRIES and all.
        """
        if request.child is not None:
            return self.timer_plan(request)
        retries = self.syncnt or self.settings.tcp_synack_retries
        fired = request.num_timeout
        return fired >= min(retries, _MIN_RETRIES), fired < retries

    def under_pressure(self) -> bool:
        """The SYN queue is more than half full."""
        if self.profile.syn_table:
            return 2 * self.qlen >= self.syn_capacity
        return 2 * self.qlen > max(_MIN_PRESSURE, self.backlog) or self.qlen < 0

    def timer_fired(self, request: Request, now_ns: int, *, expire: bool, send: bool) -> None:
        """Carry out what the timer decided."""
        if expire:
            self.remove(request)
            return
        if send:
            request.num_retrans += 1
        if request.num_timeout == 0 and request.child is None:
            self.young -= 1
        request.num_timeout += 1
        earliest, latest = (now_ns, 0) if send else (min(now_ns, request.due), request.deadline)
        self.stack.timers.arm(request, earliest, self.interval(request.num_timeout), latest)

    def adopt(self, key: bytes, synack: Segment) -> Request:
        """A request the model did not make, but whose SYN-ACK the wire shows."""
        syn = asked_by(synack)
        request = Request(key, self, syn, tstamp_ok=syn.tsval >= 0)
        request.synack_seen(synack)
        self._hash(request, synack.time_ns)
        return request

    def revive(self, request: Request, now_ns: int) -> None:
        """A request the model expired, but whose SYN-ACK the kernel repeats: its timer fired once more."""
        self.stack.ehash[request.key] = request
        self.qlen += 1
        if request.num_timeout == 0:
            self.young += 1
        self.timer_fired(request, now_ns, expire=False, send=True)

    def resume(self, key: bytes, syn: Segment, synack: Segment) -> None:
        """Make the request of a handshake that was only counted so far."""
        request = self._request(syn, key)
        request.synack_seen(synack)
        self.stack.ehash[key] = request
        self.stack.timers.arm(request, syn.time_ns, 1)

    def demote(self, child: Child, synack: Segment) -> Request:
        """A child the model made, but whose SYN-ACK the kernel repeats: it is a request still."""
        if child in self.accept_queue:
            self.accept_queue.remove(child)
        return self.adopt(child.key, synack)

    def close(self) -> list[Child]:
        """close() or shutdown(): the children that get a RST, in order (inet_csk_listen_stop).

        Requests stay in the hash until their timer or a segment finds the listener gone.
        """
        self.listening = False
        self.leaves_heirs = self.migrates
        if self.profile.requests_die_with_listener:
            for entry in list(self.stack.ehash.values()):
                if isinstance(entry, Request) and entry.listener is self:
                    self.remove(entry)
        for child in list(self.accept_queue):
            heir = self.heir(child)
            if heir is not None:
                heir.take(child, charged=False)
        victims = [child for child in self.accept_queue if not child.dead]
        self.accept_queue.clear()
        for child in victims:
            child.dead = True
            leave_syn_recv(child)
            if child.fastopen is not None:
                release(child, child.fastopen)
            if self.stack.ehash.get(child.key) is child:
                del self.stack.ehash[child.key]
        return victims

    @property
    def migrates(self) -> bool:
        """Whether what it has would move to another socket of its group if it were closed now."""
        return self.profile.migrates_requests and bool(self.settings.tcp_migrate_req)

    def heir(self, pending: Request | Child) -> ListenSocket | None:
        """Who gets what this closed socket has (reuseport_migrate_sock); None: nobody."""
        if not self.leaves_heirs or not self.settings.tcp_migrate_req:
            return None
        members = [mate for mate in self.mates if mate.listening]
        return self.stack.heir(pending, members) if members else None

    def take(self, pending: Request | Child, *, charged: bool = True) -> None:
        """What another socket had belongs to this one now, whether there is room or not.

        `charged`: a Fast Open child takes a place in this socket's Fast Open queue.
        """
        before = pending.listener
        if isinstance(pending, Child):
            before.accept_queue.remove(pending)
            self.accept_queue.append(pending)
            give_up_place(pending, before.fastopen, self.fastopen, charged=charged)
            if pending.fastopen is not None:
                pending.fastopen.listener = self
        else:
            settle(pending)
            for listener, step in ((before, -1), (self, 1)):
                listener.qlen += step
                listener.young += step * (pending.num_timeout == 0)
        pending.listener = self


def settle(request: Request) -> None:
    """It is no longer open whether the request's timer has ended it."""
    if request.expiring:
        request.expiring = False
        request.listener.expiring -= 1


def at_timer(request: Request) -> ListenSocket | None:
    """Whose request it is when its timer fires: a closed socket's moves; None: nobody's."""
    listener = request.listener
    if listener.listening or request.child is not None:
        return listener
    heir = listener.heir(request)
    if heir is not None:
        heir.take(request)
    return heir


def defer_accept_retries(seconds: int) -> int:
    """TCP_DEFER_ACCEPT seconds as a number of retransmissions (secs_to_retrans)."""
    if seconds <= 0:
        return 0
    retries, period, timeout = 1, 1, 1
    while seconds > period and retries < 255:  # noqa: PLR2004 - u8
        retries += 1
        timeout = min(2 * timeout, _MAX_INTERVAL_S)
        period += timeout
    return retries
