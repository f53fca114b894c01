"""The pcapng format: sections, interfaces, packet blocks, clocks, drop counts.

Source: draft-ietf-opsawg-pcapng, sections 3 and 4. Unknown blocks and options are passed over.
Refuses to look into the packets and to show any of the free text that a file may carry.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from backlogtrace.capture.pcap import MAX_PACKET, oversize
from backlogtrace.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backlogtrace.capture.link import Data
    from backlogtrace.capture.pcap import Record

SECTION_HEADER = 0x0A0D0D0A
INTERFACE, OLD_PACKET, SIMPLE_PACKET, STATISTICS, ENHANCED_PACKET = 1, 2, 3, 5, 6
STATEFUL = (SECTION_HEADER, INTERFACE, OLD_PACKET, SIMPLE_PACKET, STATISTICS)
"""Blocks that must be read one by one, in order."""
MIN_BLOCK = 12
MAX_BLOCK = 1 << 24
"""Largest block believed, as in libpcap."""
PACKET_HEADER = 28
"""Bytes before the packet data in an Enhanced Packet Block; the old Packet Block has as many."""
PACKET_OVERHEAD = PACKET_HEADER + 4

_BIG, _LITTLE = b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a"
_SECOND = 1_000_000_000
_TIME_LIMIT = (1 << 63) - 1
_MAX_DECIMALS, _MAX_BITS = 18, 60
_OPT_TSRESOL, _OPT_TSOFFSET = 9, 14
_OPT_IFDROP, _OPT_OSDROP = 5, 7
_OPT_DROPCOUNT = 4


class Interface(NamedTuple):
    """What an Interface Description Block says, as far as it concerns packets."""

    linktype: int
    snaplen: int
    numerator: int
    """Time in ns is `ticks * numerator // denominator + offset_ns`."""
    denominator: int
    offset_ns: int

    def time_ns(self, ticks: int) -> int:
        """Nanoseconds since the epoch, limited to 64 bits."""
        time_ns = ticks * self.numerator // self.denominator + self.offset_ns
        return max(-_TIME_LIMIT, min(time_ns, _TIME_LIMIT))


class PcapngFramer:
    """Finds the packets of one pcapng file, section by section."""

    format = "pcapng"

    def __init__(self, header: bytes) -> None:
        """`header`: the first 12 bytes. Raises CaptureError when they cannot start a section."""
        self.order = byte_order(header[8:12])
        if not self.order:
            raise CaptureError(
                "starts like pcapng, but its section header has no byte-order magic: it is damaged"
            )
        self.start = 0
        self.damage = ""
        self.need = MIN_BLOCK
        self.untimed = 0
        self.interfaces: list[Interface] = []
        self.order_changes = 0
        """How often a section had another byte order than the one before."""
        self._packet_drops = 0
        self._statistics: dict[int, int] = {}
        self._closed_drops = 0
        self._time_ns = 0
        self._set_order(self.order)

    @staticmethod
    def recognises(magic: bytes) -> bool:
        """Whether a file that starts so is a pcapng file."""
        return magic[:4] == b"\n\r\r\n"

    @property
    def dropped(self) -> int:
        """Packets lost by the capturing host: the interface statistics, or else the packets' drop counts."""
        return self._closed_drops + sum(self._statistics.values()) or self._packet_drops

    def scan(self, data: Data, start: int, end: int) -> tuple[list[Record], int]:
        """The complete packets in `data[start:end]`, and the offset behind the last complete block."""
        records: list[Record] = []
        self.need = MIN_BLOCK
        while start + MIN_BLOCK <= end:
            kind, size = self._head(data, start)
            if kind == SECTION_HEADER:
                order = byte_order(data[start + 8 : start + 12])
                if not order:
                    self.damage = "the section header has no byte-order magic"
                    break
                size = Struct(order + "I").unpack_from(data, start + 4)[0]
            self.damage = bad_size(size)
            if self.damage:
                break
            if start + size > end:
                self.need = size
                break
            if kind == SECTION_HEADER:
                self.open_section(order)
            if self._length(data, start + size - 4)[0] != size:
                self.damage = f"the block has the length {size} at its head and another at its tail"
                break
            record = self._block(kind, data, start, size)
            if self.damage:
                break
            if record is not None:
                records.append(record)
            start += size
        return records, start

    def open_section(self, order: str) -> None:
        """Starts a section: its interfaces and its byte order are its own."""
        self._closed_drops += sum(self._statistics.values())
        self._statistics = {}
        self.interfaces = []
        if order != self.order:
            self.order_changes += 1
            self._set_order(order)

    def seen(self, time_ns: int) -> None:
        """Takes the time of a packet found elsewhere, for a simple packet that may follow."""
        self._time_ns = time_ns

    def drop_count(self, data: Data, start: int, size: int, caplen: int) -> None:
        """Reads the options of the packet block at `start`, which has some."""
        for code, body in self._options(data, start + PACKET_HEADER + (caplen + 3 & ~3), start + size - 4):
            if code == _OPT_DROPCOUNT and len(body) == 8:
                self._packet_drops += self._long(body)[0]

    def _set_order(self, order: str) -> None:
        self.order = order
        self._head = Struct(order + "II").unpack_from
        self._packet = Struct(order + "IIIII").unpack_from
        self._length = Struct(order + "I").unpack_from
        self._long = Struct(order + "Q").unpack_from
        self._signed = Struct(order + "q").unpack_from
        self._pair = Struct(order + "HH").unpack_from

    def _block(self, kind: int, data: Data, start: int, size: int) -> Record | None:
        """Takes one complete block; its packet, if it is one. Sets `damage` when it cannot be right."""
        if kind in (ENHANCED_PACKET, OLD_PACKET):
            return self._timed_packet(kind, data, start, size)
        if kind == SIMPLE_PACKET:
            return self._simple_packet(data, start, size)
        if kind == INTERFACE:
            self._interface(data, start, size)
        elif kind == STATISTICS and size >= 24:
            drops = [
                self._long(body)[0]
                for code, body in self._options(data, start + 20, start + size - 4)
                if code in (_OPT_IFDROP, _OPT_OSDROP) and len(body) == 8
            ]
            # the counts are totals since the capture began: the last block of an interface counts
            self._statistics[self._length(data, start + 8)[0]] = sum(drops)
        return None

    def _timed_packet(self, kind: int, data: Data, start: int, size: int) -> Record | None:
        if size < PACKET_OVERHEAD:
            self.damage = f"the packet block has only {size} bytes"
            return None
        number, high, low, caplen, wirelen = self._packet(data, start + 8)
        if kind == OLD_PACKET:
            number, drops = self._pair(data, start + 8)
            self._packet_drops += drops if drops != 0xFFFF else 0
        if caplen > size - PACKET_OVERHEAD:
            self.damage = f"the packet block of {size} bytes claims {caplen} captured bytes"
        elif caplen > MAX_PACKET:
            self.damage = oversize(caplen)
        elif number >= len(self.interfaces):
            self.damage = f"the packet names interface {number}, which the section does not describe"
        if self.damage:
            return None
        if kind == ENHANCED_PACKET and size > PACKET_OVERHEAD + (caplen + 3 & ~3):
            self.drop_count(data, start, size, caplen)
        interface = self.interfaces[number]
        self._time_ns = interface.time_ns(high << 32 | low)
        return start + PACKET_HEADER, caplen, wirelen, self._time_ns, interface.linktype

    def _simple_packet(self, data: Data, start: int, size: int) -> Record | None:
        if size < 16 or not self.interfaces:
            self.damage = (
                "the simple packet block has no length"
                if size < 16
                else ("a simple packet comes before the description of its interface")
            )
            return None
        interface = self.interfaces[0]
        wirelen = self._length(data, start + 8)[0]
        caplen = min(wirelen, size - 16, interface.snaplen or wirelen)
        if caplen > MAX_PACKET:
            self.damage = oversize(caplen)
            return None
        self.untimed += 1
        return start + 12, caplen, wirelen, self._time_ns, interface.linktype

    def _interface(self, data: Data, start: int, size: int) -> None:
        if size < 20:
            self.damage = f"the interface description has only {size} bytes"
            return
        linktype = self._pair(data, start + 8)[0]
        snaplen = self._length(data, start + 12)[0]
        resolution, offset = 6, 0
        for code, body in self._options(data, start + 16, start + size - 4):
            if code == _OPT_TSRESOL and len(body) >= 1:
                resolution = body[0]
            elif code == _OPT_TSOFFSET and len(body) == 8:
                offset = self._signed(body)[0]
        exponent = resolution & 0x7F
        if exponent > (_MAX_BITS if resolution & 0x80 else _MAX_DECIMALS):
            self.damage = f"the interface counts time in units that cannot be (if_tsresol {resolution})"
            return
        units = 1 << exponent if resolution & 0x80 else 10**exponent
        if _SECOND % units == 0:
            numerator, denominator = _SECOND // units, 1
        elif units % _SECOND == 0:
            numerator, denominator = 1, units // _SECOND
        else:
            numerator, denominator = _SECOND, units
        self.interfaces.append(Interface(linktype, snaplen, numerator, denominator, offset * _SECOND))

    def _options(self, data: Data, at: int, end: int) -> Iterator[tuple[int, bytes]]:
        """(code, body) up to the end of the options; a body that overruns ends them."""
        while at + 4 <= end:
            code, size = self._pair(data, at)
            if code == 0 or at + 4 + size > end:
                return
            yield code, data[at + 4 : at + 4 + size]
            at += 4 + (size + 3 & ~3)


def byte_order(magic: bytes) -> str:
    """`<`, `>`, or "" for anything but the byte-order magic."""
    return {_LITTLE: "<", _BIG: ">"}.get(magic, "")


def bad_size(size: int) -> str:
    """Why no block can have `size` bytes; "" when one can."""
    if size < MIN_BLOCK or size & 3:
        return f"the block claims a length of {size} bytes, which no block can have"
    if size > MAX_BLOCK:
        return f"the block claims {size} bytes, more than the {MAX_BLOCK} that are believed"
    return ""
