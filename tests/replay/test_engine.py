"""Predictions held against the wire: what is confirmed, what is missing, what was not foreseen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backlogtrace.errors import UsageError
from backlogtrace.replay import analysis as analysis_module
from backlogtrace.replay.host import Host, HostEvent, HostListener
from backlogtrace.segment import ACK, FIN, PSH, RST, SYN, endpoint
from tests.kernel.build import SERVER, client, isn, segment, server_isn
from tests.replay.wire import Result, Wire, at, host, replay

OTHER = endpoint("10.9.0.1", 443)
ANYWHERE = "0.0.0.0"  # noqa: S104 - nothing is bound


# ---- what goes as predicted ----


def test_handshake_is_confirmed_packet_by_packet() -> None:
    wire = Wire()
    wire.handshake(1, 0)
    result = replay(wire)
    syn, ack = result.packets
    (synack,) = result.sent
    assert (syn.outcome.decision, syn.resolved_by, syn.certainty) == ("queued", 2, "certain")
    assert (syn.accept_queue, syn.syn_queue) == ((0, 0), (1, 1))
    assert (synack.decision, synack.reason, synack.cause, synack.attempt, synack.expected) == (
        "synack", "reply", 1, 0, True,
    )  # fmt: skip
    assert (ack.outcome.decision, ack.accept_queue, ack.syn_queue) == ("established", (1, 1), (0, 0))
    assert not result.mismatches
    assert result.header.handshake_packets == 3


def test_data_of_the_server_proves_the_handshake() -> None:
    wire = Wire()
    wire.handshake(1, 0)
    wire.ack(1, 2, length=100)
    wire.outbound(ACK | PSH, 1, 3, length=10)
    assert replay(wire).packets[1].resolved_by == 5


def test_ignored_ack_is_proved_by_the_repeated_synack() -> None:
    wire = Wire()
    wire.handshake(1, 0)
    wire.syn(2, 10)
    wire.syn(3, 10.5)
    wire.ack(2, 11)
    wire.ack(3, 12)
    wire.synack(3, 1030)
    result = replay(wire, host(backlog=1))
    overflow = result.packets[-1]
    assert (overflow.outcome.decision, overflow.resolved_by) == ("overflow", 10)
    repeated = result.sent[-1]
    assert (repeated.reason, repeated.attempt, repeated.expected) == ("timer", 1, True)
    assert repeated.counters == {"TCPSynRetrans": 1}
    assert not result.mismatches


def test_dropped_syn_is_proved_by_the_next_one() -> None:
    wire = Wire()
    for c in (1, 2):
        wire.handshake(c, c)
    for when in (10, 1010, 3010):
        wire.syn(3, when, answered=False)
    result = replay(wire, host(backlog=1))
    assert result.decisions[-3:] == ["dropped"] * 3
    assert [row.resolved_by for row in result.packets[-3:]] == [8, 9, None]
    assert not result.mismatches


def test_expiry_without_hz_is_an_event_within_its_window() -> None:
    """The request may be gone from 63 s on; until the window closes the queue length is an interval."""
    wire = Wire()
    wire.syn(1, 0)
    for seconds in (1.02, 3.04, 7.1, 15.3, 31.4):
        wire.synack(1, 1000 * seconds)
    wire.syn(2, 64_000)
    wire.ack(2, 64_001)
    wire.syn(3, 80_000)
    result = replay(wire)
    assert [row.attempt for row in result.sent[1:6]] == [1, 2, 3, 4, 5]
    assert result.packets[1].syn_queue == (1, 2)
    (expired,) = [row for row in result.events if row.event == "expired"]
    assert expired.peer == "10.9.1.2:20001"
    assert at(63_400) <= expired.time_ns <= at(68_000)
    assert not result.mismatches


def test_cookie_is_remembered_by_what_the_wire_showed() -> None:
    """tcp_syncookies=2: the right ACK makes a connection, another one is reset."""
    wire = Wire()
    wire.syn(1, 0)
    wire.syn(2, 1)
    wire.ack(1, 5)
    wire.ack(2, 6, ack=99)
    wire.outbound(RST, 2, 6.1, seq=99)
    result = replay(wire, host(tcp_syncookies=2))
    assert result.decisions == ["cookie", "cookie", "established", "rst"]
    assert [row.reason for row in result.sent] == ["cookie", "cookie", "reply"]
    assert not result.mismatches


def test_challenge_ack_for_a_syn_on_a_connection_is_no_mismatch() -> None:
    """The answer is seen although packets of established connections have no rows."""
    wire = Wire()
    wire.handshake(1, 0)
    wire.syn(1, 100, answered=False)
    wire.outbound(ACK, 1, 100.1)
    wire.syn(2, 5000)
    result = replay(wire)
    assert result.decisions[2] == "ignored"
    assert not result.mismatches


@pytest.mark.parametrize("everything", [False, True])
def test_packets_of_connections_have_rows_only_on_request(everything: bool) -> None:
    wire = Wire()
    wire.handshake(1, 0)
    wire.ack(1, 2, length=10)
    wire.outbound(ACK, 1, 3)
    result = replay(wire, all_packets=everything)
    assert result.decisions.count("passed") == everything
    assert [row.decision for row in result.sent].count("passed") == everything


def test_routine_rows_can_be_left_out() -> None:
    """The summary is the same; rows remain for what went wrong."""
    wire = Wire()
    for c in (1, 2):
        wire.handshake(c, c)
    wire.syn(3, 10, answered=False)
    wire.syn(3, 1010, answered=False)
    full, brief = replay(wire, host(backlog=1)), replay(wire, host(backlog=1), routine_rows=False)
    assert [row.outcome.decision for row in brief.packets] == ["dropped", "dropped"]
    assert not brief.sent
    assert brief.listeners == full.listeners


# ---- what is missing ----


def test_missing_synack_is_a_mismatch_and_the_request_is_given_up() -> None:
    wire = Wire()
    wire.syn(1, 0, answered=False)
    wire.syn(2, 1500)
    result = replay(wire)
    (mismatch,) = result.mismatches
    assert (mismatch.what, mismatch.frame, mismatch.peer) == ("missing_reply", 1, "10.9.1.2:20001")
    assert "SYN-ACK predicted for frame 1" in mismatch.detail
    assert result.packets[1].syn_queue == (1, 1)
    assert result.listeners[0].mismatches == 1


def test_missing_rst_is_a_mismatch() -> None:
    wire = Wire()
    wire.ack(1, 0)
    wire.syn(2, 1500)
    (mismatch,) = replay(wire).mismatches
    assert (mismatch.what, mismatch.frame) == ("missing_reply", 1)
    assert "RST predicted" in mismatch.detail


def test_reply_after_the_end_of_the_capture_is_not_missing() -> None:
    wire = Wire()
    wire.syn(1, 0, answered=False)
    wire.syn(2, 999)
    assert not replay(wire).mismatches


def test_missing_repetition_of_the_synack_is_a_mismatch() -> None:
    wire = Wire()
    wire.syn(1, 0)
    wire.syn(2, 5000)
    result = replay(wire)
    mismatch = result.mismatches[0]
    assert (mismatch.what, mismatch.frame) == ("missing_packet", None)
    assert mismatch.peer == "10.9.1.2:20001"


# ---- what was not foreseen ----


def test_synack_for_a_syn_the_model_dropped_is_a_mismatch_and_followed() -> None:
    """The model takes the request over and so understands what comes after it."""
    wire = Wire()
    for c in (1, 2):
        wire.handshake(c, c)
    wire.syn(3, 10)
    result = replay(wire, host(backlog=1))
    (mismatch,) = result.mismatches
    assert (mismatch.what, mismatch.frame) == ("unexpected_reply", 8)
    assert "the model dropped the SYN of frame 7 (accept_queue_full)" in mismatch.detail
    assert not result.sent[-1].expected
    wire.inbound(RST, 3, 20)
    assert replay(wire, host(backlog=1)).decisions[-1] == "aborted"


def test_synack_without_any_syn_is_a_mismatch_and_followed() -> None:
    """The capture began between the two."""
    wire = Wire()
    wire.synack(1, 0)
    wire.ack(1, 1)
    result = replay(wire)
    assert [row.what for row in result.mismatches] == ["unexpected_reply"]
    assert result.decisions == ["established"]


def test_synack_repeated_after_a_completed_handshake_is_a_mismatch_and_undone() -> None:
    """The kernel did not take the ACK that the model took."""
    wire = Wire()
    wire.handshake(1, 0)
    wire.synack(1, 1020)
    wire.syn(2, 1100)
    result = replay(wire)
    (mismatch,) = result.mismatches
    assert (mismatch.what, mismatch.frame) == ("unexpected_packet", 4)
    assert "did not take the ACK" in mismatch.detail
    assert result.packets[-1].accept_queue == (0, 0)
    assert result.packets[-1].syn_queue == (2, 2)


def test_synack_before_its_timer_is_a_mismatch() -> None:
    wire = Wire()
    wire.syn(1, 0)
    wire.synack(1, 400)
    (mismatch,) = replay(wire).mismatches
    assert (mismatch.what, mismatch.frame) == ("unexpected_packet", 3)
    assert "before its timer was due" in mismatch.detail


def test_synack_after_the_last_retry_is_a_mismatch() -> None:
    wire = Wire()
    wire.syn(1, 0)
    wire.synack(1, 1020)
    wire.synack(1, 3040)
    (mismatch,) = replay(wire, host(tcp_synack_retries=1)).mismatches
    assert "more retries than assumed" in mismatch.detail


def test_rst_for_a_pending_request_is_a_mismatch_and_removes_it() -> None:
    wire = Wire()
    wire.syn(1, 0)
    wire.rst(1, 100)
    wire.syn(2, 200)
    result = replay(wire)
    assert [(row.what, row.frame) for row in result.mismatches] == [("unexpected_packet", 3)]
    assert result.packets[1].syn_queue == (1, 1)


def test_data_of_the_server_on_a_pending_request_completes_it() -> None:
    """The ACK is missing from the capture."""
    wire = Wire()
    wire.syn(1, 0)
    wire.outbound(ACK | PSH, 1, 50, length=10)
    wire.syn(2, 60)
    result = replay(wire)
    assert [(row.what, row.frame) for row in result.mismatches] == [("unexpected_packet", 3)]
    assert result.packets[1].accept_queue == (1, 1)
    assert result.packets[1].syn_queue == (1, 1)


def test_one_surprise_does_not_become_many() -> None:
    """A wrong backlog costs one mismatch per SYN that the server took, and no more."""
    wire = Wire()
    for c in range(1, 9):
        wire.handshake(c, 10 * c)
    result = replay(wire, host(backlog=2))
    assert len(result.mismatches) == 5
    assert {row.what for row in result.mismatches} == {"unexpected_reply"}


# ---- time ----


def test_clock_going_backward_is_held() -> None:
    """A packet stamped 5 ms before its predecessor is treated as simultaneous; nothing breaks."""
    wire = Wire()
    wire.handshake(1, 100)
    wire.handshake(2, 200)
    segments = wire.segments
    segments[3] = segments[3]._replace(time_ns=at(95))
    result = replay(segments)
    times = [row.segment.time_ns for row in result.packets]
    assert times == sorted(times)
    assert result.decisions == ["queued", "established"] * 2
    assert not result.mismatches
    assert result.header.quality == "B"
    assert "back in time by up to 6.0 ms" in result.header.quality_reasons[0]


def test_event_at_the_time_of_a_packet_comes_after_it() -> None:
    wire = Wire()
    wire.handshake(1, 0)
    wire.syn(2, 10)
    events = [HostEvent(at(10), "accept", 0, client(1))]
    result = replay(wire, host(events=events))
    assert result.packets[-1].accept_queue == (1, 1)
    assert [row.event for row in result.events] == ["accepted"]


# ---- who listens ----


def test_listeners_side_by_side_have_queues_of_their_own() -> None:
    first, second = Wire(), Wire(OTHER)
    for c in (1, 2, 3):
        first.handshake(c, c)
    second.handshake(4, 5)
    segments = sorted(first.segments + second.segments, key=lambda made: made.time_ns)
    known = Host(
        kernel="6.12", accept_log=True,
        listeners=[HostListener("10.9.0.1", 80, 5), HostListener("10.9.0.1", 443, 0)],
    )  # fmt: skip
    result = replay([made._replace(frame=n) for n, made in enumerate(segments, 1)], known)
    assert [(row.listener, row.accept_queue) for row in result.packets[-2:]] == [
        ("10.9.0.1:443", (0, 0)),
        ("10.9.0.1:443", (1, 1)),
    ]
    assert [(s.name, s.decisions, s.peak_accept_queue) for s in result.listeners] == [
        ("10.9.0.1:80", {"queued": 3, "established": 3}, (3, 3)),
        ("10.9.0.1:443", {"queued": 1, "established": 1}, (1, 1)),
    ]
    assert not result.mismatches


def test_listener_is_found_without_a_host_file() -> None:
    """Who sends SYN-ACKs is a server, and its packets are outbound."""
    wire = Wire()
    wire.handshake(1, 0)
    result = replay(wire, Host())
    assert [summary.name for summary in result.listeners] == ["10.9.0.1:80"]
    assert result.decisions == ["queued", "established"]
    assert (result.packets[0].certainty, result.packets[0].rivals) == ("likely", ("cookie",))
    assert result.packets[1].certainty == "likely"
    assert {text.partition("=")[0] for text in result.header.assumed} >= {"kernel", "accept", "backlog"}


def test_port_that_refuses_is_no_listener() -> None:
    """A RST answers the SYN: nobody listens there."""
    wire = Wire()
    wire.syn(1, 0, answered=False)
    wire.outbound(RST | ACK, 1, 0.1, seq=0)
    result = replay(wire, Host())
    assert not result.listeners
    assert not result.rows


def test_port_that_refuses_and_later_answers_is_a_listener() -> None:
    wire = Wire()
    wire.syn(1, 0, answered=False)
    wire.outbound(RST | ACK, 1, 0.1, seq=0)
    wire.handshake(2, 10)
    assert [summary.name for summary in replay(wire, Host()).listeners] == ["10.9.0.1:80"]


def test_syn_that_nobody_answers_makes_a_listener() -> None:
    """A server that drops everything is what one looks for."""
    wire = Wire()
    wire.syn(1, 0, answered=False)
    wire.syn(1, 1020, answered=False)
    result = replay(wire, Host())
    assert [summary.name for summary in result.listeners] == ["10.9.0.1:80"]
    first, last = result.packets
    assert first.outcome.decision == "dropped"
    assert (last.certainty, "dropped" in last.rivals) == ("undecided", True)  # the capture ends with it


def test_server_that_is_a_client_too_keeps_both_directions_apart() -> None:
    """It connects from its own listening endpoint to a port of another host that listens."""
    wire = Wire()
    wire.handshake(1, 0)
    peer = endpoint("10.9.7.7", 5000)
    down = [
        segment(SYN, 9, 10)._replace(src=SERVER, dst=peer),
        segment(SYN | ACK, 9, 11)._replace(src=peer, dst=SERVER, seq=5, ack=isn(9) + 1),
        segment(ACK, 9, 12)._replace(src=SERVER, dst=peer, seq=isn(9) + 1, ack=6),
    ]
    segments = [made._replace(frame=n) for n, made in enumerate([*wire.segments, *down], 1)]
    result = replay(segments, Host())
    assert {summary.name: summary.decisions for summary in result.listeners} == {
        "10.9.0.1:80": {"queued": 1, "established": 1},
        "10.9.7.7:5000": {"queued": 1, "established": 1},
    }
    assert not result.mismatches


def test_wildcard_listener_serves_its_port_only() -> None:
    wire, other = Wire(), Wire(OTHER)
    wire.handshake(1, 0)
    other.handshake(2, 5)
    known = Host(kernel="6.12", listeners=[HostListener(ANYWHERE, 80, 5)], accept_log=True)
    segments = [made._replace(frame=n) for n, made in enumerate([*wire.segments, *other.segments], 1)]
    result = replay(segments, known)
    assert [row.listener for row in result.packets] == ["0.0.0.0:80"] * 2


def test_port_scan_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis_module, "LISTENER_LIMIT", 3)
    segments = [
        segment(SYN, 1, n)._replace(frame=n, dst=endpoint("10.9.0.1", 1000 + n)) for n in range(1, 11)
    ]
    result = replay(segments, Host())
    assert len(result.listeners) == 3
    assert any("7 more endpoints" in note for note in result.header.notes)


# ---- what is known and assumed ----


def test_options_override_the_host_file() -> None:
    wire = Wire()
    for c in (1, 2, 3):
        wire.syn(c, c)
    result = replay(wire, host(backlog=100), backlog=1, kernel="5.4", sysctl={"net.ipv4.tcp_syncookies": 0})
    summary = result.listeners[0]
    assert (summary.backlog, summary.backlog_source, summary.kernel) == (1, "--backlog", "5.4")
    assert result.decisions == ["queued", "dropped", "dropped"]


def test_listener_option_keeps_the_events_of_the_host_file() -> None:
    """`listener` in an event is the index in the host file, whatever listeners are asked for."""
    wire = Wire(OTHER)
    wire.handshake(1, 0)
    known = Host(
        kernel="6.12",
        listeners=[HostListener("10.9.0.1", 80, 5), HostListener("10.9.0.1", 443, 5)],
        events=[HostEvent(at(500), "accept", 1, client(1))],
        accept_log=True,
    )
    wire.close(1, 1000)
    result = replay(wire, known, listeners=(HostListener("10.9.0.1", 443),))
    assert result.listeners[0].accepted == 1
    assert not result.mismatches


def test_unknown_kernel_is_an_error_for_the_user() -> None:
    with pytest.raises(UsageError, match="kernel"):
        replay(Wire(), host(), kernel="banana")


def test_empty_capture_has_a_header_and_no_rows() -> None:
    result = replay(Wire())
    assert result.rows == []
    assert (result.header.packets, result.header.handshake_packets) == (0, 0)


def test_odd_segments_to_a_listener_never_raise() -> None:
    """Every combination of flags, twice, to a listener, a request and a connection."""
    wire = Wire()
    wire.syn(1, 0)
    wire.handshake(2, 1)
    for flags in range(256):
        for c in (1, 2, 3):
            wire.inbound(flags, c, 10 + flags)
            wire.outbound(flags, c, 10.5 + flags, seq=server_isn(c))
    result = replay(wire, host(), all_packets=True)
    assert len(result.packets) == sum(made.dst == SERVER for made in wire.segments)
    assert {FIN, RST, SYN} <= {row.segment.flags for row in result.packets}


# ---- resets of established connections ----


def reset_rows(cuts: list[int] | None = None, **fields: object) -> list[tuple[str, int | None]]:
    """The client sends data (frame 4); a RST with `fields` follows: its reason and cause."""
    wire = Wire()
    wire.handshake(1, 0)
    wire.ack(1, 2, length=100)
    wire.outbound(at=2.1, c=1, **{"flags": RST, "seq": server_isn(1) + 1, "ack": 0} | fields)  # type: ignore[arg-type]
    return [(row.reason, row.cause) for row in replay(wire, cuts=cuts).sent if row.decision == "rst"]


@pytest.mark.parametrize("cuts", [None, [4]])
def test_rst_without_ack_answers_the_packet_whose_acknowledgement_it_repeats(cuts: list[int] | None) -> None:
    assert reset_rows(cuts) == [("reply", 4)]


def test_rst_of_the_application_answers_nothing() -> None:
    assert reset_rows(flags=RST | ACK, ack=isn(1) + 1) == [("application", None)]
    assert reset_rows(seq=server_isn(1) + 9) == [("application", None)]


def test_stray_synack_of_a_client_makes_it_no_listener() -> None:
    wire = Wire()
    wire.handshake(1, 0)
    wire.inbound(SYN | ACK, 2, 5)
    wire.outbound(RST, 2, 5.1, seq=server_isn(2) + 1, ack=0)
    result = replay(wire, Host())
    assert [summary.name for summary in result.listeners] == ["10.9.0.1:80"]
    assert result.packets[-1].outcome.decision == "rst"


def test_synack_to_nobody_known_comes_from_a_listener() -> None:
    """The capture began between SYN and SYN-ACK."""
    wire = Wire()
    wire.outbound(SYN | ACK, 1, 0)
    wire.ack(1, 1)
    assert [summary.name for summary in replay(wire, Host()).listeners] == ["10.9.0.1:80"]


def test_timer_whose_window_outlasts_its_listener_sends_nothing() -> None:
    """HZ is not known: the timer may fire from 980 ms on, and the listener is closed before it must have."""
    wire = Wire()
    wire.syn(1, 0)
    wire.inbound(SYN, 2, 4000)
    wire.outbound(RST | ACK, 2, 4000.1, seq=0, ack=isn(2) + 1)
    result = replay(wire, host(events=[HostEvent(at(1000), "close", 0)]))
    assert [event.event for event in result.events] == ["closed", "expired"]
    assert not result.mismatches


def test_syn_answered_with_another_isn_shows_that_its_request_had_expired() -> None:
    wire = Wire()
    wire.syn(1, 0)
    wire.synack(1, 1010)
    wire.inbound(SYN, 1, 3100, seq=isn(1) + 1000)
    wire.outbound(SYN | ACK, 1, 3100.1, seq=server_isn(1) + 5, ack=isn(1) + 1001)
    result = replay(wire, host(tcp_synack_retries=1))
    assert result.decisions == ["queued", "queued"]
    assert [event.event for event in result.events] == ["expired"]
    assert not result.mismatches


def test_timer_after_one_that_a_busy_machine_fired_late_may_seem_early() -> None:
    """Ticks that were not counted when the late timer ran make the next interval seem short."""
    wire = Wire()
    wire.syn(1, 0)
    wire.synack(1, 1180)  # the wheel alone makes it 1137 at most
    wire.synack(1, 3120)
    wire.close(2, 3200)
    assert not replay(wire).mismatches


def test_timer_after_one_in_time_does_not_come_early() -> None:
    wire = Wire()
    wire.syn(1, 0)
    wire.synack(1, 1100)
    wire.synack(1, 3040)
    wire.close(2, 3200)
    assert [row.detail.partition(":")[0] for row in replay(wire).mismatches] == [
        "SYN-ACK repeated before its timer was due"
    ]


def worked_out(wire: Wire) -> Result:
    """With everything given but the accept() calls."""
    return replay(wire, replace(host(), accept_log=False), all_packets=True)


def test_ack_that_crosses_a_repeated_synack_is_taken() -> None:
    wire = Wire()
    wire.syn(1, 0)
    wire.ack(1, 1020)
    wire.synack(1, 1020.2)
    wire.ack(1, 1021)
    wire.close(2, 5000)
    found = worked_out(wire)
    assert found.decisions[:3] == ["queued", "established", "passed"]
    assert not found.mismatches


def test_ack_that_should_be_reset_and_is_not_is_undecided() -> None:
    wire = Wire()
    wire.handshake(2, 0)
    wire.syn(1, 10, answered=False)
    wire.ack(1, 400, length=10)
    wire.close(2, 5000)
    row = worked_out(wire).packets[3]
    assert row.certainty == "undecided"
    assert {row.outcome.decision, *row.rivals} == {"established", "overflow"}


def refused_connection() -> Wire:
    """Two connections fill the queue; the third one's ACK is ignored, its SYN-ACK comes again."""
    wire = Wire()
    wire.syn(3, 0)
    wire.handshake(1, 5)
    wire.handshake(2, 10)
    wire.ack(3, 50)
    wire.synack(3, 1020)
    wire.ack(3, 1030)
    return wire


