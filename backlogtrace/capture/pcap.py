"""The classic pcap format: file header, record headers, nothing else.

Sources: draft-ietf-opsawg-pcap; for the 24-byte records of the "modified" format, libpcap's sf-pcap.c.
Refuses to look into the packets.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from backlogtrace.errors import CaptureError

if TYPE_CHECKING:
    from backlogtrace.capture.link import Data

    Record = tuple[int, int, int, int, int]
    """(offset of the packet in the data, captured bytes, bytes on the wire, time in ns, link type)"""

FILE_HEADER = 24
MAX_PACKET = 262_144
"""Largest captured packet believed, as in libpcap (MAXIMUM_SNAPLEN) and Wireshark."""

_MICRO, _NANO = 1000, 1
_MAGIC: dict[bytes, tuple[str, int, int]] = {
    b"\xd4\xc3\xb2\xa1": ("<", _MICRO, 16),
    b"\xa1\xb2\xc3\xd4": (">", _MICRO, 16),
    b"\x4d\x3c\xb2\xa1": ("<", _NANO, 16),
    b"\xa1\xb2\x3c\x4d": (">", _NANO, 16),
    b"\x34\xcd\xb2\xa1": ("<", _MICRO, 24),
    b"\xa1\xb2\xcd\x34": (">", _MICRO, 24),
}
"""Magic number -> (byte order, nanoseconds per unit of the fraction, bytes of a record header)."""
_SECOND = 1_000_000_000
_MAJOR_VERSION = 2


class PcapFramer:
    """Finds the records of one pcap file."""

    format = "pcap"

    def __init__(self, header: bytes) -> None:
        """`header`: the first 24 bytes. Raises CaptureError when they cannot be the header of a pcap file."""
        self.order, self.unit_ns, self.record_header = _MAGIC[header[:4]]
        major, minor, _, _, self.snaplen, network = Struct(self.order + "HHiIII").unpack_from(header, 4)
        if major != _MAJOR_VERSION:
            raise CaptureError(f"is pcap version {major}.{minor}, only 2.x is known: convert it with editcap")
        # the upper bits say whether packets end in a frame check sequence
        self.linktype = network & 0xFFFF
        self.start = FILE_HEADER
        """Position of the first record."""
        self.damage = ""
        """Why the record at `damage_at` cannot be one; empty while all is well."""
        self.need = self.record_header
        """Bytes that the record at which scan() stopped needs."""
        self.dropped = 0
        self.untimed = 0
        self._unpack = Struct(self.order + "IIII").unpack_from

    @staticmethod
    def recognises(magic: bytes) -> bool:
        """Whether a file that starts so is a pcap file."""
        return magic[:4] in _MAGIC

    def scan(self, data: Data, start: int, end: int) -> tuple[list[Record], int]:
        """The complete records in `data[start:end]`, and the offset behind them."""
        unpack, header, unit, linktype = self._unpack, self.record_header, self.unit_ns, self.linktype
        records: list[Record] = []
        add = records.append
        last = end - header
        self.need = header
        while start <= last:
            seconds, fraction, caplen, wirelen = unpack(data, start)
            if caplen > MAX_PACKET:
                self.damage = oversize(caplen)
                break
            following = start + header + caplen
            if following > end:
                self.need = header + caplen
                break
            add((start + header, caplen, wirelen, seconds * _SECOND + fraction * unit, linktype))
            start = following
        return records, start


def oversize(caplen: int) -> str:
    """What to say of a record that claims an impossible size."""
    return f"the record claims {caplen} captured bytes, the largest possible packet has {MAX_PACKET}"
