"""Connections after the handshake, as far as the listen path cares: SYNs on them, their end, TIME_WAIT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backlogtrace.kernel import outcomes as out
from backlogtrace.kernel.clock import PruneClock
from backlogtrace.kernel.connection import Child, TimeWait, child_sent
from backlogtrace.kernel.profiles import find
from backlogtrace.segment import ACK, FIN, PSH, RST, SYN
from tests.kernel.build import MODERN, SERVER, Server, ack, client, isn, modern_id, segment, server_isn, syn

if TYPE_CHECKING:
    from backlogtrace.kernel.outcome import Outcome, Reply
    from backlogtrace.kernel.profile import Profile
    from backlogtrace.segment import Segment

EVERY = pytest.mark.parametrize("profile", MODERN, ids=modern_id)
KEY = client(1) + SERVER
NEXT = isn(1) + 1


def connected(profile: Profile, backlog: int = 4, **more: int) -> Server:
    server = Server(profile, backlog, clock=None, fastopen_qlen=None, **more)
    server.connect(1)
    return server


def sends(server: Server, flags: int, at: float, *, acknowledging: int = NEXT, length: int = 0) -> None:
    """The server sends a segment on client 1's connection."""
    inbound = segment(flags, 1, at, length=length)
    outbound = inbound._replace(src=SERVER, dst=client(1), seq=server_isn(1) + 1, ack=acknowledging)
    child = server.stack.ehash[KEY]
    assert isinstance(child, Child)
    child_sent(server.stack, child, outbound)


def closed_by_server(profile: Profile, backlog: int = 4, *, tsval: int = -1, **more: int) -> Server:
    """TIME_WAIT of client 1 since 100 ms: the server's FIN first, then the client's."""
    server = connected(profile, backlog, **more)
    server.listener.accept()
    sends(server, FIN | ACK, 50)
    server.receive(
        segment(FIN | ACK, 1, 100, ack=server_isn(1) + 2, tsval=tsval, tsecr=900 if tsval >= 0 else -1)
    )
    assert isinstance(server.stack.ehash[KEY], TimeWait)
    return server


def later_syn(at: float, **fields: int) -> Segment:
    """A SYN with a number after all of the old connection."""
    return syn(1, at, **{"seq": isn(1) + 100_000, **fields})


# ---- a full socket ----


@EVERY
@pytest.mark.parametrize("accepted", [False, True])
def test_data_is_passed_to_the_connection(profile: Profile, accepted: bool) -> None:
    server = connected(profile)
    if accepted:
        server.listener.accept()
    assert server.receive(ack(1, 10, data=100)) is out.PASSED
    assert server.receive(ack(1, 11)) is out.PASSED


@EVERY
@pytest.mark.parametrize("seq", [isn(1), isn(1) + 50, isn(1) + 10**6])
def test_syn_on_a_connection_is_challenged_once_per_half_second(profile: Profile, seq: int) -> None:
    """In or out of window, accepted or not: an ACK and no new request."""
    server = connected(profile)
    assert server.receive(syn(1, 10, seq=seq)) is out.CHILD_SYN
    assert server.receive(syn(1, 100, seq=seq)) is out.CHILD_SYN_LIMITED
    assert server.receive(syn(1, 511, seq=seq)) is out.CHILD_SYN
    assert out.CHILD_SYN.reply == "ack"
    assert out.CHILD_SYN_LIMITED.reply is None
    assert server.queues == (1, 0, 0)


@EVERY
def test_rst_frees_the_4_tuple_and_keeps_the_place_in_the_queue(profile: Profile) -> None:
    """accept() still returns it."""
    server = connected(profile, backlog=1)
    server.connect(2)
    assert server.receive(segment(RST, 1, 10)) is out.PASSED
    assert KEY not in server.stack.ehash
    assert server.queues == (2, 0, 0)
    assert server.receive(syn(1, 20)).decision == "dropped"
    assert server.listener.accept() is not None
    assert server.receive(syn(1, 30)) is out.QUEUED


