"""The capture alone against the same capture with everything given: real recordings."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from backlogtrace.capture import open_capture
from backlogtrace.replay import Options, analyze, infer_capture, inference, search
from backlogtrace.replay.evidence import Evidence
from backlogtrace.replay.host import Host, HostListener, load_host
from backlogtrace.replay.hypothesis import KERNELS, UNLIMITED, Change, Hypothesis
from backlogtrace.replay.listening import Listening
from backlogtrace.replay.rows import PacketRow
from backlogtrace.replay.search import Found
from backlogtrace.replay.trial import Contradiction, Decided, Score
from backlogtrace.segment import ACK, FIN, RST, SYN
from tests.kernel.build import SERVER, client, isn, segment, server_isn
from tests.replay.wire import Wire, replay

FIXTURES = Path(__file__).parents[2] / "fixtures"
RECORDED = sorted(path.parent.name for path in FIXTURES.glob("*/truth.jsonl"))
BACKLOGS = {
    "seed_documents-0001": 5,
    "seed_documents-0002": 5,
    "abort-on-overflow-rst-6.12": None,
    "overflow-expired-rst-5.15": None,
    "cookie-ack-overflow-silent-5.4": None,
    "defer-and-full-queue-3.10": None,
    "ignored-data-no-repetition-3.10": None,
    "cookie-with-the-clock-6.1": None,
}
"""Recordings in which a queue was full: their effective backlog (None: as in the host file)."""


def capture_of(name: str) -> str:
    (found,) = (FIXTURES / name).glob("capture.*")
    return str(found)


def port_of(name: str) -> tuple[HostListener, ...]:
    known = load_host(FIXTURES / name / "host.json")
    return tuple(HostListener(one.address, one.port) for one in known.listeners)


@cache
def decisions(name: str, *, given: bool) -> dict[int, PacketRow]:
    host = load_host(FIXTURES / name / "host.json") if given else Host()
    options = Options(all_packets=True, listeners=() if given else port_of(name))
    with open_capture([capture_of(name)], keep_small=True) as capture:
        rows = analyze(capture, host, options)
        return {row.segment.frame: row for row in rows if type(row) is PacketRow}


@pytest.mark.parametrize("name", RECORDED)
def test_capture_alone_decides_as_the_kernel_did(name: str) -> None:
    """Hardly a packet is decided wrongly; what cannot be told is said to be undecided."""
    known, worked_out = decisions(name, given=True), decisions(name, given=False)
    firm = [frame for frame, row in worked_out.items() if row.certainty != "undecided"]
    wrong = [frame for frame in firm if worked_out[frame].outcome.decision != known[frame].outcome.decision]
    assert len(wrong) <= max(2, len(known) // 100)
    assert len(firm) >= len(known) * 7 // 10


def test_all_recordings_together_are_decided_as_the_kernels_did() -> None:
    right = wrong = total = 0
    for name in RECORDED:
        known, worked_out = decisions(name, given=True), decisions(name, given=False)
        for frame, row in known.items():
            total += 1
            other = worked_out[frame]
            same = other.outcome.decision == row.outcome.decision
            right += other.certainty != "undecided" and same
            wrong += other.certainty != "undecided" and not same
    assert right >= total * 0.985
    assert wrong <= total * 0.004


@pytest.mark.parametrize("name", RECORDED)
def test_accept_queue_was_never_longer_than_worked_out(name: str) -> None:
    known, worked_out = decisions(name, given=True), decisions(name, given=False)
    wrong = [
        frame
        for frame, row in worked_out.items()
        if row.certainty != "undecided"
        and row.outcome.decision == known[frame].outcome.decision == "overflow"
        and row.accept_queue[1] < known[frame].accept_queue[0]
    ]
    assert not wrong


@pytest.mark.parametrize("name", sorted(BACKLOGS))
def test_backlog_of_a_full_queue_is_found(name: str) -> None:
    known = load_host(FIXTURES / name / "host.json")
    backlog = known.listeners[0].backlog
    assert backlog is not None
    expected = BACKLOGS[name] or min(backlog, known.sysctl["net.core.somaxconn"])
    with open_capture([capture_of(name)], keep_small=True) as capture:
        (found,) = infer_capture(capture, None, Options(listeners=port_of(name))).listeners
    assert found.best is not None
    assert found.best.backlog == expected
    assert not found.ranked[0].score.contradictions


@cache
def found_in(name: str) -> inference.ListenerInference:
    with open_capture([capture_of(name)], keep_small=True) as capture:
        (found,) = infer_capture(capture, None, Options(listeners=port_of(name))).listeners
    return found


def test_listen_that_made_the_queue_longer_is_found() -> None:
    """Room is no contradiction: only that accept() calls had to be assumed tells when it was."""
    name = "relisten-larger-backlog-6.12"
    (listen,) = [one for one in load_host(FIXTURES / name / "host.json").events if one.op == "listen"]
    best = found_in(name).ranked[0]
    assert (best.hypothesis.backlog, best.score.accepts) == (1, 0)
    (change,) = best.hypothesis.changes
    assert (change.name, change.value) == ("listen", listen.backlog)
    assert 0 <= change.time_ns - listen.time_ns < 100_000_000  # the first SYN after it is that near


def test_a_trial_that_is_given_up_costs_only_what_it_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def early(*_: object, **__: object) -> Score:
        tried.append("")
        return Score(0, 0, 0, (), whole=len(tried) == 1, packets=1, relieved=(), floors={}, reach=9)

    monkeypatch.setattr(search, "attempt", early)
    port = HostListener("10.9.0.1", 80)
    segments = [segment(SYN, c) for c in range(200)]
    seen = Listening(attempts=50)
    search.Search(segments, Evidence(), port, Host(), seen=seen, fixed={}, budget=100).run()
    assert len(tried) == 101


def test_a_kernel_that_fits_with_other_settings_is_named() -> None:
    """With cookies off the SYN queue of 5.10.262 takes one request more than the backlog; others do not."""
    found = found_in("syn-queue-full-no-cookies-5.10")
    by_kernel = {one.hypothesis.kernel: one.hypothesis for one in [found.ranked[0], *found.kernels()]}
    assert "5.10" in {found.ranked[0].hypothesis.kernel, *found.alternatives("kernel")}
    assert by_kernel["5.15"].backlog == by_kernel["5.10"].backlog + 1
    assert set(found.alternatives("kernel")) | {found.ranked[0].hypothesis.kernel} <= {*by_kernel}


def test_a_kernel_that_fits_with_a_second_listen_is_named() -> None:
    """Others explain without one what was let in after it: they are plainer, but not the only ones."""
    found = found_in("second-listen-5.4")
    assert not found.ranked[0].hypothesis.changes
    (true,) = [one.hypothesis for one in found.kernels() if one.hypothesis.kernel == "5.4"]
    assert [(change.name, change.value) for change in true.changes] == [("listen", 2)]
    assert "5.4" in found.alternatives("kernel")


def test_every_kernel_is_tried_with_the_settings_that_suit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What 12 as the backlog is to one kernel, a small tcp_max_syn_backlog is to another."""
    fits = {("6.12", 12, 2048), ("3.10-el7", UNLIMITED, 16)}

    def judged(*args: object, limit: int = 99, **_: object) -> Score:
        host = args[2]
        assert isinstance(host, Host)
        most = host.sysctl["net.ipv4.tcp_max_syn_backlog"]
        right = (host.kernel, host.listeners[0].backlog, most) in fits
        right = right and not host.sysctl["net.ipv4.tcp_syncookies"]
        number = 0 if right else 9
        return Score(number, 0, 0, (), whole=number <= limit, packets=1, relieved=(), floors={}, reach=4096)

    monkeypatch.setattr(search, "attempt", judged)
    listening = Listening(attempts=50)
    port = HostListener("10.9.0.1", 80)
    ranked = search.Search(
        [segment(SYN)], Evidence(), port, Host(), seen=listening, fixed={}, budget=10_000
    ).run()
    free = {one.hypothesis.kernel for one in ranked if not one.score.contradictions}
    assert free == {"6.12", "3.10-el7"}


