"""Whatever the bytes are: what came before the damage is delivered, the damage named, nothing else raised."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backlogtrace.capture import CaptureInfo, open_capture, walk
from backlogtrace.errors import CaptureError
from tests.capture import capture_files as build
from tests.capture.capture_files import ACK, SYN, SYN_OPTIONS, Packet, ethernet, ipv4, pcap, pcapng, tcp
from tests.capture.test_columns import read_columns, read_plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backlogtrace.segment import Segment

    Reader = Callable[..., tuple[list[Segment], CaptureInfo]]

PACKETS = [
    Packet(
        ethernet(ipv4(tcp(flags=SYN, seq=number, options=SYN_OPTIONS))), build.SECOND * 1_700_000_000 + number
    )
    for number in range(4)
] + [Packet(ethernet(ipv4(tcp(flags=ACK, seq=9, payload=b"x" * 7))), build.SECOND * 1_700_000_001)]
FILES = {
    "pcap": pcap(PACKETS),
    "pcap-be": pcap(PACKETS, order=">", nano=False),
    "pcap-modified": pcap(PACKETS, modified=True),
    "pcapng": pcapng(PACKETS),
    "pcapng-be": pcapng(PACKETS, order=">"),
    "pcapng-sections": pcapng(PACKETS[:2]) + pcapng(PACKETS[2:4], order=">") + pcapng(PACKETS[4:]),
}
READERS = pytest.mark.parametrize("read", [read_plain, read_columns])


@pytest.mark.parametrize("name", FILES)
@READERS
def test_every_truncation_gives_a_prefix_and_one_problem(tmp_path: Path, name: str, read: Reader) -> None:
    whole = FILES[name]
    path = tmp_path / "x"
    path.write_bytes(whole)
    every, info = read(path)
    assert len(every) == len(PACKETS)
    assert info.problems == []
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        try:
            segments, info = read(path)
        except CaptureError as error:
            assert size < 24
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            continue
        assert segments == every[: len(segments)]
        assert info.bytes <= size
        if info.bytes < size:
            assert len(info.problems) == 1
            assert info.problems[0].startswith(f"{path}: byte {info.bytes}, frame {len(segments) + 1}: ")
            assert "ends inside a record" in info.problems[0]
        else:
            assert info.problems == []


@pytest.mark.parametrize("name", FILES)
def test_every_word_changed_is_survived_alike(tmp_path: Path, name: str) -> None:
    whole = FILES[name]
    path = tmp_path / "x"
    for at in range(4, len(whole) - 3, 4):
        for value in (0, 1, 3, 11, 12, 13, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
            path.write_bytes(whole[:at] + value.to_bytes(4, "little") + whole[at + 4 :])
            results: list[object] = []
            for read in (read_plain, read_columns):
                try:
                    results.append(read(path))
                except CaptureError as error:
                    assert at < 28
                    results.append(str(error))
            assert results[0] == results[1]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(FILES)), st.binary(max_size=400), st.integers(0, 200))
def test_random_bytes_are_survived_alike(tmp_path: Path, name: str, noise: bytes, keep: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(FILES[name][:keep] + noise)
    results: list[object] = []
    for read in (read_plain, read_columns):
        try:
            results.append(read(path))
        except CaptureError as error:
            results.append(str(error))
    assert results[0] == results[1]


@READERS
@pytest.mark.parametrize(
    ("block", "what"),
    [
        (build.enhanced(PACKETS[0]._replace(interface=7)), "names interface 7"),
        (build.block(6, bytes(8)), "only 20 bytes"),
        (build.block(6, bytes(12) + b"\xff\0\0\0" + bytes(4)), "claims 255 captured bytes"),
        (build.block(1, bytes(4)), "only 16 bytes"),
        (build.interface(options=build.option(9, b"\x7f")), "if_tsresol 127"),
        (build.interface(options=build.option(9, b"\xff")), "if_tsresol 255"),
        (build.block(3, b""), "no length"),
        (b"\6\0\0\0\x0c\0\0\0\x10\0\0\0", "another at its tail"),
        (b"\6\0\0\0\x0e\0\0\0" + bytes(20), "which no block can have"),
        (b"\6\0\0\0\4\0\0\0" + bytes(20), "which no block can have"),
        (b"\6\0\0\0\0\0\0\2" + bytes(20), "are believed"),
        (b"\n\r\r\n\x1c\0\0\0" + bytes(20), "no byte-order magic"),
    ],
)
def test_pcapng_damage_is_named_with_offset_and_frame(
    tmp_path: Path, read: Reader, block: bytes, what: str
) -> None:
    path = tmp_path / "x.pcapng"
    good = pcapng(PACKETS)
    path.write_bytes(good + block + build.enhanced(PACKETS[0]))
    segments, info = read(path)
    assert len(segments) == len(PACKETS)
    assert len(info.problems) == 1
    assert info.problems[0].startswith(f"{path}: byte {len(good)}, frame 6: ")
    assert what in info.problems[0]


@READERS
def test_impossible_record_of_pcap_is_named(tmp_path: Path, read: Reader) -> None:
    path = tmp_path / "x.pcap"
    good = pcap(PACKETS)
    path.write_bytes(good + bytes(8) + (262145).to_bytes(4, "little") + bytes(300_000))
    segments, info = read(path)
    assert len(segments) == len(PACKETS)
    assert info.problems == [
        (
            f"{path}: byte {len(good)}, frame 6: the record claims 262145 captured bytes, the largest "
            "possible packet has 262144: the file is damaged here, the packets before it were read"
        )
    ]


@READERS
def test_unknown_blocks_drops_and_simple_packets_of_pcapng(tmp_path: Path, read: Reader) -> None:
    head = build.section() + build.interface(snaplen=60)
    data = PACKETS[0].data
    blocks = [
        build.block(0x0BAD, b"custom"),
        build.enhanced(PACKETS[0], options=build.option(4, (3).to_bytes(8, "little"))),
        build.block(3, len(data).to_bytes(4, "little") + data[:60]),
        build.block(2, b"\0\0\2\0" + bytes(8) + len(data).to_bytes(4, "little") * 2 + data),
        build.block(10, b"secrets"),
        build.enhanced(PACKETS[1]),
    ]
    path = tmp_path / "x.pcapng"
    path.write_bytes(head + b"".join(blocks))
    segments, info = read(path)
    assert [segment.time_ns for segment in segments] == [
        PACKETS[0].time_ns,
        PACKETS[0].time_ns,
        0,
        PACKETS[1].time_ns,
    ]
    assert (info.untimed, info.dropped, info.backward_steps, info.options_cut) == (1, 5, 1, 1)
    statistics = build.block(
        5, bytes(12) + build.option(5, (7).to_bytes(8, "little")) + build.option(7, (1).to_bytes(8, "little"))
    )
    path.write_bytes(head + statistics + b"".join(blocks) + statistics)
    assert read(path)[1].dropped == 8


@READERS
def test_times_are_carried_clamped_and_counted(tmp_path: Path, read: Reader) -> None:
    path = tmp_path / "x.pcap"
    data = bytearray(pcap(PACKETS[:2], nano=False))
    data[28:32] = (2_500_000).to_bytes(4, "little")
    path.write_bytes(data)
    segments, info = read(path)
    assert segments[0].time_ns == 1_700_000_002_500_000_000
    assert (info.backward_steps, info.backward_max_ns) == (1, 2_500_000_000)
    assert (info.first_ns, info.last_ns) == (1_700_000_000_000_000_000, 1_700_000_002_500_000_000)
    path.write_bytes(build.section() + build.interface() + build.enhanced(PACKETS[0], ticks=2**64 - 1))
    assert read(path)[0][0].time_ns == 2**63 - 1


# ---- what is no capture at all ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\xd4\xc3", "only 2 bytes"),
        (b"\xd4\xc3\xb2\xa1\2\0", "ends inside the pcap file header"),
        (b"\n\r\r\n\x1c\0", "ends inside the pcapng file header"),
        (b"hello world\n" * 9, "looks like text"),
        ("Grüße, größer\n".encode() * 80, "looks like text"),
        (b"\n\r\r\n" + bytes(30), "no byte-order magic"),
        (b"\xd4\xc3\xb2\xa1\7\0\0\0" + bytes(30), "version 7.0"),
        (b"\x7fELF" + bytes(60), "a program"),
        (b"\xfd7zXZ\0" + bytes(60), "xz -d"),
        (bytes(100), "unknown binary"),
        (b"snoop\0\0\0" + bytes(60), "snoop"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\1\2\3\4\5\6\7\x08\x02\x04\x00\x50\0\0\0\x40" + bytes(90), "ERF"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x1f\x8b\x08" + bytes(50), "gzip"),
        (b"\x28\xb5\x2f\xfd\xff" + bytes(50), "Zstandard"),
        (b"\x28\xb5\x2f\xfd\0\0\1\0\0", "nothing once decompressed"),
        (b"\x04\x22\x4d\x18" + bytes(50), "LZ4"),
    ],
)
def test_files_that_are_no_captures_say_what_they_are(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(CaptureError) as caught:
        open_capture([str(path)])
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert "\n" not in message


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="no such file"):
        open_capture([str(tmp_path / "nothing")])
    with pytest.raises(CaptureError, match="is a directory"):
        open_capture([str(tmp_path)])


# ---- windows and walkers ----------------------------------------------------------------------------


def noisy_packets(count: int, seed: int, nested: bool) -> list[Packet]:
    """Packets of random sizes; `nested` payloads hold captures, to lead walkers astray."""
    chance = random.Random(seed)  # noqa: S311
    inner = pcap([Packet(chance.randbytes(20), build.SECOND * 1_700_000_000 + n) for n in range(60)])[24:]
    inner += pcapng([Packet(chance.randbytes(20), n) for n in range(60)])
    out = []
    for number in range(count):
        body = inner[chance.randrange(400) :] if nested else chance.randbytes(chance.randrange(900))
        frame = ethernet(ipv4(tcp(seq=number, payload=body)))
        out.append(Packet(frame, build.SECOND * 1_700_000_000 + number * 1000))
    return out


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("depth", [0, 2, 24])
@pytest.mark.parametrize("order", ["<", ">"])
def test_walkers_find_every_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool, depth: int, order: str
) -> None:
    monkeypatch.setattr(walk, "_MIN_PART", 1 << 11)
    monkeypatch.setattr(walk, "_SYNC_DEPTH", depth)
    packets = noisy_packets(600, 1, nested)
    for data in (pcap(packets, order=order), pcapng(packets, order=order)):
        path = tmp_path / "x"
        path.write_bytes(data)
        plainly, _ = read_plain(path)
        assert [segment.seq for segment in plainly] == list(range(600))
        for window in (1 << 30, 100_000, 3000):
            segments, info = read_columns(path, window=window)
            assert segments == plainly
            assert info.problems == []


def test_progress_and_context(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(FILES["pcap"])
    seen: list[tuple[int, int | None]] = []
    with open_capture([str(path)], progress=lambda done, total: seen.append((done, total))) as capture:
        assert sum(map(len, capture.chunks())) == 5
    assert seen[-1] == (len(FILES["pcap"]), len(FILES["pcap"]))
    assert capture.info.format == "pcap"
    assert capture.info.names == [str(path)]
