"""How often the capture alone tells what the kernel did: recordings analysed without their host files.

    python bench/accuracy.py [DIRECTORY...]

A directory holds recordings in the ground-truth layout, or archives (.tar.gz) of such. Every recording is
analysed twice: with its host file, which `backlogtrace check` holds to what the kernel counted, and with
nothing but the capture and the port. Decisions are compared packet by packet; `undecided` is neither right
nor wrong. The backlog and the kernel family found are right, tied (the true one is among those that `infer`
says would do as well), or wrong; of backlogs only recordings count in which a queue was full, of kernels
those that called for a search.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from backlogtrace.capture import open_capture
from backlogtrace.kernel import profiles
from backlogtrace.replay import Options, analyze
from backlogtrace.replay.host import Host, HostListener, load_host
from backlogtrace.replay.rows import PacketRow

if TYPE_CHECKING:
    from backlogtrace.replay.inference import ListenerInference

FIXTURES = Path(__file__).parents[1] / "fixtures"


class Result(NamedTuple):
    """One recording: packets decided rightly, wrongly, not at all."""

    kernel: str
    family: str
    right: int
    wrong: int
    undecided: int
    backlog: str
    """The effective backlog found: right, tied or wrong; empty where no queue was full."""
    kernel_found: str
    """right, tied or wrong; empty where there was no search."""
    named: int
    """Families named: the one found, and those that would do as well."""
    stranger: bool
    """Whether the server was taken for another system."""
    folder: str


def compare(folder: Path) -> Result:
    known_host = load_host(folder / "host.json")
    ports = tuple(HostListener(one.address, one.port) for one in known_host.listeners)
    known, _ = rows(folder, known_host, Options(all_packets=True))
    worked_out, inferred = rows(folder, Host(), Options(all_packets=True, listeners=ports))
    right = wrong = undecided = 0
    for frame, row in known.items():
        other = worked_out[frame]
        if other.certainty == "undecided":
            undecided += 1
        elif other.outcome.decision == row.outcome.decision:
            right += 1
        else:
            wrong += 1
    limited = any(row.outcome.reason in {"accept_queue_full", "syn_queue_full"} for row in known.values())
    changed = any(event.op in {"listen", "sysctl", "close"} for event in known_host.events)
    asked = known_host.listeners[0].backlog or 0
    effective = min(asked, known_host.sysctl.get("net.core.somaxconn", asked))
    found = backlog(inferred, effective) if limited and not changed else ""
    summary = folder / "summary.json"
    family = json.loads(summary.read_text())["family"] if summary.exists() else "fixtures"
    return Result(
        known_host.kernel or "?", family, right, wrong, undecided, found, kernel(inferred, known_host.kernel),
        1 + len(inferred.alternatives("kernel")) if inferred is not None and inferred.ranked else 0,
        bool(inferred and inferred.seen.stranger.proof()), f"{folder.parent.name}/{folder.name}",
    )  # fmt: skip


def kernel(inferred: ListenerInference | None, release: str | None) -> str:
    """Whether the family found is that of `release`."""
    if inferred is None or inferred.best is None or release is None:
        return ""
    family = profiles.find(release)[0].name
    if inferred.best.kernel == family:
        return "right"
    return "tied" if family in inferred.alternatives("kernel") else "wrong"


def backlog(inferred: ListenerInference | None, effective: int) -> str:
    """Whether the backlog found is the server's, or is named, maybe with the kernel that it goes with."""
    if inferred is None or inferred.best is None:
        return "wrong"
    if inferred.best.backlog == effective:
        return "right"
    with_kernel = {one.hypothesis.backlog for one in inferred.kernels()}
    return "tied" if effective in {*inferred.alternatives("backlog"), *with_kernel} else "wrong"


def rows(folder: Path, host: Host, options: Options) -> tuple[dict[int, PacketRow], ListenerInference | None]:
    (path,) = folder.glob("capture.*")
    with open_capture([str(path)], keep_small=True) as capture:
        analysis = analyze(capture, host, options)
        found = {row.segment.frame: row for row in analysis if type(row) is PacketRow}
    return found, analysis.inference.listeners[0] if analysis.inference is not None else None


def show(title: str, results: list[Result], key: str) -> None:
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[getattr(result, key)].append(result)
    print(
        f"\n{title:<28} recordings  packets    right    wrong  undecided  backlog right  tied  wrong"
        "  kernel right  tied  wrong  named"
    )
    for name, group in [*sorted(groups.items()), ("all", results)]:
        right = sum(one.right for one in group)
        wrong = sum(one.wrong for one in group)
        undecided = sum(one.undecided for one in group)
        total = max(1, right + wrong + undecided)
        backlogs = Counter(one.backlog for one in group)
        shares = f"{right / total:>6.2%}  {wrong / total:>6.3%}  {undecided / total:>9.3%}"
        kernels = Counter(one.kernel_found for one in group)
        told = f"{backlogs['right']:>13}  {backlogs['tied']:>4}  {backlogs['wrong']:>5}"
        told += f"  {kernels['right']:>12}  {kernels['tied']:>4}  {kernels['wrong']:>5}"
        named = [one.named for one in group if one.named]
        told += f"  {sum(named) / max(1, len(named)):>5.1f}"
        print(f"{name:<28} {len(group):>10}  {total:>7}  {shares}  {told}")


def recordings(places: list[Path], scratch: Path) -> list[Path]:
    for number, archive in enumerate(one for place in places for one in sorted(place.glob("*.tar.gz"))):
        with tarfile.open(archive) as tar:
            tar.extractall(scratch / str(number), filter="data")
    return sorted(path.parent for place in [*places, scratch] for path in place.rglob("truth.jsonl"))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("places", nargs="*", type=Path, metavar="DIRECTORY", help="default: fixtures/")
    places = parser.parse_args().places or [FIXTURES]
    with tempfile.TemporaryDirectory() as scratch, ProcessPoolExecutor() as pool:
        found = recordings(places, Path(scratch))
        if not found:
            print(f"no recordings (truth.jsonl) below {' '.join(map(str, places))}", file=sys.stderr)
            return 2
        results = list(pool.map(compare, found, chunksize=4))
    show("kernel", results, "kernel")
    show("family", results, "family")
    worst = [f"{one.folder} ({one.wrong})" for one in results if one.wrong]
    print(f"\ndecided wrongly in: {', '.join(worst) or 'none'}")
    unfound = [one.folder for one in results if one.backlog == "wrong"]
    print(f"wrong backlog in: {', '.join(unfound) or 'none'}")
    missed = [one.folder for one in results if one.kernel_found == "wrong"]
    print(f"wrong kernel in: {', '.join(missed) or 'none'}")
    strangers = [one.folder for one in results if one.stranger]
    print(f"taken for another system: {', '.join(strangers) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
