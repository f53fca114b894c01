"""Where the output goes and what the place can show: files written whole or not at all, colour, width.

Knows terminals, environment variables and the file system. Refuses to know what is written.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from backlogtrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    try:
        if target.exists() and not target.is_file():
            with target.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as device:
                yield device
            return
        with _replacement(target) as out:
            yield out
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def _refuse(path: str, target: Path, inputs: Sequence[str]) -> None:
    if target.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder; name a file")
    for name in inputs:
        source = Path(name)
        if name != "-" and target.exists() and source.exists() and target.samefile(source):
            raise UsageError(f"cannot write {path}: it is also an input; choose another output file")


@contextlib.contextmanager
def _replacement(target: Path) -> Iterator[TextIO]:
    """A temporary file in the target's folder that takes its place at the end, never before."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:50]}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as out:
            yield out
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
