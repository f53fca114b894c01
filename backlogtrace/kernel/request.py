"""A half-open connection (request socket) and what each segment does to it.

One function per kernel function, guards in kernel order. Refuses to know listeners' limits beyond
asking them, and when timers fire.

Source: net/ipv4/tcp_minisocks.c (tcp_check_req).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backlogtrace.kernel import outcomes as out
from backlogtrace.segment import ACK, FIN, RST, SYN, end_seq, seq_after

if TYPE_CHECKING:
    from backlogtrace.kernel.connection import Child
    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.segment import Segment

_MASK = 0xFFFFFFFF
_DEFAULT_WINDOW = 64240  # until the SYN-ACK is seen
_PAWS_RST_LIMIT_S = 60


class Request:
    """State of one request socket; `num_timeout` == 0 means young.

    Plain class attributes are the initial values: most requests live for a round trip only, and a
    flood makes a million of them.
    """

    num_timeout = 0
    num_retrans = 0
    acked = False
    last_oow: int | None = None
    snt_isn: int | None = None
    """The kernel's ISN; None until its SYN-ACK is seen."""
    rcv_wnd = _DEFAULT_WINDOW
    synack_frame = 0
    """Frame of the last SYN-ACK seen."""
    snt_tsval_first: int | None = None
    snt_tsval_last: int | None = None
    expiring = False
    """Its timer may have removed it already."""
    child: Child | None = None
    """Fast Open: the child that exists already."""
    unanswered = False
    """Its SYN-ACK is still to be seen."""
    timer = 0
    """Token of the pending timer; 0: none."""
    fired_ns = nominal_ns = 0
    """When the timer was due that fired last, and when the one is that is pending; used where the kernel
    looks only every 200 ms."""
    due = 0
    deadline = 0
    """Earliest and latest time (ns) at which the timer fires."""

    def __init__(self, key: bytes, listener: ListenSocket, syn: Segment, *, tstamp_ok: bool) -> None:
        self.key = key
        self.listener = listener
        self.born = syn.time_ns
        self.frame = syn.frame
        self.rcv_isn = syn.seq
        self.tstamp_ok = tstamp_ok
        self.ts_recent = syn.tsval if tstamp_ok else 0

    def synack_seen(self, synack: Segment) -> None:
        """Learn what only the wire tells: the kernel's ISN, window and timestamps."""
        self.snt_isn = synack.seq
        self.synack_frame = synack.frame
        self.rcv_wnd = synack.window
        if synack.tsval >= 0:
            if self.snt_tsval_first is None:
                self.snt_tsval_first = synack.tsval
            self.snt_tsval_last = synack.tsval


def in_window(seq: int, end: int, start: int, size: int) -> bool:
    """tcp_in_window(): the segment [seq, end) against [start, start + size)."""
    if seq == start:
        return True
    stop = (start + size) & _MASK
    if seq_after(end, start) and seq_after(stop, seq):
        return True
    return seq == stop and seq == end


def rate_limited(request: Request, segment: Segment) -> bool:
    """tcp_oow_rate_limited(): at most one answer per tcp_invalid_ratelimit; data is never limited."""
    if request.last_oow is None or not _limits(segment):
        return False
    clock = request.listener.clock
    limit = request.listener.settings.tcp_invalid_ratelimit * clock.hz // 1000
    return 0 <= clock.tick(segment.time_ns) - request.last_oow < limit


def _limits(segment: Segment) -> bool:
    """Whether an answer to it counts for the limit."""
    return not segment.length or bool(segment.flags & SYN)


def _suppressed(request: Request, segment: Segment) -> bool:
    """Whether its answer is suppressed; one that is not is remembered."""
    if rate_limited(request, segment):
        return True
    if _limits(segment):
        request.last_oow = request.listener.clock.tick(segment.time_ns)
    return False


