"""What must not change a decision, and what may only make it undecided: real recordings, changed."""

from __future__ import annotations

import random
import struct
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backlogtrace.capture import open_capture
from backlogtrace.replay import Options, analyze
from backlogtrace.replay.host import Host, HostListener
from backlogtrace.replay.rows import PacketRow
from backlogtrace.segment import ACK, SYN, Segment, endpoint
from tests.capture.capture_files import RAW, Packet, pcap, pcapng
from tests.replay.wire import FakeCapture, Wire, replay

if TYPE_CHECKING:
    from backlogtrace.kernel.outcome import Decision
    from backlogtrace.replay import Analysis
    from backlogtrace.replay.rows import Certainty

    Decisions = dict[tuple[bytes, int, int, int], tuple[Decision, Certainty]]

FIXTURES = Path(__file__).parents[2] / "fixtures"
STALLED = ("seed_documents-0000", "seed_documents-0001", "seed_documents-0002")
LOSSY = (
    "seed_documents-0003", "overflowed-connection-el7", "listener-closed-6.1", "timewait-reuse-5.15",
    "abort-on-overflow-rst-6.12", "ipv6-and-ipv4-cookies-5.15", "ignored-data-no-repetition-3.10",
    "syn-queue-full-no-cookies-5.10", "fastopen-cookie-6.12",
)  # fmt: skip
PORT = 8080


@cache
def segments_of(name: str) -> tuple[Segment, ...]:
    (path,) = (FIXTURES / name).glob("capture.*")
    with open_capture([str(path)], keep_small=True) as capture:
        items = [segment for chunk in capture.chunks() for segment in chunk]
    return tuple(segment for segment in items if isinstance(segment, Segment))


def packets_of(path: Path) -> list[Packet]:
    """Of a nanosecond pcap in little-endian order."""
    data, at, found = path.read_bytes(), 24, []
    assert data[:4] == bytes.fromhex("4d3cb2a1")
    while at < len(data):
        seconds, rest, size, wire = struct.unpack_from("<IIII", data, at)
        found.append(Packet(data[at + 16 : at + 16 + size], seconds * 1_000_000_000 + rest, wire))
        at += 16 + size
    return found


def numbered(segments: list[Segment]) -> list[Segment]:
    return [segment._replace(frame=number) for number, segment in enumerate(segments, 1)]


def decided(
    segments: list[Segment], shift: int = 0, ports: tuple[int, ...] = (PORT,)
) -> tuple[Decisions, Analysis]:
    """Decision and certainty by what identifies a packet; times without `shift` (ns)."""
    listeners = tuple(HostListener("0.0.0.0", port) for port in ports)  # noqa: S104 - a name, nothing is bound
    capture: Any = FakeCapture(numbered(segments))
    analysis = analyze(capture, Host(), Options(all_packets=True, listeners=listeners))
    rows = [row for row in analysis if type(row) is PacketRow]
    found = {
        (row.segment.src, row.segment.seq, row.segment.flags, row.segment.time_ns - shift): (
            row.outcome.decision, row.certainty,
        )
        for row in rows
    }  # fmt: skip
    return found, analysis


@cache
def original(name: str) -> Decisions:
    return decided(list(segments_of(name)))[0]


Verdict = tuple["Decision", "Certainty"]


def flips(before: Decisions, after: Decisions) -> list[tuple[object, Verdict, Verdict]]:
    """Packets that were decided firmly, and are decided firmly otherwise."""
    return [
        (key, before[key], after[key])
        for key in before.keys() & after.keys()
        if "undecided" not in {before[key][1], after[key][1]} and before[key][0] != after[key][0]
    ]


@pytest.mark.parametrize("name", STALLED)
def test_packets_captured_twice_change_nothing(name: str) -> None:
    twice = [
        copy
        for segment in segments_of(name)
        for copy in (segment, segment._replace(time_ns=segment.time_ns + 20_000))
    ]
    twice.sort(key=lambda segment: segment.time_ns)
    found, analysis = decided(twice)
    assert found == original(name)
    assert analysis.header.quality == "B"
    assert "captured more than once" in " ".join(analysis.header.quality_reasons)


@pytest.mark.parametrize("name", STALLED)
@pytest.mark.parametrize("shift", [3_600_000_000_000, -86_400_000_000_000 * 30])
def test_another_time_changes_nothing(name: str, shift: int) -> None:
    moved = [segment._replace(time_ns=segment.time_ns + shift) for segment in segments_of(name)]
    assert decided(moved, shift)[0] == original(name)


@pytest.mark.parametrize("name", STALLED)
def test_unrelated_traffic_changes_nothing(name: str) -> None:
    other = endpoint("192.0.2.1", 443)
    noise = [
        segment._replace(
            src=segment.src if segment.src[-2:] != PORT.to_bytes(2, "big") else other,
            dst=segment.dst if segment.dst[-2:] != PORT.to_bytes(2, "big") else other,
            time_ns=segment.time_ns + 500,
        )
        for segment in segments_of(name)
    ]
    mixed = sorted([*segments_of(name), *noise], key=lambda segment: segment.time_ns)
    found, _ = decided(mixed)
    assert found == original(name)


def on_port(segments: tuple[Segment, ...], port: int) -> list[Segment]:
    """The same packets, at another server."""
    here, there = PORT.to_bytes(2, "big"), port.to_bytes(2, "big")

    def moved(end: bytes) -> bytes:
        return end[:-2] + there if end[-2:] == here else end

    return [segment._replace(src=moved(segment.src), dst=moved(segment.dst)) for segment in segments]


