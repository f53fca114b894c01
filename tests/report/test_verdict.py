"""The verdict: which facts make which sentence, and what must not be said."""

from __future__ import annotations

from typing import Any

import pytest

from backlogtrace.replay.rows import ClientImpact, Span
from backlogtrace.report.verdict import Verdict, verdict

START = 1_000_000_000_000
SECOND = 1_000_000_000

ACCEPT_SYN = ("dropped", "accept_queue_full")
ACCEPT_ACK = ("overflow", "accept_queue_full")
ACCEPT_COOKIE = ("overflow", "cookie_accept_queue_full")
RESET = ("rst", "abort_on_overflow")


def judge(summary: Any) -> Verdict:
    return verdict(summary, {}, START)


def text(found: Verdict) -> str:
    return " ".join([found.headline, *found.story, *found.advice])


def with_reasons(build: Any, reasons: dict[tuple[str, str], int], **changes: Any) -> Any:
    decisions: dict[str, int] = {}
    for (decision, _), number in reasons.items():
        decisions[decision] = decisions.get(decision, 0) + number
    return build.summary(reasons=reasons, decisions=decisions, **{"accepted": 5} | changes)


def test_nothing_wrong_blames_nothing(build: Any) -> None:
    reasons = {("queued", "new_request"): 6, ("established", "request_completed"): 6}
    found = judge(with_reasons(build, reasons, peak_accept_queue=(3, 3), peak_syn_queue=(2, 2)))
    assert found.level == "good"
    assert found.headline.startswith(
        "No problem at the listen socket. 6 connection attempts: nothing was refused"
    )
    assert "at most 3 of 4 waited in the accept queue and 2 of 4" in found.headline
    assert found.story == found.advice == []


def test_a_full_queue_that_refused_nothing_is_no_problem(build: Any) -> None:
    found = judge(with_reasons(build, {("queued", "new_request"): 6}, peak_accept_queue=(4, 4)))
    assert found.level == "good"
    assert "raise" not in text(found)


def test_no_packets(build: Any) -> None:
    assert judge(build.summary()).headline == "No packet of a handshake reached this listener."


def test_accept_queue_full_names_limit_time_and_remedy(build: Any) -> None:
    summary = with_reasons(build, {ACCEPT_SYN: 3, ACCEPT_ACK: 2})
    spans = {
        ACCEPT_SYN: Span(3, START + 2 * SECOND, START + 9 * SECOND),
        ACCEPT_ACK: Span(2, START + SECOND, START + 3 * SECOND),
    }
    found = verdict(summary, spans, START)
    assert found.level == "bad"
    assert found.headline == "The accept queue was full: 5 packets refused."
    assert (
        "4 established connections fit in the accept queue (backlog 3 (host file); one more" in found.story[0]
    )
    assert "Between 1.000000 s and 9.000000 s it was full" in found.story[0]
    assert "3 SYNs were dropped" in found.story[0]
    assert "2 segments that would have completed a handshake were ignored" in found.story[0]
    assert found.advice[0].startswith("raise the backlog passed to listen() (it is 3)")
    assert found.advice[1].startswith("accept() faster")


def test_somaxconn_is_named_when_it_clamps(build: Any) -> None:
    summary = with_reasons(
        build, {ACCEPT_SYN: 1}, backlog=1024, effective_backlog=128, somaxconn=128, accept_capacity=129
    )
    found = judge(summary)
    assert "backlog 1,024 (host file) becomes 128 by net.core.somaxconn" in found.story[0]
    assert found.advice[0].startswith("raise net.core.somaxconn (it is 128 and cuts the backlog 1,024)")


def test_sixteen_bits_are_named_when_they_cut(build: Any) -> None:
    summary = with_reasons(
        build, {ACCEPT_SYN: 1}, backlog=262_144, effective_backlog=0, somaxconn=262_144, accept_capacity=1
    )
    found = judge(summary)
    assert "this kernel keeps only 16 bits" in found.story[0]
    assert "below 65,536" in found.advice[0]


def test_an_unknown_backlog_is_asked_for_not_blamed(build: Any) -> None:
    found = judge(with_reasons(build, {ACCEPT_SYN: 1}, backlog=None, backlog_source="assumed"))
    assert "backlog unknown, taken as 3 (assumed)" in found.story[0]
    assert found.advice[0].startswith("tell the real backlog with --backlog N")


