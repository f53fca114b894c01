"""What a listener did to its clients: attempts, their fate, the latency added, queue lengths over time."""

from __future__ import annotations

import pytest

from backlogtrace.replay import track as track_module
from backlogtrace.replay.host import HostEvent
from backlogtrace.segment import ACK, RST, SYN
from tests.kernel.build import MS, START, client
from tests.replay.wire import Wire, at, host, replay

FULL = 1  # backlog of the tests: two connections fit


def full_queue() -> Wire:
    """Two connections that nobody accepts."""
    wire = Wire()
    wire.handshake(1, 0)
    wire.handshake(2, 10)
    return wire


def end(wire: Wire, ms: float) -> Wire:
    """A last packet of no meaning."""
    wire.inbound(RST, 99, ms)
    return wire


def test_client_that_was_never_hit_has_no_impact() -> None:
    result = replay(full_queue(), host(FULL))
    assert result.listeners[0].impacts == []
    assert result.listeners[0].clients == 2


def test_dropped_syn_costs_the_wait_for_the_next() -> None:
    """Two drops, taken at 3 s: three seconds added; the handshake's own round trip is not the listener's."""
    wire = full_queue()
    wire.syn(3, 100, answered=False)
    wire.syn(3, 1100, answered=False)
    wire.syn(3, 3100)
    wire.ack(3, 3150)
    result = replay(wire, host(FULL, events=[HostEvent(at(2000), "accept", 0, client(1))]))
    (impact,) = result.listeners[0].impacts
    assert (impact.peer, impact.fate, impact.decisions) == ("10.9.1.4:20003", "connected", {"dropped": 2})
    assert (impact.first_ns, impact.added_ns) == (at(100), 3000 * MS)
    assert result.listeners[0].clients == 3


def test_ignored_ack_costs_the_wait_for_a_place() -> None:
    """From the first ACK that was ignored to the one that was taken."""
    wire = full_queue()
    wire.syn(3, 10.5)
    wire.ack(3, 50)
    wire.synack(3, 1030)
    wire.ack(3, 1040)
    result = replay(wire, host(FULL, events=[HostEvent(at(500), "accept", 0, client(1))]))
    (impact,) = result.listeners[0].impacts
    assert (impact.fate, impact.decisions) == ("connected", {"overflow": 1})
    assert (impact.first_ns, impact.added_ns) == (at(10.5), 990 * MS)


def test_both_waits_add_up() -> None:
    wire = full_queue()
    wire.syn(3, 100, answered=False)
    wire.syn(3, 1100)
    wire.syn(4, 1101)
    wire.ack(4, 1102)
    wire.ack(3, 1103)
    wire.synack(3, 2120)
    wire.ack(3, 2130)
    events = [HostEvent(at(500), "accept", 0, client(1)), HostEvent(at(1500), "accept", 0, client(2))]
    (impact,) = replay(wire, host(FULL, events=events)).listeners[0].impacts
    assert (impact.fate, impact.decisions) == ("connected", {"dropped": 1, "overflow": 1})
    assert impact.added_ns == (1000 + 2130 - 1103) * MS


def test_client_reset_by_the_server() -> None:
    wire = full_queue()
    wire.syn(3, 10.5)
    wire.ack(3, 50)
    wire.rst(3, 50.1)
    (impact,) = replay(wire, host(FULL, tcp_abort_on_overflow=1)).listeners[0].impacts
    assert (impact.fate, impact.decisions) == ("reset", {"rst": 1})


def test_client_that_gave_up_itself() -> None:
    wire = full_queue()
    wire.syn(3, 10.5)
    wire.ack(3, 50)
    wire.inbound(RST, 3, 700)
    (impact,) = replay(wire, host(FULL)).listeners[0].impacts
    assert (impact.fate, impact.decisions) == ("gave_up", {"overflow": 1})


