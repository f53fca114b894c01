"""Kernel profiles as pages: the list of all, the difference of two, one with all its changes.

A page is data first (JSON prints it as it is) and tables made from it. Refuses to pick a profile.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from backlogtrace.kernel.families import DEFAULT, PROFILES, RECORDED
from backlogtrace.kernel.profile import BEHAVIOURS, differences
from backlogtrace.report import kernel_words as words
from backlogtrace.report.safe import safe

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backlogtrace.kernel.profile import Change, Profile
    from backlogtrace.report.rich_report import Look

SCHEMA_VERSION = "1"
_LEGEND = f"""\
* held packet by packet against that kernel; the others follow from the changes alone.
SYN queue: its limit. When full: what a full accept queue does to a SYN.
Cookies: accepted how long after the last one. Timers: what SYN-ACK intervals are rounded to.
Without --kernel, {DEFAULT.name} is assumed. `kernels NAME` shows one, `kernels --diff NAME NAME` two.
NAME may also be a distribution or what `uname -r` prints."""
_PROVENANCE = ("since", "commit", "also in", "evidence")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of words under a header; on a terminal the last `folded` columns share one."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    folded: int = 1
    title: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """What one call of `kernels` shows."""

    title: str
    tables: list[Table]
    data: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    closing: list[str] = field(default_factory=list)


def overview() -> Page:
    """All profiles, oldest first."""
    rows = [
        (
            f"{profile.name}{'*' if profile.name in RECORDED else ''}", str(profile.usual_hz),
            *words.short(profile), profile.tree,
        )
        for profile in PROFILES
    ]  # fmt: skip
    table = Table(("kernel", "HZ", "SYN queue", "when full", "cookies", "timers", "stands for"), rows)
    return Page(
        title=f"{len(PROFILES)} kernel families",
        tables=[table],
        data={"default": DEFAULT.name, "profiles": [_portrait(profile) for profile in PROFILES]},
        closing=_LEGEND.splitlines(),
    )


def comparison(before: Profile, after: Profile, notes: Iterable[str] = ()) -> Page:
    """What the second kernel does differently, and since when."""
    found = differences(before, after)
    rows, entries = [], []
    for difference in found:
        owner = (before if difference.undone else after).name
        name, old, new = difference.field, difference.before, difference.after
        last = difference.changes[-1]
        since, *rest = _provenance(last)
        since = f"{since}, only {owner} has it" if difference.undone else since
        rows.append((words.label(name), words.value(name, old), words.value(name, new), since, *rest))
        entries.append(
            {
                "behaviour": name, "label": words.label(name), "before": old, "after": new,
                "before_text": words.value(name, old), "after_text": words.value(name, new),
                "changed_in": owner, "changes": [asdict(change) for change in difference.changes],
            }
        )  # fmt: skip
    kept = [note for note in notes if note]
    return Page(
        title=f"{before.name} ({before.tree}) -> {after.name} ({after.tree}): "
        f"{len(found) or 'no'} difference{'' if len(found) == 1 else 's'}",
        tables=[Table(("behaviour", "before", "after", *_PROVENANCE), rows, folded=4)] if rows else [],
        data={"before": before.name, "after": after.name, "notes": kept, "differences": entries},
        notes=kept,
    )


def portrait(profile: Profile, note: str = "") -> Page:
    """One profile: how it behaves, and the changes that made it out of 3.10."""
    behaviours = [(words.label(name), words.value(name, getattr(profile, name))) for name in BEHAVIOURS]
    changes = [(change.summary, *_provenance(change)) for change in profile.changes]
    seen = "held against that kernel" if profile.name in RECORDED else "follows from its changes alone"
    tables = [Table(("behaviour", profile.name), behaviours)]
    if changes:
        tables.append(Table(("change since 3.10", *_PROVENANCE), changes, folded=4))
    return Page(
        title=f"{profile.name}: {profile.tree}, usually HZ={profile.usual_hz}, {seen}",
        tables=tables,
        data=_portrait(profile) | {"notes": [note] if note else []},
        notes=[note] if note else [],
    )


def _provenance(change: Change) -> tuple[str, ...]:
    return change.since, change.commit, " ".join(change.backports), change.evidence


def _portrait(profile: Profile) -> dict[str, Any]:
    return {
        "name": profile.name,
        "tree": profile.tree,
        "usual_hz": profile.usual_hz,
        "recorded": profile.name in RECORDED,
        "behaviours": {name: getattr(profile, name) for name in BEHAVIOURS},
        "changes": [asdict(change) for change in profile.changes],
    }


def write_json(page: Page, out: TextIO) -> None:
    """The page's data as one JSON object."""
    json.dump({"schema_version": SCHEMA_VERSION} | page.data, out, indent=1)
    out.write("\n")


def write_text(page: Page, out: TextIO) -> None:
    """One line per row, cells separated by tabs; `#` lines are comments."""
    for line in (page.title, *page.notes):
        out.write(f"# {safe(line, 500)}\n")
    for table in page.tables:
        if table.title:
            out.write(f"# {table.title}\n")
        out.write("# " + "\t".join(table.header) + "\n")
        out.writelines("\t".join(row) + "\n" for row in table.rows)
    out.writelines(f"# {line}\n" for line in page.closing)


def write_rich(page: Page, out: TextIO, look: Look) -> None:
    """The page for a terminal, wrapped to its width."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(
        file=out, width=look.width, markup=False, emoji=False, highlight=False,
        force_terminal=look.colour, no_color=not look.colour, legacy_windows=False,
        color_system="standard" if look.colour else None,
    )  # fmt: skip
    console.print(Text(safe(page.title, 500), "bold"))
    for note in page.notes:
        console.print(Text(safe(note, 500), "yellow"))
    for table in page.tables:
        grid = RichTable(
            box=box.ASCII if look.ascii_only else box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0),
            header_style="bold", show_lines=table.folded > 1 and not look.ascii_only,
        )  # fmt: skip
        for position, name in enumerate(table.header[: len(table.header) - table.folded + 1]):
            grid.add_column(name, style="cyan" if not position else "", overflow="fold")
        for row in table.rows:
            grid.add_row(*(Text(cell) for cell in _fold(row, table.folded)))
        if table.title:
            console.print(Text(safe(table.title, 500), "bold"))
        console.print(grid)
    for line in page.closing:
        console.print(Text(line, "dim"))


def _fold(row: tuple[str, ...], folded: int) -> tuple[str, ...]:
    """The last `folded` cells (since, commit, also in, evidence) as lines of one."""
    if folded == 1:
        return row
    since, commit, also, evidence = row[-folded:]
    lines = (f"{since} {commit}".rstrip(), f"also {also}" if also else "", evidence)
    return (*row[:-folded], "\n".join(line for line in lines if line))
