"""A half-open connection: every segment that can hit it, in the order of tcp_check_req."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backlogtrace.kernel import outcomes as out
from backlogtrace.kernel.request import in_window
from backlogtrace.segment import ACK, FIN, PSH, RST, SYN
from tests.kernel.build import MODERN, Server, ack, isn, modern_id, segment, server_isn, syn

if TYPE_CHECKING:
    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.kernel.profile import Profile

EVERY = pytest.mark.parametrize("profile", MODERN, ids=modern_id)
OLD = [p for p in MODERN if not p.rst_needs_exact_seq]
NEW = [p for p in MODERN if p.rst_needs_exact_seq]
NEXT = isn(1) + 1
GOOD = server_isn(1) + 1


def half_open(profile: Profile, backlog: int = 4, **more: int) -> Server:
    """A server with the request of client 1."""
    server = Server(profile, backlog, clock=None, fastopen_qlen=None, **more)
    assert server.receive(syn(1)) is out.QUEUED
    return server


# ---- the client's SYN again ----


@EVERY
def test_duplicate_syn_is_answered_and_restarts_the_timer(profile: Profile) -> None:
    """The same SYN-ACK at once, also a millisecond after the first; nothing in the queues changes."""
    server = half_open(profile)
    due = server.request(1).due
    outcome = server.receive(syn(1, 300))
    assert outcome is out.RETRANSMITTED
    assert outcome.counters == {"TCPSynRetrans": 1}
    assert server.request(1).due > due
    assert server.request(1).num_timeout == 0
    assert server.queues == (0, 1, 1)


@EVERY
def test_duplicate_syn_first_is_never_limited(profile: Profile) -> None:
    """The first SYN-ACK does not set the rate limit's stamp."""
    assert half_open(profile).receive(syn(1, 1)) is out.RETRANSMITTED


@EVERY
@pytest.mark.parametrize(
    ("gap", "outcome"), [(100, out.DUPLICATE_LIMITED), (496, out.DUPLICATE_LIMITED), (504, out.RETRANSMITTED)]
)
def test_duplicate_syn_is_limited_to_one_per_half_second(
    profile: Profile, gap: int, outcome: Outcome
) -> None:
    """tcp_invalid_ratelimit, 500 ms; a limited one changes nothing but TCPACKSkippedSynRecv."""
    server = half_open(profile)
    server.receive(syn(1, 10))
    due = server.request(1).due
    assert server.receive(syn(1, 10 + gap)) is outcome
    assert (server.request(1).due == due) is (outcome is out.DUPLICATE_LIMITED)


@EVERY
def test_duplicate_syn_limit_follows_the_sysctl(profile: Profile) -> None:
    server = half_open(profile, tcp_invalid_ratelimit=0)
    assert [server.receive(syn(1, at)) for at in (1, 2, 3)] == [out.RETRANSMITTED] * 3


@EVERY
@pytest.mark.parametrize("flags", [SYN | FIN, SYN | PSH])
def test_duplicate_syn_may_carry_fin_or_data(profile: Profile, flags: int) -> None:
    """Only SYN, ACK and RST count."""
    assert half_open(profile).receive(segment(flags, 1, 1, length=5)) is out.RETRANSMITTED


@EVERY
def test_duplicate_syn_interval_stays_the_current_one(profile: Profile) -> None:
    """After one timeout the interval is 2 s, and a duplicate starts these 2 s anew."""
    server = half_open(profile)
    server.run(1_100)
    server.receive(syn(1, 2_000))
    fired = server.run(4_200)
    assert [f.what for f in fired] == ["synack"]
    assert 4_000 < fired[0].ms <= 4_100


# ---- completion ----


@EVERY
@pytest.mark.parametrize(
    "final", [ack(1, 5), ack(1, 5, data=10), ack(1, 5, fin=True), ack(1, 5, data=10, seq=NEXT + 100)]
)
def test_ack_completes_the_handshake(profile: Profile, final: object) -> None:
    """Data, FIN and data ahead of a gap do as well; PassiveOpens counts the child, not the SYN."""
    server = half_open(profile)
    outcome = server.receive(final)  # type: ignore[arg-type]
    assert outcome is out.ESTABLISHED
    assert outcome.counters == {"PassiveOpens": 1}
    assert outcome.reply is None
    assert server.queues == (1, 0, 0)


