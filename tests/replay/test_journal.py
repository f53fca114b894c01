"""Rows leave in order, each when it is proved or its time is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backlogtrace.kernel import outcomes as out
from backlogtrace.replay import journal as journal_module
from backlogtrace.replay.journal import HOLD_NS, Journal
from backlogtrace.replay.rows import ListenerSummary, MismatchRow, PacketRow
from backlogtrace.replay.track import Track
from backlogtrace.segment import ACK, SYN
from tests.kernel.build import SERVER, START, ack, client, segment, syn

if TYPE_CHECKING:
    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.segment import Segment

KEY = client(1) + SERVER


def make_track() -> Track:
    return Track("x:80", SERVER, None, ListenerSummary("x:80", "6.12", "", 1, "host file", 1, 4096, 2, 2, {}))


TRACK = make_track()


def journal(*, routine: bool = True, everything: bool = False) -> Journal:
    return Journal("likely", routine=routine, everything=everything)


def arrives(book: Journal, segment: Segment, outcome: Outcome) -> PacketRow:
    row = book.packet(segment.src + segment.dst, TRACK, segment, outcome, (0, 1, 2))
    assert row is not None
    return row


def later(frame: int) -> Segment:
    """The server's SYN-ACK again."""
    return segment(SYN | ACK, 1, 1)._replace(frame=frame, src=SERVER, dst=client(1))


def test_row_waits_for_its_proof_and_holds_back_those_behind() -> None:
    book = journal()
    first = arrives(book, syn(1)._replace(frame=1), out.DROP_ACCEPT_QUEUE)
    second = arrives(book, ack(2)._replace(frame=2), out.RST_NO_REQUEST)
    assert list(book.release(START + 1)) == []
    book.proved(KEY, later(9))
    assert (first.resolved_by, first.certainty) == (9, "certain")
    assert list(book.release(START + 1)) == [first]
    assert list(book.release(START + HOLD_NS)) == [second]
    assert (second.resolved_by, second.certainty) == (None, "likely")


def test_row_carries_the_queues_as_intervals() -> None:
    row = arrives(journal(), syn(1), out.QUEUED)
    assert (row.accept_queue, row.syn_queue) == ((0, 0), (1, 2))


def test_next_syn_proves_the_drop_without_making_it_certain() -> None:
    """The client asks again: it got no answer, but a firewall may have been the reason."""
    book = journal()
    dropped = arrives(book, syn(1), out.DROP_ACCEPT_QUEUE)
    arrives(book, syn(1, 1000)._replace(frame=7), out.QUEUED)
    assert (dropped.resolved_by, dropped.certainty) == (7, "likely")


def test_proof_comes_too_late_for_a_row_that_left() -> None:
    book = journal()
    row = arrives(book, syn(1), out.DROP_ACCEPT_QUEUE)
    assert list(book.release(START + HOLD_NS)) == [row]
    book.proved(KEY, later(9))
    assert row.resolved_by is None


def test_first_proof_counts() -> None:
    book = journal()
    row = arrives(book, ack(1), out.OVERFLOW)
    book.proved(KEY, later(5))
    book.proved(KEY, later(6))
    assert row.resolved_by == 5


def test_too_many_rows_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_HOLD_ROWS", 4)
    book = journal()
    rows = [arrives(book, syn(c), out.DROP_ACCEPT_QUEUE) for c in range(1, 7)]
    assert list(book.release(START)) == rows[:3]


@pytest.mark.parametrize(
    ("decision", "routine", "everything", "wanted"),
    [
        ("queued", True, False, True), ("queued", False, False, False), ("queued", False, True, True),
        ("established", False, False, False), ("dropped", False, False, True),
        ("overflow", False, False, True),
    ],
)  # fmt: skip
def test_rows_are_wanted_for_what_is_not_routine(
    decision: str, routine: bool, everything: bool, wanted: bool
) -> None:
    assert journal(routine=routine, everything=everything).wants(decision) is wanted


def test_mismatch_is_counted_and_names_the_peer() -> None:
    book, track = journal(), make_track()
    book.mismatch(track, KEY, START, "missing_reply", "why", 3)
    assert track.summary.mismatches == 1
    assert book.rows[-1] == MismatchRow(START, "x:80", "10.9.1.2:20001", "missing_reply", "why", 3)


def test_event_has_the_queues_of_its_listener() -> None:
    """Before listen() there are none."""
    book, track = journal(), make_track()
    book.event(track, START, "listen", None, "backlog 1")
    row = book.rows[-1]
    assert (row.peer, row.accept_queue, row.syn_queue) == (None, (0, 0), (0, 0))  # type: ignore[union-attr]
