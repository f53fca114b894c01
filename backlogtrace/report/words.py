"""Every decision in a sentence: the one dictionary between the kernel's words and people's.

Sentences say what the server did and what the client notices. Refuses to know how often or to whom.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SENTENCES: dict[tuple[str, str], str] = {
    ("queued", "new_request"): "SYN-ACK sent, request waits for the client's ACK",
    ("queued", "timewait_reuse"): "SYN-ACK sent; the port pair was in TIME_WAIT and may be used again",
    ("cookie", "syn_queue_full"): "SYN queue full: answered with a SYN cookie, nothing remembered",
    ("cookie", "syncookies_always"): "tcp_syncookies=2: answered with a SYN cookie, nothing remembered",
    ("fastopen", "valid_cookie"): "Fast Open cookie valid: connection is on the accept queue already",
    ("fastopen", "cookie_not_required"):
        "Fast Open, no cookie needed: connection is on the accept queue already",
    ("retransmitted", "duplicate_syn"): "SYN repeated by the client: same SYN-ACK sent again",
    ("established", "request_completed"): "handshake complete: connection is on the accept queue",
    ("established", "cookie_valid"): "cookie came back: connection is on the accept queue",
    ("established", "fastopen_completed"): "handshake of a Fast Open connection complete",
    ("dropped", "accept_queue_full"): "accept queue full: SYN dropped, the client tries again",
    ("dropped", "syn_queue_full"): "SYN queue full, cookies off: SYN dropped, the client tries again",
    ("dropped", "syn_queue_reserved"): "last quarter of tcp_max_syn_backlog is reserved: SYN dropped",
    ("dropped", "tw_recycle_paws"): "tcp_tw_recycle: timestamp older than the address's last, SYN dropped",
    ("dropped", "bad_flags"): "flags that start nothing: dropped",
    ("dropped", "unanswered"): "no answer although the queues had room: dropped elsewhere, or not captured",
    ("overflow", "accept_queue_full"): "accept queue full: ACK ignored, the client believes it is connected",
    ("overflow", "cookie_accept_queue_full"):
        "accept queue full: valid cookie ignored in silence, the client believes it is connected",
    ("rst", "abort_on_overflow"): "accept queue full and tcp_abort_on_overflow=1: reset",
    ("rst", "no_request"): "no such request (never seen, expired or aborted): reset",
    ("rst", "cookie_invalid"): "not a valid SYN cookie: reset",
    ("rst", "cookie_expired"): "SYN cookie too old: reset",
    ("rst", "no_listener"): "nothing listens: reset",
    ("deferred", "defer_accept"): "TCP_DEFER_ACCEPT: bare ACK ignored until data comes",
    ("aborted", "client_rst"): "client reset the request: removed",
    ("aborted", "client_syn"): "unexpected SYN: request removed",
    ("rst", "wrong_ack"): "acknowledges something never sent: reset, the request stays",
    ("rst", "syn_on_closing"): "SYN for a connection that the application has closed: reset",
    ("ignored", "client_rst"): "RST of a client that no request or connection belongs to",
    ("ignored", "bad_flags"): "flags that mean nothing to a listener",
    ("ignored", "wrong_ack_rst"): "RST with a wrong acknowledgement: no effect",
    ("ignored", "wrong_tsecr"): "echoes a timestamp never sent: answered with an ACK at most",
    ("ignored", "inexact_rst"): "RST not exactly at the expected sequence: challenge ACK at most",
    ("ignored", "no_ack_flag"): "no ACK flag: not taken",
    ("ignored", "syn_on_established"): "SYN for an established connection: challenge ACK at most",
    ("ignored", "challenge_ack_limit"): "no challenge ACK: those of this second are used up",
    ("ignored", "old_segment"): "port pair is in TIME_WAIT: answered with an ACK at most",
    ("ignored", "acknowledgement"): "port pair is in TIME_WAIT: nothing to do",
    ("ignored", "wrong_checksum"): "wrong checksum: dropped before any socket sees it (TcpInCsumErrors)",
    ("ignored", "no_listener"): "nothing listens, and a RST is never answered",
    ("ignored", "out_of_window"): "outside the window: answered with an ACK at most",
    ("ignored", "paws"): "timestamp too old (PAWS): not taken",
    ("ignored", "duplicate_rate_limited"): "repeated SYN: answer suppressed by tcp_invalid_ratelimit",
    ("passed", "established"): "belongs to an established connection",
    ("passed", "closing"): "belongs to a connection that is being closed",
}  # fmt: skip
"""(decision, reason) -> what happened, in at most about 80 characters."""

OUT_SENTENCES: dict[tuple[str, str], str] = {
    ("synack", "reply"): "SYN-ACK in answer",
    ("synack", "cookie"): "SYN-ACK with a cookie",
    ("synack", "timer"): "SYN-ACK again: no acceptable ACK so far",
    ("rst", "reply"): "RST in answer",
    ("rst", "application"): "RST because the application closed",
    ("ack", "reply"): "ACK in answer",
}
"""(decision, reason) of a packet that the server sent -> what it is."""

EVENT_SENTENCES = {
    "expired": "request given up after the last SYN-ACK, silently",
    "accepted": "accept() took the oldest connection",
    "listen": "listen() called",
    "closed": "listener closed",
    "sysctl": "setting changed",
}
"""Event -> what happened."""

MISMATCHES = {
    "unexpected_reply": "the server answered where the model does not",
    "missing_reply": "the model answers, the capture shows no answer",
    "wrong_reply": "the server answered something else than the model",
    "unexpected_packet": "the server sent a packet that the model does not send",
    "missing_packet": "the model sends a packet that the capture does not show",
}
"""What differs -> in words."""

FATES = {
    "connected": "connected late",
    "reset": "reset by the server",
    "never": "never connected",
    "gave_up": "client gave up",
    "open": "open at the end",
}
"""How a connection attempt ended."""

SKIPPED = {
    "not_ip": "not IP",
    "not_tcp": "not TCP",
    "fragment": "IP fragments",
    "tunnel": "inside a tunnel",
    "truncated_headers": "headers cut off",
    "bad_header": "broken headers",
}
"""Why packets were not analysed."""


_ABBREVIATIONS = {word.lower(): word for word in ("ACK", "IP", "PAWS", "RST", "SYN", "TCP")}


def label(reason: str) -> str:
    """A reason or event in a few words: its identifier with spaces."""
    return " ".join(_ABBREVIATIONS.get(word, word) for word in reason.split("_"))


def sentence(decision: str, reason: str) -> str:
    """What the kernel did with an inbound packet; the label for a reason without a sentence."""
    return SENTENCES.get((decision, reason)) or label(reason)


def out_sentence(decision: str, reason: str) -> str:
    """What a packet of the server is."""
    return OUT_SENTENCES.get((decision, reason)) or label(reason)


def skipped(reason: str) -> str:
    """Why packets were not analysed; link types carry their number in the reason."""
    return SKIPPED.get(reason) or label(reason)


def added(counters: dict[str, int]) -> str:
    """`ListenOverflows+1 ListenDrops+1`."""
    return " ".join(f"{name}+{number}" for name, number in counters.items())


def span(bounds: Sequence[int]) -> str:
    """`3`, or `3-5` where only bounds are known (packets)."""
    low, high = bounds
    return str(low) if low == high else f"{low}-{high}"


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 SYN`, `12,345 SYNs`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