@EVERY
def test_ack_accept_queue_full_is_ignored_every_time(profile: Profile) -> None:
    """ListenOverflows and ListenDrops for each segment, data or not; request, queues and timer stay."""
    server = half_open(profile, backlog=2)
    server.connect(2)
    server.listener.listen(0)
    due = server.request(1).due
    for at in range(1, 4):
        outcome = server.receive(ack(1, at, data=at - 1))
        assert outcome is out.OVERFLOW
        assert outcome.reply is None
        assert outcome.counters == {"ListenOverflows": 1, "ListenDrops": 1}
    assert server.queues == (1, 1, 1)
    assert server.request(1).due == due
    server.listener.accept()
    assert server.receive(ack(1, 9)) is out.ESTABLISHED


@EVERY
def test_ack_accept_queue_full_abort_on_overflow_resets(profile: Profile) -> None:
    """RST, request gone, EmbryonicRsts but no AttemptFails."""
    server = half_open(profile, backlog=2, tcp_abort_on_overflow=1)
    server.connect(2)
    server.listener.listen(0)
    outcome = server.receive(ack(1, 1))
    assert outcome is out.ABORT_ON_OVERFLOW
    assert outcome.reply == "rst"
    assert outcome.counters == {"ListenOverflows": 1, "ListenDrops": 1, "EmbryonicRsts": 1, "OutRsts": 1}
    assert server.queues == (1, 0, 0)
    assert server.receive(ack(1, 2)) is out.RST_NO_REQUEST


@EVERY
@pytest.mark.parametrize("flags", [0, FIN, PSH, FIN | PSH])
def test_segment_without_ack_is_silently_ignored(profile: Profile, flags: int) -> None:
    server = half_open(profile)
    assert server.receive(segment(flags, 1, 1)) is out.NO_ACK
    assert out.NO_ACK.reply is None
    assert server.pending(1)


# ---- wrong acknowledgements ----


@EVERY
@pytest.mark.parametrize("flags", [ACK, ACK | PSH, ACK | FIN, SYN | ACK])
def test_wrong_ack_is_reset_and_the_request_stays(profile: Profile, flags: int) -> None:
    """The listener answers it; nothing but OutRsts."""
    server = half_open(profile)
    outcome = server.receive(segment(flags, 1, 1, ack=GOOD + 5))
    assert (outcome.decision, outcome.reply, outcome.counters) == ("rst", "rst", {"OutRsts": 1})
    assert server.pending(1)
    assert server.receive(ack(1, 2)) is out.ESTABLISHED


@EVERY
def test_wrong_ack_after_a_cookie_is_taken_for_one(profile: Profile) -> None:
    """While cookies were sent lately it is checked as one, and counts SyncookiesFailed."""
    server = half_open(profile)
    server.stack.settings.set("net.ipv4.tcp_syncookies", 2)
    server.receive(syn(2))
    outcome = server.receive(ack(1, 1, ack=GOOD + 5))
    assert outcome.counters == {"SyncookiesFailed": 1, "OutRsts": 1}
    assert server.pending(1)


# ---- the window ----


@pytest.mark.parametrize(
    ("seq", "end", "inside"),
    [
        (100, 100, True), (100, 5000, True), (99, 99, False), (90, 100, False), (90, 101, True),
        (199, 210, True), (200, 200, True), (200, 201, False), (201, 201, False),
    ],
)  # fmt: skip
def test_window_is_the_kernels(seq: int, end: int, inside: bool) -> None:
    """At the start; overlapping it; or empty at its very end. Here 100 bytes from 100."""
    assert in_window(seq, end, 100, 100) is inside
    wrap = 2**32 - 150  # the same across the wrap of sequence numbers
    assert in_window((seq + wrap) % 2**32, (end + wrap) % 2**32, (100 + wrap) % 2**32, 100) is inside


@EVERY
@pytest.mark.parametrize("seq", [NEXT - 2, NEXT + 70_000])
def test_ack_out_of_window_is_acknowledged_once_per_half_second(profile: Profile, seq: int) -> None:
    """An ACK, then TCPACKSkippedSynRecv."""
    server = half_open(profile)
    assert server.receive(ack(1, 1, seq=seq)) is out.WINDOW
    assert out.WINDOW.reply == "ack"
    assert server.receive(ack(1, 100, seq=seq)) is out.WINDOW_LIMITED
    assert server.receive(ack(1, 600, seq=seq)) is out.WINDOW
    assert server.pending(1)