def test_a_kernel_that_the_packets_speak_against_is_not_named() -> None:
    found = found_in("seed_documents-0001")
    against = {
        kernel
        for kernel in KERNELS
        if not any(one.hypothesis.kernel == kernel and not one.score.contradictions for one in found.ranked)
    }
    assert against
    assert not against & {*found.alternatives("kernel")}


def test_what_is_given_is_not_tried() -> None:
    name = "seed_documents-0001"
    with open_capture([capture_of(name)], keep_small=True) as capture:
        (found,) = infer_capture(
            capture, None, Options(kernel="5.15", backlog=7, listeners=port_of(name))
        ).listeners
    assert {one.hypothesis.kernel for one in found.ranked} == {"5.15"}
    assert {one.hypothesis.backlog for one in found.ranked} == {7}


def test_packet_that_separates_the_runner_up_is_named() -> None:
    name = "seed_documents-0001"
    with open_capture([capture_of(name)], keep_small=True) as capture:
        (found,) = infer_capture(capture, None, Options(listeners=port_of(name))).listeners
    rival = found.runner_up()
    assert rival is not None
    assert rival.score.contradictions > found.ranked[0].score.contradictions
    assert rival.score.noted[0].frame is not None


def test_accept_log_leaves_nothing_to_work_out() -> None:
    name = "seed_documents-0001"
    with open_capture([capture_of(name)]) as capture:
        analysis = analyze(capture, load_host(FIXTURES / name / "host.json"))
        list(analysis)
    assert analysis.inference is None
    assert analysis.header.mode == "predict"


