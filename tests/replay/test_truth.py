"""Recorded kernels: the model agrees packet by packet, and would not if it were another kernel's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backlogtrace.capture import open_capture
from backlogtrace.errors import CaptureError, UsageError
from backlogtrace.kernel import outcomes
from backlogtrace.replay import Options, analyze
from backlogtrace.replay.host import load_host
from backlogtrace.replay.rows import EventRow, MismatchRow, PacketRow
from backlogtrace.replay.truth import (
    LISTEN_COUNTERS,
    Difference,
    _LateTimers,
    _queue_at_its_limit,
    _read_later,
    compare_capture,
    compare_scenario,
)
from tests.kernel.build import ack
from tests.replay.wire import at

FIXTURES = Path(__file__).parents[2] / "fixtures"
RECORDED = sorted(path.parent for path in FIXTURES.glob("*/truth.jsonl"))
EACH = pytest.mark.parametrize("folder", RECORDED, ids=lambda folder: folder.name)


def test_there_are_recordings() -> None:
    """Of every modern family, and all scenarios of the articles."""
    assert len(RECORDED) >= 16
    assert {f"seed_documents-000{n}" for n in range(6)} <= {folder.name for folder in RECORDED}
    assert {folder.name.rpartition("-")[2] for folder in RECORDED} >= {
        "5.4", "5.10", "5.15", "6.1", "6.12", "6.18", "7.2",
    }  # fmt: skip


@EACH
def test_model_does_what_the_kernel_did(folder: Path) -> None:
    """Counters and queue lengths after every packet, cause and reason of every packet sent."""
    comparison = compare_scenario(folder)
    assert comparison.frames > 10
    assert [d for d in comparison.differences if d.explanation is None] == []


@EACH
def test_analysis_agrees_with_the_wire_and_with_itself(folder: Path) -> None:
    """As a user runs it: nothing unexpected, intervals that are intervals, totals that are the rows' sum."""
    with open_capture([str(folder / "capture.pcap")]) as capture:
        analysis = analyze(capture, load_host(folder / "host.json"), Options())
        rows = list(analysis)
    assert [row for row in rows if isinstance(row, MismatchRow)] == []
    counted: dict[str, int] = {}
    for row in rows:
        if isinstance(row, PacketRow | EventRow):
            for low, high in (row.accept_queue, row.syn_queue):
                assert 0 <= low <= high
        for name, value in getattr(getattr(row, "outcome", row), "counters", {}).items():
            counted[name] = counted.get(name, 0) + value
    (summary,) = analysis.listeners
    assert counted == summary.counters
    assert set(counted) <= LISTEN_COUNTERS
    assert analysis.header.quality == "A"
    assert analysis.header.assumed == []


@EACH
def test_model_never_drops_more_than_the_kernel_counted(folder: Path) -> None:
    """ListenDrops and ListenOverflows over the whole recording."""
    truth = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    with open_capture([str(folder / "capture.pcap")]) as capture:
        analysis = analyze(capture, load_host(folder / "host.json"), Options())
        list(analysis)
    for name in ("ListenDrops", "ListenOverflows", "SyncookiesSent", "PassiveOpens"):
        kernel = sum(line.get("counters", {}).get(name, 0) for line in truth)
        assert analysis.listeners[0].counters.get(name, 0) == kernel


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("syn-queue-full-no-cookies-5.10", "5.15"),
        ("syn-queue-full-no-cookies-5.10", "3.10"),
        ("cookie-ack-overflow-silent-5.4", "5.10"),
        ("timewait-reuse-exempt-6.12", "6.1"),
        ("timewait-reuse-5.15", "6.12.0"),
        ("burst-pressure-expiry-7.2", "3.10"),
        ("seed_documents-0001", "5.15"),
        ("seed_documents-0003", "4.4.1"),
    ],
)
def test_wrong_kernel_is_noticed(name: str, kernel: str) -> None:
    """What the recordings are for: each tells its kernel from others."""
    folder = FIXTURES / name
    truth = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    host = replace(load_host(folder / "host.json"), kernel=kernel)
    with open_capture([str(folder / "capture.pcap")], keep_all=True) as capture:
        assert compare_capture(capture, host, truth).differences


# ---- the comparison itself ----


