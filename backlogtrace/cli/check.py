"""`backlogtrace check`: CI regression over fixtures.

Knows how results are listed and what the exit code says. Refuses to know how a fixture is compared.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from backlogtrace.cli.app import CONTEXT
from backlogtrace.cli.completion import files, folders, listed
from backlogtrace.cli.differences import ANY, KINDS, NEVER
from backlogtrace.cli.options import parse_fail_on
from backlogtrace.errors import UsageError
from backlogtrace.report.safe import safe
from backlogtrace.report.words import count

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from backlogtrace.cli.fixtures import Result

_SHOWN = 30
_CELL = 44
_SPELT_OUT = 5
"""Fixtures whose first difference is shown in words: the others are in the table."""


@click.command(context_settings=CONTEXT, short_help="Compare fixtures with what analyze prints (CI).")
@click.argument("paths", nargs=-1, metavar="[PATH]...", shell_complete=folders)
@click.option("--update", is_flag=True, help="Write what analyze prints now to expected.jsonl.")
@click.option(
    "--fail-on",
    multiple=True,
    metavar="LIST",
    shell_complete=listed((*KINDS, ANY, NEVER)),
    help=f"Differences that make the exit code 1: {', '.join(KINDS)}; any or never. [default: any]",
)
@click.option(
    "--junit", "junit_file", metavar="FILE", shell_complete=files, help="Write a JUnit XML report to FILE."
)
@click.option("--github", is_flag=True, help="Print ::error lines for GitHub Actions (::warning: left out).")
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 256), metavar="N", help="Processes [default: one per CPU]."
)
def check(
    paths: tuple[str, ...],
    *,
    update: bool,
    fail_on: tuple[str, ...],
    junit_file: str | None,
    github: bool,
    jobs: int | None,
) -> int:
    """Compare fixtures with what analyze prints for them today.

    Runs every folder below the PATHs (default: fixtures) that holds a capture. A folder with
    expected.jsonl is compared row by row with `analyze -T jsonl`; one with truth.jsonl with what a real
    kernel did. Exits with 1 when something differs that --fail-on does not leave out, or a fixture cannot
    be compared; with 3 when a capture cannot be read.
    """
    from backlogtrace.cli.fixtures import find, run_all
    from backlogtrace.cli.output import opened

    chosen = _parse_fail_on(fail_on)
    found = find(paths or ("fixtures",))
    results = list(run_all(found, jobs or os.cpu_count() or 1, update=update))
    for result in results:
        result.fail_on = chosen
    _print(results, update=update)
    if junit_file is not None:
        from backlogtrace.cli.ci import junit

        with opened(junit_file, []) as out:
            out.write(junit(results))
    if github:
        from backlogtrace.cli import ci

        click.echo("".join(ci.github(results)), nl=False)
    if any(result.unreadable for result in results):
        return 3
    return 1 if any(result.failed for result in results) else 0


def _parse_fail_on(texts: tuple[str, ...]) -> frozenset[str]:
    """The kinds of difference that are failures; raises UsageError for an unknown word."""
    chosen = parse_fail_on(texts or (ANY,), (*KINDS, ANY, NEVER))
    if NEVER in chosen and len(chosen) > 1:
        raise UsageError(f"--fail-on {NEVER} leaves everything out: give it alone")
    return frozenset(KINDS) if ANY in chosen else chosen & frozenset(KINDS)


def _print(results: Sequence[Result], *, update: bool) -> None:
    failed = [result for result in results if result.failed]
    tolerated = [result for result in results if result.differs and not result.failed]
    if failed or tolerated:
        _overview([*failed, *tolerated])
        _spell_out([result for result in failed if not result.error])
    truth = [result for result in results if result.layout == "truth"]
    if truth:
        _scores(truth)
    packets = sum(result.packets for result in results)
    click.echo(
        f"{len(results)} fixtures, {packets:,} packets compared: {len(failed) or 'none'} failed"
        + (f", {len(tolerated)} differ in what --fail-on leaves out" if tolerated else "")
    )
    if update:
        for result in results:
            if result.updated:
                click.echo(f"updated {safe(str(result.folder / 'expected.jsonl'))}")


def _overview(differing: Sequence[Result]) -> None:
    rows = [("fixture", "where", "expected", "got")]
    rows += [_row(result) for result in differing[:_SHOWN]]
    _table(rows)
    if len(differing) > _SHOWN:
        click.echo(f"... and {len(differing) - _SHOWN} more fixtures")
    click.echo()


def _row(result: Result) -> tuple[str, str, str, str]:
    name = safe(_name(result.folder))
    if result.error:
        return name, safe(result.error, 300), "", ""
    first = result.first
    where = first.where + (f" (+{result.more} more)" if result.more else "")
    if not result.failed:
        where += " (left out)"
    return name, safe(where), safe(first.expected, _CELL), safe(first.actual, _CELL)


def _spell_out(differing: Sequence[Result]) -> None:
    """The first difference of the first few fixtures, with all that differs there."""
    from backlogtrace.report.sidebyside import WIDTH

    for result in differing[:_SPELT_OUT]:
        click.echo(f"{safe(_name(result.folder), WIDTH - 1)}:")
        for line in _in_words(result):
            click.echo(line)
        if result.more:
            click.echo(f"... and {count(result.more, 'more difference')}")
        click.echo()
    if len(differing) > _SPELT_OUT:
        click.echo(f"... and {count(len(differing) - _SPELT_OUT, 'more fixture')} not spelt out")
        click.echo()


def _in_words(result: Result) -> list[str]:
    from backlogtrace.report.sidebyside import fact, side_by_side

    first = result.first
    if first.fact is not None:
        frame, field, kernel, model = first.fact
        return fact(frame, field, (kernel, model), ("kernel", "model"))
    if first.rows is not None:
        return side_by_side(*first.rows, ("expected", "got"), result.start_ns)
    return [f"line {first.line} of expected.jsonl is no row"]


def _name(folder: Path) -> str:
    return "/".join(filter(None, (folder.parent.name, folder.name)))


def _scores(results: Sequence[Result]) -> None:
    """Scenarios, packets and differences per kernel and per family of scenarios."""
    for title, names in (
        ("kernel", [result.folder.parent.name for result in results]),
        ("family", [result.folder.name.rpartition("-")[0] or result.folder.name for result in results]),
    ):
        rows = [(title, "scenarios", "packets", "differences", "explained", "agreement")]
        for name in sorted(set(names)):
            group = [result for result, its in zip(results, names, strict=True) if its == name]
            packets, differing = sum(r.packets for r in group), sum(r.count for r in group)
            explained = sum(r.explained for r in group)
            wrong = min(differing - explained, packets)  # one packet may differ in several ways
            share = f"{100 * (1 - wrong / packets):.3f} %" if packets else "-"
            rows.append((safe(name), str(len(group)), str(packets), str(differing), str(explained), share))
        _table(rows)
        click.echo()


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    """Columns separated by two blanks; numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if cell[:1].isdigit() and column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())
