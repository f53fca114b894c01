"""A socket of a SO_REUSEPORT group is closed: what becomes of what it had (tcp_migrate_req)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backlogtrace.kernel import outcomes as out
from backlogtrace.kernel.listener import at_timer
from backlogtrace.kernel.profiles import find
from backlogtrace.segment import RST
from tests.kernel.build import SERVER, START, Server, ack, segment, syn

if TYPE_CHECKING:
    from backlogtrace.kernel.listener import ListenSocket

MIGRATING = find("6.18.44")[0]


def closed(pending: Server, backlog: int = 4) -> ListenSocket:
    """Another socket begins to listen, the first is closed; the other one."""
    first = pending.listener
    pending.listener = pending.stack.open(SERVER, backlog)
    first.close()
    return first


def server(migrate: int = 1, abort: int = 0) -> Server:
    return Server(MIGRATING, tcp_migrate_req=migrate, tcp_abort_on_overflow=abort)


def test_connections_move_into_a_full_queue_in_their_order() -> None:
    one = server()
    one.connect(1, 2, 3)
    one.receive(segment(RST, 2))
    first = closed(one, backlog=0)
    assert not first.accept_queue
    assert [child.key[:6] for child in one.listener.accept_queue] == [syn(c).src for c in (1, 2, 3)]
    assert one.child(1).listener is one.listener
    assert one.receive(ack(1, 10, data=5)) is out.PASSED
    assert one.receive(syn(4, 20)) is out.DROP_ACCEPT_QUEUE


def test_without_the_setting_connections_are_reset_and_requests_are_lost() -> None:
    one = server(migrate=0)
    one.connect(1)
    one.receive(syn(2))
    closed(one)
    assert one.queues == (0, 0, 0)
    assert one.receive(ack(2, 10)) is out.RST_NO_REQUEST
    assert not one.pending(2)


def test_setting_must_be_on_when_it_is_closed_and_when_it_moves() -> None:
    for before, after in ((0, 1), (1, 0)):
        one = server(migrate=before)
        one.receive(syn(1))
        closed(one)
        one.stack.settings.tcp_migrate_req = after
        assert one.receive(ack(1, 10)) is out.RST_NO_REQUEST


def test_kernel_without_it_moves_nothing() -> None:
    one = Server(find("5.10")[0], tcp_migrate_req=1)
    one.connect(1)
    closed(one)
    assert one.queues == (0, 0, 0)


def test_ack_of_a_request_makes_a_connection_of_the_other_socket() -> None:
    one = server()
    one.receive(syn(1))
    first = closed(one)
    assert (first.requests, one.queues) == (1, (0, 0, 0))
    assert one.receive(ack(1, 10)) is out.ESTABLISHED
    assert (first.qlen, first.young, one.queues) == (0, 0, (1, 0, 0))


@pytest.mark.parametrize(("abort", "outcome"), [(0, out.OVERFLOW), (1, out.ABORT_ON_OVERFLOW)])
def test_ack_of_a_request_meets_the_full_queue_of_the_other(abort: int, outcome: object) -> None:
    one = server(abort=abort)
    one.receive(syn(1))
    one.connect(2)
    closed(one, backlog=0)
    assert one.receive(ack(1, 10)) is outcome
    assert one.pending(1) is not bool(abort)


def test_request_moves_when_its_timer_fires() -> None:
    one = server()
    one.receive(syn(1))
    first = closed(one)
    (request,) = one.stack.timers.pop_due(START + 2_000_000_000)
    assert at_timer(request) is one.listener
    assert (first.requests, one.queues) == (0, (0, 1, 1))
    assert one.listener.timer_plan(request) == (False, True)


def test_request_that_a_rst_ends_before_it_moved_makes_the_other_queue_look_full() -> None:
    """Counted below zero, which as an unsigned number is more than any backlog: measured on 6.18.44."""
    one = server()
    one.receive(syn(1))
    closed(one)
    assert one.receive(segment(RST, 1, 10)) is out.ABORTED_RST
    assert (one.listener.qlen, one.listener.syn_length) == (-1, 0)
    assert one.receive(syn(2, 20)) is out.COOKIE_FULL
    one.stack.settings.tcp_syncookies = 0
    assert one.receive(syn(3, 30)) is out.DROP_SYN_QUEUE


def test_sockets_one_after_the_other_are_no_group() -> None:
    one = server()
    one.receive(syn(1))
    one.listener.close()
    one.listener = one.stack.open(SERVER, 4)
    assert one.receive(ack(1, 10)) is out.RST_NO_REQUEST