def test_shifted_time_changes_no_decision() -> None:
    name = "seed_documents-0001"
    with open_capture([capture_of(name)], keep_small=True) as capture:
        segments = [segment for chunk in capture.chunks() for segment in chunk]
        info = capture.info

    class Shifted:
        """The same packets three days later."""

        rereadable = False

        def __init__(self) -> None:
            self.info = replace(info)

        def chunks(self) -> list[list[object]]:
            shift = 3 * 86_400_000_000_000 + 123_456
            return [[one._replace(time_ns=one.time_ns + shift) for one in segments]]

    moved = analyze(Shifted(), None, Options(all_packets=True, listeners=port_of(name)))  # type: ignore[arg-type]
    expected = decisions(name, given=False)
    for row in moved:
        if type(row) is PacketRow:
            assert row.outcome is expected[row.segment.frame].outcome
            assert row.certainty == expected[row.segment.frame].certainty


def test_every_syn_of_a_quiet_capture_is_queued() -> None:
    """Nothing unusual: no search, nothing pretended."""
    name = "format-ethernet"
    with open_capture([capture_of(name)], keep_small=True) as capture:
        analysis = analyze(capture, None)
        rows = [row for row in analysis if type(row) is PacketRow and row.segment.flags == SYN]
    assert analysis.inference is not None
    assert {row.outcome.decision for row in rows} <= {"queued", "dropped", "cookie", "rst"}


def test_rivals_that_decide_alike_do_not_crowd_out_the_others() -> None:
    """Twenty settings that make no difference, and a kernel that does."""
    host = HostListener("10.9.0.1", 80)
    found = inference.ListenerInference(host, "10.9.0.1:80", Listening())
    score = Score(0, 1, 0, (), whole=True, packets=9, relieved=(), floors={}, reach=3)
    alike = [Found(1 + n / 100, Hypothesis(backlog=60, max_syn_backlog=n), score) for n in range(60)]
    other = Found(3.0, Hypothesis(kernel="4.4.1", backlog=60), score._replace(accepts=3))
    far = Found(3.4, Hypothesis(kernel="3.10", backlog=60), score)
    found.ranked = [*alike, other, far]
    found.packets = 10_000
    near = found.near()
    assert near[:2] == [alike[0], other]
    assert far not in near