def old_timestamp(request: Request, segment: Segment) -> bool:
    """tcp_paws_reject() with the request's ts_recent."""
    if segment.tsval < 0 or not request.ts_recent:
        return False
    if not seq_after(request.ts_recent, segment.tsval):
        return False
    return not (segment.flags & RST and 1 << request.num_timeout >= _PAWS_RST_LIMIT_S)


def wrong_tsecr(request: Request, segment: Segment) -> bool:
    """Whether the echoed timestamp was never sent (checked since 6.15)."""
    first, last = request.snt_tsval_first, request.snt_tsval_last
    if segment.tsecr <= 0 or not request.tstamp_ok or first is None or last is None:
        return False
    return seq_after(first, segment.tsecr) or seq_after(segment.tsecr, last)


def check_req(  # noqa: PLR0911 - kernel order is the content
    request: Request, segment: Segment, heir: ListenSocket | None = None
) -> Outcome:
    """What a segment does to the request it belongs to (tcp_check_req).

    `heir`: the socket that stands in for its listener, which is closed.
    """
    listener = heir or request.listener
    profile = listener.profile
    flags = segment.flags & (RST | SYN | ACK)
    paws = old_timestamp(request, segment)
    tsecr = profile.checks_tsecr and wrong_tsecr(request, segment)
    rcv_nxt = (request.rcv_isn + 1) & _MASK

    # the client's SYN again
    if segment.seq == request.rcv_isn and flags == SYN and not paws:
        if profile.duplicate_syn_limited and _suppressed(request, segment):
            return out.DUPLICATE_LIMITED
        request.num_retrans += 1
        listener.rearm(request, segment.time_ns)
        return out.RETRANSMITTED if profile.counts_syn_retrans else out.RETRANSMITTED_UNCOUNTED

    # acknowledges something that was not sent: a matter for the listener
    if (
        flags & ACK
        and not (flags & RST and profile.rst_needs_exact_seq)
        and request.snt_isn is not None
        and segment.ack != (request.snt_isn + 1) & _MASK
    ):
        return listener.wrong_ack(request, segment)

    # outside the window, or an old or foreign timestamp
    if (
        paws
        or tsecr
        or (segment.seq != rcv_nxt and not in_window(segment.seq, end_seq(segment), rcv_nxt, request.rcv_wnd))
    ):
        answer, limited, silent = (
            (out.PAWS, out.PAWS_LIMITED, out.PAWS_RST)
            if paws
            else (out.TSECR, out.TSECR_LIMITED, out.TSECR_RST)
            if tsecr
            else (out.WINDOW, out.WINDOW_LIMITED, out.WINDOW_RST)
        )
        if flags & RST:
            return silent
        return limited if profile.out_of_window_limited and _suppressed(request, segment) else answer

    if profile.request_takes_tsval and segment.tsval >= 0 and not seq_after(segment.seq, rcv_nxt):
        request.ts_recent = segment.tsval

    if segment.seq == request.rcv_isn:
        flags &= ~SYN

    # a RST that does not hit rcv_nxt is only challenged
    if profile.rst_needs_exact_seq and flags & RST and segment.seq != rcv_nxt:
        if _suppressed(request, segment):
            return out.CHALLENGE_LIMITED
        return out.CHALLENGE if listener.stack.challenges_too(segment) else out.CHALLENGE_UNANSWERED

    if flags & (RST | SYN):
        listener.remove(request)
        return out.ABORTED_RST if flags & RST else out.ABORTED_SYN

    if not flags & ACK:
        return out.NO_ACK

    # TCP_DEFER_ACCEPT: a bare ACK is not enough
    if (
        request.num_timeout < listener.defer_accept
        and not segment.length
        and not segment.flags & FIN
        and segment.seq == rcv_nxt
    ):
        request.acked = True
        return out.DEFERRED

    # accept queue full (tcp_v4_syn_recv_sock)
    if listener.refuses(segment):
        if listener.settings.tcp_abort_on_overflow:
            listener.remove(request)
            return out.ABORT_ON_OVERFLOW
        request.acked = True
        return out.OVERFLOW

    listener.promote(request, segment)
    return out.ESTABLISHED
