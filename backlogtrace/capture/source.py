"""Bytes of a capture: plain files in windows, pipes as they come, gzip, Zstandard and LZ4 streamed.

Compression is told by magic number, not by name; nothing is ever read or decompressed whole.
Knows nothing about capture formats but the words to use for files that are none.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import stat
import sys
import zlib
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, cast

from backlogtrace.errors import CaptureError

if TYPE_CHECKING:
    from backlogtrace.capture.link import Data

STDIN = "-"
_BLOCK = 1 << 18
"""Bytes asked of the operating system or a decompressor at once."""
_MAPPED_FROM = 1 << 20
"""Windows from this size on are mapped, smaller ones are read."""
_PATIENCE_MS = 20
"""How long a pipe may pause before what has come is handed on."""

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LZ4_MAGIC = b"\x04\x22\x4d\x18"
_MAGIC_BYTES = 4


class Window(NamedTuple):
    """A stretch of a source: `data[start:end]` are the bytes from the position asked for."""

    data: Data
    start: int
    end: int
    base: int
    """Position in the source of `data[0]`."""
    last: bool
    """Whether the source ends with this window."""


class Source(Protocol):
    """Where the bytes of one capture come from."""

    name: str
    total: int | None
    """Bytes to read as far as known (compressed where the file is), for progress."""
    note: str
    """What went wrong while reading; empty when nothing did."""

    def window(self, position: int, need: int, want: int) -> Window:
        """`want` bytes from `position` on; a pipe that pauses gives fewer, but `need` at least.

        The last window of the source may have fewer than `need`. Positions never go backward.
        """

    def done(self, position: int) -> int:
        """Bytes of `total` used up when `position` has been reached."""

    def close(self) -> None:
        """Gives the file back."""


class FileSource:
    """A plain regular file."""

    def __init__(self, name: str, fd: int, size: int) -> None:
        self.name = name
        self.total: int | None = size
        self.note = ""
        self._fd = fd
        self._size = size

    def window(self, position: int, need: int, want: int) -> Window:
        """See Source."""
        # the file may have shrunk since: a mapping past its end would kill the process
        size = min(self._size, os.fstat(self._fd).st_size)
        if size < self._size:
            self.note = "the file became shorter while it was read"
            self._size = size
        length = max(0, min(max(need, want), size - position))
        last = position + length >= size
        if length < _MAPPED_FROM:
            data = self._read(position, length)
            return Window(data, 0, len(data), position, last or len(data) < length)
        base = position // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(self._fd, position - base + length, access=mmap.ACCESS_READ, offset=base)
        return Window(mapped, position - base, position - base + length, base, last)

    def _read(self, position: int, length: int) -> bytes:
        parts = []
        while length > 0:
            part = os.pread(self._fd, length, position)
            if not part:
                break
            parts.append(part)
            position += len(part)
            length -= len(part)
        return b"".join(parts)

    def done(self, position: int) -> int:
        """See Source."""
        return position

    def close(self) -> None:
        """See Source."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class RawStream:
    """Bytes of a file descriptor in order, with a look at the first ones."""

    def __init__(self, fd: int, owned: bool) -> None:
        self._fd = fd
        self._owned = owned
        self._ahead = b""
        self._poll: select.poll | None = None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)
        self.consumed = 0
        """Bytes handed out."""

    def peek(self, count: int) -> bytes:
        """The next `count` bytes (fewer at the end), without taking them."""
        while len(self._ahead) < count:
            part = os.read(self._fd, _BLOCK)
            if not part:
                break
            self._ahead += part
        return self._ahead[:count]

    def read(self, count: int = _BLOCK) -> bytes:
        """Up to `count` bytes, as soon as there are any; b"" at the end."""
        if self._ahead:
            part, self._ahead = self._ahead[:count], self._ahead[count:]
        else:
            part = os.read(self._fd, count)
        self.consumed += len(part)
        return part

    def ready(self) -> bool:
        """Whether bytes (or the end) are there or come within a moment."""
        return bool(self._ahead) or self._poll is None or bool(self._poll.poll(_PATIENCE_MS))

    def close(self) -> None:
        """Gives the descriptor back, if it is ours."""
        if self._owned and self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class Decoder(Protocol):
    """A decompressor that bounds what it gives at once."""

    def read(self) -> bytes:
        """Some decompressed bytes; b"" at the end. Raises CaptureError for damaged input."""


class Gzip:
    """gzip, several members included (RFC 1952 section 2.2); zero padding after a member is ignored."""

    def __init__(self, raw: RawStream) -> None:
        self._raw = raw
        self._pending = b""
        self._engine = zlib.decompressobj(wbits=31)

    def read(self) -> bytes:
        """See Decoder."""
        while True:
            if self._engine.eof:
                self._pending = self._engine.unused_data.lstrip(b"\0") or self._raw.read().lstrip(b"\0")
                while not self._pending:
                    part = self._raw.read()
                    if not part:
                        return b""
                    self._pending = part.lstrip(b"\0")
                self._engine = zlib.decompressobj(wbits=31)
            if not self._pending:
                self._pending = self._raw.read()
                if not self._pending:
                    raise CaptureError("the gzip data ends early")
            try:
                out = self._engine.decompress(self._pending, _BLOCK * 4)
            except zlib.error as error:
                raise CaptureError(f"the gzip data is damaged ({error})") from None
            self._pending = self._engine.unconsumed_tail
            if out:
                return out


