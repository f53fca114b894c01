"""`check`: fixtures against their expectations, and what CI gets to see."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from backlogtrace.cli.app import app
from backlogtrace.cli.ci import github, junit, message
from backlogtrace.cli.fixtures import Difference, Result, find
from backlogtrace.errors import UsageError

if TYPE_CHECKING:
    from click.testing import Result as Outcome


def check(*arguments: str | Path) -> Outcome:
    return CliRunner().invoke(app, ["check", "-j", "1", *map(str, arguments)], standalone_mode=False)


@pytest.fixture
def fixture(folder: Path) -> Path:
    """A fixture with a true expectation."""
    place = folder / "fixtures" / "overflow"
    place.mkdir(parents=True)
    for name in ("capture.pcap", "host.json"):
        shutil.move(folder / name, place / name)
    assert check(place, "--update").return_value == 0
    return place


def test_update_writes_what_check_then_accepts(fixture: Path) -> None:
    assert json.loads((fixture / "expected.jsonl").read_text().splitlines()[0])["capture"] == "capture.pcap"
    result = check(fixture.parent)
    assert result.return_value == 0
    assert result.output == "1 fixtures, 6 packets compared: none failed\n" or "none failed" in result.output


def test_update_names_what_it_changed_and_only_that(fixture: Path) -> None:
    assert "updated" not in check(fixture, "--update").output
    (fixture / "expected.jsonl").write_text("")
    assert f"updated {fixture / 'expected.jsonl'}" in check(fixture, "--update").output


def test_a_missing_expectation_is_a_failure_that_says_what_to_do(fixture: Path) -> None:
    (fixture / "expected.jsonl").unlink()
    result = check(fixture)
    assert result.return_value == 1
    assert "check --update" in result.output


def test_an_expectation_whose_capture_is_gone_fails(fixture: Path) -> None:
    (fixture / "capture.pcap").unlink()
    result = check(fixture.parent)
    assert result.return_value == 1
    assert "holds no capture" in result.output


def test_an_expectation_that_is_not_text_fails_its_fixture_alone(fixture: Path) -> None:
    shutil.copytree(fixture, fixture.parent / "sound")
    (fixture / "expected.jsonl").write_bytes(b'{"type":"\xff"}\n')
    result = check(fixture.parent)
    assert result.return_value == 1
    assert "byte 9 is not UTF-8" in result.output
    assert "2 fixtures" in result.output
    assert "1 failed" in result.output
    assert check(fixture, "--update").return_value == 0
    assert check(fixture.parent).return_value == 0


def test_update_takes_no_expectation_from_a_capture_that_was_cut(fixture: Path) -> None:
    before = (fixture / "expected.jsonl").read_bytes()
    capture = fixture / "capture.pcap"
    capture.write_bytes(capture.read_bytes()[:-5])
    result = check(fixture, "--update")
    assert result.return_value == 3
    assert "left as it is" in result.output
    assert (fixture / "expected.jsonl").read_bytes() == before


@pytest.mark.parametrize("at", [0, 3, -1])
def test_one_row_too_few_is_one_difference(fixture: Path, at: int) -> None:
    expected = fixture / "expected.jsonl"
    lines = expected.read_text().splitlines(keepends=True)
    del lines[at]
    expected.write_text("".join(lines))
    output = check(fixture).output
    assert "no such row" in output
    assert "more)" not in output


def test_one_row_too_many_is_one_difference(fixture: Path) -> None:
    expected = fixture / "expected.jsonl"
    lines = expected.read_text().splitlines(keepends=True)
    row = json.loads(lines[3]) | {"frame": 9999}
    expected.write_text("".join([*lines[:3], json.dumps(row) + "\n", *lines[3:]]))
    output = check(fixture).output
    assert "line 4 " in output
    assert "no such row" in output
    assert "more)" not in output


def test_the_first_difference_is_shown_side_by_side(fixture: Path) -> None:
    expected = fixture / "expected.jsonl"
    expected.write_text(expected.read_text().replace('"dropped"', '"queued"'))
    result = check(fixture)
    assert result.return_value == 1
    assert "decision=queued" in result.output
    assert "decision=dropped" in result.output
    assert "frame 7: decision (+1 more)" in result.output
    assert "1 failed" in result.output


def test_formatting_of_the_expectation_does_not_matter(fixture: Path) -> None:
    expected = fixture / "expected.jsonl"
    rows = [json.loads(line) for line in expected.read_text().splitlines()]
    expected.write_text("\n".join(json.dumps(row, indent=None, sort_keys=True) for row in rows))
    assert check(fixture).return_value == 0


@pytest.mark.parametrize("change", ["short", "long", "broken"])
def test_missing_extra_and_broken_lines(fixture: Path, change: str) -> None:
    expected = fixture / "expected.jsonl"
    lines = expected.read_text().splitlines()
    changed = {"short": lines[:-1], "long": [*lines, lines[-1]], "broken": ["{", *lines[1:]]}[change]
    expected.write_text("\n".join(changed))
    result = check(fixture)
    assert result.return_value == 1
    assert ("not JSON" if change == "broken" else "no such row") in result.output


def test_an_unreadable_capture_is_3(fixture: Path) -> None:
    (fixture / "capture.pcap").write_bytes(b"no capture")
    assert check(fixture).return_value == 3


def test_a_broken_host_file_is_a_failure(fixture: Path) -> None:
    (fixture / "host.json").write_text("{")
    result = check(fixture)
    assert result.return_value == 1
    assert "host.json: not JSON" in result.output


def test_several_captures_in_a_fixture_are_refused(fixture: Path) -> None:
    shutil.copy(fixture / "capture.pcap", fixture / "capture.pcapng")
    assert "several captures" in check(fixture).output


def test_no_fixture_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no fixture under"):
        find([str(tmp_path)])


def test_jobs_do_not_change_the_result(fixture: Path) -> None:
    for number in range(5):
        shutil.copytree(fixture, fixture.parent / f"copy-{number}")
    one, two = (
        CliRunner().invoke(app, ["check", "-j", jobs, str(fixture.parent)], standalone_mode=False)
        for jobs in "12"
    )
    assert one.output == two.output
    assert one.return_value == two.return_value == 0


def test_junit_and_github(fixture: Path) -> None:
    expected = fixture / "expected.jsonl"
    expected.write_text(expected.read_text().replace('"dropped"', '"queued"'))
    report = fixture / "report.xml"
    result = check(fixture, "--junit", report, "--github")
    suite = ET.parse(report).getroot()[0]  # noqa: S314 - our own
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "1", "0")
    failure = suite[0][0]
    assert failure.tag == "failure"
    assert "expected decision=queued" in str(failure.get("message"))
    assert f"::error file={fixture}/expected.jsonl,line=" in result.output


def test_ci_formats_escape_what_they_must() -> None:
    nasty = Result(Path("a,b:c%"), "expected", count=1)
    nasty.differences = [Difference("line 1", "<x> & \x1b]]>", 'a\nb "%"', 7)]
    root = ET.fromstring(junit([nasty]))  # noqa: S314 - our own
    assert "\\x1b" in str(root[0][0][0].get("message"))
    (line,) = github([nasty])
    assert line.startswith(
        "::error file=a%2Cb%3Ac%25/expected.jsonl,line=7,title=a%2Cb%3Ac%25::line 1: expected <x>"
    )
    assert line.count("\n") == 1
    assert "%25" in line.rpartition("::")[2]


def test_github_shows_ten_and_counts_the_rest() -> None:
    results = [Result(Path(f"f{n}"), "expected", error="broken") for n in range(25)]
    lines = list(github(results))
    assert len(lines) == 11
    assert "25 of 25 fixtures differ" in lines[-1]


TRUTH = [
    {"n": 1, "dir": "in", "counters": {}, "accept_queue": 0, "syn_queue": 1, "sent": [2]},
    {"n": 2, "dir": "out", "cause": 1},
    {"n": 3, "dir": "in", "counters": {"PassiveOpens": 1}, "accept_queue": 1, "syn_queue": 0, "sent": []},
    {"n": 4, "dir": "in", "counters": {}, "accept_queue": 1, "syn_queue": 1, "sent": [5]},
    {"n": 5, "dir": "out", "cause": 4},
    {"n": 6, "dir": "in", "counters": {"PassiveOpens": 1}, "accept_queue": 2, "syn_queue": 0, "sent": []},
    {
        "n": 7, "dir": "in", "counters": {"ListenOverflows": 1, "ListenDrops": 1}, "accept_queue": 2,
        "syn_queue": 0,
        "sent": [],
    },
]  # fmt: skip
"""What a real kernel does with the overflowing capture."""


def write_truth(fixture: Path, rows: list[dict[str, Any]]) -> Path:
    """Make a ground-truth scenario of the fixture: KERNEL/FAMILY-NUMBER."""
    place = fixture.parent / "5.10" / "burst-0000"
    place.parent.mkdir()
    shutil.move(fixture, place)
    (place / "truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def test_ground_truth_that_agrees(fixture: Path) -> None:
    place = write_truth(fixture, TRUTH)
    result = check(place.parent)
    assert result.return_value == 0
    assert re.search(r"^5\.10 +1 +[0-9]+ +0 +0 +100\.000 %$", result.output, re.MULTILINE)
    assert re.search(r"^burst +1 ", result.output, re.MULTILINE)


def test_ground_truth_that_differs(fixture: Path) -> None:
    last = TRUTH[-1] | {"accept_queue": 1}
    place = write_truth(fixture, [*TRUTH[:-1], last])
    result = check(place.parent)
    assert result.return_value == 1
    assert "5.10/burst-0000" in result.output
    assert "frame 7: accept_queue" in result.output


def test_explained_differences_are_no_failure() -> None:
    result = Result(Path("x"), "truth", count=2, explained=2)
    assert not result.failed
    result.count = 3
    result.differences = [Difference("frame 1: reply", "rst", "null")]
    assert result.failed
    assert message(result) == "frame 1: reply: expected rst, got null"
