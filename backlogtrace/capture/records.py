"""Record headers of a window as numpy columns: what the framers' scan() gives, for many packets at once.

Anything but a plain run of packets (interfaces, statistics, damage, a section in the other byte order) is
left to the framer, which knows the words for it. Refuses to look into the packets.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

import numpy as np

from backlogtrace.capture.pcap import MAX_PACKET, PcapFramer, oversize
from backlogtrace.capture.pcapng import (
    ENHANCED_PACKET,
    MAX_BLOCK,
    MIN_BLOCK,
    PACKET_HEADER,
    PACKET_OVERHEAD,
    SECTION_HEADER,
    STATEFUL,
    PcapngFramer,
)
from backlogtrace.capture.walk import pcap_layout, pcapng_layout, record_offsets, words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from backlogtrace.capture.file import Framer
    from backlogtrace.capture.gather import Ints
    from backlogtrace.capture.link import Data
    from backlogtrace.capture.pcap import Record
    from backlogtrace.capture.pcapng import Interface

_SECOND = 1_000_000_000
_FEW = 200
"""Single blocks in a window up to which the others are still read by columns."""
_MAX_ORDER_CHANGES = 16
"""Sections of alternating byte order after which a file is read block by block."""
_BYTE_ORDER_MAGIC = 0x1A2B3C4D


class Records:
    """The packets of a stretch of data, in file order."""

    __slots__ = ("at", "caplen", "linktype", "time_ns", "wirelen")

    def __init__(self, at: Ints, caplen: Ints, wirelen: Ints, time_ns: Ints, linktype: int | Ints) -> None:
        self.at = at
        """Offset of the packet in the data."""
        self.caplen = caplen
        self.wirelen = wirelen
        self.time_ns = time_ns
        self.linktype = linktype
        """One for all, or one for each."""

    def __len__(self) -> int:
        return len(self.at)

    def chosen(self, index: Ints | slice) -> Records:
        """Some of them."""
        linktype = self.linktype if isinstance(self.linktype, int) else self.linktype[index]
        return Records(self.at[index], self.caplen[index], self.wirelen[index], self.time_ns[index], linktype)


def column_scan(framer: Framer) -> Callable[[Data, int, int], tuple[Records, int]]:
    """The scan of a file by columns, with the results and the side effects of `framer.scan`."""
    if isinstance(framer, PcapFramer):
        return _PcapScan(framer).scan
    return _PcapngScan(framer).scan


def _rows(data: Data, at: Ints, size: int, order: str) -> npt.NDArray[np.uint32]:
    """`size` bytes from each offset on, as rows of 32-bit words."""
    if len(at) == 0:
        return np.empty((0, size // 4), np.uint32)
    window = np.ndarray((len(data) - size + 1,), np.dtype(f"V{size}"), data, strides=(1,))
    rows: npt.NDArray[np.uint32] = window[at].view(order + "u4").reshape(-1, size // 4)
    return rows


def _from_list(records: Sequence[Record]) -> Records:
    if not records:
        none = np.empty(0, np.int64)
        return Records(none, none, none, none, none)
    table = np.array(records, np.int64)
    at, caplen, wirelen, time_ns, linktype = (table[:, number].copy() for number in range(5))
    return Records(at, caplen, wirelen, time_ns, linktype)


def _joined(pieces: list[Records]) -> Records:
    if len(pieces) == 1:
        return pieces[0]
    if not pieces:
        return _from_list([])
    linktypes = [
        np.full(len(piece), piece.linktype) if isinstance(piece.linktype, int) else piece.linktype
        for piece in pieces
    ]
    return Records(
        np.concatenate([piece.at for piece in pieces]),
        np.concatenate([piece.caplen for piece in pieces]),
        np.concatenate([piece.wirelen for piece in pieces]),
        np.concatenate([piece.time_ns for piece in pieces]),
        np.concatenate(linktypes),
    )


class _PcapScan:
    def __init__(self, framer: PcapFramer) -> None:
        self._framer = framer

    def scan(self, data: Data, start: int, end: int) -> tuple[Records, int]:
        framer = self._framer
        header = framer.record_header
        framer.need = header
        layout = pcap_layout(framer.order, header, MAX_PACKET, data[start : start + 4])
        offsets = record_offsets(data, start, end, layout)
        rows = _rows(data, offsets, 16, framer.order)
        caplen = rows[:, 2].astype(np.int64)
        stop = end
        impossible = caplen > MAX_PACKET
        if impossible.any():
            first = int(impossible.argmax())
            stop = int(offsets[first])
            framer.damage = oversize(int(caplen[first]))
            offsets, rows, caplen = offsets[:first], rows[:first], caplen[:first]
        elif len(offsets):
            stop = int(offsets[-1] + header + caplen[-1])
            if stop > end:
                framer.need = header + int(caplen[-1])
                stop = int(offsets[-1])
                offsets, rows, caplen = offsets[:-1], rows[:-1], caplen[:-1]
        else:
            stop = start
        time_ns = rows[:, 0].astype(np.int64) * _SECOND + rows[:, 1].astype(np.int64) * framer.unit_ns
        return Records(offsets + header, caplen, rows[:, 3].astype(np.int64), time_ns, framer.linktype), stop


class _PcapngScan:
    def __init__(self, framer: PcapngFramer) -> None:
        self._framer = framer

    def scan(self, data: Data, start: int, end: int) -> tuple[Records, int]:
        framer = self._framer
        if framer.order_changes > _MAX_ORDER_CHANGES or end - start < MIN_BLOCK:
            return self._plainly(data, start, end)
        offsets = record_offsets(data, start, end, pcapng_layout(framer.order, MIN_BLOCK, MAX_BLOCK))
        word = words(data, framer.order)
        kinds = word[offsets]
        sizes = word[offsets + 4].astype(np.int64)
        usable = self._usable(word, offsets, kinds, sizes, end)
        single = np.flatnonzero(np.isin(kinds[:usable], STATEFUL)).tolist()
        if len(single) > _FEW:
            return self._plainly(data, start, end)
        pieces: list[Records] = []
        done = 0
        for number in [*single, usable]:
            pieces.append(self._packets(data, offsets[done:number], kinds[done:number], sizes[done:number]))
            if framer.damage:
                return _joined(pieces), self._stopped_at
            if number == usable:
                break
            at = int(offsets[number])
            records, stop = framer.scan(data, at, at + int(sizes[number]))
            pieces.append(_from_list(records))
            if framer.damage:
                return _joined(pieces), stop
            done = number + 1
        stop = int(offsets[usable - 1] + sizes[usable - 1]) if usable else start
        return _joined(pieces), self._finish(data, stop, end)

    def _plainly(self, data: Data, start: int, end: int) -> tuple[Records, int]:
        records, stop = self._framer.scan(data, start, end)
        return _from_list(records), stop

    def _usable(
        self,
        word: npt.NDArray[np.uint32],
        offsets: Ints,
        kinds: npt.NDArray[np.uint32],
        sizes: Ints,
        end: int,
    ) -> int:
        """Number of blocks before the first that is damaged, incomplete or of the other byte order."""
        bad = (sizes < MIN_BLOCK) | (sizes & 3 != 0) | (sizes > MAX_BLOCK) | (offsets + sizes > end)
        tails = offsets + np.where(bad, 8, sizes - 4)
        bad |= word[tails] != sizes
        sections = np.flatnonzero(kinds == SECTION_HEADER)
        bad[sections[word[offsets[sections] + 8] != _BYTE_ORDER_MAGIC]] = True
        return int(bad.argmax()) if bad.any() else len(bad)

    def _finish(self, data: Data, stop: int, end: int) -> int:
        """Lets the framer take the block behind the usable ones: it finds what is missing or wrong."""
        framer = self._framer
        limit = end
        order = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}.get(data[stop + 8 : min(stop + 12, end)])
        if order and int.from_bytes(data[stop : stop + 4], "big") == SECTION_HEADER:
            # a new section of the other byte order: only its header, the rest needs new walkers
            limit = min(end, stop + max(MIN_BLOCK, Struct(order + "I").unpack_from(data, stop + 4)[0]))
        records, stop = framer.scan(data, stop, limit)
        assert not records
        return stop

    def _packets(self, data: Data, offsets: Ints, kinds: npt.NDArray[np.uint32], sizes: Ints) -> Records:
        """A run without blocks that change the state; stops before the first impossible packet."""
        framer = self._framer
        chosen = kinds == ENHANCED_PACKET
        if not chosen.all():
            offsets, sizes = offsets[chosen], sizes[chosen]
        short = sizes < PACKET_OVERHEAD
        if short.any():
            return self._stop_before(int(short.argmax()), data, offsets, sizes)
        rows = _rows(data, offsets, PACKET_HEADER, framer.order)
        caplen = rows[:, 5].astype(np.int64)
        interface = rows[:, 2]
        bad = (
            (caplen > sizes - PACKET_OVERHEAD) | (caplen > MAX_PACKET) | (interface >= len(framer.interfaces))
        )
        if bad.any():
            return self._stop_before(int(bad.argmax()), data, offsets, sizes)
        for number in np.flatnonzero(sizes > PACKET_OVERHEAD + (caplen + 3 & ~3)).tolist():
            framer.drop_count(data, int(offsets[number]), int(sizes[number]), int(caplen[number]))
        time_ns, linktype = self._clock(rows)
        if len(time_ns):
            framer.seen(int(time_ns[-1]))
        return Records(offsets + PACKET_HEADER, caplen, rows[:, 6].astype(np.int64), time_ns, linktype)

    def _stop_before(self, first: int, data: Data, offsets: Ints, sizes: Ints) -> Records:
        """The packets before an impossible one, and the framer's word on that."""
        kinds = np.full(first, ENHANCED_PACKET, np.uint32)
        good = self._packets(data, offsets[:first], kinds, sizes[:first])
        self._stopped_at = int(offsets[first])
        self._framer.scan(data, self._stopped_at, self._stopped_at + int(sizes[first]))
        return good

    def _clock(self, rows: npt.NDArray[np.uint32]) -> tuple[Ints, int | Ints]:
        """Times and link types of packets, each by the interface it names."""
        interfaces = self._framer.interfaces
        numbers = rows[:, 2]
        used = np.unique(numbers).tolist()
        ticks = rows[:, 3].astype(np.uint64) << np.uint64(32) | rows[:, 4]
        if len(used) == 1:
            return _times(ticks, interfaces[used[0]]), interfaces[used[0]].linktype
        time_ns = np.empty(len(rows), np.int64)
        linktype = np.empty(len(rows), np.int64)
        for number in used:
            chosen = numbers == number
            time_ns[chosen] = _times(ticks[chosen], interfaces[number])
            linktype[chosen] = interfaces[number].linktype
        return time_ns, linktype


def _times(ticks: npt.NDArray[np.uint64], interface: Interface) -> Ints:
    """Times in ns; one by one where 64 bits might not do."""
    room = (1 << 62) // interface.numerator
    if interface.denominator == 1 and abs(interface.offset_ns) < 1 << 61 and (ticks < room).all():
        return ticks.astype(np.int64) * interface.numerator + interface.offset_ns
    return np.array([interface.time_ns(tick) for tick in ticks.tolist()], np.int64)
