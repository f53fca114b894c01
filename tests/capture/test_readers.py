"""The readers on the same captures: native, scapy, pyshark, and tshark's own fields as outside opinion."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backlogtrace.capture import CaptureInfo, open_capture, pyshark_reader, scapy_reader
from backlogtrace.capture.options import parse_options
from backlogtrace.capture.packet import decode
from backlogtrace.errors import BacklogtraceError, CaptureError, UsageError
from backlogtrace.segment import SYN, Segment, endpoint

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import ModuleType

FIXTURES = Path(__file__).parents[2] / "fixtures"
FORMATS = {path.parent.name: path for path in sorted(FIXTURES.glob("format-*/capture.*"))}
BY_FORMAT = pytest.mark.parametrize("capture", FORMATS.values(), ids=FORMATS)
# A second each: those that only differ in what tshark itself decodes are left to the field comparison.
PYSHARK_FORMATS = ("base-ip6", "pcapng", "fragments-and-noise", "ip6-ext", "snaplen-cut")


def maker() -> ModuleType:
    """The script that lays out the fixtures' bytes: independent of every reader."""
    spec = importlib.util.spec_from_file_location("make", FIXTURES / "make.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = maker()


@pytest.fixture(scope="session")
def tshark() -> str:
    path = shutil.which("tshark")
    if path is None:
        pytest.fail("these tests compare with tshark, which is missing: `make test` installs it")
    return path


def read(path: Path, reader: str) -> tuple[list[Segment], CaptureInfo]:
    with open_capture([str(path)], reader=reader, keep_all=True) as capture:
        found = [one for chunk in capture.chunks() for one in chunk if isinstance(one, Segment)]
        return found, capture.info


# --- formats ----------------------------------------------------------------------------------


FIELDS = (
    "frame.number", "frame.time_epoch", "ip.src", "ipv6.src", "tcp.srcport", "ip.dst", "ipv6.dst",
    "tcp.dstport", "tcp.flags", "tcp.seq_raw", "tcp.ack_raw", "tcp.window_size_value", "tcp.len",
    "tcp.options.mss_val", "tcp.options.wscale.shift", "tcp.options.sack_perm", "tcp.options.timestamp.tsval",
    "tcp.options.timestamp.tsecr", "tcp.options.tfo.cookie",
)  # fmt: skip


def tshark_segments(tshark: str, path: Path, profile: Path) -> list[Segment]:
    """What `tshark -T fields` says of the whole TCP segments in a capture."""
    command = [tshark, "-n", "-r", str(path), "-T", "fields", "-o", "tcp.desegment_tcp_streams:FALSE"]
    command += ["-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE"]
    command += ["-Y", "tcp && !icmp && ip.flags.mf != 1 && ip.frag_offset == 0 || tcp && ipv6"]
    for field in FIELDS:
        command += ["-e", field]
    environment = os.environ | {"WIRESHARK_CONFIG_DIR": str(profile)}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return [segment_of_fields(line.split("\t")) for line in output.splitlines()]


def segment_of_fields(values: list[str]) -> Segment:
    field = dict(zip(FIELDS, values, strict=True))
    seconds, fraction = field["frame.time_epoch"].split(".")
    return Segment(
        int(field["frame.number"]),
        int(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0")),
        endpoint(field["ip.src"] or field["ipv6.src"], int(field["tcp.srcport"])),
        endpoint(field["ip.dst"] or field["ipv6.dst"], int(field["tcp.dstport"])),
        int(field["tcp.flags"], 16) & 0xFF,
        int(field["tcp.seq_raw"]),
        int(field["tcp.ack_raw"]),
        int(field["tcp.window_size_value"]),
        int(field["tcp.len"]),
        int(field["tcp.options.mss_val"] or 0),
        int(field["tcp.options.wscale.shift"] or -1),
        bool(field["tcp.options.sack_perm"]),
        int(field["tcp.options.timestamp.tsval"] or -1),
        int(field["tcp.options.timestamp.tsecr"] or -1),
        bytes.fromhex(field["tcp.options.tfo.cookie"]) or None,
    )


@BY_FORMAT
def test_native_reads_what_tshark_reads(capture: Path, tshark: str, tmp_path: Path) -> None:
    segments, info = read(capture, "native")
    assert segments == tshark_segments(tshark, capture, tmp_path)
    assert info.problems == []


@BY_FORMAT
def test_scapy_reads_what_native_reads(capture: Path) -> None:
    native, info = read(capture, "native")
    segments, scapy_info = read(capture, "scapy")
    assert segments == native
    assert scapy_info.packets == info.packets
    # The exception: scapy looks into the GRE tunnels of the noise, and finds UDP.
    assert scapy_info.skipped == without_tunnels(info.skipped)
    assert (scapy_info.first_ns, scapy_info.last_ns, scapy_info.snaplen_cut) == (
        info.first_ns, info.last_ns, info.snaplen_cut)  # fmt: skip
    assert scapy_info.linktypes == info.linktypes


@pytest.mark.parametrize("name", PYSHARK_FORMATS)
def test_pyshark_reads_what_native_reads(name: str, tshark: str) -> None:
    native, info = read(FORMATS[f"format-{name}"], "native")
    segments, pyshark_info = read(FORMATS[f"format-{name}"], "pyshark")
    assert segments == native
    expected = without_tunnels(info.skipped)
    if name == "pcapng":
        # The exception: pyshark never hears of the packet without a time at the end.
        assert expected.pop("not_tcp") == 1
    assert pyshark_info.skipped == expected
    assert pyshark_info.snaplen_cut == info.snaplen_cut
    assert pyshark_info.problems == []


def without_tunnels(skipped: dict[str, int]) -> dict[str, int]:
    counts = dict(skipped)
    tunnels = counts.pop("tunnel", 0)
    return counts | {"not_tcp": counts["not_tcp"] + tunnels} if tunnels else counts


@BY_FORMAT
def test_every_format_shows_its_base(capture: Path) -> None:
    """Same segments in the same order; frame numbers where there is no noise; times to the format's unit."""
    name = capture.parent.name.removeprefix("format-")
    base, _ = read(FORMATS["format-base-ip6" if "ip6" in name else "format-base"], "native")
    segments, _ = read(capture, "native")
    assert [segment[2:] for segment in segments] == [segment[2:] for segment in base]
    unit = 1000 if "-us-" in name or name == "pcapng-be" else 1
    assert [segment.time_ns for segment in segments] == [segment.time_ns // unit * unit for segment in base]
    if name != "fragments-and-noise":
        assert [segment.frame for segment in segments] == [segment.frame for segment in base]


def test_fixtures_are_what_their_script_writes() -> None:
    assert set(FORMATS) == {f"format-{name}" for name in (*MAKE.FIXTURES, "base", "base-ip6")}
    bases = {name: MAKE.read_base(f"format-{name}") for name in ("base", "base-ip6")}
    for name, (base, extension, build) in MAKE.FIXTURES.items():
        written = (FIXTURES / f"format-{name}" / f"capture.{extension}").read_bytes()
        assert MAKE.decompressed(written) == MAKE.decompressed(build(bases[base])), name


def test_fixtures_stay_small() -> None:
    assert sum(path.stat().st_size for path in FORMATS.values()) < 600_000


# --- tunnels ----------------------------------------------------------------------------------


OPTIONS = b"\x02\x04\x05\xb4\x04\x02\x01\x01"
SYN_BYTES = struct.pack("!HHIIBBHHH", 20001, 80, 7, 0, 0x70, 0x02, 64240, 0, 0) + OPTIONS
INNER = MAKE.ipv4("10.0.0.1", "10.0.0.2", 6, SYN_BYTES)
INNER6 = (
    struct.pack("!IHBB", 0x60000000, len(SYN_BYTES), 6, 64)
    + socket.inet_pton(socket.AF_INET6, "fd00::1")
    + socket.inet_pton(socket.AF_INET6, "fd00::2")
    + SYN_BYTES
)


def outer(protocol: int, payload: bytes) -> bytes:
    carried: bytes = MAKE.ipv4("192.0.2.1", "192.0.2.2", protocol, payload)
    return carried


FRAME = MAKE.on_ethernet(INNER)
TUNNELS = {
    "vxlan": outer(17, MAKE.udp(50000, 4789, b"\x08\x00\x00\x00\x00\x00\x05\x00" + FRAME)),
    "geneve": outer(17, MAKE.udp(50000, 6081, b"\x00\x00\x65\x58\x00\x00\x05\x00" + FRAME)),
    "gre": outer(47, b"\x00\x00\x08\x00" + INNER),
    "ipip": outer(4, INNER),
    "ipip-twice": outer(4, outer(4, INNER)),
    "6in4": outer(41, INNER6),
}


@pytest.fixture(scope="module")
def tunnels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tunnels") / "tunnels.pcap"
    packets = [MAKE.Packet(1000 + n, packet, len(packet)) for n, packet in enumerate(TUNNELS.values())]
    mpls = MAKE.ethernet(0x8847, struct.pack("!I", 5 << 12 | 0x100 | 64) + INNER, outgoing=True)
    packets = [*MAKE.wrapped(packets, MAKE.on_ethernet), MAKE.Packet(2000, mpls, len(mpls))]
    path.write_bytes(MAKE.pcap(packets, 1))
    return path


def test_native_stays_out_of_tunnels(tunnels: Path) -> None:
    segments, info = read(tunnels, "native")
    assert segments == []
    assert info.skipped == {"tunnel": len(TUNNELS) + 1}


@pytest.mark.parametrize("reader", ["scapy", "pyshark"])
def test_innermost_tcp_wins(reader: str, tunnels: Path, tshark: str) -> None:
    segments, info = read(tunnels, reader)
    four = endpoint("10.0.0.1", 20001), endpoint("10.0.0.2", 80)
    six = endpoint("fd00::1", 20001), endpoint("fd00::2", 80)
    assert [(segment.src, segment.dst) for segment in segments] == [four] * 5 + [six, four]
    assert {segment[4:] for segment in segments} == {(SYN, 7, 0, 64240, 0, 1460, -1, True, -1, -1, None)}
    assert [segment.frame for segment in segments] == [1, 2, 3, 4, 5, 6, 7]
    # MPLS labels a packet, it does not carry another IP header; the six others are told apart.
    assert sum("came through a tunnel" in note for note in info.notes) == len(TUNNELS)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["scapy", "pyshark"])
def test_cut_file_gives_what_comes_before_and_a_problem(reader: str, tmp_path: Path, tshark: str) -> None:
    whole = FORMATS["format-base"].read_bytes()
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(whole[: len(whole) // 2])
    segments, info = read(cut, reader)
    assert 30 < len(segments) < 40
    assert segments == read(FORMATS["format-base"], "native")[0][: len(segments)]
    (problem,) = info.problems
    assert str(cut) in problem
    assert "cut" in problem


@pytest.mark.parametrize("reader", ["scapy", "pyshark"])
@pytest.mark.parametrize(("content", "words"), [(b"hello you\n", "text"), (b"", "empty"), (None, "no such")])
def test_no_capture_is_an_error(reader: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CaptureError, match=words):
        read(path, reader)


HEADERS = {
    "doff below 5": (INNER[:32] + b"\x40" + INNER[33:], None, "bad_header"),
    "doff beyond the packet": (INNER[:32] + b"\xf0" + INNER[33:], None, "bad_header"),
    "no room for TCP": (INNER[:2] + b"\x00\x1e" + INNER[4:], None, "bad_header"),
    "IP header length 4": (b"\x44" + INNER[1:], None, "bad_header"),
    "cut in the TCP header": (INNER[:36], len(INNER), "truncated_headers"),
    "first fragment": (INNER[:6] + b"\x20\x00" + INNER[8:], None, "fragment"),
    "UDP": (outer(17, MAKE.udp(1, 2, b"")), None, "not_tcp"),
}


@pytest.mark.parametrize("reader", ["native", "scapy", "pyshark"])
def test_reasons_have_the_same_words(reader: str, tmp_path: Path, tshark: str) -> None:
    path = tmp_path / "odd.pcap"
    packets = [MAKE.Packet(1, data, original or len(data)) for data, original, _ in HEADERS.values()]
    path.write_bytes(MAKE.pcap(packets, 101))
    assert read(path, reader)[1].skipped == Counter(reason for _, _, reason in HEADERS.values())


@pytest.mark.parametrize("reader", ["native", "scapy", "pyshark"])
def test_length_zero_and_cut_options(reader: str, tmp_path: Path, tshark: str) -> None:
    """Segmentation offload takes the length from the record; of cut options those that are whole count."""
    path = tmp_path / "offload.pcap"
    offload = INNER[:2] + b"\x00\x00" + INNER[4:] + bytes(3000)
    packets = [MAKE.Packet(1, offload, len(offload)), MAKE.Packet(2, INNER[:45], len(INNER))]
    path.write_bytes(MAKE.pcap(packets, 101))
    (first, second), info = read(path, reader)
    assert (first.length, first.mss, first.sack_ok) == (3000, 1460, True)
    assert (second.length, second.mss, second.sack_ok) == (0, 1460, False)
    assert (info.options_cut, info.snaplen_cut) == (1, 1)
    # The exception: tshark shows a length of 0 as the length that it used instead.
    assert info.length_zero == (reader != "pyshark")


FIRST_PACKETS = [
    (linktype, FORMATS[f"format-{name}"].read_bytes()[40:114])
    for name, linktype in (("ethernet", 1), ("sll", 113), ("ip-options", 101), ("ip6-ext", 101))
]
CHANGES = st.dictionaries(st.integers(0, 73), st.integers(0, 255), max_size=4)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FIRST_PACKETS), CHANGES, st.integers(0, 74))
def test_scapy_never_fails_and_agrees_with_native(
    packet: tuple[int, bytes], changes: dict[int, int], keep: int
) -> None:
    linktype, data = packet
    captured = bytes(changes.get(at, value) for at, value in enumerate(data))[:keep]
    native = decode(captured, 0, len(captured), len(data), linktype, CaptureInfo())
    scapy = scapy_reader._Dissector().segment(captured, len(data), linktype, CaptureInfo())
    if not isinstance(native, str) and not isinstance(scapy, str):
        assert scapy == Segment(0, 0, *native[:7], *parse_options(native[7], native[2] & SYN != 0))


# --- tshark as a guest ------------------------------------------------------------------------


def children(name: str) -> list[int]:
    """Processes of that name that this process started and that are still there, dead or alive."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = status.read_text().split(" (", 1)
        except OSError:
            continue
        command, fields = rest.rsplit(") ", 1)
        if command == name and int(fields.split()[1]) == os.getpid():
            found.append(int(pid))
    return found


def pyshark_segments(path: Path | str) -> Generator[Segment, None, None]:
    yield from pyshark_reader.segments(str(path), CaptureInfo())


def test_no_tshark_is_left_behind(tmp_path: Path, tshark: str) -> None:
    """Also when the caller stops early, while tshark has more to say than the pipe holds."""
    path = tmp_path / "long.pcap"
    path.write_bytes(MAKE.pcap(MAKE.read_base("format-base") * 10, 101))
    segments = pyshark_segments(path)
    assert next(segments).frame == 1
    assert children("tshark")
    segments.close()
    assert children("tshark") == []
    assert len(list(pyshark_segments(path))) == 700
    assert children("tshark") == []


def test_a_file_name_is_no_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tshark: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.lua").write_text("io.open('ran', 'w'):close()\n")
    name = "-Xlua_script:x.lua"
    shutil.copy(FORMATS["format-base"], tmp_path / name)
    assert len(list(pyshark_segments(name))) == 70
    assert not Path("ran").exists()


def test_the_users_profile_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tshark: str) -> None:
    (tmp_path / "disabled_protos").write_text("tcp\n")
    monkeypatch.setenv("WIRESHARK_CONFIG_DIR", str(tmp_path))
    monkeypatch.delenv("HOME")
    assert len(list(pyshark_segments(FORMATS["format-base"]))) == 70
    assert os.environ["WIRESHARK_CONFIG_DIR"] == str(tmp_path)
    assert "HOME" not in os.environ


def test_missing_tools_say_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(BacklogtraceError, match="apt install tshark"):
            read(FORMATS["format-base"], "pyshark")
    for reader, module in (("pyshark", "pyshark"), ("scapy", "scapy.config")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(BacklogtraceError, match="pip install"):
                read(FORMATS["format-base"], reader)


def test_pyshark_reads_no_pipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("-", str(tmp_path / "pipe")):
        with pytest.raises(UsageError, match="pipe"):
            next(pyshark_segments(name))
