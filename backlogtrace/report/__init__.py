"""An analysis as the reader wants it: rich timeline, text, JSON Lines, CSV, Prometheus.

Knows every format by name and what an analysis offers to it. Refuses to know how decisions come about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.replay.rows import Header, ListenerSummary, Row, Span

FORMATS = ("rich", "text", "jsonl", "csv", "prom")


class Analysis(Protocol):
    """Rows in capture order, to be consumed once; header and listeners are complete after that."""

    @property
    def header(self) -> Header:
        """What was read and assumed."""

    @property
    def listeners(self) -> list[ListenerSummary]:
        """Totals per listener."""

    @property
    def many(self) -> Mapping[str, Mapping[Outcome, Span]]:
        """Listener -> kind -> packets that have no rows of their own."""

    def __iter__(self) -> Iterator[Row]:
        """The rows."""
