"""JSON Lines: the contract, key by key, and valid against the published schema."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backlogtrace.kernel import outcomes
from backlogtrace.replay.rows import EventRow, MismatchRow, OutRow, PacketRow
from backlogtrace.report.jsonl import RowLines, header_line, write_jsonl
from backlogtrace.report.schema import SCHEMAS
from backlogtrace.segment import Segment, endpoint_text, flag_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from backlogtrace.replay.rows import Row

VALIDATOR = jsonschema.Draft202012Validator(SCHEMAS["jsonl"])


def printed(analysis: Any) -> list[str]:
    out = io.StringIO()
    write_jsonl(analysis, out)
    return out.getvalue().splitlines()


def test_every_line_is_valid_against_the_schema(analysis: Any) -> None:
    lines = printed(analysis)
    assert len(lines) == 1 + 8 + 1
    for line in lines:
        VALIDATOR.validate(json.loads(line))


def test_header_first_summaries_last(analysis: Any) -> None:
    types = [json.loads(line)["type"] for line in printed(analysis)]
    assert types == ["header", *["packet"] * 6, "event", "mismatch", "summary"]


def test_keys_in_the_order_of_the_contract(analysis: Any) -> None:
    rows = [json.loads(line) for line in printed(analysis)]
    assert list(rows[0]) == [
        "type", "schema_version", "capture", "packets", "handshake_packets", "kernel", "mode", "assumed",
        "quality",
    ]  # fmt: skip
    assert list(rows[4]) == [
        "type", "frame", "time_ns", "listener", "peer", "dir", "flags", "decision", "reason", "rule",
        "function",
        "reply", "counters", "accept_queue", "syn_queue", "certainty", "resolved_by", "rivals",
    ]  # fmt: skip
    assert list(rows[2]) == [
        "type", "frame", "time_ns", "listener", "peer", "dir", "flags", "decision", "reason", "cause",
        "attempt",
        "expected",
    ]  # fmt: skip
    assert list(rows[6]) == [*rows[2], "counters"]
    assert list(rows[7]) == [
        "type", "time_ns", "listener", "peer", "event", "accept_queue", "syn_queue", "counters", "detail",
    ]  # fmt: skip
    assert list(rows[8]) == ["type", "frame", "time_ns", "listener", "peer", "what", "detail"]
    assert list(rows[9]) == [
        "type", "listener", "kernel", "backlog", "decisions", "counters", "peak_accept_queue",
        "peak_syn_queue",
        "mismatches",
    ]  # fmt: skip


def test_an_overflow_reads_as_in_the_contract(analysis: Any) -> None:
    assert json.loads(printed(analysis)[4]) == {
        "type": "packet", "frame": 15, "time_ns": 1795322240057000000, "listener": "10.9.0.1:80",
        "peer": "10.9.0.2:4004", "dir": "in", "flags": "A", "decision": "overflow",
        "reason": "accept_queue_full",
        "rule": "request.accept_queue_full", "function": "tcp_check_req", "reply": None,
        "counters": {"ListenOverflows": 1, "ListenDrops": 1}, "accept_queue": [4, 4], "syn_queue": [1, 1],
        "certainty": "certain", "resolved_by": 26, "rivals": [],
    }  # fmt: skip


def test_peer_of_a_sent_packet_is_the_client(analysis: Any) -> None:
    assert json.loads(printed(analysis)[2])["peer"] == "10.9.0.9:4004"


def test_header_names_trouble_only_when_there_is_some(build: Any) -> None:
    plain = json.loads(header_line(build.header()))
    troubled = build.header(
        quality="C", quality_reasons=["why"], notes=["n"], skipped={"not_ip": 3}, problems=["cut at byte 9"]
    )
    data = json.loads(header_line(troubled))
    assert list(data)[len(plain) :] == ["quality_reasons", "notes", "skipped", "problems"]
    VALIDATOR.validate(data)


def test_the_header_is_read_after_the_rows(make: Callable[..., Any], build: Any) -> None:
    analysis = make(rows=build.rows(), head={"packets": 0})
    rows = analysis.rows

    def consume() -> Any:
        yield from rows
        analysis.header.packets = 77

    analysis.__class__ = type("Late", (analysis.__class__,), {"__iter__": lambda _: consume()})
    assert json.loads(printed(analysis)[0])["packets"] == 77


ends = st.one_of(st.binary(min_size=6, max_size=6), st.binary(min_size=18, max_size=18))
texts = st.text(max_size=12)
bounds = st.tuples(st.integers(0, 9), st.integers(0, 9))
counts = st.dictionaries(st.sampled_from(["ListenDrops", "OutRsts"]), st.integers(1, 9))
numbers = st.none() | st.integers(1, 2**40)
segments = st.builds(
    Segment, st.integers(1, 2**40), st.integers(0, 2**63), ends, ends, st.integers(0, 255), *[st.just(0)] * 4
)
packets = st.builds(
    PacketRow, segments, texts, st.sampled_from([outcomes.QUEUED, outcomes.OVERFLOW, outcomes.PAWS]), bounds,
    bounds,
    st.sampled_from(["certain", "likely", "undecided"]), numbers, st.lists(texts, max_size=2).map(tuple),
)  # fmt: skip
sent = st.builds(
    OutRow,
    segments,
    texts,
    st.sampled_from(["synack", "rst", "ack"]),
    texts,
    numbers,
    numbers,
    st.booleans(),
    counts,
)
happenings = st.builds(
    EventRow, st.integers(0, 2**63), texts, st.none() | texts, texts, bounds, bounds, counts, texts
)
differences = st.builds(
    MismatchRow,
    st.integers(0, 2**63),
    texts,
    texts,
    st.sampled_from(["missing_reply", "wrong_reply"]),
    texts,
    numbers,
)


def expected_object(row: Row) -> dict[str, Any]:
    """The row written down again, the slow way."""
    if isinstance(row, PacketRow | OutRow):
        segment = row.segment
        inbound = isinstance(row, PacketRow)
        result: dict[str, Any] = {
            "type": "packet", "frame": segment.frame, "time_ns": segment.time_ns, "listener": row.listener,
            "peer": endpoint_text(segment.src if inbound else segment.dst), "dir": "in" if inbound else "out",
            "flags": flag_text(segment.flags),
        }  # fmt: skip
        if isinstance(row, PacketRow):
            return result | {
                "decision": row.outcome.decision, "reason": row.outcome.reason, "rule": row.outcome.rule,
                "function": row.outcome.function, "reply": row.outcome.reply,
                "counters": row.outcome.counters,
                "accept_queue": list(row.accept_queue), "syn_queue": list(row.syn_queue),
                "certainty": row.certainty,
                "resolved_by": row.resolved_by, "rivals": list(row.rivals),
            }  # fmt: skip
        result |= {"decision": row.decision, "reason": row.reason, "cause": row.cause, "attempt": row.attempt}
        return result | {"expected": row.expected} | ({"counters": row.counters} if row.counters else {})
    if isinstance(row, EventRow):
        result = {
            "type": "event", "time_ns": row.time_ns, "listener": row.listener, "peer": row.peer,
            "event": row.event,
            "accept_queue": list(row.accept_queue), "syn_queue": list(row.syn_queue),
        }  # fmt: skip
        result |= {"counters": row.counters} if row.counters else {}
        return result | ({"detail": row.detail} if row.detail else {})
    return {
        "type": "mismatch", "frame": row.frame, "time_ns": row.time_ns, "listener": row.listener,
        "peer": row.peer,
        "what": row.what, "detail": row.detail,
    }  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(packets, sent, happenings, differences), max_size=8))
def test_the_fast_writer_equals_json_dumps(rows: list[Row]) -> None:
    line = RowLines()
    for row in rows:
        assert line(row) == json.dumps(expected_object(row), separators=(",", ":")) + "\n"


@pytest.mark.parametrize("text", ['"', "\\", "\n", "\x1b[2J", "\ud800", "é"])
def test_lines_are_ascii_and_one_line_whatever_a_text_holds(build: Any, text: str) -> None:
    row = MismatchRow(1, text, text, "wrong_reply", text)
    line = RowLines()(row)
    assert line.isascii()
    assert line.count("\n") == 1
    assert json.loads(line)["detail"] == text
