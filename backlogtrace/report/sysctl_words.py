"""What a person should know about each sysctl beyond its meaning: who reads it, when, and what goes wrong.

Refuses to know values and defaults (`kernel.sysctl`, the profiles).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lesson:
    """One sysctl, in words; functions are the kernel's."""

    read_by: str
    takes_effect: str
    mistake: str
    """What people get wrong about it."""
    check: str
    """Commands that show it at work on a host."""
    scope: str = "the whole machine up to 4.4, each network namespace by 4.18"
    exists: str = "in every kernel covered"
    unread: str = ""
    """Why no listener does anything else for it; empty where one may."""


_NAMESPACE = "each network namespace"
_PARSED = "with the next SYN; existing connections keep what they negotiated"

LESSONS: dict[str, Lesson] = {
    "net.core.somaxconn": Lesson(
        "listen() (the system call, before inet_listen)",
        "at the next listen(): a running server keeps its limit until it calls listen() again",
        "it only lowers what the application passes; and backlog N takes N+1 connections",
        "`ss -ltn`: Send-Q is the limit in force, Recv-Q how many wait for accept()",
        scope=_NAMESPACE,
    ),
    "net.ipv4.tcp_abort_on_overflow": Lesson(
        "tcp_check_req",
        "with the next ACK that completes a handshake",
        "it resets neither SYNs nor connections by SYN cookie: only the ACK of a stored request",
        "`nstat -az TcpExtListenOverflows TcpExtEmbryonicRsts`",
    ),
    "net.ipv4.tcp_challenge_ack_limit": Lesson(
        "tcp_send_challenge_ack",
        "with the next second",
        "it counts the whole host (or namespace), not each connection; a second's number is drawn at random, "
        "from half of it to one and a half times it (played: the least); since 6.2, 0 is no limit at all",
        "`nstat -az TcpExtTCPChallengeACK TcpExtTCPSYNChallenge`",
        scope="the whole machine up to 5.15, each network namespace (and off by default) by 6.1",
    ),
    "net.ipv4.tcp_ecn": Lesson(
        "tcp_ecn_create_request; before 3.19 also cookie_check_timestamp",
        _PARSED,
        "2, the default, accepts ECN from clients; no queue depends on it, but before 3.19 the ACK of a "
        "cookie that agreed to it is reset once it is 0",
        "`ss -tni`: ecn, ecnseen",
        scope=_NAMESPACE,
    ),
    "net.ipv4.tcp_fastopen": Lesson(
        "tcp_try_fastopen; 0x400 by inet_listen",
        "with the next SYN; 0x400 at the next listen()",
        "0x2 alone changes nothing: the listener needs a Fast Open queue (TCP_FASTOPEN, or 0x400)",
        "`nstat -az 'TcpExtTCPFastOpen*'`",
    ),
    "net.ipv4.tcp_invalid_ratelimit": Lesson(
        "tcp_oow_rate_limited",
        "with the next segment",
        "a SYN repeated within the interval gets no SYN-ACK: nothing was lost",
        "`nstat -az TcpExtTCPACKSkippedSynRecv`",
        exists="in RHEL 7 and from 4.x on, not in 3.10",
    ),
    "net.ipv4.tcp_max_syn_backlog": Lesson(
        "tcp_conn_request; before 4.3 also reqsk_queue_alloc, which sizes the SYN queue",
        "with the next SYN; the old table's size at listen()",
        "since 4.3 it is no queue's size: with cookies off, its last quarter is kept for known peers",
        "`ss -tan state syn-recv | wc -l`, `nstat -az TcpExtListenDrops`",
    ),
    "net.ipv4.tcp_migrate_req": Lesson(
        "reuseport_stop_listen_sock, reuseport_migrate_sock",
        "when a listener closes: connections move at once, requests with their timer or their next segment",
        "nothing moves without another SO_REUSEPORT listener; connections move into a full queue, too; "
        "a RST or SYN that ends a request before it has moved makes the other socket's SYN queue look full "
        "for good (measured on 6.18)",
        "`nstat -az 'TcpExtTCPMigrateReq*'`",
        scope=_NAMESPACE,
        exists="from 5.14 on",
    ),
    "net.ipv4.tcp_rfc1337": Lesson(
        "tcp_timewait_state_process",
        "with the next RST",
        "it protects TIME_WAIT only: a request or connection is still reset",
        "`ss -tan state time-wait`",
    ),
    "net.ipv4.tcp_rto_max_ms": Lesson(
        "tcp_reqsk_timeout",
        "when a timer is set next",
        "it shortens the later waits, not their number: requests are given up sooner",
        "`ss -tano state syn-recv`",
        scope=_NAMESPACE,
        exists="from 6.15 on",
    ),
    "net.ipv4.tcp_sack": Lesson(
        "tcp_parse_options", _PARSED,
        "no queue depends on it; switched off, it makes the ACKs of cookies that agreed to it be reset",
        "`ss -tni`: sack",
    ),
    "net.ipv4.tcp_synack_retries": Lesson(
        "reqsk_timer_handler; inet_csk_reqsk_queue_prune before 4.3",
        "at once, for waiting requests too",
        "5 means five more SYN-ACKs and about a minute; a filling SYN queue cuts it, TCP_SYNCNT replaces it",
        "`ss -tano state syn-recv`",
    ),
    "net.ipv4.tcp_syncookies": Lesson(
        "tcp_conn_request, tcp_syn_flood_action, cookie_v4_check",
        "with the next SYN; while 0, cookies that come back are refused",
        "cookies help a full SYN queue, never a full accept queue",
        "`nstat -az 'TcpExtSyncookies*' TcpExtTCPReqQFullDoCookies`",
    ),
    "net.ipv4.tcp_timestamps": Lesson(
        "tcp_parse_options",
        _PARSED,
        "without timestamps a connection by SYN cookie has no window scaling, SACK or ECN",
        "`ss -tni`: ts",
    ),
    "net.ipv4.tcp_tw_recycle": Lesson(
        "tcp_v4_conn_request, tcp_conn_request",
        "with the next SYN",
        "clients behind one NAT address share its timestamp: their SYNs are dropped in silence",
        "`nstat -az TcpExtPAWSPassive`",
        exists="up to 4.11",
    ),
    "net.ipv4.tcp_tw_reuse": Lesson(
        "tcp_twsk_unique",
        "with the next connect()",
        "it is for outgoing connections: a port in TIME_WAIT may be connected from again",
        "`ss -tan state time-wait`",
        unread="the listen path never reads it, so no packet that a listener gets is treated differently",
    ),
    "net.ipv4.tcp_window_scaling": Lesson(
        "tcp_parse_options", _PARSED,
        "no queue depends on it; switched off, it makes the ACKs of cookies that agreed to it be reset",
        "`ss -tni`: wscale",
    ),
}  # fmt: skip
