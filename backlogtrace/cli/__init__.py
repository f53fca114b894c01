"""The command line's entry point.

Knows that asking for help must not wait for anything to be imported. Refuses to know the commands.
"""

from __future__ import annotations

import gc
import os
import sys

COMPLETION = "_BACKLOGTRACE_COMPLETE"
"""Set by the shell when it asks for completions (click's convention)."""

_MANY_OBJECTS = 1_000_000
"""New objects after which Python looks for cycles among them: there are few, and it takes long."""


def main() -> int:
    """Run the command line; returns the exit code.

    The help page is the one that click renders (a test compares them), kept in a file: importing
    click takes several times as long as starting Python.
    """
    arguments = sys.argv[1:]
    if arguments in ([], ["-h"], ["--help"]) and COMPLETION not in os.environ:
        with open(__file__.replace("__init__.py", "help.txt"), encoding="utf-8") as page:  # noqa: PTH123
            text = page.read()
        return _show(text, usage_error=not arguments)
    # numpy's linear algebra is not used; starting its threads costs more than importing the rest
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(_MANY_OBJECTS)
    from backlogtrace.cli.app import run

    try:
        return run(arguments)
    finally:
        gc.freeze()  # or Python looks for cycles in all that is left once more before it ends


def _show(text: str, *, usage_error: bool) -> int:
    """Help that was asked for goes to stdout; help because nothing was asked is a usage error."""
    stream = sys.stderr if usage_error else sys.stdout
    try:
        stream.write(text)
        stream.flush()
    except OSError:  # the reader is gone
        return 0
    return 2 if usage_error else 0
