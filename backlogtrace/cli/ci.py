"""Results of `check` as CI systems want them: JUnit XML and GitHub annotations.

Knows both formats and their escaping. Refuses to judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from backlogtrace.report.safe import safe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backlogtrace.cli.fixtures import Result

_MESSAGE_LIMIT = 1000
_GITHUB_LIMIT = 10
"""Annotations of one kind that GitHub shows for a step."""


def message(result: Result) -> str:
    """What is wrong with a failed fixture, in one line."""
    if result.error:
        return safe(result.error, _MESSAGE_LIMIT)
    first = result.differences[0]
    more = result.count - result.explained - 1
    text = f"{first.where}: expected {first.expected}, got {first.actual}"
    return safe(text, _MESSAGE_LIMIT) + (f" (and {more} more)" if more else "")


def junit(results: Sequence[Result]) -> str:
    """A JUnit XML document: one test case per fixture."""
    failures = sum(result.failed and not result.error for result in results)
    errors = sum(bool(result.error) for result in results)
    suite = ET.Element(
        "testsuite",
        name="backlogtrace check",
        tests=str(len(results)),
        failures=str(failures),
        errors=str(errors),
    )
    for result in results:
        case = ET.SubElement(
            suite, "testcase", classname=safe(str(result.folder.parent)), name=safe(result.folder.name)
        )
        if not result.failed:
            continue
        node = ET.SubElement(case, "error" if result.error else "failure", message=message(result))
        node.text = "\n".join(
            safe(f"{item.where}: expected {item.expected}, got {item.actual}", _MESSAGE_LIMIT)
            for item in result.differences
        )
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def github(results: Sequence[Result]) -> Iterator[str]:
    """`::error` lines for GitHub Actions; a last one counts what GitHub would not show."""
    failed = [result for result in results if result.failed]
    for result in failed[:_GITHUB_LIMIT]:
        name = "truth.jsonl" if result.layout == "truth" else "expected.jsonl"
        line = next((item.line for item in result.differences if item.line), None)
        place = f"file={_property(str(result.folder / name))}" + (f",line={line}" if line else "")
        yield f"::error {place},title={_property(result.folder.name)}::{_data(message(result))}\n"
    if len(failed) > _GITHUB_LIMIT:
        yield f"::error title=backlogtrace check::{len(failed)} of {len(results)} fixtures differ\n"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
