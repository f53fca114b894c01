"""TCP Fast Open on the server: which SYN makes a child at once, and the queue's own limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backlogtrace.kernel import outcomes as out
from backlogtrace.kernel.clock import PruneClock
from backlogtrace.kernel.connection import child_sent
from backlogtrace.kernel.profiles import find
from backlogtrace.segment import ACK, FIN, RST
from tests.kernel.build import MODERN, Server, ack, isn, modern_id, segment, syn

if TYPE_CHECKING:
    from backlogtrace.kernel.profile import Profile
    from backlogtrace.segment import Segment

EVERY = pytest.mark.parametrize("profile", MODERN, ids=modern_id)
COOKIE = b"\x01\x02\x03\x04\x05\x06\x07\x08"
CHILDREN = {"TCPFastOpenPassive": 1, "PassiveOpens": 1}


def knows(server: Server, c: int, cookie: bytes = COOKIE) -> None:
    """The server gave client `c` a cookie before."""
    first = syn(c)
    server.stack.fastopen_cookies[first.src[:-2] + first.dst[:-2]] = cookie


def with_cookie(server: Server, c: int, at: float = 0, *, data: int = 10) -> Segment:
    """A SYN with the right cookie."""
    knows(server, c)
    return syn(c, at, length=data, fastopen=COOKIE)


@EVERY
def test_cookie_request_is_counted_even_when_fast_open_is_off(profile: Profile) -> None:
    server = Server(profile, tcp_fastopen=0)
    outcome = server.receive(syn(1, fastopen=b""))
    assert (outcome.decision, outcome.counters) == ("queued", {"TCPFastOpenCookieReqd": 1})


@EVERY
@pytest.mark.parametrize("data", [0, 10])
def test_valid_cookie_makes_a_child(profile: Profile, data: int) -> None:
    """With or without data: it is in the accept queue before the handshake is complete."""
    server = Server(profile, tcp_fastopen=2, fastopen_qlen=5)
    outcome = server.receive(with_cookie(server, 1, data=data))
    assert (outcome.decision, outcome.reason, outcome.reply) == ("fastopen", "valid_cookie", "synack")
    assert outcome.counters == CHILDREN
    assert server.queues == (1, 0, 0)
    assert server.listener.syn_length == 1
    assert server.receive(ack(1, 5, seq=isn(1) + 1 + data)) is out.FASTOPEN_COMPLETED
    assert server.listener.syn_length == 0
    assert server.listener.fastopen.qlen == 0


@EVERY
def test_wrong_cookie_makes_a_request(profile: Profile) -> None:
    server = Server(profile, tcp_fastopen=2, fastopen_qlen=5)
    knows(server, 1, b"another!")
    outcome = server.receive(syn(1, length=10, fastopen=COOKIE))
    assert (outcome.decision, outcome.counters) == ("queued", {"TCPFastOpenPassiveFail": 1})
    assert server.queues == (0, 1, 1)


@EVERY
@pytest.mark.parametrize(
    ("flags", "qlen", "max_qlen"),
    [
        (0x1, None, 0),
        (0x2, None, 0),
        (0x402, None, 3),
        (0x400, None, 0),
        (0x2, 2, 2),
        (0x2, 5000, 128),
        (0x402, 0, 0),
    ],
)
def test_queue_limit_comes_from_the_option_or_the_sysctl(
    profile: Profile, flags: int, qlen: int | None, max_qlen: int
) -> None:
    """TCP_FASTOPEN clamped to somaxconn; without it the backlog where 0x400 and 0x2 are set."""
    server = Server(profile, backlog=3, tcp_fastopen=flags, somaxconn=128, fastopen_qlen=qlen)
    assert server.listener.fastopen.max_qlen == max_qlen


@EVERY
def test_server_flag_off_makes_the_option_inert(profile: Profile) -> None:
    server = Server(profile, tcp_fastopen=1, fastopen_qlen=5)
    assert server.receive(with_cookie(server, 1)) is out.QUEUED


@EVERY
@pytest.mark.parametrize(("data", "option"), [(10, None), (10, COOKIE), (0, COOKIE), (0, None)])
def test_cookie_not_required_takes_data_and_since_5_15_a_bare_option(
    profile: Profile, data: int, option: bytes | None
) -> None:
    """0x200: whatever cookie was given; neither data nor option is a plain SYN."""
    server = Server(profile, tcp_fastopen=0x202, fastopen_qlen=5)
    knows(server, 1, b"another!")
    outcome = server.receive(syn(1, length=data, fastopen=option))
    if data or (option is not None and profile.dataless_fastopen):
        assert outcome is out.FASTOPEN_NO_COOKIE
    else:
        assert outcome is (out.QUEUED if option is None else out.QUEUED_COOKIE_INVALID)


@EVERY
def test_queue_full_makes_requests(profile: Profile) -> None:
    """TCPFastOpenListenOverflow, and room again when a handshake is complete."""
    server = Server(profile, tcp_fastopen=2, fastopen_qlen=1)
    assert server.receive(with_cookie(server, 1)) is out.FASTOPEN
    full = server.receive(with_cookie(server, 2))
    assert (full.decision, full.counters) == ("queued", {"TCPFastOpenListenOverflow": 1})
    server.receive(ack(1, 5, seq=isn(1) + 11))
    assert server.receive(with_cookie(server, 3)) is out.FASTOPEN


@EVERY
def test_accept_queue_full_drops_the_syn_before_fast_open(profile: Profile) -> None:
    server = Server(profile, backlog=1, tcp_fastopen=2, fastopen_qlen=5)
    for c in (1, 2):
        server.receive(with_cookie(server, c))
    assert server.receive(with_cookie(server, 3)) is out.DROP_ACCEPT_QUEUE


@EVERY
def test_cookie_sent_for_a_full_syn_queue_ignores_the_option(profile: Profile) -> None:
    server = Server(profile, tcp_fastopen=2, fastopen_qlen=5, tcp_syncookies=2)
    assert server.receive(with_cookie(server, 1)) is out.COOKIE_ALWAYS


@EVERY
@pytest.mark.parametrize(("accepted", "place_ms"), [(False, 0), (True, 60_000)])
def test_reset_child_keeps_its_place_for_a_minute_when_it_was_accepted(
    profile: Profile, accepted: bool, place_ms: int
) -> None:
    """The defence against spoofed SYNs; an unaccepted child frees its place at once."""
    server = Server(profile, tcp_fastopen=2, fastopen_qlen=1)
    server.receive(with_cookie(server, 1))
    if accepted:
        server.listener.accept()
    outcome = server.receive(segment(RST, 1, 10, seq=isn(1) + 11))
    assert outcome.decision == "aborted"
    assert outcome.counters["AttemptFails"] == 2
    assert len(server.listener.accept_queue) == (0 if accepted else 1)
    if place_ms:
        assert not server.listener.fastopen.has_room(server.listener.accept_capacity)
        assert server.receive(with_cookie(server, 2, 11 + place_ms - 100)).decision == "queued"
    assert server.receive(with_cookie(server, 3, 11 + place_ms)) is out.FASTOPEN


@EVERY
def test_unfinished_child_is_given_up_after_one_retry_more(profile: Profile) -> None:
    """SYN-ACK again at 1, 3, 7, 15, 31, 63 s, given up at 127 s."""
    server = Server(profile, tcp_fastopen=2, fastopen_qlen=5)
    server.receive(with_cookie(server, 1))
    fired = server.run(140_000)
    assert [f.what for f in fired] == ["synack"] * 6 + ["expired"]
    assert [int(f.ms // 1000) for f in fired[:3]] == [1, 3, 7]
    assert server.listener.fastopen.qlen == 0
    assert server.queues == (1, 0, 0)


def closed_by_server(profile: Profile, flags: int) -> Server:
    """The application took the child before its handshake was complete, and closed it with `flags`."""
    server = Server(profile, tcp_fastopen=2, fastopen_qlen=1)
    server.receive(with_cookie(server, 1))
    child = server.listener.accept()
    assert child is not None
    sent = segment(flags, 1, 5, ack=isn(1) + 11)
    child_sent(server.stack, child, sent._replace(src=sent.dst, dst=sent.src))
    return server


@EVERY
def test_child_the_server_closes_leaves_syn_recv_but_keeps_its_place(profile: Profile) -> None:
    server = closed_by_server(profile, FIN | ACK)
    assert (server.listener.syn_length, server.listener.fastopen.qlen) == (0, 1)
    assert server.receive(ack(1, 9, seq=isn(1) + 11)) is out.FASTOPEN_COMPLETED
    assert (server.listener.syn_length, server.listener.fastopen.qlen) == (0, 0)


@EVERY
def test_child_the_server_resets_frees_its_place(profile: Profile) -> None:
    server = closed_by_server(profile, RST | ACK)
    assert (server.listener.syn_length, server.listener.fastopen.qlen) == (0, 0)
    assert server.receive(with_cookie(server, 2, 9)).decision == "fastopen"
    assert [fired.client for fired in server.run(1100)] == [2]  # nothing is repeated to the first


@pytest.mark.parametrize(
    ("kernel", "decision"), [("3.10", "fastopen"), ("rhel7", "queued"), ("6.12", "queued")]
)
@pytest.mark.parametrize("data", [0, 10])
def test_flag_1000_makes_every_syn_a_fast_open_on_3_10(kernel: str, decision: str, data: int) -> None:
    clock = PruneClock(0, 0) if kernel != "6.12" else None
    server = Server(find(kernel)[0], clock=clock, tcp_fastopen=0x1002, fastopen_qlen=5)
    outcome = server.receive(syn(1, length=data))
    assert outcome.decision == decision
    assert ("TCPFastOpenPassive" in outcome.counters) is (decision == "fastopen")
