"""Finding fixtures, running them, comparing with what they expect.

Knows both layouts: expected.jsonl (what analyze must print) and truth.jsonl (what a real kernel did).
Refuses to print anything.
"""

from __future__ import annotations

import difflib
import io
import itertools
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from backlogtrace.cli.differences import ABSENT, KINDS, Difference, broken_line, compare_rows, wrong_fact
from backlogtrace.errors import BacklogtraceError, CaptureError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backlogtrace.replay.rows import Header

Layout = Literal["expected", "truth"]
_DIFFERENCES_KEPT = 10
_SUFFIXES = (".pcap", ".pcapng")
_COMPRESSIONS = ("", ".gz", ".zst", ".lz4")
CAPTURE_NAMES = frozenset(f"capture{suffix}{packed}" for suffix in _SUFFIXES for packed in _COMPRESSIONS)


@dataclass(slots=True)
class Result:
    """What became of one fixture."""

    folder: Path
    layout: Layout
    packets: int = 0
    """Packets compared."""
    count: int = 0
    """Differences in all."""
    explained: int = 0
    """Differences with a known explanation (truth layout); they are no failures."""
    differences: list[Difference] = field(default_factory=list)
    """The first few that are not explained."""
    firsts: dict[str, Difference] = field(default_factory=dict)
    """Kind of difference -> the first one, in the order they were found."""
    fail_on: frozenset[str] = frozenset(KINDS)
    """The kinds of difference that are failures."""
    start_ns: int | None = None
    """Time of the first packet."""
    seconds: float = 0.0
    """How long it took."""
    error: str = ""
    """Why it could not be compared."""
    unreadable: bool = False
    """Whether that was the capture's fault."""
    skipped: str = ""
    """Why there was nothing to compare."""
    updated: bool = False

    @property
    def differs(self) -> bool:
        """Whether the fixture is not as expected, whoever minds."""
        return self.count > self.explained

    @property
    def failed(self) -> bool:
        """Whether the fixture is not as it should be. One that cannot be compared never is."""
        return bool(self.error) or not self.fail_on.isdisjoint(self.firsts)

    @property
    def first(self) -> Difference:
        """The difference to show: the first that is a failure, else the first."""
        chosen = (item for kind, item in self.firsts.items() if kind in self.fail_on)
        return next(chosen, self.differences[0])

    @property
    def more(self) -> int:
        """Differences that nothing explains, besides the one to show."""
        return self.count - self.explained - 1

    def add(self, difference: Difference) -> None:
        """Count a difference that nothing explains."""
        self.count += 1
        if len(self.differences) < _DIFFERENCES_KEPT:
            self.differences.append(difference)
        for kind in sorted(difference.kinds):
            self.firsts.setdefault(kind, difference)


def find(paths: Sequence[str]) -> list[tuple[Path, Layout]]:
    """All fixture folders below `paths`, in order of their names.

    Raises UsageError when a path is no folder or nothing is found.
    """
    found: list[tuple[Path, Layout]] = []
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112 - Path("") is the current folder
            raise UsageError(f"{path!r} is not a folder with fixtures")
        for folder, folders, files in os.walk(path):
            folders.sort()
            # An expectation without its capture is a fixture that fails, not one that is passed over.
            if not {*CAPTURE_NAMES, "expected.jsonl", "truth.jsonl"}.isdisjoint(files):
                found.append((Path(folder), "truth" if "truth.jsonl" in files else "expected"))
    if not found:
        raise UsageError(
            f"no fixture under {', '.join(paths)}: a fixture is a folder with capture.pcap (or .pcapng, "
            f".gz, .zst, "
            ".lz4), host.json and expected.jsonl"
        )
    return list(dict.fromkeys(found))