def test_no_accept_call_means_the_application(build: Any) -> None:
    found = judge(with_reasons(build, {ACCEPT_SYN: 1}, accepted=0))
    assert "No accept() call is known" in text(found)
    assert "find out why the application does not call accept()" in text(found)


def test_the_silent_cookie_overflow_is_said_to_be_silent(build: Any) -> None:
    found = judge(with_reasons(build, {("cookie", "syn_queue_full"): 1, ACCEPT_COOKIE: 4}))
    assert "4 valid cookies were ignored in silence" in text(found)
    assert "nothing on the wire shows it" in text(found)
    assert "the client believes it is connected" in text(found)


def test_abort_on_overflow_is_blamed_for_its_resets(build: Any) -> None:
    found = judge(with_reasons(build, {RESET: 2}))
    assert "2 clients were reset because tcp_abort_on_overflow is 1" in text(found)
    assert any("tcp_abort_on_overflow=0" in advice for advice in found.advice)


def test_cookies_of_real_clients_are_a_notice(build: Any) -> None:
    found = judge(
        with_reasons(build, {("cookie", "syn_queue_full"): 40, ("established", "cookie_valid"): 38})
    )
    assert found.level == "notice"
    assert "38 of 40 cookies came back" in text(found)
    assert "flood" not in text(found)
    assert "raise the backlog passed to listen() (it is 3)" in text(found)


def test_cookies_that_never_come_back_are_a_flood(build: Any) -> None:
    found = judge(
        with_reasons(build, {("cookie", "syn_queue_full"): 1000, ("established", "cookie_valid"): 3})
    )
    assert found.level == "notice"
    assert "Only 3 of 1,000 cookies came back" in text(found)
    assert "SYN flood" in text(found)
    assert "raise the backlog" not in text(found)


def test_a_handful_of_lost_cookies_is_no_flood(build: Any) -> None:
    assert "flood" not in text(judge(with_reasons(build, {("cookie", "syn_queue_full"): 5})))


def test_cookies_always_blame_no_queue(build: Any) -> None:
    found = judge(with_reasons(build, {("cookie", "syncookies_always"): 5}))
    assert found.level == "good"
    assert "because net.ipv4.tcp_syncookies is 2, not because of a full queue" in text(found)


def test_syn_queue_full_without_cookies(build: Any) -> None:
    found = judge(
        with_reasons(build, {("dropped", "syn_queue_full"): 7}, sysctl={"net.ipv4.tcp_syncookies": 0})
    )
    assert found.level == "bad"
    assert found.headline == "The SYN queue was full: 7 SYNs dropped."
    assert found.advice[0].startswith("set net.ipv4.tcp_syncookies=1")


def test_the_reserved_quarter(build: Any) -> None:
    found = judge(
        with_reasons(
            build, {("dropped", "syn_queue_reserved"): 1}, sysctl={"net.ipv4.tcp_max_syn_backlog": 128}
        )
    )
    assert "last quarter of net.ipv4.tcp_max_syn_backlog (128) is kept" in text(found)
    assert "1 SYN of others was dropped" in text(found)


def test_clients_that_never_answer_are_not_the_queues_fault(build: Any) -> None:
    found = judge(with_reasons(build, {("queued", "new_request"): 2}, expired=2))
    assert found.level == "notice"
    assert "2 requests were given up" in text(found)
    assert "the queues' limits are not the cause" in text(found)
    assert "backlog" not in text(found)


def test_expired_after_an_overflow_may_be_its_victims(build: Any) -> None:
    found = judge(with_reasons(build, {ACCEPT_ACK: 2}, expired=2))
    assert "whose ACK was ignored above" in text(found)
    assert "not the cause" not in text(found)


@pytest.mark.parametrize("reason", ["no_request", "cookie_invalid", "cookie_expired", "no_listener"])
def test_resets_that_have_nothing_to_do_with_queues(build: Any, reason: str) -> None:
    found = judge(with_reasons(build, {("rst", reason): 3}))
    assert found.level == "notice"
    assert "not because of a queue" in found.headline
    assert "3 packets were answered with a RST" in text(found)
    assert "raise" not in text(found)


def test_defer_accept_is_by_design(build: Any) -> None:
    found = judge(with_reasons(build, {("deferred", "defer_accept"): 1}))
    assert found.level == "good"
    assert "1 bare ACK was ignored because of TCP_DEFER_ACCEPT: by design" in text(found)


