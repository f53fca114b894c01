"""Compression, pipes and several files."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import lz4.frame
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backlogtrace.capture import open_capture, reader
from backlogtrace.errors import CaptureError, UsageError
from backlogtrace.segment import Segment
from tests.capture.capture_files import (
    ACK,
    SECOND,
    SYN,
    SYN_OPTIONS,
    Packet,
    ethernet,
    ipv4,
    ipv6,
    pcap,
    pcapng,
    tcp,
)

if TYPE_CHECKING:
    from backlogtrace.capture.info import CaptureInfo

ROOT = Path(__file__).parents[2]


def some_packets(count: int, start: int = 0, step: int = 10) -> list[Packet]:
    frames = (
        ethernet(ipv4(tcp(seq=start + number, flags=SYN, options=SYN_OPTIONS))) for number in range(count)
    )
    return [
        Packet(frame, SECOND * 1_700_000_000 + start + number * step) for number, frame in enumerate(frames)
    ]


def read(*paths: Path | str, keep_all: bool = True, name: str = "auto") -> tuple[list[Segment], CaptureInfo]:
    with open_capture([str(path) for path in paths], keep_all=keep_all, reader=name) as capture:
        found = [one for chunk in capture.chunks() for one in chunk if isinstance(one, Segment)]
        return found, capture.info


@pytest.fixture(params=["plain", "columns"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of reading, whatever the size."""
    if request.param == "columns":
        monkeypatch.setattr(reader, "SMALL", 0)
    return str(request.param)


COMPRESS = {
    "gz": gzip.compress,
    "gz-members": lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]) + bytes(20),
    "zst": zstandard.compress,
    "zst-frames": lambda data: zstandard.compress(data[:1000]) + zstandard.compress(data[1000:]),
    "lz4": lz4.frame.compress,
    "lz4-frames": lambda data: lz4.frame.compress(data[:1000]) + lz4.frame.compress(data[1000:]),
}


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("write", [pcap, pcapng])
def test_compressed_captures_read_alike_whatever_their_name(
    tmp_path: Path, way: str, kind: str, write: object
) -> None:
    assert callable(write)
    data = write(some_packets(300))
    plain, packed = tmp_path / "a.gz", tmp_path / "b.pcap"
    plain.write_bytes(data)
    packed.write_bytes(COMPRESS[kind](data))
    segments, info = read(packed)
    assert segments == read(plain)[0]
    assert len(segments) == 300
    assert (info.bytes, info.problems) == (len(data), [])


@pytest.mark.parametrize("kind", ["gz", "zst", "lz4"])
def test_every_cut_of_compressed_data_gives_a_prefix(tmp_path: Path, way: str, kind: str) -> None:
    packed = COMPRESS[kind](pcap(some_packets(40)))
    path = tmp_path / "x"
    path.write_bytes(packed)
    every = read(path)[0]
    for size in range(1, len(packed), 5):
        path.write_bytes(packed[:size])
        try:
            segments, info = read(path)
        except CaptureError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            continue
        assert segments == every[: len(segments)]
        assert len(segments) == len(every) or info.problems


