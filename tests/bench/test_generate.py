"""The benchmark's captures are what their documentation says."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

SCALE = 0.002


def load(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "bench" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


generate = load("generate")


def tcp_segments(path: Path) -> tuple[int, list[Any]]:
    """Number of packets, and time, endpoints, flags, seq, ack and payload length of those that are TCP."""
    data, at, packets, found = path.read_bytes(), 24, 0, []
    while at < len(data):
        sec, usec, captured, _ = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (0, 4, 8, 12))
        frame = data[at + 16 : at + 16 + captured]
        at, packets = at + 16 + captured, packets + 1
        ip = frame[14:]
        if frame[12:14] == b"\x86\xdd":
            tcp, source, target = ip[40:], ip[8:24], ip[24:40]
            total = 40 + int.from_bytes(ip[4:6], "big")
        else:
            tcp, source, target = ip[20:], ip[12:16], ip[16:20]
            total = int.from_bytes(ip[2:4], "big")
            words = sum(int.from_bytes(ip[i : i + 2], "big") for i in range(0, 20, 2))
            assert words % 0xFFFF == 0, "IPv4 header checksum"
            if ip[9] != 6:
                continue
        length = total - (len(ip) - len(tcp)) - (tcp[12] >> 2)
        found.append(
            (
                sec * 10**6 + usec,
                source + tcp[:2],
                target + tcp[2:4],
                tcp[13],
                int.from_bytes(tcp[4:8], "big"),
                int.from_bytes(tcp[8:12], "big"),
                length,
            )
        )
    assert at == len(data)
    return packets, found


@pytest.mark.parametrize(
    ("name", "packets", "noise"),
    [
        ("flood", 3561, 0),
        ("web", 4040, 40),
        ("bulk", 6000, 0),
    ],
)
def test_documented_packets_in_order_of_time(tmp_path: Path, name: str, packets: int, noise: int) -> None:
    path = tmp_path / "x.pcap"
    assert generate.make(name, path, SCALE) == packets
    count, segments = tcp_segments(path)
    assert (count, len(segments)) == (packets, packets - noise)
    assert [segment[0] for segment in segments] == sorted(segment[0] for segment in segments)


def test_capture_is_the_same_every_time(tmp_path: Path) -> None:
    digests = set()
    for attempt in ("a", "b"):
        generate.make("web", tmp_path / attempt, SCALE)
        digests.add(hashlib.sha256((tmp_path / attempt).read_bytes()).digest())
    assert len(digests) == 1


def test_flood_has_the_documented_mix(tmp_path: Path) -> None:
    generate.make("flood", tmp_path / "x.pcap", SCALE)
    _, segments = tcp_segments(tmp_path / "x.pcap")
    assert Counter(segment[3] for segment in segments) == {2: 2000, 18: 1201, 16: 360}


@pytest.mark.parametrize("name", ["flood", "web", "bulk"])
def test_sequence_numbers_follow_from_what_was_sent(tmp_path: Path, name: str) -> None:
    generate.make(name, tmp_path / "x.pcap", SCALE)
    flows: dict[frozenset[bytes], list[Any]] = defaultdict(list)
    for segment in tcp_segments(tmp_path / "x.pcap")[1]:
        flows[frozenset(segment[1:3])].append(segment)
    for flow in flows.values():
        assert [segment[3] for segment in flow[:3]] == [2, 18, 16][: len(flow)]
        upcoming: dict[bytes, int] = {}
        for _, source, target, flags, seq, ack, length in flow:
            assert seq == upcoming.get(source, seq)
            upcoming[source] = (seq + length + (flags & 1) + (flags >> 1 & 1)) & 0xFFFFFFFF
            assert ack == (upcoming[target] if flags & 16 else 0)
