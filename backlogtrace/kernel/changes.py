"""The kernel changes that altered the listen path, oldest first, each with where it comes from.

`backports` names the first stable releases, or the distribution trees, that carry a change where
they are known from the trees themselves, release announcements or distribution changelogs. A commit
or subject that was not verified is left empty. Data only: refuses to know which kernel has which.
"""

from __future__ import annotations

from typing import Final

from backlogtrace.kernel.profile import Change

_EL7: Final = "3.10.0-514.el7"

SYNCOOKIES_2: Final = Change(
    field="syncookies_2_is_1",
    after=False,
    summary="tcp_syncookies=2 answers every SYN with a cookie",
    since="v3.12",
    functions=("tcp_syn_flood_action", "tcp_conn_request"),
    commit="5ad37d5deee1",
    subject="tcp: add tcp_syncookies mode to allow unconditionally generation of syncookies",
    backports=(_EL7,),
    evidence="measured",
)
COOKIE_MSS_V4: Final = Change(
    field="cookie_mss_v4",
    after=(536, 1300, 1440, 1460),
    summary="an IPv4 SYN cookie keeps the client's MSS as one of four values instead of eight",
    since="v3.13",
    functions=("cookie_v4_init_sequence",),
    commit="086293542b99",
    subject="tcp: syncookies: reduce mss table to four values",
    backports=(_EL7,),
)
COOKIE_MSS_V6: Final = Change(
    field="cookie_mss_v6",
    after=(1220, 1420, 1440, 8940),
    summary="an IPv6 SYN cookie keeps the client's MSS as one of four values instead of eight",
    since="v3.13",
    functions=("cookie_v6_init_sequence",),
    commit="086293542b99",
    subject="tcp: syncookies: reduce mss table to four values",
    backports=(_EL7,),
)
COOKIE_AGE: Final = Change(
    field="cookie_max_age",
    after=2,
    summary="a SYN cookie is valid for one to two minutes instead of three to four",
    since="v3.13",
    functions=("check_tcp_syn_cookie",),
    commit="8c27bd75f04f",
    subject="tcp: syncookies: reduce cookie lifetime to 128 seconds",
    backports=(_EL7,),
    evidence="measured",
)
FASTOPEN_CLIENT: Final = Change(
    field="defaults",
    after={"net.core.somaxconn": 128},
    summary="net.ipv4.tcp_fastopen defaults to 1 (client only) instead of 0",
    since="v3.13",
    functions=("tcp_fastopen_init",),
    evidence="reported",
)
SYN_RETRANS: Final = Change(
    field="counts_syn_retrans",
    after=True,
    summary="the counter TCPSynRetrans exists",
    since="v3.15",
    functions=("tcp_rtx_synack",),
    commit="f19c29e3e391",
    subject="tcp: snmp stats for Fast Open, SYN rtx, and data pkts",
    backports=(_EL7,),
    evidence="measured",
)
FASTOPEN_CHILDREN_COUNTED: Final = Change(
    field="fastopen_counts_every_syn",
    after=False,
    summary="TCPFastOpenPassive counts the Fast Open children made, not every SYN with data",
    since="v3.16",
    functions=("tcp_v4_conn_request", "tcp_try_fastopen"),
    backports=(_EL7,),
    evidence="measured",
)
FASTOPEN_NO_FLAG_1000: Final = Change(
    field="fastopen_flag_1000",
    after=False,
    summary="tcp_fastopen no longer has the flag 0x1000 (every SYN is a Fast Open)",
    since="v3.16",
    functions=("tcp_try_fastopen",),
    backports=(_EL7,),
)
SYN_CHALLENGED: Final = Change(
    field="established_syn_acked",
    after=True,
    summary="a SYN for an established connection gets a challenge ACK instead of nothing",
    since="v3.18",
    functions=("tcp_rcv_state_process", "tcp_validate_incoming"),
    subject="tcp: Restore RFC5961-compliant behavior for SYN packets",
    backports=(_EL7,),
    evidence="measured",
)
STRAY_ACK_SILENT: Final = Change(
    field="stray_ack_counts_failed",
    after=False,
    summary="an ACK nobody waits for counts SyncookiesFailed only while cookies are being looked at",
    since="v3.19",
    functions=("cookie_v4_check", "cookie_v6_check"),
    evidence="measured",
)
DUPLICATE_SYN_LIMITED: Final = Change(
    field="duplicate_syn_limited",
    after=True,
    summary="duplicate SYNs are answered at most once per tcp_invalid_ratelimit",
    since="v4.0",
    functions=("tcp_check_req", "tcp_oow_rate_limited"),
    commit="a9b2c06dbef4",
    subject="tcp: mitigate ACK loops for connections as tcp_request_sock",
    backports=(_EL7,),
    evidence="measured",
)
TIMEWAIT_ACKS_LIMITED: Final = Change(
    field="timewait_acks_limited",
    after=True,
    summary="a TIME_WAIT socket sends at most one ACK per tcp_invalid_ratelimit",
    since="v4.0",
    functions=("tcp_timewait_state_process", "tcp_timewait_check_oow_rate_limit"),
    commit="4fb17a609167",
    subject="tcp: mitigate ACK loops for connections as tcp_timewait_sock",
    backports=(_EL7,),
    evidence="measured",
)
FASTOPEN_OPTION_34: Final = Change(
    field="fastopen_option_34",
    after=True,
    summary="the Fast Open option of RFC 7413 (kind 34) is understood",
    since="v4.1",
    functions=("tcp_parse_options", "tcp_parse_fastopen_option"),
    commit="7f9b838b71eb",
    subject="tcp: RFC7413 option support for Fast Open server",
    backports=(_EL7,),
    evidence="measured",
)
REQUEST_TIMERS: Final = Change(
    field="timer",
    after="tick",
    summary="every request has a timer of its own: SYN-ACKs at 1, 3, 7 ... s sharp, no 200 ms rounds",
    since="v4.1",
    functions=("reqsk_timer_handler", "reqsk_queue_hash_req"),
    commit="fa76ce7328b2",
    subject="inet: get rid of central tcp/dccp listener timer",
    evidence="measured",
)
NO_SYN_TABLE: Final = Change(
    field="syn_table",
    after=False,
    summary="the SYN queue is limited by the backlog itself, no longer by a table of a power of two",
    since="v4.4",
    functions=("inet_csk_reqsk_queue_is_full", "reqsk_queue_alloc"),
    commit="ef547f2ac16b",
    subject="tcp: remove max_qlen_log",
    evidence="measured",
)
REQUESTS_OUTLIVE_LISTENER: Final = Change(
    field="requests_die_with_listener",
    after=False,
    summary="requests of a closed listener stay until their timer or a segment finds it gone",
    since="v4.4",
    functions=("inet_csk_listen_stop", "reqsk_timer_handler"),
    commit="079096f103fa",
    subject="tcp/dccp: install syn_recv requests into ehash table",
    evidence="measured",
)
WRONG_ACK_TRIED: Final = Change(
    field="wrong_ack_may_be_cookie",
    after=True,
    summary="a segment that acknowledges something else than the request's SYN-ACK is tried as a cookie",
    since="v4.4",
    functions=("tcp_v4_rcv", "tcp_check_req"),
    commit="079096f103fa",
    subject="tcp/dccp: install syn_recv requests into ehash table",
)
COOKIE_ECN_FORGIVEN: Final = Change(
    field="cookie_needs_ecn",
    after=False,
    summary="a SYN cookie that agreed to ECN is still taken after tcp_ecn was set to 0",
    since="v3.19",
    functions=("cookie_check_timestamp", "cookie_timestamp_decode"),
    subject="net: allow setting ecn via routing table",
    backports=(_EL7,),
)
COOKIE_WINDOW: Final = Change(
    field="cookie_window_s",
    after=120,
    summary="cookies are accepted up to 120 s after the last one was sent, not 3 s",
    since="v4.4",
    functions=("tcp_synq_no_recent_overflow",),
    commit="264ea103a747",
    subject="tcp: syncookies: extend validity range",
    backports=("v3.16.82",),
    evidence="measured",
)
COOKIE_STAMP: Final = Change(
    field="cookie_stamp_idle_s",
    after=1,
    summary="the time of the last cookie is noted at most once a second",
    since="v4.4",
    functions=("tcp_synq_overflow",),
    commit="264ea103a747",
    subject="tcp: syncookies: extend validity range",
    backports=("v3.16.82",),
)
FASTOPEN_CLAMPED: Final = Change(
    field="fastopen_clamped",
    after=True,
    summary="net.core.somaxconn limits the Fast Open queue, too",
    since="v4.4",
    functions=("fastopen_queue_tune",),
)
NO_FULL_QUEUE_GRACE: Final = Change(
    field="full_queue_admits_young",
    after=-1,
    summary="a full accept queue drops every SYN, not only when more than one request is young",
    since="v4.10",
    functions=("tcp_conn_request",),
    commit="5ea8ea2cb7f1",
    subject="tcp/dccp: drop SYN packets if accept queue is full",
    backports=("v3.16.81", "v4.4.178"),
    evidence="measured",
)
COOKIE_NO_DROP: Final = Change(
    field="cookie_counts_drop",
    after=False,
    summary="a SYN cookie no longer counts as ListenDrops",
    since="v4.7",
    functions=("tcp_conn_request", "tcp_listendrop"),
    commit="9caad864151e",
    subject="tcp: increment sk_drops for listeners",
    evidence="measured",
)
OUT_OF_WINDOW_LIMITED: Final = Change(
    field="out_of_window_limited",
    after=True,
    summary="tcp_invalid_ratelimit holds for the ACKs that answer unacceptable segments of a request",
    since="v4.7",
    functions=("tcp_check_req",),
    commit="4ce7e93cb3fe",
    subject="tcp: rate limit ACK sent by SYN_RECV request sockets",
    evidence="measured",
)
BACKLOG_32: Final = Change(
    field="backlog_bits",
    after=32,
    summary="a backlog of 65535 can be reached: before, the queue's length wrapped to 0 first",
    since="v4.20",
    functions=("inet_csk_listen_start", "sk_acceptq_is_full"),
    backports=("4.18.0-240.el8",),
    evidence="reported",
)
TIMER_WHEEL: Final = Change(
    field="timer",
    after="wheel",
    summary="timers are rounded up to the granularity of the timer wheel, up to one eighth late",
    since="v4.8",
    functions=("calc_wheel_index", "internal_add_timer"),
    commit="500462a9de65",
    subject="timers: Switch to a non-cascading wheel",
    evidence="measured",
)
TSVAL_OFFSET: Final = Change(
    field="tsval_offset",
    after="mixed",
    summary="timestamps count from a number that is different for every connection, but not in cookies",
    since="v4.10",
    functions=("secure_tcp_sequence_number", "tcp_conn_request"),
    evidence="reported",
)
TSVAL_MS: Final = Change(
    field="tsval_clock",
    after="ms",
    summary="timestamps count milliseconds instead of ticks",
    since="v4.13",
    functions=("tcp_make_synack", "cookie_init_timestamp"),
    evidence="measured",
)
TSVAL_OFFSET_HOST: Final = Change(
    field="tsval_offset",
    after="host",
    summary="timestamps count from a number that is the same for all connections of two hosts",
    since="v4.12",
    functions=("secure_tcp_ts_off", "cookie_init_timestamp"),
    evidence="measured",
)
TW_RECYCLE_TIMESTAMPS: Final = Change(
    field="tw_recycle_needs_timestamp",
    after=True,
    summary="tcp_tw_recycle drops SYNs without timestamps, too",
    since="v3.17",
    functions=("tcp_peer_is_proven",),
    backports=(_EL7,),
)
TW_RECYCLE_GONE: Final = Change(
    field="tw_recycle",
    after=False,
    summary="tcp_tw_recycle is gone",
    since="v4.12",
    functions=("tcp_conn_request", "tcp_time_wait"),
    evidence="reported",
)
TIMEWAIT_SYN_PLAIN: Final = Change(
    field="timewait_syn_is_plain",
    after=True,
    summary="a SYN that reuses a TIME_WAIT 4-tuple is held to the SYN-queue and cookie tests",
    since="v4.15",
    functions=("tcp_v4_rcv", "tcp_v4_fill_cb"),
    commit="eeea10b83a13",
    subject="tcp: add tcp_v4_fill_cb()/tcp_v4_restore_cb()",
    evidence="measured",
)
COOKIE_STAMP_OF_GROUP: Final = Change(
    field="cookie_stamp_of_group",
    after=True,
    summary="a cookie that a socket of a SO_REUSEPORT group sent is looked at by all of them",
    since="v4.18",
    functions=("tcp_synq_overflow", "tcp_synq_no_recent_overflow"),
    evidence="reported",
)
SOMAXCONN_4096: Final = Change(
    field="defaults",
    after={},
    summary="net.core.somaxconn defaults to 4096 instead of 128",
    since="v5.4",
    functions=("__sys_listen",),
    commit="19f92a030ca6",
    subject="net: increase SOMAXCONN to 4096",
)
COOKIE_STAMP_FROM_ZERO: Final = Change(
    field="cookie_stamp_from_zero",
    after=True,
    summary="a listener that never sent a cookie looks at cookies only 299 to 420 s after boot",
    since="v5.5",
    functions=("tcp_synq_no_recent_overflow",),
    commit="cb44a08f8647",
    subject="tcp: tighten acceptance of ACKs not matching a child socket",
    backports=("v5.4.5", "v4.19.91", "v4.14.160", "v4.9.207", "4.18.0-240.el8"),
)
FASTOPEN_DATALESS: Final = Change(
    field="dataless_fastopen",
    after=True,
    summary="Fast Open without cookie also takes a SYN that has the option but no data",
    since="v5.15",
    functions=("tcp_try_fastopen",),
    commit="e3faa49bcecd",
    subject="tcp: enable data-less, empty-cookie SYN with TFO_SERVER_COOKIE_NOT_REQD",
    backports=("v5.14.6", "v5.10.67"),
)
REQUESTS_MIGRATE: Final = Change(
    field="migrates_requests",
    after=True,
    summary="tcp_migrate_req exists: what a closed SO_REUSEPORT socket had moves to another one",
    since="v5.14",
    functions=("inet_csk_listen_stop", "reqsk_timer_handler", "tcp_v4_rcv", "reuseport_migrate_sock"),
    commit="54b92e841937",
    subject="tcp: Migrate TCP_ESTABLISHED/TCP_SYN_RECV sockets in accept queues.",
    evidence="measured",
)
CHALLENGE_UNLIMITED: Final = Change(
    field="defaults",
    after={"net.ipv4.tcp_challenge_ack_limit": 2**31 - 1},
    summary="tcp_challenge_ack_limit is per namespace, and off by default",
    since="v6.1",
    functions=("tcp_send_challenge_ack",),
    commit="79e3602caa6f",
    subject="tcp: make global challenge ack rate limitation per net-ns and default disabled",
)
CHALLENGE_ZERO: Final = Change(
    field="challenge_limit_0_is_none",
    after=False,
    summary="tcp_challenge_ack_limit=0 no longer stops challenge ACKs: it is no limit at all",
    since="v6.2",
    functions=("tcp_send_challenge_ack", "get_random_u32_inclusive"),
    commit="e8a533cbeb79",
    subject="treewide: use get_random_u32_inclusive() when possible",
    evidence="measured",
)
TIMEWAIT_SYN_EXEMPT: Final = Change(
    field="timewait_syn_is_plain",
    after=False,
    summary="a SYN that reuses a TIME_WAIT 4-tuple is exempt from the SYN-queue and cookie tests",
    since="v6.10",
    functions=("tcp_conn_request", "tcp_timewait_state_process"),
    commit="41eecbd712b7",
    subject="tcp: replace TCP_SKB_CB(skb)->tcp_tw_isn with a per-cpu field",
    evidence="measured",
)
TSVAL_OFFSET_CONNECTION: Final = Change(
    field="tsval_offset",
    after="connection",
    summary="timestamps count from a number that is different for every connection",
    since="v7.0",
    functions=("secure_tcp_seq_and_ts_off",),
    backports=("v6.1.192", "v6.12.94", "v6.18.44"),
    evidence="measured",
)
SYN_QUEUE_BACKLOG_PLUS_ONE: Final = Change(
    field="syn_spare",
    after=1,
    summary="the SYN queue is full at qlen > backlog, so one request more fits (and one with backlog 0)",
    since="v6.13",
    functions=("inet_csk_reqsk_queue_is_full",),
    commit="3479c7549fb1",
    subject="tcp/dccp: allow a connection when sk_max_ack_backlog is zero",
    backports=("v6.12.10", "v6.6.72", "v6.1.125", "v5.15.177", "v5.10.234", "v5.4.290"),
    evidence="measured",
)
REQUEST_KEEPS_TSVAL: Final = Change(
    field="request_takes_tsval",
    after=False,
    summary="a segment that is ignored no longer moves the timestamp that later SYN-ACKs echo",
    since="v6.14",
    functions=("tcp_check_req",),
    commit="8d52da23b6c6",
    subject="tcp: Defer ts_recent changes until req is owned",
    backports=("v6.12.18", "v6.6.81", "v6.1.130", "v5.15.179", "v5.10.235"),
)
TSECR_CHECK: Final = Change(
    field="checks_tsecr",
    after=True,
    summary="a segment for a request must echo a timestamp that one of its SYN-ACKs carried",
    since="v6.15",
    functions=("tcp_check_req",),
    commit="3ba075278c11",
    subject="tcp: be less liberal in TSEcr received while in SYN_RECV state",
)
RTO_MAX: Final = Change(
    field="rto_max_setting",
    after=True,
    summary="tcp_rto_max_ms caps the intervals between SYN-ACKs",
    since="v6.15",
    functions=("reqsk_timer_handler", "reqsk_timeout"),
    commit="1280c26228bd",
    subject="tcp: add tcp_rto_max_ms sysctl",
)
RST_EXACT: Final = Change(
    field="rst_needs_exact_seq",
    after=True,
    summary="a RST kills a request only with the exact sequence number; others get a challenge ACK",
    since="v7.2",
    functions=("tcp_check_req",),
    commit="a28c4fcbf774",
    subject="tcp: challenge ACK for non-exact RST in SYN-RECEIVED",
    backports=("v7.1.6", "v6.18.42", "v6.12.105", "v6.6.153", "v6.1.191"),
    evidence="measured",
)
