"""A connection that is no request any more: a child in or after the accept queue, and TIME_WAIT.

Follows just as much of its life as the listen path needs: whether its 4-tuple is still taken, and
by what. Knows no data, no windows, no congestion control.

Sources: net/ipv4/tcp_input.c (tcp_validate_incoming, tcp_rcv_state_process),
net/ipv4/tcp_minisocks.c (tcp_timewait_state_process).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backlogtrace.kernel import outcomes as out
from backlogtrace.kernel.fastopen import leave_syn_recv, pending_receive, release
from backlogtrace.segment import ACK, FIN, RST, SYN, end_seq, seq_after

if TYPE_CHECKING:
    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.kernel.request import Request
    from backlogtrace.kernel.stack import Stack
    from backlogtrace.segment import Handshake, Segment

TIMEWAIT_NS = 60_000_000_000
_RECYCLED_NS = 700_000_000  # 3.5 retransmission timeouts, of 200 ms at least
_NS = 1_000_000_000
_PAWS_S = 60
_U32 = 0xFFFFFFFF
_CHALLENGE_NS = 500_000_000  # tcp_invalid_ratelimit default


class Child:
    """A full socket made by the listener (class attributes are initial values)."""

    plain = True
    """Nothing special about it: segments without SYN, FIN or RST are simply passed."""
    accepted = False
    fastopen: Request | None = None
    """Fast Open: the request whose handshake is not complete yet."""
    half_open = False
    """Made by a SYN-ACK, which it then challenges as a connection would: still in SYN_RECV."""
    dead = False
    doubtful = False
    """It may be over: a RST may have ended it, or the last ACK of its closing was not seen."""
    fin_seq_in: int | None = None
    """Sequence number after the client's FIN."""
    fin_seq_out: int | None = None
    """Sequence number after the server's FIN."""
    server_closed_first = False
    last_challenge: int | None = None

    def __init__(self, key: bytes, listener: ListenSocket, tsval: int, rcv_nxt: int) -> None:
        self.key = key
        self.listener = listener
        self.ts_recent = tsval
        self.rcv_nxt = rcv_nxt
        """What the server acknowledged last, as far as its packets were seen."""


class TimeWait:
    """A 4-tuple in TIME_WAIT."""

    __slots__ = ("key", "last_ack", "rcv_nxt", "ts_recent", "until")

    def __init__(self, key: bytes, rcv_nxt: int, ts_recent: int, now_ns: int) -> None:
        self.key = key
        self.rcv_nxt = rcv_nxt
        self.ts_recent = ts_recent
        self.until = now_ns + TIMEWAIT_NS
        self.last_ack: int | None = None


