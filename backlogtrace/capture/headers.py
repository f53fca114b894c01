"""TCP headers of many packets as numpy columns: what packet.decode() gives, for a window at once.

The common shapes (Ethernet with VLAN tags, cooked, raw; IPv4; IPv6 without extension headers) go by columns,
any other packet through packet.locate(). Words are little-endian reads of network-order bytes.
Refuses to judge what it decodes and to select.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backlogtrace.capture import link
from backlogtrace.capture.checksums import TCP_PROTOCOL
from backlogtrace.capture.gather import MAX_OPTIONS, Places, halves_at, octets, octets_at, rows_at
from backlogtrace.capture.packet import (
    BAD_HEADER,
    EXTENSION_HEADERS,
    NOT_TCP,
    TUNNEL_PROTOCOLS,
    TUNNEL_UDP_PORTS,
    UDP_PROTOCOL,
    locate,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from backlogtrace.capture.gather import Ints, Octets, Words
    from backlogtrace.capture.info import CaptureInfo
    from backlogtrace.capture.link import Data
    from backlogtrace.capture.records import Records

    Bools = npt.NDArray[np.bool_]

FIRST, SOURCE, TARGET, PORTS, SEQ, ACKED, OFFSET_FLAGS = 1, 4, 5, 6, 7, 8, 9
"""Word numbers in a row: 4 bytes before the IPv4 header, 20 of it and 20 of TCP, so all words are aligned."""
PLAIN_4, PLAIN_6 = 0x45, 0x60
"""First byte of an IP header that ends where TCP begins; a row with another has no whole IP header."""
_BEFORE_IP, _FRAGMENT, _PROTOCOL = 0, 2, 3
_ROW_WORDS = 11
_OFFSET_BYTE, _FLAGS_BYTE = 36, 37

_LINK_HEADERS = {link.ETHERNET: 14, link.SLL: 16, link.SLL2: 20}
_RAW_LINKS = frozenset((link.RAW, link.RAW_BSD, link.RAW_OPENBSD, link.IPV4, link.IPV6))
_MAX_TAGS = 8


def _swapped(values: frozenset[int]) -> list[int]:
    return [(value & 0xFF) << 8 | value >> 8 for value in values]


_TYPE_V4, _TYPE_V6 = _swapped(frozenset((link.ETHERTYPE_IPV4,))) + _swapped(frozenset((link.ETHERTYPE_IPV6,)))
_VLAN_TYPES = _swapped(link.VLAN_ETHERTYPES)
_OTHER_TYPES = _swapped(link.TUNNEL_ETHERTYPES | {link.ETHERTYPE_PPPOE})
_TUNNEL_PORTS = _swapped(TUNNEL_UDP_PORTS)
_LOCATED_PROTOCOLS = [*TUNNEL_PROTOCOLS, *EXTENSION_HEADERS]


class Headers:
    """TCP packets, in capture order; arrays have one entry per packet unless they say otherwise."""

    __slots__ = ("flags", "length", "number", "places", "rows", "six", "six_at")

    def __init__(
        self, number: Ints, rows: Words, length: Ints, six_at: Ints, six: Octets, places: Places
    ) -> None:
        self.number = number
        """Index among all packets, TCP or not."""
        self.rows = rows
        """(n, 11) words."""
        self.flags = octets(rows)[:, _FLAGS_BYTE].copy()
        self.length = length
        """Payload bytes."""
        self.six_at = six_at
        """Which of the packets are IPv6; their address words in `rows` mean nothing."""
        self.six = six
        """(len(six_at), 32) bytes: their source and destination addresses."""
        self.places = places

    def __len__(self) -> int:
        return len(self.number)

    def options(self, chosen: Ints) -> tuple[Octets, Ints]:
        """((k, 40) bytes behind the fixed headers of the chosen packets, number of them that are options).

        Bytes past the number are anything.
        """
        size = ((octets(self.rows)[chosen, _OFFSET_BYTE] >> 4).astype(np.int64) << 2) - 20
        return self.places.chosen(chosen).options(size)

    def six_of(self, chosen: Ints) -> tuple[Ints, Octets]:
        """(which of the packets `chosen` are IPv6, their addresses as in `six`)"""
        which = np.full(len(self), -1, np.int64)
        which[self.six_at] = np.arange(len(self.six_at))
        which = which[chosen]
        places = np.flatnonzero(which >= 0)
        return places, self.six[which[places]]

    def detached(self, chosen: Ints) -> Headers:
        """A copy of some packets' headers that does not hold the capture's bytes."""
        body, size = self.options(chosen)
        at = np.arange(len(chosen)) * MAX_OPTIONS
        places = Places(at - 20, at + size, [body.tobytes()])
        return Headers(
            self.number[chosen], self.rows[chosen], self.length[chosen], *self.six_of(chosen), places
        )

    @staticmethod
    def merged(parts: Sequence[Headers], order: Ints, number: Ints) -> Headers:
        """One from several: packet k is packet `order[k]` of the parts in a row, its index is `number[k]`."""
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        base = np.cumsum([0, *(len(part) for part in parts)])
        six_at = [part.six_at + start for part, start in zip(parts, base[:-1], strict=True)]
        return Headers(
            number,
            np.concatenate([part.rows for part in parts])[order],
            np.concatenate([part.length for part in parts])[order],
            place[np.concatenate(six_at)],
            np.concatenate([part.six for part in parts]),
            Places.joined([part.places for part in parts]).chosen(order),
        )

    def slice(self, first: int, last: int) -> Headers:
        """The packets `first` to `last`, not included."""
        inside = (self.six_at >= first) & (self.six_at < last)
        return Headers(
            self.number[first:last],
            self.rows[first:last],
            self.length[first:last],
            self.six_at[inside] - first,
            self.six[inside],
            self.places.chosen(slice(first, last)),
        )


def decode_headers(data: Data, records: Records, info: CaptureInfo) -> Headers:
    """The TCP packets among `records` of `data`; counts the others, and what was odd, in `info`."""
    info.snaplen_cut += int((records.caplen < records.wirelen).sum())
    if isinstance(records.linktype, int):
        info.saw_link(records.linktype)
        return _Decoding(data, records, records.linktype, info).headers()
    # link types appear in the order of their first packet
    linktypes, first = np.unique(records.linktype, return_index=True)
    parts = []
    for linktype in linktypes[np.argsort(first)].tolist():
        info.saw_link(linktype)
        chosen = np.flatnonzero(records.linktype == linktype)
        part = _Decoding(data, records.chosen(chosen), linktype, info).headers()
        part.number = chosen[part.number]
        parts.append(part)
    if len(parts) == 1:
        return parts[0]
    number = np.concatenate([part.number for part in parts])
    order = np.argsort(number)
    return Headers.merged(parts, order, number[order])


class _Decoding:
    """One run over packets of one link type: `rows`, `room` and `tcp_at` fill up, `good` says where."""

    def __init__(self, data: Data, records: Records, linktype: int, info: CaptureInfo) -> None:
        self.data = data
        self.records = records
        self.linktype = linktype
        self.info = info
        self.end = records.at + records.caplen
        self.ip_at = records.at + _LINK_HEADERS.get(linktype, 0)
        self.rows = rows_at(data, self.ip_at - 4, 4 * _ROW_WORDS)
        self.tcp_at = self.ip_at + 20
        self.good, self.room = self._plain_ipv4()
        self.length_zero: list[int] = []
        self.six_at: list[Ints] = []
        self.six: list[Octets] = []

    def headers(self) -> Headers:
        """Decodes what is not plain, checks the TCP headers and drops what is no TCP segment."""
        if not self.good.all():
            self._others(np.flatnonzero(~self.good))
        header = (octets(self.rows)[:, _OFFSET_BYTE] >> 4).astype(np.int64) << 2
        bad = self.good & ((header < 20) | (header > self.room))
        if bad.any():
            self.info.skip(BAD_HEADER, int(bad.sum()))
            self.good &= ~bad
        self.info.options_cut += int((self.good & (self.tcp_at + header > self.end)).sum())
        self.info.length_zero += sum(self.good[self.length_zero].tolist())
        number = np.flatnonzero(self.good)
        length = self.room - header
        six_at = np.concatenate(self.six_at) if self.six_at else np.empty(0, np.int64)
        six = np.concatenate(self.six) if self.six_at else np.empty((0, 32), np.uint8)
        places = Places(self.tcp_at, self.end, [self.data])
        if len(number) == len(self.good):
            return Headers(number, self.rows, length, six_at, six, places)
        stays = self.good[six_at]
        place = (np.cumsum(self.good) - 1)[six_at[stays]]
        return Headers(number, self.rows[number], length[number], place, six[stays], places.chosen(number))

    def _plain_ipv4(self) -> tuple[Bools, Ints]:
        """(which packets are whole IPv4 TCP headers without IP options, IP payload bytes)."""
        rows = self.rows
        total = rows[:, FIRST] >> 16
        room = ((total & 0xFF) << 8 | total >> 8).astype(np.int64) - 20
        good = (rows[:, FIRST] & 0xFF) == 0x45
        good &= (rows[:, _PROTOCOL] & 0xFF00) == TCP_PROTOCOL << 8
        good &= (rows[:, _FRAGMENT] & 0xFF3F0000) == 0
        good &= self.end - self.ip_at >= 40
        good &= room >= 20
        if self.linktype in (link.ETHERNET, link.SLL):
            good &= rows[:, _BEFORE_IP] >> 16 == _TYPE_V4
        elif self.linktype == link.SLL2:
            good &= halves_at(self.data, self.records.at) == _TYPE_V4
        elif self.linktype not in _RAW_LINKS or self.linktype == link.IPV6:
            good[:] = False
        return good, room

    def _others(self, rest: Ints) -> None:
        """Takes the packets `rest` that are not plain IPv4."""
        if self.linktype in _LINK_HEADERS:
            kind, rest, odd = self._by_ethertype(rest)
        elif self.linktype in (link.RAW, link.RAW_BSD, link.RAW_OPENBSD):
            kind = (octets_at(self.data, self.ip_at[rest]) >> 4).astype(np.int64)
            odd = rest[(kind != 4) & (kind != 6)]
        else:
            kind, odd = np.zeros(len(rest), np.int64), rest
        more = [odd, self._ipv4(rest[kind == 4]), self._ipv6(rest[kind == 6])]
        self._one_by_one(np.sort(np.concatenate(more)))

    def _by_ethertype(self, rest: Ints) -> tuple[Ints, Ints, Ints]:
        """(IP version of each packet of interest, these packets, packets to look at one by one)."""
        records, end = self.records, self.end
        whole = self.ip_at[rest] <= end[rest]
        self._skip(link.TRUNCATED, int((~whole).sum()))
        rest = rest[whole]
        at = records.at[rest] if self.linktype == link.SLL2 else self.ip_at[rest] - 2
        ethertype = halves_at(self.data, at)
        for _ in range(_MAX_TAGS):
            tagged = np.flatnonzero(np.isin(ethertype, _VLAN_TYPES))
            tagged = tagged[self.ip_at[rest[tagged]] + 4 <= end[rest[tagged]]]
            if not len(tagged):
                break
            self.ip_at[rest[tagged]] += 4
            ethertype[tagged] = halves_at(self.data, self.ip_at[rest[tagged]] - 2)
        kind = np.where(ethertype == _TYPE_V4, 4, np.where(ethertype == _TYPE_V6, 6, 0))
        located = (kind == 0) & np.isin(ethertype, _VLAN_TYPES + _OTHER_TYPES)
        self._skip(link.NOT_IP, int(((kind == 0) & ~located).sum()))
        return kind, rest, rest[located]

    def _skip(self, reason: str, count: int) -> None:
        if count:
            self.info.skip(reason, count)

    def _ipv4(self, chosen: Ints) -> Ints:
        """Takes IPv4 packets with any header length; gives back those to look at one by one."""
        ip_at, end = self.ip_at[chosen], self.end[chosen]
        ip = rows_at(self.data, ip_at, 20)
        first, protocol = ip[:, 0] & 0xFF, _octet(ip, 2, 1)
        header = (first & 15).astype(np.int64) << 2
        tcp_at = ip_at + header
        total = ip[:, 0] >> 16
        room = ((total & 0xFF) << 8 | total >> 8).astype(np.int64) - header
        whole = (ip_at + 20 <= end) & (first >> 4 == 4) & (header >= 20)
        other = whole & (protocol != TCP_PROTOCOL) & ~self._tunnel(protocol, tcp_at, end)
        self._skip(NOT_TCP, int(other.sum()))
        good = whole & (protocol == TCP_PROTOCOL) & (ip[:, 1] & 0xFF3F0000 == 0) & (total != 0) & (room >= 20)
        cut = (ip_at + 20 > end) | (good & (tcp_at + 20 > end))
        self._skip(link.TRUNCATED, int(cut.sum()))
        good &= ~cut
        self.rows[chosen[good], FIRST : TARGET + 1] = ip[good]
        self._accept(chosen[good], tcp_at[good], room[good])
        odd: Ints = chosen[~(good | other | cut)]
        return odd

    def _ipv6(self, chosen: Ints) -> Ints:
        """Takes IPv6 packets without extension headers; gives back those to look at one by one."""
        ip_at, end = self.ip_at[chosen], self.end[chosen]
        ip = rows_at(self.data, ip_at, 40)
        protocol = _octet(ip, 1, 2)
        length = ip[:, 1] & 0xFFFF
        room = ((length & 0xFF) << 8 | length >> 8).astype(np.int64)
        tcp_at = ip_at + 40
        whole = (tcp_at <= end) & (ip[:, 0] & 0xF0 == 0x60)
        other = whole & (protocol != TCP_PROTOCOL) & ~self._tunnel(protocol, tcp_at, end)
        self._skip(NOT_TCP, int(other.sum()))
        good = whole & (protocol == TCP_PROTOCOL) & (room >= 20)
        cut = (tcp_at > end) | (good & (tcp_at + 20 > end))
        self._skip(link.TRUNCATED, int(cut.sum()))
        good &= ~cut
        self.six_at.append(chosen[good])
        self.six.append(octets(ip)[good, 8:40])
        self.rows[chosen[good], FIRST] = PLAIN_6
        self._accept(chosen[good], tcp_at[good], room[good])
        odd: Ints = chosen[~(good | other | cut)]
        return odd

    def _tunnel(self, protocol: Octets, at: Ints, end: Ints) -> Bools:
        """Which packets have a protocol, or go to a UDP port, that must be looked at one by one."""
        port = halves_at(self.data, at + 2)
        registered = (protocol == UDP_PROTOCOL) & (at + 4 <= end) & np.isin(port, _TUNNEL_PORTS)
        found: Bools = np.isin(protocol, _LOCATED_PROTOCOLS) | registered
        return found

    def _accept(self, chosen: Ints, tcp_at: Ints, room: Ints) -> None:
        """Takes packets whose TCP header has been found whole."""
        self.rows[chosen, PORTS:] = rows_at(self.data, tcp_at, 20)
        self.tcp_at[chosen] = tcp_at
        self.room[chosen] = room
        self.good[chosen] = True

    def _one_by_one(self, odd: Ints) -> None:
        """Takes the packets that no column code understands."""
        records = self.records
        four: list[tuple[int, int, int]] = []
        addresses = []
        six: list[tuple[int, int, int]] = []
        six_addresses = []
        for number in odd.tolist():
            found = locate(
                self.data,
                int(records.at[number]),
                int(records.caplen[number]),
                int(records.wirelen[number]),
                self.linktype,
            )
            if isinstance(found, str):
                self.info.skip(found)
                continue
            tcp_at, room, source, target, network = found
            if network < 0:
                self.length_zero.append(number)
            self.rows[number, FIRST] = 0
            if tcp_at - network == 20 and len(source) == 4:  # the whole header, for its checksum
                self.rows[number, FIRST : TARGET + 1] = np.frombuffer(self.data, "<u4", 5, network)
            elif tcp_at - network == 40 and len(source) == 16:
                self.rows[number, FIRST] = PLAIN_6
            if len(source) == 4:
                four.append((number, tcp_at, room))
                addresses.append(source + target)
            else:
                six.append((number, tcp_at, room))
                six_addresses.append(source + target)
        if four:
            chosen, tcp_at, room = np.array(four, np.int64).T
            self.rows[chosen, SOURCE : TARGET + 1] = np.frombuffer(b"".join(addresses), "<u4").reshape(-1, 2)
            self._accept(chosen, tcp_at, room)
        if six:
            chosen, tcp_at, room = np.array(six, np.int64).T
            self.six_at.append(chosen)
            self.six.append(np.frombuffer(b"".join(six_addresses), np.uint8).reshape(-1, 32))
            self._accept(chosen, tcp_at, room)


def _octet(rows: Words, word: int, number: int) -> Octets:
    """Byte `number` of a word of each row."""
    return octets(rows)[:, 4 * word + number]
