"""The kernel changes that altered the listen path, each with where it comes from.

Data only. `backports` names the first stable releases that carry a change where they are known
from release announcements or distribution changelogs.
"""

from __future__ import annotations

from typing import Final

from backlogtrace.kernel.profile import Change

SOMAXCONN_4096: Final = Change(
    field="defaults",
    after={},
    summary="net.core.somaxconn defaults to 4096 instead of 128",
    since="v5.4",
    functions=("__sys_listen",),
    commit="19f92a030ca6",
    subject="net: increase SOMAXCONN to 4096",
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
TIMEWAIT_SYN_EXEMPT: Final = Change(
    field="timewait_syn_is_plain",
    after=False,
    summary="a SYN that reuses a TIME_WAIT 4-tuple is exempt from the SYN-queue and cookie tests",
    since="v6.10",
    functions=("tcp_conn_request", "tcp_timewait_state_process"),
    evidence="measured",
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
