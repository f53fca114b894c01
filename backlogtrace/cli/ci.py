"""Results of `check` as CI systems want them: JUnit XML and GitHub annotations.

Knows both formats, their escaping and where GitHub looks for files. Refuses to judge.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from backlogtrace.report.safe import safe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from backlogtrace.cli.differences import Difference
    from backlogtrace.cli.fixtures import Result

_MESSAGE_LIMIT = 1000
_PATH_LIMIT = 5000
_GITHUB_LIMIT = 10
"""Annotations of one kind that GitHub shows for a step."""


def message(result: Result) -> str:
    """What is wrong with a fixture that differs or cannot be compared, in one line."""
    if result.error:
        return safe(result.error, _MESSAGE_LIMIT)
    return _told(result.first) + (f" (and {result.more} more)" if result.more else "")


def _told(difference: Difference) -> str:
    text = f"{difference.where}: expected {difference.expected}, got {difference.actual}"
    return safe(text, _MESSAGE_LIMIT)


def junit(results: Sequence[Result]) -> str:
    """A JUnit XML document: one test case per fixture, in the order that readers of the format agree on."""
    counts = {
        "tests": len(results),
        "failures": sum(result.failed and not result.error for result in results),
        "errors": sum(bool(result.error) for result in results),
        "skipped": sum(bool(result.skipped) for result in results),
    }
    totals = {name: str(number) for name, number in counts.items()}
    totals["time"] = f"{sum(result.seconds for result in results):.3f}"
    root = ET.Element("testsuites")
    suite = ET.SubElement(root, "testsuite", totals, name="backlogtrace check")
    for result in results:
        _case(suite, result)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(suite: ET.Element, result: Result) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=safe(str(result.folder.parent)) if result.folder.parent.name else "fixtures",
        name=safe(result.folder.name),
        time=f"{result.seconds:.3f}",
    )
    told = "\n".join(map(_told, result.differences))
    if result.failed:
        kind = "error" if result.error else "failure"
        words = (
            "not comparable" if result.error else ",".join(sorted(result.fail_on.intersection(result.firsts)))
        )
        ET.SubElement(case, kind, message=message(result), type=words).text = told
    elif result.skipped:
        ET.SubElement(case, "skipped", message=safe(result.skipped, _MESSAGE_LIMIT))
    elif result.differs:
        ET.SubElement(case, "system-out").text = f"left out by --fail-on:\n{told}"


def github(results: Sequence[Result]) -> Iterator[str]:
    """`::error` lines for GitHub Actions, `::warning` for what --fail-on leaves out.

    A last line of either kind counts what GitHub would not show.
    """
    failed = [result for result in results if result.failed]
    tolerated = [result for result in results if result.differs and not result.failed]
    for command, group in (("error", failed), ("warning", tolerated)):
        for result in group[:_GITHUB_LIMIT]:
            yield f"::{command} {_place(result)}::{_data(message(result))}\n"
        if len(group) > _GITHUB_LIMIT:
            yield f"::{command} title=backlogtrace check::{len(group)} of {len(results)} fixtures differ\n"


def _place(result: Result) -> str:
    """The file that is contradicted, and the line where there is one."""
    line = None if result.error or not result.differs else result.first.line
    of_kernel = result.layout == "truth" and line is None
    path = result.folder / ("truth.jsonl" if of_kernel else "expected.jsonl")
    return (
        f"file={_property(_in_repository(path))}"
        + (f",line={line}" if line else "")
        + f",title={_property(result.folder.name)}"
    )


def _in_repository(path: Path) -> str:
    """`path` as GitHub finds it: relative to the checkout, elsewhere to the working directory."""
    full = os.path.abspath(path)  # noqa: PTH100 - a link in the checkout stays the file it is there
    for base in (os.environ.get("GITHUB_WORKSPACE"), "."):
        root = os.path.realpath(base) if base else None
        if root is not None and os.path.commonpath([root, full]) == root:
            return os.path.relpath(full, root)
    return str(path)


def _data(text: str) -> str:
    """The text after `::`. What else could not be shown was made visible before."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return safe(_data(text).replace(":", "%3A").replace(",", "%2C"), _PATH_LIMIT)