class Zstandard:
    """Zstandard, several frames included (RFC 8878); windows above 128 MiB are refused."""

    def __init__(self, raw: RawStream) -> None:
        try:
            import zstandard
        except ImportError:
            raise CaptureError(
                "is Zstandard-compressed: install the Python package zstandard, or decompress it with zstd -d"
            ) from None
        self._error = zstandard.ZstdError
        engine = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        self._stream = engine.stream_reader(cast("BinaryIO", raw), read_size=_BLOCK, read_across_frames=True)

    def read(self) -> bytes:
        """See Decoder."""
        try:
            return bytes(self._stream.read1(_BLOCK * 4))
        except self._error as error:
            raise CaptureError(f"the Zstandard data is damaged ({error})") from None


class Lz4:
    """LZ4 frames, several included."""

    def __init__(self, raw: RawStream) -> None:
        try:
            import lz4.frame
        except ImportError:
            raise CaptureError(
                "is LZ4-compressed: install the Python package lz4, or decompress it with lz4 -d"
            ) from None
        self._raw = raw
        self._new = lz4.frame.LZ4FrameDecompressor
        self._engine = self._new()
        self._pending = b""

    def read(self) -> bytes:
        """See Decoder."""
        while True:
            if self._engine.eof:
                self._pending = self._engine.unused_data or self._raw.read()
                if not self._pending:
                    return b""
                self._engine = self._new()
            elif self._engine.needs_input and not self._pending:
                self._pending = self._raw.read()
                if not self._pending:
                    raise CaptureError("the LZ4 data ends early")
            try:
                out: bytes = self._engine.decompress(self._pending, max_length=_BLOCK * 4)
            except (RuntimeError, EOFError) as error:
                raise CaptureError(f"the LZ4 data is damaged ({error})") from None
            self._pending = b""
            if out:
                return out


_DECODERS: tuple[tuple[bytes, type[Gzip | Zstandard | Lz4]], ...] = (
    (GZIP_MAGIC, Gzip),
    (ZSTD_MAGIC, Zstandard),
    (LZ4_MAGIC, Lz4),
)


class StreamSource:
    """A pipe, or compressed data: bytes that come once, in order."""

    def __init__(self, name: str, raw: RawStream, decoder: Decoder | None, total: int | None) -> None:
        self.name = name
        self.total = total
        self.note = ""
        self._raw = raw
        self._read = decoder.read if decoder else raw.read
        self.compressed = decoder is not None
        self._parts: list[bytes] = []
        self._base = 0
        self._ended = False

    def window(self, position: int, need: int, want: int) -> Window:
        """See Source."""
        kept = b"".join(self._parts)[position - self._base :]
        self._base = position
        parts = [kept]
        have = len(kept)
        while not self._ended and (have < need or (have < want and self._raw.ready())):
            try:
                part = self._read()
            except CaptureError as error:
                self.note = str(error)
                part = b""
            self._ended = not part
            parts.append(part)
            have += len(part)
        data = b"".join(parts)
        self._parts = [data]
        return Window(data, 0, len(data), position, self._ended)

    def done(self, position: int) -> int:
        """See Source."""
        return position if self.total is None else min(self._raw.consumed, self.total)

    def close(self) -> None:
        """See Source."""
        self._raw.close()
        self._parts = []


def open_source(name: str) -> Source:
    """Opens a file, or standard input for `-`.

    Raises CaptureError, in one line, for what cannot be opened or decompressed.
    """
    shown = "standard input" if name == STDIN else name
    try:
        fd = sys.stdin.fileno() if name == STDIN else os.open(name, os.O_RDONLY)
    except (OSError, ValueError, AttributeError) as error:
        raise CaptureError(f"{shown}: {_why(error)}") from None
    try:
        return _source(shown, fd, owned=name != STDIN)
    except BaseException:
        if name != STDIN:
            os.close(fd)
        raise


def _source(name: str, fd: int, owned: bool) -> Source:
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise CaptureError(f"{name}: is a directory: name the capture files in it")
        regular = stat.S_ISREG(status.st_mode) and owned
        if regular and status.st_size == 0:
            raise CaptureError(f"{name}: is empty: the capture was not written, or not yet")
        magic = os.pread(fd, _MAGIC_BYTES, 0) if regular else b""
        decoders = [cls for prefix, cls in _DECODERS if magic.startswith(prefix)]
        if regular and not decoders:
            return FileSource(name, fd, status.st_size)
        raw = RawStream(fd, owned)
        magic = raw.peek(_MAGIC_BYTES)
    except OSError as error:
        raise CaptureError(f"{name}: {_why(error)}") from None
    if not magic:
        raise CaptureError(f"{name}: is empty: nothing came from it")
    total = status.st_size if regular else None
    for prefix, cls in _DECODERS:
        if magic.startswith(prefix):
            try:
                return StreamSource(name, raw, cls(raw), total)
            except CaptureError as error:
                raise CaptureError(f"{name}: {error}") from None
    return StreamSource(name, raw, None, total)


def _why(error: Exception) -> str:
    """One line on why a file cannot be opened, with what to do."""
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ENOENT:
        return "no such file: check the name"
    if code in (errno.EACCES, errno.EPERM):
        return "no permission to read it: change its mode or read it as its owner"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return f"cannot be read ({error})"
