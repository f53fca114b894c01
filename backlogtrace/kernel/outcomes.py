"""Every decision of the listen path: reason, rule, function, reply and counters in one place.

The listen code refers to these objects by name; counts and rows refer to the same objects. Nothing
here decides anything.

Sources: the counters are those that tcp_conn_request, tcp_check_req, cookie_v4_check and
tcp_v4_syn_recv_sock bump on the way to the decision (4.18 to 7.2).
"""

from __future__ import annotations

from backlogtrace.kernel.outcome import Decision, Outcome, Reply


def _outcome(
    decision: Decision,
    rule: str,
    function: str,
    reply: Reply | None = None,
    *counters: str,
    reason: str = "",
) -> Outcome:
    return Outcome(
        decision, reason or rule.partition(".")[2], rule, function, reply, dict.fromkeys(counters, 1)
    )


_REQUEST = "tcp_conn_request"
_CHECK = "tcp_check_req"
_LISTEN = "tcp_rcv_state_process"
_COOKIE = "cookie_v4_check"
_CHILD = "tcp_validate_incoming"
_CHALLENGE = "tcp_send_challenge_ack"
_TW = "tcp_timewait_state_process"
_NONE = "tcp_v4_rcv"
_FASTOPEN = "tcp_try_fastopen"
_PASSIVE = ("TCPFastOpenPassive", "PassiveOpens")
_FULL = ("ListenOverflows", "ListenDrops")

# SYN for a listening socket
QUEUED = _outcome("queued", "listen.new_request", _REQUEST, "synack")
QUEUED_TIMEWAIT = _outcome("queued", "listen.timewait_reuse", _REQUEST, "synack")
QUEUED_COOKIE_REQUEST = _outcome(
    "queued", "fastopen.cookie_requested", _REQUEST, "synack", "TCPFastOpenCookieReqd", reason="new_request"
)
QUEUED_COOKIE_INVALID = _outcome(
    "queued", "fastopen.invalid_cookie", _REQUEST, "synack", "TCPFastOpenPassiveFail", reason="new_request"
)
QUEUED_FASTOPEN_FULL = _outcome(
    "queued", "fastopen.queue_full", _REQUEST, "synack", "TCPFastOpenListenOverflow", reason="new_request"
)
QUEUED_FASTOPEN_FULL_REQUEST = _outcome(
    "queued", "fastopen.queue_full", _REQUEST, "synack", "TCPFastOpenCookieReqd", "TCPFastOpenListenOverflow",
    reason="new_request",
)  # fmt: skip
QUEUED_FASTOPEN_COUNTED = _outcome(  # 3.10 counts the attempt
    "queued", "fastopen.not_enabled", _REQUEST, "synack", "TCPFastOpenPassive", reason="new_request"
)
QUEUED_FASTOPEN_OVERFLOW = _outcome(  # only where a SYN may pass a full accept queue
    "queued", "fastopen.accept_queue_full", _REQUEST, "synack", *_FULL, "TCPFastOpenPassiveFail",
    reason="new_request",
)  # fmt: skip
FASTOPEN = _outcome("fastopen", "fastopen.valid_cookie", _FASTOPEN, "synack", *_PASSIVE)
FASTOPEN_NO_COOKIE = _outcome("fastopen", "fastopen.cookie_not_required", _FASTOPEN, "synack", *_PASSIVE)
FASTOPEN_NO_COOKIE_REQUEST = _outcome(
    "fastopen", "fastopen.cookie_not_required", _FASTOPEN, "synack", "TCPFastOpenCookieReqd", *_PASSIVE
)
COOKIE_FULL = _outcome(
    "cookie", "listen.syn_queue_full", _REQUEST, "synack", "TCPReqQFullDoCookies", "SyncookiesSent"
)
COOKIE_ALWAYS = _outcome(
    "cookie", "listen.syncookies_always", _REQUEST, "synack", "TCPReqQFullDoCookies", "SyncookiesSent"
)
COOKIE_FULL_DROP = _outcome(  # before 4.7 the cookie path fell into the drop label
    "cookie",
    "listen.syn_queue_full",
    _REQUEST,
    "synack",
    "TCPReqQFullDoCookies",
    "SyncookiesSent",
    "ListenDrops",
)
COOKIE_ALWAYS_DROP = _outcome(
    "cookie",
    "listen.syncookies_always",
    _REQUEST,
    "synack",
    "TCPReqQFullDoCookies",
    "SyncookiesSent",
    "ListenDrops",
)
DROP_SYN_QUEUE = _outcome(
    "dropped", "listen.syn_queue_full", _REQUEST, None, "TCPReqQFullDrop", "ListenDrops"
)
DROP_RESERVED = _outcome("dropped", "listen.syn_queue_reserved", _REQUEST, None, "ListenDrops")
DROP_ACCEPT_QUEUE = _outcome("dropped", "listen.accept_queue_full", _REQUEST, None, *_FULL)
DROP_BOTH_FULL = _outcome(
    "dropped",
    "listen.both_queues_full",
    _REQUEST,
    None,
    "TCPReqQFullDoCookies",
    *_FULL,
    reason="accept_queue_full",
)
DROP_TW_RECYCLE = _outcome("dropped", "listen.tw_recycle_paws", _REQUEST, None, "PAWSPassive", "ListenDrops")
DROP_BAD_FLAGS = _outcome("dropped", "listen.bad_flags", _LISTEN)

