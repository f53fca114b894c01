"""The checks that a segment meets on its way to a decision, in kernel order, with their values.

For showing: `Stack.receive` decides, this only looks, before it does. That both agree is held by a test.
Refuses to change anything.

Sources: those of kernel.stack, kernel.listener, kernel.request and kernel.connection.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backlogtrace.kernel.connection import Child, TimeWait, recently_challenged, stamp_order
from backlogtrace.kernel.fastopen import EVERY_SYN, classify
from backlogtrace.kernel.request import Request, in_window, old_timestamp, rate_limited, wrong_tsecr
from backlogtrace.segment import ACK, FIN, RST, SYN, end_seq, flag_text, seq_after

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.kernel.stack import Stack
    from backlogtrace.segment import Segment

_MASK = 0xFFFFFFFF
_ALWAYS = 2


@dataclass(frozen=True, slots=True)
class Check:
    """One question the kernel asks of a segment."""

    question: str
    values: str
    """What it compares."""
    holds: bool | None
    """The answer; None where only the wire can tell."""
    ends: str = ""
    """Rule (`Outcome.rule`) that decides if the answer is yes; empty where the path goes on."""


def path(stack: Stack, segment: Segment) -> list[Check]:
    """The checks up to the first that ends the path, as the segment finds them when it comes.

    An answer that depends on what is not known (accept() calls, a cookie's minute) is taken for no; `settle`
    puts that right.
    """
    found = []
    for check in _checks(stack, segment):
        found.append(check)
        if check.holds and check.ends:
            break
    return found


def wrong_checksum() -> list[Check]:
    """The only check of a packet with a wrong checksum, before any socket is looked for."""
    return [Check("wrong checksum", "of TCP or IPv4", holds=True, ends="host.wrong_checksum")]


def settle(checks: list[Check], outcome: Outcome) -> list[Check]:
    """The same checks once the outcome is known: what was open is answered."""
    settled = []
    for check in checks:
        fired = check.ends == outcome.rule
        settled.append(replace(check, holds=fired) if check.holds is None and check.ends else check)
        if settled[-1].holds and check.ends:
            break
    return settled


def _checks(stack: Stack, segment: Segment) -> Iterator[Check]:
    entry = stack.ehash.get(segment.src + segment.dst)
    if type(entry) is Child:
        yield from _child(entry, segment)
        return
    if type(entry) is Request:
        heir = entry.listener if entry.listener.listening else entry.listener.heir(entry)
        if heir is not None:
            moved = "" if heir is entry.listener else "; its listener is closed, another one stands in"
            values = f"since frame {entry.frame}{moved}"
            yield Check("a request of these addresses and ports", values, holds=True)
            yield from _request(entry, segment, heir)
            return
    reused = False
    if type(entry) is TimeWait and segment.time_ns < entry.until:
        yield Check("a connection of these addresses and ports", "in TIME_WAIT", holds=True)
        yield from _timewait(entry, segment)
        reused = True
    listener = stack.listener(segment)
    rule = "host.no_listener"
    yield Check("nobody listens", "a listening socket" if listener else "none", listener is None, rule)
    if listener is not None and reused:
        yield from _syn(listener, segment, timewait=True)
    elif listener is not None:
        yield from _listen(listener, segment)


def _listen(listener: ListenSocket, segment: Segment) -> Iterator[Check]:
    """ListenSocket.receive()."""
    flags = segment.flags
    yield Check("a RST", flag_text(flags), bool(flags & RST), "listen.client_rst")
    if flags & ACK:
        yield Check("an ACK that nobody waits for", flag_text(flags), holds=True)
        yield from _stray_ack(listener, segment, "listen.no_request", "cookie.cookie_invalid")
    else:
        odd = not flags & SYN or bool(flags & FIN)
        yield Check("no SYN, or SYN with FIN", flag_text(flags), odd, "listen.bad_flags")
        yield from _syn(listener, segment)


def _syn(listener: ListenSocket, syn: Segment, *, timewait: bool = False) -> Iterator[Check]:
    """ListenSocket.conn_request()."""
    settings, profile = listener.settings, listener.profile
    cookies = settings.tcp_syncookies
    if profile.syncookies_2_is_1:
        cookies = min(cookies, 1)
    plain = not timewait or profile.timewait_syn_is_plain
    full = plain and not 0 <= listener.qlen < listener.syn_capacity
    lost = "listen.syn_queue_full" if not cookies else ""
    yield Check("SYN queue full", _fits(listener.qlen, "requests", listener.syn_capacity), full, lost)
    always = plain and cookies == _ALWAYS
    cookie = full or always
    if cookie:
        yield Check("SYN cookies on", f"tcp_syncookies = {cookies}", holds=True)
    both = "listen.both_queues_full" if cookie else "listen.accept_queue_full"
    check = _accept_queue(listener, both)
    if profile.full_queue_admits_young >= 0:
        crowded = listener.young > profile.full_queue_admits_young
        values = (
            f"{check.values}; {listener.young} young requests, more than {profile.full_queue_admits_young}"
        )
        check = Check(
            "accept queue full, and requests young", values, check.holds if crowded else False, both
        )
    yield check
    if cookie:
        rule = "listen.syncookies_always" if always else "listen.syn_queue_full"
        yield Check("otherwise", "a cookie is sent, nothing is kept", holds=True, ends=rule)
        return
    if plain and listener.stack.recycles:
        old = not listener.stack.peers.proven(syn)
        yield Check("older timestamp than its address's last", _stamp(syn), old, "listen.tw_recycle_paws")
    elif plain and not settings.tcp_syncookies:
        limit = settings.tcp_max_syn_backlog
        values = f"{limit} - {listener.qlen} < {limit >> 2} (a quarter of tcp_max_syn_backlog)"
        reserved = limit - listener.qlen < limit >> 2
        yield Check("the rest kept for known peers", values, reserved, "listen.syn_queue_reserved")
    if syn.fastopen is not None or syn.length or settings.tcp_fastopen & EVERY_SYN:
        yield from _fastopen(listener, syn)
    rule = "listen.timewait_reuse" if timewait else "listen.new_request"
    yield Check("otherwise", "a request is made", holds=True, ends=rule)


def _fastopen(listener: ListenSocket, syn: Segment) -> Iterator[Check]:
    queue = listener.fastopen
    before = queue.qlen, deque(queue.rst_list)  # asking for room may free a place
    outcome, child = classify(listener, syn)
    queue.qlen, queue.rst_list = before
    rule = outcome.rule if outcome.rule.startswith("fastopen.") else ""
    values = f"tcp_fastopen = {listener.settings.tcp_fastopen:#x}, {queue.qlen} of {queue.max_qlen} pending"
    if child:
        yield _accept_queue(listener, "fastopen.accept_queue_full")
    yield Check("Fast Open", values, bool(rule), rule)


def _stray_ack(listener: ListenSocket, ack: Segment, nothing: str, invalid: str) -> Iterator[Check]:
    """ListenSocket._stray_ack()."""
    yield Check("SYN and ACK in one", flag_text(ack.flags), bool(ack.flags & SYN), nothing)
    cookies = listener.settings.tcp_syncookies
    yield Check("SYN cookies off", f"tcp_syncookies = {cookies}", not cookies, nothing)
    recent = listener.cookies.recent_overflow(ack.time_ns)
    window = f"looked at for {listener.profile.cookie_window_s} s after it"
    yield Check("last cookie too long ago", window, not recent, nothing)
    verdict = listener.cookies.verify(ack.src + ack.dst, ack)
    values = "one that was sent to this client" if verdict != "invalid" else "none that was sent to it"
    yield Check("acknowledges no cookie", values, verdict == "invalid", invalid)
    expired = None if verdict == "unclear" else verdict == "expired"
    minutes = f"{listener.profile.cookie_max_age} cookie minutes"
    yield Check("cookie too old", minutes, expired, "cookie.cookie_expired")
    off = listener.cookie_option_off(ack.src + ack.dst, ack)
    settings = listener.settings
    values = f"tcp_sack = {settings.tcp_sack}, tcp_window_scaling = {settings.tcp_window_scaling}"
    if listener.profile.cookie_needs_ecn:
        values += f", tcp_ecn = {settings.tcp_ecn}"
    yield Check("an option of the cookie is off by now", values, off, "cookie.option_switched_off")
    yield _accept_queue(listener, "cookie.cookie_accept_queue_full")
    yield Check("otherwise", "the handshake is complete", holds=True, ends="cookie.cookie_valid")


def _request(request: Request, segment: Segment, listener: ListenSocket) -> Iterator[Check]:
    """check_req()."""
    profile = listener.profile
    flags = segment.flags & (RST | SYN | ACK)
    seq, start = segment.seq, (request.rcv_isn + 1) & _MASK
    old = old_timestamp(request, segment)
    foreign = profile.checks_tsecr and wrong_tsecr(request, segment)
    limited = rate_limited(request, segment)

    again = seq == request.rcv_isn and flags == SYN and not old
    if again and profile.duplicate_syn_limited:
        values = f"tcp_invalid_ratelimit = {listener.settings.tcp_invalid_ratelimit} ms"
        yield Check("SYN again, too soon after the last", values, limited, "request.duplicate_rate_limited")
    values = f"{flag_text(segment.flags)}, seq {_offset(seq, request.rcv_isn)}"
    yield Check("the client's SYN again", values, again, "request.duplicate_syn")

    if flags & ACK and not (flags & RST and profile.rst_needs_exact_seq):
        isn = request.snt_isn
        wrong = isn is not None and segment.ack != (isn + 1) & _MASK
        values = "SYN-ACK not captured" if isn is None else f"ack {_offset(segment.ack, isn)}, to be +1"
        if wrong and profile.wrong_ack_may_be_cookie and not flags & RST:
            yield Check("acknowledges what was not sent", values, wrong)
            yield from _stray_ack(listener, segment, "request.wrong_ack", "request.wrong_ack")
            return
        rule = "request.wrong_ack_rst" if flags & RST else "request.wrong_ack"
        yield Check("acknowledges what was not sent", values, wrong, rule)

    yield Check("timestamp older than the SYN's", _stamp(segment), old, "request.paws")
    if profile.checks_tsecr:
        yield Check("echoes a timestamp never sent", f"tsecr {segment.tsecr}", foreign, "request.wrong_tsecr")
    outside = seq != start and not in_window(seq, end_seq(segment), start, request.rcv_wnd)
    values = f"seq {_offset(seq, request.rcv_isn)}, window +1 to +{request.rcv_wnd}"
    yield Check("outside the window", values, outside, "request.out_of_window")

    if flags & RST and profile.rst_needs_exact_seq and seq != start and not limited:
        yield _challenge(listener, segment, "request.challenge_ack_limit")
    if flags & RST and profile.rst_needs_exact_seq:
        values = f"seq {_offset(seq, request.rcv_isn)}, to be +1"
        yield Check("RST that does not hit", values, seq != start, "request.inexact_rst")
    rest = flags & ~SYN if seq == request.rcv_isn else flags
    if rest & (RST | SYN):
        rule = "request.client_rst" if rest & RST else "request.client_syn"
        yield Check("RST or SYN in the window", flag_text(segment.flags), holds=True, ends=rule)
    yield Check("no ACK flag", flag_text(segment.flags), not rest & ACK, "request.no_ack_flag")

    if listener.defer_accept:
        bare = not segment.length and not segment.flags & FIN and seq == start
        values = f"{request.num_timeout} of {listener.defer_accept} timer rounds, {segment.length} bytes"
        waits = bare and request.num_timeout < listener.defer_accept
        yield Check("TCP_DEFER_ACCEPT waits for data", values, waits, "request.defer_accept")
    abort = listener.settings.tcp_abort_on_overflow
    check = _accept_queue(listener, "request.abort_on_overflow" if abort else "request.accept_queue_full")
    yield replace(check, values=f"{check.values}; tcp_abort_on_overflow = {abort}")
    yield Check("otherwise", "the handshake is complete", holds=True, ends="request.request_completed")


def _child(child: Child, segment: Segment) -> Iterator[Check]:
    """child_receive(); what only the wire can tell is left out."""
    flags = segment.flags
    yield Check("a connection of these addresses and ports", _where(child), holds=True)
    if child.doubtful or (child.fin_seq_out is not None and flags & SYN):
        return
    if child.fastopen is not None:
        isn, syn_ack = child.fastopen.snt_isn, flags & (SYN | ACK)
        wrong = isn is not None and syn_ack == ACK and segment.ack != (isn + 1) & _MASK
        yield Check(
            "a RST of another", flag_text(flags), bool(flags & RST) and wrong, "request.wrong_ack_rst"
        )
        yield Check("a RST", flag_text(flags), bool(flags & RST), "fastopen.client_rst")
        yield Check("the client's SYN again", flag_text(flags), bool(flags & SYN), "request.duplicate_syn")
        yield Check("no ACK flag", flag_text(flags), not flags & ACK, "request.no_ack_flag")
        yield Check("otherwise", "the handshake is complete", holds=True, ends="fastopen.fastopen_completed")
    profile = child.listener.profile
    if (
        flags & (SYN | RST) == SYN
        and profile.established_syn_acked
        and not recently_challenged(child, segment)
    ):
        yield _challenge(child.listener, segment, "connection.challenge_ack_limit")
    yield Check("a SYN", flag_text(flags), flags & (SYN | RST) == SYN, "connection.syn_on_established")
    closing = not flags & RST and (bool(flags & FIN) or child.fin_seq_out is not None)
    yield Check("closing", flag_text(flags), closing, "connection.closing")
    yield Check("otherwise", "the connection's own matter", holds=True, ends="connection.established")


def _challenge(listener: ListenSocket, segment: Segment, rule: str) -> Check:
    """tcp_send_challenge_ack()."""
    allowed = listener.stack.challenges.allowed(segment.time_ns)
    values = f"tcp_challenge_ack_limit = {listener.settings.tcp_challenge_ack_limit}"
    return Check("no more challenge ACKs this second", values, None if allowed is None else not allowed, rule)


def _timewait(waiting: TimeWait, segment: Segment) -> Iterator[Check]:
    """timewait_receive(); ends without a decision where a SYN may go on to the listener."""
    flags, seq = segment.flags, segment.seq
    yield Check("a RST", flag_text(flags), bool(flags & RST), "timewait.client_rst")
    old, newer = stamp_order(waiting, segment)
    if flags & (SYN | ACK) == SYN:
        after = seq_after(seq, waiting.rcv_nxt)
        values = f"seq {'after' if after else 'not after'} the old connection's, {_stamp(segment)}"
        yield Check(
            "SYN that is not clearly newer", values, old or not (after or newer), "timewait.old_segment"
        )
        return
    bare = not old and seq == waiting.rcv_nxt and end_seq(segment) == seq
    yield Check("the last ACK once more", f"{segment.length} bytes", bare, "timewait.acknowledgement")
    yield Check("otherwise", "answered with an ACK", holds=True, ends="timewait.old_segment")


def _accept_queue(listener: ListenSocket, rule: str) -> Check:
    """sk_acceptq_is_full()."""
    if listener.stack.room is not None:
        values = f"{listener.accept_capacity} fit; worked out from what the capture shows"
        return Check("accept queue full", values, None, rule)
    length = len(listener.accept_queue)
    values = _fits(length, "connections", listener.accept_capacity)
    return Check("accept queue full", values, listener.accept_queue_full(), rule)


def _fits(length: int, what: str, capacity: int) -> str:
    return f"{length} {what}, {capacity} fit"


def _where(child: Child) -> str:
    return "accepted" if child.accepted else "in the accept queue"


def _stamp(segment: Segment) -> str:
    return f"tsval {segment.tsval}" if segment.tsval >= 0 else "no timestamp"


def _offset(number: int, base: int) -> str:
    """A sequence number, relative."""
    return f"{((number - base + (1 << 31)) & _MASK) - (1 << 31):+d}"