@EVERY
def test_data_out_of_window_is_never_limited(profile: Profile) -> None:
    """And does not touch the stamp."""
    server = half_open(profile)
    old = NEXT - 50
    assert [server.receive(ack(1, at, data=10, seq=old)) for at in (1, 2, 3)] == [out.WINDOW] * 3
    assert server.receive(ack(1, 4, seq=old)) is out.WINDOW


@EVERY
def test_syn_ack_of_the_client_with_the_right_number_is_out_of_window(profile: Profile) -> None:
    """S|A with seq == rcv_isn: an ACK answers, the request stays."""
    server = half_open(profile)
    assert server.receive(segment(SYN | ACK, 1, 1, seq=isn(1) - 5)) is out.WINDOW
    assert server.pending(1)


@EVERY
@pytest.mark.parametrize("flags", [RST, RST | ACK])
@pytest.mark.parametrize("seq", [NEXT - 1, NEXT + 70_000])
def test_rst_out_of_window_is_ignored(profile: Profile, flags: int, seq: int) -> None:
    server = half_open(profile)
    outcome = server.receive(segment(flags, 1, 1, seq=seq))
    assert (outcome.decision, outcome.reply, outcome.counters) == ("ignored", None, {})
    assert server.pending(1)


@EVERY
def test_syn_out_of_window_is_acknowledged(profile: Profile) -> None:
    server = half_open(profile)
    assert server.receive(syn(1, 1, seq=isn(1) - 1000)) is out.WINDOW
    assert server.pending(1)


@EVERY
def test_syn_in_window_kills_the_request(profile: Profile) -> None:
    """RST, AttemptFails and EmbryonicRsts; no new request is made of it."""
    server = half_open(profile)
    outcome = server.receive(syn(1, 1, seq=NEXT + 10))
    assert outcome is out.ABORTED_SYN
    assert outcome.counters == {"AttemptFails": 1, "EmbryonicRsts": 1, "OutRsts": 1}
    assert server.queues == (0, 0, 0)


# ---- RST ----


@EVERY
@pytest.mark.parametrize("flags", [RST, RST | ACK])
def test_rst_exact_kills_the_request(profile: Profile, flags: int) -> None:
    """Never answered."""
    server = half_open(profile)
    outcome = server.receive(segment(flags, 1, 1))
    assert outcome is out.ABORTED_RST
    assert outcome.reply is None
    assert outcome.counters == {"AttemptFails": 1, "EmbryonicRsts": 1}
    assert server.queues == (0, 0, 0)


@pytest.mark.parametrize("profile", OLD, ids=modern_id)
def test_rst_in_window_kills_the_request_on_older_kernels(profile: Profile) -> None:
    """A blind reset that hits the window works."""
    assert half_open(profile).receive(segment(RST, 1, 1, seq=NEXT + 10)) is out.ABORTED_RST


@pytest.mark.parametrize("profile", NEW, ids=modern_id)
def test_rst_in_window_is_challenged_on_newer_kernels(profile: Profile) -> None:
    """6.12.105, 6.18.42 and 7.2: an ACK, limited like the others."""
    server = half_open(profile)
    assert server.receive(segment(RST, 1, 1, seq=NEXT + 10)) is out.CHALLENGE
    assert out.CHALLENGE.reply == "ack"
    assert server.receive(segment(RST, 1, 2, seq=NEXT + 10)) is out.CHALLENGE_LIMITED
    assert server.pending(1)


@pytest.mark.parametrize("profile", OLD, ids=modern_id)
@pytest.mark.parametrize("seq", [NEXT, NEXT + 10])
def test_rst_with_wrong_ack_is_ignored_on_older_kernels(profile: Profile, seq: int) -> None:
    server = half_open(profile)
    assert server.receive(segment(RST | ACK, 1, 1, seq=seq, ack=GOOD + 5)) is out.IGNORED_WRONG_ACK_RST
    assert server.pending(1)


@pytest.mark.parametrize("profile", NEW, ids=modern_id)
@pytest.mark.parametrize(("seq", "outcome"), [(NEXT, out.ABORTED_RST), (NEXT + 10, out.CHALLENGE)])
def test_rst_with_wrong_ack_is_judged_by_its_number_on_newer_kernels(
    profile: Profile, seq: int, outcome: Outcome
) -> None:
    assert half_open(profile).receive(segment(RST | ACK, 1, 1, seq=seq, ack=GOOD + 5)) is outcome


