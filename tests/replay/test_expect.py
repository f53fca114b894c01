"""Predicted packets: taken in order, given up at their time."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from backlogtrace.kernel.timers import NEVER
from backlogtrace.replay.expect import LATE_NS, Expectation, Expectations

if TYPE_CHECKING:
    from backlogtrace.kernel.outcome import Reply
    from backlogtrace.replay.track import Track

NOBODY = cast("Track", None)


def predicted(waiting: Expectations, key: bytes, reply: Reply, time_ns: int) -> Expectation:
    expectation = Expectation(key, NOBODY, reply, time_ns)
    waiting.add(expectation)
    return expectation


def test_first_prediction_of_the_kind_is_taken() -> None:
    waiting = Expectations()
    first = predicted(waiting, b"a", "synack", 1)
    second = predicted(waiting, b"a", "synack", 2)
    rst = predicted(waiting, b"a", "rst", 3)
    assert waiting.take(b"a", "rst") is rst
    assert waiting.take(b"a", "synack") is first
    assert waiting.take(b"a", "synack") is second
    assert waiting.take(b"a", "synack") is None


def test_prediction_belongs_to_its_connection() -> None:
    waiting = Expectations()
    predicted(waiting, b"a", "synack", 1)
    assert waiting.take(b"b", "synack") is None
    assert waiting.take(b"a", "ack") is None


def test_nothing_is_overdue_before_its_time() -> None:
    waiting = Expectations()
    late = predicted(waiting, b"a", "synack", 100)
    assert list(waiting.overdue(100 + LATE_NS - 1)) == []
    assert list(waiting.overdue(100 + LATE_NS)) == [late]
    assert list(waiting.overdue(100 + 9 * LATE_NS)) == []


def test_overdue_prediction_can_not_be_taken_any_more() -> None:
    waiting = Expectations()
    predicted(waiting, b"a", "synack", 0)
    assert len(list(waiting.overdue(LATE_NS))) == 1
    assert waiting.take(b"a", "synack") is None


def test_seen_prediction_is_never_overdue() -> None:
    waiting = Expectations()
    predicted(waiting, b"a", "synack", 0)
    later = predicted(waiting, b"b", "synack", 5)
    waiting.take(b"a", "synack")
    assert list(waiting.overdue(LATE_NS + 5)) == [later]


def test_loss_time_is_that_of_the_oldest() -> None:
    waiting = Expectations()
    assert waiting.loss_ns == NEVER
    predicted(waiting, b"a", "synack", 7)
    predicted(waiting, b"b", "synack", 9)
    assert waiting.loss_ns == 7 + LATE_NS
    list(waiting.overdue(7 + LATE_NS))
    assert waiting.loss_ns == 9 + LATE_NS
    list(waiting.overdue(9 + LATE_NS))
    assert waiting.loss_ns == NEVER
