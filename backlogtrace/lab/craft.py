"""A Segment as the bytes of an IP packet and back: what the clients write and hear.

Knows IPv4, IPv6 and TCP headers, the options of a handshake and the checksum. Refuses to know why a
segment is sent. The payload is filler; captures of others are read by capture/.

Sources: RFC 9293 section 3.1, RFC 7323, RFC 7413 section 4.1.1, RFC 1071.
"""

from __future__ import annotations

import struct

from backlogtrace.segment import SYN, Segment

TCP = 6
_V4 = struct.Struct("!BBHHHBBH4s4s")
_V6 = struct.Struct("!IHBB16s16s")
_TCP = struct.Struct("!HHIIBBHHH")
_DONT_FRAGMENT = 0x4000
_END, _NOP, _MSS, _WINDOW_SCALE, _SACK_PERMITTED, _TIMESTAMPS, _FAST_OPEN = 0, 1, 2, 3, 4, 8, 34
_V4_END = 6  # bytes of an IPv4 endpoint


def packet(segment: Segment) -> bytes:
    """`segment` as an IP packet, checksums included; `segment.frame` becomes the IPv4 identification."""
    source, target = segment.src[:-2], segment.dst[:-2]
    options = _options(segment)
    header = _TCP.pack(
        int.from_bytes(segment.src[-2:], "big"), int.from_bytes(segment.dst[-2:], "big"),
        segment.seq, segment.ack, (_TCP.size + len(options)) << 2, segment.flags, segment.window, 0, 0,
    )  # fmt: skip
    body = header + options + b"x" * segment.length
    check = checksum(source + target + struct.pack("!II", len(body), TCP) + body)
    body = body[:16] + struct.pack("!H", check) + body[18:]
    if len(segment.src) == _V4_END:
        size = _V4.size + len(body)
        ident = segment.frame & 0xFFFF
        fields = (0x45, 0, size, ident, _DONT_FRAGMENT, 64, TCP)
        return _V4.pack(*fields, checksum(_V4.pack(*fields, 0, source, target)), source, target) + body
    return _V6.pack(6 << 28, len(body), TCP, 64, source, target) + body


def parse(data: bytes, time_ns: int = 0, frame: int = 0) -> Segment | None:
    """The TCP segment in an IP packet without extension headers; None for anything else."""
    if len(data) >= _V4.size and data[0] >> 4 == 4 and data[9] == TCP:  # noqa: PLR2004 - IP version
        start = (data[0] & 15) * 4
        end = int.from_bytes(data[2:4], "big")
        source, target = data[12:16], data[16:20]
    elif len(data) >= _V6.size and data[0] >> 4 == 6 and data[6] == TCP:  # noqa: PLR2004
        start = _V6.size
        end = start + int.from_bytes(data[4:6], "big")
        source, target = data[8:24], data[24:40]
    else:
        return None
    _, _, seq, ack, offset, flags, window, _, _ = _TCP.unpack_from(data, start)
    payload = start + (offset >> 4) * 4
    segment = Segment(
        frame, time_ns, source + data[start : start + 2], target + data[start + 2 : start + 4],
        flags, seq, ack, window, end - payload,
    )  # fmt: skip
    return _with_options(segment, data[start + _TCP.size : payload])


def checksum(data: bytes) -> int:
    """The Internet checksum of `data` (RFC 1071)."""
    padded = data + b"\0" * (len(data) & 1)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _options(segment: Segment) -> bytes:
    parts = []
    if segment.flags & SYN:
        if segment.mss:
            parts.append(struct.pack("!BBH", _MSS, 4, segment.mss))
        if segment.sack_ok:
            parts.append(bytes((_SACK_PERMITTED, 2)))
        if segment.wscale >= 0:
            parts.append(bytes((_WINDOW_SCALE, 3, segment.wscale)))
        if segment.fastopen is not None:
            parts.append(bytes((_FAST_OPEN, 2 + len(segment.fastopen))) + segment.fastopen)
    if segment.tsval >= 0:
        parts.append(struct.pack("!BBII", _TIMESTAMPS, 10, segment.tsval, max(segment.tsecr, 0)))
    options = b"".join(parts)
    return options + bytes((_NOP,)) * (-len(options) % 4)


def _with_options(segment: Segment, options: bytes) -> Segment:
    """`segment` with what its option bytes say."""
    at = 0
    found: dict[str, int | bool | bytes] = {}
    while at < len(options) and options[at] != _END:
        if options[at] == _NOP:
            at += 1
            continue
        size = options[at + 1]
        value = options[at + 2 : at + size]
        match options[at]:
            case 2:
                found["mss"] = int.from_bytes(value, "big")
            case 3:
                found["wscale"] = value[0]
            case 4:
                found["sack_ok"] = True
            case 8:
                found["tsval"], found["tsecr"] = struct.unpack("!II", value)
            case 34:
                found["fastopen"] = value
        at += size
    return segment._replace(**found)  # type: ignore[arg-type]
