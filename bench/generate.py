"""Large synthetic captures for the benchmark: a SYN flood, a busy web server, bulk transfers.

    python bench/generate.py [DIRECTORY] [--only NAME] [--scale FACTOR]

| name  | content                                                                                    |
|-------|--------------------------------------------------------------------------------------------|
| flood | 1,000,000 SYNs in 20 s, 600,767 SYN cookies in answer, 180,351 ACKs; one listener          |
| web   | 100,000 connections of 20 packets, TLS-like payload, 10 % IPv6, 1 % DNS; 120 s, 1.2 GB     |
| bulk  | 2,000 connections of 1,500 packets, two full-size segments per ACK, cut at 96 bytes        |

The packets are those at the server's interface. The server of `flood` runs with tcp_syncookies=2
and stalls ten times; while its accept queue is full it drops SYNs. The other two servers are never
short of anything. TCP checksums are zero, as where the network card fills them in.

The bytes depend on the seed below and on numpy's generator only. Knows pcap files and how healthy
conversations look; refuses to know the package that is measured with them.
"""

from __future__ import annotations

import argparse
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

SEED = 20170614
EPOCH_US = 1_700_000_000_000_000
CHUNK = 65_536
"""Packets laid out and written at a time."""
FIN, SYN, PSH, ACK = 0x01, 0x02, 0x08, 0x10
TCP, DNS_QUERY, DNS_ANSWER = 0, 1, 2
ETHERNET_MINIMUM = 60
SERVER_MAC, GATEWAY_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
DNS_NAME = b"\x03www\x07example\x03org\x00\x00\x01\x00\x01"
DNS_BODY = {
    DNS_QUERY: bytes.fromhex("01000001000000000000") + DNS_NAME,
    DNS_ANSWER: bytes.fromhex("81800001000100000000")
    + DNS_NAME
    + bytes.fromhex("c00c00010001000000300004c6336401"),
}
CLIENT_HELLO = bytes.fromhex("160301020001")
"""Record of 512 bytes with a ClientHello: 517 bytes, as browsers pad it."""

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.void]

# fmt: off
PACKET = np.dtype([
    ("time", "u8"), ("src", "u4"), ("dst", "u4"), ("sport", "u2"), ("dport", "u2"),
    ("seq", "u4"), ("ack", "u4"), ("flags", "u1"), ("window", "u2"), ("length", "u2"), ("options", "u1"),
    ("v6", "?"), ("inbound", "?"), ("tsval", "u4"), ("tsecr", "u4"), ("id", "u2"), ("kind", "u1"),
])
"""One packet before it is laid out; an IPv6 address is fd09:: plus the 32 bits kept here."""

_RECORD = [("sec", "<u4"), ("usec", "<u4"), ("caplen", "<u4"), ("origlen", "<u4"),
           ("mac", "u1", (12,)), ("ethertype", ">u2")]
_IP4 = [("version", ">u2"), ("total", ">u2"), ("id", ">u2"), ("fragment", ">u2"), ("ttl", "u1"),
        ("protocol", "u1"), ("checksum", ">u2"), ("src", ">u4"), ("dst", ">u4")]
_IP6 = [("version", ">u4"), ("total", ">u2"), ("protocol", "u1"), ("ttl", "u1"),
        ("src_net", ">u4"), ("src_mid", ">u8"), ("src", ">u4"),
        ("dst_net", ">u4"), ("dst_mid", ">u8"), ("dst", ">u4")]
_TCP = [("sport", ">u2"), ("dport", ">u2"), ("seq", ">u4"), ("ack", ">u4"), ("offset", "u1"), ("flags", "u1"),
        ("window", ">u2"), ("sum_urgent", ">u4")]
_OPTIONS: dict[int, list[Any]] = {
    0: [],
    4: [("mss_head", ">u2"), ("mss", ">u2")],
    12: [("ts_head", ">u4"), ("tsval", ">u4"), ("tsecr", ">u4")],
    20: [("mss_head", ">u2"), ("mss", ">u2"), ("ts_head", ">u4"), ("tsval", ">u4"), ("tsecr", ">u4"),
         ("wscale", ">u4")],
}
_UDP = [("sport", ">u2"), ("dport", ">u2"), ("udp_length", ">u2"), ("udp_sum", ">u2"), ("dns_id", ">u2")]
# fmt: on


