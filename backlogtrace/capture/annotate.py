"""A capture again as pcapng, with comments on some of its packets: everything else as it was, byte by byte.

Comments become the first option of their block, so that whatever options follow, ended properly or not, stay
as they are. Knows blocks and their lengths. Refuses to know what the comments say.
"""

from __future__ import annotations

from contextlib import closing
from struct import Struct
from typing import TYPE_CHECKING

from backlogtrace.capture.file import CaptureFile
from backlogtrace.capture.info import CaptureInfo
from backlogtrace.capture.pcap import PcapFramer
from backlogtrace.capture.pcapng import (
    ENHANCED_PACKET,
    INTERFACE,
    MAX_BLOCK,
    OLD_PACKET,
    PACKET_HEADER,
    PACKET_OVERHEAD,
    SECTION_HEADER,
    SIMPLE_PACKET,
    byte_order,
)
from backlogtrace.capture.reader import SMALL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import IO

    from backlogtrace.capture.file import Progress, Sized
    from backlogtrace.capture.link import Data
    from backlogtrace.capture.pcap import Record
    from backlogtrace.capture.records import Records

    Heads = tuple[list[int], list[int], list[bytes]]
    """(offsets of packets, their captured bytes, what comes before each in a block without comment)"""
    Scan = Callable[[Data, int, int], tuple[Sized, int]]

WINDOW = 32 << 20
"""Bytes in which packets are looked for together."""
_TOGETHER = 2 << 20
"""Bytes put together before they are written: more would need new memory each time."""
MAX_COMMENT = 60_000
"""Bytes of a comment at most; an option has room for 65535."""
_OPT_COMMENT, _OPT_TSRESOL = 1, 9
_WITH_OPTIONS = frozenset((ENHANCED_PACKET, OLD_PACKET))
_END_OF_OPTIONS = b"\0\0\0\0"
_OPTION_HEADS = {order: Struct(order + "HH").pack for order in "<>"}
_MAGIC = 0x1A2B3C4D
_SECTION_OPTIONS = 24
"""Where the options of a Section Header Block start."""
_SECTION_LENGTH = 16
_UNKNOWN_LENGTH = 1 << 63
"""Section lengths from here on are negative: not known."""
_MICRO = 1000
_WORD = 1 << 32


class Comments:
    """What is to be written where, and what came of it."""

    def __init__(self, section: str, frames: Sequence[int], text: Callable[[int], str]) -> None:
        """`frames`: numbers of the packets with a comment, ascending; `text` gives the comment of one."""
        self.section = section
        """Comment on the whole, for the first section header."""
        self.text = text
        self._frames = iter(frames)
        self.due = next(self._frames, 0)
        """The next frame with a comment; 0: none."""
        self.simple = 0
        """Comments left out because a Simple Packet Block can hold none."""
        self.crowded = 0
        """Comments left out because the block would become larger than readers believe."""

    def take(self, order: str) -> bytes:
        """The comment that is due, as an option."""
        option = _comment(self.text(self.due), order)
        self.skip()
        return option

    def skip(self) -> None:
        """Goes on to the next frame."""
        self.due = next(self._frames, 0)


def write_annotated(
    name: str, comments: Comments, out: IO[bytes], progress: Progress | None = None
) -> CaptureInfo:
    """Writes the capture `name` as pcapng with `comments` to `out`, which can seek.

    Raises CaptureError when the capture cannot be read at all; damage further on shows in the `problems` of
    the result, and what came before it is written.
    """
    info = CaptureInfo(names=[name])
    file = CaptureFile(name, info, progress)
    with closing(file):
        framer = file.framer
        scan: Scan = framer.scan
        if not file.is_small(SMALL):
            from backlogtrace.capture.records import column_scan

            scan = column_scan(framer)
        if isinstance(framer, PcapFramer):
            converter = _Converter(framer, scan, comments, out)
            for _ in file.windows(WINDOW, converter.scan):
                pass
        else:
            copier = _Copier(scan, comments, out)
            for _ in file.windows(WINDOW, copier.scan):
                pass
            copier.close_section()
    return info


