"""The sysctls that the model knows: full name, the values the kernel documents, one line of meaning.

Refuses to know defaults (they belong to the kernel profiles) and which kernel has which of them.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

_INT_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Sysctl:
    """One setting; `low` and `high` are the documented range, both included."""

    name: str
    """Full name, e.g. `net.ipv4.tcp_syncookies`."""
    low: int
    high: int
    meaning: str


_TABLE = (
    Sysctl("net.core.somaxconn", 0, _INT_MAX, "upper limit of the backlog passed to listen()"),
    Sysctl("net.ipv4.tcp_abort_on_overflow", 0, 1, "answer with a RST when the accept queue is full"),
    Sysctl(
        "net.ipv4.tcp_challenge_ack_limit", 0, _INT_MAX, "challenge ACKs per second of a host or namespace"
    ),
    Sysctl("net.ipv4.tcp_ecn", 0, 5, "whether ECN is negotiated (2: only when the client asks)"),
    Sysctl("net.ipv4.tcp_fastopen", 0, _INT_MAX, "Fast Open flags (0x1 client, 0x2 server, 0x4 ... 0x400)"),
    Sysctl("net.ipv4.tcp_invalid_ratelimit", 0, _INT_MAX, "ms between replies to out-of-window segments"),
    Sysctl("net.ipv4.tcp_max_syn_backlog", 0, _INT_MAX, "requests remembered when SYN cookies are off"),
    Sysctl(
        "net.ipv4.tcp_migrate_req", 0, 1, "what a closed listener had moves to another one (SO_REUSEPORT)"
    ),
    Sysctl("net.ipv4.tcp_rfc1337", 0, 1, "ignore RSTs in TIME_WAIT"),
    Sysctl("net.ipv4.tcp_rto_max_ms", 1000, 120_000, "longest retransmission timeout, ms"),
    Sysctl("net.ipv4.tcp_sack", 0, 1, "whether SACK is negotiated"),
    Sysctl("net.ipv4.tcp_synack_retries", 0, 255, "how often a SYN-ACK is sent again"),
    Sysctl("net.ipv4.tcp_syncookies", 0, 2, "0 never, 1 when the SYN queue is full, 2 always"),
    Sysctl("net.ipv4.tcp_timestamps", 0, 2, "0 off, 1 with a random offset, 2 without"),
    Sysctl(
        "net.ipv4.tcp_tw_recycle", 0, 1, "drop SYNs with older timestamps than the peer's last (gone in 4.12)"
    ),
    Sysctl("net.ipv4.tcp_tw_reuse", 0, 2, "reuse TIME_WAIT ports for outgoing connections"),
    Sysctl("net.ipv4.tcp_window_scaling", 0, 1, "whether window scaling is negotiated"),
)

SYSCTLS: dict[str, Sysctl] = {entry.name: entry for entry in _TABLE}
"""All known settings by full name."""

_FULL_NAME = {name.rpartition(".")[2]: name for name in SYSCTLS} | {name: name for name in SYSCTLS}


def full_name(name: str) -> str | None:
    """Full name for a short or full one (`/` as separator is fine too); None when unknown."""
    return _FULL_NAME.get(name.strip().removeprefix("/proc/sys/").replace("/", "."))


def near_miss(name: str) -> str | None:
    """The known name that looks most like `name`, in the same form (short or full); None when none does."""
    candidates = [known for known in _FULL_NAME if ("." in known) == ("." in name)]
    close = difflib.get_close_matches(name.strip(), candidates, n=1)
    return close[0] if close else None


def complaint(name: str, value: int) -> str | None:
    """Why `value` is impossible for the setting with the full name `name`; None when it is fine.

    `name` must be a key of SYSCTLS.
    """
    entry = SYSCTLS[name]
    if entry.low <= value <= entry.high:
        return None
    return f"{name} takes {entry.low} to {entry.high} ({entry.meaning}), not {value}"
