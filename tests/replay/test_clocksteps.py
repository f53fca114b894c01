"""Steps of the capture's clock: found, taken out and told; nothing else is taken for one."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backlogtrace.capture import open_capture, reader
from backlogtrace.replay import Options, analyze
from backlogtrace.replay.clocksteps import ClockWatch, Step, Steps
from backlogtrace.replay.host import Host, HostEvent, HostListener
from backlogtrace.replay.rows import OutRow, PacketRow
from backlogtrace.segment import ACK, SYN
from tests.replay.wire import Wire

if TYPE_CHECKING:
    from backlogtrace.replay import Analysis
    from backlogtrace.replay.rows import Row
    from backlogtrace.segment import Segment

FIXTURES = Path(__file__).parents[2] / "fixtures"
SECOND = 1_000_000_000
STEPS = [30 * SECOND, -30 * SECOND, 3600 * SECOND]
SILENT = 2 * SECOND
"""A step that no packet shows."""


def read(path: Path) -> list[Segment]:
    with open_capture([str(path)], keep_small=True) as capture:
        return [segment for chunk in capture.chunks() for segment in chunk]  # type: ignore[misc]


def stepped(segments: list[Segment], at: int, by_ns: int) -> list[Segment]:
    """The clock is set before segment `at`."""
    return [*segments[:at], *(one._replace(time_ns=one.time_ns + by_ns) for one in segments[at:])]


def found(segments: list[Segment], cuts: tuple[int, ...] = ()) -> list[Step]:
    watch = ClockWatch()
    edges = [0, *cuts, len(segments)]
    chunks = [segments[start:end] for start, end in pairwise(edges)]
    assert [one for chunk in watch.watched(chunks) for one in chunk] == segments
    return watch.steps()


def written(path: Path, name: str, at: int, by_ns: int) -> Path:
    """A fixture (nanosecond pcap, little-endian) whose clock is set before packet `at`."""
    data = bytearray((FIXTURES / name / "capture.pcap").read_bytes())
    assert data[:4] == b"\x4d\x3c\xb2\xa1"
    offset, number = 24, 0
    while offset < len(data):
        seconds, fraction, length, _ = struct.unpack_from("<IIII", data, offset)
        if number >= at:
            struct.pack_into("<II", data, offset, *divmod(seconds * SECOND + fraction + by_ns, SECOND))
        offset += 16 + length
        number += 1
    path.write_bytes(data)
    return path


def analysed(path: Path, host: Host | None = None) -> tuple[Analysis, list[Row]]:
    with open_capture([str(path)], keep_small=True, bundle=True) as capture:
        analysis = analyze(capture, host or Host(), Options(routine_rows=True))
        return analysis, list(analysis)


def decisions(rows: list[Row]) -> list[object]:
    return [
        (row.segment.frame, row.outcome.decision, row.outcome.reason, row.accept_queue, row.syn_queue)
        if isinstance(row, PacketRow)
        else (type(row).__name__, getattr(row, "event", None), getattr(row, "reason", None))
        for row in rows
    ]


CASES = [
    ("seed_documents-0001", 20), ("seed_documents-0001", 45), ("seed_documents-0005", 80),
    ("cookies-and-requests-4.4.1", 60), ("odd-segments-7.2", 50), ("relisten-larger-backlog-6.12", 60),
    ("timewait-reuse-5.15", 37), ("abort-on-overflow-rst-6.12", 60), ("overflowed-connection-el7", 12),
]  # fmt: skip
"""Connections with timestamps go on in both directions after these packets."""


@pytest.mark.parametrize("by_ns", STEPS)
@pytest.mark.parametrize(("name", "at"), CASES)
def test_a_step_changes_no_decision(tmp_path: Path, name: str, at: int, by_ns: int) -> None:
    path = written(tmp_path / "capture.pcap", name, at, by_ns)
    before, expected = analysed(FIXTURES / name / "capture.pcap")
    after, rows = analysed(path)
    assert decisions(rows) == decisions(expected)
    assert [summary.decisions for summary in after.listeners] == [one.decisions for one in before.listeners]
    assert [summary.backlog for summary in after.listeners] == [one.backlog for one in before.listeners]
    [reason] = [reason for reason in after.header.quality_reasons if "clock" in reason]
    assert f"before frame {at + 1}" in reason
    assert f"{abs(by_ns) // SECOND}.0" in reason or f"{abs(by_ns) // SECOND - 1}.9" in reason
    assert not any("back in time" in reason for reason in after.header.quality_reasons)
    assert after.header.quality >= "B"
    times = {segment.frame: segment.time_ns for segment in read(path)}
    packets = [row.segment for row in rows if isinstance(row, PacketRow | OutRow)]
    assert packets
    assert all(segment.time_ns == times[segment.frame] for segment in packets)


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*/capture.pcap")), ids=lambda path: path.parent.name)
def test_no_fixture_has_a_step(path: Path) -> None:
    assert found(read(path)) == []


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted({name for name, _ in CASES})), st.data(),
    st.one_of(st.sampled_from(STEPS), st.integers(-10**13, 10**13)),
)  # fmt: skip
def test_what_is_found_is_what_was_put_in(name: str, data: st.DataObject, by_ns: int) -> None:
    segments = read(FIXTURES / name / "capture.pcap")
    at = data.draw(st.integers(1, len(segments) - 1))
    cuts = tuple(sorted(data.draw(st.sets(st.integers(1, len(segments) - 1), max_size=3))))
    steps = found(stepped(segments, at, by_ns), cuts)
    assert len(steps) <= 1
    for step in steps:
        assert step.frame == segments[at].frame
        assert abs(step.by_ns - by_ns) < SECOND // 50


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([name for name, _ in CASES]), st.data(), st.integers(200, 10**6))
def test_a_gap_in_which_time_passed_is_no_step(name: str, data: st.DataObject, idle_ms: int) -> None:
    """The timestamps went on, in milliseconds."""
    segments = read(FIXTURES / name / "capture.pcap")
    at = data.draw(st.integers(1, len(segments) - 1))
    later = stepped(segments, at, idle_ms * 1_000_000)
    moved = [
        one._replace(tsval=(one.tsval + idle_ms) & 0xFFFFFFFF) if place >= at and one.tsval >= 0 else one
        for place, one in enumerate(later)
    ]
    assert found(moved) == []


def talk(rate: int, *, idle_ms: int, outbound_too: bool = True, inbound_too: bool = True) -> list[Segment]:
    """Three clients in turn, 60 ms apart, timestamps at `rate`; then idle, and on."""
    wire = Wire()

    def stamp(at: float) -> int:
        return 5_000 + int(at * rate / 1000)

    for turn in range(60):
        for c in range(1, 4):
            at = 60 * turn + 7 * c + (idle_ms if turn >= 30 else 0)
            seen = {"tsval": stamp(at - (0 if inbound_too or turn < 30 else idle_ms))}
            flags = SYN if turn == 0 else ACK
            wire.inbound(flags, c, at, length=0 if turn == 0 else 10, **seen)
            sent = {"tsval": stamp(at - (0 if outbound_too or turn < 30 else idle_ms))}
            wire.outbound(SYN | ACK if turn == 0 else ACK, c, at + 1, **sent)
    return wire.segments


@pytest.mark.parametrize("rate", [1000, 300, 250, 100])
@pytest.mark.parametrize("by_ns", [-90 * SECOND, 300_000_000, 5 * SECOND])
def test_timestamps_may_count_jiffies(rate: int, by_ns: int) -> None:
    segments = talk(rate, idle_ms=0)
    [step] = found(stepped(segments, 200, by_ns))
    assert step.frame == segments[200].frame
    assert abs(step.by_ns - by_ns) < SECOND // 50
    assert found(talk(rate, idle_ms=20_000)) == []


@pytest.mark.parametrize("side", ["inbound_too", "outbound_too"])
def test_one_side_alone_proves_nothing(side: str) -> None:
    """Clients that were held up, a server that stood still."""
    assert found(talk(1000, idle_ms=20_000, **{side: False})) == []
    [step] = found(talk(1000, idle_ms=20_000, inbound_too=False, outbound_too=False))
    assert abs(step.by_ns - 20 * SECOND) < SECOND // 10


def test_without_timestamps_only_the_quality_suffers(tmp_path: Path) -> None:
    segments = [one._replace(tsval=-1) for one in read(FIXTURES / "seed_documents-0001" / "capture.pcap")]
    assert found(stepped(segments, 20, -30 * SECOND)) == []
    analysis, _ = analysed(written(tmp_path / "x.pcap", "seed_documents-0000", 8, -30 * SECOND))
    assert any("back in time by up to" in reason for reason in analysis.header.quality_reasons)


def test_times_of_a_host_file_cannot_be_put_right(tmp_path: Path) -> None:
    path = written(tmp_path / "x.pcap", "seed_documents-0001", 20, 30 * SECOND)
    event = HostEvent(1, "sysctl", name="net.ipv4.tcp_abort_on_overflow", value=0)
    host = Host(listeners=[HostListener("10.9.0.1", 80, 2)], events=[event])
    analysis, _ = analysed(path, host)
    assert analysis.header.quality == "C"
    assert "times of the host file stand" in " ".join(analysis.header.quality_reasons)


def test_several_steps_add_up() -> None:
    segments = talk(1000, idle_ms=0)
    made = stepped(stepped(segments, 100, 7 * SECOND), 260, -40 * SECOND)
    steps = found(made)
    assert [step.frame for step in steps] == [segments[100].frame, segments[260].frame]
    [corrected] = Steps(steps).corrected([made])
    assert all(
        abs(one.time_ns - was.time_ns) < SECOND // 20 for one, was in zip(corrected, segments, strict=True)
    )


def test_large_captures_are_looked_at_around_gaps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backlogtrace.replay.clocksteps._AROUND", 60)
    segments = talk(1000, idle_ms=0)
    for cut in (199, 200, 201, 250):
        [step] = found(stepped(segments, 200, 5 * SECOND), (cut,))
        assert step.frame == segments[200].frame


@pytest.mark.parametrize("by_ns", STEPS)
def test_whole_handshakes_are_taken_apart_where_the_clock_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_ns: int
) -> None:
    """By columns, with handshakes as one item, from a file and kept in memory or not."""
    monkeypatch.setattr(reader, "SMALL", 0)
    name, at = "seed_documents-0005", 80
    path = written(tmp_path / "capture.pcap", name, at, by_ns)
    _, expected = analysed(FIXTURES / name / "capture.pcap")
    for kept in (300_000, 10):
        monkeypatch.setattr("backlogtrace.replay.inference._KEPT", kept)
        _, rows = analysed(path)
        assert decisions(rows) == decisions(expected)
