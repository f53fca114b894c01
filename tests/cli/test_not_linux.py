"""A capture of a server that is no Linux kernel, as a user meets what is said of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from backlogtrace.cli.app import app
from tests.capture.capture_files import Packet, ipv4, pcap, tcp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from subprocess import CompletedProcess

SERVER, CLIENT, PORT = "10.9.0.1", "10.9.0.2", 80
START_NS = 1_795_322_240_000_000_000
OFFERED = bytes.fromhex("020405b4 01030307 01010402")  # MSS 1460, window scale 7, SACK
SYN, ACK, RST, SYNACK = 0x02, 0x10, 0x04, 0x12


def packet(ms: float, number: int, flags: int, seq: int, ack: int, options: bytes = b"") -> tuple[int, bytes]:
    """A packet of client `number`, or to it if it is the server's (SYN-ACK, RST, or an ACK of 7001)."""
    out = flags in {SYNACK, RST | ACK} or seq == 7001
    ports = (PORT, 4000 + number) if out else (4000 + number, PORT)
    window = 0 if flags & RST else 65535
    segment = tcp(*ports, flags, seq=seq, ack=ack, window=window, options=options)
    addresses = (SERVER, CLIENT) if out else (CLIENT, SERVER)
    return START_NS + round(ms * 1e6), ipv4(segment, *addresses)


def windows() -> list[tuple[int, bytes]]:
    """Four clients wait, eight are reset meanwhile, the four are served."""
    packets = []
    for n in range(1, 5):
        packets += [packet(n, n, SYN, 1000, 0, OFFERED), packet(n + 0.1, n, SYNACK, 7000, 1001, OFFERED)]
    for n in range(5, 13):
        packets += [packet(n, n, SYN, 1000, 0, OFFERED), packet(n + 0.1, n, RST | ACK, 0, 1001)]
    for n in range(1, 5):
        packets += [packet(30 + n, n, ACK, 1001, 7001), packet(60 + n, n, 0x18, 1001, 7001)]
    packets += [packet(90 + n, n, ACK, 7001, 1002) for n in range(1, 5)]
    return sorted(packets)


def silent_clients(seconds: tuple[int, ...]) -> list[tuple[int, bytes]]:
    """Six clients that never answer their SYN-ACK, which comes at these seconds; one finds no room."""
    packets = []
    for n in range(1, 7):
        at = 10 * n
        packets.append(packet(at, n, SYN, 1000, 0, OFFERED))
        packets += [packet(at + 0.1 + s * 1000, n, SYNACK, 7000, 1001, OFFERED) for s in seconds]
    packets += [packet(ms, 9, SYN, 1000, 0, OFFERED) for ms in (100, 1100, 20_000)]
    return sorted(packets)


def patient_bsd() -> list[tuple[int, bytes]]:
    return silent_clients((0, 3, 9))


def linux() -> list[tuple[int, bytes]]:
    return silent_clients((0, 1, 3, 7, 15))


def shown(tmp_path: Path, packets: list[tuple[int, bytes]], *arguments: str) -> tuple[int, str]:
    path = tmp_path / "server.pcap"
    path.write_bytes(pcap([Packet(data, when) for when, data in packets], linktype=101))
    result = CliRunner().invoke(app, [*arguments, str(path)], env={"COLUMNS": "100"})
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize(
    ("packets", "sign"),
    [(windows(), "the port reset SYNs in between"), (patient_bsd(), "repeated at other times than")],
    ids=["windows", "bsd"],
)
def test_report_doubts_the_model_and_names_the_sign(
    tmp_path: Path, packets: list[tuple[int, bytes]], sign: str
) -> None:
    code, text = shown(tmp_path, packets, "analyze", "--color", "never")
    assert code == 0
    assert "This may be no Linux server: the model may not apply." in text
    assert "10.9.0.1:80 may be no Linux server: " in text
    assert sign in text
    assert "(frame " in text
    assert "raise" not in text
    assert "The accept queue was full" not in text


def test_strict_is_inconclusive(tmp_path: Path, run: Callable[..., CompletedProcess[str]]) -> None:
    path = tmp_path / "server.pcap"
    path.write_bytes(pcap([Packet(data, when) for when, data in windows()], linktype=101))
    result = run("analyze", "--strict", path)
    assert result.returncode == 4
    assert "may be no Linux server" in result.stderr


def test_linux_timers_are_not_doubted(tmp_path: Path) -> None:
    _, text = shown(tmp_path, linux(), "analyze", "--color", "never")
    assert "no Linux" not in text


def test_infer_says_that_all_may_be_void(tmp_path: Path) -> None:
    _, text = shown(tmp_path, patient_bsd(), "infer")
    assert "may be no Linux server, and all of this void" in text
    _, document = shown(tmp_path, patient_bsd(), "infer", "-T", "json")
    assert "repeated at other times" in json.loads(document)["listeners"][0]["not_linux"]
    _, document = shown(tmp_path, linux(), "infer", "-T", "json")
    assert json.loads(document)["listeners"][0]["not_linux"] is None
