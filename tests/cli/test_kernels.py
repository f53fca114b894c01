"""`kernels`: the list, one profile, the difference of two, in every format."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from backlogtrace.cli import main
from backlogtrace.cli.app import app
from backlogtrace.kernel.profile import BEHAVIOURS
from backlogtrace.kernel.profiles import PROFILES, find

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]


def output(*arguments: str, width: int = 80) -> str:
    result = CliRunner().invoke(app, ["kernels", *arguments], env={"COLUMNS": str(width)})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    "arguments",
    [(), ("5.10",), ("noble",), ("3.10",), ("--diff", "3.10", "7.2"), ("--diff", "rhel8", "rhel7")],
    ids=" ".join,
)
def test_the_page_fits_eighty_columns_and_breaks_no_word(arguments: tuple[str, ...]) -> None:
    lines = output(*arguments).splitlines()
    assert max(map(len, lines)) <= 80
    assert not any(line.strip(" │|") in {"t", "s", "64"} for line in lines)


def test_the_list_has_a_line_per_profile() -> None:
    first = [line.split()[0] for line in output().splitlines() if line.strip()]
    for profile in PROFILES:
        assert profile.name in first or f"{profile.name}*" in first


def test_text_is_one_line_per_row_with_tabs() -> None:
    rows = [line.split("\t") for line in output("-T", "text").splitlines() if not line.startswith("#")]
    assert len(rows) == len(PROFILES)
    el7 = next(row for row in rows if row[0] == "3.10-el7*")
    assert el7[1:] == ["1000", "2^n", "1 young", "3 s", "200 ms", "RHEL 7, 3.10.0-514.el7"]


def test_json_of_the_list_has_every_behaviour() -> None:
    data = json.loads(output("-T", "json"))
    assert data["schema_version"] == "1"
    assert data["default"] == "6.12"
    assert [entry["name"] for entry in data["profiles"]] == [profile.name for profile in PROFILES]
    assert all(set(entry["behaviours"]) == set(BEHAVIOURS) for entry in data["profiles"])


def test_json_of_one_has_its_changes_and_the_note() -> None:
    data = json.loads(output("ubuntu22.04", "-T", "json"))
    assert data["name"] == "5.15.179"
    assert data["notes"] == [find("ubuntu22.04")[1]]
    assert [change["commit"] for change in data["changes"][-2:]] == ["3479c7549fb1", "8d52da23b6c6"]
    assert data["changes"][-2]["subject"].startswith("tcp/dccp: allow a connection when")


def test_diff_names_behaviour_commit_and_back_ports() -> None:
    data = json.loads(output("--diff", "5.15.135", "5.15.0-135-generic", "-T", "json"))
    assert (data["before"], data["after"]) == ("5.15", "5.15.177")
    [entry] = data["differences"]
    assert (entry["behaviour"], entry["before"], entry["after"]) == ("syn_spare", 0, 1)
    assert entry["changed_in"] == "5.15.177"
    assert entry["changes"][0]["since"] == "v6.13"
    assert "v5.15.177" in entry["changes"][0]["backports"]
    row = output("--diff", "5.15.135", "5.15.0-135-generic", "-T", "text").splitlines()[-1].split("\t")
    assert row[3:5] == ["v6.13", "3479c7549fb1"]
    assert "v5.10.234" in row[5].split()
    assert row[6] == "measured"


def test_diff_backwards_says_which_kernel_has_the_change() -> None:
    row = output("--diff", "4.4", "4.7", "-T", "text").splitlines()[2].split("\t")
    assert row[:4] == [
        "SYN, accept queue full", "dropped", "taken while at most one request is young",
        "v4.10, only 4.4 has it",
    ]  # fmt: skip


def test_no_difference_is_no_error() -> None:
    assert output("--diff", "6.18", "6.18.44").startswith("6.18 (v6.18.44) -> 6.18 (v6.18.44): no difference")


def test_colour_only_when_asked(run: Run) -> None:
    assert "\x1b[" not in run("kernels", "6.12").stdout
    assert "\x1b[" in run("kernels", "6.12", "--color", "always").stdout


def test_output_file(tmp_path: Path) -> None:
    target = tmp_path / "kernels.json"
    assert output("-T", "json", "-o", str(target)) == ""
    assert len(json.loads(target.read_text())["profiles"]) == len(PROFILES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ubuntu22.4"], "did you mean ubuntu22.04?"),
        (["--diff", "5.10", "nonsense"], "'nonsense' is no kernel family"),
        (["--diff", "5.10"], "--diff"),
        (["--diff", "5.10", "5.15", "6.1"], "'6.1' is a third one"),
    ],
)
def test_usage_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["backlogtrace", "kernels", *arguments])
    assert main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