# other segments for a listening socket, no request found
RST_NO_REQUEST = _outcome("rst", "listen.no_request", _LISTEN, "rst", "OutRsts")
RST_NO_REQUEST_FAILED = _outcome("rst", "listen.no_request", _COOKIE, "rst", "SyncookiesFailed", "OutRsts")
RST_COOKIE_INVALID = _outcome("rst", "cookie.cookie_invalid", _COOKIE, "rst", "SyncookiesFailed", "OutRsts")
RST_COOKIE_EXPIRED = _outcome("rst", "cookie.cookie_expired", _COOKIE, "rst", "SyncookiesFailed", "OutRsts")
RST_COOKIE_OPTION = _outcome(
    "rst", "cookie.option_switched_off", _COOKIE, "rst", "SyncookiesRecv", "OutRsts", reason="cookie_invalid"
)
COOKIE_VALID = _outcome("established", "cookie.cookie_valid", _COOKIE, None, "SyncookiesRecv", "PassiveOpens")
COOKIE_OVERFLOW = _outcome(
    "overflow", "cookie.cookie_accept_queue_full", "tcp_v4_syn_recv_sock", None, "SyncookiesRecv", *_FULL
)
IGNORED_RST = _outcome("ignored", "listen.client_rst", _LISTEN)
IGNORED_FLAGS = _outcome("ignored", "listen.bad_flags", _LISTEN)

