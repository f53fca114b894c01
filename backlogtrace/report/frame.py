"""Page of one packet: its fate, who sat in the queues, its client's other packets, what would change it.

Reads the objects of the JSON Lines output. Refuses to run the model: `again` does, with other settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from backlogtrace.errors import UsageError
from backlogtrace.report import words
from backlogtrace.report.kernels import Page, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Row = dict[str, Any]


class Analysis(Protocol):
    """The objects of the JSON Lines output, as `backlogtrace.analyze` returns them."""

    @property
    def header(self) -> Row:
        """The header row."""
        ...

    @property
    def rows(self) -> list[Row]:
        """All packet, event and mismatch rows, in order."""
        ...

    @property
    def listeners(self) -> list[Row]:
        """The summaries."""
        ...

    @property
    def checks(self) -> list[Row]:
        """What the kernel asked of the packet, in order; empty where that is not known."""
        ...


_STORY = 12
"""Rows of the client that are shown on each side of the packet."""
_NAMES = 8
"""Clients that are named of each queue."""
_CHANGES: tuple[tuple[str, int], ...] = (
    ("tcp_abort_on_overflow", 1), ("tcp_abort_on_overflow", 0), ("tcp_syncookies", 0),
    ("tcp_syncookies", 1), ("tcp_syncookies", 2), ("tcp_max_syn_backlog", 65536),
)  # fmt: skip
_TRIED = (
    "Tried with the same packets arriving; clients that fare otherwise would send others. "
    "somaxconn is raised with the backlog."
)
_BACKLOGS = 4
"""How often the backlog is raised by half until the packet fares otherwise; then the least is sought."""


def page(
    analysis: Analysis, number: int, again: Callable[[dict[str, int], int | None], Analysis] | None
) -> Page:
    """What is known of the packet with the number `number` in the capture.

    `again` analyses the capture with other sysctls and backlog (None: as it was); without it, nothing
    else is tried. Raises UsageError when the packet is not part of the analysis.
    """
    here = _find(analysis, number)
    row, before = analysis.rows[here], analysis.rows[:here]
    facts, assumed = _facts(row), analysis.header["assumed"]
    waiting = {} if row["dir"] == "out" else _queues(before, row["listener"])
    changes = _changes(analysis, here, again) if again and row["dir"] == "in" else []
    tables = [Table(("what", ""), list(facts.items()))]
    if analysis.checks:
        tables.append(Table(("the kernel asks", "it finds", "answer"), _answers(analysis.checks)))
    if waiting:
        tables.append(Table(("in the queue before it", "clients, oldest first"), _names(waiting, row)))
    tables.append(Table(("s", "frame", "packet", "what happened"), _story(analysis, row)))
    if changes:
        tables.append(Table(("with", "this packet would be"), changes))
    return Page(
        title=f"frame {number}: {row['flags']} {'from' if row['dir'] == 'in' else 'to'} {row['peer']},"
        f" {row['decision']} ({row['reason']})",
        tables=tables,
        data={
            "packet": row, "checks": analysis.checks,
            "queues": {name: [peer for peer, _ in members] for name, members in waiting.items()},
            "changes": [dict(zip(("with", "decision"), change, strict=True)) for change in changes],
        },
        notes=[
            f"kernel {analysis.header['kernel']}",
            *([f"assumed: {', '.join(assumed)}"] if assumed else []),
            *_overruled(analysis.checks, row),
        ],
        closing=[_TRIED] if changes else [],
    )  # fmt: skip


def _find(analysis: Analysis, number: int) -> int:
    """Where the row of the packet is in `analysis.rows`."""
    frames = {row["frame"]: index for index, row in enumerate(analysis.rows) if row["type"] == "packet"}
    if number in frames:
        return frames[number]
    near = min(frames, key=lambda frame: abs(frame - number), default=None)
    hint = f"the nearest that does is {near}" if near is not None else "no packet of it does"
    raise UsageError(f"frame {number} of {analysis.header['capture']} concerns no listen socket; {hint}")


def _says(row: Row) -> str:
    sentence = words.sentence if row["dir"] == "in" else words.out_sentence
    return sentence(row["decision"], row["reason"])


def _facts(row: Row) -> dict[str, str]:
    if row["dir"] == "out":
        cause = f"frame {row['cause']}" if row.get("cause") else "no packet: a timer or the application"
        return {"happened": _says(row), "caused by": cause, "expected": "yes" if row["expected"] else "no"}
    facts = {
        "happened": _says(row),
        "rule": f"{row['rule']}, in {row['function']}",
        "reply": row["reply"] or "silent",
        "counted": words.added(row["counters"]) or "nothing",
        "accept queue": words.span(row["accept_queue"]) + " after it",
        "SYN queue": words.span(row["syn_queue"]) + " after it",
        "certainty": row["certainty"],
    }
    if row["resolved_by"]:
        facts["shown by"] = f"frame {row['resolved_by']}"
    if row["rivals"]:
        facts["rivals"] = ", ".join(map(str, row["rivals"]))
    return facts


def _answers(checks: Sequence[Row]) -> list[tuple[str, ...]]:
    """The checks in order; the last one that holds decides."""
    answers = {True: "yes", False: "no", None: "not known"}
    return [
        (
            check["question"],
            check["values"],
            answers[check["holds"]] + (", decides" if check is checks[-1] else ""),
        )
        for check in checks
    ]


def _overruled(checks: Sequence[Row], row: Row) -> list[str]:
    """A note where the capture shows another decision than the checks lead to."""
    ends = checks[-1]["ends"] if checks else ""
    if not ends or ends == row.get("rule"):
        return []
    return [f"the kernel's checks lead to {ends}; the capture shows otherwise"]


def _queues(rows: Iterable[Row], listener: str) -> dict[str, list[tuple[str, int]]]:
    """Who is in each queue after these rows, and since when (ns); oldest first."""
    accept: dict[str, int] = {}
    syn: dict[str, int] = {}
    for row in rows:
        peer = row.get("peer")
        if row["listener"] != listener or peer is None or row.get("dir") == "out":
            continue
        what = row.get("event") or row.get("decision")
        if what == "queued":
            syn[peer] = row["time_ns"]
        elif what in {"established", "fastopen"}:
            if row["reason"] != "fastopen_completed":
                accept[peer] = row["time_ns"]
            syn.pop(peer, None)
        elif what == "accepted":
            accept.pop(peer, None)
        elif what in {"expired", "aborted"} or row.get("reason") == "abort_on_overflow":
            syn.pop(peer, None)
    return {"accept queue": list(accept.items()), "SYN queue": list(syn.items())}


def _names(queues: Mapping[str, list[tuple[str, int]]], row: Row) -> list[tuple[str, str]]:
    found = []
    for name, members in queues.items():
        named = [f"{peer} since {(row['time_ns'] - since) / 1e9:.3f} s" for peer, since in members[:_NAMES]]
        if len(members) > _NAMES:
            named.append(f"and {len(members) - _NAMES} more")
        found.append((f"{name}: {len(members)}", ", ".join(named) or "none"))
    return found


def _story(analysis: Analysis, row: Row) -> list[tuple[str, ...]]:
    mine = [
        one for one in analysis.rows if one.get("peer") == row["peer"] and one["listener"] == row["listener"]
    ]
    here = mine.index(row)
    return [
        (
            f"{(one['time_ns'] - row['time_ns']) / 1e9:+.3f}",
            str(one.get("frame") or "") + (" *" if one is row else ""),
            *_line(one),
        )
        for one in mine[max(here - _STORY, 0) : here + _STORY + 1]
    ]


def _line(row: Row) -> tuple[str, str]:
    """A row of any type: what it is, and what it says."""
    if row["type"] == "packet":
        return f"{row['dir']} {row['flags']}", _says(row)
    if row["type"] == "mismatch":
        return "differs", words.MISMATCHES[row["what"]]
    return row["event"], words.EVENT_SENTENCES[row["event"]]


def _changes(
    analysis: Analysis, here: int, again: Callable[[dict[str, int], int | None], Analysis]
) -> list[tuple[str, str]]:
    """Settings under which the packet fares otherwise, and how; of backlogs the smallest."""
    row = analysis.rows[here]
    mine = {
        one["frame"]: one
        for one in analysis.rows[: here + 1]
        if one["type"] == "packet" and one["dir"] == "in" and one["peer"] == row["peer"]
    }

    def fate(sysctl: dict[str, int], backlog: int | None) -> str | None:
        """What becomes of the packet, or of one before it of the same client; None for the same, or unknown.

        Where the capture contradicts the changed model, its later packets prove nothing any more.
        """
        for other in again(sysctl, backlog).rows:
            if other["type"] == "mismatch" and other["time_ns"] <= row["time_ns"]:
                return None
            known = mine.get(other["frame"]) if other["type"] == "packet" else None
            if known is None:
                continue
            same = (other["decision"], other["reason"]) == (known["decision"], known["reason"])
            what = f"{other['decision']}: {_says(other)}"
            if known is row:
                return None if same else what
            if not same and other["reply"] != known["reply"]:
                return f"not sent like this, as frame {other['frame']} would be {what}"
        return None

    found = []
    for name, value in _CHANGES:
        if changed := fate({name: value}, None):
            found.append((f"{name}={value}", changed))
    limits = [one["backlog"] for one in analysis.listeners if one["listener"] == row["listener"]]
    if not limits or limits[0] is None:
        return found
    same: int = limits[0]
    for _ in range(_BACKLOGS):
        other = same + max(1, same // 2)
        if changed := fate({"somaxconn": other}, other):
            while other - same > 1:
                between = (same + other) // 2
                if better := fate({"somaxconn": between}, between):
                    other, changed = between, better
                else:
                    same = between
            found.append((f"listen({other})", changed))
            break
        same = other
    return found
