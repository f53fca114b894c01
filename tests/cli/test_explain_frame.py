"""`explain CAPTURE --frame N`: one packet of a recording, its queues and what would change it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import backlogtrace
from backlogtrace.cli.app import app
from backlogtrace.errors import CaptureError, UsageError
from backlogtrace.report.frame import page

FIXTURES = Path(__file__).parents[2] / "fixtures"
OVERFLOW = FIXTURES / "seed_documents-0001"  # Linux 6.12, listen(5), nobody accepts


def frame(number: int, *more: str, fixture: Path = OVERFLOW) -> dict[str, Any]:
    given = [str(fixture / "capture.pcap"), "--host", str(fixture / "host.json")]
    result = CliRunner().invoke(app, ["explain", *given, "--frame", str(number), "-T", "json", *more])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def test_the_clients_in_the_queues_are_named() -> None:
    found = frame(27)
    assert found["packet"]["reason"] == "cookie_accept_queue_full"
    assert found["queues"] == {
        "accept queue": [f"10.9.1.2:{port}" for port in range(20001, 20007)],
        "SYN queue": ["10.9.1.2:20010"],
    }


def test_the_kernels_checks_are_shown_with_their_values() -> None:
    checks = frame(27)["checks"]
    assert checks[-1] == {
        "question": "accept queue full", "values": "6 connections, 6 fit",
        "holds": True, "ends": "cookie.cookie_accept_queue_full",
    }  # fmt: skip
    assert ("SYN cookies off", "tcp_syncookies = 1", False) in {
        (check["question"], check["values"], check["holds"]) for check in checks
    }


def test_where_accept_calls_are_worked_out_the_wire_answers() -> None:
    result = CliRunner().invoke(
        app, ["explain", str(OVERFLOW / "capture.pcap"), "--frame", "27", "-T", "json"]
    )
    last = json.loads(result.output)["checks"][-1]
    assert (last["question"], last["holds"]) == ("accept queue full", True)
    assert "worked out" in last["values"]


def test_a_data_packet_of_a_connection_has_a_page() -> None:
    fixture = FIXTURES / "abort-on-overflow-rst-6.12"
    rows = backlogtrace.analyze(fixture / "capture.pcap", host=fixture / "host.json", all_packets=True).rows
    number = next(r["frame"] for r in rows if r.get("decision") == "passed" and r["dir"] == "in")
    found = frame(number, fixture=fixture)
    assert found["packet"]["decision"] == "passed"
    assert found["checks"][-1]["ends"].startswith("connection.")


def test_the_smallest_change_that_lets_the_packet_in_is_named() -> None:
    changes = {one["with"]: one["decision"] for one in frame(27)["changes"]}
    assert changes["listen(6)"].startswith("established")
    # its SYN was answered with a cookie: without cookies there is no such ACK
    assert changes["tcp_syncookies=0"].startswith("not sent like this, as frame 13 would be dropped")
    assert "tcp_abort_on_overflow=1" not in changes  # which never resets a cookie's ACK


def test_abort_on_overflow_is_tried() -> None:
    fixture = FIXTURES / "abort-on-overflow-rst-6.12"
    rows = [json.loads(line) for line in (fixture / "expected.jsonl").read_text().splitlines()]
    number = next(row["frame"] for row in rows if row.get("reason") == "abort_on_overflow")
    changes = {one["with"]: one["decision"] for one in frame(number, fixture=fixture)["changes"]}
    assert changes["tcp_abort_on_overflow=0"].startswith("overflow")
    assert "tcp_abort_on_overflow=1" not in changes


def test_what_differs_from_the_model_is_part_of_the_story() -> None:
    host = str(OVERFLOW / "host.json")
    given = [str(OVERFLOW / "capture.pcap"), "--host", host, "--sysctl", "tcp_syncookies=0", "-T", "text"]
    result = CliRunner().invoke(app, ["explain", *given, "--frame", "27"])
    assert result.exit_code == 0, result.output
    assert "differs\tthe server answered where the model does not" in result.output


def test_where_the_capture_overrules_the_model_the_page_says_so() -> None:
    analysis = backlogtrace.analyze(OVERFLOW / "capture.pcap", host=OVERFLOW / "host.json", checks_of=27)
    row = next(row for row in analysis.rows if row.get("frame") == 27)
    assert not any("shows otherwise" in note for note in page(analysis, 27, None).notes)
    row["rule"] = "listen.no_request"
    assert any("shows otherwise" in note for note in page(analysis, 27, None).notes)


def test_a_packet_of_the_server_is_explained_too() -> None:
    found = frame(14)
    assert (found["packet"]["decision"], found["packet"]["cause"]) == ("synack", 13)
    assert found["changes"] == []


@pytest.mark.parametrize("name", ["defer-accept-6.12", "timewait-reuse-5.15", "fastopen-cookie-6.12"])
def test_every_kind_of_packet_has_a_page(name: str) -> None:
    fixture = FIXTURES / name
    analysis = backlogtrace.analyze(fixture / "capture.pcap", host=fixture / "host.json")
    kinds = {
        (row["dir"], row["decision"], row["reason"]): row for row in analysis.rows if row["type"] == "packet"
    }
    assert kinds
    for row in kinds.values():
        shown = page(analysis, row["frame"], None)
        assert shown.data["packet"] == row
        assert shown.title.startswith(f"frame {row['frame']}: ")


def invoke(*arguments: str) -> BaseException | None:
    return CliRunner().invoke(app, ["explain", *arguments], standalone_mode=False).exception


def test_what_cannot_be_explained_is_said() -> None:
    capture = str(OVERFLOW / "capture.pcap")
    assert "concerns no listen socket; the nearest" in str(invoke(capture, "--frame", "999999"))
    assert isinstance(invoke(capture, "--frame", "999999"), UsageError)
    assert "say which of its packets" in str(invoke(capture))
    assert "give the capture" in str(invoke("--frame", "3"))
    assert "--host belongs to a capture" in str(invoke("overflow", "--host", "host.json"))
    assert isinstance(invoke(str(OVERFLOW / "nothing.pcap"), "--frame", "3"), CaptureError | UsageError)
