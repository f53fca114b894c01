"""The manual page: the committed one is today's, complete, and shows what --help says."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import click
import pytest

from backlogtrace.cli.app import COMMANDS, app
from tests.cli.conftest import ROOT

if TYPE_CHECKING:
    from types import ModuleType

PAGE = ROOT / "man" / "backlogtrace.1"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("manpage", ROOT / "tools" / "manpage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


manpage = load()


def test_the_committed_page_is_what_make_man_writes() -> None:
    assert PAGE.read_text("utf-8") == manpage.page(), "run `make man` and commit man/backlogtrace.1"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_option_of_every_command_is_on_the_page(name: str) -> None:
    text = PAGE.read_text("utf-8")
    part = re.split(r"^\.S[SH] ", text[text.index(f".SS {name}\n") + 4 :], flags=re.MULTILINE)[0]
    command = app.get_command(click.Context(app), name)
    assert command is not None
    options = [option for param in command.params for option in param.opts if option.startswith("-")]
    assert all(manpage.roff(option) in part for option in [*options, "-h", "--help"])


def test_the_exit_codes_are_those_of_the_help() -> None:
    codes = str(app.epilog).partition("Exit codes:")[2]
    assert re.findall(r"(?:^ |, |,\n)([0-9]+) ", codes) == list(manpage.EXIT_CODES)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (".start of a line", r"\&.start of a line"),
        ("'it' is `--this`", r"\(aqit\(aq is \(ga\-\-this\(ga"),
        (r"a\b ~^", r"a\eb \(ti\(ha"),
        ("two\n  lines", "two lines"),
    ],
)
def test_no_text_is_taken_for_a_command(text: str, shown: str) -> None:
    assert manpage.roff(text) == shown


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_groff_has_nothing_to_say_about_it() -> None:
    result = subprocess.run(
        ["groff", "-man", "-Tutf8", "-P-cbou", "-wall", "-rLL=78n", str(PAGE)],
        check=False, capture_output=True, encoding="utf-8", timeout=60,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert 'eval "$(_BACKLOGTRACE_COMPLETE=bash_source backlogtrace)"' in " ".join(result.stdout.split())
