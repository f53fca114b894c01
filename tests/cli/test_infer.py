"""`backlogtrace infer` as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from backlogtrace.cli.app import app, run

FIXTURES = Path(__file__).parents[2] / "fixtures"
STALLED = str(FIXTURES / "seed_documents-0001" / "capture.pcap")


def output(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["infer", *arguments], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    return result.output


def test_page_names_backlog_rival_and_separating_frame_in_eighty_columns() -> None:
    text = output(STALLED)
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"backlog \(effective\) +5 +told", text)
    assert "runner-up" in text
    assert "speaks against" in " ".join(text.split())


def test_json_tells_what_is_told_and_what_is_open() -> None:
    (found,) = json.loads(output("-T", "json", STALLED))["listeners"]
    parameters = found["parameters"]
    assert parameters["backlog (effective)"] | {"reason": None} == {
        "value": 5, "told": True, "alternatives": [], "reason": None,
    }  # fmt: skip
    assert not parameters["kernel family"]["told"]
    assert "6.1" in parameters["kernel family"]["alternatives"]
    assert found["runner_up"]["separated_by"]["frame"]


def test_what_is_given_is_no_result() -> None:
    (found,) = json.loads(output("-T", "json", "--backlog", "5", "--kernel", "6.12", STALLED))["listeners"]
    assert "kernel family" not in found["parameters"]
    assert "backlog (effective)" not in found["parameters"]


@pytest.mark.parametrize(("content", "code"), [(b"", 3), (b"no capture at all, but text", 3)])
def test_bad_input_is_one_line_and_3(
    content: bytes, code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.pcap"
    path.write_bytes(content)
    assert run(["infer", str(path)]) == code
    assert len(capfd.readouterr().err.splitlines()) == 1
