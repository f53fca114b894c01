"""`check`: fixtures against their expectations, and what CI gets to see."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import click
import pytest
from click.testing import CliRunner

from backlogtrace.cli.app import app
from backlogtrace.cli.ci import github, junit, message
from backlogtrace.cli.differences import KINDS, Difference
from backlogtrace.cli.fixtures import Result, find
from backlogtrace.errors import UsageError
from tests.cli.conftest import ROOT, pcap

if TYPE_CHECKING:
    from click.testing import Result as Outcome


WAITING = '"queued","reason":"new_request"'


def check(*arguments: str | Path) -> Outcome:
    return CliRunner().invoke(app, ["check", "-j", "1", *map(str, arguments)], standalone_mode=False)


def check_raising(*arguments: str | Path) -> None:
    """Like check(), where what is raised is the point."""
    result = check(*arguments)
    assert result.exception is not None
    raise result.exception


@pytest.fixture
def fixture(folder: Path) -> Path:
    """A fixture with a true expectation."""
    place = folder / "fixtures" / "overflow"
    place.mkdir(parents=True)
    for name in ("capture.pcap", "host.json"):
        shutil.move(folder / name, place / name)
    assert check(place, "--update").return_value == 0
    return place


def test_the_fixtures_of_the_project_are_as_expected() -> None:
    result = check(ROOT / "fixtures")
    assert "none failed" in result.output, result.output
    assert result.return_value == 0


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


def test_the_first_difference_is_told_in_words(fixture: Path) -> None:
    expected = fixture / "expected.jsonl"
    expected.write_text(expected.read_text().replace('"dropped","reason":"accept_queue_full"', WAITING))
    output = check(fixture).output
    assert output[output.index("fixtures/overflow:\n") :].splitlines()[:-2] == [
        "fixtures/overflow:",
        "frame 7 at 0.020000 s, 10.9.0.2:4003 to 10.9.0.1:80, flags S",
        "expected  queued: SYN-ACK sent, request waits for the client's ACK",
        "got       dropped: accept queue full: SYN dropped, the client tries again",
        "",
        "field     expected     got",
        "decision  queued       dropped",
        "reason    new_request  accept_queue_full",
    ]


def test_a_few_fixtures_are_spelt_out_and_the_rest_counted(fixture: Path) -> None:
    expected = fixture / "expected.jsonl"
    expected.write_text(expected.read_text().replace('"decision":"dropped"', '"decision":"queued"'))
    for number in range(7):
        shutil.copytree(fixture, fixture.parent / f"copy-{number}")
    output = check(fixture.parent).output
    assert output.count("field     expected  got\n") == 5
    assert "... and 3 more fixtures not spelt out\n" in output
    assert "more fixtures\n" not in output


def test_a_line_that_is_no_row_is_named(fixture: Path) -> None:
    (fixture / "expected.jsonl").write_text("null\n")
    assert "line 1 of expected.jsonl is no row\n" in check(fixture).output


def test_an_expectation_of_another_schema_version_says_so_and_nothing_else(fixture: Path) -> None:
    expected = fixture / "expected.jsonl"
    expected.write_text(expected.read_text().replace('"schema_version":"1"', '"schema_version":"0"'))
    result = check(fixture)
    assert result.return_value == 1
    assert (
        f"{expected}: written with schema version 0, this is 1: run `backlogtrace check --update`"
        in result.output
    )
    assert "no such row" not in result.output
    assert check(fixture, "--update").return_value == 0
    assert check(fixture).return_value == 0


@pytest.mark.parametrize(
    ("old", "new", "kinds"),
    [
        ('"decision":"dropped"', '"decision":"queued"', {"decision"}),
        ('"rule":"listen.accept_queue_full"', '"rule":"x"', {"reason"}),
        ('"reply":"synack"', '"reply":null', {"reply"}),
        ('"attempt":0', '"attempt":1', {"reply"}),
        ('"counters":{"ListenOverflows":1,"ListenDrops":1},"acc', '"counters":{},"acc', {"counters"}),
        ('"syn_queue":[1,1]', '"syn_queue":[1,2]', {"queues"}),
        ('"time_ns":1795322240001', '"time_ns":1795322240002', {"timing"}),
        ('"certainty":"certain"', '"certainty":"likely"', {"certainty"}),
        ('"mismatches":0', '"mismatches":1', {"mismatch"}),
        ('"frame":1,', '"frame":999,', {"rows"}),
        ('"quality":"A"', '"quality":"B"', {"other"}),
        ('"flags":"S"', '"flags":"A"', {"other"}),
    ],
)
def test_every_difference_has_its_kind(fixture: Path, old: str, new: str, kinds: set[str]) -> None:
    expected = fixture / "expected.jsonl"
    assert old in expected.read_text()
    expected.write_text(expected.read_text().replace(old, new, 1))
    assert {kind for kind in KINDS if check(fixture, "--fail-on", kind).return_value} == kinds


def test_a_mismatch_that_is_new_is_a_row_and_a_mismatch(fixture: Path) -> None:
    expected = fixture / "expected.jsonl"
    row = {"type": "mismatch", "frame": 7, "what": "missing_reply", "detail": ""}
    expected.write_text(expected.read_text() + json.dumps(row) + "\n")
    failing = {kind for kind in KINDS if check(fixture, "--fail-on", kind).return_value}
    assert failing == {"rows", "mismatch"}


def test_a_line_that_is_not_json_is_a_difference_of_every_kind(fixture: Path) -> None:
    (fixture / "expected.jsonl").write_text("{\n")
    assert all(check(fixture, "--fail-on", kind).return_value == 1 for kind in KINDS)


def test_what_is_left_out_is_shown_but_fails_nothing(fixture: Path) -> None:
    expected = fixture / "expected.jsonl"
    expected.write_text(expected.read_text().replace('"certainty":"certain"', '"certainty":"likely"'))
    report = fixture / "report.xml"
    result = check(
        fixture, "--fail-on", "decision,reason", "--fail-on", "queues", "--github", "--junit", report
    )
    assert result.return_value == 0
    assert "certainty=likely" in result.output
    assert "(left out)" in result.output
    assert "none failed, 1 differ in what --fail-on leaves out\n" in result.output
    assert "::warning file=" in result.output
    assert "::error" not in result.output
    suite = ET.parse(report).getroot()[0]  # noqa: S314 - our own
    assert (suite.get("failures"), suite[0][0].tag) == ("0", "system-out")
    assert "certainty=likely" in str(suite[0][0].text)


def test_the_difference_that_fails_is_shown_before_an_earlier_one_that_does_not(fixture: Path) -> None:
    expected = fixture / "expected.jsonl"
    text = expected.read_text().replace('"certainty":"certain"', '"certainty":"likely"', 1)
    expected.write_text(text.replace('"decision":"dropped"', '"decision":"queued"'))
    assert "frame 1: certainty (+1 more)" in check(fixture).output
    output = check(fixture, "--fail-on", "decision").output
    assert "frame 7: decision (+1 more)" in output
    assert "... and 1 more difference\n" in output


def test_fail_on_never_and_any(fixture: Path) -> None:
    expected = fixture / "expected.jsonl"
    text = expected.read_text()
    expected.write_text(text.replace('"certainty":"certain"', '"certainty":"likely"'))
    assert check(fixture, "--fail-on", "never").return_value == 0
    assert check(fixture, "--fail-on", "decision,any").return_value == 1
    expected.unlink()
    assert check(fixture, "--fail-on", "never").return_value == 1, "nothing could be compared"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("decision,typo", f"--fail-on 'typo': use {', '.join(KINDS)}, any, never, separated by commas"),
        ("", "--fail-on ''"),
        ("never,rows", "--fail-on never leaves everything out: give it alone"),
    ],
)
def test_what_fail_on_does_not_know(fixture: Path, given: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(complaint)):
        check_raising(fixture, "--fail-on", given)


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


def test_jobs_do_not_change_what_is_said_of_differences(fixture: Path) -> None:
    lines = (fixture / "expected.jsonl").read_text().splitlines(keepends=True)
    wrong = [
        lines[1:],
        lines[:-1],
        ["{\n", *lines[1:]],
        ["null\n"],
        [line.replace("S", "A") for line in lines],
    ]
    for number, changed in enumerate(wrong):
        copy = shutil.copytree(fixture, fixture.parent / f"copy-{number}")
        (copy / "expected.jsonl").write_text("".join(changed))
    one, two = (
        CliRunner().invoke(app, ["check", "-j", jobs, str(fixture.parent)], standalone_mode=False)
        for jobs in "12"
    )
    assert one.return_value == two.return_value == 1
    assert "5 failed" in one.output
    assert one.output == two.output


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
    nasty = Result(Path("a,b:c%"), "expected")
    nasty.add(Difference("line 1", "<x> & \x1b]]>", 'a\nb "%"', 7))
    root = ET.fromstring(junit([nasty]))  # noqa: S314 - our own
    assert "\\x1b" in str(root[0][0][0].get("message"))
    (line,) = github([nasty])
    assert line.startswith(
        "::error file=a%2Cb%3Ac%25/expected.jsonl,line=7,title=a%2Cb%3Ac%25::line 1: expected <x>"
    )
    assert line.count("\n") == 1
    assert "%25" in line.rpartition("::")[2]


JUNIT: dict[str, tuple[set[str], set[str], tuple[str, ...]]] = {
    "testsuites": (set(), set(), ("testsuite",)),
    "testsuite": (
        {"name", "tests"},
        {"failures", "errors", "skipped", "time"},
        ("testcase",),
    ),
    "testcase": (
        {"classname", "name", "time"},
        set(),
        ("skipped", "error", "failure", "system-out"),
    ),
    "skipped": (set(), {"message"}, ()),
    "error": (set(), {"message", "type"}, ()),
    "failure": (set(), {"message", "type"}, ()),
    "system-out": (set(), set(), ()),
}
"""Element -> attributes it must have, may have, and its children: what all readers of JUnit XML take."""


def test_junit_is_what_its_readers_agree_on() -> None:
    differing, tolerated = Result(Path("f/differs"), "expected"), Result(Path("f/tolerated"), "expected")
    for result in (differing, tolerated):
        result.add(Difference("line 1: flags", "S", "A"))
    tolerated.fail_on = frozenset({"decision"})
    results = [
        Result(Path("f/well"), "expected", packets=1, seconds=1.25),
        Result(Path("f/empty"), "expected", skipped="no packet to compare", seconds=0.5),
        Result(Path("f/broken"), "expected", error="x: \x1b", seconds=0.25),
        differing,
        tolerated,
    ]
    root = ET.fromstring(junit(results))  # noqa: S314 - our own
    for element in root.iter():
        must, may, children = JUNIT[element.tag]
        assert must <= set(element.keys()) <= must | may
        assert {child.tag for child in element} <= set(children)
    suite = root[0]
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped", "time")}
    assert counts == {"tests": "5", "failures": "1", "errors": "1", "skipped": "1", "time": "2.000"}
    assert [(case.get("name"), case.get("time"), [child.tag for child in case]) for case in suite] == [
        ("well", "1.250", []),
        ("empty", "0.500", ["skipped"]),
        ("broken", "0.250", ["error"]),
        ("differs", "0.000", ["failure"]),
        ("tolerated", "0.000", ["system-out"]),
    ]


def test_junit_skips_what_was_not_compared(fixture: Path) -> None:
    report = fixture.parent / "report.xml"

    def skipped() -> list[str | None]:
        suite = ET.parse(report).getroot()[0]  # noqa: S314 - our own
        assert re.fullmatch(r"[0-9]+\.[0-9]{3}", suite.attrib["time"])
        return [node.get("message") for node in suite.iter("skipped")]

    check(fixture, "--junit", report)
    assert skipped() == []
    check(fixture, "--update", "--junit", report)
    assert skipped() == ["expected.jsonl was written, not compared"]
    (fixture / "capture.pcap").write_bytes(pcap([]))
    check(fixture, "--update")
    assert check(fixture, "--junit", report).return_value == 0
    assert skipped() == ["no packet to compare"]
    (fixture / "expected.jsonl").unlink()
    assert check(fixture, "--junit", report).return_value == 1
    assert skipped() == [], "a fixture without its expectation is an error"


def test_github_names_files_as_the_repository_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "repository" / "server"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)

    def named(folder: Path) -> str:
        (line,) = github([Result(folder, "expected", error="broken")])
        return line.removeprefix("::error file=").partition(",title=")[0]

    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    assert named(Path("fixtures/a")) == "fixtures/a/expected.jsonl"
    assert named(work / "fixtures" / "a") == "fixtures/a/expected.jsonl"
    assert named(Path("/elsewhere/a")) == "/elsewhere/a/expected.jsonl"
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / "repository"))
    assert named(Path("fixtures/a")) == "server/fixtures/a/expected.jsonl"
    assert named(Path("../b/../a")) == "a/expected.jsonl"
    assert named(tmp_path / "other") == f"{tmp_path}/other/expected.jsonl"


def test_github_escapes_what_ends_a_line_or_a_property() -> None:
    (line,) = github([Result(Path("/x/a\r\nb%,c:d\x1b\udcff"), "expected", error="no: a,b %0A\r\n::error::")])
    place, _, text = line.removeprefix("::error ").partition("::")
    assert place == (r"file=/x/a%0D%0Ab%25%2Cc%3Ad\x1b\xff/expected.jsonl,title=a%0D%0Ab%25%2Cc%3Ad\x1b\xff")
    assert text == "no: a,b %250A\\x0d\\x0a::error::\n"


def test_github_points_at_the_file_that_is_contradicted(fixture: Path) -> None:
    place = write_truth(fixture, TRUTH)
    expected = place / "expected.jsonl"
    sound = expected.read_text()
    expected.write_text(sound.replace('"decision":"dropped"', '"decision":"queued"'))
    assert f"::error file={expected},line=" in check(place, "--github").output
    expected.write_text(sound)
    (place / "truth.jsonl").write_text(json.dumps(TRUTH[0] | {"syn_queue": 5}) + "\n")
    assert f"::error file={place / 'truth.jsonl'},title=" in check(place, "--github").output


def test_the_readme_has_a_workflow_that_runs_and_all_kinds() -> None:
    text = (ROOT / "README.md").read_text("utf-8").partition("\n## check: ")[2].partition("\n## ")[0]
    (line,) = re.findall(r"- run: backlogtrace check (.+)", text)
    command = app.get_command(click.Context(app), "check")
    assert command is not None
    given = command.make_context("check", line.split()).params
    assert (given["paths"], given["github"], given["junit_file"]) == (("fixtures",), True, "report.xml")
    assert f"path: {given['junit_file']}\n" in text
    kinds = re.findall(r"^\| `([^|]+)` \|", text, re.MULTILINE)
    assert kinds == [*KINDS, "any`, `never"]


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
    assert "frame 7\n\nfield         kernel  model\naccept_queue  1       2\n" in result.output
    assert check(place.parent, "--fail-on", "queues").return_value == 1
    assert check(place.parent, "--fail-on", "decision,counters").return_value == 0


def test_explained_differences_are_no_failure() -> None:
    result = Result(Path("x"), "truth", count=2, explained=2)
    assert not result.failed
    result.add(Difference("frame 1: reply", "rst", "null"))
    assert result.failed
    assert message(result) == "frame 1: reply: expected rst, got null"
