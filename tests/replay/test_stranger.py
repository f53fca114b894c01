"""Servers that are no Linux kernel are told from those that are, and no queue is blamed for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from backlogtrace.capture import open_capture
from backlogtrace.replay.host import Host, HostListener, load_host
from backlogtrace.replay.inference import Reader
from backlogtrace.replay.stranger import NOT_LINUX
from backlogtrace.report.verdict import verdict
from backlogtrace.segment import ACK, RST, SYN
from tests.kernel.build import START, isn
from tests.replay.wire import Result, Wire, replay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backlogtrace.segment import Segment

FIXTURES = Path(__file__).parents[2] / "fixtures"
CAPTURES = sorted(path.parent for path in FIXTURES.glob("*/capture.*"))
LINUX_OPTIONS: dict[str, object] = {"mss": 1460, "wscale": 7, "sack_ok": True}


def refuse(wire: Wire, c: int, at: float, **fields: object) -> None:
    """A SYN, and 50 us later the RST for it."""
    wire.inbound(SYN, c, at)
    wire.outbound(RST | ACK, c, at + 0.05, **{"seq": 0, "ack": isn(c) + 1, "window": 0, "mss": 0, **fields})


def use(wire: Wire, c: int, at: float) -> None:
    """The server's application sends something."""
    wire.outbound(ACK, c, at, length=10)


def windows(*, waiting: int = 4, late_ms: float = 30) -> Wire:
    """A full backlog resets SYNs; the handshakes under way are completed, and served later."""
    wire = Wire()
    for c in range(1, waiting + 1):
        wire.syn(c, 10 + c)
    for c in range(11, 17):
        refuse(wire, c, 10 + c)
    for c in range(1, waiting + 1):
        wire.ack(c, 10 + late_ms + c)
        use(wire, c, 500 + c)
    wire.syn(20, 600)
    wire.ack(20, 630)
    wire.close(20, 900)
    return wire


def unanswered(*after_ms: float, clients: int = 4) -> Wire:
    """Clients that never answer get their SYN-ACK again, so long after the first."""
    wire = Wire()
    for c in range(1, clients + 1):
        wire.syn(c, 100 * c)
        for later in after_ms:
            wire.synack(c, 100 * c + 0.05 + later)
    wire.syn(20, 30_000)
    return wire


def doubted(result: Result) -> bool:
    (summary,) = result.listeners
    marked = {NOT_LINUX in row.rivals for row in result.packets}
    assert marked == {bool(summary.stranger)}
    assert ("no Linux server" in " ".join(result.header.quality_reasons)) is bool(summary.stranger)
    assert (result.header.quality == "C") is bool(summary.stranger)
    return bool(summary.stranger)


def test_syns_reset_while_handshakes_go_on_are_no_linux_queue() -> None:
    result = replay(windows(), Host())
    assert doubted(result)
    (reason,) = result.header.quality_reasons
    first_late_ack = next(row.segment.frame for row in result.packets if row.segment.flags == ACK)
    assert f"frame {first_late_ack}" in reason
    assert "reset SYNs in between" in reason
    refused = [row for row in result.packets if row.outcome.decision == "rst" and row.segment.flags == SYN]
    assert len(refused) == 6
    assert {row.certainty for row in refused} == {"undecided"}
    assert not any(row.certainty == "certain" for row in result.packets)


def test_the_verdict_doubts_the_model_and_blames_no_queue() -> None:
    (summary,) = replay(windows(), Host()).listeners
    found = verdict(summary, {}, START)
    assert found.level == "bad"
    assert found.headline == "This may be no Linux server: the model may not apply."
    text = " ".join([found.headline, *found.story, *found.advice])
    assert "Windows resets SYNs when its backlog is full" in text
    assert "middlebox" in text
    assert "raise" not in text
    assert "nothing was listening" not in text


def test_a_listener_that_was_closed_and_opened_again_may_be_linux() -> None:
    """The ACKs came before the SYNs that were reset: those connections had been accepted."""
    assert not doubted(replay(windows(late_ms=0.5), Host()))


def test_one_handshake_that_outlived_a_reset_may_be_an_accident() -> None:
    assert not doubted(replay(windows(waiting=1), Host()))


@pytest.mark.parametrize(
    ("after_ms", "stranger"),
    [
        ((1000, 3000, 7000), False),
        ((1200, 3600), False),  # the listener's timer of 3.10 comes by late
        ((3000, 7000, 15000), False),  # the capture lost the first repetitions
        ((3000, 9000, 21000), True),  # 3 s, doubled: Windows, BSDs
        ((3000, 6000, 9000), True),  # 3 s each time
        ((3375, 10125), True),
    ],
)
def test_the_times_of_repeated_synacks_tell_other_systems(
    after_ms: tuple[float, ...], *, stranger: bool
) -> None:
    assert doubted(replay(unanswered(*after_ms), Host())) is stranger


def test_odd_times_beside_usual_ones_are_the_capture_s_fault() -> None:
    wire = unanswered(3000, 9000)
    wire.syn(10, 50)
    wire.synack(10, 1050.05)
    assert not doubted(replay(wire, Host()))


