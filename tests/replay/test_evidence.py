"""What the wire says of a packet, whatever the server is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backlogtrace.replay import evidence as ev
from backlogtrace.replay.route import Route
from backlogtrace.replay.track import Track
from backlogtrace.replay.trial import blank_summary
from backlogtrace.segment import ACK, PSH, RST, SYN
from tests.kernel.build import SERVER, client, segment, server_isn
from tests.replay.wire import at

if TYPE_CHECKING:
    from backlogtrace.segment import Segment

ISN = 1000


def inbound(frame: int, ms: float, flags: int, *, length: int = 0, seq: int = ISN + 1, c: int = 1) -> Segment:
    return segment(flags, c, ms, frame=frame, seq=ISN if flags & SYN else seq, length=length)


def outbound(
    frame: int, ms: float, flags: int, *, length: int = 0, ack: int = ISN + 1, c: int = 1
) -> Segment:
    seq = server_isn(c) + (not flags & SYN)
    made = segment(flags, c, ms, frame=frame, seq=seq, ack=ack, length=length)
    return made._replace(src=SERVER, dst=client(c))


def gather(*segments: Segment) -> ev.Evidence:
    route = Route()
    route.add(SERVER, Track("server", SERVER, None, blank_summary()))
    found = ev.Evidence()
    found.see(segments, route)
    found.finish()
    return found


OPENING = (inbound(1, 0, SYN), outbound(2, 0.1, SYN | ACK), inbound(3, 50, ACK))


def test_synack_reply_is_noted_on_the_syn() -> None:
    assert gather(*OPENING).of(1) & ev.REPLY == ev.SYNACK_REPLY


def test_syns_that_came_before_the_answer_to_an_earlier_one_are_no_refusals() -> None:
    found = gather(
        inbound(1, 0, SYN),
        inbound(2, 0.01, SYN, c=2),
        outbound(3, 0.02, SYN | ACK),
        outbound(4, 0.03, SYN | ACK, c=2),
        inbound(5, 400, SYN, c=3),
        outbound(6, 400.1, SYN | ACK, c=3),
    )
    assert not found.listening[SERVER].refused


def test_syn_without_reply_is_a_refusal() -> None:
    found = gather(inbound(1, 0, SYN), inbound(2, 10, SYN, c=2), outbound(3, 10.1, SYN | ACK, c=2))
    assert not found.of(1) & ev.REPLY
    assert list(found.listening[SERVER].refused) == [at(0)]


def test_repeated_synack_shows_that_the_ack_was_not_let_in() -> None:
    found = gather(*OPENING, outbound(4, 1020, SYN | ACK))
    assert found.of(3) & ev.REPEATED
    assert found.listening[SERVER].repeats == 1


def test_acknowledged_data_shows_that_the_ack_was_let_in() -> None:
    found = gather(*OPENING, inbound(4, 60, ACK | PSH, length=10), outbound(5, 60.1, ACK, ack=ISN + 11))
    assert found.of(3) & ev.USED
    assert found.of(4) & ev.ACK_REPLY
    assert found.taken_by(3) == at(60)
    assert found.taken_by(4) is None


def test_data_sent_again_shows_that_nothing_before_was_let_in() -> None:
    found = gather(*OPENING, *(inbound(n, ms, ACK | PSH, length=10) for n, ms in ((4, 60), (5, 270))))
    assert found.of(3) & ev.IGNORED
    assert found.of(4) & ev.IGNORED
    assert not found.of(5) & ev.IGNORED


def test_data_that_is_never_taken_was_refused_although_no_synack_is_repeated() -> None:
    """So it looks where tcp_synack_retries is 0."""
    sent = [inbound(n, ms, ACK | PSH, length=10) for n, ms in ((4, 60), (5, 270))]
    later = inbound(6, 9000, SYN, c=2), outbound(7, 9000.1, SYN | ACK, c=2)
    assert list(gather(*OPENING, *sent, *later).listening[SERVER].refused) == [at(50)]
    # what is sent again may be on its way, and what is taken in the end was only lost
    soon = [packet._replace(time_ns=packet.time_ns - at(9000) + at(900)) for packet in later]
    assert not gather(*OPENING, *sent, *soon).listening[SERVER].refused
    taken = outbound(6, 270.1, ACK, ack=ISN + 11)
    assert not gather(*OPENING, *sent, taken, *later).listening[SERVER].refused


def test_pure_ack_of_the_syn_proves_nothing() -> None:
    """Challenge ACKs of a request look like this."""
    assert not gather(*OPENING, outbound(4, 60, ACK)).of(3) & ev.USED


def test_client_reset_leaves_the_ack_open() -> None:
    assert gather(*OPENING, inbound(4, 60, RST | ACK)).of(3) & ev.GONE


def test_unasked_reset_proves_a_connection() -> None:
    assert gather(*OPENING, outbound(4, 5000, RST | ACK)).of(3) & ev.USED


def test_who_is_not_reset_when_the_listener_closes_was_not_in_its_queue() -> None:
    other = (inbound(4, 100, SYN, c=2), outbound(5, 100.1, SYN | ACK, c=2), inbound(6, 150, ACK, c=2))
    found = gather(*OPENING, *other, outbound(7, 9000, RST | ACK, c=2))
    assert found.of(3) & ev.IGNORED
    assert found.of(6) & ev.USED


def test_refused_syns_show_when_a_listener_was_closed_and_opened() -> None:
    refusal = outbound(4, 2000.1, RST | ACK, c=2)._replace(seq=0)
    found = gather(
        *OPENING[:2], inbound(3, 2000, SYN, c=2), refusal,
        inbound(5, 3000, SYN, c=3), outbound(6, 3000.1, SYN | ACK, c=3),
    )  # fmt: skip
    closed, opened = found.listening[SERVER].doors
    assert not closed.open
    assert closed.time_ns < at(2000)
    assert opened.open
    assert opened.time_ns < at(3000.1)


def test_stripped_options_are_a_cookie_and_kept_ones_are_not() -> None:
    syn = inbound(1, 0, SYN)._replace(sack_ok=True, wscale=7)
    bare = outbound(2, 0.1, SYN | ACK)
    assert gather(syn, bare).of(1) & ev.COOKIE_SIGN
    assert gather(syn, bare._replace(sack_ok=True, wscale=7)).of(1) & ev.REQUEST_SIGN


def test_a_timestamp_behind_the_clock_is_a_cookie() -> None:
    syn = inbound(1, 0, SYN)._replace(tsval=5)
    synack = outbound(2, 0.1, SYN | ACK)._replace(tsval=100_000)
    later = outbound(4, 1000.1, ACK)._replace(tsval=101_030)
    assert gather(syn, synack, later).of(1) & ev.COOKIE_SIGN
    current = gather(syn, synack, later._replace(tsval=101_000)).of(1)
    assert current & ev.CLOCK_SIGN  # a cookie may show the clock by chance
    assert not current & (ev.REQUEST_SIGN | ev.COOKIE_SIGN)


def test_packets_of_connections_from_before_are_marked() -> None:
    assert gather(inbound(1, 0, ACK | PSH, length=10)).of(1) & ev.FOREIGN
    assert not gather(*OPENING).of(3) & ev.FOREIGN


def test_synack_right_behind_an_ack_proves_nothing_against_it() -> None:
    """A timer sent it; it may have left before the ACK came."""
    crossed = gather(*OPENING[:2], inbound(3, 1020, ACK), outbound(4, 1020.2, SYN | ACK))
    assert not crossed.of(3) & (ev.REPEATED | ev.REPLY)
    assert crossed.of(4) & ev.CROSSED
    assert not crossed.listening[SERVER].refused
    later = gather(*OPENING[:2], inbound(3, 1020, ACK), outbound(4, 1022.2, SYN | ACK))
    assert later.of(3) & ev.REPEATED


def test_next_synack_shows_that_the_crossing_ack_was_not_let_in() -> None:
    opening = (*OPENING[:2], inbound(3, 1020, ACK), outbound(4, 1020.2, SYN | ACK))
    assert gather(*opening, outbound(5, 3030, SYN | ACK)).of(3) & ev.REPEATED


def test_first_synack_answers_the_syn_however_late() -> None:
    late = gather(inbound(1, 0, SYN), inbound(2, 500, SYN, c=2), outbound(3, 700, SYN | ACK))
    assert late.of(1) & ev.SYNACK_REPLY
    assert list(late.listening[SERVER].refused) == [at(500)]
    assert not gather(inbound(1, 0, SYN), outbound(2, 990, SYN | ACK)).of(1) & ev.SYNACK_REPLY


def test_reset_that_acknowledges_is_no_reply_to_an_ack() -> None:
    closed = gather(*OPENING, outbound(4, 60, RST | ACK))
    assert closed.of(3) & ev.USED
    assert not closed.of(3) & ev.REPLY
    assert gather(*OPENING, outbound(4, 60, RST)).of(3) & ev.RST_REPLY
