"""Prometheus text format (exposition format 0.0.4) for a textfile collector or a CI metric store.

Knows metric names, labels and escaping; counters carry nstat's names so that both can be compared.
Refuses to show single packets.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, TextIO

from backlogtrace.report.safe import safe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backlogtrace.replay.rows import Header, ListenerSummary
    from backlogtrace.report import Analysis

SNMP_COUNTERS = frozenset({"PassiveOpens", "AttemptFails", "OutRsts"})
"""Counters of the Tcp line of /proc/net/snmp; all others are in TcpExt of /proc/net/netstat."""

_Labels = dict[str, str]
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=^TCP)(?=[A-Z])")


def nstat_name(counter: str) -> str:
    """`TcpExtListenOverflows` for `ListenOverflows`, as nstat prints it."""
    return f"{'Tcp' if counter in SNMP_COUNTERS else 'TcpExt'}{counter}"


def metric_name(counter: str) -> str:
    """`backlogtrace_tcpext_listen_overflows_total` for `ListenOverflows`."""
    group = "tcp" if counter in SNMP_COUNTERS else "tcpext"
    return f"backlogtrace_{group}_{_WORD.sub('_', counter).lower()}_total"


def write_prom(analysis: Analysis, out: TextIO) -> None:
    """All metrics, each with HELP and TYPE, in an order that does not depend on the capture."""
    deque(analysis, maxlen=0)
    page = _Page(out)
    _capture_metrics(page, analysis.header)
    _listener_metrics(page, analysis.listeners)
    counters = sorted({name for summary in analysis.listeners for name in summary.counters})
    for name in counters:
        page.metric(
            metric_name(name), "counter", f"{nstat_name(name)} as the model counts it",
            (({"listener": s.name}, s.counters[name]) for s in analysis.listeners if name in s.counters),
        )  # fmt: skip


class _Page:
    def __init__(self, out: TextIO) -> None:
        self._write = out.write

    def metric(self, name: str, kind: str, meaning: str, values: Iterable[tuple[_Labels, int]]) -> None:
        """One metric family; left out when it has no value."""
        lines = [f"{name}{_labels(labels)} {value}\n" for labels, value in values]
        if lines:
            self._write(f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n{''.join(lines)}")


def _labels(labels: _Labels) -> str:
    cells = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())
    return f"{{{cells}}}" if cells else ""


def _escape(value: str) -> str:
    """Label values escape backslash, quote and newline; other control characters are made visible first."""
    return safe(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _capture_metrics(page: _Page, header: Header) -> None:
    what = {
        "capture": header.capture,
        "kernel": header.kernel,
        "mode": header.mode,
        "quality": header.quality,
    }
    page.metric("backlogtrace_info", "gauge", "What was analysed and how", [(what, 1)])
    page.metric("backlogtrace_capture_packets_total", "counter", "Packets read", [({}, header.packets)])
    page.metric(
        "backlogtrace_capture_handshake_packets_total", "counter", "Packets that concern a listen socket",
        [({}, header.handshake_packets)],
    )  # fmt: skip
    page.metric(
        "backlogtrace_capture_skipped_packets_total", "counter", "Packets that were not analysed",
        (({"reason": reason}, count) for reason, count in sorted(header.skipped.items())),
    )  # fmt: skip
    page.metric(
        "backlogtrace_capture_problems",
        "gauge",
        "Places where reading went wrong",
        [({}, len(header.problems))],
    )


def _listener_metrics(page: _Page, listeners: list[ListenerSummary]) -> None:
    page.metric(
        "backlogtrace_packets_total", "counter", "Inbound packets by the kernel's decision",
        (
            ({"listener": s.name, "decision": decision, "reason": reason}, count)
            for s in listeners
            for (decision, reason), count in sorted(s.reasons.items())
        ),
    )  # fmt: skip
    page.metric(
        "backlogtrace_backlog", "gauge", "Backlog passed to listen()",
        (({"listener": s.name}, s.backlog) for s in listeners if s.backlog is not None),
    )  # fmt: skip
    simple = (
        ("effective_backlog", "gauge", "Backlog after the clamp to somaxconn", "effective_backlog"),
        ("accept_queue_capacity", "gauge", "Connections that fit in the accept queue", "accept_capacity"),
        ("syn_queue_capacity", "gauge", "Requests that fit in the SYN queue", "syn_capacity"),
        ("connection_attempts_total", "counter", "Connection attempts seen", "clients"),
        ("requests_expired_total", "counter", "Requests that were given up by the SYN-ACK timer", "expired"),
        ("accepted_total", "counter", "Connections returned by accept()", "accepted"),
        ("mismatches_total", "counter", "Differences between model and capture", "mismatches"),
    )
    for name, kind, meaning, attribute in simple:
        values = [({"listener": s.name}, int(getattr(s, attribute))) for s in listeners]
        page.metric(f"backlogtrace_{name}", kind, meaning, values)
    for queue in ("accept", "syn"):
        page.metric(
            f"backlogtrace_{queue}_queue_peak", "gauge", "Longest queue, as the evidence bounds it",
            (
                ({"listener": s.name, "bound": bound}, getattr(s, f"peak_{queue}_queue")[index])
                for s in listeners
                for index, bound in enumerate(("lowest", "highest"))
            ),
        )  # fmt: skip
