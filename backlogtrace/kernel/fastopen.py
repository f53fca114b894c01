"""TCP Fast Open on the server: which SYN makes a child at once, and what becomes of it.

The cookie's key is unknown; a cookie counts as valid when a SYN-ACK carried the same one to the
same client before, else the wire is asked. Not modelled: the backup key's own counter, per-route
and per-socket exemption from cookies.

Sources: net/ipv4/tcp_fastopen.c (tcp_try_fastopen, tcp_fastopen_queue_check), net/ipv4/
inet_connection_sock.c (reqsk_fastopen_remove), net/ipv4/tcp_timer.c (tcp_fastopen_synack_timer).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from backlogtrace.kernel import outcomes as out
from backlogtrace.segment import ACK, RST, SYN, end_seq

if TYPE_CHECKING:
    from backlogtrace.kernel.connection import Child
    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.kernel.request import Request
    from backlogtrace.segment import Segment

SERVER = 0x2
COOKIE_NOT_REQUIRED = 0x200
ALL_LISTENERS = 0x400
EVERY_SYN = 0x1000
_RST_LIST_NS = 60_000_000_000


class FastOpenQueue:
    """Children in SYN_RECV and the resets that still occupy a place (struct fastopen_queue)."""

    __slots__ = ("max_qlen", "pending", "qlen", "rst_list")

    def __init__(self) -> None:
        self.max_qlen = 0
        """0: Fast Open is off for this listener."""
        self.qlen = 0
        self.pending = 0
        """Children in SYN_RECV: their handshake is not complete, and the application has not closed them.

        Among them those without Fast Open that a SYN-ACK made."""
        self.rst_list: deque[int] = deque()
        """When the places of connections that were reset after accept() become free, ns."""

    def has_room(self, now_ns: int) -> bool:
        """tcp_fastopen_queue_check(): room, or a place of the RST list that is free again."""
        if self.qlen < self.max_qlen:
            return True
        if not self.rst_list or self.rst_list[0] > now_ns:
            return False
        self.rst_list.popleft()
        self.qlen -= 1
        return True


def classify(listener: ListenSocket, syn: Segment) -> tuple[Outcome, bool]:
    """What tcp_try_fastopen makes of a SYN that is to be queued: (outcome, whether a child is made)."""
    flags = listener.settings.tcp_fastopen
    option = syn.fastopen if listener.profile.fastopen_option_34 else None
    asks = option is not None and not option
    every = listener.profile.fastopen_flag_1000 and flags & EVERY_SYN and option is None
    free = flags & COOKIE_NOT_REQUIRED and syn.length
    counted = listener.profile.fastopen_counts_every_syn and (free or every)
    meant = syn.length or option is not None or every
    if not flags & SERVER or not meant or not listener.fastopen.max_qlen:
        if counted:
            return out.QUEUED_FASTOPEN_COUNTED, False
        return out.QUEUED_COOKIE_REQUEST if asks else out.QUEUED, False
    if not listener.fastopen.has_room(syn.time_ns):
        return out.QUEUED_FASTOPEN_FULL_REQUEST if asks else out.QUEUED_FASTOPEN_FULL, False
    if every:
        return out.FASTOPEN_NO_COOKIE, True
    if flags & COOKIE_NOT_REQUIRED and (syn.length or listener.profile.dataless_fastopen):
        return out.FASTOPEN_NO_COOKIE_REQUEST if asks else out.FASTOPEN_NO_COOKIE, True
    if asks:
        return out.QUEUED_COOKIE_REQUEST, False
    if option is None:
        return out.QUEUED, False
    if _cookie_valid(listener, syn, option):
        return out.FASTOPEN, True
    return out.QUEUED_COOKIE_INVALID, False


def _cookie_valid(listener: ListenSocket, syn: Segment, cookie: bytes) -> bool:
    known = listener.stack.fastopen_cookies.get(syn.src[:-2] + syn.dst[:-2])
    if known is not None:
        return known == cookie
    synack = listener.stack.synack_of(syn)
    if synack is None:
        return False
    if syn.length:
        return synack.ack == end_seq(syn)
    return synack.fastopen is None


def pending_receive(child: Child, request: Request, segment: Segment) -> Outcome:
    """A segment for a child whose handshake is not complete (tcp_check_req with fastopen)."""
    flags = segment.flags & (RST | SYN | ACK)
    listener = child.listener
    if flags & RST:
        if request.snt_isn is not None and flags & ACK and segment.ack != (request.snt_isn + 1) & 0xFFFFFFFF:
            return out.IGNORED_WRONG_ACK_RST
        parked = child.accepted and listener.listening
        release(child, request)
        if parked:
            listener.fastopen.qlen += 1
            listener.fastopen.rst_list.append(segment.time_ns + _RST_LIST_NS)
        return out.FASTOPEN_ABORTED
    if flags & SYN:
        request.num_retrans += 1
        listener.rearm(request, segment.time_ns)
        return out.RETRANSMITTED
    if not flags & ACK:
        return out.NO_ACK
    release(child, request)
    return out.FASTOPEN_COMPLETED


def leave_syn_recv(child: Child) -> None:
    """A child that a SYN-ACK had made goes on to another state."""
    if child.half_open:
        child.half_open = False
        child.plain = child.fin_seq_out is None
        child.listener.fastopen.pending -= 1


def give_up_place(child: Child, before: FastOpenQueue, after: FastOpenQueue, *, charged: bool) -> None:
    """A child moves to another listener, and to its queue if it is in SYN_RECV."""
    if child.fastopen is not None:
        before.qlen -= 1
        after.qlen += charged
    if child.half_open or (child.fastopen is not None and child.fin_seq_out is None):
        before.pending -= 1
        after.pending += 1


def release(child: Child, request: Request) -> None:
    """The handshake of a Fast Open child is over, one way or the other (reqsk_fastopen_remove)."""
    request.timer = 0
    child.fastopen = None
    child.plain = child.fin_seq_out is None
    queue = child.listener.fastopen
    queue.qlen -= 1
    queue.pending -= child.fin_seq_out is None
