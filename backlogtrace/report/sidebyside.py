"""Two JSON objects of the output side by side: what each says happened, in words, and the fields that differ.

Knows rows as dictionaries, also those that somebody wrote by hand. Refuses to know which is right.
"""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

from backlogtrace.report import words
from backlogtrace.report.clock import seconds, utc
from backlogtrace.report.safe import safe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Row = Mapping[str, Any]

WIDTH = 80
_FIELD_WIDTH = 24
_GAP = "  "
_LIMIT = 400
_QUEUES = frozenset({"accept_queue", "syn_queue", "peak_accept_queue", "peak_syn_queue"})


def side_by_side(
    expected: Row | None, actual: Row | None, sides: tuple[str, str], start_ns: int | None
) -> list[str]:
    """Lines that show two rows (None: there is no such row); `sides` is what the two are called."""
    row = expected if actual is None else actual
    lines = _wrapped("", _place(row or {}, start_ns))
    lines += _stories((_story(expected), _story(actual)), sides)
    if expected is not None and actual is not None and expected.get("type") == actual.get("type"):
        lines += ["", *_table(_cells(expected), _cells(actual), sides)]
    return lines


def fact(frame: int, field: str, values: tuple[object, object], sides: tuple[str, str]) -> list[str]:
    """Lines that show what two sides say about one fact of a frame."""
    before, after = values
    if field in words.MISMATCHES:
        return _wrapped("", f"frame {frame}: {words.MISMATCHES[field]}: {_text(after)}")
    return [f"frame {frame}", "", *_table(_cells({field: before}), _cells({field: after}), sides)]


def _place(row: Row, start_ns: int | None) -> str:
    """`frame 7 at 0.020000 s, 10.9.0.2:4003 to 10.9.0.1:80, flags S`."""
    kind = _text(row.get("type", "row"))
    parts = [f"frame {_text(row['frame'])}" if row.get("frame") is not None else kind]
    when = row.get("time_ns")
    if type(when) is int:
        parts[0] += f" at {utc(when) if start_ns is None else f'{seconds(when - start_ns)} s'}"
    ends = [_text(row[end]) for end in ("peer", "listener") if row.get(end) is not None]
    if row.get("dir") == "out":
        ends.reverse()
    if ends:
        parts.append(" to ".join(ends) if "dir" in row else " at ".join(ends))
    if "flags" in row:
        parts.append(f"flags {_text(row['flags'])}")
    return ", ".join(parts)


def _story(row: Row | None) -> str:
    """What a row says happened; empty for one that tells no event."""
    if row is None:
        return "no such row"
    kind = row.get("type")
    if kind == "packet":
        decision, reason = _text(row.get("decision")), _text(row.get("reason"))
        tell = words.out_sentence if row.get("dir") == "out" else words.sentence
        return f"{decision}: {tell(decision, reason)}"
    if kind == "event":
        event = _text(row.get("event"))
        return words.EVENT_SENTENCES.get(event) or words.label(event)
    if kind == "mismatch":
        what = _text(row.get("what"))
        return f"{words.MISMATCHES.get(what) or words.label(what)} ({_text(row.get('detail'))})"
    return f"a row of type {_text(kind)}"


def _stories(stories: tuple[str, str], sides: tuple[str, str]) -> list[str]:
    if stories[0] == stories[1]:
        return _wrapped("both", stories[0])
    width = max(map(len, sides))
    return [
        line
        for side, story in zip(sides, stories, strict=True)
        for line in _wrapped(side.ljust(width), story)
    ]


def _cells(row: Row) -> dict[str, str]:
    """Fields and what to show of them; objects are taken apart, so that only what differs is shown."""
    cells: dict[str, str] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            cells |= {f"{_text(key)}.{_text(name)}": _text(entry) for name, entry in value.items()}
        elif key in _QUEUES and _is_range(value):
            cells[_text(key)] = words.span(value)
        else:
            cells[_text(key)] = _text(value)
    return cells


def _is_range(value: object) -> bool:
    return isinstance(value, list) and [type(entry) for entry in value] == [int, int]


def _text(value: object) -> str:
    return safe(value if isinstance(value, str) else json.dumps(value, default=str), _LIMIT)


def _table(before: dict[str, str], after: dict[str, str], sides: tuple[str, str]) -> list[str]:
    """The fields that differ, one a line, longer values in several."""
    rows = [("field", *sides)]
    rows += [
        (key, before.get(key, "-"), after.get(key, "-"))
        for key in before | after
        if before.get(key) != after.get(key)
    ]
    first = min(max(len(key) for key, _, _ in rows), _FIELD_WIDTH)
    rest = (WIDTH - first) // 2 - len(_GAP)
    second = min(max(len(value) for _, value, _ in rows), rest)
    return [line for row in rows for line in _lines(row, (first, second, rest))]


def _lines(row: tuple[str, ...], widths: tuple[int, ...]) -> Iterator[str]:
    columns = [textwrap.wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
    for number in range(max(map(len, columns))):
        parts = [column[number] if number < len(column) else "" for column in columns]
        yield _GAP.join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()


def _wrapped(head: str, text: str) -> list[str]:
    """`head  text`, folded, with the continuation below the text."""
    head = head and head + _GAP
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head)) or [
        head.rstrip()
    ]
