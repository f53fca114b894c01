"""Checksums: what is right, what is wrong and what says nothing, by both decoders alike."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backlogtrace.capture import columns, open_capture, plain
from backlogtrace.capture.checksums import RIGHT, UNKNOWN, WRONG, checked, judged
from backlogtrace.capture.file import CaptureFile
from backlogtrace.capture.info import CaptureInfo, Checksums
from backlogtrace.lab.craft import checksum, packet
from backlogtrace.segment import ACK, RST, SYN, Segment, endpoint
from tests.capture.capture_files import ETHERNET, RAW, Packet, ethernet, pcap

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Change = Callable[[bytearray, int], None]

V4 = endpoint("10.9.1.2", 4001), endpoint("10.9.0.1", 80)
V6 = endpoint("fd09::2", 4001), endpoint("fd09::1", 80)
_STAMPS = {"tsval": 7, "tsecr": 9}
_OPTIONS = {"mss": 1460, "sack_ok": True, "wscale": 7, **_STAMPS}


def crafted(ends: tuple[bytes, bytes] = V4, flags: int = SYN, seq: int = 1, **fields: object) -> bytes:
    values = {"ack": 0 if flags == SYN else 7, "window": 512, "length": 0, **fields}
    return packet(Segment(1, 0, *ends, flags, seq, **values))  # type: ignore[arg-type]


def _pseudo(data: bytearray, tcp: int, length: int) -> int:
    """The sum of the pseudo-header, not complemented: what CHECKSUM_PARTIAL leaves in the field."""
    ends = bytes(data[12:20] if tcp == 20 else data[8:40])
    return checksum(ends + bytes([0, 6]) + length.to_bytes(2, "big")) ^ 0xFFFF


def put(data: bytearray, at: int, value: int) -> None:
    data[at : at + 2] = value.to_bytes(2, "big")


def as_made(data: bytearray, tcp: int) -> None:
    """Nothing changed."""


def flip(data: bytearray, tcp: int) -> None:
    """A bit of the sequence number."""
    data[tcp + 5] ^= 0x10


def zero(data: bytearray, tcp: int) -> None:
    put(data, tcp + 16, 0)


def partial(data: bytearray, tcp: int) -> None:
    put(data, tcp + 16, _pseudo(data, tcp, len(data) - tcp))


def partial_without_length(data: bytearray, tcp: int) -> None:
    put(data, tcp + 16, _pseudo(data, tcp, 0))


def cut(data: bytearray, tcp: int) -> None:
    """The options are gone, and the rest was damaged."""
    del data[tcp + 20 :]
    flip(data, tcp)


def address(data: bytearray, tcp: int) -> None:
    """As a rewriter leaves it that corrects nothing."""
    data[tcp - 1] ^= 1


def ip_sum(data: bytearray, tcp: int) -> None:
    """The time to live changed, and the IPv4 header's checksum did not; TCP's is right."""
    data[8] ^= 1


def ip_sum_zero(data: bytearray, tcp: int) -> None:
    put(data, 10, 0)
    flip(data, tcp)


CHANGES: list[tuple[Change, int]] = [
    (as_made, RIGHT), (flip, WRONG), (zero, UNKNOWN), (partial, UNKNOWN), (partial_without_length, UNKNOWN),
    (cut, UNKNOWN), (address, WRONG),
]  # fmt: skip
CHANGES_V4: list[tuple[Change, int]] = [*CHANGES, (ip_sum, WRONG), (ip_sum_zero, UNKNOWN)]
CASES = [(V4, *case) for case in CHANGES_V4] + [(V6, *case) for case in CHANGES]


def read(path: Path, *, by_columns: bool) -> Checksums:
    info = CaptureInfo()
    file = CaptureFile(str(path), info)
    if by_columns:
        chunks = columns.segment_chunks(columns.decoded_windows(file, info), info, keep_all=True, ports=())
    else:
        chunks = plain.segment_chunks(plain.timed_packets(file, info), info, keep_all=True, ports=())
    for _ in chunks:
        pass
    return info.checksums


def expected(number: int, found: int) -> Checksums:
    """What is to be noted of one SYN."""
    return Checksums([number] if found == WRONG else [], int(found == RIGHT), int(found == WRONG))


@pytest.mark.parametrize("by_columns", [False, True], ids=["plain", "columns"])
@pytest.mark.parametrize("link", ["raw", "ethernet", "vlan"])
@pytest.mark.parametrize(("ends", "change", "found"), CASES)
def test_every_case_is_told_by_both_decoders(
    tmp_path: Path, ends: tuple[bytes, bytes], change: Change, found: int, link: str, by_columns: bool
) -> None:
    made = bytearray(crafted(ends, **_OPTIONS))
    size = len(made)
    change(made, 20 if ends is V4 else 40)
    data, kind = bytes(made), RAW
    missing = size - len(made)
    if link != "raw":
        ethertype = 0x0800 if ends is V4 else 0x86DD
        data, kind = ethernet(data, ethertype, (0x8100,) if link == "vlan" else ()), ETHERNET
    path = tmp_path / "x.pcap"
    path.write_bytes(pcap([Packet(data, 1, len(data) + missing)], kind))
    assert read(path, by_columns=by_columns) == expected(1, found)


def test_ip_options_hide_nothing_that_could_be_judged() -> None:
    made = bytearray(crafted())
    made[0] = 0x46
    assert checked(bytes(made[:20] + bytes(4) + made[20:]), 0, 24, 20, bytes(made[12:20])) == UNKNOWN


@given(
    st.binary(min_size=20, max_size=60).filter(lambda data: len(data) % 4 == 0),
    st.binary(min_size=8, max_size=8),
)
def test_a_checksum_that_was_computed_is_right(header: bytes, ends: bytes) -> None:
    made = bytearray(header)
    put(made, 16, 0)
    value = checksum(ends + (6).to_bytes(2, "big") + len(made).to_bytes(2, "big") + bytes(made))
    put(made, 16, value)
    assert judged(bytes(made), ends) == (RIGHT if value else UNKNOWN)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_columns_and_plain_agree_whatever_is_damaged(tmp_path: Path, data: st.DataObject) -> None:
    packets = []
    for number in range(data.draw(st.integers(1, 12))):
        ends = data.draw(st.sampled_from([V4, V6]))
        flags = data.draw(st.sampled_from([SYN, SYN | ACK, ACK, RST]))
        options = data.draw(st.sampled_from([{}, _STAMPS, _OPTIONS]))
        made = bytearray(crafted(ends, flags, length=data.draw(st.sampled_from([0, 0, 3])), **options))
        for place in data.draw(st.lists(st.integers(10, len(made) - 1), max_size=2)):
            made[place] ^= data.draw(st.integers(1, 255))
        size = data.draw(st.sampled_from([len(made), len(made), len(made) - 4]))
        packets.append(Packet(bytes(made[:size]), number, len(made)))
    path = tmp_path / "x.pcap"
    path.write_bytes(pcap(packets, RAW))
    assert read(path, by_columns=True) == read(path, by_columns=False)


@pytest.mark.parametrize("ends", [V4, V6])
@pytest.mark.parametrize("reader", ["scapy", "pyshark"])
def test_the_other_readers_agree(tmp_path: Path, reader: str, ends: tuple[bytes, bytes]) -> None:
    """But for IPv4 header checksums, at which tshark is not asked to look."""
    if reader == "pyshark" and shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    packets = []
    for number, (change, _) in enumerate(CHANGES):
        made = bytearray(crafted(ends, **_OPTIONS))
        size = len(made)
        change(made, 20 if ends is V4 else 40)
        packets.append(Packet(bytes(made), number, size))
    path = tmp_path / "x.pcap"
    path.write_bytes(pcap(packets, RAW))
    found = []
    for name in ("native", reader):
        with open_capture([str(path)], reader=name) as capture:
            assert list(capture.chunks())
            found.append(capture.info.checksums)
    assert found[0] == found[1] == Checksums([2, 7], 1, 2)
