"""Crafted packets: checksums, and that the readers of captures see in them what was meant."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from backlogtrace.capture import open_capture
from backlogtrace.lab import craft
from backlogtrace.segment import ACK, CWR, ECE, PSH, RST, SYN, Segment, endpoint

if TYPE_CHECKING:
    from pathlib import Path

CLIENT4, SERVER4 = endpoint("10.9.1.2", 20001), endpoint("10.9.0.1", 8080)
CLIENT6, SERVER6 = endpoint("fd09::1:2", 20001), endpoint("fd09::1", 8080)
TIME_NS = 1_795_322_240_000_000_123
SEGMENTS = [
    Segment(1, TIME_NS, CLIENT4, SERVER4, SYN, 7, 0, 64240, 0, 1460, 7, sack_ok=True, tsval=5, tsecr=0),
    Segment(1, TIME_NS, CLIENT4, SERVER4, SYN | ECE | CWR, 0xFFFFFFFF, 0, 64240, 300, 536, 0, fastopen=b""),
    Segment(1, TIME_NS, CLIENT6, SERVER6, SYN, 1, 0, 64240, 21, 8960, -1, sack_ok=True, fastopen=b"8 bytes."),
    Segment(1, TIME_NS, CLIENT6, SERVER6, ACK | PSH, 8, 9, 502, 1001, tsval=6, tsecr=2**32 - 1),
    Segment(1, TIME_NS, CLIENT4, SERVER4, ACK, 8, 9, 502, 0),
    Segment(1, TIME_NS, CLIENT4, SERVER4, RST, 8, 0, 0, 0),
    Segment(1, TIME_NS, CLIENT4, SERVER4, 0, 8, 0, 0, 12),
]


def ones_complement_sum(data: bytes) -> int:
    """Sum of the 16-bit words with the carries added back; 0xFFFF when a checksum inside is right."""
    total = int.from_bytes(data + b"\0" * (len(data) % 2), "big") % 0xFFFF
    return total or 0xFFFF


def test_checksum_of_the_example_in_rfc_1071() -> None:
    assert craft.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2


def test_checksum_pads_an_odd_byte_with_zero() -> None:
    assert craft.checksum(b"\x12\x34\x56") == craft.checksum(b"\x12\x34\x56\x00")


@pytest.mark.parametrize("segment", SEGMENTS)
def test_packet_has_checksums_that_add_up(segment: Segment) -> None:
    data = craft.packet(segment)
    if data[0] >> 4 == 4:
        assert ones_complement_sum(data[:20]) == 0xFFFF
        body, addresses = data[20:], data[12:20]
    else:
        body, addresses = data[40:], data[8:40]
    assert ones_complement_sum(addresses + struct.pack("!II", len(body), 6) + body) == 0xFFFF


@pytest.mark.parametrize("segment", SEGMENTS)
def test_parse_gives_back_what_was_packed(segment: Segment) -> None:
    assert craft.parse(craft.packet(segment), TIME_NS, 1) == segment


@pytest.mark.parametrize("segment", SEGMENTS)
def test_readers_of_captures_see_what_was_meant(segment: Segment, tmp_path: Path) -> None:
    data = craft.packet(segment)
    header = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 101)
    when = struct.pack("<II", *divmod(TIME_NS, 1_000_000_000))
    path = tmp_path / "one.pcap"
    path.write_bytes(header + when + struct.pack("<II", len(data), len(data)) + data)
    with open_capture([str(path)], keep_all=True) as capture:
        assert [found for chunk in capture.chunks() for found in chunk] == [segment]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x45",
        bytes.fromhex("4500001c00000000401100000a0900010a090102") + b"\0" * 20,
        bytes.fromhex("6000000000003aff") + b"\0" * 40,
    ],
    ids=["empty", "cut", "udp", "icmpv6"],
)
def test_parse_knows_no_tcp_in_other_packets(data: bytes) -> None:
    assert craft.parse(data) is None