def test_mismatches_come_first_and_stay_the_headline(build: Any) -> None:
    found = judge(with_reasons(build, {ACCEPT_SYN: 1}, mismatches=2, kernel_note="4.9 stands in for 4.8"))
    assert found.headline.startswith("Model and capture differ 2 times")
    assert "4.9 stands in for 4.8" in text(found)
    assert found.advice[0].startswith("give the server's own values")


def test_a_capture_that_lost_packets_is_the_likely_reason_for_differences(build: Any) -> None:
    found = judge(with_reasons(build, {("queued", "new_request"): 6}, mismatches=2, lost="3 SYN-ACKs"))
    assert found.level == "notice"
    assert found.headline == "Model and capture differ 2 times: the capture has lost packets."
    assert "3 SYN-ACKs" in text(found)
    assert "--backlog" not in text(found)


def test_a_syn_without_an_answer_blames_no_queue_that_had_room(build: Any) -> None:
    found = judge(with_reasons(build, {("queued", "new_request"): 6, ("dropped", "unanswered"): 1}))
    assert found.level == "notice"
    assert found.headline == "1 SYN got no answer although the queues had room."
    assert "raise" not in text(found)


def test_other_drops_are_named_with_their_reason(build: Any) -> None:
    found = judge(with_reasons(build, {("dropped", "bad_flags"): 2, ("rst", "wrong_ack"): 1}))
    assert "2 bad flags (dropped) and 1 wrong ACK (rst)" in text(found)


def test_the_cost_is_told_by_fate(build: Any) -> None:
    impacts = [
        ClientImpact("10.0.0.1:1", START, {"dropped": 1}, "connected", SECOND),
        ClientImpact("10.0.0.1:2", START, {"dropped": 2}, "connected", 3 * SECOND),
        ClientImpact("10.0.0.1:3", START, {"overflow": 6}, "never", 63 * SECOND),
    ]
    found = judge(with_reasons(build, {ACCEPT_SYN: 9}, impacts=impacts, impacts_hidden=2, clients=20))
    assert (
        "5 connection attempts of 20 were hit: 2 connected late and 1 never connected (of the first 3)"
        in text(found)
    )
    assert "waited 2 s on average, 3 s at most" in text(found)


@pytest.mark.parametrize("sockets", [1, 2])
def test_sockets_that_share_a_port_are_named(build: Any, sockets: int) -> None:
    found = judge(with_reasons(build, {("queued", "new_request"): 6}, sockets=sockets))
    assert found.level == "good"
    assert ("2 sockets have this address and port" in text(found)) is (sockets > 1)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"seen_cookies": 3}, "At least 3 SYN-ACKs of the capture were SYN cookies"),
        ({"seen_cookies": 2}, ""),
        ({"seen_requests": 7}, "At least 7 SYN-ACKs of the capture were no SYN cookies"),
        ({"seen_requests": 6}, ""),
    ],
)
def test_wire_that_shows_more_of_a_kind_than_the_model_made(
    build: Any, seen: dict[str, int], said: str
) -> None:
    reasons = {("queued", "new_request"): 6, ("cookie", "syn_queue_full"): 2}
    found = judge(with_reasons(build, reasons, **seen))
    assert ("of the capture" in text(found)) is bool(said)
    assert said in text(found)


def test_tw_recycle_is_named_with_its_cause(build: Any) -> None:
    found = judge(with_reasons(build, {("dropped", "tw_recycle_paws"): 2}))
    assert found.level == "bad"
    assert "2 SYNs dropped" in found.headline
    assert "behind one NAT" in text(found)
    assert "net.ipv4.tcp_tw_recycle=0" in text(found)


def test_what_is_undecided_names_the_rivals_and_what_would_settle_it(build: Any) -> None:
    summary = with_reasons(build, {ACCEPT_SYN: 3})
    found = verdict(summary, {}, START, {("firewall", "lost_after_capture"): 2, ("established",): 1})
    assert found.level == "bad"
    told = "3 decisions are the likeliest of several that the capture leaves open; also possible: firewall,"
    assert any(line.startswith(told) for line in found.story)
    ways = [line for line in found.advice if line.startswith("to settle")]
    assert [word in way for word, way in zip(("packet filter", "on the server", "nstat"), ways, strict=True)]
    assert len(ways) == 3
    assert "to settle" not in text(verdict(summary, {}, START))
