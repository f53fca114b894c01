"""The listening socket: limits, SYNs in the kernel's order of tests, stray segments, timers, close()."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backlogtrace.kernel import outcomes as out
from backlogtrace.kernel.connection import Child
from backlogtrace.kernel.listener import defer_accept_retries
from backlogtrace.kernel.profiles import find
from backlogtrace.segment import ACK, FIN, PSH, RST, SYN, URG
from tests.kernel.build import MODERN, SERVER, SERVER_V6, Server, ack, client, modern_id, segment, syn

if TYPE_CHECKING:
    from backlogtrace.kernel.profile import Profile

EVERY = pytest.mark.parametrize("profile", MODERN, ids=modern_id)
FULL = {"ListenOverflows": 1, "ListenDrops": 1}


def fill_syn_queue(server: Server, count: int) -> None:
    for c in range(100, 100 + count):
        assert server.receive(syn(c)) is out.QUEUED


# ---- listen() ----


@EVERY
@pytest.mark.parametrize(
    ("backlog", "somaxconn", "effective"),
    [(5, 128, 5), (5, 4, 4), (0, 128, 0), (-1, 128, 128), (200, 128, 128)],
)
def test_backlog_is_clamped_to_somaxconn(
    profile: Profile, backlog: int, somaxconn: int, effective: int
) -> None:
    """Compared unsigned, so a negative backlog becomes somaxconn; 0 is legal."""
    listener = Server(profile, backlog, somaxconn=somaxconn).listener
    assert listener.backlog == effective
    assert listener.accept_capacity == effective + 1


@pytest.mark.parametrize(
    ("kernel", "fit"), [("5.4", 4), ("5.15", 4), ("5.10", 5), ("6.1", 5), ("6.12", 5), ("7.2", 5)]
)
def test_syn_queue_holds_the_backlog_or_one_more(kernel: str, fit: int) -> None:
    """Full at qlen >= backlog (5.4.59, 5.15.135) or qlen > backlog (5.10.262, 6.1.192 and later)."""
    server = Server(find(kernel)[0], backlog=4)
    answers = [server.receive(syn(c)).decision for c in range(1, 8)]
    assert answers == ["queued"] * fit + ["cookie"] * (7 - fit)


@EVERY
def test_tcp_max_syn_backlog_does_not_limit_the_queue_while_cookies_are_on(profile: Profile) -> None:
    """It only enters the reserve of tcp_syncookies=0."""
    server = Server(profile, backlog=50, tcp_max_syn_backlog=4)
    fill_syn_queue(server, 50)
    assert server.queues == (0, 50, 50)


@EVERY
def test_second_listen_changes_both_limits_at_once(profile: Profile) -> None:
    """Queued requests and children stay."""
    server = Server(profile, backlog=1)
    server.connect(1, 2)
    assert server.receive(syn(3)) is out.DROP_ACCEPT_QUEUE
    server.listener.listen(3)
    assert server.queues == (2, 0, 0)
    assert server.receive(syn(3, 1)) is out.QUEUED
    server.listener.listen(0)
    assert server.receive(syn(4, 2)) is out.DROP_BOTH_FULL


@EVERY
def test_somaxconn_raised_later_changes_nothing_until_listen(profile: Profile) -> None:
    """It is read inside listen() only."""
    server = Server(profile, backlog=128, somaxconn=4)
    server.stack.settings.set("net.core.somaxconn", 8)
    assert server.listener.accept_capacity == 5
    server.listener.listen(128)
    assert server.listener.accept_capacity == 9


@pytest.mark.parametrize(
    ("seconds", "retries"),
    [(-1, 0), (0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 3), (8, 4), (10, 4), (63, 6), (10**6, 255)],
)
def test_defer_accept_seconds_become_retransmissions(seconds: int, retries: int) -> None:
    """1 s is one timeout, 3 s two, 5 s three (getsockopt then says 7); at most 255."""
    assert defer_accept_retries(seconds) == retries


# ---- SYN: the counter table ----


@EVERY
@pytest.mark.parametrize("cookies", [0, 1, 2])
@pytest.mark.parametrize("synq_full", [False, True])
@pytest.mark.parametrize("acceptq_full", [False, True])
def test_syn_gets_the_decision_and_counters_of_the_table(
    profile: Profile, cookies: int, synq_full: bool, acceptq_full: bool
) -> None:
    """The order is: SYN queue (cookie wanted or dropped), then accept queue, then cookie or request."""
    server = Server(profile, backlog=2)
    if synq_full:
        fill_syn_queue(server, server.listener.syn_capacity)
    if acceptq_full:
        server.listener.listen(10)  # let the children pass the full SYN queue
        server.connect(1, 2, 3)
        server.listener.listen(2)
    server.stack.settings.set("net.ipv4.tcp_syncookies", cookies)
    before = server.queues
    outcome = server.receive(syn(50))
    expected: tuple[str, str, str | None, dict[str, int]]
    wants_cookie = cookies == 2 or (cookies == 1 and synq_full)
    if synq_full and not cookies:
        expected = ("dropped", "syn_queue_full", None, {"TCPReqQFullDrop": 1, "ListenDrops": 1})
    elif acceptq_full:
        extra = {"TCPReqQFullDoCookies": 1} if wants_cookie else {}
        expected = ("dropped", "accept_queue_full", None, {**FULL, **extra})
    elif wants_cookie:
        reason = "syncookies_always" if cookies == 2 else "syn_queue_full"
        expected = ("cookie", reason, "synack", {"TCPReqQFullDoCookies": 1, "SyncookiesSent": 1})
    else:
        expected = ("queued", "new_request", "synack", {})
    assert (outcome.decision, outcome.reason, outcome.reply, outcome.counters) == expected
    queued = outcome.decision == "queued"
    assert server.queues == (before[0], before[1] + queued, before[2] + queued)


@EVERY
@pytest.mark.parametrize(("limit", "fit"), [(4, 4), (8, 7), (10, 9), (16, 13), (64, 49), (128, 97)])
def test_syn_without_cookies_leaves_a_quarter_of_max_syn_backlog(
    profile: Profile, limit: int, fit: int
) -> None:
    """Dropped when max - Q < max >> 2, counting only ListenDrops."""
    server = Server(profile, backlog=1000, tcp_syncookies=0, tcp_max_syn_backlog=limit)
    fill_syn_queue(server, fit)
    outcome = server.receive(syn(1))
    assert outcome is out.DROP_RESERVED
    assert outcome.counters == {"ListenDrops": 1}


@EVERY
def test_syn_young_requests_do_not_open_a_full_accept_queue(profile: Profile) -> None:
    """Since 4.10 a full accept queue drops every SYN, whatever the number of young requests."""
    server = Server(profile, backlog=0)
    server.connect(1)
    assert server.queues == (1, 0, 0)
    assert server.receive(syn(2)).decision == "dropped"


@EVERY
def test_syn_with_data_is_queued_like_any_other(profile: Profile) -> None:
    """Without Fast Open the data is ignored."""
    server = Server(profile)
    assert server.receive(syn(1, length=100)) is out.QUEUED
    assert server.receive(ack(1)) is out.ESTABLISHED


# ---- other segments that find only the listener ----


@EVERY
@pytest.mark.parametrize(
    ("flags", "outcome"),
    [
        (ACK, out.RST_NO_REQUEST),
        (ACK | FIN, out.RST_NO_REQUEST),
        (ACK | PSH, out.RST_NO_REQUEST),
        (SYN | ACK, out.RST_NO_REQUEST),
        (RST, out.IGNORED_RST),
        (RST | ACK, out.IGNORED_RST),
        (RST | SYN, out.IGNORED_RST),
        (RST | SYN | ACK, out.IGNORED_RST),
        (SYN | FIN, out.DROP_BAD_FLAGS),
        (SYN | FIN | PSH, out.DROP_BAD_FLAGS),
        (SYN | PSH | URG, out.QUEUED),
        (FIN, out.IGNORED_FLAGS),
        (PSH, out.IGNORED_FLAGS),
        (0, out.IGNORED_FLAGS),
    ],
)
def test_flags_alone_decide_what_a_listener_does(profile: Profile, flags: int, outcome: object) -> None:
    """ACK: RST; RST, SYN+FIN, FIN, none: silence; SYN: a request."""
    assert Server(profile).receive(segment(flags)) is outcome


@EVERY
def test_syn_fin_counts_nothing(profile: Profile) -> None:
    """It is dropped before any listen counter."""
    assert Server(profile).receive(segment(SYN | FIN)).counters == {}


@EVERY
def test_ack_to_a_port_nobody_listens_on_is_reset(profile: Profile) -> None:
    server = Server(profile)
    for flags, outcome in (
        (ACK, out.RST_NO_LISTENER),
        (SYN, out.RST_NO_LISTENER),
        (RST, out.IGNORED_NO_LISTENER),
    ):
        assert server.receive(segment(flags, dst=b"\x0a\x09\x00\x01\x00\x51")) is outcome


@EVERY
def test_exact_address_is_found_before_the_wildcards(profile: Profile) -> None:
    """And `::` serves IPv4 clients too."""
    server = Server(profile, backlog=0)
    stack = server.stack
    any6 = stack.open(bytes(16) + b"\x00\x50", 5)

    def found(dst: bytes) -> object:
        return stack.listener(segment(SYN, dst=dst))

    assert found(SERVER_V6) is any6
    assert found(bytes([10, 9, 0, 2, 0, 80])) is any6
    any4 = stack.open(bytes(4) + b"\x00\x50", 5)
    assert found(bytes([10, 9, 0, 2, 0, 80])) is any4
    assert found(bytes([10, 9, 0, 1, 0, 80])) is server.listener


@EVERY
def test_socket_opened_after_another_one_was_closed_takes_its_place(profile: Profile) -> None:
    server = Server(profile, backlog=0)
    server.listener.close()
    assert server.stack.listener(segment(SYN)) is None
    again = server.stack.open(SERVER, 7)
    assert server.stack.listener(segment(SYN)) is again
    assert again.cookies is not server.listener.cookies


@EVERY
def test_sockets_that_share_a_port_are_asked_for_and_share_cookies(profile: Profile) -> None:
    server = Server(profile, backlog=0)
    other = server.stack.open(SERVER, 7)
    server.stack.member = lambda _, members: members[-1]
    assert server.stack.listener(segment(SYN)) is other
    assert (other.cookies is server.listener.cookies) is profile.cookie_stamp_of_group
    other.close()
    assert server.stack.listener(segment(SYN)) is server.listener


# ---- cookies come back ----


@EVERY
def test_cookie_ack_makes_a_child(profile: Profile) -> None:
    """SyncookiesRecv and PassiveOpens, no change of the SYN queue."""
    server = Server(profile, tcp_syncookies=2)
    assert server.receive(syn(1)) is out.COOKIE_ALWAYS
    outcome = server.receive(ack(1, 10))
    assert outcome is out.COOKIE_VALID
    assert outcome.counters == {"SyncookiesRecv": 1, "PassiveOpens": 1}
    assert server.queues == (1, 0, 0)


@EVERY
@pytest.mark.parametrize("abort", [0, 1])
def test_cookie_ack_accept_queue_full_is_silent_whatever_abort_on_overflow_says(
    profile: Profile, abort: int
) -> None:
    """ListenOverflows, ListenDrops, SyncookiesRecv again with every ACK; nothing is remembered."""
    server = Server(profile, backlog=0, tcp_syncookies=2, tcp_abort_on_overflow=abort)
    server.receive(syn(1))
    server.receive(syn(2))
    server.receive(ack(1))
    for at in (1, 2):
        outcome = server.receive(ack(2, at, data=at))
        assert outcome is out.COOKIE_OVERFLOW
        assert outcome.reply is None
        assert outcome.counters == {"SyncookiesRecv": 1, **FULL}
    server.listener.accept()
    assert server.receive(ack(2, 3)) is out.COOKIE_VALID


@EVERY
def test_cookie_ack_wrong_number_is_reset_and_counted(profile: Profile) -> None:
    server = Server(profile, tcp_syncookies=2)
    server.receive(syn(1))
    outcome = server.receive(ack(1, 1, ack=12345))
    assert outcome is out.RST_COOKIE_INVALID
    assert outcome.counters == {"SyncookiesFailed": 1, "OutRsts": 1}


@EVERY
def test_cookie_ack_without_recent_overflow_is_reset_and_not_counted(profile: Profile) -> None:
    """More than two minutes after the last cookie the kernel does not even look."""
    server = Server(profile, tcp_syncookies=2)
    server.receive(syn(1))
    assert server.receive(ack(1, 125_000)) is out.RST_NO_REQUEST


@EVERY
def test_cookie_ack_in_the_third_minute_has_expired(profile: Profile) -> None:
    """Recent overflow by another client's SYN, but this cookie is too old."""
    server = Server(profile, tcp_syncookies=2)
    server.receive(syn(1))
    server.receive(syn(2, 100_000))
    assert server.receive(ack(1, 125_000)) is out.RST_COOKIE_EXPIRED