@pytest.mark.parametrize(("last_ms", "fate"), [(30_000, "open"), (69_000, "open"), (71_000, "never")])
def test_client_without_an_answer_is_open_until_its_syns_are_over(last_ms: int, fate: str) -> None:
    """70 s after its last SYN nothing comes any more."""
    wire = full_queue()
    wire.syn(3, 100, answered=False)
    (impact,) = replay(end(wire, 100 + last_ms), host(FULL)).listeners[0].impacts
    assert (impact.fate, impact.added_ns) == (fate, 0)


def test_client_whose_request_expired_never_connects() -> None:
    """However short before the end of the capture."""
    wire = full_queue()
    wire.syn(3, 10.5)
    wire.ack(3, 50)
    wire.synack(3, 1030)
    wire.ack(3, 1050)
    (impact,) = replay(end(wire, 4_500), host(FULL, tcp_synack_retries=1)).listeners[0].impacts
    assert (impact.fate, impact.decisions, impact.added_ns) == ("never", {"overflow": 2}, round(1039.5 * MS))


def test_expired_requests_are_counted() -> None:
    wire = Wire()
    wire.syn(1, 0)
    result = replay(end(wire, 5_000), host(tcp_synack_retries=0))
    assert result.listeners[0].expired == 1


def test_impacts_are_in_order_of_the_first_syn_and_keep_the_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five clients the two that waited longest are shown, the others counted."""
    monkeypatch.setattr(track_module, "IMPACT_LIMIT", 2)
    wire = full_queue()
    for n, wait in enumerate((1000, 5000, 2000, 4000, 3000)):
        wire.syn(3 + n, 100 + n, answered=False)
        wire.syn(3 + n, 100 + n + wait, answered=False)
    summary = replay(end(wire, 200_000), host(FULL)).listeners[0]
    assert [impact.added_ns for impact in summary.impacts] == [5000 * MS, 4000 * MS]
    assert summary.impacts_hidden == 3


def test_flood_of_victims_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track_module, "_OPEN_LIMIT", 3)
    wire = full_queue()
    for c in range(3, 13):
        wire.syn(c, 100 + c, answered=False)
    summary = replay(wire, host(FULL)).listeners[0]
    assert len(summary.impacts) == 3
    assert summary.impacts_hidden == 7
    assert summary.decisions["dropped"] == 10


def test_summary_counts_decisions_reasons_and_counters() -> None:
    wire = full_queue()
    wire.syn(3, 10.5)
    wire.ack(3, 50)
    for n in range(3):
        wire.syn(4, 100 + 1000 * n, answered=False)
    wire.synack(3, 1030)
    summary = replay(wire, host(FULL)).listeners[0]
    assert summary.decisions == {"queued": 3, "established": 2, "overflow": 1, "dropped": 3}
    assert summary.reasons["dropped", "accept_queue_full"] == 3
    assert summary.counters == {
        "PassiveOpens": 2, "ListenOverflows": 4, "ListenDrops": 4, "TCPSynRetrans": 1,
    }  # fmt: skip
    assert (summary.peak_accept_queue, summary.peak_syn_queue) == ((2, 2), (2, 2))
    assert (summary.backlog, summary.accept_capacity, summary.syn_capacity) == (1, 2, 2)


def test_samples_are_bounded_and_keep_the_peak() -> None:
    """However long the capture: at most a thousand or so slices, none of which loses its highest value."""
    wire = Wire()
    for c in range(1, 4000):
        wire.inbound(SYN, c % 6000, 10 * c)
        wire.outbound(SYN | ACK, c % 6000, 10 * c + 0.1)
        if c != 2000:
            wire.inbound(ACK, c, 10 * c + 1)
    result = replay(wire, host(10_000, somaxconn=10_000))
    summary = result.listeners[0]
    assert 256 <= len(summary.samples) <= 1024
    assert max(sample.accept_queue[1] for sample in summary.samples) == summary.peak_accept_queue[1]
    assert summary.peak_accept_queue[1] == max(row.accept_queue[1] for row in result.packets)
    assert summary.peak_syn_queue[1] == max(row.syn_queue[1] for row in result.packets)
    times = [sample.time_ns for sample in summary.samples]
    assert times == sorted(times)
    assert times[0] == START + 10 * MS
