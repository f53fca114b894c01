"""safe(), times, charts, words, schema: the small parts of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlogtrace.kernel import outcomes
from backlogtrace.kernel.outcome import Outcome
from backlogtrace.report import chart, words
from backlogtrace.report.clock import duration, seconds, utc
from backlogtrace.report.safe import csv_text, safe
from backlogtrace.report.schema import SCHEMAS

OUTCOMES = [value for value in vars(outcomes).values() if isinstance(value, Outcome)]


# ---- safe -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"), ("\x9b2J", "\\x9b2J"), ("a\nb", "a\\x0ab"), ("\u202eabc", "\\u202eabc"),
        ("\udcff.pcap", "\\xff.pcap"), ("\ud800", "\\ud800"), ("\x7f", "\\x7f"), ("é[/x]", "é[/x]"),
        ("[fe80::1]:443", "[fe80::1]:443"), ("\U000e0001", "\\U000e0001"),
    ],
)  # fmt: skip
def test_safe_shows_what_would_act(text: str, shown: str) -> None:
    assert safe(text) == shown


@given(st.text())
def test_safe_text_is_printable_and_bounded(text: str) -> None:
    result = safe(text, 20)
    assert result.isprintable()
    assert len(result) <= 20 * len("\\U00000000")
    result.encode()


def test_safe_cuts_long_text() -> None:
    assert safe("x" * 1000) == "x" * 197 + "..."


def test_csv_text_leaves_plain_text_alone() -> None:
    assert csv_text("10.0.0.1:80") == "10.0.0.1:80"
    assert csv_text("=cmd") == "'=cmd"


# ---- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "text"),
    [(0, "0.000000"), (1_234_567_899, "1.234567"), (-1_000, "-0.000001"), (63_000_000_000, "63.000000")],
)
def test_seconds(span: int, text: str) -> None:
    assert seconds(span) == text


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (850_000, "850 us"), (12_340_000, "12.3 ms"), (999_900_000, "1 s"), (4_021_000_000, "4.021 s"),
        (185 * 10**9, "3 min 5 s"), (7440 * 10**9, "2 h 4 min"), (200_000 * 10**9, "2 d 7 h"),
    ],
)  # fmt: skip
def test_duration(span: int, text: str) -> None:
    assert duration(span) == text


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (0, "1970-01-01 00:00:00.000000 UTC"),
        (1_795_322_240_057_741_000, "2026-11-22 04:37:20.057741 UTC"),
        (10**21, "1000000000000.000000 s after 1970"),
        (-5 * 10**9, "-5.000000 s after 1970"),
    ],
)
def test_utc_names_any_time(time: int, text: str) -> None:
    assert utc(time) == text


# ---- charts ---------------------------------------------------------------------------------------


def test_no_peak_is_lost_between_columns() -> None:
    samples = [(0, 0), (50, 9), (51, 0)]
    assert chart.columns(samples, 0, 1000, 10) == [9, 0, 0, 0, 0, 0, 0, 0, 0, 0]


def test_a_length_holds_until_the_next_sample() -> None:
    assert chart.columns([(0, 1), (500, 3)], 0, 1000, 4) == [1, 1, 3, 3]


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 50)), max_size=30), st.integers(1, 80))
def test_columns_show_the_highest_sample(samples: list[tuple[int, int]], width: int) -> None:
    samples.sort(key=lambda sample: sample[0])
    lengths = chart.columns(samples, 0, 1000, width)
    assert len(lengths) == width
    assert max(lengths) == max([length for _, length in samples], default=0)


def test_full_height_means_the_limit() -> None:
    assert chart.bar([0, 1, 3, 4, 4], 4, ascii_only=False) == " ▂▆██"
    assert chart.bar([0, 1, 4], 4, ascii_only=True) == " :#"


def test_anything_above_zero_is_visible_and_only_the_limit_is_full() -> None:
    shown = chart.bar([1, 4095, 4096], 4096, ascii_only=False)
    assert shown[0] == "▁"
    assert shown[1] == "▇"
    assert shown[2] == "█"


@pytest.mark.parametrize("column", [None, 0, 3, 10, 30, 55, 59])
def test_axis_has_the_width_and_its_ends(column: int | None) -> None:
    line = chart.axis(63_070_000_000, 60, column)
    assert len(line) == 60
    assert line.startswith("0 s")
    assert line.endswith("63.070 s")
    if column in {10, 30}:
        assert line.index("^") == column
        assert "^peak" in line


# ---- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: f"{outcome.decision}-{outcome.reason}")
def test_every_outcome_has_a_sentence(outcome: Outcome) -> None:
    assert (outcome.decision, outcome.reason) in words.SENTENCES


def test_sentences_fit_and_do_not_repeat_identifiers() -> None:
    for text in words.SENTENCES.values():
        assert len(text) <= 90
        assert "_full" not in text


def test_unknown_reasons_are_spelled_out() -> None:
    assert words.sentence("dropped", "brand_new_reason") == "brand new reason"
    assert words.skipped("unsupported_linktype_147") == "unsupported linktype 147"


def test_count_agrees_with_its_number() -> None:
    assert words.count(1, "SYN") == "1 SYN"
    assert words.count(12345, "SYN") == "12,345 SYNs"


# ---- schema ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_schemas_are_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["$schema"].endswith("2020-12/schema")


def host_errors(content: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMAS["host"]).iter_errors(content)]


def test_the_host_files_of_the_fixtures_are_valid() -> None:
    files = sorted((Path(__file__).parents[2] / "fixtures").glob("*/host.json"))
    assert files
    for path in files:
        assert host_errors(json.loads(path.read_text())) == []


@pytest.mark.parametrize(
    "content",
    [
        {"kernal": "5.10"},
        {"sysctl": {"tcp_syncookies": 3}},
        {"sysctl": {"tcp_sincookies": 1}},
        {"listeners": [{"address": "::"}]},
        {"events": [{"time_ns": 1, "op": "shut"}]},
        {"events": [{"time_ns": 1, "op": "listen"}]},
    ],
)
def test_the_host_schema_refuses_what_the_reader_refuses(content: Any) -> None:
    assert host_errors(content)


def test_schema_and_outcomes_agree_on_decisions() -> None:
    known = set(SCHEMAS["jsonl"]["$defs"]["packet_in"]["properties"]["decision"]["enum"])
    assert {outcome.decision for outcome in OUTCOMES} <= known
