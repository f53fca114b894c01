"""`schema` prints what report/schema.py holds."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from backlogtrace.cli.app import app
from backlogtrace.report.schema import SCHEMAS


@pytest.mark.parametrize("which", ["jsonl", "host"])
def test_one(which: str) -> None:
    assert json.loads(CliRunner().invoke(app, ["schema", which]).output) == SCHEMAS[which]


def test_both() -> None:
    assert json.loads(CliRunner().invoke(app, ["schema"]).output) == SCHEMAS