@EVERY
@pytest.mark.parametrize(("answer", "alive"), [("ack", True), ("synack", False), (None, False)])
def test_syn_after_a_doubtful_rst_asks_the_wire(profile: Profile, answer: str | None, alive: bool) -> None:
    """A RST may have missed: a challenge ACK says that the connection lives, else it is gone."""
    server = connected(profile)
    server.receive(segment(RST, 1, 10, seq=NEXT + 5))
    server.stack.witness = lambda _: answer  # type: ignore[assignment,return-value]
    assert server.receive(later_syn(20)) is (out.CHILD_SYN if alive else out.QUEUED)


@EVERY
def test_server_that_goes_on_talking_ends_the_doubt(profile: Profile) -> None:
    server = connected(profile)
    server.receive(segment(RST, 1, 10, seq=NEXT + 5))
    assert server.child(1).doubtful
    sends(server, ACK, 10.1)
    assert not server.child(1).doubtful
    assert server.receive(syn(1, 20)) is out.CHILD_SYN_LIMITED  # that was the challenge


@EVERY
@pytest.mark.parametrize("flags", [0, PSH, FIN, RST])
def test_segment_that_nobody_answers_leaves_the_doubt(profile: Profile, flags: int) -> None:
    server = connected(profile)
    server.receive(segment(RST, 1, 10, seq=NEXT + 5))
    server.receive(segment(flags, 1, 20, seq=NEXT + 7))
    assert server.child(1).doubtful


@EVERY
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("ack", out.CHILD_SYN), (None, out.CHILD_SYN_SILENT), ("rst", out.CLOSING_SYN_RST),
        ("synack", out.QUEUED_TIMEWAIT),
    ],
)  # fmt: skip
def test_syn_after_the_servers_fin_asks_the_wire(
    profile: Profile, answer: Reply | None, outcome: Outcome
) -> None:
    """A socket, a stand-in in FIN_WAIT2 (in or out of its window), or in TIME_WAIT (its FIN was not seen)."""
    server = connected(profile)
    server.listener.accept()
    sends(server, FIN | ACK, 50)
    server.stack.witness = lambda _: answer
    assert server.receive(syn(1, 600)) is outcome


@EVERY
def test_client_that_closes_first_leaves_no_timewait(profile: Profile) -> None:
    """LAST_ACK ends in nothing: the next SYN is a new one."""
    server = connected(profile)
    server.listener.accept()
    server.receive(segment(FIN | ACK, 1, 10))
    sends(server, FIN | ACK, 20, acknowledging=NEXT + 1)
    server.receive(segment(ACK, 1, 30, seq=NEXT + 1, ack=server_isn(1) + 2))
    assert KEY not in server.stack.ehash
    assert server.receive(syn(1, 40)) is out.QUEUED


@EVERY
def test_server_that_resets_frees_the_4_tuple(profile: Profile) -> None:
    server = connected(profile)
    sends(server, RST | ACK, 20)
    assert server.receive(ack(1, 30)) is out.RST_NO_REQUEST


def challenged(kernel: str, limit: int, count: int, answer: Reply | None = None) -> list[bool]:
    """Whether each of some connections gets a challenge ACK for a SYN within a millisecond."""
    server = Server(find(kernel)[0], backlog=50, tcp_challenge_ack_limit=limit)
    server.connect(*range(1, count + 1))
    server.stack.witness = lambda _: answer
    replies = [server.receive(syn(c, 100 + c / 1000)) for c in range(1, count + 1)]
    assert set(replies) <= {out.CHILD_SYN, out.CHILD_SYN_UNANSWERED}
    return [reply is out.CHILD_SYN for reply in replies]


@pytest.mark.parametrize(("limit", "least", "most"), [(1, 1, 1), (2, 1, 2), (3, 2, 4), (10, 5, 14)])
def test_challenge_acks_of_a_second_are_few_and_the_wire_tells_how_few(
    limit: int, least: int, most: int
) -> None:
    """Half the limit to one and a half: as many as a 6.18.44 sent at least and at most."""
    for kernel in ("rhel7", "5.10", "6.18.44"):
        assert challenged(kernel, limit, 20) == [True] * least + [False] * (20 - least)
        assert challenged(kernel, limit, 20, "ack") == [True] * most + [False] * (20 - most)


def test_no_challenge_acks_at_all_until_6_2() -> None:
    assert challenged("5.10", 0, 3) == [False] * 3
    assert challenged("6.18.44", 0, 3) == [True] * 3


