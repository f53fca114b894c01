"""CSV, Prometheus and plain text."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

import pytest

from backlogtrace.kernel import outcomes
from backlogtrace.replay.rows import MismatchRow
from backlogtrace.report.csvrows import COLUMNS, write_csv
from backlogtrace.report.prom import metric_name, nstat_name, write_prom
from backlogtrace.report.text import write_text

if TYPE_CHECKING:
    from collections.abc import Callable

NASTY = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "a\nb", 'a"b', "\x1b[2J", "[/x]", "\u202e", "\ud800"]


def printed(write: Callable[..., None], analysis: Any) -> str:
    out = io.StringIO()
    write(analysis, out)
    return out.getvalue()


# ---- CSV ------------------------------------------------------------------------------------------


def test_csv_has_a_line_per_row_and_every_column(analysis: Any) -> None:
    table = list(csv.DictReader(io.StringIO(printed(write_csv, analysis))))
    assert len(table) == len(analysis.rows)
    assert all(set(row) == set(COLUMNS) and None not in row.values() for row in table)
    assert [row["type"] for row in table] == [*["packet"] * 6, "event", "mismatch"]


def test_csv_values_stand_under_their_names(analysis: Any) -> None:
    table = list(csv.DictReader(io.StringIO(printed(write_csv, analysis))))
    overflow, sent, event, mismatch = table[3], table[5], table[6], table[7]
    assert (overflow["decision"], overflow["resolved_by"], overflow["accept_queue_high"]) == (
        "overflow",
        "26",
        "4",
    )
    assert overflow["counters"] == "ListenOverflows=1 ListenDrops=1"
    assert (sent["dir"], sent["reason"], sent["attempt"], sent["expected"]) == ("out", "timer", "1", "true")
    assert (event["decision"], event["detail"], event["syn_queue_low"]) == ("expired", "gone", "0")
    assert (mismatch["decision"], mismatch["detail"]) == ("unexpected_reply", "SYN-ACK seen")
    assert table[4]["rivals"] == "firewall"


@pytest.mark.parametrize("text", NASTY)
def test_csv_cells_are_no_formulas_and_hold_no_control_characters(
    make: Callable[..., Any], build: Any, text: str
) -> None:
    row = MismatchRow(1, text, "10.0.0.1:5", "wrong_reply", text)
    output = printed(write_csv, make(rows=[row]))
    cells = next(csv.DictReader(io.StringIO(output)))
    for name in ("listener", "detail"):
        assert cells[name][:1] not in {"=", "+", "-", "@", "\t", "\r"}
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e\ud800]", output)


# ---- Prometheus -----------------------------------------------------------------------------------

SAMPLE = re.compile(r'([a-z_:][a-z0-9_:]*)(\{([a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)+\})? (-?[0-9]+)')


@pytest.mark.parametrize(
    ("counter", "nstat", "metric"),
    [
        ("ListenOverflows", "TcpExtListenOverflows", "backlogtrace_tcpext_listen_overflows_total"),
        (
            "TCPReqQFullDoCookies",
            "TcpExtTCPReqQFullDoCookies",
            "backlogtrace_tcpext_tcp_req_q_full_do_cookies_total",
        ),
        (
            "TCPACKSkippedSynRecv",
            "TcpExtTCPACKSkippedSynRecv",
            "backlogtrace_tcpext_tcp_ack_skipped_syn_recv_total",
        ),
        ("PAWSEstab", "TcpExtPAWSEstab", "backlogtrace_tcpext_paws_estab_total"),
        ("OutRsts", "TcpOutRsts", "backlogtrace_tcp_out_rsts_total"),
        ("PassiveOpens", "TcpPassiveOpens", "backlogtrace_tcp_passive_opens_total"),
    ],
)
def test_counter_names(counter: str, nstat: str, metric: str) -> None:
    assert nstat_name(counter) == nstat
    assert metric_name(counter) == metric


def test_prom_samples_follow_their_help_and_type(analysis: Any) -> None:
    family = kind = ""
    families = []
    for line in printed(write_prom, analysis).splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
            families.append(family)
        elif line.startswith("# TYPE "):
            assert line.split()[2] == family
            kind = line.split()[3]
            assert family.endswith("_total") == (kind == "counter")
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] == family
    assert len(families) == len(set(families))
    assert "backlogtrace_tcpext_listen_overflows_total" in families


def test_prom_values(analysis: Any) -> None:
    lines = printed(write_prom, analysis).splitlines()
    assert 'backlogtrace_tcpext_listen_overflows_total{listener="10.9.0.1:80"} 2' in lines
    assert (
        'backlogtrace_packets_total{listener="10.9.0.1:80",decision="overflow",reason="accept_queue_full"} 1'
        in lines
    )
    assert 'backlogtrace_accept_queue_peak{listener="10.9.0.1:80",bound="highest"} 4' in lines


@pytest.mark.parametrize("text", NASTY)
def test_prom_labels_are_escaped(make: Callable[..., Any], text: str) -> None:
    for line in printed(write_prom, make(head={"capture": text, "skipped": {text: 1}})).splitlines():
        assert line.startswith("# ") or SAMPLE.fullmatch(line), line


def test_prom_leaves_out_an_unknown_backlog(make: Callable[..., Any], build: Any) -> None:
    assert "backlogtrace_backlog{" not in printed(write_prom, make(listeners=[build.summary(backlog=None)]))


# ---- text -----------------------------------------------------------------------------------------


def test_text_has_a_line_per_row_then_comments(analysis: Any) -> None:
    lines = printed(write_text, analysis).splitlines()
    rows = [line for line in lines if not line.startswith("#")]
    assert len(rows) == len(analysis.rows)
    assert lines[: len(rows)] == rows
    assert rows[3] == (
        "frame=15 t=0.057000 10.9.0.2:4004 > 10.9.0.1:80 [A] OVERFLOW accept_queue_full"
        " accept_queue=4 syn_queue=1"
        " rule=request.accept_queue_full@tcp_check_req +ListenOverflows=1 +ListenDrops=1"
        " certain resolved_by=26"
    )
    assert rows[5].endswith("[SA] synack timer attempt=1 +TCPSynRetrans=1")
    assert "[fd09::2]:4004 >" in rows[4]
    assert "MISMATCH unexpected_reply: SYN-ACK seen" in rows[7]


def test_text_says_when_a_packet_was_not_expected(make: Callable[..., Any], build: Any) -> None:
    row = build.synack(3, 5)
    row.expected = False
    assert printed(write_text, make(rows=[row])).splitlines()[0].endswith("UNEXPECTED")


@pytest.mark.parametrize("text", NASTY)
def test_text_shows_control_characters_instead_of_obeying_them(make: Callable[..., Any], text: str) -> None:
    output = printed(
        write_text,
        make(rows=[MismatchRow(1, text, "p", "wrong_reply", text)], head={"capture": text, "notes": [text]}),
    )
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e\ud800]", output)


def test_queue_bounds_are_shown_as_a_range(make: Callable[..., Any], build: Any) -> None:
    row = build.packet(1, 0, outcomes.QUEUED)
    row.accept_queue = (2, 5)
    assert " accept_queue=2-5 " in printed(write_text, make(rows=[row]))
