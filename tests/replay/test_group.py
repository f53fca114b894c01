"""Sockets that share an address and port: which member got a client, and what stays open."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlogtrace.replay.host import Host, HostEvent, HostListener
from backlogtrace.segment import ACK, FIN, PSH, RST, SYN
from tests.kernel.build import client, isn, server_isn
from tests.replay.wire import Wire, at, host, replay

if TYPE_CHECKING:
    from tests.replay.wire import Result


def shared(
    *backlogs: int, events: list[HostEvent] | None = None, opened: tuple[int | None, ...] = (), **sysctls: int
) -> Host:
    """Several sockets on 10.9.0.1:80."""
    given = (*opened, *(None for _ in backlogs))
    return replace(
        host(events=events, **sysctls),
        listeners=[
            HostListener("10.9.0.1", 80, backlog, opened_ns)
            for backlog, opened_ns in zip(backlogs, given, strict=False)
        ],
    )


def last(result: Result) -> tuple[str, str, tuple[int, int], tuple[int, int]]:
    row = result.packets[-1]
    return row.outcome.decision, row.certainty, row.accept_queue, row.syn_queue


def connected(count: int) -> Wire:
    wire = Wire()
    for c in range(1, count + 1):
        wire.handshake(c, 10 * c)
    return wire


def accepted(c: int, ms: float, listener: int) -> HostEvent:
    return HostEvent(at(ms), "accept", listener, peer=client(c))


def test_two_sockets_are_one_listener_with_a_range_of_lengths() -> None:
    result = replay(connected(3), shared(4, 4))
    assert [(s.name, s.sockets, s.decisions) for s in result.listeners] == [
        ("10.9.0.1:80", 2, {"queued": 3, "established": 3})
    ]
    assert last(result) == ("established", "certain", (0, 3), (0, 0))
    assert result.listeners[0].peak_accept_queue == (0, 3)
    assert not result.mismatches


def test_together_they_hold_more_than_one_does() -> None:
    """Each holds two; four fit. The fourth found room, so one of the others is in the same socket at most."""
    result = replay(connected(4), shared(1, 1))
    assert last(result) == ("established", "certain", (1, 2), (0, 0))
    assert not result.mismatches


def test_accept_log_tells_the_members() -> None:
    events = [accepted(c, 100, listener) for c, listener in ((1, 0), (2, 1), (3, 0))]
    result = replay(connected(3), shared(4, 4, events=events))
    queues = [row.accept_queue for row in result.packets if row.outcome.decision == "established"]
    assert queues == [(1, 1), (1, 1), (2, 2)]
    assert not result.mismatches


def test_silence_means_the_member_was_full() -> None:
    """Room in one of two: a SYN that is dropped went to the full one, which then has all there were."""
    wire = connected(2)
    wire.syn(3, 100, answered=False)
    result = replay(wire, shared(1, 1))
    assert last(result)[:2] == ("dropped", "certain")
    assert last(result)[2] == (2, 2)
    assert not result.mismatches


def test_answer_means_it_was_not() -> None:
    wire = connected(2)
    wire.handshake(3, 100)
    result = replay(wire, shared(1, 1))
    assert last(result)[0] == "established"
    assert not result.mismatches


def test_what_the_members_would_decide_differently_is_undecided() -> None:
    """One queues, the other is full and sends cookies; the answer may be either."""
    wire = Wire()
    wire.syn(1, 0)
    wire.syn(2, 10)
    wire.ack(2, 20)
    events = [accepted(1, 5000, 0)]
    first, second, _ = replay(wire, shared(0, 40, events=events)).packets
    assert (first.certainty, first.rivals) == ("certain", ())
    assert (second.certainty, second.rivals) == ("undecided", ("other_listener",))
    _, second, _ = replay(wire, shared(40, 40, events=events)).packets
    assert (second.certainty, second.rivals) == ("certain", ())


def test_member_that_is_closed_resets_its_own() -> None:
    wire = connected(2)
    wire.outbound(RST | ACK, 1, 100.1, seq=server_isn(1) + 1, ack=isn(1) + 1)
    wire.ack(2, 200, length=5)
    closing = HostEvent(at(100), "close", 0)
    result = replay(wire, shared(4, 4, events=[closing]))
    assert not result.mismatches
    assert [event.detail for event in result.events] == ["1 connections reset"]


@pytest.mark.parametrize(("ms", "decision"), [(50, "queued"), (150, "rst"), (250, "queued")])
def test_socket_that_is_opened_after_another_was_closed_replaces_it(ms: float, decision: str) -> None:
    wire = Wire()
    wire.syn(1, ms, answered=decision == "queued")
    if decision == "rst":
        wire.outbound(RST | ACK, 1, ms + 0.1, seq=0, ack=isn(1) + 1)
    known = shared(4, 9, events=[HostEvent(at(100), "close", 0)], opened=(None, at(200)))
    result = replay(wire, known)
    assert result.decisions == [decision]
    assert not result.mismatches


PACKETS = st.tuples(
    st.booleans(), st.integers(1, 4), st.sampled_from((0, 1, 40, 700)),
    st.sampled_from((SYN, SYN | ACK, ACK, ACK | PSH, RST, RST | ACK, FIN | ACK, 0)),
)  # fmt: skip
EVENTS = st.tuples(st.sampled_from(("accept", "close", "listen")), st.integers(0, 2), st.integers(0, 9000))


@given(
    packets=st.lists(PACKETS, max_size=40), events=st.lists(EVENTS, max_size=6),
    backlogs=st.tuples(*[st.sampled_from((0, 1, 4))] * 3), kernel=st.sampled_from(("rhel7", "4.4.1", "6.12")),
    cookies=st.integers(0, 2),
)  # fmt: skip
def test_whatever_comes_the_ranges_are_ranges(
    packets: list[tuple[bool, int, int, int]], events: list[tuple[str, int, int]],
    backlogs: tuple[int, int, int], kernel: str, cookies: int,
) -> None:  # fmt: skip
    wire, now = Wire(), 0.0
    for inbound, c, gap, flags in packets:
        now += gap + 0.01
        (wire.inbound if inbound else wire.outbound)(flags, c, now)
    done = sorted(
        (
            HostEvent(at(ms + 0.005), op, index, backlog=2 if op == "listen" else None)  # type: ignore[arg-type]
            for op, index, ms in events
        ),
        key=lambda event: event.time_ns,
    )
    known = replace(shared(*backlogs, events=done, tcp_syncookies=cookies), kernel=kernel)
    for row in replay(wire, known).packets:
        assert 0 <= row.accept_queue[0] <= row.accept_queue[1] <= 6
        assert 0 <= row.syn_queue[0] <= row.syn_queue[1]


# ---- tcp_migrate_req ----


def migrating(*backlogs: int, closed: int, at_ms: float = 100, **more: Any) -> Host:
    """Sockets of which one is closed while what it has moves to the others."""
    events = [HostEvent(at(at_ms), "close", closed), *more.pop("events", [])]
    opened = more.pop("opened", ())
    return replace(
        shared(*backlogs, events=events, opened=opened, tcp_migrate_req=1, **more), kernel="6.18.44"
    )


def test_connections_of_a_closed_socket_are_the_last_ones_now() -> None:
    wire = connected(2)
    wire.ack(1, 200, length=5)
    wire.ack(2, 210, length=5)
    wire.handshake(3, 300)
    result = replay(wire, migrating(4, 4, closed=0))
    assert not result.mismatches
    assert [event.detail for event in result.events if event.event == "closed"] == [
        "1 connections moved to another socket"
    ]
    assert last(result) == ("established", "certain", (3, 3), (0, 0))


def test_what_moves_may_be_accepted_in_any_order_where_it_is_not_known_who_had_it() -> None:
    wire = connected(3)
    wire.ack(2, 300, length=5)
    known = migrating(4, 4, closed=0, events=[accepted(c, ms, 1) for c, ms in ((2, 200), (3, 210), (1, 220))])
    result = replay(wire, known)
    assert not result.mismatches


def test_accept_order_is_held_to_where_it_is_known() -> None:
    """All three were the first socket's: the second one opens just before the first is closed."""
    events = [accepted(c, ms, 1) for c, ms in ((2, 200), (3, 210), (1, 220))]
    known = migrating(4, 4, closed=0, events=events, opened=(None, at(90)))
    wire = connected(3)
    wire.ack(2, 300, length=5)
    assert [row.what for row in replay(wire, known).mismatches] == ["unexpected_packet"] * 2


