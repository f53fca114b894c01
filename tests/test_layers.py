"""Imports run one way: the tables below are the architecture, and every module is held to them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[1] / "backlogtrace"
BASE = {"segment", "errors", "collector"}
MAY_IMPORT = {
    "segment": set[str](),
    "errors": set[str](),
    "collector": set[str](),
    "kernel": {"segment"},
    "capture": BASE,
    "replay": BASE | {"kernel", "capture"},
    "lab": BASE,
    "report": BASE | {"kernel", "capture", "replay"},
    "cli": BASE | {"kernel", "capture", "replay", "report", "lab", "api"},
    "api": BASE | {"kernel", "capture", "replay", "report"},
    "__main__": {"cli"},
    "__init__": {"api"},
}
"""Parts of the package that a part may import, besides itself and the version."""
LIBRARIES = {
    "click": {"cli"},
    "rich": {"report", "cli"},
    "numpy": {"capture"},
    "scapy": {"capture"},
    "pyshark": {"capture"},
    "zstandard": {"capture"},
    "lz4": {"capture"},
}
"""Where each library may be imported; no others are used."""
OUTSIDE_WORLD = {
    "asyncio",
    "datetime",
    "io",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
}
"""Clocks, files, networks and chance: nothing for kernel/."""


def part_of(module: str) -> str:
    """The part a module belongs to: `kernel` for `backlogtrace.kernel.clock`."""
    return [*module.split("."), "__init__"][1]


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Absolute names of all that `tree` imports, wherever in the module; `package` holds the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            # `from backlogtrace import report` names a part only in its last word
            names = (name.name for name in node.names)
            yield from (f"{origin}.{name}" for name in names) if origin == "backlogtrace" else [origin]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (
                argument.value
                for argument in node.args
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What `source`, the text of `module`, imports against the tables."""
    part = part_of(module)
    package = module if is_package else module.rpartition(".")[0]
    found = []
    for name in imported(ast.parse(source), package):
        top = name.split(".")[0]
        if top == "backlogtrace":
            target = part_of(name)
            allowed = target in MAY_IMPORT[part] | {part, "__init__", "__version__"}
        elif top in sys.stdlib_module_names:
            allowed = part != "kernel" or top not in OUTSIDE_WORLD
        else:
            allowed = part in LIBRARIES.get(top, set())
        if not allowed:
            found.append(f"{module} imports {name}")
    return found


def modules() -> Iterator[tuple[Path, str]]:
    """Every module of the package: its file and dotted name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize(("path", "module"), [pytest.param(*pair, id=pair[1]) for pair in modules()])
def test_module_imports_only_what_its_layer_may(path: Path, module: str) -> None:
    assert violations(path.read_text("utf-8"), module, is_package=path.stem == "__init__") == []


def test_all_parts_are_found() -> None:
    found = {part_of(module) for _, module in modules()}
    assert found >= {"segment", "kernel", "capture", "replay", "report", "lab", "cli"}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("kernel/**/*.py")), ids=lambda path: path.stem)
def test_kernel_calls_nothing_that_reads_or_prints(path: Path) -> None:
    called = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert called & {"open", "print", "input", "exec", "eval"} == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("backlogtrace.segment", "import numpy"),
        ("backlogtrace.segment", "from backlogtrace.errors import UsageError"),
        ("backlogtrace.kernel.clock", "import time"),
        ("backlogtrace.kernel.clock", "from os.path import join"),
        ("backlogtrace.kernel.clock", "from backlogtrace.errors import UsageError"),
        ("backlogtrace.kernel.clock", "from backlogtrace import capture"),
        ("backlogtrace.kernel.clock", "from ..capture import open_capture"),
        ("backlogtrace.kernel.clock", "from .. import replay"),
        ("backlogtrace.capture.pcap", "import backlogtrace.kernel.listener"),
        ("backlogtrace.replay.host", "def f():\n    from backlogtrace.report import text"),
        ("backlogtrace.replay.rows", "if TYPE_CHECKING:\n    from backlogtrace.cli import main"),
        ("backlogtrace.replay.rows", "import rich.table"),
        ("backlogtrace.report.text", "from click import echo"),
        ("backlogtrace.report.text", "import numpy as np"),
        ("backlogtrace.lab.record", "from backlogtrace import capture"),
        ("backlogtrace.lab.record", "import numpy"),
        ("backlogtrace.replay.truth", "from backlogtrace.lab import record"),
        ("backlogtrace.cli.analyze", "import requests"),
        ("backlogtrace.report.text", "importlib.import_module('backlogtrace.cli')"),
    ],
)
def test_checker_finds_violation(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("backlogtrace.kernel.clock", "import hashlib\nfrom ..segment import SYN\nfrom . import outcome"),
        ("backlogtrace.capture.native", "import os\nimport numpy as np\nfrom backlogtrace import errors"),
        ("backlogtrace.cli.analyze", "import click\nfrom backlogtrace import __version__, report"),
    ],
)
def test_checker_accepts_what_is_allowed(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_checker_resolves_relative_imports_of_a_package() -> None:
    assert violations("from .rows import Row", "backlogtrace.replay", is_package=True) == []
    assert violations("from ..report import text", "backlogtrace.replay", is_package=True) == [
        "backlogtrace.replay imports backlogtrace.report",
    ]
