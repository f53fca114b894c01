"""A queue's length over time as one line of characters.

Knows how to squeeze samples into columns without losing a peak. Refuses to know colours.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from backlogtrace.report.clock import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII = " .:-=+*%#"
_SECOND = 1_000_000_000


def columns(samples: Sequence[tuple[int, int]], first_ns: int, last_ns: int, width: int) -> list[int]:
    """The highest length in each of `width` equal slices of [first_ns, last_ns].

    `samples` are (time_ns, length) in order; a length holds until the next sample.
    """
    times = [time_ns for time_ns, _ in samples]
    span = max(last_ns - first_ns, 1)
    result = []
    for column in range(width):
        start = first_ns + span * column // width
        stop = first_ns + span * (column + 1) // width + (column == width - 1)
        low, high = bisect_left(times, start), bisect_left(times, stop)
        held = samples[low - 1][1] if low else 0
        result.append(max([held, *(length for _, length in samples[low:high])]))
    return result


def bar(lengths: Sequence[int], limit: int, *, ascii_only: bool) -> str:
    """One character per length; full height is `limit`, or the peak where that is higher.

    Any length above 0 is visible, and full height is kept for lengths that reach the limit.
    """
    glyphs = _ASCII if ascii_only else _BLOCKS
    top = len(glyphs) - 1
    scale = max(limit, *lengths, 1)

    def glyph(length: int) -> str:
        if length <= 0:
            return glyphs[0]
        return glyphs[top] if length >= scale else glyphs[min(1 + length * (top - 1) // scale, top - 1)]

    return "".join(map(glyph, lengths))


def axis(span_ns: int, width: int, peak_column: int | None) -> str:
    """`0 s      ^peak         63.07 s`: the time axis below a bar, with a mark under the peak."""
    cells = [" "] * width
    end = f"{_short(span_ns)} s"
    cells[: len("0 s")] = "0 s"
    cells[width - len(end) :] = end
    if peak_column is not None:
        mark = "^peak"
        start = peak_column if peak_column + len(mark) <= width else peak_column - len(mark) + 1
        text = mark if start == peak_column else "peak^"
        if _free(cells, start, start + len(text)):
            cells[start : start + len(text)] = text
        elif _free(cells, peak_column, peak_column + 1):
            cells[peak_column] = "^"
    return "".join(cells)[:width]


def _free(cells: list[str], start: int, stop: int) -> bool:
    """Whether a mark fits with a space on both sides."""
    return all(cell == " " for cell in cells[max(start - 1, 0) : stop + 1])


def _short(span_ns: int) -> str:
    text = seconds(span_ns)
    return text.rstrip("0").rstrip(".") if span_ns < _SECOND else text[:-3]
