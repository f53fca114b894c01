"""The host file's events and the models of accept()."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backlogtrace.replay.host import AcceptModel, Host, HostEvent, HostListener
from backlogtrace.segment import ACK, RST
from tests.kernel.build import client, isn
from tests.replay.wire import KNOWN, Result, Wire, at, host, replay


def crowd(count: int, *, every: float = 10) -> Wire:
    """Handshakes of clients 1 … count, `every` ms; then a segment at 9 s that ends the capture."""
    wire = Wire()
    for c in range(1, count + 1):
        wire.handshake(c, every * c)
    wire.inbound(RST, 99, 9_000)
    return wire


def names(result: Result) -> list[tuple[str, str | None]]:
    return [(row.event, row.peer) for row in result.events]


# ---- accept() ----


def test_accepts_of_the_log_empty_the_queue_in_order() -> None:
    events = [HostEvent(at(100), "accept", 0, client(1)), HostEvent(at(200), "accept", 0, client(2))]
    result = replay(crowd(3), host(events=events))
    assert names(result) == [("accepted", "10.9.1.2:20001"), ("accepted", "10.9.1.3:20002")]
    assert [row.accept_queue for row in result.events] == [(2, 2), (1, 1)]
    assert result.listeners[0].accepted == 2
    assert not result.mismatches


def test_accept_without_peer_takes_the_head() -> None:
    result = replay(crowd(2), host(events=[HostEvent(at(100), "accept", 0)]))
    assert names(result) == [("accepted", "10.9.1.2:20001")]


def test_accept_of_another_than_the_head_is_a_mismatch_and_followed() -> None:
    result = replay(crowd(2), host(events=[HostEvent(at(100), "accept", 0, client(2))]))
    (mismatch,) = result.mismatches
    assert "accept() returned 10.9.1.3:20002, the model has 10.9.1.2:20001 at the head" in mismatch.detail
    assert result.events[-1].accept_queue == (1, 1)


def test_accept_of_nobody_known_is_a_mismatch() -> None:
    result = replay(crowd(1), host(events=[HostEvent(at(100), "accept", 0, client(7))]))
    (mismatch,) = result.mismatches
    assert "not in the model's accept queue" in mismatch.detail
    assert result.listeners[0].accepted == 0


def test_log_without_accepts_means_nobody_accepts() -> None:
    """`events` in the host file is complete: what is not there did not happen."""
    assert replay(crowd(3), host()).listeners[0].peak_accept_queue == (3, 3)


def test_without_a_log_accept_is_worked_out() -> None:
    """Two fit in the queue; three SYNs were answered although it was full: three accept() calls."""
    known = Host(kernel="6.12", sysctl=KNOWN, listeners=[HostListener("10.9.0.1", 80, 1)])
    result = replay(crowd(5), known)
    summary = result.listeners[0]
    assert summary.accepted == 3
    assert summary.decisions["established"] == 5
    assert result.header.assumed == ["accept=infer"]
    assert result.header.mode == "infer"
    assert not result.mismatches


def test_never_accepting_fills_the_queue() -> None:
    """--accept never: backlog + 1 connections, then SYNs are dropped."""
    wire = Wire()
    for c in range(1, 5):
        wire.syn(c, 10 * c, answered=c <= 2)
        if c <= 2:
            wire.ack(c, 10 * c + 1)
    result = replay(wire, host(backlog=1), accept=AcceptModel("never"))
    assert result.decisions == ["queued", "established"] * 2 + ["dropped"] * 2


def test_accept_option_replaces_the_log() -> None:
    events = [HostEvent(at(100), "accept", 0, client(1))]
    result = replay(crowd(3), host(events=events), accept=AcceptModel("never"))
    assert result.listeners[0].accepted == 0
    assert not result.mismatches


def test_accept_rate_takes_one_connection_per_gap() -> None:
    """Ten per second: the first at once, the others 100 ms apart."""
    wire = Wire()
    for c in range(1, 6):
        wire.handshake(c, c)  # ACKs at 2 … 6 ms
    for n, when in enumerate((50, 150, 250, 350, 450)):
        wire.syn(10 + n, when)
    result = replay(wire, host(backlog=10), accept=AcceptModel("rate", 10.0))
    queues = [
        row.accept_queue[0] for row in result.packets if row.segment.src in {client(10 + n) for n in range(5)}
    ]
    assert queues == [4, 3, 2, 1, 0]
    assert result.listeners[0].accepted == 5


def test_accept_rate_after_a_pause_begins_at_once() -> None:
    """An application that waited for work takes it when it comes."""
    wire = Wire()
    wire.handshake(1, 0)
    wire.handshake(2, 5_000)
    wire.syn(3, 5_010)
    result = replay(wire, host(), accept=AcceptModel("rate", 1.0))
    assert result.packets[-1].accept_queue == (0, 0)
    assert result.listeners[0].accepted == 2


# ---- listen(), close(), sysctl ----


def test_listen_again_changes_the_limits_and_says_so() -> None:
    wire = crowd(2)
    wire.syn(5, 100, answered=False)
    wire.syn(5, 1120)
    wire.ack(5, 1121)
    result = replay(wire, host(backlog=1, events=[HostEvent(at(500), "listen", 0, backlog=8)]))
    assert result.decisions[4:7] == ["dropped", "queued", "established"]
    assert [(row.event, row.detail) for row in result.events] == [("listen", "backlog 8")]
    assert not result.mismatches


def test_sysctl_takes_effect_at_its_time() -> None:
    wire = crowd(2)
    wire.syn(5, 20.5)
    wire.ack(5, 100)
    wire.ack(5, 600)
    wire.rst(5, 600.1)
    event = HostEvent(at(500), "sysctl", name="net.ipv4.tcp_abort_on_overflow", value=1)
    result = replay(wire, host(backlog=1, events=[event]))
    assert result.decisions[5:7] == ["overflow", "rst"]
    assert [row.detail for row in result.events] == ["net.ipv4.tcp_abort_on_overflow=1"]
    assert not result.mismatches


def test_close_resets_the_connections_nobody_accepted() -> None:
    """Their RSTs are foreseen; what comes later is refused."""
    wire = Wire()
    wire.handshake(1, 0)
    wire.handshake(2, 10)
    for c in (1, 2):
        wire.outbound(RST | ACK, c, 100.1 + c / 10)
    wire.syn(3, 200, answered=False)
    wire.outbound(RST | ACK, 3, 200.1, seq=0, ack=isn(3) + 1)
    result = replay(wire, host(events=[HostEvent(at(100), "close", 0)]))
    assert [(row.event, row.detail) for row in result.events] == [("closed", "2 connections reset")]
    assert result.decisions[-1] == "rst"
    assert result.packets[-1].outcome.reason == "no_listener"
    assert not result.mismatches


def test_close_whose_resets_are_not_seen_is_a_mismatch_each() -> None:
    wire = crowd(2)
    result = replay(wire, host(events=[HostEvent(at(100), "close", 0)]))
    assert [row.what for row in result.mismatches][:2] == ["missing_packet", "missing_packet"]
    assert {row.peer for row in result.mismatches} >= {"10.9.1.2:20001", "10.9.1.3:20002"}


def test_request_of_a_closed_listener_ends_with_its_timer() -> None:
    wire = Wire()
    wire.syn(1, 0)
    wire.inbound(RST, 99, 9_000)
    result = replay(wire, host(events=[HostEvent(at(100), "close", 0)]))
    assert [(row.event, row.detail) for row in result.events] == [
        ("closed", "0 connections reset"),
        ("expired", "its listener is closed"),
    ]
    assert not [row for row in result.mismatches if row.what == "missing_packet"]


def test_listener_opened_later_refuses_before() -> None:
    wire = Wire()
    wire.syn(1, 0, answered=False)
    wire.outbound(RST | ACK, 1, 0.1, seq=0, ack=isn(1) + 1)
    wire.handshake(2, 200)
    known = Host(
        kernel="6.12",
        sysctl=KNOWN,
        listeners=[HostListener("10.9.0.1", 80, 5, opened_ns=at(100))],
        accept_log=True,
    )
    result = replay(wire, known)
    assert result.decisions == ["rst", "queued", "established"]
    assert names(result) == [("listen", None)]
    assert not result.mismatches


def test_listener_reopened_after_close_starts_empty() -> None:
    wire = crowd(2)
    for c in (1, 2):
        wire.outbound(RST | ACK, c, 100.1)
    wire.handshake(3, 300)
    events = [HostEvent(at(100), "close", 0), HostEvent(at(200), "listen", 0, backlog=2)]
    result = replay(wire, host(events=events))
    third = [row for row in result.packets if row.segment.src == client(3)]
    assert [row.accept_queue for row in third] == [(0, 0), (1, 1)]
    assert not result.mismatches


@pytest.mark.parametrize("flags", [RST, RST | ACK, ACK])
def test_event_before_the_first_packet_is_carried_out(flags: int) -> None:
    wire = Wire()
    wire.handshake(1, 100)
    wire.inbound(flags, 1, 110)
    result = replay(wire, host(events=[HostEvent(at(0), "listen", 0, backlog=0)]))
    assert result.events[0].detail == "backlog 0"
    assert result.packets[-1].accept_queue in {(1, 1), (0, 0)}


def test_close_shows_who_was_accepted_before() -> None:
    """Where accept() is worked out: whom close() does not reset was accepted, however late it is used."""
    wire = Wire()
    for c in (1, 2, 3):
        wire.handshake(c, 10 * c)
    wire.outbound(RST | ACK, 3, 1000.1)
    for c in (1, 2):
        wire.outbound(ACK, c, 1200 + c, length=5)
    wire.syn(4, 1500, answered=False)
    wire.outbound(RST | ACK, 4, 1500.05, seq=0)
    wire.inbound(RST, 99, 9_000)
    plain = replace(host().listeners[0], defer_accept=0)
    closing = host(events=[HostEvent(at(1000), "close", 0)])
    result = replay(wire, replace(closing, listeners=[plain], accept_log=False))
    assert result.mismatches == []
    assert result.listeners[0].accepted == 2
    assert [row.detail for row in result.events] == ["1 connections reset"]
