"""A progress bar on stderr while a big capture is read.

Knows when a bar helps: a terminal that is watched, and a file that takes a while. Refuses to touch stdout.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_WORTH_BYTES = 20_000_000


@contextlib.contextmanager
def progress(paths: Sequence[str]) -> Iterator[Callable[[int, int | None], None] | None]:
    """The callback for the reader (bytes done, bytes in all); None when no bar is shown."""
    if not sys.stderr.isatty() or _size(paths) < _WORTH_BYTES:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    with Progress(
        "reading", BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _size(paths: Sequence[str]) -> int:
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += Path(path).stat().st_size
    return total
