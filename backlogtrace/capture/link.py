"""Where the IP header starts: link types, VLAN tags, PPPoE.

Each finder takes (data, offset, end) of one captured packet and returns (offset of the IP header, 4 or 6),
or the reason why there is none. Numbers: tcpdump.org/linktypes.html, IEEE 802 ethertypes.
Knows nothing about what IP carries and guesses no encapsulation from ports or content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    Data = bytes | mmap.mmap
    Network = tuple[int, Literal[4, 6]] | str

ETHERNET, RAW_BSD, RAW_OPENBSD, RAW, IPV4, IPV6 = 1, 12, 14, 101, 228, 229
NULL, LOOP, PPP, PPP_HDLC, SLL, SLL2 = 0, 108, 9, 50, 113, 276

TRUNCATED = "truncated_headers"
NOT_IP = "not_ip"
TUNNEL = "tunnel"

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_PPPOE = 0x8864
VLAN_ETHERTYPES = frozenset((0x8100, 0x88A8, 0x9100, 0x9200))
TUNNEL_ETHERTYPES = frozenset((0x8847, 0x8848, 0x88E7, 0x894F, 0x6558))
"""MPLS, provider backbone bridges, network service header, transparent Ethernet bridging."""

_INET6_FAMILIES = frozenset((10, 24, 28, 30))
"""AF_INET6 of Linux, NetBSD/OpenBSD, FreeBSD, macOS."""


def by_ethertype(data: Data, ethertype: int, at: int, end: int) -> Network:
    """The IP header behind `ethertype`, whose payload starts at `at`."""
    while ethertype in VLAN_ETHERTYPES:
        if at + 4 > end:
            return TRUNCATED
        ethertype = data[at + 2] << 8 | data[at + 3]
        at += 4
    if ethertype == ETHERTYPE_IPV4:
        return at, 4
    if ethertype == ETHERTYPE_IPV6:
        return at, 6
    if ethertype == ETHERTYPE_PPPOE:
        # version 1, type 1, code 0 (session data), session id, length (RFC 2516 section 4)
        return _ppp_protocol(data, at + 6, end)
    return TUNNEL if ethertype in TUNNEL_ETHERTYPES else NOT_IP


def _ethernet(data: Data, at: int, end: int) -> Network:
    if at + 14 > end:
        return TRUNCATED
    return by_ethertype(data, data[at + 12] << 8 | data[at + 13], at + 14, end)


def _sll(data: Data, at: int, end: int) -> Network:
    if at + 16 > end:
        return TRUNCATED
    return by_ethertype(data, data[at + 14] << 8 | data[at + 15], at + 16, end)


def _sll2(data: Data, at: int, end: int) -> Network:
    if at + 20 > end:
        return TRUNCATED
    return by_ethertype(data, data[at] << 8 | data[at + 1], at + 20, end)


def _raw(data: Data, at: int, end: int) -> Network:
    if at >= end:
        return TRUNCATED
    version = data[at] >> 4
    if version == 4:
        return at, 4
    return (at, 6) if version == 6 else NOT_IP


def _ipv4(_data: Data, at: int, _end: int) -> Network:
    return at, 4


def _ipv6(_data: Data, at: int, _end: int) -> Network:
    return at, 6


def _null(data: Data, at: int, end: int) -> Network:
    if at + 4 > end:
        return TRUNCATED
    # the family is in the capturing host's byte order; families are small, so the order shows
    family = max(data[at] | data[at + 1] << 8, data[at + 2] << 8 | data[at + 3])
    if family == 2:
        return at + 4, 4
    return (at + 4, 6) if family in _INET6_FAMILIES else NOT_IP


def _ppp(data: Data, at: int, end: int) -> Network:
    if at + 2 <= end and data[at] == 0xFF and data[at + 1] == 0x03:
        at += 2
    return _ppp_protocol(data, at, end)


def _ppp_protocol(data: Data, at: int, end: int) -> Network:
    """Protocol field of one or two bytes (RFC 1661 section 2)."""
    if at + 2 > end:
        return TRUNCATED
    if data[at] & 1:
        protocol = data[at]
        at += 1
    else:
        protocol = data[at] << 8 | data[at + 1]
        at += 2
    if protocol == 0x21:
        return at, 4
    if protocol == 0x57:
        return at, 6
    return TUNNEL if protocol in (0x281, 0x283) else NOT_IP


FINDERS: dict[int, Callable[[Data, int, int], Network]] = {
    ETHERNET: _ethernet,
    SLL: _sll,
    SLL2: _sll2,
    RAW_BSD: _raw,
    RAW_OPENBSD: _raw,
    RAW: _raw,
    IPV4: _ipv4,
    IPV6: _ipv6,
    NULL: _null,
    LOOP: _null,
    PPP: _ppp,
    PPP_HDLC: _ppp,
}
"""LINKTYPE_ number -> finder."""