@EVERY
def test_cookie_ack_after_cookies_were_switched_off_is_reset(profile: Profile) -> None:
    server = Server(profile, tcp_syncookies=2)
    server.receive(syn(1))
    server.stack.settings.set("net.ipv4.tcp_syncookies", 0)
    assert server.receive(ack(1, 1)) is out.RST_NO_REQUEST


# ---- accept() ----


@EVERY
def test_accept_takes_the_head_and_makes_room(profile: Profile) -> None:
    server = Server(profile, backlog=1)
    server.connect(1, 2)
    first = server.listener.accept()
    assert first is not None
    assert first.key.startswith(client(1))
    assert server.queues == (1, 0, 0)
    assert server.receive(syn(3)) is out.QUEUED


def test_accept_on_an_empty_queue_returns_nothing() -> None:
    assert Server().listener.accept() is None


# ---- timers ----


@EVERY
def test_timers_repeat_the_synack_five_times_and_give_up_in_silence(profile: Profile) -> None:
    """1, 3, 7, 15, 31 s and removed at about 63 s; expiry counts nothing and sends nothing."""
    server = Server(profile)
    server.receive(syn(1))
    fired = server.run(70_000)
    assert [f.what for f in fired] == ["synack"] * 5 + ["expired"]
    assert [int(f.ms // 1000) for f in fired[:5]] == [1, 3, 7, 15, 31]
    assert 63_600 <= fired[5].ms <= 65_700
    assert server.queues == (0, 0, 0)
    assert server.receive(ack(1, 70_000)) is out.RST_NO_REQUEST


@EVERY
def test_timer_first_firing_makes_a_request_old(profile: Profile) -> None:
    """Young means that the timer has not fired."""
    server = Server(profile)
    server.receive(syn(1))
    server.receive(syn(2, 500))
    assert server.queues == (0, 2, 2)
    server.run(1_100)
    assert server.queues == (0, 2, 1)
    server.receive(ack(1, 1_200))
    assert server.queues == (1, 1, 1)


@EVERY
def test_timer_without_retries_removes_at_the_first(profile: Profile) -> None:
    server = Server(profile, tcp_synack_retries=0)
    server.receive(syn(1))
    assert [f.what for f in server.run(5_000)] == ["expired"]


@EVERY
def test_tcp_syncnt_overrides_tcp_synack_retries(profile: Profile) -> None:
    server = Server(profile, syncnt=2, tcp_synack_retries=5)
    server.receive(syn(1))
    assert [f.what for f in server.run(10_000)] == ["synack", "synack", "expired"]


@EVERY
def test_timer_under_pressure_gives_old_requests_two_retries(profile: Profile) -> None:
    """More than half full and no young ones: SYN-ACK at 0, 1, 3 s, removed at 7 s, while pressure lasts.

    With five requests 2Q = 10 > 8; the timer that runs first removes its request, and with 8 > 8 false
    the other four keep all their retries.
    """
    server = Server(profile, backlog=7)
    for c in range(1, 6):
        server.receive(syn(c, c / 10))
    fired = server.run(8_000)
    third = [f for f in fired if f.ms > 6_500]
    assert [f.what for f in third] == ["expired"] + ["synack"] * 4
    assert third[0].client == 5  # one tick: last armed, first fired
    assert server.queues == (0, 4, 0)


@EVERY
@pytest.mark.parametrize(
    ("backlog", "requests", "pressed"), [(7, 4, False), (7, 5, True), (20, 10, False), (20, 11, True)]
)
def test_pressure_begins_when_twice_the_queue_exceeds_eight_and_the_backlog(
    profile: Profile, backlog: int, requests: int, pressed: bool
) -> None:
    """2Q > max(8, B)."""
    server = Server(profile, backlog)
    for c in range(1, requests + 1):
        server.receive(syn(c))
    assert server.listener.under_pressure() is pressed


@EVERY
def test_timer_under_pressure_young_requests_protect_the_old(profile: Profile) -> None:
    """More than half of the queue young: the limit is not lowered; at a half it loses one retry."""
    server = Server(profile, backlog=20)
    server.receive(syn(1))
    request = server.request(1)
    request.num_timeout = 4
    server.listener.young = 0
    fill_syn_queue(server, 12)  # 12 young of 13
    assert server.listener.timer_plan(request) == (False, True)
    server.listener.young = 6  # 13 < 12 is false: one halving
    assert server.listener.timer_plan(request) == (True, False)
    request.num_timeout = 3
    assert server.listener.timer_plan(request) == (False, True)
    server.listener.young = 3  # 13 >= 6, 13 >= 12: two
    assert server.listener.timer_plan(request) == (True, False)


@EVERY
def test_timer_under_pressure_never_lowers_below_two(profile: Profile) -> None:
    server = Server(profile, backlog=8, tcp_synack_retries=2)
    fill_syn_queue(server, 8)
    request = server.request(100)
    server.listener.young = 0
    request.num_timeout = 1
    assert server.listener.timer_plan(request) == (False, True)
    server.stack.settings.tcp_synack_retries = 1
    assert server.listener.timer_plan(request) == (True, False)


@EVERY
def test_interval_doubles_up_to_two_minutes(profile: Profile) -> None:
    listener = Server(profile).listener
    assert [listener.interval(n) for n in range(9)] == [1, 2, 4, 8, 16, 32, 64, 120, 120]


@pytest.mark.parametrize(("kernel", "intervals"), [("6.12", [1, 2, 4, 8, 16]), ("6.18", [1, 2, 4, 5, 5])])
def test_rto_max_caps_the_interval_since_6_15(kernel: str, intervals: list[int]) -> None:
    """tcp_rto_max_ms exists in 6.18 and 7.2."""
    listener = Server(find(kernel)[0], tcp_rto_max_ms=5000).listener
    assert [listener.interval(n) for n in range(5)] == intervals


@EVERY
def test_ignored_ack_does_not_stop_the_timer(profile: Profile) -> None:
    """After an overflow the SYN-ACK is repeated on schedule, and its ACK is taken when there is room."""
    full = Server(profile, backlog=1)
    full.connect(1)
    full.receive(syn(2))
    full.listener.listen(0)
    assert full.receive(ack(2, 5)) is out.OVERFLOW
    fired = full.run(1_100)
    assert [(f.client, f.what) for f in fired] == [(2, "synack")]
    full.listener.accept()
    assert full.receive(ack(2, 1_200)) is out.ESTABLISHED


# ---- TCP_DEFER_ACCEPT ----


@EVERY
def test_defer_accept_bare_ack_waits_until_its_period_is_over(profile: Profile) -> None:
    """d=3, ACK at once: silent timers at 1 s and 3 s, SYN-ACK at 7 s, whose ACK is taken."""
    server = Server(profile, defer_accept=5)
    server.receive(syn(1))
    assert server.receive(ack(1, 10)) is out.DEFERRED
    assert [f.what for f in server.run(7_500)] == ["silent", "silent", "synack"]
    assert server.receive(ack(1, 7_600)) is out.ESTABLISHED


@EVERY
def test_defer_accept_without_any_ack_repeats_like_ever(profile: Profile) -> None:
    """A client that never acknowledged gets its SYN-ACKs on schedule."""
    server = Server(profile, defer_accept=5)
    server.receive(syn(1))
    assert [f.what for f in server.run(7_500)] == ["synack", "synack", "synack"]


@EVERY
@pytest.mark.parametrize("more", [{"data": 1}, {"fin": True}])
def test_defer_accept_data_or_fin_completes(profile: Profile, more: dict[str, int]) -> None:
    server = Server(profile, defer_accept=5)
    server.receive(syn(1))
    assert server.receive(ack(1, 10, **more)) is out.ESTABLISHED  # type: ignore[arg-type]


@EVERY
def test_defer_accept_request_outlives_the_retries(profile: Profile) -> None:
    """Once acknowledged, it expires only when both the retries and the period are over."""
    server = Server(profile, defer_accept=30, tcp_synack_retries=1)
    server.receive(syn(1))
    server.receive(ack(1, 10))
    fired = server.run(80_000)
    assert [f.what for f in fired] == ["silent"] * 4 + ["synack", "expired"]


# ---- close() ----


@EVERY
def test_close_resets_children_and_leaves_requests(profile: Profile) -> None:
    """Unaccepted connections in order; requests stay until a segment or their timer finds no listener."""
    server = Server(profile)
    server.connect(1, 2, 3)
    server.receive(syn(4))
    server.receive(syn(5))
    server.listener.accept()
    victims = server.listener.close()
    assert [child.key[:6] for child in victims] == [client(2), client(3)]
    assert server.pending(4)
    assert server.receive(ack(4, 10)) is out.RST_NO_LISTENER
    assert not server.pending(4)
    assert server.receive(syn(6, 10)) is out.RST_NO_LISTENER
    assert server.listener.qlen == 1


@EVERY
def test_close_does_not_reset_a_connection_that_is_gone(profile: Profile) -> None:
    """A child that the client reset has nobody to tell."""
    server = Server(profile)
    server.connect(1, 2)
    server.receive(segment(RST, 1, 5))
    assert [child.key[:6] for child in server.listener.close()] == [client(2)]


def test_second_socket_on_the_port_starts_empty() -> None:
    """Requests of a closed listener do not become the new one's."""
    server = Server(backlog=1)
    server.receive(syn(1))
    server.listener.close()
    fresh = server.stack.open(server.request(1).key[6:], 1)
    assert server.receive(ack(1, 10)) is out.RST_NO_REQUEST
    assert (fresh.qlen, len(fresh.accept_queue)) == (0, 0)
    assert server.listener.qlen == 0


@pytest.mark.parametrize(
    ("kernel", "full"), [("3.10", False), ("4.4", False), ("4.18-el8", True), ("5.4", True)]
)
def test_a_backlog_of_65535_is_never_reached_where_lengths_have_16_bits(kernel: str, full: bool) -> None:
    """The length goes back to 0 before it exceeds 65535."""
    listener = Server(find(kernel)[0], 65535, somaxconn=65535).listener
    listener.accept_queue.extend(Child(b"", listener, -1, 0) for _ in range(65536))
    assert listener.accept_queue_full() is full
