"""What the shell offers after TAB, asked the way that the shells ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.shell_completion import ShellComplete

from backlogtrace.cli.app import COMMANDS, app
from backlogtrace.kernel.profiles import find
from backlogtrace.report.explain import topics
from tests.cli.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

ASK = ShellComplete(app, {}, "backlogtrace", "_BACKLOGTRACE_COMPLETE")
FILE, FOLDER = [("file", "ca")], [("dir", "ca")]


def offered(*words: str) -> list[tuple[str, str]]:
    """Kind and value of every offer for the last of `words`."""
    return [(item.type, item.value) for item in ASK.get_completions(list(words[:-1]), words[-1])]


def plain(*words: str) -> list[str]:
    """The offered words; there are no others."""
    found = offered(*words)
    assert {kind for kind, _ in found} <= {"plain"}
    return [value for _, value in found]


def test_commands_and_the_beginning_of_one() -> None:
    assert plain("") == list(COMMANDS)
    assert plain("an") == ["analyze", "annotate"]


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_option_of_every_command(command: str) -> None:
    found = app.get_command(click.Context(app), command)
    assert found is not None
    options = {name for param in found.params for name in param.opts if name.startswith("--")}
    assert set(plain(command, "--")) == options | {"--help"}


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["analyze", "--vantage", "s"], ["server"]),
        (["analyze", "-T", ""], ["rich", "text", "jsonl", "csv", "prom"]),
        (["lab", "--family", "seed_c"], ["seed_cookies"]),
        (["schema", ""], ["jsonl", "host"]),
        (["analyze", "--kernel", "3.1"], ["3.10", "3.10-el7", "3.13"]),
        (["explain", "--kernel", "rh"], ["rhel7", "rhel8", "rhel9", "rhel10"]),
        (["kernels", "debian12"], ["debian12"]),
        (["kernels", "--diff", "5.10", "debian12"], ["debian12"]),
        (["explain", "tcp_syncoo"], ["tcp_syncookies"]),
        (["explain", "net.ipv4.tcp_syncoo"], ["net.ipv4.tcp_syncookies"]),
        (["explain", "syn_queue"], ["syn_queue_full", "syn_queue_reserved"]),
        (["analyze", "--fail-on", "o"], ["overflow"]),
        (["analyze", "--fail-on", "dropped,r"], ["dropped,rst"]),
        (["check", "--fail-on", "rows,r"], ["rows,reason", "rows,reply"]),
        (["check", "--fail-on", "ne"], ["never"]),
    ],
)  # fmt: skip
def test_values(words: list[str], values: list[str]) -> None:
    assert plain(*words) == values


@pytest.mark.parametrize(
    "words",
    [
        *([command, *more, "ca"] for command in ("analyze", "annotate", "infer")
          for more in ([], ["--host"], ["-o"], ["first.pcap"])),
        ["annotate", "--colors", "ca"],
        ["check", "--junit", "ca"],
        ["explain", "--host", "ca"],
        ["explain", "--frame", "7", "ca"],
        ["kernels", "-o", "ca"],
    ],
)  # fmt: skip
def test_files_are_left_to_the_shell(words: list[str]) -> None:
    assert offered(*words) == FILE


@pytest.mark.parametrize("words", [["check", "ca"], ["check", "fixtures", "ca"], ["lab", "--keep", "ca"]])
def test_folders_are_left_to_the_shell(words: list[str]) -> None:
    assert offered(*words) == FOLDER


def test_a_capture_where_no_topic_begins_like_it() -> None:
    assert offered("explain", "./ca") == [("file", "./ca")]


def test_what_is_offered_is_accepted() -> None:
    assert all(find(name)[0] for name in plain("kernels", ""))
    assert {word.rpartition(".")[2] for word in topics()} == set(plain("explain", ""))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(run: Run, shell: str) -> None:
    result = run(env={"_BACKLOGTRACE_COMPLETE": f"{shell}_source"})
    assert result.returncode == 0
    assert f"_BACKLOGTRACE_COMPLETE={shell}_complete" in result.stdout


@pytest.mark.parametrize(
    ("shell", "words", "at", "answer"),
    [
        ("bash", "backlogtrace kernels 3.10-", "2", "plain,3.10-el7\n"),
        ("bash", "backlogtrace check --fail-on rows,c", "3", "plain,rows,counters\nplain,rows,certainty\n"),
        ("zsh", "backlogtrace schema h", "2", "plain\nhost\n_\n"),
        ("fish", "backlogtrace infer --host h", "h", "file,h"),
    ],
)
def test_the_answer_to_a_shell(run: Run, shell: str, words: str, at: str, answer: str) -> None:
    result = run(env={"_BACKLOGTRACE_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": at})
    assert result.stdout.rstrip() == answer.rstrip()
    assert result.stderr == ""


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_itself(tmp_path: Path) -> None:
    program = tmp_path / "backlogtrace"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m backlogtrace "$@"\n')
    program.chmod(0o755)
    (tmp_path / "captured.pcap").touch()
    script = """
        eval "$(_BACKLOGTRACE_COMPLETE=bash_source backlogtrace)" && complete -p backlogtrace
        compopt() { printf 'compopt %s %s\\n' "$@"; }
        ask() {
            COMP_WORDS=(backlogtrace "$@"); COMP_CWORD=$#; COMPREPLY=()
            _backlogtrace_completion backlogtrace
            echo "$*: ${COMPREPLY[*]}"
        }
        ask sch
        ask analyze -T js
        ask analyze ca
    """
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    result = subprocess.run(
        ["bash", "--norc", "-c", script], check=False, capture_output=True, text=True, cwd=tmp_path,
        env=environment, timeout=120,
    )  # fmt: skip
    assert result.stdout.splitlines() == [
        "complete -o nosort -F _backlogtrace_completion backlogtrace",
        "sch: schema",
        "analyze -T js: jsonl",
        "compopt -o default",
        "analyze ca: ",
    ]
