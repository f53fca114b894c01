"""Opening captures: which reader, which path through it, one or several files.

Small captures are read packet by packet, large ones by columns; both give the same segments.
Knows nothing about what the segments mean.
"""

from __future__ import annotations

import os
import stat
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from backlogtrace.capture.file import CaptureFile, first_packet
from backlogtrace.capture.info import CaptureInfo
from backlogtrace.capture.merge import in_time_order
from backlogtrace.capture.plain import segment_chunks, timed_packets
from backlogtrace.capture.source import STDIN
from backlogtrace.errors import CaptureError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator, Sequence
    from types import TracebackType

    from backlogtrace.capture.file import First, Progress
    from backlogtrace.capture.plain import Timed
    from backlogtrace.segment import Handshake, Segment

READERS = ("auto", "native", "scapy", "pyshark")
SMALL = 2 << 20
"""Captures up to so many bytes are read packet by packet: loading numpy would cost more."""
STREAM_WINDOW = 8 << 20
"""Bytes of a pipe or of compressed data decoded together."""
MERGE_WINDOW = 4 << 20
"""Bytes of each of several captures decoded together."""
_MERGE_CHUNK = 8192
"""Packets per chunk where several small captures are merged."""


class _Foreign(Protocol):
    """A reader module built on another library."""

    def segments(self, path: str, info: CaptureInfo) -> Iterator[Segment]:
        """All TCP segments of one file; counts packets and reasons in `info`."""


class Capture:
    """An open capture. Iterate `chunks()` once; `info` is complete afterwards."""

    def __init__(
        self,
        paths: Sequence[str],
        reader: str,
        keep_all: bool,
        ports: Collection[int],
        progress: Progress | None,
        bundle: bool,
        keep_small: bool,
    ) -> None:
        """Use open_capture()."""
        self._again = partial(Capture, paths, reader, keep_all, ports, progress, keep_small=keep_small)
        self._bundle = bundle
        self._keep_small = keep_all or keep_small
        self.info = CaptureInfo(names=list(paths))
        self._paths = list(paths)
        self._keep_all = keep_all
        self._ports = ports
        self._progress = progress
        self._file: CaptureFile | None = None
        self._open_files: list[CaptureFile] = []
        if reader in ("scapy", "pyshark"):
            self._chunks = self._foreign_chunks(_foreign(reader))
        elif len(self._paths) == 1:
            self._file = CaptureFile(self._paths[0], self.info, progress)
            self._open_files.append(self._file)
            self._chunks = self._single_chunks(self._file)
        else:
            self._chunks = self._merged_chunks([first_packet(name) for name in self._paths])

    def chunks(self) -> Iterator[list[Segment | Handshake]]:
        """The segments, in time order of the files and file order within them; no list is empty."""
        yield from self._chunks
        self.info.finish()

    @property
    def rereadable(self) -> bool:
        """Whether `again` is possible: a pipe can be read only once."""
        return all(map(rereadable, self._paths))

    def again(self, *, bundle: bool = True) -> Capture:
        """The same capture once more, where it is `rereadable`; without `bundle`, packet by packet."""
        self.close()
        return self._again(bundle=self._bundle and bundle)

    def close(self) -> None:
        """Gives the files back."""
        self._chunks.close()
        for file in self._open_files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _single_chunks(self, file: CaptureFile) -> Generator[list[Segment | Handshake], None, None]:
        if file.is_small(SMALL):
            packets = timed_packets(file, self.info)
            yield from segment_chunks(packets, self.info, self._keep_small, self._ports)
            return
        _spare_threads()
        from backlogtrace.capture import columns

        size = STREAM_WINDOW if file.streamed else columns.WINDOW
        windows = columns.decoded_windows(file, self.info, size)
        yield from columns.segment_chunks(windows, self.info, self._keep_all, self._ports, self._bundle)

    def _merged_chunks(self, firsts: list[First]) -> Generator[list[Segment | Handshake], None, None]:
        first_times = [first.time_ns for first in firsts]
        if sum(SMALL if first.size is None else first.size for first in firsts) <= SMALL:
            yield from segment_chunks(
                self._merged_batches(first_times), self.info, self._keep_small, self._ports
            )
            return
        _spare_threads()
        from backlogtrace.capture import columns
        from backlogtrace.capture.merge_columns import merged_windows

        def windows(number: int) -> Iterator[list[columns.Batch]]:
            file = self._open(number)
            return columns.decoded_windows(file, self.info, MERGE_WINDOW) if file else iter(())

        merged = merged_windows(first_times, windows)
        yield from columns.segment_chunks(merged, self.info, self._keep_all, self._ports)

    def _merged_batches(self, first_times: list[int | None]) -> Iterator[list[Timed]]:
        """Packets of all files in merged order, in lists."""
        merged = in_time_order(first_times, self._items, lambda item: item[0])
        while batch := [item for _, item in islice(merged, _MERGE_CHUNK)]:
            yield batch

    def _items(self, number: int) -> Iterator[Timed]:
        file = self._open(number)
        if file is not None:
            for batch in timed_packets(file, self.info):
                yield from batch

    def _open(self, number: int) -> CaptureFile | None:
        """Opens a file that could be opened before; a problem when it no longer can."""
        try:
            file = CaptureFile(self._paths[number], self.info, self._progress)
        except CaptureError as error:
            self.info.problems.append(str(error))
            return None
        self._open_files.append(file)
        return file

    def _foreign_chunks(self, reader: _Foreign) -> Generator[list[Segment | Handshake], None, None]:
        """Segments of another reader, not selected.

        Merged, a frame number counts what was delivered of the other files up to their last segment: other
        packets after it are not known yet.
        """
        infos = [self.info] if len(self._paths) == 1 else [CaptureInfo() for _ in self._paths]
        readings = [reader.segments(path, info) for path, info in zip(self._paths, infos, strict=True)]
        if len(readings) == 1:
            yield from self._lists(readings[0])
            return
        first = [next(reading, None) for reading in readings]
        heads = {
            number: chain((segment,), readings[number]) for number, segment in enumerate(first) if segment
        }
        merged = in_time_order(
            [segment.time_ns if segment else None for segment in first],
            heads.__getitem__,
            lambda item: item.time_ns,
        )
        yield from self._lists(_renumbered(merged, len(readings)))
        for info in infos:
            self.info.absorb(info)

    def _lists(self, segments: Iterator[Segment]) -> Iterator[list[Segment | Handshake]]:
        while chunk := list(islice(segments, _MERGE_CHUNK)):
            self.info.kept += len(chunk)
            yield [*chunk]


