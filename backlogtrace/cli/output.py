"""Where the output goes and what the place can show: files written whole or not at all, colour, width.

Knows terminals, environment variables and the file system. Refuses to know what is written.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, TextIO

from backlogtrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_COPY = 1 << 20
_WIDTH = 80
_WIDTH_MIN = 60
_WIDTH_MAX = 500


def wants_colour(choice: str, *, to_file: bool) -> bool:
    """Colour or not: the option, else NO_COLOR, FORCE_COLOR, TERM=dumb, else whether it is a terminal."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return not to_file and os.environ.get("TERM") != "dumb" and sys.stdout.isatty()


def width(*, to_file: bool) -> int:
    """Columns to use: COLUMNS, else the terminal's, else 80."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked):
        columns = int(asked)
    elif to_file or not sys.stdout.isatty():
        columns = _WIDTH
    else:
        columns = shutil.get_terminal_size((_WIDTH, 24)).columns
    return min(max(columns, _WIDTH_MIN), _WIDTH_MAX)


def ascii_only(*, to_file: bool) -> bool:
    """Whether block characters cannot be shown; files are UTF-8."""
    return not to_file and (sys.stdout.encoding or "ascii").lower().replace("-", "") != "utf8"


@contextlib.contextmanager
def opened(path: str | None, inputs: Sequence[str]) -> Iterator[TextIO]:
    """Standard output, or `path`, which appears (or changes) only when all was written.

    Devices and pipes are written to directly. Raises UsageError when `path` is one of `inputs`, a
    folder, or cannot be written.
    """
    if path is None or path == "-":
        reconfigure = getattr(sys.stdout, "reconfigure", None)
        if reconfigure is not None:  # not there under a test runner
            reconfigure(errors="backslashreplace", newline="\n")
        yield sys.stdout
        return
    # A link stays a link: what it points to is replaced.
    target = Path(path).resolve()
    _refuse(path, target, inputs)
    with _naming(path):
        if target.exists() and not target.is_file():
            with target.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as device:
                yield device
            return
        with _replacement(target) as raw:
            out = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", newline="\n")
            yield out
            out.detach()


@contextlib.contextmanager
def opened_binary(path: str | None, inputs: Sequence[str]) -> Iterator[IO[bytes]]:
    """An empty file that can seek; once all is written, its bytes go to `path` or standard output.

    A name that ends in .gz gets them compressed. Raises UsageError as opened() does, and for a terminal.
    """
    if path is None or path == "-":
        if sys.stdout.isatty():
            raise UsageError("standard output is a terminal: name a file with -o, or redirect it")
        with tempfile.TemporaryFile() as spool:
            yield spool
            spool.seek(0)
            shutil.copyfileobj(spool, sys.stdout.buffer, _COPY)
        return
    target = Path(path).resolve()
    _refuse(path, target, inputs)
    with _naming(path):
        if target.suffix != ".gz" and (target.is_file() or not target.exists()):
            with _replacement(target) as out:
                yield out
            return
        with tempfile.TemporaryFile() as spool:
            yield spool
            spool.seek(0)
            _hand_over(spool, target)


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Turns what goes wrong while `path` is written into an error that names it."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def _hand_over(spool: IO[bytes], target: Path) -> None:
    """Copy to a device or pipe, or compress into a file."""
    if target.exists() and not target.is_file():
        with target.open("wb") as device:
            shutil.copyfileobj(spool, device, _COPY)
        return
    with (
        _replacement(target) as out,
        gzip.GzipFile("", "wb", 6, out, mtime=0) as packed,
    ):
        shutil.copyfileobj(spool, packed, _COPY)


def _refuse(path: str, target: Path, inputs: Sequence[str]) -> None:
    if target.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder; name a file")
    for name in inputs:
        source = Path(name)
        if name != "-" and target.exists() and source.exists() and target.samefile(source):
            raise UsageError(f"cannot write {path}: it is also an input; choose another output file")


@contextlib.contextmanager
def _replacement(target: Path) -> Iterator[IO[bytes]]:
    """A temporary file in the target's folder that takes its place at the end, never before."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:50]}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w+b") as out:
            yield out
            if target.exists():  # what stands there stays until the new file is safe from a power failure
                out.flush()
                os.fsync(out.fileno())
        temporary.chmod(_mode(target))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _mode(target: Path) -> int:
    """Permissions of the file that is replaced, or what a new file gets."""
    with contextlib.suppress(OSError):
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
