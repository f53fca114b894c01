"""What one TCP segment says: the only type that capture/ and kernel/ share.

Knows header fields, flag bits and 32-bit sequence arithmetic. Knows neither where the bytes came
from nor what a listener does with them.
"""

from __future__ import annotations

import socket
from typing import NamedTuple, Protocol

FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10
URG = 0x20
ECE = 0x40
CWR = 0x80
FLAG_BITS = 0xFF
"""All of them: what has more in its flags is no plain segment, but a HANDSHAKE or DAMAGED."""

_FLAG_LETTERS = (
    (SYN, "S"),
    (ACK, "A"),
    (FIN, "F"),
    (RST, "R"),
    (PSH, "P"),
    (URG, "U"),
    (ECE, "E"),
    (CWR, "C"),
)
_FLAG_TEXT = tuple("".join(letter for bit, letter in _FLAG_LETTERS if flags & bit) for flags in range(256))
_HALF = 1 << 31  # half the sequence space


class Segment(NamedTuple):
    """One TCP segment as captured.

    `src` and `dst` are endpoints: the address and the port in network byte order, 6 bytes for
    IPv4 and 18 for IPv6 (bytes, so that hostile addresses cannot collide in a dict).
    """

    frame: int
    """1-based number of the packet in the capture, as Wireshark counts."""
    time_ns: int
    """Capture time, nanoseconds since the epoch."""
    src: bytes
    dst: bytes
    flags: int
    """The eight classic flag bits (FIN 0x01 … CWR 0x80)."""
    seq: int
    ack: int
    window: int
    """The window field as sent, not scaled."""
    length: int
    """Payload bytes according to the IP header, also where the capture cut the packet."""
    mss: int = 0
    """MSS option, 0 when absent."""
    wscale: int = -1
    """Window scale option, -1 when absent."""
    sack_ok: bool = False
    tsval: int = -1
    """Timestamp value, -1 when the segment has no timestamp option."""
    tsecr: int = -1
    fastopen: bytes | None = None
    """TCP Fast Open option (RFC 7413): None when absent, b"" for a cookie request."""


class Handshake(NamedTuple):
    """An ordinary three-way handshake as one item: SYN, SYN-ACK and completing ACK, each seen once.

    Stands in a list of segments at the place of its SYN; begins with the same fields as a Segment.
    Nothing of the connection came between or before, the ACK carries no data, it came within
    `HANDSHAKE_MAX_NS`, and the server was seen to use the connection afterwards. The packets up to
    that proof are in it. Where a FIN of either side follows, and nothing else that could matter, the
    connection is `closed` and they are in it, too; else what follows are segments of their own.
    """

    frame: int
    time_ns: int
    """Of the SYN."""
    src: bytes
    """The client."""
    dst: bytes
    flags: int
    """HANDSHAKE: no flag bits of a segment."""
    ack_ns: int
    """Time of the completing ACK."""
    rcv_nxt: int
    """Sequence number after what the client had sent when the server used the connection."""
    tsval: int
    """Timestamp value of the completing ACK, -1 when absent."""
    source: HandshakeSource
    number: int
    last_ns: int
    """Time of the last packet in it; up to there times do not step back."""
    served_ns: int
    """Time of the first data or FIN of the server, -1 when not known."""
    closed: bool
    server_first: bool
    """The server closed first, and the client's FIN acknowledges its FIN."""
    fin_ns: int
    """Time of the first FIN; this and what follows means nothing unless `closed`."""
    fin_in: int
    """Sequence number after the client's FIN."""
    fin_out: int
    """Sequence number after the server's FIN."""
    fin_ack: int
    """What the server's FIN acknowledges."""
    fin_tsval: int
    """Timestamp value of the client's FIN, -1 when absent."""

    def segments(self) -> list[Segment]:
        """The packets that were put together, in order."""
        return self.source.segments(self.number)

    def opening(self) -> list[Segment]:
        """SYN, SYN-ACK and ACK, then the server's first packet after them if it is in the item."""
        return self.source.opening(self.number)


class HandshakeSource(Protocol):
    """Who can still tell the packets of a handshake one by one."""

    def segments(self, number: int) -> list[Segment]:
        """The packets of handshake `number`, in order."""
        ...

    def opening(self, number: int) -> list[Segment]:
        """Those of them that Handshake.opening() is to give."""
        ...


DAMAGED = 0x2000
"""A packet that its server cannot have got stands in a list of segments with this and no flag bits."""
_DAMAGED_SHIFT = 16
HANDSHAKE = 0x1000
HANDSHAKE_MAX_NS = 900_000_000
"""Less than the first SYN-ACK timer: no timer fires within an ordinary handshake."""


def damaged(segment: Segment) -> Segment:
    """`segment`, marked as DAMAGED."""
    return segment._replace(flags=DAMAGED | segment.flags << _DAMAGED_SHIFT)


def undamaged(segment: Segment) -> Segment:
    """The segment as it was captured, of one that is DAMAGED."""
    return segment._replace(flags=segment.flags >> _DAMAGED_SHIFT)


def flag_text(flags: int) -> str:
    """Flags as a subset of `SAFRPUEC`, in that order."""
    return _FLAG_TEXT[flags & FLAG_BITS]


def asked_by(synack: Segment) -> Segment:
    """The SYN that a SYN-ACK answers, as far as the answer tells."""
    seq = (synack.ack - 1) & 0xFFFFFFFF
    return synack._replace(src=synack.dst, dst=synack.src, flags=SYN, seq=seq, ack=0, tsval=synack.tsecr)


def end_seq(segment: Segment) -> int:
    """Sequence number after the segment; SYN and FIN count one each (RFC 9293 section 3.4)."""
    flags = segment.flags
    return (segment.seq + segment.length + ((flags >> 1) & 1) + (flags & 1)) & 0xFFFFFFFF


def seq_after(a: int, b: int) -> bool:
    """Whether sequence number `a` is after `b`, modulo 2^32 (the kernel's after())."""
    return 0 < ((a - b) & 0xFFFFFFFF) < _HALF


def endpoint(address: str, port: int) -> bytes:
    """Endpoint bytes of a numeric address and a port.

    Raises OSError when `address` is no numeric IPv4 or IPv6 address.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address) + port.to_bytes(2, "big")


def endpoint_text(end: bytes) -> str:
    """`1.2.3.4:5` or `[fd09::2]:5`."""
    port = int.from_bytes(end[-2:], "big")
    if len(end) == 6:  # noqa: PLR2004 - 4 bytes of address and 2 of port
        return f"{end[0]}.{end[1]}.{end[2]}.{end[3]}:{port}"
    return f"[{socket.inet_ntop(socket.AF_INET6, end[:-2])}]:{port}"
