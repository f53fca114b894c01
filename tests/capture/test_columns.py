"""The column reader gives what the plain reader gives."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backlogtrace.capture import columns, plain
from backlogtrace.capture.file import CaptureFile
from backlogtrace.capture.info import CaptureInfo
from backlogtrace.segment import Segment
from tests.capture import capture_files as build
from tests.capture.capture_files import (
    ACK,
    ETHERNET,
    FIN,
    LOOP,
    NULL,
    PPP,
    PPP_HDLC,
    PSH,
    RAW,
    RST,
    SLL,
    SLL2,
    SYN,
    SYN_OPTIONS,
    TIMESTAMP,
    Packet,
    ethernet,
    interface,
    ipv4,
    ipv6,
    pcap,
    pcapng,
    section,
    tcp,
)

if TYPE_CHECKING:
    from pathlib import Path


OPTIONS = [
    b"",
    SYN_OPTIONS,
    TIMESTAMP,
    b"\1\1\1\1",
    b"\0\2\4\5",
    b"\2\4\0\0\2\4\1\0",
    b"\3\3\x0f",
    b"\3\3\7\3\3\2",
    b"\x22\2",
    b"\x22\x0a12345678",
    b"\x22\x05123",
    b"\x22\4ab",
    b"\xfe\4\xf9\x89",
    b"\xfe\x0c\xf9\x8912345678",
    b"\xfe\4\xf9\x88",
    b"\2\4",
    b"\2\1\5\5",
    b"\4\2\1\1\4\2",
    b"\5\x0a" + bytes(8),
    b"\2\4\5\xb4" + b"\1" * 36,
    b"\x08\x0a\xff\xff\xff\xff\0\0\0\1\x01\x02",
    b"\x22\x12" + bytes(range(16)),
    b"\x22\x14" + bytes(range(18)),
]
FLAGS = [SYN, SYN | ACK, ACK, ACK | PSH, FIN | ACK, RST, RST | ACK, 0, 0xFF]


def read_plain(
    path: Path, *, keep_all: bool = True, window: int = plain.WINDOW
) -> tuple[list[Segment], CaptureInfo]:
    info = CaptureInfo()
    batches = plain.timed_packets(CaptureFile(str(path), info), info, window)
    chunks = plain.segment_chunks(batches, info, keep_all, ())
    found = [one for chunk in chunks for one in chunk if isinstance(one, Segment)]
    return found, info


def read_columns(
    path: Path, *, keep_all: bool = True, window: int = columns.WINDOW
) -> tuple[list[Segment], CaptureInfo]:
    info = CaptureInfo()
    windows = columns.decoded_windows(CaptureFile(str(path), info), info, window)
    chunks = columns.segment_chunks(windows, info, keep_all, ())
    found = [one for chunk in chunks for one in chunk if isinstance(one, Segment)]
    return found, info


def assert_equal(path: Path, window: int = 1 << 20) -> tuple[list[Segment], CaptureInfo]:
    """Reads a file both ways, in windows of a size, and gives what was read."""
    segments, info = read_plain(path, window=window)
    others, other = read_columns(path, window=window)
    assert others == segments
    assert [list(map(type, one)) for one in others] == [list(map(type, one)) for one in segments]
    assert other == info
    assert info.packets == info.tcp_packets + sum(info.skipped.values())
    return segments, info


def segments_of_all_kinds() -> list[bytes]:
    """TCP segments with every option list and flag combination, and some that are none."""
    kinds = [
        tcp(flags=flags, options=options, payload=b"xy"[: number % 3])
        for number, options in enumerate(OPTIONS)
        for flags in FLAGS
    ]
    return [*kinds, tcp(header=4), tcp(header=15), tcp(options=SYN_OPTIONS)[:30], tcp()[:19], tcp()[:3], b""]


def datagrams_of_all_kinds() -> list[tuple[int, bytes]]:
    """(ethertype, IP packet) of every shape that the decoder tells apart."""
    whole = tcp(options=SYN_OPTIONS, payload=b"data")
    four = [
        ipv4(whole),
        ipv4(whole, options=b"\7\4\5\6"),
        ipv4(whole, options=b"\1" * 40),
        ipv4(whole, total=0),
        ipv4(whole, total=30),
        ipv4(whole, total=19),
        ipv4(whole, total=40),
        ipv4(whole, total=1500),
        ipv4(whole, fragment=0x2000),
        ipv4(whole, fragment=5),
        ipv4(whole, fragment=0x4000),
        ipv4(whole, protocol=17),
        ipv4(struct.pack("!HHHH", 5, 4789, 8, 0), protocol=17),
        ipv4(struct.pack("!HHHH", 5, 6081, 8, 0), protocol=17, options=bytes(4)),
        ipv4(b"", protocol=17),
        ipv4(whole, protocol=4),
        ipv4(whole, protocol=41),
        ipv4(whole, protocol=47),
        ipv4(whole, protocol=1),
        b"\x44" + ipv4(whole)[1:],
        b"\x65" + ipv4(whole)[1:],
        ipv4(whole) + bytes(6),
        *(ipv4(segment) for segment in segments_of_all_kinds()),
    ]
    hop = b"\6\0" + bytes(6)
    long_hop = b"\6\2" + bytes(22)
    auth = b"\6\4" + bytes(22)
    six = [
        ipv6(whole),
        ipv6(whole, length=0),
        ipv6(whole, length=10),
        ipv6(whole, length=3000),
        ipv6(whole, following=17),
        ipv6(hop + whole, following=0),
        ipv6(long_hop + whole, following=60),
        ipv6(hop + whole, following=43),
        ipv6(auth + whole, following=51),
        ipv6(b"\6\0\0\1" + bytes(4) + whole, following=44),
        ipv6(b"\6\0\0\0" + bytes(4) + whole, following=44),
        ipv6(b"\6\0\0\x08" + bytes(4) + whole, following=44),
        ipv6(b"\x11\0\0\x08" + bytes(4) + whole, following=44),
        ipv6(b"\x3c\0" + bytes(6) + hop + whole, following=0),
        ipv6(hop, following=0),
        ipv6(b"\6\xff" + bytes(6), following=0),
        ipv6(whole, following=4),
        ipv6(b"\x11\0" + bytes(6) + struct.pack("!HHHH", 5, 4789, 8, 0), following=0),
        b"\x45" + ipv6(whole)[1:],
        *(ipv6(segment) for segment in segments_of_all_kinds()),
    ]
    return [*((0x0800, packet) for packet in four), *((0x86DD, packet) for packet in six)]


def framed(linktype: int, ethertype: int, packet: bytes) -> bytes:
    """An IP packet in the framing of a link type."""
    family, protocol = (2, 0x21) if ethertype == 0x0800 else (30, 0x57)
    return {
        ETHERNET: lambda: ethernet(packet, ethertype),
        RAW: lambda: packet,
        SLL: lambda: bytes(14) + struct.pack("!H", ethertype) + packet,
        SLL2: lambda: struct.pack("!H", ethertype) + bytes(18) + packet,
        NULL: lambda: struct.pack("<I", family) + packet,
        LOOP: lambda: struct.pack(">I", family) + packet,
        PPP: lambda: struct.pack("!H", protocol) + packet,
        PPP_HDLC: lambda: b"\xff\3" + struct.pack("!B", protocol) + packet,
    }[linktype]()


def timed(frames: list[bytes]) -> list[Packet]:
    return [Packet(frame, build.SECOND * 1_700_000_000 + number * 7) for number, frame in enumerate(frames)]


@pytest.mark.parametrize(
    "linktype", [ETHERNET, RAW, SLL, SLL2, NULL, LOOP, PPP, PPP_HDLC, 228, 229, 12, 14, 147]
)
def test_every_shape_of_packet_decodes_alike(tmp_path: Path, linktype: int) -> None:
    known = linktype if linktype in (ETHERNET, SLL, SLL2, NULL, LOOP, PPP, PPP_HDLC) else RAW
    path = tmp_path / "shapes.pcap"
    path.write_bytes(pcap(timed([framed(known, *shape) for shape in datagrams_of_all_kinds()]), linktype))
    segments, info = assert_equal(path)
    if linktype == 147:
        assert info.skipped == {"unsupported_linktype_147": info.packets}
    else:
        assert len(segments) > 100
        assert {"bad_header", "fragment", "not_tcp", "tunnel"} <= set(info.skipped)


@pytest.mark.parametrize("linktype", [ETHERNET, RAW, SLL, SLL2, NULL, PPP])
def test_every_cut_of_a_packet_decodes_alike(tmp_path: Path, linktype: int) -> None:
    whole = tcp(options=SYN_OPTIONS, payload=b"0123456789")
    shapes = [
        (0x0800, ipv4(whole)),
        (0x0800, ipv4(whole, options=bytes(8))),
        (0x86DD, ipv6(whole)),
        (0x86DD, ipv6(b"\6\0" + bytes(6) + whole, following=0)),
    ]
    frames = [framed(linktype, *shape) for shape in shapes]
    path = tmp_path / "cut.pcap"
    cuts = [
        Packet(frame[:size], build.SECOND, len(frame)) for frame in frames for size in range(len(frame) + 1)
    ]
    path.write_bytes(pcap(cuts, linktype))
    segments, info = assert_equal(path)
    assert {segment.length for segment in segments} == {10}
    assert info.options_cut > 0
    assert info.snaplen_cut == info.packets - len(frames)


def test_vlan_tags_and_other_ethertypes_decode_alike(tmp_path: Path) -> None:
    packet = ipv4(tcp())
    stacks = [(0x8100,), (0x88A8, 0x8100), (0x9100, 0x9200, 0x8100), (0x8100,) * 12]
    frames = [ethernet(packet, tags=stack) for stack in stacks]
    frames += [ethernet(ipv6(tcp()), 0x86DD, tags=stack) for stack in stacks]
    frames += [ethernet(packet, tags=(0x8100,))[:size] for size in range(60)]
    session = b"\x11\0\0\1\0\x40"
    frames += [
        ethernet(session + b"\0\x21" + packet, 0x8864),
        ethernet(session + b"\0\x57" + ipv6(tcp()), 0x8864),
        ethernet(session + b"\xc0\x21", 0x8864),
        ethernet(session, 0x8864, tags=(0x8100,)),
    ]
    frames += [ethernet(b"", ethertype) for ethertype in (0x0806, 0x8847, 0x88CC, 100, 0x6558)]
    path = tmp_path / "tags.pcap"
    path.write_bytes(pcap(timed(frames)))
    segments, info = assert_equal(path)
    assert len(segments) >= 10
    assert info.skipped["tunnel"] == 2
    assert info.skipped["not_ip"] > 2


def test_several_interfaces_with_their_own_links_and_clocks(tmp_path: Path) -> None:
    resolutions = [b"\x06", b"\x09", b"\x03", b"\x00", b"\x0c", b"\x94", b"\xbc"]
    links = [ETHERNET, RAW, SLL]
    out = section()
    for number, resolution in enumerate(resolutions):
        offset = build.option(14, struct.pack("<q", number - 3))
        out += interface(links[number % 3], options=build.option(9, resolution) + offset)
    for number in range(200):
        which = number % len(resolutions)
        frame = framed(links[which % 3], 0x0800, ipv4(tcp(seq=number)))
        out += build.enhanced(Packet(frame, interface=which), ticks=number << number % 56)
    path = tmp_path / "many.pcapng"
    path.write_bytes(out)
    segments, info = assert_equal(path)
    assert [segment.frame for segment in segments] == list(range(1, 201))
    assert info.linktypes == [ETHERNET, RAW, SLL]


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Frames near enough to TCP to get far, and noise."""
    segment = draw(
        st.one_of(
            st.builds(
                tcp,
                flags=st.integers(0, 255),
                options=st.sampled_from(OPTIONS),
                payload=st.binary(max_size=9),
                header=st.one_of(st.none(), st.integers(0, 15)),
                ack=st.integers(0, 2**32 - 1),
            ),
            st.binary(max_size=40),
        )
    )
    ethertype, packet = draw(
        st.one_of(
            st.tuples(
                st.just(0x0800),
                st.builds(
                    ipv4,
                    st.just(segment),
                    options=st.sampled_from([b"", bytes(4), bytes(40)]),
                    total=st.one_of(st.none(), st.integers(0, 100)),
                    fragment=st.sampled_from([0, 0x4000, 0x2000, 7]),
                    protocol=st.sampled_from([6, 6, 6, 17, 4]),
                ),
            ),
            st.tuples(
                st.just(0x86DD),
                st.builds(
                    ipv6,
                    st.just(segment),
                    following=st.sampled_from([6, 6, 0, 44, 51, 17]),
                    length=st.one_of(st.none(), st.integers(0, 100)),
                ),
            ),
            st.tuples(st.integers(0, 65535), st.binary(max_size=60)),
        )
    )
    frame = ethernet(packet, ethertype, tuple(draw(st.lists(st.sampled_from([0x8100, 0x88A8]), max_size=2))))
    return frame[: draw(st.integers(0, 150))]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(frames(), max_size=20), st.sampled_from(["<", ">"]), st.booleans(), st.booleans())
def test_any_packets_decode_alike(
    tmp_path: Path, some: list[bytes], order: str, nano: bool, modern: bool
) -> None:
    path = tmp_path / "any.pcap"
    path.write_bytes(
        pcapng(timed(some), order=order) if modern else pcap(timed(some), order=order, nano=nano)
    )
    assert_equal(path)
