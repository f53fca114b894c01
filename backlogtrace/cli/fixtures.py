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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from backlogtrace.errors import BacklogtraceError, CaptureError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Layout = Literal["expected", "truth"]
_DIFFERENCES_KEPT = 10
_SHORT = 300
_ABSENT = object()
"""Stands for a row that expected.jsonl does not have."""
_SUFFIXES = (".pcap", ".pcapng")
_COMPRESSIONS = ("", ".gz", ".zst", ".lz4")
CAPTURE_NAMES = frozenset(f"capture{suffix}{packed}" for suffix in _SUFFIXES for packed in _COMPRESSIONS)


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where a fixture is not as expected."""

    where: str
    """`line 12, frame 15: decision`."""
    expected: str
    actual: str
    line: int | None = None
    """Line of expected.jsonl."""


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
    """The first few that are failures."""
    error: str = ""
    """Why it could not be run."""
    unreadable: bool = False
    """Whether that was the capture's fault."""
    updated: bool = False

    @property
    def failed(self) -> bool:
        """Whether the fixture is not as it should be."""
        return bool(self.error) or self.count > self.explained


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
    try:
        if layout == "truth":
            _compare_truth(result)
        if layout == "expected" or (folder / "expected.jsonl").exists():
            _compare_expected(result, update=update)
    except CaptureError as error:
        result.error, result.unreadable = str(error), True
    except (BacklogtraceError, OSError) as error:
        result.error = str(error)
    return result


def output_of(folder: Path) -> tuple[str, list[str]]:
    """What `analyze -T jsonl` prints for the capture in `folder` with its host file and what went wrong.

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
        problems = list(capture.info.problems)
    return out.getvalue(), problems


def _compare_expected(result: Result, *, update: bool) -> None:
    text, problems = output_of(result.folder)
    path = result.folder / "expected.jsonl"
    if update:
        result.packets = result.packets or text.count('"type":"packet"')
        if problems:
            raise CaptureError(f"{problems[0]}; expected.jsonl was left as it is")
        if not path.exists() or path.read_bytes() != text.encode():
            from backlogtrace.cli.output import opened

            with opened(str(path), ()) as out:
                out.write(text)
            result.updated = True
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
    for number, expected, got in _aligned([_parsed(line) for line in lines], actual):
        difference = _compare_row(number, expected, got)
        if difference is not None:
            result.count += 1
            if len(result.differences) < _DIFFERENCES_KEPT:
                result.differences.append(difference)


def _parsed(line: str) -> object:
    """What a line of expected.jsonl says; the ValueError where it is not JSON."""
    try:
        return json.loads(line)
    except ValueError as error:
        return error


def _aligned(
    expected: Sequence[object], actual: Sequence[dict[str, Any]]
) -> Iterator[tuple[int, object, dict[str, Any] | None]]:
    """Line numbers and rows of expected.jsonl (or _ABSENT) beside those that mean the same packet or event.

    A row too many or too few is one difference, whatever follows it.
    """
    before, after = [_identity(row) for row in expected], [_identity(row) for row in actual]
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for _, first, end, its_first, its_end in matcher.get_opcodes():
        for offset in range(max(end - first, its_end - its_first)):
            mine, its = first + offset, its_first + offset
            row = expected[mine] if mine < end else _ABSENT
            yield max(1, min(mine + 1, len(expected))), row, actual[its] if its < its_end else None


def _identity(row: object) -> tuple[str, ...]:
    if not isinstance(row, dict):
        return ()
    keys = ("type", "frame", "listener", "peer", "event", "what")
    return tuple(str(row.get(key)) for key in keys)


def _compare_row(number: int, expected: object, actual: dict[str, Any] | None) -> Difference | None:
    where = f"line {number}"
    if expected is _ABSENT:
        return Difference(where, "no such row", _short(actual), number)
    if isinstance(expected, ValueError):
        return Difference(where, f"not JSON ({expected})", _short(actual), number)
    if expected == actual:
        return None
    if actual is None:
        return Difference(where, _short(expected), "no such row", number)
    if not isinstance(expected, dict) or expected.get("type") != actual["type"]:
        return Difference(where, _short(expected), _short(actual), number)
    keys = [key for key in expected | actual if expected.get(key) != actual.get(key)]
    # Rows that differ in nearly everything are different rows; their own words say more than a key does.
    frame = f", frame {actual['frame']}" if "frame" in actual else ""
    missing = object()
    sides = [
        " ".join(f"{key}={_short(row[key])}" for key in keys if row.get(key, missing) is not missing)
        for row in (expected, actual)
    ]
    return Difference(f"{where}{frame}: {', '.join(keys)}", sides[0], sides[1], number)


def _compare_truth(result: Result) -> None:
    from backlogtrace.replay.truth import compare_scenario

    comparison = compare_scenario(result.folder)
    result.packets = comparison.frames
    for difference in comparison.differences:
        result.count += 1
        if difference.explanation is not None:
            result.explained += 1
        elif len(result.differences) < _DIFFERENCES_KEPT:
            result.differences.append(
                Difference(
                    f"frame {difference.frame}: {difference.field}",
                    _short(difference.expected),
                    _short(difference.actual),
                )
            )


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."
