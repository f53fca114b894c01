"""One capture file: told by its magic number, read window by window, its damage put into words.

Refuses to look into the packets; what follows damage is not searched for further records.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from backlogtrace.capture.info import CaptureInfo
from backlogtrace.capture.pcap import FILE_HEADER, PcapFramer
from backlogtrace.capture.pcapng import MIN_BLOCK, PcapngFramer
from backlogtrace.capture.source import GZIP_MAGIC, LZ4_MAGIC, ZSTD_MAGIC, StreamSource, open_source
from backlogtrace.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from backlogtrace.capture.link import Data
    from backlogtrace.capture.source import Source, Window

    Framer = PcapFramer | PcapngFramer
    Progress = Callable[[int, int | None], None]

_PEEK = 1 << 16
_FIRST_LOOK = 512
"""Bytes looked at to tell what a file is."""

_LOOKS_LIKE: tuple[tuple[bytes, str, str], ...] = (
    (GZIP_MAGIC, "gzip data inside compressed data", "decompress it once more"),
    (ZSTD_MAGIC, "Zstandard data inside compressed data", "decompress it once more"),
    (LZ4_MAGIC, "LZ4 data inside compressed data", "decompress it once more"),
    (b"\xfd7zXZ\0", "an xz file", "decompress it with `xz -d`"),
    (b"BZh", "a bzip2 file", "decompress it with `bzip2 -d`"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it"),
    (b"snoop\0\0\0", "a snoop capture", "convert it with editcap"),
    (b"RTSS", "a Network Monitor 1 capture", "convert it with editcap"),
    (b"GMBU", "a Network Monitor capture", "convert it with editcap"),
    (b"TRSNIFF data", "a Sniffer capture", "convert it with editcap"),
    (b"XCP\0", "a NetXRay capture", "convert it with editcap"),
    (b"\x7fELF", "a program", "name the capture file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch it with `git lfs pull`"),
    (b"<", "HTML or XML text", "name the capture file"),
    (b"{", "JSON text", "name the capture file"),
)
_ERF_HEADER = 16
_ERF_TYPES = range(1, 34)


def open_file(name: str) -> tuple[Source, Framer]:
    """Opens a capture. Raises CaptureError, in one line, when there is none to be read."""
    source = open_source(name)
    try:
        return source, _framer(source)
    except OSError as error:
        source.close()
        raise CaptureError(f"{source.name}: cannot be read ({error.strerror})") from None
    except CaptureError as error:
        source.close()
        raise CaptureError(f"{source.name}: {error}") from None


def _framer(source: Source) -> Framer:
    window = source.window(0, FILE_HEADER, _FIRST_LOOK)
    head = bytes(window.data[window.start : window.end])
    if source.note and len(head) < FILE_HEADER:
        raise CaptureError(source.note)
    if not head:
        raise CaptureError("holds nothing once decompressed: the capture was not written, or not yet")
    framer: type[Framer] | None = next(
        (kind for kind in (PcapFramer, PcapngFramer) if kind.recognises(head)), None
    )
    if framer is None:
        raise CaptureError(_not_a_capture(head, compressed=_compressed(source)))
    if len(head) < (FILE_HEADER if framer is PcapFramer else MIN_BLOCK):
        raise CaptureError(
            f"ends inside the {framer.format} file header ({len(head)} bytes): take the capture again"
        )
    return framer(head)


def _compressed(source: Source) -> bool:
    return isinstance(source, StreamSource) and source.compressed


def _not_a_capture(head: bytes, compressed: bool) -> str:
    """What the file looks like instead, and what to do."""
    what, advice = "unknown binary data", "name a pcap or pcapng file"
    for magic, looks_like, remedy in _LOOKS_LIKE:
        if head.startswith(magic):
            what, advice = looks_like, remedy
            break
    else:
        if _is_text(head):
            what = "text"
        elif _is_erf(head):
            what, advice = "an ERF capture", "convert it with editcap"
        elif len(head) < FILE_HEADER:
            what = f"only {len(head)} bytes"
    inside = " after decompression" if compressed and "inside" not in what else ""
    return f"is no packet capture{inside}: it looks like {what}; {advice}"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        # a character may be cut in two at the end of what was looked at
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return bool(text) and all(char.isprintable() or char in "\r\n\t\f" for char in text)


def _is_erf(head: bytes) -> bool:
    """Whether the first record header is one of Endace's Extensible Record Format."""
    if len(head) < _ERF_HEADER:
        return False
    record = int.from_bytes(head[10:12], "big")
    return head[8] & 0x7F in _ERF_TYPES and record > _ERF_HEADER and int.from_bytes(head[14:16], "big") > 0


