"""Explains packet captures by what the Linux listen socket did with each packet.

`analyze(path)` does it from Python; it is imported when it is used, because the command line cannot wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backlogtrace.api import Analysis, analyze

__version__ = "0.1.0"
__all__ = ["Analysis", "__version__", "analyze"]


def __getattr__(name: str) -> object:
    if name in {"Analysis", "analyze"}:
        from backlogtrace import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