def run_all(found: list[tuple[Path, Layout]], jobs: int, *, update: bool) -> Iterator[Result]:
    """Run the fixtures, `jobs` at a time; results in the order of `found`."""
    if jobs == 1 or len(found) == 1:
        yield from map(run, found, itertools.repeat(update))
        return
    with ProcessPoolExecutor(min(jobs, len(found))) as pool:
        try:
            yield from pool.map(
                run, found, itertools.repeat(update), chunksize=max(1, min(16, len(found) // (jobs * 4)))
            )
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run(fixture: tuple[Path, Layout], update: bool) -> Result:
    """Run one fixture; errors of the fixture are part of the result."""
    folder, layout = fixture
    result = Result(folder, layout)
    begin = time.perf_counter()
    try:
        if layout == "truth":
            _compare_truth(result)
        if layout == "expected" or (folder / "expected.jsonl").exists():
            _compare_expected(result, update=update)
    except CaptureError as error:
        result.error, result.unreadable = str(error), True
    except (BacklogtraceError, OSError) as error:
        result.error = str(error)
    result.seconds = time.perf_counter() - begin
    if not (result.packets or result.skipped or result.failed):
        result.skipped = "no packet to compare"
    return result


def _output(folder: Path) -> tuple[str, Header]:
    """What `analyze -T jsonl` prints for the capture in `folder` with its host file, and the header.

    Raises CaptureError when the capture cannot be read, UsageError when there is not exactly one.
    """
    from backlogtrace.capture import open_capture
    from backlogtrace.replay import Options, analyze
    from backlogtrace.replay.host import load_host, served_ports
    from backlogtrace.report.jsonl import write_jsonl

    captures = sorted(str(path) for path in folder.iterdir() if path.name in CAPTURE_NAMES)
    if not captures:
        raise UsageError(f"{folder} holds no capture: capture.pcap or .pcapng, also .gz, .zst or .lz4")
    if len(captures) > 1:
        raise UsageError(f"{folder} holds several captures; a fixture has one")
    host_file = folder / "host.json"
    host = load_host(host_file) if host_file.exists() else None
    out = io.StringIO()
    with open_capture(captures, ports=served_ports(host)) as capture:
        analysis = analyze(capture, host, Options())
        write_jsonl(analysis, out)
    return out.getvalue(), analysis.header


def _compare_expected(result: Result, *, update: bool) -> None:
    text, header = _output(result.folder)
    path = result.folder / "expected.jsonl"
    if update:
        result.packets = result.packets or text.count('"type":"packet"')
        if header.problems:
            raise CaptureError(f"{header.problems[0]}; expected.jsonl was left as it is")
        if not path.exists() or path.read_bytes() != text.encode():
            from backlogtrace.cli.output import opened

            with opened(str(path), ()) as out:
                out.write(text)
            result.updated = True
        if result.layout == "expected":
            result.skipped = "expected.jsonl was written, not compared"
        return
    if not path.exists():
        raise UsageError(
            f"{path} is missing: look at what `analyze` says, then write it with `check --update`"
        )
    actual = [json.loads(line) for line in text.splitlines()]
    result.packets = result.packets or sum(row["type"] == "packet" for row in actual)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8; write it anew with --update") from None
    rows = [_parsed(line) for line in lines]
    _check_version(path, rows)
    result.start_ns = header.first_ns
    for number, expected, got in _aligned(rows, actual):
        if isinstance(expected, ValueError):
            result.add(broken_line(number, expected, got))
            continue
        difference = compare_rows(number, expected, got)
        if difference is not None:
            result.add(difference)


def _check_version(path: Path, rows: Sequence[object]) -> None:
    """Another version of the format says everything otherwise: its rows are not worth a comparison."""
    from backlogtrace.report.jsonl import SCHEMA_VERSION

    header = rows[0] if rows else None
    if not isinstance(header, dict) or header.get("type") != "header":
        return
    version = str(header.get("schema_version", SCHEMA_VERSION))
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path}: written with schema version {version}, this is {SCHEMA_VERSION}: "
            "run `backlogtrace check --update`"
        )


def _parsed(line: str) -> object:
    """What a line of expected.jsonl says; the ValueError where it is not JSON."""
    try:
        return json.loads(line)
    except ValueError as error:
        return error


def _aligned(
    expected: Sequence[object], actual: Sequence[dict[str, Any]]
) -> Iterator[tuple[int, object, dict[str, Any] | None]]:
    """Line numbers and rows of expected.jsonl (or ABSENT) beside those that mean the same packet or event.

    A row too many or too few is one difference, whatever follows it.
    """
    before, after = [_identity(row) for row in expected], [_identity(row) for row in actual]
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for _, first, end, its_first, its_end in matcher.get_opcodes():
        for offset in range(max(end - first, its_end - its_first)):
            mine, its = first + offset, its_first + offset
            row = expected[mine] if mine < end else ABSENT
            yield max(1, min(mine + 1, len(expected))), row, actual[its] if its < its_end else None


def _identity(row: object) -> tuple[str, ...]:
    if not isinstance(row, dict):
        return ()
    keys = ("type", "frame", "listener", "peer", "event", "what")
    return tuple(str(row.get(key)) for key in keys)


def _compare_truth(result: Result) -> None:
    from backlogtrace.replay.truth import compare_scenario

    comparison = compare_scenario(result.folder)
    result.packets = comparison.frames
    for one in comparison.differences:
        if one.explanation is not None:
            result.count += 1
            result.explained += 1
        else:
            result.add(wrong_fact(one.frame, one.field, one.expected, one.actual))
