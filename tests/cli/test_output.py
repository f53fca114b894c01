"""Colour, width, progress: what depends on the terminal."""

from __future__ import annotations

import io
import sys
import types
from typing import TYPE_CHECKING

import pytest

from backlogtrace.cli import output
from backlogtrace.cli import progress as progress_module
from backlogtrace.cli.output import ascii_only, wants_colour, width
from backlogtrace.cli.progress import progress

if TYPE_CHECKING:
    from pathlib import Path


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    stream = Terminal()
    # pytest puts its own sys.stdout back between this fixture and the test.
    monkeypatch.setattr(output, "sys", types.SimpleNamespace(stdout=stream))
    return stream


def test_a_terminal_gets_colour_a_file_does_not(terminal: Terminal) -> None:
    assert wants_colour("auto", to_file=False)
    assert not wants_colour("auto", to_file=True)
    assert wants_colour("always", to_file=True)


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_environment_turns_colour_off(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert not wants_colour("auto", to_file=False)


def test_an_empty_no_color_means_nothing(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    assert wants_colour("auto", to_file=False)


@pytest.mark.parametrize(
    ("columns", "expected"), [("120", 120), ("1", 60), ("99999", 500), ("0", 80), ("x", 80), ("-5", 80)]
)
def test_width(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, columns: str, expected: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert width(to_file=True) == expected


def test_blocks_only_where_they_can_be_shown(terminal: Terminal) -> None:
    assert not ascii_only(to_file=False)
    terminal.encoding = "latin-1"
    assert ascii_only(to_file=False)
    assert not ascii_only(to_file=True)


def test_no_bar_unless_someone_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 100)
    monkeypatch.setattr(progress_module, "_WORTH_BYTES", 100)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress([str(path)]) as tell:
        assert tell is None


def test_a_bar_for_a_big_file_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "[red]x"
    path.write_bytes(b"x" * 100)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress([str(path)]) as tell:
        assert tell is None
    monkeypatch.setattr(progress_module, "_WORTH_BYTES", 100)
    with progress([str(path), str(tmp_path / "missing")]) as tell:
        assert tell is not None
        tell(50, None)
        tell(100, 100)
    assert "reading" in screen.getvalue()
