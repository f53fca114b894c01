"""Small captures made on the spot: a listener that overflows, and ways to run the program."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
SERVER, PORT = "10.9.0.1", 80
START_S = 1_795_322_240
SYN, ACK, RST = 0x02, 0x10, 0x04


def tcp(src: str, sport: int, dst: str, dport: int, seq: int, ack: int, flags: int) -> bytes:
    """An IPv4 packet with a bare TCP header (checksums are the network card's business)."""
    header = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 5 << 4, flags, 65535, 0, 0)
    addresses = socket.inet_aton(src) + socket.inet_aton(dst)
    return struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + addresses + header


def pcap(packets: list[tuple[int, bytes]]) -> bytes:
    """A pcap of raw IP packets; times in milliseconds after the start."""
    parts = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)]
    for ms, data in packets:
        parts.append(
            struct.pack("<IIII", START_S + ms // 1000, ms % 1000 * 1000, len(data), len(data)) + data
        )
    return b"".join(parts)


def handshake(number: int, ms: int, *, refused: bool = False) -> list[tuple[int, bytes]]:
    """SYN, SYN-ACK, ACK of one client; of a refused one only the SYN."""
    client, port = "10.9.0.2", 4000 + number
    syn = (ms, tcp(client, port, SERVER, PORT, 1000, 0, SYN))
    if refused:
        return [syn]
    return [
        syn,
        (ms, tcp(SERVER, PORT, client, port, 5000, 1001, SYN | ACK)),
        (ms + 1, tcp(client, port, SERVER, PORT, 1001, 5001, ACK)),
    ]


OVERFLOWING = [*handshake(1, 0), *handshake(2, 10), *handshake(3, 20, refused=True)]
"""Backlog 1 holds two connections; the third SYN is dropped."""

HOST: dict[str, Any] = {
    "kernel": "5.10",
    "sysctl": {
        "net.core.somaxconn": 128, "net.ipv4.tcp_syncookies": 1, "net.ipv4.tcp_abort_on_overflow": 0,
    },
    "listeners": [{"address": SERVER, "port": PORT, "backlog": 1}],
    "events": [],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with capture.pcap and host.json of an overflowing listener."""
    (tmp_path / "capture.pcap").write_bytes(pcap(OVERFLOWING))
    (tmp_path / "host.json").write_text(json.dumps(HOST))
    return tmp_path


@pytest.fixture
def quiet(tmp_path: Path) -> Path:
    """A capture in which all is well."""
    path = tmp_path / "quiet.pcap"
    path.write_bytes(pcap(handshake(1, 0)))
    return path


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the program in a process of its own, in an environment without preferences."""

    def call(
        *arguments: str | Path, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if name not in {"COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERM", "PYTHONIOENCODING"}
        }
        return subprocess.run(
            [sys.executable, "-m", "backlogtrace", *map(str, arguments)],
            check=False, capture_output=True, encoding="utf-8", errors="surrogateescape", timeout=120,
            env=clean | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"} | (env or {}), **options,
        )  # fmt: skip

    return call
