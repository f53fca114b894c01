"""What close() of a listener shows of its accept queue."""

from __future__ import annotations

from backlogtrace.replay.closes import Closes

END = b"server"
SECOND = 1_000_000_000


def test_who_is_younger_than_one_that_was_reset_was_not_in_the_queue() -> None:
    closes = Closes()
    closes.reset(END, 60 * SECOND, 2 * SECOND)
    assert closes.spared(END, 3 * SECOND, 4 * SECOND, 2) == 2
    assert closes.spared(END, 1 * SECOND, 3 * SECOND, 2) == 1
    assert closes.spared(END, 1 * SECOND, 1 * SECOND, 1) == 0


def test_who_came_after_the_close_is_not_spared_by_it() -> None:
    closes = Closes()
    closes.reset(END, 60 * SECOND, 2 * SECOND)
    assert closes.spared(END, 61 * SECOND, 61 * SECOND, 1) == 0


def test_resets_that_come_together_are_of_one_close() -> None:
    closes = Closes()
    closes.reset(END, 60 * SECOND, 9 * SECOND)
    closes.reset(END, 60 * SECOND + 5, 2 * SECOND)
    assert closes.last() == {END: 60 * SECOND}
    assert closes.spared(END, 3 * SECOND, 3 * SECOND, 1) == 1
    assert closes.spared(b"another", 3 * SECOND, 3 * SECOND, 1) == 0