class Sized(Protocol):
    """What a scan found."""

    def __len__(self) -> int:
        """Number of packets."""


Found = TypeVar("Found", bound=Sized)


class CaptureFile:
    """Reads one file from its first packet to its end or its damage."""

    def __init__(self, name: str, info: CaptureInfo, progress: Progress | None = None) -> None:
        """Opens the file. Raises CaptureError, in one line."""
        self.source, self.framer = open_file(name)
        self._info = info
        self._progress = progress
        self._position = self.framer.start
        self._packets = 0
        info.saw_format(self.framer.format)

    def windows(
        self, size: int, scan: Callable[[Data, int, int], tuple[Found, int]]
    ) -> Generator[tuple[Window, Found], None, None]:
        """Windows of about `size` bytes and what `scan` finds in each: all the packets, once, in order.

        `scan` takes (data, start, end) and returns what it found and the offset behind it. When the file
        ends early or is damaged, what came before is delivered and one line goes to `info.problems`.
        """
        framer, source = self.framer, self.source
        while True:
            try:
                window = source.window(self._position, framer.need, size)
            except OSError as error:
                self._problem(f"cannot be read further ({error.strerror})")
                break
            found, stop = scan(window.data, window.start, window.end)
            self._position = window.base + stop
            left = window.end - stop
            ends = window.last and (stop == window.start or not left)
            if len(found):
                self._packets += len(found)
                yield window, found
            # a window is large: it must be gone before the next one is there
            del window, found
            if self._progress is not None:
                self._progress(source.done(self._position), source.total)
            if framer.damage:
                self._problem(f"{framer.damage}: the file is damaged here, the packets before it were read")
                break
            if ends:
                if left:
                    self._problem(
                        f"the capture ends inside a record ({left} of {framer.need} bytes): "
                        "it was cut or is still being written, the packets before it were read"
                    )
                break
        if source.note:
            self._problem(f"{source.note}: the packets before that were read")
        self._info.bytes += self._position
        self._info.dropped += framer.dropped
        self._info.untimed += framer.untimed
        self.close()

    def close(self) -> None:
        """Gives the file back."""
        self.source.close()

    def _problem(self, what: str) -> None:
        self._info.problems.append(
            f"{self.source.name}: byte {self._position}, frame {self._packets + 1}: {what}"
        )

    @property
    def streamed(self) -> bool:
        """Whether the bytes come once, in order: a pipe or compressed data."""
        return isinstance(self.source, StreamSource)

    def is_small(self, limit: int) -> bool:
        """Whether the capture ends within `limit` bytes; a pipe that pauses before its end is not small."""
        if not isinstance(self.source, StreamSource):
            return self.source.total is not None and self.source.total <= limit
        window = self.source.window(self._position, 0, limit)
        return window.last and window.end - window.start <= limit


class First(NamedTuple):
    """What must be known of a capture before it is merged with others."""

    time_ns: int | None
    """Time of its first packet; None when it has none."""
    size: int | None
    """Its bytes; None when compressed."""


def first_packet(name: str) -> First:
    """Looks at the first packet of a capture. Raises CaptureError as CaptureFile does."""
    file = CaptureFile(name, CaptureInfo())
    size = None if file.streamed else file.source.total
    with closing(file), closing(file.windows(_PEEK, file.framer.scan)) as windows:
        for _, records in windows:
            return First(records[0][3], size)
    return First(None, size)