def test_times_say_nothing_once_the_client_answered() -> None:
    """TCP_DEFER_ACCEPT is silent until 3 or 7 s after a bare ACK."""
    wire = unanswered(3000, 9000)
    for c in range(1, 5):
        wire.ack(c, 100 * c + 1)
    assert not doubted(replay(wire, Host()))


def answered(syn: dict[str, object], synack: dict[str, object], *, connections: int = 6) -> Wire:
    """Handshakes with these options, and a SYN that got no answer."""
    wire = Wire()
    for c in range(1, connections + 1):
        wire.syn(c, 100 * c, answered=False, **syn)
        wire.synack(c, 100 * c + 0.05, **synack)
        wire.ack(c, 100 * c + 1)
    wire.syn(20, 2000, answered=False)
    wire.syn(20, 3000, answered=False)
    return wire


PLAIN: dict[str, object] = {"mss": 1460}
STAMPED: dict[str, object] = {**LINUX_OPTIONS, "tsval": 5}


@pytest.mark.parametrize(
    ("syn", "synack", "stranger"),
    [
        (LINUX_OPTIONS, LINUX_OPTIONS, False),
        (STAMPED, {**STAMPED, "window": 65160}, False),
        (STAMPED, {**LINUX_OPTIONS, "window": 64240}, False),  # tcp_timestamps=0
        (STAMPED, {**LINUX_OPTIONS, "window": 65535}, False),
        (STAMPED, {**STAMPED, "mss": 1380, "window": 65160}, False),  # the MSS was clamped on the way
        (STAMPED, {**LINUX_OPTIONS, "window": 8192}, True),  # both: Windows
        (PLAIN, {**PLAIN, "wscale": 8}, True),
        (PLAIN, {**PLAIN, "sack_ok": True}, True),
        (PLAIN, {**PLAIN, "tsval": 9}, True),
        (LINUX_OPTIONS, {**LINUX_OPTIONS, "mss": 0}, True),
        ({"mss": 0}, {"mss": 0}, False),  # cut by the capture
    ],
)
def test_options_that_no_linux_sends(
    syn: dict[str, object], synack: dict[str, object], *, stranger: bool
) -> None:
    assert doubted(replay(answered(syn, synack), Host())) is stranger


def test_one_odd_synack_is_not_enough() -> None:
    wire = answered(LINUX_OPTIONS, LINUX_OPTIONS)
    wire.syn(9, 1500, answered=False, **PLAIN)
    wire.synack(9, 1500.05, **LINUX_OPTIONS)
    assert not doubted(replay(wire, Host()))


def test_a_synack_may_answer_an_earlier_syn_with_more_options() -> None:
    """Clients repeat a SYN with fewer options; Linux answers with those of the first."""
    wire = Wire()
    for c in range(1, 5):
        wire.syn(c, 100 * c, answered=False, **LINUX_OPTIONS)
        wire.syn(c, 100 * c + 50, answered=False, **PLAIN)
        wire.synack(c, 100 * c + 50.05, **LINUX_OPTIONS)
    wire.syn(20, 2000)
    assert not doubted(replay(wire, Host()))


@pytest.mark.parametrize(("shape", "stranger"), [({}, False), ({"window": 512}, True), ({"seq": 77}, True)])
def test_the_rst_for_a_syn_has_one_shape_on_linux(shape: dict[str, object], *, stranger: bool) -> None:
    wire = Wire()
    wire.syn(1, 0)
    for c in range(2, 5):
        refuse(wire, c, 100 * c, **shape)
    wire.syn(9, 2000)
    assert doubted(replay(wire, Host())) is stranger


@pytest.mark.parametrize(("spells", "waiting", "stranger"), [(6, 0, True), (3, 0, False), (6, 2, False)])
def test_resets_between_answers_tell_unless_the_listener_was_closed(
    spells: int, waiting: int, *, stranger: bool
) -> None:
    wire = Wire()
    for c in range(1, waiting + 1):
        wire.handshake(c, c)
        wire.outbound(RST | ACK, c, 95)  # close() resets those who wait
    for n in range(spells):
        refuse(wire, 20 + n, 100 + 50 * n)
        wire.syn(40 + n, 120 + 50 * n)
    wire.syn(99, 2000)
    assert doubted(replay(wire, Host())) is stranger


@pytest.mark.parametrize("folder", CAPTURES, ids=lambda folder: folder.name)
def test_no_recorded_linux_is_taken_for_another_system(folder: Path) -> None:
    (path,) = folder.glob("capture.*")
    known = load_host(folder / "host.json").listeners if (folder / "host.json").exists() else []
    with open_capture([str(path)], keep_small=True) as capture:
        reader = Reader([HostListener(one.address, one.port) for one in known], 100, None, rereadable=True)
        reader.read(cast("Iterator[list[Segment]]", capture.chunks()))
    assert {seen.stranger.proof() for seen in reader.evidence.listening.values()} == {""}