def late_connection(*, repeated: bool) -> Wire:
    """It is let in some time after its first ACK."""
    wire = refused_connection()
    if repeated:
        wire.synack(3, 3060)
    wire.ack(3, 6000, length=10)
    wire.outbound(ACK, 3, 6000.1, ack=isn(3) + 11)
    wire.close(4, 9000)
    return wire


@pytest.mark.parametrize(("repeated", "decision"), [(False, "established"), (True, "overflow")])
def test_timer_that_stays_silent_shows_that_the_ack_was_taken(repeated: bool, decision: str) -> None:
    wire = late_connection(repeated=repeated)
    found = replay(wire, replace(host(1), accept_log=False), all_packets=True)
    by_time = {row.segment.time_ns: row.outcome.decision for row in found.packets}
    assert by_time[at(50)] == "overflow"
    assert by_time[at(1030)] == decision


def test_ack_that_only_a_missing_synack_speaks_for_is_undecided() -> None:
    """It was let in, or its request had fewer retries left than the settings say."""
    wire = refused_connection()
    wire.close(4, 9000)
    found = replay(wire, replace(host(1), accept_log=False), all_packets=True)
    (row,) = (row for row in found.packets if row.segment.time_ns == at(1030))
    assert row.certainty == "undecided"
    assert {row.outcome.decision, *row.rivals} >= {"established", "overflow"}


