"""A small analysis made by hand: what report/ is tested with, whatever the model says today."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backlogtrace.kernel import outcomes
from backlogtrace.replay.rows import (
    ClientImpact,
    EventRow,
    Header,
    ListenerSummary,
    MismatchRow,
    OutRow,
    PacketRow,
    QueueSample,
    Row,
)
from backlogtrace.segment import ACK, SYN, Segment, endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.replay.rows import Span

START = 1_795_322_240_000_000_000
SERVER = endpoint("10.9.0.1", 80)
NAME = "10.9.0.1:80"


class FakeAnalysis:
    """Rows, header and summaries as replay/ would hand them out."""

    def __init__(self, rows: list[Row], header: Header, listeners: list[ListenerSummary]) -> None:
        self.rows, self.header, self.listeners = rows, header, listeners
        self.many: dict[str, dict[Outcome, Span]] = {}

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


def segment(frame: int, ms: int, peer: str, flags: int, *, out: bool = False, port: int = 4004) -> Segment:
    client = endpoint(peer, port)
    src, dst = (SERVER, client) if out else (client, SERVER)
    return Segment(frame, START + ms * 1_000_000, src, dst, flags, 1000, 0, 65535, 0)


def packet(frame: int, ms: int, outcome: Any, queues: tuple[int, int] = (0, 0), **extra: Any) -> PacketRow:
    flags = extra.pop("flags", SYN)
    peer = extra.pop("peer", f"10.9.0.{frame % 200 + 2}")
    accept, syn = queues
    return PacketRow(segment(frame, ms, peer, flags), NAME, outcome, (accept, accept), (syn, syn), **extra)


def synack(frame: int, ms: int, reason: str = "timer", attempt: int = 1, **extra: Any) -> OutRow:
    peer = extra.pop("peer", "10.9.0.9")
    cause = None if reason == "timer" else frame - 1
    return OutRow(
        segment(frame, ms, peer, SYN | ACK, out=True), NAME, "synack", reason, cause, attempt, True, **extra
    )


def rows() -> list[Row]:
    """One of everything."""
    return [
        packet(1, 0, outcomes.QUEUED, (0, 1)),
        synack(2, 0, "reply", 0),
        packet(3, 10, outcomes.ESTABLISHED, (1, 0), flags=ACK),
        packet(15, 57, outcomes.OVERFLOW, (4, 1), flags=ACK, resolved_by=26, peer="10.9.0.2"),
        packet(
            16,
            60,
            outcomes.DROP_ACCEPT_QUEUE,
            (4, 1),
            certainty="likely",
            rivals=("firewall",),
            peer="fd09::2",
        ),
        synack(26, 1071, counters={"TCPSynRetrans": 1}),
        EventRow(
            START + 63_000_000_000,
            NAME,
            "10.9.0.2:4004",
            "expired",
            (4, 4),
            (0, 0),
            {"TCPTimeouts": 1},
            "gone",
        ),
        MismatchRow(START + 64_000_000_000, NAME, "10.9.0.2:4004", "unexpected_reply", "SYN-ACK seen", 31),
    ]


def summary(**changes: Any) -> ListenerSummary:
    values: dict[str, Any] = {
        "name": NAME, "kernel": "5.10", "kernel_note": "", "backlog": 3, "backlog_source": "host file",
        "effective_backlog": 3, "somaxconn": 4096, "accept_capacity": 4, "syn_capacity": 4,
        "sysctl": {
            "net.core.somaxconn": 4096, "net.ipv4.tcp_syncookies": 1, "net.ipv4.tcp_abort_on_overflow": 0,
        },
        "first_ns": START, "last_ns": START + 64_000_000_000, "clients": 6,
    }  # fmt: skip
    return ListenerSummary(**values | changes)


def full_summary() -> ListenerSummary:
    """The totals that belong to rows()."""
    return summary(
        decisions={"queued": 1, "established": 1, "overflow": 1, "dropped": 1},
        reasons={
            ("queued", "new_request"): 1, ("established", "request_completed"): 1,
            ("overflow", "accept_queue_full"): 1, ("dropped", "accept_queue_full"): 1,
        },
        counters={"ListenOverflows": 2, "ListenDrops": 2, "PassiveOpens": 1},
        peak_accept_queue=(4, 4), peak_syn_queue=(1, 1), mismatches=1, expired=1, accepted=2,
        impacts=[ClientImpact("10.9.0.2:4004", START, {"overflow": 1}, "never", 63_000_000_000)],
        samples=[
            QueueSample(START, (0, 0), (1, 1)), QueueSample(START + 10**10, (4, 4), (1, 1)),
            QueueSample(START + 6 * 10**10, (1, 1), (0, 0)),
        ],
    )  # fmt: skip


def header(**changes: Any) -> Header:
    values: dict[str, Any] = {
        "capture": "x.pcap", "packets": 31, "handshake_packets": 30, "kernel": "5.10", "mode": "predict",
        "assumed": ["accept=infer"], "first_ns": START, "last_ns": START + 64_000_000_000,
    }  # fmt: skip
    return Header(**values | changes)


@pytest.fixture
def analysis() -> FakeAnalysis:
    """An analysis with one row of every kind."""
    return FakeAnalysis(rows(), header(), [full_summary()])


@pytest.fixture
def make() -> Callable[..., FakeAnalysis]:
    """Builder: make(rows=…, header={…}, listeners=[…])."""

    def build(
        rows: list[Row] | None = None,
        head: dict[str, Any] | None = None,
        listeners: list[ListenerSummary] | None = None,
    ) -> FakeAnalysis:
        return FakeAnalysis(
            rows or [], header(**head or {}), [full_summary()] if listeners is None else listeners
        )

    return build


@pytest.fixture
def build() -> Any:
    """The builders of this module, for tests that need single rows or summaries."""
    import types

    return types.SimpleNamespace(
        packet=packet, synack=synack, rows=rows, summary=summary, full_summary=full_summary, header=header,
        start=START,        name=NAME,
    )  # fmt: skip
