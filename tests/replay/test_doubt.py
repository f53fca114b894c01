"""How far a SYN queue is in doubt where the capture has lost packets."""

from __future__ import annotations

from backlogtrace.kernel import outcomes as out
from backlogtrace.replay.doubt import Doubt
from tests.kernel.build import Server, client

KEY = client(1) + client(2)


def test_each_packet_lost_leaves_one_cookie_open() -> None:
    socket = Server().listener
    doubt = Doubt()
    doubt.grow()
    assert [doubt.about(out.COOKIE_FULL, client(n), socket) for n in (1, 2)] == [True, False]


def test_a_queue_with_room_for_more_than_was_lost_is_not_in_doubt() -> None:
    socket = Server().listener
    doubt = Doubt()
    doubt.grow()
    assert not doubt.about(out.QUEUED, KEY, socket)
    socket.qlen = socket.syn_capacity
    assert doubt.about(out.QUEUED, KEY, socket)


def test_the_doubt_is_back_when_what_was_left_open_leaves_the_queue() -> None:
    socket = Server().listener
    doubt = Doubt()
    doubt.grow()
    assert doubt.about(out.COOKIE_FULL, KEY, socket)
    assert not doubt.about(out.ESTABLISHED, KEY, socket)
    assert doubt.about(out.COOKIE_FULL, KEY, socket)
