"""Packets and capture files, byte by byte, for the tests of the capture package.

Knows the formats well enough to write them right and wrong. Refuses to use the code under test.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

ETHERNET, RAW, SLL, SLL2, NULL, LOOP, PPP, PPP_HDLC = 1, 101, 113, 276, 0, 108, 9, 50
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
SECOND = 1_000_000_000

SYN_OPTIONS = bytes.fromhex("020405b40402080a0000000a0000000001030307")
TIMESTAMP = bytes.fromhex("0101080a0000000b0000000a")


class Packet(NamedTuple):
    """A packet of a capture file; `wire` is its length before the capture cut it."""

    data: bytes
    time_ns: int = SECOND
    wire: int | None = None
    interface: int = 0

    @property
    def wirelen(self) -> int:
        """Bytes on the wire."""
        return len(self.data) if self.wire is None else self.wire


def tcp(  # noqa: PLR0917
    sport: int = 40000,
    dport: int = 80,
    flags: int = SYN,
    seq: int = 1000,
    ack: int = 0,
    window: int = 65535,
    options: bytes = b"",
    payload: bytes = b"",
    header: int | None = None,
) -> bytes:
    """A TCP segment; `header` overrides the header length field (in words)."""
    options += bytes(-len(options) % 4)
    words = 5 + len(options) // 4 if header is None else header
    fixed = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, words << 4, flags, window, 0, 0)
    return fixed + options + payload


def ipv4(
    payload: bytes,
    src: str = "10.0.0.1",
    dst: str = "10.0.0.2",
    protocol: int = 6,
    options: bytes = b"",
    total: int | None = None,
    fragment: int = 0,
) -> bytes:
    """An IPv4 datagram; `total` overrides its length field."""
    header = 20 + len(options)
    length = header + len(payload) if total is None else total
    fixed = struct.pack("!BBHHHBBH", 0x40 | header // 4, 0, length, 1, fragment, 64, protocol, 0)
    return fixed + dotted(src) + dotted(dst) + options + payload


def dotted(address: str) -> bytes:
    """Four bytes."""
    return bytes(map(int, address.split(".")))


def ipv6(
    payload: bytes,
    src: bytes = bytes(15) + b"\1",
    dst: bytes = bytes(15) + b"\2",
    following: int = 6,
    length: int | None = None,
) -> bytes:
    """An IPv6 packet; extension headers are part of `payload`."""
    size = len(payload) if length is None else length
    return struct.pack("!IHBB", 6 << 28, size, following, 64) + src + dst + payload


def ethernet(payload: bytes, ethertype: int = 0x0800, tags: tuple[int, ...] = ()) -> bytes:
    """An Ethernet frame with a stack of VLAN tags, each of the given ethertype."""
    stack = b"".join(struct.pack("!HH", tag, 5) for tag in tags)
    return b"\2\0\0\0\0\1\2\0\0\0\0\2" + stack + struct.pack("!H", ethertype) + payload


def pcap(
    packets: list[Packet],
    linktype: int = ETHERNET,
    order: str = "<",
    nano: bool = True,
    snaplen: int = 262144,
    modified: bool = False,
) -> bytes:
    """A pcap file."""
    magic = 0xA1B2CD34 if modified else 0xA1B23C4D if nano else 0xA1B2C3D4
    unit = 1 if nano else 1000
    out = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, linktype)]
    for packet in packets:
        seconds, rest = divmod(packet.time_ns, SECOND)
        out.append(struct.pack(order + "IIII", seconds, rest // unit, len(packet.data), packet.wirelen))
        if modified:
            out.append(bytes(8))
        out.append(packet.data)
    return b"".join(out)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A pcapng block."""
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def option(code: int, value: bytes, order: str = "<") -> bytes:
    """A pcapng option."""
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<") -> bytes:
    """A Section Header Block."""
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(
    linktype: int = ETHERNET, order: str = "<", options: bytes | None = None, snaplen: int = 0
) -> bytes:
    """An Interface Description Block; counts nanoseconds unless `options` say otherwise."""
    if options is None:
        options = option(9, b"\x09", order)
    return block(1, struct.pack(order + "HHI", linktype, 0, snaplen) + options, order)


def enhanced(packet: Packet, order: str = "<", options: bytes = b"", ticks: int | None = None) -> bytes:
    """An Enhanced Packet Block."""
    time = packet.time_ns if ticks is None else ticks
    head = struct.pack(
        order + "IIIII", packet.interface, time >> 32, time & 0xFFFFFFFF, len(packet.data), packet.wirelen
    )
    return block(6, head + packet.data + bytes(-len(packet.data) % 4) + options, order)


def pcapng(packets: list[Packet], linktype: int = ETHERNET, order: str = "<") -> bytes:
    """A pcapng file of one section with one interface."""
    return (
        section(order) + interface(linktype, order) + b"".join(enhanced(packet, order) for packet in packets)
    )