def test_damaged_compression_is_a_problem_after_what_was_read(tmp_path: Path, way: str) -> None:
    path = tmp_path / "x.gz"
    data = pcap(some_packets(2000))
    path.write_bytes(gzip.compress(data[: len(data) // 2]) + b"rubbish, not a member")
    segments, info = read(path)
    assert len(segments) == 1000 - 1
    assert any("gzip data is damaged" in problem for problem in info.problems)


def test_a_bomb_stays_small_in_memory(tmp_path: Path) -> None:
    """100 MB of zeros (records of no bytes at time 0) in 0.1 MB."""
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(pcap([]))
        for _ in range(100):
            out.write(bytes(1 << 20))
    code = (
        "import resource, sys\n"
        "from backlogtrace.capture import open_capture\n"
        "capture = open_capture([sys.argv[1]])\n"
        "usage = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(sum(map(len, capture.chunks())), capture.info.packets, usage.ru_maxrss)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True, cwd=ROOT
    )
    kept, packets, kilobytes = map(int, done.stdout.split())
    assert (kept, packets) == (0, 100 << 16)
    assert kilobytes < 256_000


def test_a_pipe_delivers_packets_before_it_ends(tmp_path: Path, way: str) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    data = pcap(some_packets(20))
    first_read = threading.Event()
    cut = len(pcap(some_packets(5))) + 30

    def feed() -> None:
        with path.open("wb", buffering=0) as pipe:
            pipe.write(data[:cut])
            assert first_read.wait(60)
            pipe.write(data[cut:])

    feeder = threading.Thread(target=feed)
    feeder.start()
    with open_capture([str(path)], keep_all=True) as capture:
        chunks = capture.chunks()
        assert [segment.frame for segment in next(chunks)] == [1, 2, 3, 4, 5]
        first_read.set()
        rest = [segment.frame for chunk in chunks for segment in chunk]
    feeder.join()
    assert rest == list(range(6, 21))
    assert capture.info.problems == []


@pytest.mark.parametrize("kind", ["plain", "gz"])
def test_standard_input(tmp_path: Path, kind: str) -> None:
    data = pcap(some_packets(50))
    code = (
        "from backlogtrace.capture import open_capture\n"
        "capture = open_capture(['-'])\n"
        "print(sum(map(len, capture.chunks())), capture.info.names, capture.info.problems)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=gzip.compress(data) if kind == "gz" else data,
        check=True,
        capture_output=True,
        cwd=ROOT,
    )
    assert done.stdout.decode() == "50 ['-'] []\n"


def test_standard_input_cannot_be_merged(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be merged"):
        open_capture(["-", str(tmp_path / "x")])
    with pytest.raises(UsageError, match="unknown reader"):
        open_capture(["-"], reader="tcpdump")
    with pytest.raises(UsageError, match="no capture named"):
        open_capture([])


# ---- merging ----------------------------------------------------------------------------------------


def k_way(files: list[list[Packet]]) -> list[Packet]:
    """The order of mergecap, step by step."""
    queues = [list(packets) for packets in files]
    out = []
    while any(queues):
        number = min((queue[0].time_ns, number) for number, queue in enumerate(queues) if queue)[1]
        out.append(queues[number].pop(0))
    return out


def seqs(packets: list[Packet]) -> list[int]:
    return [int.from_bytes(packet.data[38:42], "big") for packet in packets]


@pytest.mark.parametrize("window", [120, 1000, 1 << 20])
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 20), st.sampled_from("46x")), max_size=15), min_size=2, max_size=4
    )
)
def test_files_merge_as_mergecap_would(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch, window: int, times: list[list[tuple[int, str]]]
) -> None:
    monkeypatch.setattr(reader, "MERGE_WINDOW", window)
    files = []
    serial = 0
    for file in times:
        packets = []
        for time, kind in file:
            serial += 1
            segment = tcp(seq=serial, options=SYN_OPTIONS[: 4 * (serial % 6)])
            frame = {
                "4": ethernet(ipv4(segment)),
                "6": ethernet(ipv6(segment), 0x86DD),
                "x": ethernet(b"", 0x0806),
            }
            packets.append(Packet(frame[kind], time))
        files.append(packets)
    paths = []
    for number, packets in enumerate(files):
        paths.append(tmp_path / f"{number}.pcap")
        paths[-1].write_bytes(pcap(packets))
    segments, info = read(*paths)
    joined = tmp_path / "joined.pcap"
    joined.write_bytes(pcap(k_way(files)))
    expected, expected_info = read(joined)
    assert segments == expected
    assert (info.packets, info.skipped) == (expected_info.packets, expected_info.skipped)
    assert (info.backward_steps, info.first_ns, info.last_ns) == (
        expected_info.backward_steps,
        expected_info.first_ns,
        expected_info.last_ns,
    )


@pytest.mark.skipif(shutil.which("mergecap") is None, reason="mergecap is not installed")
def test_merge_agrees_with_mergecap(tmp_path: Path, way: str) -> None:
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.pcap")
        paths[-1].write_bytes(pcap(some_packets(50, 3 * number, step=10 + 10 * number)))
    merged = tmp_path / "merged.pcapng"
    subprocess.run(["mergecap", "-w", str(merged), *map(str, paths)], check=True, capture_output=True)
    segments, info = read(*paths)
    assert segments == read(merged)[0]
    assert info.format == "pcap"


def test_servers_learnt_from_one_file_count_in_the_next(tmp_path: Path, way: str) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_bytes(pcap(some_packets(3)))
    two.write_bytes(pcap([Packet(ethernet(ipv4(tcp(flags=ACK, sport=9))), 2**40 * 2**21)]))
    assert [segment.frame for segment in read(two, one, keep_all=False)[0]] == [1, 2, 3, 4]
    assert read(two, keep_all=False)[1].midstream == 1


def test_damage_of_one_file_does_not_end_the_others(tmp_path: Path, way: str) -> None:
    one, two, empty = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    one.write_bytes(pcap(some_packets(10))[:-5])
    two.write_bytes(pcap(some_packets(10, 5)))
    empty.write_bytes(pcap([]))
    segments, info = read(one, two, empty)
    assert len(segments) == 19
    assert len(info.problems) == 1
    assert info.problems[0].startswith(f"{one}: byte ")


def test_other_readers_are_merged_too(tmp_path: Path) -> None:
    one, two = tmp_path / "1.pcap", tmp_path / "2.pcap"
    one.write_bytes(pcap(some_packets(5, 0, 10)))
    two.write_bytes(pcap(some_packets(5, 5, 10)))
    segments, info = read(one, two, name="scapy")
    assert segments == read(one, two)[0]
    assert (info.kept, info.tcp_packets, info.format) == (10, 10, info.format)
