"""The reading of large captures: window by window, by numpy columns, in bounded memory.

Every window is decoded whole before anything of it is chosen, so that servers are known from the start.
Knows nothing about compression or file formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backlogtrace.capture.bundle import Bundler, BundleSource, mixed_items
from backlogtrace.capture.checksum_columns import checksums
from backlogtrace.capture.emit import fast_open, segments
from backlogtrace.capture.headers import Headers, decode_headers
from backlogtrace.capture.records import column_scan
from backlogtrace.capture.select_columns import ColumnSelector
from backlogtrace.segment import ACK, SYN

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from backlogtrace.capture.bundle import Bundles
    from backlogtrace.capture.file import CaptureFile
    from backlogtrace.capture.gather import Ints
    from backlogtrace.capture.info import CaptureInfo
    from backlogtrace.segment import Handshake, Segment

WINDOW = 32 << 20
"""Bytes decoded together."""
_BATCH = 1 << 16
"""Packets handled together, at most: a connection that begins and ends among them needs no segments."""
_CHUNK = 1 << 13
"""Segments delivered together: more would only make Python's memory management slower."""


class Batch:
    """Consecutive packets: the times of all, the headers of the TCP packets among them."""

    __slots__ = ("headers", "times")

    def __init__(self, times: Ints, headers: Headers) -> None:
        self.times = times
        self.headers = headers


def decoded_windows(
    file: CaptureFile, info: CaptureInfo, window_bytes: int = WINDOW
) -> Iterator[list[Batch]]:
    """All packets of a file, window by window. Counts in `info` what they are."""
    for window, records in file.windows(window_bytes, column_scan(file.framer)):
        yield [
            Batch(part.time_ns, decode_headers(window.data, part, info))
            for part in (records.chosen(slice(at, at + _BATCH)) for at in range(0, len(records), _BATCH))
        ]
        # or they would stay until the next window is there
        del window, records


def segment_chunks(
    windows: Iterable[list[Batch]],
    info: CaptureInfo,
    keep_all: bool,
    ports: Collection[int],
    bundle: bool = False,
) -> Iterator[list[Segment | Handshake]]:
    """Numbers the packets, leaves out what cannot matter, and gives the rest as segments.

    With `bundle`, unless `keep_all`, ordinary handshakes are put together.
    """
    selector: ColumnSelector | None = None
    bundler: Bundler | None = None
    for batches in windows:
        hashes = []
        if not keep_all:
            if selector is None:
                selector = ColumnSelector(ports, info, _seed(batches[0]))
                bundler = Bundler(selector) if bundle else None
            hashes = [selector.learn(batch.headers) for batch in batches]
        # what has been delivered need not stay
        batches.reverse()
        hashes.reverse()
        while batches:
            batch = batches.pop()
            headers = batch.headers
            _clock(info, batch.times)
            info.tcp_packets += len(headers)
            bundles: Bundles | None = None
            if selector is None:
                chosen = np.arange(len(headers))
            else:
                ends, fastopen = hashes.pop(), fast_open(headers)
                chosen = selector.choose(headers, ends, fastopen)
                if bundler is not None:
                    bundles = bundler.find(headers, batch.times, chosen, ends, fastopen)
            info.kept += len(chosen)
            first_frame = info.packets + 1
            info.packets += len(batch.times)
            _checksums(info, headers, chosen, bundles, first_frame)
            yield from _delivered(batch, chosen, bundles, first_frame)


def _delivered(
    batch: Batch, chosen: Ints, bundles: Bundles | None, first_frame: int
) -> Iterator[list[Segment | Handshake]]:
    """The packets `chosen` of a batch, in lists."""
    headers, times = batch.headers, batch.times
    if bundles is None:
        for start in range(0, len(chosen), _CHUNK):
            part = chosen[start : start + _CHUNK]
            number = headers.number[part]
            yield [*segments(headers, part, number + first_frame, times[number])]
        return
    source = BundleSource(headers, bundles, first_frame, times)
    shown = np.ones(len(headers), np.bool_)
    shown[bundles.packets] = False
    shown[bundles.opening] = True
    # in one list, or packets of a handshake that is taken apart would come after those of the next list
    yield mixed_items(headers, chosen[shown[chosen]], bundles, source, first_frame, times)


def _checksums(
    info: CaptureInfo, headers: Headers, chosen: Ints, bundles: Bundles | None, first_frame: int
) -> None:
    """Notes what is known of the checksums of packets that are delivered.

    Of a handshake found whole only the SYN counts: its packets did arrive.
    """
    if info.checksums.full:
        return
    if bundles is not None:
        looked = np.ones(len(headers), np.bool_)
        looked[bundles.packets] = False
        looked[bundles.opening] = True
        chosen = chosen[looked[chosen]]
    right, wrong = checksums(headers, chosen)
    if len(right) or len(wrong):
        info.checksums.take(
            (headers.number[wrong] + first_frame).tolist(), *(_syns(headers, some) for some in (right, wrong))
        )


def _syns(headers: Headers, some: Ints) -> int:
    """How many of some packets are SYNs without ACK."""
    return int((headers.flags[some] & (SYN | ACK) == SYN).sum())


def _seed(batch: Batch) -> bytes:
    """Bytes that differ from capture to capture and that no sender of packets knows."""
    return batch.times[:64].tobytes() + batch.headers.rows[:64].tobytes()


def _clock(info: CaptureInfo, times: Ints) -> None:
    """CaptureInfo.clock() for a column."""
    info.clock([int(times[0])])
    steps = np.diff(times)
    backward = steps[steps < 0]
    if len(backward):
        info.stepped_back(len(backward), -int(backward.min()))
    info.span(int(times.min()), int(times.max()))
    info.follow(int(times[-1]))
