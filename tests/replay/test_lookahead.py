"""What follows a SYN in the capture, and what it says of the queue the SYN found."""

from __future__ import annotations

import pytest

from backlogtrace.kernel.cookie_signs import Offers
from backlogtrace.replay.lookahead import Lookahead
from backlogtrace.segment import ACK, RST, SYN
from tests.kernel.build import server_isn
from tests.replay.wire import Wire

OFFERS = Offers(sack=True, wscale=True)


def was_queued(wire: Wire, offers: Offers | None = OFFERS, *, repeats: bool = True) -> bool | None:
    ahead = Lookahead()
    ahead.begin(wire.segments, len(wire.segments))
    return ahead.was_queued(wire.segments[0], offers, repeats=repeats)


def asked(answers: int = 1, *, asks: int = -1, **fields: object) -> Wire:
    """A SYN, and its SYN-ACK again after a second."""
    wire = Wire()
    wire.inbound(SYN, 1, 0, wscale=asks)
    for number in range(answers):
        wire.outbound(SYN | ACK, 1, 0.05 + 1010 * number, **fields)
    return wire


def test_silence_is_no_request() -> None:
    assert was_queued(asked(0)) is False
    assert was_queued(asked(0), None) is False


def test_any_answer_is_a_request_where_no_cookies_are_sent() -> None:
    assert was_queued(asked(), None) is True


def test_repetition_is_a_request_and_its_absence_none() -> None:
    assert was_queued(asked(2)) is True
    assert was_queued(asked(1)) is False


def test_absence_says_nothing_where_nothing_is_repeated() -> None:
    assert was_queued(asked(1), repeats=False) is None
    wire = asked(1)
    wire.ack(1, 30)
    assert was_queued(wire) is None


@pytest.mark.parametrize(("kept", "queued"), [(True, True), (False, False)])
def test_options_tell_at_once(kept: bool, queued: bool) -> None:
    wire = asked(1, asks=7, wscale=7 if kept else -1)
    wire.inbound(RST, 1, 30)
    assert was_queued(wire) is queued


def test_another_isn_is_no_repetition() -> None:
    wire = asked(1)
    wire.inbound(SYN, 1, 1000)
    wire.outbound(SYN | ACK, 1, 1000.1, seq=server_isn(1) + 7)
    assert was_queued(wire) is None
