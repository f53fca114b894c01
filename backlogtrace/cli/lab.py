"""`backlogtrace lab`: does the kernel of this machine behave as the model believes?

Knows how scenarios are spread over processes, played again where they differ, and summed up. Refuses
to know how one is played and how it is compared.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backlogtrace.cli.app import CONTEXT
from backlogtrace.lab.families import FAMILIES
from backlogtrace.report.safe import safe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from backlogtrace.cli.fixtures import Result
    from backlogtrace.lab.scenario import Scenario

_JOBS = 16
_JOBS_AGAIN = 4
_SHOWN = 20
_CELL = 44


@dataclass(slots=True)
class _Family:
    """What came of the scenarios of a family."""

    scenarios: int = 0
    packets: int = 0
    differing: int = 0
    """Scenarios that differ, also when played again."""
    once: int = 0
    """Scenarios that differed when played first, and not again."""


@dataclass(slots=True)
class _Findings:
    kernel: str
    profile: str
    note: str
    scenarios: int = 0
    packets: int = 0
    differing: list[dict[str, Any]] = field(default_factory=list)
    once: list[dict[str, Any]] = field(default_factory=list)
    families: dict[str, _Family] = field(default_factory=dict)
    recordings: str | None = None
    """Folder with the recordings that were kept."""


@click.command(context_settings=CONTEXT, short_help="Compare this machine's kernel with the model.")
@click.option(
    "-n",
    "--count",
    type=click.IntRange(1, 100_000),
    default=60,
    show_default=True,
    metavar="N",
    help="Scenarios to play, families in turn.",
)
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, 256),
    default=_JOBS,
    show_default=True,
    metavar="N",
    help="Scenarios at a time; they mostly wait.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="First seed.")
@click.option(
    "--family",
    "families",
    type=click.Choice(list(FAMILIES)),
    multiple=True,
    metavar="NAME",
    help="Only scenarios of this family; repeatable. Families: " + ", ".join(FAMILIES) + ".",
)
@click.option(
    "--seconds",
    type=click.FloatRange(1, 300),
    default=6.0,
    show_default=True,
    metavar="S",
    help="Length of a scenario. The longest timers need 70.",
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Keep all recordings in DIR [default: those that differ, in a temporary folder].",
)
@click.option(
    "-T",
    "--format",
    "output",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="Output format.",
)
def lab(
    *,
    count: int,
    jobs: int,
    seed: int,
    families: tuple[str, ...],
    seconds: float,
    keep: str | None,
    output: str,
) -> int:
    """Play scenarios against the kernel of this machine and compare what it does with the model.

    Each scenario has a network namespace of its own with a TUN device, a listening socket and clients
    made by hand; the capture, the kernel's counters and its queues are recorded and compared packet by
    packet, as `check` does. A scenario that differs is played again: only a difference that shows
    twice counts. Needs root and /dev/net/tun; changes nothing outside its namespaces. The kernel log
    may report "Possible SYN flooding".

    Exits with 1 when something differs, with 3 when scenarios cannot be played here.
    """
    from backlogtrace.lab import netns

    netns.require()
    findings = _findings()
    scenarios = _draw(count, seed, families or tuple(FAMILIES), seconds)
    folder = Path(keep if keep is not None else tempfile.mkdtemp(prefix="backlogtrace-lab-"))
    try:
        _play_all(scenarios, jobs, folder, findings)
    finally:
        findings.recordings = _tidy(folder, findings, keep_all=keep is not None)
    if output == "json":
        import json

        click.echo(json.dumps(asdict(findings), indent=1))
    else:
        _print(findings)
    return 1 if findings.differing else 0


def _findings() -> _Findings:
    from backlogtrace.kernel.profiles import find

    kernel = platform.release()
    profile, note = find(kernel)
    return _Findings(kernel, profile.name, note)


def _draw(count: int, seed: int, families: tuple[str, ...], seconds: float) -> list[Scenario]:
    from backlogtrace.lab.families import make
    from backlogtrace.lab.netns import has_ipv6, has_sysctl

    if not has_ipv6():
        families = tuple(family for family in families if family != "ipv6")
        click.echo("no IPv6 on this machine: family ipv6 is left out", err=True)
    if not has_sysctl("net.ipv4.tcp_migrate_req"):
        families = tuple(family for family in families if family != "migrating")
        click.echo("no tcp_migrate_req on this machine: family migrating is left out", err=True)
    if not families:
        return []
    return [make(families[n % len(families)], seed + n // len(families), seconds) for n in range(count)]


# ---- playing -------------------------------------------------------------------------------------


def _play_all(scenarios: Sequence[Scenario], jobs: int, folder: Path, findings: _Findings) -> None:
    """Play everything; what differs a second time, with less going on at the same time."""
    unsure: list[tuple[Scenario, Result]] = []
    with _progress(len(scenarios)) as step:
        for scenario, result in _played(scenarios, jobs, folder / findings.kernel):
            family = findings.families.setdefault(scenario.family, _Family())
            family.scenarios += 1
            family.packets += result.packets
            findings.scenarios += 1
            findings.packets += result.packets
            if result.failed:
                unsure.append((scenario, result))
            step()
    first = {scenario.name: result for scenario, result in unsure}
    again = [scenario for scenario, _ in unsure]
    for scenario, result in _played(again, min(jobs, _JOBS_AGAIN), folder / f"{findings.kernel}-again"):
        family = findings.families[scenario.family]
        if result.failed:
            family.differing += 1
            findings.differing.append(_described(scenario, result))
        else:
            family.once += 1
            findings.once.append(_described(scenario, first[scenario.name]))


def _played(scenarios: Sequence[Scenario], jobs: int, folder: Path) -> Iterator[tuple[Scenario, Result]]:
    """Scenarios and their results, in the order given."""
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from itertools import repeat

    from backlogtrace.lab.netns import CannotRunError

    if not scenarios:
        return
    with ProcessPoolExecutor(min(jobs, len(scenarios))) as pool:
        try:
            yield from zip(scenarios, pool.map(_play, scenarios, repeat(folder)), strict=True)
        except BrokenProcessPool:
            raise CannotRunError(
                "a process that played a scenario was killed (out of memory?): try fewer --jobs"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _play(scenario: Scenario, folder: Path) -> Result:
    """Record a scenario and compare it; runs in a process of the pool."""
    from backlogtrace.cli.fixtures import Result, run
    from backlogtrace.lab.record import SpoiledError, record

    place = folder / scenario.name
    try:
        record(scenario, place)
    except SpoiledError as error:
        return Result(place, "truth", error=str(error))
    return run((place, "truth"), update=False)


def _tidy(folder: Path, findings: _Findings, *, keep_all: bool) -> str | None:
    """Remove the recordings nobody asked for; the folder of those that stay."""
    if keep_all:
        return str(folder)
    kept = {row["scenario"] for row in (*findings.differing, *findings.once)}
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)
        return None
    for recording in folder.glob("*/*"):
        if recording.name not in kept:
            shutil.rmtree(recording, ignore_errors=True)
    return str(folder)


# ---- showing -------------------------------------------------------------------------------------


def _described(scenario: Scenario, result: Result) -> dict[str, Any]:
    """A scenario that differs, for people and for JSON."""
    return {
        "scenario": scenario.name,
        "family": scenario.family,
        "seed": scenario.seed,
        "folder": str(result.folder),
        "count": result.count - result.explained,
        "error": result.error,
        "differences": [
            {"where": one.where, "kernel": one.expected, "model": one.actual} for one in result.differences
        ],
    }


def _print(findings: _Findings) -> None:
    from backlogtrace.cli.check import _table

    for title, rows in (("differs", findings.differing), ("differed once", findings.once)):
        if rows:
            _table([(title, "where", "kernel", "model"), *map(_row, rows[:_SHOWN])])
            if len(rows) > _SHOWN:
                click.echo(f"... and {len(rows) - _SHOWN} more scenarios")
            click.echo()
    table = [("family", "scenarios", "packets", "differ", "differed once")]
    table += [
        (name, str(one.scenarios), str(one.packets), str(one.differing), str(one.once))
        for name, one in findings.families.items()
    ]
    _table(table)
    click.echo()
    kernel = safe(findings.kernel)
    model = f"profile {findings.profile}" + (f"; {findings.note}" if findings.note else "")
    verdict = "differs from the model" if findings.differing else "behaves as the model believes"
    click.echo(f"Linux {kernel} {verdict} ({safe(model)}):")
    click.echo(
        f"{findings.scenarios} scenarios, {findings.packets:,} packets compared: "
        f"{len(findings.differing) or 'none'} differ"
        + (f", {len(findings.once)} differed once and not again (timing)" if findings.once else "")
    )
    if findings.recordings is not None:
        click.echo(f"recordings: {safe(findings.recordings, 300)}")


def _row(row: dict[str, Any]) -> tuple[str, str, str, str]:
    if row["error"] or not row["differences"]:
        return row["scenario"], safe(row["error"], 300), "", ""
    first = row["differences"][0]
    more = f" (+{row['count'] - 1} more)" if row["count"] > 1 else ""
    where = safe(first["where"]) + more
    return row["scenario"], where, safe(first["kernel"], _CELL), safe(first["model"], _CELL)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr for somebody who watches; what it yields counts one."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("scenarios", total=total)
        yield lambda: bar.advance(task)
