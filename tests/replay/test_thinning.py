"""Floods: where more packets come than a timeline shows, those in the middle are only counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from backlogtrace.replay import Options, analyze
from backlogtrace.replay import journal as journal_module
from backlogtrace.replay.host import Host, HostListener
from backlogtrace.replay.rows import PacketRow
from backlogtrace.report.digest import digest
from backlogtrace.segment import ACK, SYN
from tests.replay.wire import FakeCapture, Wire

SECONDS = 5
PER_SECOND = 400


def flood() -> Wire:
    """Two clients fill a queue of backlog 1 for good; the SYNs of the others are dropped."""
    wire = Wire()
    for c in (1, 2):
        wire.inbound(SYN, c, c)
        wire.outbound(SYN | ACK, c, c + 0.1)
        wire.inbound(ACK, c, c + 0.5)
    for number in range(SECONDS * PER_SECOND):
        wire.inbound(SYN, 10 + number, 10 + number * 1000 / PER_SECOND)
    return wire


def analysed(*, every_row: bool) -> Any:
    options = Options(kernel="6.12", backlog=1, routine_rows=False, every_row=every_row)
    listener = HostListener("10.9.0.1", 80)
    capture: Any = FakeCapture(flood().segments)
    return analyze(capture, Host(listeners=[listener]), options)


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_PER_SECOND", 50)


@pytest.mark.usefixtures("_few")
def test_totals_and_times_are_those_of_all_packets() -> None:
    thin, full = analysed(every_row=False), analysed(every_row=True)
    kept, whole = digest(thin, 40), digest(full, 40)
    assert kept.thinned
    assert not whole.thinned
    assert kept.selection.seen == whole.selection.seen == SECONDS * PER_SECOND
    assert kept.spans == whole.spans
    (one,), (other,) = thin.listeners, full.listeners
    assert (one.decisions, one.counters, one.peak_accept_queue) == (
        other.decisions, other.counters, other.peak_accept_queue,
    )  # fmt: skip


@pytest.mark.usefixtures("_few")
def test_both_ends_are_shown_as_without() -> None:
    def shown(every_row: bool) -> list[tuple[int, int]]:
        chosen = digest(analysed(every_row=every_row), 40).selection.chosen()
        return [(hidden, row.segment.frame) for hidden, row in chosen if type(row) is PacketRow]

    assert shown(every_row=False) == shown(every_row=True)


@pytest.mark.usefixtures("_few")
def test_the_last_second_has_all_rows() -> None:
    analysis = analysed(every_row=False)
    rows = [row for row in analysis if type(row) is PacketRow]
    last = rows[-1].segment.time_ns
    counted = Counter((last - row.segment.time_ns) // 1_000_000_000 for row in rows)
    assert counted[0] == PER_SECOND
    assert max(counted[second] for second in range(1, SECONDS)) <= 2 * 50
    assert (
        len(rows) + sum(many.count for many in analysis.many["10.9.0.1:80"].values()) == SECONDS * PER_SECOND
    )


def test_a_rate_that_can_be_read_is_not_thinned() -> None:
    assert not digest(analysed(every_row=False), 40).thinned
