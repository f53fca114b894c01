"""What two rows differ in, and which kind of difference that is: what `check --fail-on` chooses from.

Knows the fields of the JSON Lines output and the kinds they belong to. Refuses to decide which kind matters.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from backlogtrace.report.words import MISMATCHES

_SHORT = 300
_FIELDS = {
    "decision": ("decision", "decisions"),
    "reason": ("reason", "rule", "function"),
    "reply": ("reply", "cause", "attempt", "expected"),
    "counters": ("counters", "TCPSynRetrans"),
    "queues": ("accept_queue", "syn_queue", "peak_accept_queue", "peak_syn_queue"),
    "timing": ("time_ns",),
    "certainty": ("certainty", "resolved_by", "rivals"),
    "mismatch": ("mismatches", "what", *MISMATCHES),
    "rows": ("type", "frame", "listener", "peer", "event"),
}
"""Kind -> fields of rows, and what truth.jsonl is compared in."""
KINDS = (*_FIELDS, "other")
"""`rows`: a row too few or too many, or one of another packet; `other`: the header, flags, a backlog."""
ANY, NEVER = "any", "never"
_KIND = {field: kind for kind, fields in _FIELDS.items() for field in fields}
ABSENT = object()
"""Stands for a row that expected.jsonl does not have."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where a fixture is not as expected."""

    where: str
    """`line 12, frame 15: decision`."""
    expected: str
    actual: str
    line: int | None = None
    """Line of expected.jsonl."""
    kinds: frozenset[str] = frozenset({"other"})
    rows: tuple[Row | None, Row | None] | None = None
    """The rows of expected.jsonl and of analyze, where both are rows; None for one that is not there."""
    fact: tuple[int, str, object, object] | None = None
    """Of the truth layout: frame, what it is about, what the kernel did, what the model says."""


def wrong_fact(frame: int, field: str, kernel: object, model: object) -> Difference:
    """One fact about a frame on which the model contradicts a real kernel."""
    return Difference(
        f"frame {frame}: {field}",
        _short(kernel),
        _short(model),
        kinds=frozenset({_KIND.get(field, "other")}),
        fact=(frame, field, kernel, model),
    )


def broken_line(number: int, error: ValueError, actual: Row | None) -> Difference:
    """A line that is not JSON. Nobody knows what it said, so it is a difference of every kind."""
    text = f"not JSON ({error})"
    return Difference(f"line {number}", text, _told(actual), number, frozenset(KINDS))


def compare_rows(number: int, expected: object, actual: Row | None) -> Difference | None:
    """Line `number` of expected.jsonl (or ABSENT) beside what analyze says (None: nothing)."""
    if expected == actual:
        return None
    where = f"line {number}"
    wanted = expected if isinstance(expected, dict) else None
    if wanted is None or actual is None or wanted.get("type") != actual["type"]:
        rows = (wanted, actual) if wanted is not None or expected is ABSENT else None
        return Difference(
            where, _told(expected), _told(actual), number, _kinds_of_another(wanted, actual), rows
        )
    keys = differing(wanted, actual)
    kinds = {_KIND.get(key, "other") for key in keys}
    if actual["type"] == "mismatch":
        kinds.add("mismatch")
    # Rows that differ in nearly everything are different rows; their own words say more than a key does.
    frame = f", frame {actual['frame']}" if "frame" in actual else ""
    before, after = (
        " ".join(f"{key}={_short(row[key])}" for key in keys if key in row) for row in (wanted, actual)
    )
    title = f"{where}{frame}: {', '.join(keys)}"
    return Difference(title, before, after, number, frozenset(kinds), (wanted, actual))


def differing(expected: Row, actual: Row) -> list[str]:
    """The keys that are not the same in both, in the order of the rows."""
    return [key for key in expected | actual if expected.get(key, ABSENT) != actual.get(key, ABSENT)]


def _kinds_of_another(*rows: Row | None) -> frozenset[str]:
    told = any(row is not None and row.get("type") == "mismatch" for row in rows)
    return frozenset({"rows", "mismatch"} if told else {"rows"})


def _told(row: object) -> str:
    return "no such row" if row is None or row is ABSENT else _short(row)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."