# ---- timestamps ----


def with_timestamps(profile: Profile) -> Server:
    """Client 1's SYN had TSval 5000, the SYN-ACK TSval 900."""
    server = Server(profile)
    assert server.receive(syn(1, tsval=5000, tsecr=0), tsval=900) is out.QUEUED
    return server


@EVERY
def test_ack_with_older_timestamp_is_acknowledged(profile: Profile) -> None:
    """PAWSEstab, limited ones too."""
    server = with_timestamps(profile)
    outcome = server.receive(ack(1, 1, tsval=4999, tsecr=900))
    assert outcome is out.PAWS
    assert (outcome.reply, outcome.counters) == ("ack", {"PAWSEstab": 1})
    limited = server.receive(ack(1, 2, tsval=4999, tsecr=900))
    assert (limited.reply, limited.counters) == (None, {"PAWSEstab": 1, "TCPACKSkippedSynRecv": 1})
    assert server.receive(ack(1, 3, tsval=5000, tsecr=900)) is out.ESTABLISHED


@EVERY
def test_duplicate_syn_with_older_timestamp_is_no_duplicate(profile: Profile) -> None:
    assert with_timestamps(profile).receive(syn(1, 1, tsval=4999, tsecr=0)) is out.PAWS


@EVERY
def test_rst_with_older_timestamp_is_ignored(profile: Profile) -> None:
    server = with_timestamps(profile)
    assert server.receive(segment(RST, 1, 1, tsval=4999, tsecr=900)) is out.PAWS_RST
    assert server.pending(1)


@EVERY
def test_timestamps_switched_off_are_not_compared(profile: Profile) -> None:
    """tcp_timestamps=0: the request remembers none."""
    server = Server(profile, tcp_timestamps=0)
    server.receive(syn(1, tsval=5000, tsecr=0))
    assert server.receive(ack(1, 1, tsval=4999, tsecr=0)) is out.ESTABLISHED


@EVERY
@pytest.mark.parametrize("tsecr", [899, 901])
def test_ack_echoing_a_timestamp_never_sent_is_refused_since_6_15(profile: Profile, tsecr: int) -> None:
    """6.18 and 7.2 send an ACK, older kernels do not look."""
    outcome = with_timestamps(profile).receive(ack(1, 1, tsval=5001, tsecr=tsecr))
    assert outcome is (out.TSECR if profile.checks_tsecr else out.ESTABLISHED)


@EVERY
@pytest.mark.parametrize("tsecr", [0, 900, 950, 1000])
def test_ack_echoing_any_timestamp_between_first_and_last_passes(profile: Profile, tsecr: int) -> None:
    """Two SYN-ACKs were sent, with 900 and 1000; an echo of 0 is none."""
    server = with_timestamps(profile)
    assert server.receive(syn(1, 100, tsval=5100, tsecr=0), tsval=1000) is out.RETRANSMITTED
    assert server.receive(ack(1, 200, tsval=5200, tsecr=tsecr)) is out.ESTABLISHED


@EVERY
def test_ignored_segment_moves_the_timestamp_on_older_kernels(profile: Profile) -> None:
    """Until 6.14 a later TSval of an ignored segment makes the ones before it too old."""
    server = with_timestamps(profile)
    server.listener.defer_accept = 5
    assert server.receive(ack(1, 1, tsval=6000, tsecr=900)) is out.DEFERRED
    outcome = server.receive(ack(1, 2, data=1, tsval=5500, tsecr=900))
    assert outcome is (out.PAWS if profile.request_takes_tsval else out.ESTABLISHED)


@EVERY
@pytest.mark.parametrize("end", [ACK, RST | ACK])
def test_synack_that_completes_leaves_the_child_in_syn_recv(profile: Profile, end: int) -> None:
    """It has the right numbers, so a child is made; the child then challenges the SYN in it."""
    server = Server(profile)
    server.receive(syn(1))
    made = server.receive(segment(SYN | ACK, 1, 10, seq=isn(1), length=5))
    assert made is out.ESTABLISHED
    assert (server.queues, server.listener.syn_length) == ((1, 0, 0), 1)
    server.receive(segment(end, 1, 20))
    assert server.listener.syn_length == 0