# segments for a request
RETRANSMITTED = _outcome("retransmitted", "request.duplicate_syn", _CHECK, "synack", "TCPSynRetrans")
RETRANSMITTED_UNCOUNTED = _outcome("retransmitted", "request.duplicate_syn", _CHECK, "synack")
DUPLICATE_LIMITED = _outcome(
    "ignored", "request.duplicate_rate_limited", _CHECK, None, "TCPACKSkippedSynRecv"
)
RST_WRONG_ACK = _outcome("rst", "request.wrong_ack", _CHECK, "rst", "OutRsts")
RST_WRONG_ACK_COOKIE = _outcome("rst", "request.wrong_ack", _CHECK, "rst", "SyncookiesFailed", "OutRsts")
IGNORED_WRONG_ACK_RST = _outcome("ignored", "request.wrong_ack_rst", _CHECK)
PAWS = _outcome("ignored", "request.paws", _CHECK, "ack", "PAWSEstab")
PAWS_LIMITED = _outcome("ignored", "request.paws", _CHECK, None, "PAWSEstab", "TCPACKSkippedSynRecv")
PAWS_RST = _outcome("ignored", "request.paws", _CHECK, None, "PAWSEstab")
WINDOW = _outcome("ignored", "request.out_of_window", _CHECK, "ack")
WINDOW_LIMITED = _outcome("ignored", "request.out_of_window", _CHECK, None, "TCPACKSkippedSynRecv")
WINDOW_RST = _outcome("ignored", "request.out_of_window", _CHECK)
TSECR = _outcome("ignored", "request.wrong_tsecr", _CHECK, "ack")
TSECR_LIMITED = _outcome("ignored", "request.wrong_tsecr", _CHECK, None, "TCPACKSkippedSynRecv")
TSECR_RST = _outcome("ignored", "request.wrong_tsecr", _CHECK)
CHALLENGE = _outcome("ignored", "request.inexact_rst", _CHECK, "ack")
CHALLENGE_LIMITED = _outcome("ignored", "request.inexact_rst", _CHECK)
CHALLENGE_UNANSWERED = _outcome("ignored", "request.challenge_ack_limit", _CHALLENGE)
ABORTED_RST = _outcome("aborted", "request.client_rst", _CHECK, None, "AttemptFails", "EmbryonicRsts")
ABORTED_SYN = _outcome(
    "aborted", "request.client_syn", _CHECK, "rst", "AttemptFails", "EmbryonicRsts", "OutRsts"
)
NO_ACK = _outcome("ignored", "request.no_ack_flag", _CHECK)
DEFERRED = _outcome("deferred", "request.defer_accept", _CHECK, None, "TCPDeferAcceptDrop")
OVERFLOW = _outcome("overflow", "request.accept_queue_full", _CHECK, None, *_FULL)
ABORT_ON_OVERFLOW = _outcome(
    "rst", "request.abort_on_overflow", _CHECK, "rst", *_FULL, "EmbryonicRsts", "OutRsts"
)
ESTABLISHED = _outcome("established", "request.request_completed", _CHECK, None, "PassiveOpens")

# segments for a Fast Open child before its handshake is complete
FASTOPEN_COMPLETED = _outcome("established", "fastopen.fastopen_completed", _CHECK)
FASTOPEN_ABORTED = Outcome("aborted", "client_rst", "fastopen.client_rst", _CHECK, None, {"AttemptFails": 2})

# segments for a connection that is no request any more
PASSED = _outcome("passed", "connection.established", "tcp_rcv_established")
PASSED_CLOSE = _outcome("passed", "connection.closing", _LISTEN)
CHILD_SYN = _outcome("ignored", "connection.syn_on_established", _CHILD, "ack")
CHILD_SYN_LIMITED = _outcome("ignored", "connection.syn_on_established", _CHILD)
CHILD_SYN_UNANSWERED = _outcome("ignored", "connection.challenge_ack_limit", _CHALLENGE)
CHILD_SYN_SILENT = _outcome("ignored", "connection.syn_on_established", "tcp_rcv_established")
CLOSING_SYN_RST = _outcome("rst", "connection.syn_on_closing", _TW, "rst", "OutRsts")
TIMEWAIT_ACK = _outcome("ignored", "timewait.old_segment", _TW, "ack")
TIMEWAIT_LIMITED = _outcome("ignored", "timewait.old_segment", _TW)
TIMEWAIT_SILENT = _outcome("ignored", "timewait.acknowledgement", _TW)
TIMEWAIT_RST = _outcome("ignored", "timewait.client_rst", _TW)

# nobody listens (any more)
RST_NO_LISTENER = _outcome("rst", "host.no_listener", _NONE, "rst", "OutRsts")
IGNORED_NO_LISTENER = _outcome("ignored", "host.no_listener", _NONE)

# dropped before a socket is looked for; counts InCsumErrors of TCP or IP, and nothing of the listen path
WRONG_CHECKSUM = _outcome("ignored", "host.wrong_checksum", _NONE)

# no rule of the kernel: the wire shows no answer where the model has one, and not who dropped the SYN
UNANSWERED = _outcome("dropped", "host.unanswered", _NONE)