def test_syn_that_passes_a_full_accept_queue_may_find_room_that_an_expired_request_left() -> None:
    """4.4.1 lets it pass while few requests are young; whether one has expired silently, the wire tells."""
    wire = Wire()
    wire.handshake(1, 0)
    wire.handshake(2, 10)  # the accept queue is full
    wire.syn(3, 20)  # fills the SYN queue, and expires between 1.02 s and 1.3 s
    wire.syn(4, 1120, answered=False, wscale=7, sack_ok=True)
    wire.synack(4, 1120.05, wscale=7, sack_ok=True)  # no cookie has room for the options
    wire.close(1, 1200)
    result = replay(wire, replace(host(1, tcp_synack_retries=0), kernel="4.4.1"))
    assert result.decisions[4:6] == ["queued", "queued"]
    assert not result.mismatches


@pytest.mark.parametrize(
    ("full_at", "data_at", "certainty"),
    [
        (None, 300, "certain"),  # nothing was ever refused
        (20, 300, "likely"),  # accept() had time to come between ACK and data
        (20, 12, "certain"),  # they came together, and before anything was refused
        (9, 12, "likely"),  # something was refused just before
    ],
)
def test_use_of_a_connection_proves_the_ack_unless_a_later_packet_may_have_completed_it(
    full_at: float | None, data_at: float, certainty: str
) -> None:
    wire = Wire()
    wire.syn(1, 0)
    wire.ack(1, 10)
    wire.ack(1, data_at, length=100)
    wire.outbound(ACK, 1, data_at + 1, ack=isn(1) + 101)
    if full_at is not None:
        wire.syn(2, full_at, answered=False)
        wire.syn(2, full_at + 5000, answered=False)
    wire.close(1, 9000)
    known = Host(kernel="6.12", listeners=[HostListener("10.9.0.1", 80, 4)])
    ack = next(row for row in replay(wire, known).packets if row.segment.flags == ACK)
    assert ack.outcome.decision == "established"
    assert ack.certainty == certainty
    assert (ack.resolved_by is not None) is (certainty == "certain")


@pytest.mark.parametrize("answered_first", [True, False])
def test_a_port_that_answered_once_is_a_listener_though_it_resets_syns(*, answered_first: bool) -> None:
    wire = Wire()
    wire.syn(1, 0 if answered_first else 200)
    wire.inbound(SYN, 2, 100)
    wire.outbound(RST | ACK, 2, 100.1, seq=0, ack=isn(2) + 1)
    assert [summary.name for summary in replay(wire, Host()).listeners] == ["10.9.0.1:80"]


def test_a_port_that_only_resets_syns_is_no_listener() -> None:
    wire = Wire()
    for c in range(3):
        wire.inbound(SYN, c, 100 * c)
        wire.outbound(RST | ACK, c, 100 * c + 0.1, seq=0, ack=isn(c) + 1)
    assert not replay(wire, Host()).listeners