class Step(NamedTuple):
    """One packet of each of n conversations; scalars stand for all of them."""

    from_client: Bools | bool
    flags: int
    length: Ints | int
    delay_us: Ints | int
    """Time since the previous packet of the conversation."""


class Clients(NamedTuple):
    """Who talks to whom, one element per conversation."""

    client: Ints
    client_port: Ints
    server: Ints
    server_port: int
    v6: Bools
    timestamps: Bools
    """Whether the client sends the options of today's stacks; without them it sends none."""


def conversations(
    rng: np.random.Generator, who: Clients, start_us: Ints, steps: list[Step], *, cookies: bool = False
) -> Rows:
    """The packets of n conversations that all follow `steps`: an array of n x len(steps) PACKETs.

    With `cookies` the SYN-ACK's timestamp carries the options in its low bits, as a SYN cookie's does.
    """
    n = len(start_us)
    packets = np.zeros((n, len(steps)), PACKET)
    next_seq = [rng.integers(0, 1 << 32, n), rng.integers(0, 1 << 32, n)]  # by side: server, client
    clock = [start_us * 0 + 77_000_000, rng.integers(0, 1 << 31, n)]
    first_id = rng.integers(0, 1 << 16, n)
    last_ts = [np.zeros(n, np.int64), np.zeros(n, np.int64)]
    now = start_us.copy()
    for k, step in enumerate(steps):
        now += step.delay_us
        client = np.broadcast_to(np.asarray(step.from_client), n)
        length = np.broadcast_to(np.asarray(step.length), n)
        p = packets[:, k]
        p["time"], p["flags"], p["length"], p["inbound"], p["v6"] = now, step.flags, length, client, who.v6
        p["src"] = np.where(client, who.client, who.server)
        p["dst"] = np.where(client, who.server, who.client)
        p["sport"] = np.where(client, who.client_port, who.server_port)
        p["dport"] = np.where(client, who.server_port, who.client_port)
        p["seq"] = np.where(client, next_seq[1], next_seq[0])
        if step.flags & ACK:
            p["ack"] = np.where(client, next_seq[0], next_seq[1])
        tsval = (np.where(client, clock[1], clock[0]) + (now - EPOCH_US) // 1000) & 0xFFFFFFFF
        if step.flags & SYN:
            p["window"] = np.where(client, 64_240, 65_160)
            p["options"] = np.where(who.timestamps, 20, np.where(client, 0, 4))
            if cookies and step.flags & ACK:
                tsval = (tsval & ~63) - 64 | 0x17  # SACK permitted, window scale 7
        else:
            p["window"], p["options"] = 502, np.where(who.timestamps, 12, 0)
        p["tsval"], p["id"] = tsval, first_id + k & 0xFFFF
        p["tsecr"] = np.where(client, last_ts[0], last_ts[1])
        moved = length + (step.flags & FIN) + (step.flags >> 1 & 1)
        for side, sends in ((0, ~client), (1, client)):
            next_seq[side] = np.where(sends, next_seq[side] + moved, next_seq[side]) & 0xFFFFFFFF
            last_ts[side] = np.where(sends, tsval, last_ts[side])
    return packets


def flood(rng: np.random.Generator, scale: float) -> Rows:
    """SYNs of a million sources; all answers are cookies; four tenths fall on a full accept queue."""
    syns, answers, acks = (int(count * scale) for count in (1_000_000, 600_767, 180_351))
    source = rng.integers(0x0B000000, 0xDF000000, syns)
    source = np.where(source >> 24 == 127, source + 0x01000000, source)
    ports = rng.integers(1024, 65_536, syns)
    modern = rng.random(syns) < 0.5
    who = Clients(source, ports, np.full(syns, 0x0A000001), 80, np.zeros(syns, np.bool_), modern)
    start = np.sort(rng.integers(0, 20_000_000, syns)) + EPOCH_US
    steps = [
        Step(from_client=True, flags=SYN, length=0, delay_us=0),
        Step(from_client=False, flags=SYN | ACK, length=0, delay_us=rng.integers(12, 30, syns)),
        Step(from_client=True, flags=ACK, length=0, delay_us=rng.integers(5_000, 60_000, syns)),
    ]
    packets = conversations(rng, who, start, steps, cookies=True)
    cycle = np.linspace(0, 10, syns, endpoint=False) % 1
    answered = np.argsort(cycle, kind="stable")[:answers]  # the first part of each of ten cycles
    present = np.zeros((syns, 3), np.bool_)
    present[:, 0] = True
    present[answered, 1] = True
    present[rng.permutation(answered)[:acks], 2] = True
    return packets[present]


def web(rng: np.random.Generator, scale: float) -> Rows:
    """Short TLS connections to four IPv4 listeners and an IPv6 one, with some DNS between them."""
    n = int(100_000 * scale)
    index = np.arange(n)
    v6 = rng.random(n) < 0.1
    ports = 32_768 + index // 20_000 * 997 + index % 991  # different wherever the address is the same
    servers = np.where(v6, 1, 0x0A000001 + index % 4)
    who = Clients(0x64400000 + index % 20_000, ports, servers, 443, v6, np.ones(n, np.bool_))
    full = np.where(v6, 1_428, 1_448)
    rtt = np.clip(rng.lognormal(9.5, 0.8, n), 300, 300_000).astype(np.int64)
    client_closes = rng.random(n) < 0.5

    def quick() -> Ints:
        return rng.integers(8, 60, n)

    def size(low: int, high: int) -> Ints:
        return rng.integers(low, high, n)

    think = rng.integers(200, 50_000, n)
    client, server = True, False
    # fmt: off
    steps = [
        Step(client, SYN, 0, 0), Step(server, SYN | ACK, 0, quick()), Step(client, ACK, 0, rtt),
        Step(client, PSH | ACK, 517, quick()), Step(server, ACK, 0, quick()),
        Step(server, ACK, full, think // 10), Step(server, ACK, full, quick()),
        Step(server, PSH | ACK, size(400, 1_200), quick()), Step(client, ACK, 0, rtt),
        Step(client, PSH | ACK, 80, quick()), Step(server, PSH | ACK, size(200, 300), quick()),
        Step(client, PSH | ACK, size(200, 700), rtt), Step(server, ACK, full, think),
        Step(server, ACK, full, quick()), Step(server, ACK, full, quick()), Step(client, ACK, 0, rtt),
        Step(server, PSH | ACK, size(300, 1_400), quick()),
        Step(client_closes, FIN | ACK, 0, np.where(client_closes, rtt, 500)),
        Step(~client_closes, FIN | ACK, 0, np.where(client_closes, 50, rtt)),
        Step(client_closes, ACK, 0, np.where(client_closes, rtt, 20)),
    ]
    # fmt: on
    start = np.sort(rng.integers(0, 118_000_000, n)) + EPOCH_US
    return np.concatenate([conversations(rng, who, start, steps).ravel(), dns(rng, n // 10)])


def dns(rng: np.random.Generator, pairs: int) -> Rows:
    """Queries of the web servers to their resolver, and its answers."""
    packets = np.zeros((pairs, 2), PACKET)
    query, answer = packets[:, 0], packets[:, 1]
    query["time"] = np.sort(rng.integers(0, 120_000_000, pairs)) + EPOCH_US
    query["src"], query["dst"] = 0x0A000001 + np.arange(pairs) % 4, 0x0A000035
    query["sport"], query["dport"] = rng.integers(32_768, 61_000, pairs), 53
    query["seq"], query["kind"] = rng.integers(0, 65_536, pairs), DNS_QUERY
    query["id"] = rng.integers(0, 65_536, pairs)
    answer["time"] = query["time"] + rng.integers(200, 5_000, pairs).astype(np.uint64)
    mirrored = query[["dst", "src", "dport", "sport", "seq", "id"]]
    answer[["src", "dst", "sport", "dport", "seq", "id"]] = mirrored
    answer["kind"], answer["inbound"] = DNS_ANSWER, True
    return packets.ravel()


def bulk(rng: np.random.Generator, scale: float) -> Rows:
    """Long downloads (half of the connections) and uploads, interleaved."""
    n = int(2_000 * scale)
    index = np.arange(n)
    who = Clients(
        0x64400000 + index % 500,
        40_000 + index // 500,
        np.full(n, 0x0A000001),
        8080,
        np.zeros(n, np.bool_),
        np.ones(n, np.bool_),
    )
    uploads = rng.random(n) < 0.5
    rtt = rng.integers(500, 20_000, n)
    steps = [
        Step(from_client=True, flags=SYN, length=0, delay_us=0),
        Step(from_client=False, flags=SYN | ACK, length=0, delay_us=20),
        Step(from_client=True, flags=ACK, length=0, delay_us=rtt),
        Step(from_client=True, flags=PSH | ACK, length=200, delay_us=30),
        Step(from_client=False, flags=ACK, length=0, delay_us=20),
        Step(from_client=False, flags=PSH | ACK, length=100, delay_us=200),
    ]
    for _ in range(497):
        steps += [
            Step(uploads, ACK, 1_448, rng.integers(20_000, 60_000, n)),
            Step(uploads, ACK, 1_448, 12),
            Step(~uploads, ACK, 0, np.where(uploads, 20, rtt)),
        ]
    steps += [
        Step(from_client=True, flags=FIN | ACK, length=0, delay_us=rtt),
        Step(from_client=False, flags=FIN | ACK, length=0, delay_us=50),
        Step(from_client=True, flags=ACK, length=0, delay_us=rtt),
    ]
    start = np.sort(rng.integers(0, 10_000_000, n)) + EPOCH_US
    return conversations(rng, who, start, steps).ravel()


def header_rows(packets: Rows, frame: Ints, captured: Ints) -> Rows:
    """Record and protocol headers of packets of one shape (IP version, options, kind)."""
    kind, v6, options = (packets[name][0] for name in ("kind", "v6", "options"))
    transport = [*_TCP, *_OPTIONS[int(options)]] if kind == TCP else _UDP
    rows = np.zeros(len(packets), np.dtype([*_RECORD, *(_IP6 if v6 else _IP4), *transport]))
    rows["sec"], rows["usec"] = packets["time"] // 1_000_000, packets["time"] % 1_000_000
    rows["caplen"], rows["origlen"] = captured, np.maximum(frame, ETHERNET_MINIMUM * packets["inbound"])
    inbound = np.frombuffer(SERVER_MAC + GATEWAY_MAC, np.uint8)
    outbound = np.frombuffer(GATEWAY_MAC + SERVER_MAC, np.uint8)
    rows["mac"] = np.where(packets["inbound"][:, None], inbound, outbound)
    rows["ethertype"] = 0x86DD if v6 else 0x0800
    rows["ttl"], rows["protocol"] = np.where(packets["inbound"], 57, 64), 6 if kind == TCP else 17
    for name in ("src", "dst", "sport", "dport"):
        rows[name] = packets[name]
    if v6:
        rows["version"], rows["total"] = 0x60000000, frame - 54
        rows["src_net"] = rows["dst_net"] = 0xFD090000
    else:
        rows["version"], rows["total"], rows["fragment"] = 0x4500, frame - 14, 0x4000
        rows["id"] = packets["id"]
        rows["checksum"] = header_checksum(rows)
    if kind != TCP:
        rows["udp_length"], rows["dns_id"] = frame - 34, packets["seq"]
        return rows
    for name in ("seq", "ack", "flags", "window"):
        rows[name] = packets[name]
    rows["offset"] = (20 + options) << 2
    constants = {
        "mss_head": 0x0204,
        "mss": 1_440 if v6 else 1_460,
        "wscale": 0x01030307,
        "ts_head": 0x0402080A if options == 20 else 0x0101080A,
    }
    for name in set(rows.dtype.names or ()) & constants.keys():
        rows[name] = constants[name]
    for name in set(rows.dtype.names or ()) & {"tsval", "tsecr"}:
        rows[name] = packets[name]
    return rows


def header_checksum(rows: Rows) -> Ints:
    """IPv4 header checksum (RFC 1071) of headers without options."""
    words = [
        rows["version"],
        rows["total"],
        rows["id"],
        rows["fragment"],
        rows["ttl"].astype(np.int64) << 8 | rows["protocol"],
        rows["src"] >> 16,
        rows["src"] & 0xFFFF,
        rows["dst"] >> 16,
        rows["dst"] & 0xFFFF,
    ]
    total = sum((word.astype(np.int64) for word in words), np.zeros(len(rows), np.int64))
    total = (total & 0xFFFF) + (total >> 16)
    folded: Ints = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return folded


def put(buffer: npt.NDArray[np.uint8], offsets: Ints, rows: Rows | bytes) -> None:
    """Copy rows of equal width (or the same bytes each time) to the offsets."""
    width = len(rows) if isinstance(rows, bytes) else rows.dtype.itemsize
    flat = np.frombuffer(rows, f"V{width}")
    np.ndarray((len(buffer) - width + 1,), f"V{width}", buffer.data, strides=(1,))[offsets] = flat


def lay_out(packets: Rows, snaplen: int, noise: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The pcap records of `packets`; payload comes from `noise`, framed as TLS records."""
    ip = np.where(packets["v6"], 54, 34)
    body = np.array([0, len(DNS_BODY[DNS_QUERY]), len(DNS_BODY[DNS_ANSWER])])[packets["kind"]]
    header = ip + np.where(packets["kind"] == TCP, 20 + packets["options"].astype(np.int64), 10)
    frame = header + body + packets["length"]
    captured = np.minimum(np.maximum(frame, ETHERNET_MINIMUM * packets["inbound"]), snaplen)
    ends = np.cumsum(captured + 16)
    offsets = ends - captured - 16
    buffer = noise[: ends[-1]].copy()
    shape = packets["kind"].astype(np.int64) << 8 | packets["v6"].astype(np.int64) << 7 | packets["options"]
    for each in np.unique(shape):
        of_shape = np.flatnonzero(shape == each)
        put(buffer, offsets[of_shape], header_rows(packets[of_shape], frame[of_shape], captured[of_shape]))
    for kind, content in DNS_BODY.items():
        put(buffer, (offsets + header + 16)[packets["kind"] == kind], content)
    has_data = packets["length"] > 0
    record = np.dtype([("type", "u1"), ("version", ">u2"), ("length", ">u2")])
    records = np.zeros(np.count_nonzero(has_data), record)
    records["type"], records["version"] = 0x17, 0x0303
    records["length"] = packets["length"][has_data] - 5
    put(buffer, (offsets + header + 16)[has_data], records)
    put(buffer, (offsets + header + 16)[packets["length"] == 517], CLIENT_HELLO)
    return buffer


def write(file: BinaryIO, packets: Rows, snaplen: int) -> None:
    """A pcap file (microseconds, Ethernet) of the packets in order of time."""
    file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, snaplen, 1))
    order = np.argsort(packets["time"], kind="stable")
    largest = CHUNK * (16 + min(snaplen, 1_514))
    if packets["length"].any():
        noise = np.random.default_rng(SEED).integers(0, 256, largest, np.uint8)
    else:
        noise = np.zeros(largest, np.uint8)
    for start in range(0, len(order), CHUNK):
        file.write(lay_out(packets[order[start : start + CHUNK]], snaplen, noise).data)


CAPTURES = {"flood": (flood, 262_144), "web": (web, 262_144), "bulk": (bulk, 96)}
"""Maker and snaplen by name."""


def make(name: str, path: Path, scale: float = 1.0) -> int:
    """Write the capture `name` to `path`; returns the number of packets."""
    maker, snaplen = CAPTURES[name]
    packets = maker(np.random.default_rng(SEED), scale)
    unfinished = path.with_suffix(".part")  # an interrupted run must not leave half a capture behind
    with unfinished.open("wb") as file:
        write(file, packets, snaplen)
    unfinished.replace(path)
    return len(packets)


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Write the synthetic captures of the benchmark.")
    parser.add_argument("directory", nargs="?", type=Path, default=Path("build/bench"))
    parser.add_argument("--only", choices=sorted(CAPTURES), action="append")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the connections (default 1)")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for name in arguments.only or CAPTURES:
        path = arguments.directory / f"{name}.pcap"
        count = make(name, path, arguments.scale)
        sys.stdout.write(f"{path}: {count:,} packets, {path.stat().st_size / 1e6:,.0f} MB\n")


if __name__ == "__main__":
    main()
