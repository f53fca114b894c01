"""Two rows side by side: words, the fields that differ, and rows that somebody made up."""

from __future__ import annotations

from typing import Any

import pytest

from backlogtrace.report.sidebyside import WIDTH, fact, side_by_side

SIDES = ("expected", "got")
OVERFLOW: dict[str, Any] = {
    "type": "packet", "frame": 15, "time_ns": 2_500_000_000, "listener": "10.9.0.1:80",
    "peer": "10.9.0.2:4004", "dir": "in", "flags": "A", "decision": "overflow",
    "reason": "accept_queue_full", "rule": "request.accept_queue_full", "function": "tcp_check_req",
    "reply": None, "counters": {"ListenOverflows": 1, "ListenDrops": 1}, "accept_queue": [4, 4],
    "syn_queue": [1, 1], "certainty": "certain", "resolved_by": 26, "rivals": [],
}  # fmt: skip
ESTABLISHED = OVERFLOW | {
    "decision": "established", "reason": "request_completed", "rule": "request.request_completed",
    "counters": {"PassiveOpens": 1, "ListenDrops": 1}, "accept_queue": [4, 5],
}  # fmt: skip


def test_both_decisions_in_words_and_only_the_fields_that_differ() -> None:
    assert side_by_side(OVERFLOW, ESTABLISHED, SIDES, 1_000_000_000) == [
        "frame 15 at 1.500000 s, 10.9.0.2:4004 to 10.9.0.1:80, flags A",
        "expected  overflow: accept queue full: ACK ignored, the client believes it is",
        "          connected",
        "got       established: handshake complete: connection is on the accept queue",
        "",
        "field                     expected                   got",
        "decision                  overflow                   established",
        "reason                    accept_queue_full          request_completed",
        "rule                      request.accept_queue_full  request.request_completed",
        "counters.ListenOverflows  1                          -",
        "accept_queue              4                          4-5",
        "counters.PassiveOpens     -                          1",
    ]


def test_what_both_say_is_said_once() -> None:
    lines = side_by_side(OVERFLOW, OVERFLOW | {"resolved_by": None}, SIDES, None)
    assert lines[0].startswith("frame 15 at 1970-01-01 00:00:02.500000 UTC, ")
    assert lines[1:3] == [
        "A",
        "both  overflow: accept queue full: ACK ignored, the client believes it is",
    ]
    assert lines[-1] == "resolved_by  26        null"


def test_a_row_that_is_not_there_has_no_fields() -> None:
    lines = side_by_side(None, OVERFLOW, SIDES, 0)
    assert "expected  no such row" in lines
    assert "" not in lines
    assert side_by_side(OVERFLOW, None, SIDES, 0)[-1] == "got       no such row"


@pytest.mark.parametrize(
    ("row", "place", "words"),
    [
        (
            OVERFLOW | {"dir": "out", "flags": "SA", "decision": "synack", "reason": "timer"},
            "10.9.0.1:80 to 10.9.0.2:4004, flags SA",
            "synack: SYN-ACK again: no acceptable ACK so far",
        ),
        (
            {"type": "event", "time_ns": 5, "listener": "l", "peer": None, "event": "closed"},
            "event at 0.000000 s, l",
            "listener closed",
        ),
        (
            {"type": "mismatch", "frame": None, "listener": "l", "what": "missing_reply", "detail": "so"},
            "mismatch, l",
            "the model answers, the capture shows no answer (so)",
        ),
        ({"type": "summary", "listener": "10.9.0.1:80"}, "summary, 10.9.0.1:80", "a row of type summary"),
        ({"type": "header"}, "header", "a row of type header"),
    ],
)
def test_every_type_of_row_is_told(row: dict[str, Any], place: str, words: str) -> None:
    lines = side_by_side(row, None, SIDES, 0)
    assert place in lines[0]
    assert lines[1] == f"expected  {words}"


ODD = [
    {},
    {"type": ["x"], "frame": {"a": 1}, "time_ns": True, "peer": 3, "listener": [], "flags": None},
    OVERFLOW | {"decision": {}, "reason": [], "counters": "none", "accept_queue": [1, "2"]},
    OVERFLOW | {"decision": "d\x1b[2J\u202e" * 50, "k" * 500: "v" * 5000, "time_ns": -(10**40)},
    {"type": "mismatch", "what": ["missing_reply"], "detail": {"a": "\n"}},
    {"type": "event", "event": None, "accept_queue": [True, 2]},
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("other", [OVERFLOW, {"type": "event", "event": "listen"}, *ODD])
def test_nothing_that_is_json_leaves_the_page(odd: dict[str, Any], other: dict[str, Any]) -> None:
    for expected, actual in ((odd, other), (other, odd), (odd, None)):
        lines = side_by_side(expected, actual, SIDES, 0)
        assert all(len(line) <= WIDTH and line.isprintable() for line in lines)


def test_facts_of_the_truth_layout() -> None:
    assert fact(7, "syn_queue", (1, [2, 3]), ("kernel", "model")) == [
        "frame 7",
        "",
        "field      kernel  model",
        "syn_queue  1       2-3",
    ]
    (line,) = fact(7, "missing_packet", (None, "SYN-ACK"), ("kernel", "model"))
    assert line == "frame 7: the model sends a packet that the capture does not show: SYN-ACK"
