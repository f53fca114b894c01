"""The Python interface says what the command says, and the README's example prints what it claims."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import backlogtrace
from backlogtrace.cli.app import app
from backlogtrace.errors import CaptureError, UsageError

ROOT = Path(__file__).parents[1]
FIXTURE = ROOT / "fixtures" / "seed_documents-0001"
CAPTURE = next(FIXTURE.glob("capture.*"))


def test_the_example_of_the_readme_prints_what_it_says() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    found = re.search(r"## From Python\n\n```python\n(.*?)```\n\nprints\n\n```\n(.*?)```", readme, re.DOTALL)
    assert found is not None
    run = subprocess.run(
        [sys.executable, "-c", found[1]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout == found[2]


@pytest.mark.parametrize("every", [False, True])
def test_rows_header_and_listeners_are_the_json_lines(*, every: bool) -> None:
    arguments = ["analyze", "-T", "jsonl", *(["--all"] if every else []), "--host", FIXTURE / "host.json"]
    output = CliRunner().invoke(app, [*map(str, arguments), str(CAPTURE)]).output
    analysis = backlogtrace.analyze(CAPTURE, host=FIXTURE / "host.json", all_packets=every)
    assert [analysis.header, *analysis, *analysis.listeners] == [
        json.loads(line) for line in output.splitlines()
    ]


def test_arguments_are_the_options_of_the_command() -> None:
    analysis = backlogtrace.analyze(
        [CAPTURE], kernel="6.12", backlog=5, listeners=[":8080"], accept="never", sysctl={"tcp_syncookies": 1}
    )
    assert analysis.header["kernel"] == "6.12"
    assert analysis.listeners[0]["backlog"] == 5
    assert analysis.decisions["overflow"] == analysis.counters["ListenOverflows"]
    assert len(analysis) == len(list(analysis))


def test_a_capture_that_was_cut_is_analysed_up_to_there(tmp_path: Path) -> None:
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(CAPTURE.read_bytes()[:2000])
    analysis = backlogtrace.analyze(cut)
    assert analysis.rows
    assert "frame 27" in analysis.header["problems"][0]


def test_what_cannot_be_used_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="missing"):
        backlogtrace.analyze(tmp_path / "missing.pcap")
    with pytest.raises(UsageError, match="tcp_syncookies"):
        backlogtrace.analyze(CAPTURE, sysctl={"tcp_syncookie": 1})
    with pytest.raises(UsageError, match="takes a C int"):
        backlogtrace.analyze(CAPTURE, backlog=2**31)
    with pytest.raises(AttributeError, match="analyse"):
        backlogtrace.analyse  # noqa: B018


def test_importing_the_package_imports_no_part_of_it() -> None:
    code = (
        "import sys, backlogtrace; print([name for name in sys.modules if name.startswith('backlogtrace.')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