def test_next_second_has_challenge_acks_of_its_own() -> None:
    server = Server(find("6.12")[0], tcp_challenge_ack_limit=1)
    server.connect(1, 2, 3)
    assert server.receive(syn(1, 100)) is out.CHILD_SYN
    assert server.receive(syn(2, 110)) is out.CHILD_SYN_UNANSWERED
    assert server.receive(syn(3, 1200)) is out.CHILD_SYN


# ---- TIME_WAIT ----


@EVERY
def test_timewait_syn_with_later_number_is_queued(profile: Profile) -> None:
    """A request of its own; the old socket is gone."""
    server = closed_by_server(profile)
    outcome = server.receive(later_syn(200))
    assert (outcome.decision, outcome.reason) == ("queued", "timewait_reuse")
    assert server.queues == (0, 1, 1)


@EVERY
def test_timewait_syn_with_old_number_is_acknowledged_once_per_half_second(profile: Profile) -> None:
    server = closed_by_server(profile)
    assert server.receive(syn(1, 200)) is out.TIMEWAIT_ACK
    assert server.receive(syn(1, 300)) is out.TIMEWAIT_LIMITED
    assert server.receive(syn(1, 701)) is out.TIMEWAIT_ACK
    assert server.queues == (0, 0, 0)


@EVERY
@pytest.mark.parametrize(("tsval", "decision"), [(5001, "queued"), (5000, "ignored"), (4999, "ignored")])
def test_timewait_syn_with_old_number_passes_by_a_newer_timestamp(
    profile: Profile, tsval: int, decision: str
) -> None:
    """The last timestamp of the connection was 5000."""
    server = closed_by_server(profile, tsval=5000)
    assert server.receive(syn(1, 200, tsval=tsval, tsecr=0)).decision == decision


@EVERY
def test_timewait_syn_with_older_timestamp_is_refused_and_restarts_the_minute(profile: Profile) -> None:
    server = closed_by_server(profile, tsval=5000)
    assert server.receive(later_syn(50_000, tsval=4000, tsecr=0)) is out.TIMEWAIT_ACK
    assert server.receive(later_syn(70_000, tsval=4000, tsecr=0)) is out.TIMEWAIT_ACK
    assert server.receive(later_syn(130_500, tsval=4000, tsecr=0)) is out.QUEUED


@EVERY
def test_timewait_is_over_after_a_minute(profile: Profile) -> None:
    server = closed_by_server(profile)
    assert server.receive(syn(1, 60_099)) is out.TIMEWAIT_ACK
    assert server.receive(syn(1, 60_100)) is out.QUEUED


@EVERY
@pytest.mark.parametrize("cookies", [0, 1])
def test_timewait_syn_queue_full_is_exempt_since_6_10(profile: Profile, cookies: int) -> None:
    """Before, it gets a cookie or is dropped like any other SYN; since then it is queued all the same."""
    server = closed_by_server(profile, backlog=2, tcp_syncookies=cookies)
    while server.listener.qlen < server.listener.syn_capacity:
        server.receive(syn(50 + server.listener.qlen, 150))
    outcome = server.receive(later_syn(200))
    plain = "cookie" if cookies else "dropped"
    assert outcome.decision == (plain if profile.timewait_syn_is_plain else "queued")


@EVERY
def test_timewait_syn_accept_queue_full_is_dropped_and_the_timewait_gone(profile: Profile) -> None:
    """The old socket is destroyed first."""
    server = closed_by_server(profile, backlog=1)
    server.connect(2, 3)
    outcome = server.receive(later_syn(200))
    assert outcome.counters == {"ListenOverflows": 1, "ListenDrops": 1}
    assert KEY not in server.stack.ehash


@EVERY
def test_timewait_without_listener_acknowledges_the_syn(profile: Profile) -> None:
    server = closed_by_server(profile)
    server.listener.close()
    assert server.receive(later_syn(200)) is out.TIMEWAIT_ACK


@EVERY
def test_timewait_exact_rst_ends_it(profile: Profile) -> None:
    """tcp_rfc1337=0; nothing is answered."""
    server = closed_by_server(profile)
    assert server.receive(segment(RST, 1, 200, seq=NEXT + 1)) is out.TIMEWAIT_RST
    assert KEY not in server.stack.ehash


