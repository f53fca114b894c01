"""The kernel changes that altered the listen path, each with where it comes from.

Data only. `backports` names trees in which the change was read or measured, not the first to have
it unless `summary` says so.
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
    since="v5.10",
    functions=("tcp_try_fastopen",),
)
SYN_QUEUE_BACKLOG_PLUS_ONE: Final = Change(
    field="syn_spare",
    after=1,
    summary="the SYN queue is full at qlen > backlog, so one request more fits (and one with backlog 0)",
    since="v6.14",
    functions=("inet_csk_reqsk_queue_is_full",),
    subject="tcp: allow a connection when sk_max_ack_backlog is zero",
    backports=("v6.12.10", "v6.1.125", "v5.10.262"),
    evidence="measured",
)
REQUEST_KEEPS_TSVAL: Final = Change(
    field="request_takes_tsval",
    after=False,
    summary="a segment that is ignored no longer moves the timestamp that later SYN-ACKs echo",
    since="v6.12",
    functions=("tcp_check_req",),
    backports=("v6.1.176",),
)
TIMEWAIT_SYN_EXEMPT: Final = Change(
    field="timewait_syn_is_plain",
    after=False,
    summary="a SYN that reuses a TIME_WAIT 4-tuple is exempt from the SYN-queue and cookie tests",
    since="v6.12",
    functions=("tcp_conn_request", "tcp_timewait_state_process"),
    evidence="measured",
)
RST_EXACT: Final = Change(
    field="rst_needs_exact_seq",
    after=True,
    summary="a RST kills a request only with the exact sequence number; others get a challenge ACK",
    since="v7.2",
    functions=("tcp_check_req",),
    backports=("v6.12.105", "v6.18.44"),
    evidence="measured",
)
TSECR_CHECK: Final = Change(
    field="checks_tsecr",
    after=True,
    summary="a segment for a request must echo a timestamp that one of its SYN-ACKs carried",
    since="v6.15",
    functions=("tcp_check_req",),
)
RTO_MAX: Final = Change(
    field="rto_max_setting",
    after=True,
    summary="tcp_rto_max_ms caps the intervals between SYN-ACKs",
    since="v6.15",
    functions=("reqsk_timer_handler", "tcp_reqsk_timeout"),
)
PAWS_TIMEWAIT: Final = Change(
    field="timewait_paws_counter",
    after="PAWSTimewait",
    summary="an old timestamp in TIME_WAIT counts PAWSTimewait instead of PAWSEstab",
    since="v6.15",
    functions=("tcp_timewait_state_process",),
)