def test_one_lost_packet_may_speak_against_a_rival() -> None:
    """Near is farther for who is contradicted once, and farther still if by a RST that nobody saw."""
    host = HostListener("10.9.0.1", 80)
    score = Score(0, 1, 0, (), whole=True, packets=9, relieved=(), floors={}, reach=3)
    seen, unseen = (Contradiction(1, 1, "", unreset=unreset) for unreset in (False, True))
    one, reset = (score._replace(contradictions=1, noted=(noted,)) for noted in (seen, unseen))
    two = score._replace(contradictions=2, noted=(seen, unseen))

    def near(cost: float, against: Score, *, loses: bool = False) -> bool:
        found = inference.ListenerInference(host, "10.9.0.1:80", Listening(), loses=loses)
        rival = Found(1 + cost, Hypothesis(backlog=7), against)
        found.ranked = [Found(1, Hypothesis(backlog=8), score), rival]
        return rival in found.near()

    assert [near(3, against) for against in (score, one, reset, two)] == [False, True, True, True]
    assert [near(6, against) for against in (score, one, reset, two)] == [False, False, True, False]
    assert near(4.5, score, loses=True)


def test_what_only_passes_for_one_of_two_rivals_is_decided_differently() -> None:
    completes, passes = Decided("established"), Decided("passed")
    assert inference._differing({1: completes}, [{0: completes}]) == {0: ("established",), 1: ("passed",)}
    assert not inference._differing({1: completes}, [{1: completes, 2: passes}])


def test_what_a_rival_leaves_open_is_open() -> None:
    firm, left_open = Decided("dropped"), Decided("dropped", ("lost_after_capture",))
    assert inference._differing({1: firm}, [{1: left_open}]) == {1: ("lost_after_capture",)}
    assert not inference._differing({1: left_open}, [{1: firm}])


def test_backlog_that_nothing_shows_is_not_taken_for_a_small_one() -> None:
    """A small number is one of many; no queue was seen full."""
    few, many = Hypothesis(backlog=4), Hypothesis(backlog=128)
    assert few.implausibility() > many.implausibility() + 2
    longer = replace(many, changes=(Change(1, "listen", 8),))
    assert longer.implausibility() > few.implausibility()


def test_an_ignored_ack_is_not_certain_where_a_short_deferral_would_look_the_same() -> None:
    """One second of TCP_DEFER_ACCEPT ignores the first bare ACK as a full accept queue does."""
    wire = Wire()
    wire.syn(1, 0)
    wire.syn(2, 1)
    wire.ack(1, 10)
    wire.ack(1, 11, length=5)
    wire.outbound(ACK, 1, 11.1, ack=segment(ACK, 1).seq + 5)
    wire.ack(2, 20)
    for n in range(5):
        wire.synack(2, 1 + 1000 * ((2 << n) - 1))
        wire.ack(2, 20 + 1000 * ((2 << n) - 1))
    wire.inbound(RST, 99, 70_000)
    refused = [row for row in replay(wire, Host()).packets if row.outcome.decision == "overflow"]
    assert refused[0].resolved_by is not None
    assert (refused[0].certainty, refused[0].rivals) == ("likely", ("defer_accept",))
    assert (refused[2].certainty, refused[2].rivals) == ("certain", ())


