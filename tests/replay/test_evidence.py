"""What the wire says of a packet, whatever the server is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backlogtrace.replay import bits
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
    assert gather(*OPENING).of(1) & bits.REPLY == bits.SYNACK_REPLY


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
    assert not found.of(1) & bits.REPLY
    assert list(found.listening[SERVER].refused) == [at(0)]


def test_repeated_synack_shows_that_the_ack_was_not_let_in() -> None:
    found = gather(*OPENING, outbound(4, 1020, SYN | ACK))
    assert found.of(3) & bits.REPEATED
    assert found.listening[SERVER].repeats == 1


def test_acknowledged_data_shows_that_the_ack_was_let_in() -> None:
    found = gather(*OPENING, inbound(4, 60, ACK | PSH, length=10), outbound(5, 60.1, ACK, ack=ISN + 11))
    assert found.of(3) & bits.USED
    assert found.of(4) & bits.ACK_REPLY
    assert found.taken_by(3) == at(60)
    assert found.taken_by(4) is None


def test_data_sent_again_shows_that_nothing_before_was_let_in() -> None:
    found = gather(*OPENING, *(inbound(n, ms, ACK | PSH, length=10) for n, ms in ((4, 60), (5, 270))))
    assert found.of(3) & bits.IGNORED
    assert found.of(4) & bits.IGNORED
    assert not found.of(5) & bits.IGNORED


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
    assert not gather(*OPENING, outbound(4, 60, ACK)).of(3) & bits.USED


def test_client_reset_leaves_the_ack_open() -> None:
    assert gather(*OPENING, inbound(4, 60, RST | ACK)).of(3) & bits.GONE


def test_unasked_reset_proves_a_connection() -> None:
    assert gather(*OPENING, outbound(4, 5000, RST | ACK)).of(3) & bits.USED


OTHER = (inbound(4, 100, SYN, c=2), outbound(5, 100.1, SYN | ACK, c=2), inbound(6, 150, ACK, c=2))


def test_who_is_not_reset_when_the_listener_closes_but_an_older_one_is_was_not_in_its_queue() -> None:
    found = gather(*OPENING, *OTHER, outbound(7, 9000, RST | ACK))
    assert found.of(3) & bits.WAITED
    assert found.of(6) & bits.NOT_RESET
    assert not found.listening[SERVER].refused  # one RST may have been lost


def test_an_older_connection_that_is_not_reset_may_have_been_accepted() -> None:
    found = gather(*OPENING, *OTHER, outbound(7, 9000, RST | ACK, c=2))
    assert not found.of(3) & bits.NOT_RESET
    assert found.of(6) & bits.USED


def test_several_that_are_not_reset_were_refused() -> None:
    third = (inbound(7, 200, SYN, c=3), outbound(8, 200.1, SYN | ACK, c=3), inbound(9, 250, ACK, c=3))
    found = gather(*OPENING, *OTHER, *third, outbound(10, 9000, RST | ACK))
    assert list(found.listening[SERVER].refused) == [at(150), at(250)]


def test_a_reset_for_a_later_ack_shows_that_the_first_one_was_refused() -> None:
    reset = outbound(5, 5000.1, RST)
    found = gather(*OPENING, inbound(4, 5000, ACK), reset)
    assert found.of(4) & bits.RST_REPLY
    assert found.of(3) & bits.IGNORED


def test_a_synack_that_answers_nothing_shows_that_a_syn_was_lost() -> None:
    found = gather(*OPENING[1:])
    assert found.of(2) & bits.UNSEEN_SYN
    assert found.lost_packets() == "1 SYN"


def test_a_synack_for_another_sequence_number_answers_a_syn_that_was_lost() -> None:
    found = gather(*OPENING, outbound(4, 9000, SYN | ACK, ack=ISN + 70_001))
    assert found.of(4) & bits.UNSEEN_SYN


def test_a_connection_in_use_without_an_ack_shows_that_it_was_lost() -> None:
    found = gather(*OPENING[:2], outbound(4, 60, ACK | PSH, length=10))
    assert found.of(2) & bits.UNSEEN_ACK
    assert found.lost_packets() == "1 ACK"


def test_a_connection_reset_without_an_ack_shows_that_it_was_lost() -> None:
    assert gather(*OPENING[:2], outbound(4, 9000, RST | ACK)).of(2) & bits.UNSEEN_ACK
    assert not gather(*OPENING[:2], outbound(4, 9000, RST)).of(2) & bits.UNSEEN_ACK  # answers something


def test_data_that_the_server_takes_shows_that_its_synack_was_lost() -> None:
    data = inbound(3, 60, ACK | PSH, length=10)
    found = gather(OPENING[0], data, outbound(4, 60.1, ACK, ack=ISN + 11))
    assert found.lost == {1}
    assert not found.unsure
    assert not found.listening[SERVER].refused
    challenged = gather(OPENING[0], data, outbound(4, 60.1, ACK, ack=ISN - 500))
    assert not challenged.lost
    assert list(challenged.listening[SERVER].refused) == [at(0)]


def test_a_reset_that_comes_late_answers_a_packet_that_was_lost() -> None:
    near = (*opening(8), inbound(90, 1000, SYN), outbound(91, 1000.1, SYN | ACK), inbound(92, 1005, ACK))
    data = inbound(93, 1010, ACK | PSH, length=10)
    soon, late = (outbound(94, ms, RST, ack=0) for ms in (1010.1, 1210))
    assert gather(*near, data, soon).of(93) & bits.RST_REPLY
    found = gather(*near, data, late)
    assert not found.of(93) & bits.REPLY
    assert found.of(92) & found.of(93) & bits.IGNORED  # the server knows no connection
    assert found.lost_packets() == "1 later packet"


def test_the_ack_of_a_connection_that_follows_another_one_shows_that_its_synack_was_lost() -> None:
    again = inbound(6, 5000, SYN)._replace(seq=ISN + 9_000)
    ack = inbound(7, 5005, ACK, seq=ISN + 9_001)
    old = (*OPENING, inbound(4, 60, ACK | PSH, length=10), outbound(5, 60.1, ACK, ack=ISN + 11))
    end = inbound(8, 6000, SYN, c=5)
    assert gather(*old, again, ack, end).lost == {6}
    assert not gather(*old, again, end).lost


def test_the_first_synack_captured_may_be_a_timers_and_the_one_before_it_lost() -> None:
    found = gather(OPENING[0], outbound(2, 1010, SYN | ACK))
    assert found.of(1) & bits.SYNACK_REPLY
    assert found.lost == found.unsure == {1}
    assert not found.listening[SERVER].refused


def test_where_no_timer_is_due_another_syn_was_lost() -> None:
    found = gather(OPENING[0], outbound(2, 2000, SYN | ACK))
    assert found.of(2) & bits.UNSEEN_SYN
    assert list(found.listening[SERVER].refused) == [at(0)]


def test_a_request_is_there_until_its_last_synack() -> None:
    found = gather(*OPENING[:2], outbound(3, 3000, SYN | ACK), outbound(4, 7000, SYN | ACK))
    assert [bool(found.of(frame) & bits.GOES_ON) for frame in (2, 3, 4)] == [True, True, False]
    assert found.of(1) & bits.REQUEST_SIGN


def test_a_request_is_there_until_a_syn_within_the_window_ends_it() -> None:
    again = inbound(3, 5000, SYN)._replace(seq=ISN + 1)
    reset = outbound(4, 5000.1, RST | ACK, ack=ISN + 2)._replace(seq=0)
    assert gather(*OPENING[:2], again, reset).of(2) & bits.GOES_ON


def test_an_ack_that_comes_again_may_answer_a_synack_that_was_lost() -> None:
    found = gather(*OPENING, inbound(4, 1060, ACK))
    assert found.of(3) & bits.ACKED_AGAIN
    assert not found.of(4) & bits.ACKED_AGAIN


def test_an_ack_that_comes_again_when_a_timer_is_due_shows_a_synack_that_was_lost() -> None:
    again = inbound(5, 3060, ACK)
    repeated = (*OPENING, outbound(4, 1000.1, SYN | ACK), inbound(8, 1050, ACK))
    found = gather(*repeated, again)
    assert found.acked_again(8) == again
    assert found.lost_packets() == "1 SYN-ACK"
    by_itself = inbound(5, 2300, ACK)
    assert gather(*repeated, by_itself).acked_again(8) is None
    late = gather(*OPENING[:2], outbound(3, 1000.1, SYN | ACK), inbound(4, 2000, ACK), inbound(5, 3060, ACK))
    assert late.acked_again(4) is None  # each answers one that was captured


def test_data_that_the_clients_ack_leaves_behind_was_taken_with_a_lost_synack() -> None:
    syn = inbound(1, 0, SYN, length=300)
    end = inbound(9, 9000, SYN, c=5)
    assert gather(syn, inbound(2, 50, ACK, seq=ISN + 301), end).of(1) & bits.FASTOPEN_SIGN
    assert not gather(syn, inbound(2, 50, ACK), end).of(1) & bits.FASTOPEN_SIGN


def test_a_client_that_acknowledges_with_its_first_packet_a_reset_was_connected() -> None:
    connected, half_open = inbound(3, 200, RST | ACK), inbound(3, 200, RST)
    assert gather(*OPENING[:2], connected).connected == {3}
    assert not gather(*OPENING[:2], half_open).connected
    assert not gather(*OPENING, connected._replace(frame=4)).connected


def test_a_connection_whose_ack_may_be_lost_may_have_been_in_the_queue_before() -> None:
    data = inbound(99, 99, ACK | PSH, length=5, c=9)
    found = gather(*CROWD, *opening(9)[:2], data)
    assert [found.perhaps_in(SERVER, at(ms)) for ms in (90, 95, 99)] == [0, 1, 0]


def test_a_lost_ack_came_when_it_would_have_come_and_before_the_connection_was_used() -> None:
    synack = outbound(91, 90.1, SYN | ACK, c=9)
    soon, late = (outbound(92, ms, ACK | PSH, length=10, c=9) for ms in (92, 500))
    start = (*CROWD, inbound(90, 90, SYN, c=9), synack)
    assert gather(*start, late).unseen_ack_ns(synack) == at(95)
    assert gather(*start, soon).unseen_ack_ns(synack) == at(92) - 1
    assert gather(*start).unseen_ack_ns(synack) is None


def test_a_few_lost_packets_are_no_lasting_trouble() -> None:
    syns = [inbound(n, n, SYN, c=n) for n in range(1, 8)]
    answers = [outbound(10 + n, n + 0.5, SYN | ACK, c=n) for n in (1, 4, 7)]
    mixed = sorted([*syns, *answers], key=lambda packet: packet.time_ns)
    assert gather(*mixed).lasting_ns() is None
    assert gather(*(one for one in mixed if one.frame != 14)).lasting_ns() == at(2)


def opening(c: int, *, late_ms: float = 5) -> tuple[Segment, ...]:
    first = 10 * c
    return (
        inbound(first, first, SYN, c=c),
        outbound(first + 1, first + 0.1, SYN | ACK, c=c),
        inbound(first + 2, first + late_ms, ACK, c=c),
    )


CROWD = tuple(packet for c in range(1, 5) for packet in opening(c))


def test_data_without_an_ack_before_it_is_suspicious_where_most_clients_send_one() -> None:
    data = inbound(99, 99, ACK | PSH, length=5, c=9)
    assert gather(*CROWD, *opening(9)[:2], data).ack_missing(data)
    assert gather(*opening(1), *opening(9)[:2], data).ack_missing(data)
    assert not gather(*opening(9)[:2], data).ack_missing(data)


def test_data_is_compared_with_acks_however_late_those_are() -> None:
    late = [packet for c in range(1, 9) for packet in opening(c, late_ms=700 + c)]
    data = inbound(99, 99, ACK | PSH, length=5, c=9)
    found = gather(*sorted([*late, *opening(9)[:2], data], key=lambda packet: packet.time_ns))
    assert found.ack_missing(data)
    assert not found.ack_missing(late[-1])


def test_an_ack_long_after_a_synack_that_was_sent_again_may_be_the_second_in_a_capture_that_loses() -> None:
    again = (*OPENING[:2], outbound(3, 1020, SYN | ACK), inbound(4, 3000, ACK))
    assert not gather(*again).ack_missing(again[-1])
    assert gather(outbound(9, 0, SYN | ACK, c=7), *again).ack_missing(again[-1])


def test_acknowledged_data_that_was_not_captured_was_lost() -> None:
    found = gather(*OPENING, outbound(4, 60, ACK, ack=ISN + 11))
    assert found.lost_packets() == "1 later packet"
    assert found.loses


def test_a_reset_that_acknowledges_lost_data_is_no_close_of_the_listener() -> None:
    end = inbound(9, 9000, ACK, c=3)
    unread = gather(*OPENING, outbound(4, 5000, RST | ACK, ack=ISN + 11), end)
    assert not unread.listening[SERVER].doors
    assert unread.lost_packets() == "1 later packet"
    waited = gather(*OPENING, outbound(4, 5000, RST | ACK), end)
    assert [door.open for door in waited.listening[SERVER].doors] == [False]


def test_an_old_sequence_number_shows_no_loss() -> None:
    old = inbound(5, 70, ACK, seq=ISN - 70_000)
    sent = inbound(4, 60, ACK | PSH, length=10)
    assert not gather(*OPENING, sent, old, outbound(6, 70.1, ACK, ack=ISN + 11)).loses


def test_a_single_syn_without_an_answer_may_have_got_one() -> None:
    answered = (inbound(3, 1000, SYN, c=3), outbound(4, 1000.1, SYN | ACK, c=3))
    assert gather(inbound(1, 0, SYN, c=2), *answered).unsure == {1}
    again = inbound(2, 900, SYN, c=2)
    assert not gather(inbound(1, 0, SYN, c=2), again, *answered).unsure


def test_the_last_of_several_syns_may_have_got_an_answer_in_a_capture_that_loses() -> None:
    refused = (inbound(1, 0, SYN, c=2), inbound(2, 1000, SYN, c=2), inbound(3, 5000, SYN, c=2))
    assert not gather(*refused).unsure
    assert gather(outbound(9, 0, SYN | ACK, c=7), *refused).unsure == {3}


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
    assert gather(syn, bare).of(1) & bits.COOKIE_SIGN
    assert gather(syn, bare._replace(sack_ok=True, wscale=7)).of(1) & bits.REQUEST_SIGN


def test_a_timestamp_behind_the_clock_is_a_cookie() -> None:
    syn = inbound(1, 0, SYN)._replace(tsval=5)
    synack = outbound(2, 0.1, SYN | ACK)._replace(tsval=100_000)
    later = outbound(4, 1000.1, ACK)._replace(tsval=101_030)
    assert gather(syn, synack, later).of(1) & bits.COOKIE_SIGN
    current = gather(syn, synack, later._replace(tsval=101_000)).of(1)
    assert current & bits.CLOCK_SIGN  # a cookie may show the clock by chance
    assert not current & (bits.REQUEST_SIGN | bits.COOKIE_SIGN)


def test_packets_of_connections_from_before_are_marked() -> None:
    assert gather(inbound(1, 0, ACK | PSH, length=10)).of(1) & bits.FOREIGN
    assert not gather(*OPENING).of(3) & bits.FOREIGN


def test_synack_right_behind_an_ack_proves_nothing_against_it() -> None:
    """A timer sent it; it may have left before the ACK came."""
    crossed = gather(*OPENING[:2], inbound(3, 1020, ACK), outbound(4, 1020.2, SYN | ACK))
    assert not crossed.of(3) & (bits.REPEATED | bits.REPLY)
    assert crossed.of(4) & bits.CROSSED
    assert not crossed.listening[SERVER].refused
    later = gather(*OPENING[:2], inbound(3, 1020, ACK), outbound(4, 1022.2, SYN | ACK))
    assert later.of(3) & bits.REPEATED


def test_next_synack_shows_that_the_crossing_ack_was_not_let_in() -> None:
    opening = (*OPENING[:2], inbound(3, 1020, ACK), outbound(4, 1020.2, SYN | ACK))
    assert gather(*opening, outbound(5, 3030, SYN | ACK)).of(3) & bits.REPEATED


def test_first_synack_answers_the_syn_however_late() -> None:
    late = gather(inbound(1, 0, SYN), inbound(2, 500, SYN, c=2), outbound(3, 700, SYN | ACK))
    assert late.of(1) & bits.SYNACK_REPLY
    assert list(late.listening[SERVER].refused) == [at(500)]
    assert not gather(inbound(1, 0, SYN), outbound(2, 990, SYN | ACK)).of(1) & bits.SYNACK_REPLY


def test_reset_that_acknowledges_is_no_reply_to_an_ack() -> None:
    closed = gather(*OPENING, outbound(4, 60, RST | ACK))
    assert closed.of(3) & bits.USED
    assert not closed.of(3) & bits.REPLY
    assert gather(*OPENING, outbound(4, 60, RST)).of(3) & bits.RST_REPLY