@EVERY
def test_timewait_last_ack_again_is_silent(profile: Profile) -> None:
    server = closed_by_server(profile)
    assert server.receive(segment(ACK, 1, 200, seq=NEXT + 1)) is out.TIMEWAIT_SILENT
    assert server.receive(segment(SYN | ACK, 1, 300)) is not out.QUEUED


def test_old_timewaits_leave_the_hash() -> None:
    """So that it does not grow with the capture."""
    server = closed_by_server(MODERN[-1])
    server.connect(2, at=70_000)
    server.listener.accept()
    child = server.child(2)
    child.fin_seq_out = server_isn(2) + 2
    server.receive(segment(FIN | ACK, 2, 70_100, ack=server_isn(2) + 2))
    assert KEY not in server.stack.ehash
    assert len(server.stack.ehash) == 1


# ---- tcp_tw_recycle (before 4.12) ----


def recycling(kernel: str, *, tsval: int = 5000) -> Server:
    """A connection of client 1 with timestamps was closed by the server."""
    profile = find(kernel)[0]
    clock = PruneClock(0, 0) if profile.timer == "prune" else None
    server = Server(profile, clock=clock, tcp_tw_recycle=1)
    server.connect(1)
    server.listener.accept()
    sends(server, FIN | ACK, 50)
    server.receive(segment(FIN | ACK, 1, 100, ack=server_isn(1) + 2, tsval=tsval, tsecr=900))
    return server


def neighbour(at: float, tsval: int) -> Segment:
    """A SYN from another port of client 1's address: another host behind the same NAT."""
    sent = syn(1, at, tsval=tsval, tsecr=0 if tsval >= 0 else -1)
    return sent._replace(src=sent.src[:-2] + b"\x99\x99", seq=77)


@pytest.mark.parametrize("kernel", ["3.10", "rhel7", "4.4.1", "4.9"])
@pytest.mark.parametrize(("tsval", "taken"), [(4998, False), (4999, True), (5000, True), (90_000, True)])
def test_tw_recycle_drops_older_timestamps_of_the_address(kernel: str, tsval: int, taken: bool) -> None:
    server = recycling(kernel)
    outcome = server.receive(neighbour(200, tsval))
    assert outcome is (out.QUEUED if taken else out.DROP_TW_RECYCLE)
    assert out.DROP_TW_RECYCLE.counters == {"PAWSPassive": 1, "ListenDrops": 1}


@pytest.mark.parametrize(("kernel", "taken"), [("3.10", True), ("rhel7", False), ("4.4.1", False)])
def test_tw_recycle_drops_syns_without_timestamp_since_3_17(kernel: str, taken: bool) -> None:
    assert (recycling(kernel).receive(neighbour(200, -1)) is out.QUEUED) is taken


@pytest.mark.parametrize(("ms", "taken"), [(59_000, False), (61_200, True)])
def test_tw_recycle_forgets_after_a_minute(ms: float, taken: bool) -> None:
    assert (recycling("rhel7").receive(neighbour(ms, 1)) is out.QUEUED) is taken


def test_tw_recycle_lets_other_addresses_pass() -> None:
    assert recycling("rhel7").receive(syn(2, 200, tsval=1, tsecr=0)) is out.QUEUED


def test_tw_recycle_frees_the_4_tuple_soon() -> None:
    assert recycling("rhel7").receive(syn(1, 300, tsval=6000, tsecr=0)) is out.QUEUED_TIMEWAIT
    assert recycling("rhel7").receive(syn(1, 900, tsval=6000, tsecr=0)) is out.QUEUED


@EVERY
def test_tw_recycle_is_gone(profile: Profile) -> None:
    server = closed_by_server(profile, tsval=5000, tcp_tw_recycle=1)
    assert server.receive(neighbour(200, 1)) is out.QUEUED


@EVERY
def test_rfc1337_protects_timewait_from_resets(profile: Profile) -> None:
    server = closed_by_server(profile, tcp_rfc1337=1)
    server.receive(segment(RST, 1, 200, seq=NEXT + 1))
    assert isinstance(server.stack.ehash[KEY], TimeWait)