def test_a_synack_a_second_late_does_not_answer_the_first_syn_where_others_are_refused_since() -> None:
    """Who was dropped asks again after a second, and just then a timer would send a lost SYN-ACK again."""
    wire = Wire()
    wire.handshake(1, 0)
    wire.syn(2, 100, answered=False)
    wire.syn(3, 200, answered=False)
    wire.synack(2, 1100.05)  # the SYN is lost
    wire.ack(2, 1101)
    for at in (1200, 3200, 7200):
        wire.syn(3, at, answered=at > 7000)
    wire.ack(3, 7201)
    wire.inbound(RST, 99, 70_000)
    result = replay(wire, Host(listeners=[HostListener("10.9.0.1", 80, backlog=0)]))
    assert not result.mismatches
    first = next(row for row in result.packets if row.segment.src == client(2))
    assert (first.outcome.decision, first.certainty, first.rivals) == ("dropped", "undecided", ("queued",))


def test_a_cookie_for_a_lost_syn_reuses_a_4_tuple_in_time_wait() -> None:
    wire = Wire()
    wire.handshake(1, 0)
    wire.outbound(FIN | ACK, 1, 100)
    wire.inbound(FIN | ACK, 1, 110, ack=server_isn(1) + 2)
    wire.outbound(ACK, 1, 110.1, seq=server_isn(1) + 2, ack=isn(1) + 2)
    client_seq, server_seq = isn(1) + 9_000, server_isn(1) + 70_000
    wire.synack(1, 5000, seq=server_seq, ack=client_seq + 1)
    wire.ack(1, 5001, seq=client_seq + 1, ack=server_seq + 1)
    wire.ack(1, 5010, seq=client_seq + 1, ack=server_seq + 1, length=5)
    wire.outbound(ACK, 1, 5010.1, seq=server_seq + 1, ack=client_seq + 6)
    wire.inbound(RST, 99, 70_000)
    result = replay(wire, Host(kernel="6.12", sysctl={"net.ipv4.tcp_syncookies": 2}))
    assert not result.mismatches
    assert [row.outcome.decision for row in result.packets].count("established") == 2


def test_trouble_noticed_at_the_end_of_a_large_capture_is_looked_for_among_the_last_packets() -> None:
    packets = [segment(SYN, c) for c in range(9)]
    recording = inference.Recording(limit=3)
    for start in range(0, 9, 3):
        recording.add(packets[start : start + 3], None)
    assert recording.items is None
    assert recording.sample == []
    recording.finish(None)
    assert recording.sample == []
    recording.finish(packets[4].time_ns)
    assert recording.sample == packets


INFERRED = Host(listeners=[HostListener("10.9.0.1", 80, backlog=1)])


def decided(wire: Wire, host: Host) -> list[tuple[str, str, tuple[str, ...]]]:
    """Decision, certainty and rivals of client 5's packets."""
    rows = [row for row in replay(wire, host, all_packets=True).packets if row.segment.src == client(5)]
    return [(row.outcome.decision, row.certainty, row.rivals) for row in rows]


def test_a_queue_that_is_full_only_with_a_lost_ack_leaves_the_next_one_open() -> None:
    wire = Wire()
    wire.handshake(1, 0)
    for c in (2, 3):
        wire.handshake(c, c)
        wire.outbound(ACK | FIN, c, c + 3)  # accepted
    wire.syn(4, 10)
    wire.syn(5, 20)
    wire.ack(5, 21)
    wire.inbound(RST, 99, 70_000)
    one = Host(listeners=[HostListener("10.9.0.1", 80, backlog=0)])
    assert decided(wire, one)[-1][:2] == ("established", "likely")
    wire.ack(4, 2000, length=5)  # an ACK may have come before
    wire.outbound(ACK, 4, 2000.1, ack=isn(4) + 6)
    assert decided(wire, one)[-1] == ("established", "undecided", ("overflow",))