@pytest.mark.parametrize("name", STALLED)
def test_another_listener_in_the_capture_changes_no_decision(name: str) -> None:
    other = [
        segment._replace(time_ns=segment.time_ns + 700)
        for segment in on_port(segments_of("seed_documents-0002"), PORT + 1)
    ]
    mixed = sorted([*segments_of(name), *other], key=lambda segment: segment.time_ns)
    found, _ = decided(mixed, ports=(PORT, PORT + 1))
    mine = {key: decision for key, (decision, _) in found.items() if key in original(name)}
    assert mine == {key: decision for key, (decision, _) in original(name).items()}


@pytest.mark.parametrize("form", ["microseconds", "big-endian", "pcapng"])
@pytest.mark.parametrize("name", STALLED)
def test_another_file_format_changes_no_decision(name: str, form: str, tmp_path: Path) -> None:
    packets = packets_of(FIXTURES / name / "capture.pcap")
    written = {
        "microseconds": lambda: pcap(packets, RAW, nano=False),
        "big-endian": lambda: pcap(packets, RAW, order=">"),
        "pcapng": lambda: pcapng(packets, RAW),
    }[form]()
    path = tmp_path / "capture"
    path.write_bytes(written)
    with open_capture([str(path)], keep_small=True) as capture:
        segments = [segment for chunk in capture.chunks() for segment in chunk]
    found, _ = decided([segment for segment in segments if isinstance(segment, Segment)])
    assert [value for _, value in found.items()] == [value for _, value in original(name).items()]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", [*STALLED, *LOSSY])
def test_a_packet_in_a_hundred_lost_flips_no_firm_decision(name: str, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - reproducible
    kept = [segment for segment in segments_of(name) if chance.random() >= 0.01]
    found, _ = decided(kept)
    assert flips(original(name), found) == []


@pytest.mark.parametrize("name", [*STALLED[:2], "seed_documents-0003"])
def test_a_lost_synack_is_told_from_a_dropped_syn(name: str) -> None:
    """Each in turn: its client's ACK shows that the SYN was answered."""
    segments = segments_of(name)
    acked = {(one.src, one.ack) for one in segments if one.flags & (SYN | ACK) == ACK and not one.length}
    answers = [
        one
        for one in segments
        if one.flags & (SYN | ACK) == SYN | ACK and (one.dst, (one.seq + 1) % 2**32) in acked
    ]
    once = [one for one in answers if sum(other[2:6] == one[2:6] for other in answers) == 1][:4]
    assert once
    for answer in once:
        found, analysis = decided([one for one in segments if one is not answer])
        syn = (answer.dst, (answer.ack - 1) % 2**32)
        mine = {value[0] for key, value in found.items() if key[:2] == syn and key[2] & SYN}
        assert mine & {"queued", "cookie"}
        assert "not captured, although later packets presuppose it: 1 SYN-ACK" in " ".join(
            analysis.header.quality_reasons
        )


@pytest.mark.parametrize(
    ("to_server", "words"), [(True, "only packets to the server"), (False, "only packets from the server")]
)
def test_one_direction_alone_is_not_judged(to_server: bool, words: str) -> None:
    segments = segments_of("seed_documents-0003")
    kept = [one for one in segments if (one.dst[-2:] == PORT.to_bytes(2, "big")) == to_server]
    found, analysis = decided(kept)
    assert {certainty for _, certainty in found.values()} <= {"undecided"}
    assert analysis.header.quality == "D"
    assert words in " ".join(analysis.header.quality_reasons)
    assert not sum(listener.mismatches for listener in analysis.listeners)


def test_handshakes_without_their_acks_are_not_judged() -> None:
    wire = Wire()
    for c in range(1, 30):
        wire.inbound(SYN, c, 100 * c)
        wire.outbound(SYN | ACK, c, 100 * c + 0.05)
    result = replay(wire, Host())
    assert {row.certainty for row in result.packets} == {"undecided"}
    assert "only SYNs and SYN-ACKs" in " ".join(result.header.quality_reasons)


def test_packets_that_gro_merged_are_noted_and_change_nothing() -> None:
    segments = [
        one._replace(length=20_000) if one.length > 1 and not one.flags & SYN else one
        for one in segments_of("seed_documents-0001")
    ]
    merged = sum(one.length == 20_000 for one in segments)
    assert merged
    found, analysis = decided(segments)
    assert found == original("seed_documents-0001")
    assert any("GRO or TSO" in note for note in analysis.header.notes)
    assert analysis.header.quality == "A"


def test_a_syn_proxy_is_not_taken_for_the_server() -> None:
    segments = [
        one._replace(window=0) if one.flags & (SYN | ACK) == SYN | ACK else one
        for one in segments_of("seed_documents-0003")
    ]
    found, analysis = decided(segments)
    assert {certainty for _, certainty in found.values()} == {"undecided"}
    assert "SYN proxy" in " ".join(analysis.header.quality_reasons)


@pytest.mark.parametrize("name", STALLED)
def test_a_capture_that_begins_late_resets_no_connection(name: str) -> None:
    segments = segments_of(name)
    first_ack = next(n for n, one in enumerate(segments) if one.flags & ACK and not one.flags & SYN)
    found, _ = decided(list(segments[first_ack:]))
    wrong = [key for key, (decision, _) in found.items() if decision == "rst"]
    known = [key for key, (decision, _) in original(name).items() if decision == "rst"]
    assert set(wrong) <= set(known)