class _Copier:
    """Copies the blocks of a pcapng file: long runs as they are, the commented packets with a comment."""

    def __init__(self, scan: Scan, comments: Comments, out: IO[bytes]) -> None:
        self._scan = scan
        self._comments = comments
        self._out = out
        self._pieces: list[bytes | memoryview] = []
        self._frame = 0
        self._set_order("<")
        self._section_at = -1
        """Where the length of the current section stands in the output; -1: nothing to be put right."""
        self._section_length = 0
        self._grown = 0
        """Bytes that the current section has more than in the input."""

    def scan(self, data: Data, start: int, end: int) -> tuple[Sized, int]:
        """Writes the complete blocks in `data[start:end]`; what scan() of a framer gives back."""
        found, stop = self._scan(data, start, end)
        self._copy(data, start, stop)
        return found, stop

    def close_section(self) -> None:
        """Puts the length of the section right that ends here."""
        if self._section_at >= 0 and self._grown:
            self._out.seek(self._section_at)
            self._out.write(Struct(self._order + "Q").pack(self._section_length + self._grown))
            self._out.seek(0, 2)

    def _set_order(self, order: str) -> None:
        self._order = order
        self._head = Struct(order + "II").unpack_from
        self._word = Struct(order + "I")

    def _flush(self) -> None:
        pieces = self._pieces
        self._out.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        pieces.clear()

    def _copy(self, data: Data, at: int, stop: int) -> None:
        """Writes the whole blocks of `data[at:stop]`."""
        comments, add, head = self._comments, self._pieces.append, self._head
        view = memoryview(data)
        frame, due = self._frame, comments.due
        run, with_options, written = at, _WITH_OPTIONS, at
        while at < stop:
            kind, size = head(data, at)
            if kind in with_options:
                frame += 1
                if frame == due:
                    add(view[run:at])
                    if at - written > _TOGETHER:
                        self._flush()
                        written = at
                    run = at + size
                    self._packet(data[at:run])
                    due = comments.due
            elif kind == SIMPLE_PACKET:
                frame += 1
                if frame == due:
                    comments.simple += 1
                    comments.skip()
                    due = comments.due
            elif kind == SECTION_HEADER:
                add(view[run:at])
                size = self._section(data, at)
                head = self._head
                run = at + size
            at += size
        add(view[run:stop])
        self._flush()
        self._frame = frame

    def _packet(self, block: bytes) -> None:
        """Adds a packet block with the comment that is due."""
        caplen = self._word.unpack_from(block, 20)[0]
        option = self._comments.take(self._order)
        self._grown += self._insert(block, PACKET_HEADER + (caplen + 3 & ~3), option)

    def _section(self, data: Data, at: int) -> int:
        """Adds a section header, the first of the file with the comment on all; returns its old size."""
        self._flush()
        self.close_section()
        self._set_order(byte_order(data[at + 8 : at + 12]))
        size: int = self._word.unpack_from(data, at + 4)[0]
        block = data[at : at + size]
        self._section_at, self._grown = -1, 0
        if size < _SECTION_OPTIONS + 4:
            self._pieces.append(block)
            return size
        self._section_length = Struct(self._order + "Q").unpack_from(block, _SECTION_LENGTH)[0]
        if self._section_length < _UNKNOWN_LENGTH:
            self._section_at = self._out.tell() + _SECTION_LENGTH
        if self._comments.section:
            self._insert(block, _SECTION_OPTIONS, _comment(self._comments.section, self._order))
            self._comments.section = ""
        else:
            self._pieces.append(block)
        return size

    def _insert(self, block: bytes, at: int, option: bytes) -> int:
        """Adds a block with an option more at `at`, where its options start; returns the bytes it grew."""
        size = len(block)
        end = b"" if at < size - 4 else _END_OF_OPTIONS
        grown = len(option) + len(end)
        if size + grown > MAX_BLOCK:
            self._comments.crowded += 1
            self._pieces.append(block)
            return 0
        length = self._word.pack(size + grown)
        grown_block = (block[:4], length, block[8:at], option, end, block[at:-4], length)
        self._pieces.append(b"".join(grown_block))
        return grown