def changed(tmp_path: Path, frame: int, **fields: Any) -> Path:
    """A copy of a recording in which the kernel did something else at one frame."""
    folder = tmp_path / "copy"
    shutil.copytree(FIXTURES / "seed_documents-0001", folder)
    lines = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    for line in lines:
        if line.get("n") == frame:
            line.update(fields)
    (folder / "truth.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize(
    ("frame", "fields", "expected"),
    [
        (27, {"counters": {"SyncookiesRecv": 1, "ListenDrops": 1}}, {(27, "counters")}),
        (27, {"counters": {"SyncookiesRecv": 1, "ListenOverflows": 1, "ListenDrops": 1, "InSegs": 7}}, set()),
        (26, {"accept_queue": 5}, {(26, "accept_queue")}),
        (11, {"syn_queue": 5}, {(11, "syn_queue")}),
        (12, {"cause": 10}, {(12, "cause")}),
        (21, {"cause": 0}, {(21, "reason")}),
    ],
)
def test_one_changed_fact_is_one_difference(
    tmp_path: Path, frame: int, fields: dict[str, Any], expected: set[tuple[int, str]]
) -> None:
    """Frame and field are named; counters that are none of the contract's do not matter."""
    differences = compare_scenario(changed(tmp_path, frame, **fields)).differences
    assert {(d.frame, d.field) for d in differences} == expected


def test_missing_or_broken_truth_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = changed(tmp_path, 0)
    (folder / "truth.jsonl").write_text("{not json\n")
    with pytest.raises(CaptureError, match=r"truth\.jsonl: not JSON Lines"):
        compare_scenario(folder)
    (folder / "truth.jsonl").unlink()
    with pytest.raises(CaptureError, match=r"truth\.jsonl: No such file"):
        compare_scenario(folder)


def test_missing_host_file_is_an_error(tmp_path: Path) -> None:
    folder = changed(tmp_path, 0)
    (folder / "host.json").unlink()
    with pytest.raises(UsageError, match=r"host\.json"):
        compare_scenario(folder)


def expired(ms: float) -> EventRow:
    return EventRow(at(ms), "10.9.0.1:80", "10.9.1.2:20001", "expired", (0, 0), (1, 1))


@pytest.mark.parametrize(
    ("expired_ms", "counted", "kernel", "explained"),
    [
        (1000, 0, 2, "the timer of 10.9.1.2:20001 was 20 ms late and had not run yet"),
        (1000, 1, 2, None),  # the kernel had run it
        (1000, 0, 3, None),  # that is two requests more
        (700, 0, 2, None),  # so late is no timer
    ],
)
def test_timer_that_ran_late_is_explained_by_the_counter_of_timeouts(
    expired_ms: float, counted: int, kernel: int, explained: str | None
) -> None:
    late = _LateTimers([{"n": 7, "counters": {"TCPTimeouts": counted}}])
    late.expired(expired(expired_ms))
    row = PacketRow(ack(3, 1020, frame=7), "10.9.0.1:80", outcomes.ESTABLISHED, (1, 1), (1, 1))
    difference = Difference(7, "syn_queue", kernel, [1, 1])
    late.explain([difference], row)
    assert difference.explanation == explained


def test_counters_of_an_expiry_are_explained_by_it() -> None:
    """A Fast Open child that is given up counts AttemptFails, maybe before the recorder has read."""
    event = replace(expired(1000), counters={"AttemptFails": 1})
    ours, other = (
        Difference(7, "counters", {"ListenDrops": 1, "AttemptFails": number}, {"ListenDrops": 1})
        for number in (1, 2)
    )
    _read_later([ours, other], event)
    assert ours.explanation == "read after the expiry of 10.9.1.2:20001 before the next packet"
    assert other.explanation is None


@pytest.mark.parametrize(
    ("syn_queue", "counters", "explained"),
    [
        ((1, 2), {"TCPReqQFullDoCookies": 1}, True),
        ((2, 2), {"TCPReqQFullDoCookies": 1}, False),  # no timer was due
        ((1, 2), {"TCPReqQFullDoCookies": 1, "SyncookiesSent": 1}, False),
    ],
)
def test_drop_with_the_syn_queue_at_its_limit_may_count_either_way(
    syn_queue: tuple[int, int], counters: dict[str, int], explained: bool
) -> None:
    row = PacketRow(ack(3, 0), "10.9.0.1:80", outcomes.DROP_ACCEPT_QUEUE, (2, 2), syn_queue)
    model = row.outcome.counters
    assert (_queue_at_its_limit(row, model | counters, model) is not None) is explained