def test_an_ack_of_the_server_that_answers_nothing_completes_no_handshake() -> None:
    """It answers what was not captured, a packet outside the window for one."""
    wire = Wire()
    wire.syn(5, 0)
    wire.outbound(ACK, 5, 500, ack=isn(5) + 1)
    wire.synack(5, 1000.1)
    wire.ack(5, 1001)
    wire.inbound(RST, 99, 70_000)
    assert [decision for decision, *_ in decided(wire, INFERRED)] == ["queued", "established"]


def test_a_synack_from_a_client_that_is_reset_finds_no_connection() -> None:
    wire = Wire()
    wire.handshake(5, 0)
    wire.inbound(SYN | ACK, 5, 500, seq=isn(5), ack=77)
    wire.outbound(RST, 5, 500.1, seq=77)
    wire.inbound(RST, 99, 70_000)
    assert decided(wire, INFERRED)[-1][0] == "rst"


def test_packets_of_a_client_that_is_not_known_and_gets_no_answer_are_all_left_open() -> None:
    wire = Wire()
    wire.handshake(1, 0)
    for at in (500, 600, 800):
        wire.ack(5, at, length=5 * (at > 500))
    wire.inbound(RST, 99, 70_000)
    assert {certainty for _, certainty, _ in decided(wire, INFERRED)} == {"undecided"}


def test_a_synack_too_early_for_a_timer_answers_a_syn_that_was_lost() -> None:
    wire = Wire()
    wire.syn(5, 0)
    wire.synack(5, 900)
    wire.ack(5, 901)
    wire.inbound(RST, 99, 70_000)
    result = replay(wire, INFERRED)
    assert not result.mismatches
    assert [row.outcome.decision for row in result.packets[:2]] == ["queued", "established"]


def test_the_sample_begins_again_where_more_is_refused_than_a_few_lost_packets() -> None:
    packets = [segment(SYN, c, c) for c in range(9)]
    recording = inference.Recording(limit=1)
    recording.add(packets[:3], packets[0].time_ns)
    assert recording.sample == packets[:3]
    recording.add(packets[3:6], packets[0].time_ns)
    recording.add(packets[6:], packets[0].time_ns, packets[5].time_ns)
    assert recording.sample == packets
    alone = inference.Recording(limit=1)
    alone._before = deque(maxlen=2)
    for start in range(0, 9, 3):
        alone.add(packets[start : start + 3], packets[0].time_ns, packets[5].time_ns if start else None)
    assert alone.sample == packets[1:]


def test_of_connections_begun_before_a_part_only_their_acks_are_looked_at() -> None:
    opened = [segment(SYN, 1, 5), segment(ACK, 1, 6), segment(ACK, 1, 7, length=5)]
    completing, used = segment(ACK, 2, 1), segment(ACK, 3, 2, length=5)
    answer, served = (segment(flags, 4, 0)._replace(src=SERVER, dst=client(4)) for flags in (SYN | ACK, ACK))
    after = segment(ACK, 3, 8)
    part = [one._replace(frame=n) for n, one in enumerate([answer, completing, used, *opened, after, served])]
    kept, frames = inference._begun_in(part, HostListener("10.9.0.1", 80))
    assert [one.frame for one in kept] == [1, 3, 4, 5]
    assert frames == {1}


def test_contradictions_that_a_lost_packet_makes_together_do_not_count_each() -> None:
    def cost(hypothesis: Hypothesis, contradictions: int) -> float:
        score = Score(contradictions, 0, 0, (), whole=True, packets=9, relieved=(), floors={}, reach=3)
        port = HostListener("10.9.0.1", 80)
        trial = search.Search([], Evidence(), port, Host(), seen=Listening(), fixed={}, budget=1)
        return trial.cost(hypothesis, score)

    usual, unusual = Hypothesis(), Hypothesis(defer=31)
    assert cost(usual, 10) < cost(unusual, 8)
    assert cost(unusual, 0) < cost(usual, 2)
    assert cost(usual, 1) < cost(usual, 2) < cost(usual, 3)