def _spare_threads() -> None:
    """Before numpy is loaded: nothing here needs the threads it would start for linear algebra."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _renumbered(merged: Iterator[tuple[int, Segment]], files: int) -> Iterator[Segment]:
    """Frame numbers in merged order from those within each file."""
    seen = [0] * files
    total = 0
    for number, segment in merged:
        total += segment.frame - seen[number]
        seen[number] = segment.frame
        yield segment._replace(frame=total)


def _foreign(name: str) -> _Foreign:
    """The reader module of another library; the module says what to install."""
    if name == "scapy":
        from backlogtrace.capture import scapy_reader

        return scapy_reader
    from backlogtrace.capture import pyshark_reader

    return pyshark_reader


def rereadable(name: str) -> bool:
    """Whether a capture can be read twice: standard input and pipes can not."""
    if name == STDIN:
        return False
    try:
        mode = Path(name).stat().st_mode
    except OSError:
        return True  # opening it will tell what is wrong
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def open_capture(
    paths: Sequence[str],
    *,
    reader: str = "auto",
    keep_all: bool = False,
    ports: Collection[int] = (),
    progress: Progress | None = None,
    bundle: bool = False,
    keep_small: bool = False,
) -> Capture:
    """Opens one or several captures of one host; `-` is standard input.

    Unless `keep_all`, packets of established connections are left out (see select_plain); `ports` are taken
    for server ports even where no handshake shows it. `progress(bytes_done, bytes_total | None)` is called
    about once per chunk. `keep_small` is `keep_all` for captures so small that it costs nothing. With
    `bundle`, ordinary handshakes may come as one Handshake each: they do in single large captures that the
    native reader selects from. Raises CaptureError when a file cannot be read at all, UsageError for an
    unknown reader; damage further on ends the iteration and shows in `info.problems`.
    """
    if reader not in READERS:
        raise UsageError(f"unknown reader {reader!r}: use one of {', '.join(READERS)}")
    if not paths:
        raise UsageError("no capture named: give a file, or - for standard input")
    if len(paths) > 1:
        for name in paths:
            if not rereadable(name):
                raise UsageError(
                    f"{name}: a pipe cannot be merged with other captures: write it to a file first"
                )
    return Capture(paths, reader, keep_all, ports, progress, bundle, keep_small)
