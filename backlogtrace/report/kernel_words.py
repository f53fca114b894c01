"""Every behaviour of a kernel profile in words: a short label, and what its values mean.

The one dictionary between the fields of Profile and people. Refuses to know which kernel has which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backlogtrace.kernel.settings import DEFAULTS

if TYPE_CHECKING:
    from backlogtrace.kernel.profile import Profile

Words = dict[Any, str] | str
"""Value -> words, or a format for the value."""
_YES_NO: Words = {True: "yes", False: "no"}
BEHAVIOURS: dict[str, tuple[str, Words]] = {
    "syn_table": (
        "SYN queue limit",
        {True: "power of two above the backlog, fixed at the first listen()", False: "the backlog"},
    ),
    "syn_spare": ("SYN queue full at", {0: "length >= limit", 1: "length > limit (one more fits)"}),
    "full_queue_admits_young": (
        "SYN, accept queue full", {-1: "dropped", 1: "taken while at most one request is young"},
    ),
    "timer": (
        "SYN-ACK timer",
        {
            "prune": "200 ms rounds over two fifths of the hash buckets",
            "tick": "one per request, exact to the tick",
            "wheel": "one per request, rounded up by the timer wheel",
        },
    ),
    "requests_die_with_listener": (
        "close() of the listener",
        {True: "frees its requests at once", False: "leaves its requests to time out"},
    ),
    "syncookies_2_is_1": ("tcp_syncookies=2", {True: "the same as 1", False: "a cookie for every SYN"}),
    "cookie_counts_drop": ("cookie sent counts ListenDrops", _YES_NO),
    "cookie_mss_v4": ("MSS kept by cookies, IPv4", "{}"),
    "cookie_mss_v6": ("MSS kept by cookies, IPv6", "{}"),
    "cookie_max_age": (
        "cookie minutes accepted", {2: "this and the previous one", 4: "this and the previous three"},
    ),
    "cookie_window_s": ("cookies looked at after the last", "{} s"),
    "cookie_stamp_idle_s": ("last cookie noted", {0: "always", 1: "at most once a second"}),
    "cookie_stamp_from_zero": (
        "cookies looked at without any sent", {True: "299 to 420 s after boot", False: "never"},
    ),
    "cookie_stamp_of_group": (
        "cookies of a SO_REUSEPORT group", {True: "looked at by all", False: "by the socket that sent them"},
    ),
    "stray_ack_counts_failed": (
        "ACK nobody waits for",
        {True: "counts SyncookiesFailed", False: "not counted unless cookies were sent"},
    ),
    "wrong_ack_may_be_cookie": (
        "wrong ACK for a request", {True: "tried as a cookie, then reset", False: "reset"},
    ),
    "duplicate_syn_limited": ("duplicate SYN answered", {True: "at a limited rate", False: "every time"}),
    "out_of_window_limited": ("out of window answered", {True: "at a limited rate", False: "every time"}),
    "counts_syn_retrans": ("counter TCPSynRetrans", _YES_NO),
    "established_syn_acked": ("SYN on an established connection", {True: "challenge ACK", False: "ignored"}),
    "challenge_limit_0_is_none": ("tcp_challenge_ack_limit=0 means", {True: "no ACKs", False: "no limit"}),
    "tw_recycle": ("tcp_tw_recycle", {True: "refuses old timestamps of an address", False: "does not exist"}),
    "backlog_bits": ("backlog and accept queue length have", {16: "16 bits", 32: "32 bits"}),
    "tw_recycle_needs_timestamp": (
        "tcp_tw_recycle, no timestamp", {True: "dropped", False: "let through"},
    ),
    "timewait_acks_limited": ("ACKs from TIME_WAIT", {True: "at most every 500 ms", False: "not limited"}),
    "fastopen_option_34": (
        "Fast Open option of RFC 7413", {True: "known", False: "only the experimental one"},
    ),
    "fastopen_counts_every_syn": (
        "TCPFastOpenPassive counts", {True: "every SYN with data, child or not", False: "children made"},
    ),
    "fastopen_flag_1000": ("tcp_fastopen flag 0x1000", {True: "every SYN is a Fast Open", False: "unknown"}),
    "fastopen_clamped": ("Fast Open queue limited by somaxconn", _YES_NO),
    "request_takes_tsval": (
        "ignored segment moves ts_recent", {True: "yes, later SYN-ACKs echo it", False: "no"},
    ),
    "rst_needs_exact_seq": (
        "RST for a request", {True: "exact sequence, else challenge ACK", False: "anywhere in the window"},
    ),
    "checks_tsecr": ("echoed timestamp checked", _YES_NO),
    "rto_max_setting": ("longest SYN-ACK interval", {True: "tcp_rto_max_ms", False: "120 s"}),
    "dataless_fastopen": (
        "Fast Open without cookie", {True: "with or without data", False: "only with data"},
    ),
    "timewait_syn_is_plain": (
        "SYN that reuses TIME_WAIT",
        {True: "held to the SYN-queue test", False: "exempt from the SYN-queue test"},
    ),
    "migrates_requests": (
        "tcp_migrate_req", {True: "moves what a closed socket had", False: "does not exist, or does nothing"},
    ),
    "cookie_needs_ecn": ("cookie with ECN, tcp_ecn 0", {True: "refused", False: "taken, without ECN"}),
    "tsval_clock": ("timestamps count", {"jiffies": "ticks", "ms": "milliseconds"}),
    "tsval_offset": (
        "timestamps count from",
        {
            "none": "the start of the kernel",
            "mixed": "a number per connection, cookies from the start of the kernel",
            "host": "a number per pair of hosts",
            "connection": "a number per connection",
        },
    ),
    "defaults": ("sysctl defaults", "{}"),
}  # fmt: skip
"""Field of Profile -> its label, and the words for its values or a format for them."""

_SHOWN_DEFAULTS = ("net.core.somaxconn", "net.ipv4.tcp_fastopen", "net.ipv4.tcp_challenge_ack_limit")


def label(field: str) -> str:
    """What a field of Profile is about."""
    return BEHAVIOURS[field][0]


def value(field: str, of: object) -> str:
    """What a value of a field means."""
    words = BEHAVIOURS[field][1]
    if not isinstance(words, str):
        return words[of]
    if isinstance(of, tuple):
        return words.format(" ".join(map(str, of)))
    if isinstance(of, dict):
        every = DEFAULTS | of
        return words.format(", ".join(f"{name.rpartition('.')[2]} {every[name]}" for name in _SHOWN_DEFAULTS))
    return words.format(of)


def short(profile: Profile) -> tuple[str, str, str, str]:
    """SYN queue limit, SYN at a full accept queue, cookie window and timers, in a word each."""
    queue = "2^n" if profile.syn_table else "backlog+1" if profile.syn_spare else "backlog"
    full = "dropped" if profile.full_queue_admits_young < 0 else "1 young"
    timer = {"prune": "200 ms", "tick": "ticks", "wheel": "wheel"}[profile.timer]
    return queue, full, f"{profile.cookie_window_s} s", timer
