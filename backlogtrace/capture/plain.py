"""The reading of small captures: packet by packet, without numpy and its start-up time.

It is also the yardstick of the column reader, which must give the same packets.
Knows nothing about files that overlap in time; merge does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backlogtrace.capture.checksums import RIGHT, WRONG
from backlogtrace.capture.options import NO_OPTIONS, parse_options
from backlogtrace.capture.packet import decode
from backlogtrace.capture.select_plain import PlainSelector
from backlogtrace.segment import ACK, SYN, Segment

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from backlogtrace.capture.file import CaptureFile
    from backlogtrace.capture.info import CaptureInfo
    from backlogtrace.capture.packet import Bare, Packet
    from backlogtrace.segment import Handshake

    Timed = tuple[int, Bare | None]
    """(time_ns, the segment in the packet if there is one)"""

WINDOW = 1 << 23
"""Bytes read at once."""


def timed_packets(file: CaptureFile, info: CaptureInfo, window_bytes: int = WINDOW) -> Iterator[list[Timed]]:
    """All packets of a file, window by window. Counts in `info` what they are."""
    for window, records in file.windows(window_bytes, file.framer.scan):
        data = window.data
        batch: list[Timed] = []
        for at, caplen, wirelen, time_ns, linktype in records:
            bare = decode(data, at, caplen, wirelen, linktype, info)
            info.saw_link(linktype)
            info.snaplen_cut += caplen < wirelen
            if isinstance(bare, str):
                info.skip(bare)
                batch.append((time_ns, None))
            else:
                batch.append((time_ns, bare))
        yield batch


def segment_chunks(
    batches: Iterable[list[Timed]], info: CaptureInfo, keep_all: bool, ports: Collection[int]
) -> Iterator[list[Segment | Handshake]]:
    """Numbers the packets, leaves out what cannot matter, and gives the rest as segments."""
    selector = None if keep_all else PlainSelector(ports, info)
    for batch in batches:
        info.clock([time_ns for time_ns, _ in batch])
        packets: list[Packet] = [
            (frame, time_ns, bare)
            for frame, (time_ns, bare) in enumerate(batch, info.packets + 1)
            if bare is not None
        ]
        info.packets += len(batch)
        info.tcp_packets += len(packets)
        if selector is not None:
            packets = selector.choose(packets)
        info.kept += len(packets)
        _checksums(info, packets)
        if packets:
            yield [
                Segment(
                    frame,
                    time_ns,
                    *bare[:7],
                    *(parse_options(bare[7], bare[2] & SYN != 0) if bare[7] else NO_OPTIONS),
                )
                for frame, time_ns, bare in packets
            ]


def _checksums(info: CaptureInfo, packets: list[Packet]) -> None:
    """Notes what is known of the checksums of packets that are delivered."""
    syns = [0, 0, 0]
    wrong = []
    for frame, _, (_, _, flags, *_, found) in packets:
        syns[found] += flags & (SYN | ACK) == SYN
        if found == WRONG:
            wrong.append(frame)
    info.checksums.take(wrong, syns[RIGHT], syns[WRONG])