class _Converter:
    """Writes the packets of a pcap file as a pcapng section of one interface, in the same byte order."""

    def __init__(self, framer: PcapFramer, scan: Scan, comments: Comments, out: IO[bytes]) -> None:
        self._scan = scan
        self._comments = comments
        self._out = out
        self._order = order = framer.order
        self._frame = 0
        self._unit_ns = framer.unit_ns
        self._tails: dict[int, bytes] = {}
        """Captured bytes -> what follows the packet in a block without comment."""
        options = _comment(comments.section, order) + _END_OF_OPTIONS if comments.section else b""
        section = Struct(order + "IHHq").pack(_MAGIC, 1, 0, -1)
        resolution = b"\x06" if framer.unit_ns == _MICRO else b"\x09"
        clock = _option(_OPT_TSRESOL, resolution, order) + _END_OF_OPTIONS
        interface = Struct(order + "HHI").pack(framer.linktype, 0, framer.snaplen)
        out.write(_block(SECTION_HEADER, section + options, order))
        out.write(_block(INTERFACE, interface + clock, order))

    def scan(self, data: Data, start: int, end: int) -> tuple[Sized, int]:
        """Writes the packets in `data[start:end]`; what scan() of a framer gives back."""
        found, stop = self._scan(data, start, end)
        if isinstance(found, list):
            self._convert(data, *self._plain(found))
            return found, stop
        records: Records = found  # type: ignore[assignment]
        step = max(1, len(records) * _TOGETHER // max(1, stop - start))
        for first in range(0, len(records), step):
            self._convert(data, *self._columns(records.chosen(slice(first, first + step))))
        return found, stop

    def _plain(self, records: list[Record]) -> Heads:
        pack = Struct(self._order + "7I").pack
        heads = []
        for _, caplen, wirelen, time_ns, _ in records:
            high, low = divmod(time_ns // self._unit_ns, _WORD)
            size = PACKET_OVERHEAD + (caplen + 3 & ~3)
            heads.append(pack(ENHANCED_PACKET, size, 0, high, low, caplen, wirelen))
        return [record[0] for record in records], [record[1] for record in records], heads

    def _columns(self, records: Records) -> Heads:
        import numpy as np

        heads = np.zeros((len(records), 7), self._order + "u4")
        ticks = records.time_ns // self._unit_ns
        heads[:, 0] = ENHANCED_PACKET
        heads[:, 1] = PACKET_OVERHEAD + (records.caplen + 3 & ~3)
        heads[:, 3], heads[:, 4] = ticks >> 32, ticks & _WORD - 1
        heads[:, 5], heads[:, 6] = records.caplen, records.wirelen
        return records.at.tolist(), records.caplen.tolist(), heads.view("V28").ravel().tolist()

    def _convert(self, data: Data, at: list[int], caplen: list[int], heads: list[bytes]) -> None:
        """Column by column: a loop over the packets would take three times as long."""
        comments, tails = self._comments, self._tails
        length = Struct(self._order + "I").pack
        for size in set(caplen).difference(tails):
            tails[size] = _END_OF_OPTIONS[: -size % 4] + length(PACKET_OVERHEAD + (size + 3 & ~3))
        ends = list(map(tails.__getitem__, caplen))
        while 0 < comments.due <= self._frame + len(at):
            number = comments.due - self._frame - 1
            option = comments.take(self._order) + _END_OF_OPTIONS
            total = length(PACKET_OVERHEAD + (caplen[number] + 3 & ~3) + len(option))
            heads[number] = heads[number][:4] + total + heads[number][8:]
            ends[number] = ends[number][:-4] + option + total
        pieces = [b""] * (3 * len(at))
        pieces[0::3] = heads
        pieces[1::3] = [data[start : start + size] for start, size in zip(at, caplen, strict=True)]
        pieces[2::3] = ends
        self._out.write(b"".join(pieces))
        self._frame += len(at)


def _block(kind: int, body: bytes, order: str) -> bytes:
    """A pcapng block; the length of `body` is a multiple of 4."""
    size = Struct(order + "I").pack(len(body) + 12)
    return Struct(order + "I").pack(kind) + size + body + size


def _option(code: int, value: bytes, order: str) -> bytes:
    return _OPTION_HEADS[order](code, len(value)) + value + _END_OF_OPTIONS[: -len(value) % 4]


def _comment(text: str, order: str) -> bytes:
    """`text` as a comment; the end of a very long one is cut off."""
    value = text.encode("utf-8", "backslashreplace")
    if len(value) > MAX_COMMENT:
        value = value[:MAX_COMMENT].decode("utf-8", "ignore").encode()
    return _option(_OPT_COMMENT, value, order)