def test_ack_of_a_closed_sockets_request_is_the_other_ones() -> None:
    wire = Wire()
    wire.syn(1, 0)
    wire.ack(1, 200)
    result = replay(wire, migrating(4, 4, closed=0, opened=(None, at(90))))
    assert not result.mismatches
    assert last(result) == ("established", "certain", (1, 1), (0, 0))


def test_request_moves_with_its_timer_and_counts_there() -> None:
    wire = Wire()
    wire.syn(1, 0)
    wire.syn(2, 200)
    wire.synack(1, 1020)
    wire.syn(3, 1500)
    result = replay(wire, migrating(4, 4, closed=0, opened=(None, at(90))))
    assert not result.mismatches
    assert [row.syn_queue for row in result.packets] == [(1, 1), (1, 1), (3, 3)]


def test_whose_request_it_was_is_a_range_until_its_timer() -> None:
    wire = Wire()
    wire.syn(1, 0)
    wire.syn(2, 200)
    result = replay(wire, migrating(4, 4, closed=0))
    assert result.packets[-1].syn_queue == (1, 2)
    undecided = replay(wire, migrating(0, 0, closed=0)).packets[-1]
    assert (undecided.certainty, undecided.rivals) == ("undecided", ("other_listener",))


def test_which_of_two_others_gets_it_is_not_known() -> None:
    wire = connected(1)
    wire.handshake(2, 300)
    wire.ack(2, 500, length=5)
    result = replay(wire, migrating(4, 4, 4, closed=0))
    assert not result.mismatches
    assert last(result)[2] == (0, 2)
    events = [accepted(1, 400, 2), accepted(2, 410, 1)]
    result = replay(wire, migrating(4, 4, 4, closed=0, events=events))
    assert not result.mismatches