class PeerStamps:
    """The last timestamp of each address that had a connection in TIME_WAIT (struct tcp_metrics_block).

    Kept while tcp_tw_recycle is on.
    """

    def __init__(self, needs_timestamp: bool) -> None:
        self._needs_timestamp = needs_timestamp
        self._stamps: dict[bytes, tuple[int, int]] = {}

    def remember(self, key: bytes, tsval: int, now_ns: int) -> None:
        """A connection with timestamps enters TIME_WAIT (tcp_remember_stamp)."""
        address = key[: len(key) // 2 - 2]
        known, stamp = self._stamps.get(address, (tsval, 0))
        if not seq_after(known, tsval) or now_ns // _NS - stamp > _PAWS_S:
            self._stamps[address] = tsval, now_ns // _NS

    def proven(self, syn: Segment) -> bool:
        """Whether a SYN's timestamp is not older than its address's last one of this minute."""
        known = self._stamps.get(syn.src[:-2])
        if known is None or syn.time_ns // _NS - known[1] >= _PAWS_S:
            return True
        if syn.tsval < 0:
            return not self._needs_timestamp
        return not seq_after(known[0], (syn.tsval + 1) & _U32)


def child_receive(stack: Stack, child: Child, segment: Segment) -> Outcome:
    """A segment for a full socket: passed, unless it is a SYN or ends the connection."""
    flags = segment.flags
    if child.half_open and flags & (SYN | ACK) == ACK:
        leave_syn_recv(child)
    if child.fastopen is not None:
        outcome = pending_receive(child, child.fastopen, segment)
        if outcome is out.FASTOPEN_ABORTED:
            die(stack, child)
        return outcome
    if not flags & (SYN | RST | FIN) and child.fin_seq_out is None:
        return out.PASSED
    if flags & RST:
        if segment.seq == child.rcv_nxt:
            die(stack, child)
        else:  # challenged or ignored, or data not seen lies between: what follows will tell
            child.doubtful = True
            child.plain = False
            stack.challenges.may_be_sent(segment.time_ns)
        return out.PASSED
    if flags & SYN:
        if not stack.profile.established_syn_acked:
            return out.CHILD_SYN_SILENT
        if recently_challenged(child, segment):
            return out.CHILD_SYN_LIMITED
        child.last_challenge = segment.time_ns
        return out.CHILD_SYN if stack.challenges_too(segment) else out.CHILD_SYN_UNANSWERED
    if segment.tsval >= 0:
        child.ts_recent = segment.tsval
    if flags & FIN and child.fin_seq_in is None:
        child.fin_seq_in = end_seq(segment)
        child.server_closed_first = child.fin_seq_out is not None
    _finish(stack, child, segment)
    return out.PASSED_CLOSE


def recently_challenged(child: Child, segment: Segment) -> bool:
    """tcp_oow_rate_limited() of a connection."""
    return child.last_challenge is not None and segment.time_ns - child.last_challenge < _CHALLENGE_NS


def child_sent(stack: Stack, child: Child, segment: Segment) -> None:
    """The server's side sent something on the connection."""
    if segment.flags == ACK and not segment.length and segment.ack == child.rcv_nxt:
        child.last_challenge = segment.time_ns  # a duplicate ACK: one limit holds for all of them
    child.rcv_nxt = segment.ack
    if segment.flags & RST:
        if child.fastopen is not None:
            release(child, child.fastopen)
        die(stack, child)
        return
    if child.doubtful:  # who answers is there
        child.doubtful = False
        child.plain = child.fin_seq_out is None
    if segment.flags & FIN:
        leave_syn_recv(child)
        if child.fastopen is not None and child.fin_seq_out is None:
            child.listener.fastopen.pending -= 1  # closed before the handshake is complete: FIN_WAIT1
        child.fin_seq_out = end_seq(segment)
        child.plain = False
        if child.fin_seq_in is not None:  # gone with the client's ACK, which the capture may not show
            child.doubtful = True
            stack.leaving.append((segment.time_ns + TIMEWAIT_NS, child))
            _forget_old(stack, segment.time_ns)


def closed(stack: Stack, child: Child, item: Handshake, now_ns: int) -> None:
    """A FIN of each side, and nothing between: child_receive() and child_sent() of both in one.

    May be called before the time of the FINs when nobody asks about the connection in between.
    """
    tsval = item.fin_tsval if item.fin_tsval >= 0 else child.ts_recent
    entry: Child | TimeWait = child
    if item.server_first:
        child.dead = True
        entry = stack.ehash[child.key] = TimeWait(child.key, item.fin_in, tsval, item.last_ns)
    else:
        child.ts_recent = tsval
        child.rcv_nxt = item.fin_ack
        child.fin_seq_in, child.fin_seq_out = item.fin_in, item.fin_out
        child.plain = False
        child.doubtful = True
    stack.leaving.append((item.last_ns + TIMEWAIT_NS, entry))
    _forget_old(stack, now_ns)


def outlived(stack: Stack, child: Child, segment: Segment) -> bool:
    """Whether a connection that may be over is still there when `segment` arrives: ask the wire."""
    answer = stack.witness(segment)
    limited = recently_challenged(child, segment) or not stack.challenges.allowed(segment.time_ns)
    unanswered = segment.flags & RST or not segment.flags & (SYN | ACK) or (segment.flags & SYN and limited)
    if answer is None and unanswered:
        return True  # no answer is what it gets anyway: the doubt stays
    alive = answer == "ack" or (answer is None and not segment.flags & SYN)
    if alive:
        child.doubtful = False
        child.plain = child.fin_seq_out is None
    else:
        die(stack, child)
    return alive


def closing_receive(stack: Stack, child: Child, segment: Segment) -> Outcome | None:
    """A SYN for a connection the server has closed and the client has not; None when it is over.

    Whether a socket or just its TIME_WAIT stand-in is left, and for how long, depends on how the
    application closed it: ask the wire. A stand-in in FIN_WAIT2 would reset it (tcp_timewait_state_process).
    """
    answer = stack.witness(segment)
    if answer == "synack":
        die(stack, child)
        return None
    return out.CLOSING_SYN_RST if answer == "rst" else out.CHILD_SYN if answer else out.CHILD_SYN_SILENT


def die(stack: Stack, child: Child) -> None:
    """The socket is gone; if it was not accepted it still occupies the accept queue."""
    child.dead = True
    leave_syn_recv(child)
    if stack.ehash.get(child.key) is child:
        del stack.ehash[child.key]


def _finish(stack: Stack, child: Child, segment: Segment) -> None:
    """Both FINs acknowledged: TIME_WAIT where the server closed first, else nothing is left."""
    if child.fin_seq_out is None or child.fin_seq_in is None or not segment.flags & ACK:
        return
    if seq_after(child.fin_seq_out, segment.ack):
        return
    die(stack, child)
    if child.server_closed_first:
        waiting = TimeWait(child.key, child.fin_seq_in, child.ts_recent, segment.time_ns)
        if stack.recycles and child.ts_recent >= 0:
            stack.peers.remember(child.key, child.ts_recent, segment.time_ns)
            waiting.until = segment.time_ns + _RECYCLED_NS
        stack.ehash[child.key] = waiting
        stack.leaving.append((waiting.until, waiting))
    _forget_old(stack, segment.time_ns)


def _forget_old(stack: Stack, now_ns: int) -> None:
    """What is over leaves the hash, so that it does not grow with the capture."""
    leaving = stack.leaving
    while leaving and leaving[0][0] < now_ns:
        entry = leaving.popleft()[1]
        if stack.ehash.get(entry.key) is entry:
            del stack.ehash[entry.key]


def stamp_order(waiting: TimeWait, segment: Segment) -> tuple[bool, bool]:
    """(older, newer): the segment's timestamp against the connection's last; neither without both."""
    if segment.tsval < 0 or waiting.ts_recent <= 0:
        return False, False
    return seq_after(waiting.ts_recent, segment.tsval), seq_after(segment.tsval, waiting.ts_recent)


def timewait_receive(stack: Stack, waiting: TimeWait, segment: Segment) -> Outcome | None:
    """A segment for a TIME_WAIT 4-tuple; None when a SYN may reuse it (and it is gone)."""
    flags = segment.flags
    if flags & RST:
        if segment.seq == waiting.rcv_nxt and not stack.settings.tcp_rfc1337:
            del stack.ehash[waiting.key]
        return out.TIMEWAIT_RST
    old, newer = stamp_order(waiting, segment)
    if flags & (SYN | ACK) == SYN:
        if not old and (seq_after(segment.seq, waiting.rcv_nxt) or newer):
            del stack.ehash[waiting.key]
            return None
    elif not old and segment.seq == waiting.rcv_nxt and end_seq(segment) == segment.seq:
        return out.TIMEWAIT_SILENT
    if old:
        waiting.until = segment.time_ns + TIMEWAIT_NS
    now = segment.time_ns
    if (
        stack.profile.timewait_acks_limited
        and waiting.last_ack is not None
        and now - waiting.last_ack < _CHALLENGE_NS
    ):
        return out.TIMEWAIT_LIMITED
    waiting.last_ack = now
    return out.TIMEWAIT_ACK
