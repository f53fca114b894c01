"""The entry point: help, version, errors, exit codes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import backlogtrace
from backlogtrace.cli import app as app_module
from backlogtrace.cli import main
from backlogtrace.cli.app import COMMANDS, app
from backlogtrace.errors import CaptureError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

HELP = Path(app_module.__file__).with_name("help.txt")


def test_the_help_file_is_what_click_renders() -> None:
    rendered = CliRunner().invoke(app, ["--help"], prog_name="backlogtrace").output
    assert HELP.read_text() == rendered


def test_help_lists_exactly_the_commands_there_are() -> None:
    text = HELP.read_text()
    listed = [line.split()[0] for line in text.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()]
    assert listed == list(COMMANDS)
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_imports_nothing_heavy(run: Run, arguments: list[str]) -> None:
    result = run(*arguments, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert result.returncode == 0
    assert result.stdout == HELP.read_text()
    for module in ("click", "rich", "numpy", "pathlib", "backlogtrace.report"):
        assert f"| {module}\n" not in result.stderr.replace("|   ", "| ")
        assert f" {module}\n" not in result.stderr


def test_no_arguments_is_a_usage_error_with_the_help(run: Run) -> None:
    result = run()
    assert (result.returncode, result.stdout, result.stderr) == (2, "", HELP.read_text())


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help_in_eighty_columns(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: backlogtrace {command}")
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_version(run: Run) -> None:
    assert run("--version").stdout.split()[-1] == backlogtrace.__version__


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["analyse"], "No such command 'analyse'"),
        (["analyze"], "Missing argument 'CAPTURE...'"),
        (["analyze", "--nonsense", "x"], "--nonsense"),
        (["analyze", "-T", "xml", "x"], "'xml' is not one of"),
        (["analyze", "--sysctl", "tcp_sincookies=1", "x"], "did you mean tcp_syncookies?"),
        (["analyze", "--sysctl", "tcp_syncookies=7", "x"], "takes 0 to 2"),
        (["analyze", "--listener", "web:80", "x"], "--listener 'web:80'"),
        (["analyze", "--accept", "rate=0/s", "x"], "--accept 'rate=0/s'"),
        (["analyze", "--backlog", "9999999999", "x"], "--backlog 9999999999"),
        (["analyze", "--fail-on", "dropped,typo", "x"], "--fail-on 'typo'"),
        (["analyze", "--host", "/nonexistent/host.json", "x"], "host file /nonexistent/host.json"),
        (["schema", "xml"], "'xml' is not one of"),
        (["check", "/nonexistent"], "is not a folder"),
    ],
)
def test_usage_errors_are_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["backlogtrace", *arguments])
    assert main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("backlogtrace: error: ")
    assert words in err
    assert err.count("\n") == 1


def test_an_error_cannot_write_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert app_module.fail("bad \x1b[2J\u202e\nfile", 3) == 3
    assert capsys.readouterr().err == "backlogtrace: error: bad \\x1b[2J\\u202e file\n"


def test_shell_completion(run: Run) -> None:
    script = run(env={"_BACKLOGTRACE_COMPLETE": "bash_source"}).stdout
    assert "_BACKLOGTRACE_COMPLETE=bash_complete" in script
    asked = {"_BACKLOGTRACE_COMPLETE": "bash_complete", "COMP_WORDS": "backlogtrace ana", "COMP_CWORD": "1"}
    assert run(env=asked).stdout == "plain,analyze\n"


def test_interrupted_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "make_context", interrupt)
    assert app_module.run(["analyze", "x"]) == 130
    assert capsys.readouterr() == ("", "")


def test_errors_carry_their_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise CaptureError("x.pcap: not a capture")

    monkeypatch.setattr(app, "make_context", refuse)
    assert app_module.run([]) == 3
    assert capsys.readouterr().err == "backlogtrace: error: x.pcap: not a capture\n"
