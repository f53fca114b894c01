"""One captured packet -> the TCP segment in it, or the reason why there is none.

The plain decoder: used for small captures, for the rare packets of large ones, and as the yardstick of the
column decoder. Sources: RFC 791, RFC 8200 section 4, RFC 9293 section 3.1.
Refuses to reassemble fragments, to enter tunnels and to judge what it decodes.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from backlogtrace.capture.checksums import TCP_PROTOCOL, UNKNOWN, checked
from backlogtrace.capture.link import FINDERS, TRUNCATED, TUNNEL

if TYPE_CHECKING:
    from backlogtrace.capture.info import CaptureInfo
    from backlogtrace.capture.link import Data

    Bare = tuple[bytes, bytes, int, int, int, int, int, bytes, int]
    """(src, dst, flags, seq, ack, window, length, options as captured, what checksums.checked() says)"""
    Packet = tuple[int, int, Bare]
    """(frame, time_ns, the segment in it)"""
    Located = tuple[int, int, bytes, bytes, int]
    """(TCP header, bytes from there to the datagram's end, source, destination, IP header or -1 where the IP
    length is 0)"""

BAD_HEADER = "bad_header"
FRAGMENT = "fragment"
NOT_TCP = "not_tcp"

UDP_PROTOCOL = 17
TUNNEL_PROTOCOLS = frozenset((4, 41, 47, 97, 137))
"""IP in IP, IPv6 in IP, GRE, EtherIP, MPLS in IP."""
TUNNEL_UDP_PORTS = frozenset((4789, 6081))
"""Registered destination ports of VXLAN (RFC 7348) and Geneve (RFC 8926)."""
EXTENSION_HEADERS = frozenset((0, 43, 44, 51, 60))
"""Hop-by-hop, routing, fragment, authentication, destination options."""

_TCP_HEADER = Struct("!IIBBH").unpack_from


def decode(data: Data, at: int, caplen: int, wirelen: int, linktype: int, info: CaptureInfo) -> Bare | str:
    """The segment in the `caplen` bytes at `at`, or the reason why there is none.

    `wirelen` is the packet's length before the capture cut it, in bytes. Counts cut options and lengths of
    zero in `info`; skipped packets are the caller's to count.
    """
    found = locate(data, at, caplen, wirelen, linktype)
    if isinstance(found, str):
        return found
    tcp, room, source, target, network = found
    seq, ack, offset, flags, window = _TCP_HEADER(data, tcp + 4)
    header = offset >> 4 << 2
    if header < 20 or header > room:
        return BAD_HEADER
    end = at + caplen
    if tcp + header > end:
        info.options_cut += 1
    info.length_zero += network < 0
    whole = room == header and tcp + header <= end and network >= 0
    return (
        source + data[tcp : tcp + 2],
        target + data[tcp + 2 : tcp + 4],
        flags,
        seq,
        ack,
        window,
        room - header,
        data[tcp + 20 : min(tcp + header, end)],
        checked(data, network, tcp, room, source + target) if whole else UNKNOWN,
    )


def locate(data: Data, at: int, caplen: int, wirelen: int, linktype: int) -> Located | str:
    """Where the TCP header of a packet is, whole; or the reason why there is none."""
    finder = FINDERS.get(linktype)
    if finder is None:
        return f"unsupported_linktype_{linktype}"
    end = at + caplen
    network = finder(data, at, end)
    if isinstance(network, str):
        return network
    start, version = network
    found = (_ipv4 if version == 4 else _ipv6)(data, start, end, at + wirelen)
    if not isinstance(found, str) and found[0] + 20 > end:
        return TRUNCATED
    return found


def _ipv4(data: Data, at: int, end: int, wire_end: int) -> Located | str:
    if at + 20 > end:
        return TRUNCATED
    first = data[at]
    header = (first & 15) << 2
    if first >> 4 != 4 or header < 20:
        return BAD_HEADER
    protocol = data[at + 9]
    if protocol != TCP_PROTOCOL:
        return _other(data, protocol, at + header, end)
    if (data[at + 6] << 8 | data[at + 7]) & 0x3FFF:
        return FRAGMENT
    total = data[at + 2] << 8 | data[at + 3]
    room = (total or wire_end - at) - header
    if room < 20:
        return BAD_HEADER
    return at + header, room, data[at + 12 : at + 16], data[at + 16 : at + 20], at if total else -1


def _ipv6(data: Data, at: int, end: int, wire_end: int) -> Located | str:
    # past any extension headers (RFC 8200 section 4)
    if at + 40 > end:
        return TRUNCATED
    if data[at] >> 4 != 6:
        return BAD_HEADER
    length = data[at + 4] << 8 | data[at + 5]
    following = data[at + 6]
    cursor = at + 40
    while following in EXTENSION_HEADERS:
        if cursor + 8 > end:
            return TRUNCATED
        kind, following = following, data[cursor]
        if kind == 44:
            fragment = data[cursor + 2] << 8 | data[cursor + 3]
            if fragment & 0xFFF9 and (following == TCP_PROTOCOL or following in EXTENSION_HEADERS):
                return FRAGMENT
            cursor += 8
        elif kind == 51:
            cursor += (data[cursor + 1] + 2) << 2
        else:
            cursor += (data[cursor + 1] + 1) << 3
    if following != TCP_PROTOCOL:
        return _other(data, following, cursor, end)
    room = (at + 40 + length if length else wire_end) - cursor
    if room < 20:
        return BAD_HEADER
    return cursor, room, data[at + 8 : at + 24], data[at + 24 : at + 40], at if length else -1


def _other(data: Data, protocol: int, at: int, end: int) -> str:
    """Why a packet of another protocol is not analysed."""
    if protocol in TUNNEL_PROTOCOLS:
        return TUNNEL
    if protocol == UDP_PROTOCOL and at + 4 <= end and (data[at + 2] << 8 | data[at + 3]) in TUNNEL_UDP_PORTS:
        return TUNNEL
    return NOT_TCP
