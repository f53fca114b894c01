"""The report for people: digest, timeline lines, and the page as a whole."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import pytest

from backlogtrace.kernel import outcomes
from backlogtrace.replay.rows import EventRow, MismatchRow
from backlogtrace.report.digest import Selection, digest, matters
from backlogtrace.report.rich_report import Look, write_rich
from backlogtrace.report.timeline import COLOURS, Layout, cells

if TYPE_CHECKING:
    from collections.abc import Callable

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
LONG_PEER = "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff"


def printed(analysis: Any, **look: Any) -> str:
    out = io.StringIO()
    write_rich(analysis, out, Look(**look))
    return out.getvalue()


def timeline(text: str) -> list[str]:
    """The lines of the timeline, without its heading."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if "timeline of" in line)
    return lines[start + 2 :]


# ---- digest ---------------------------------------------------------------------------------------


def test_selection_keeps_both_ends_and_samples() -> None:
    selection = Selection(4)
    for number in range(100):
        selection.add(number, sample=number in {0, 1, 50})  # type: ignore[arg-type]
    chosen: list[Any] = list(selection.chosen())
    assert [row for _, row in chosen] == [0, 1, 50, 98, 99]
    assert [hidden for hidden, _ in chosen] == [0, 0, 48, 47, 0]
    assert selection.seen == 100


def test_selection_below_its_limit_hides_nothing() -> None:
    selection = Selection(10)
    for number in range(10):
        selection.add(number, sample=number < 2)  # type: ignore[arg-type]
    chosen: list[Any] = list(selection.chosen())
    assert chosen == [(0, number) for number in range(10)]


def test_selection_of_none() -> None:
    selection = Selection(0)
    selection.add(1, sample=True)  # type: ignore[arg-type]
    assert selection.chosen() == []


def test_routine_rows_do_not_matter(build: Any) -> None:
    assert [matters(row) for row in build.rows()] == [False, False, False, True, True, True, True, True]


def test_an_unexpected_reply_matters(build: Any) -> None:
    row = build.synack(2, 0, "reply", 0)
    row.expected = False
    assert matters(row)


def test_digest_merges_outcomes_that_share_a_reason(make: Callable[..., Any], build: Any) -> None:
    rows = [build.packet(1, 5, outcomes.DROP_ACCEPT_QUEUE), build.packet(2, 1, outcomes.DROP_BOTH_FULL)]
    span = digest(make(rows=rows), 10).spans[build.name][("dropped", "accept_queue_full")]
    assert (span.count, span.first_ns - build.start, span.last_ns - build.start) == (2, 1_000_000, 5_000_000)


def test_digest_samples_each_kind(make: Callable[..., Any], build: Any) -> None:
    rows = [
        build.packet(n, n, outcomes.RST_NO_REQUEST if n == 500 else outcomes.OVERFLOW) for n in range(1, 1001)
    ]
    shown = [rows.index(row) + 1 for _, row in digest(make(rows=rows), 4).selection.chosen()]
    assert shown == [1, 2, 500, 999, 1000]


def test_digest_counts_all_mismatches_and_keeps_some(make: Callable[..., Any], build: Any) -> None:
    rows = [MismatchRow(n, build.name, "p", "wrong_reply", "d") for n in range(50)]
    kept = digest(make(rows=rows), 4)
    assert kept.mismatch_count == 50
    assert len(kept.mismatches) == 10


# ---- timeline -------------------------------------------------------------------------------------


def test_a_line_is_never_wider_than_the_terminal(build: Any) -> None:
    rows = [
        *build.rows(),
        build.packet(123456789, 10**7, outcomes.COOKIE_OVERFLOW, (65535, 65535), peer=LONG_PEER),
    ]
    for width in (40, 60, 80, 100, 120, 200):
        texts = [cells(row, build.start, long=width >= 110, listener=True) for row in rows]
        layout = Layout(texts, width, colour=False)
        for text in texts:
            for line in layout.line(text).splitlines():
                assert len(line) <= max(width, 86)  # a peer is never cut: IPv6 needs its room


def test_ipv4_lines_fit_eighty_columns(build: Any) -> None:
    rows = [
        *build.rows(),
        build.packet(1234567, 3 * 10**6, outcomes.OVERFLOW, (4096, 4096), peer="100.100.100.100"),
    ]
    texts = [cells(row, build.start, long=False, listener=False) for row in rows]
    layout = Layout(texts, 80, colour=False)
    assert all(len(line) <= 80 for text in texts for line in layout.line(text).splitlines())


def test_a_long_peer_stays_whole_on_two_lines(build: Any) -> None:
    text = cells(
        build.packet(1, 0, outcomes.OVERFLOW, peer=LONG_PEER), build.start, long=False, listener=False
    )
    first, second = Layout([text], 80, colour=False).line(text).splitlines()
    assert f"[{LONG_PEER}]:4004" in first
    assert second.strip() == "overflow accept queue full"


def test_colour_only_adds_to_words(build: Any) -> None:
    texts = [cells(row, build.start, long=False, listener=False) for row in build.rows()]
    plain, coloured = (Layout(texts, 80, colour=colour) for colour in (False, True))
    for text in texts:
        assert ESCAPE.sub("", coloured.line(text)) == plain.line(text)
        assert ("\x1b[" in coloured.line(text)) == (text.decision in COLOURS)


def test_every_harmful_decision_has_a_colour() -> None:
    assert {"dropped", "overflow", "rst", "cookie", "MISMATCH"} <= set(COLOURS)


def test_uncertainty_and_rivals_are_shown(build: Any) -> None:
    row = build.packet(
        1, 0, outcomes.DROP_ACCEPT_QUEUE, certainty="likely", rivals=("firewall", "defer_accept")
    )
    assert cells(row, build.start, long=False, listener=False).why.endswith(
        "(likely: firewall, defer accept?)"
    )


# ---- the page -------------------------------------------------------------------------------------


def test_the_parts_of_the_page(analysis: Any) -> None:
    text = printed(analysis)
    for part in (
        "backlogtrace: x.pcap", "31 packets, 30 of them about handshakes",
        "2026-11-22 04:37:20.000000 UTC, 64 s",
        "accept=infer", "listener 10.9.0.1:80", "PROBLEM: Model and capture differ 1 time", "What to change:",
        "accept queue: peak 4 of 4 FULL", "SYN queue: peak 1 of 4", "fits in accept queue", "somaxconn",
        "tcp_abort_on_overflow", "TcpExtListenOverflows  2", "Clients hit", "never connected",
        "MODEL AND CAPTURE DIFFER: 1 time", "SYN-ACK seen", "timeline of the packets that matter",
    ):  # fmt: skip
        assert part in text


def test_eighty_columns_and_no_blanks_at_line_ends(analysis: Any) -> None:
    for line in printed(analysis, width=80).splitlines():
        assert len(line) <= 80
        assert line == line.rstrip()


@pytest.mark.parametrize("width", [60, 72, 100, 140, 240])
def test_other_widths(analysis: Any, width: int) -> None:
    assert max(map(len, printed(analysis, width=width).splitlines())) <= width


def test_no_colour_means_no_escape(analysis: Any) -> None:
    assert "\x1b" not in printed(analysis)


def test_colour_changes_nothing_but_colour(make: Callable[..., Any], build: Any) -> None:
    plain, coloured = (printed(make(rows=build.rows()), colour=colour) for colour in (False, True))
    assert "\x1b[1;31m" in coloured
    assert [line.rstrip() for line in ESCAPE.sub("", coloured).splitlines()] == plain.splitlines()


def test_ascii_only(analysis: Any) -> None:
    assert printed(analysis, ascii_only=True).isascii()


def test_the_timeline_leaves_out_routine(analysis: Any) -> None:
    lines = timeline(printed(analysis))
    assert [line.split()[0] for line in lines] == ["15", "16", "26", "63.000000", "31"]


def test_all_rows_on_demand(analysis: Any) -> None:
    lines = timeline(printed(analysis, every_row=True))
    assert len(lines) == len(analysis.rows)
    assert "queued" in lines[0]


def test_all_of_many_rows(make: Callable[..., Any], build: Any) -> None:
    rows = [build.packet(n, n, outcomes.QUEUED) for n in range(1, 12_001)]
    lines = timeline(printed(make(rows=rows), every_row=True))
    assert [int(line.split()[0]) for line in lines] == list(range(1, 12_001))


def test_hidden_rows_are_counted(make: Callable[..., Any], build: Any) -> None:
    rows = [build.packet(n, n, outcomes.OVERFLOW) for n in range(1, 1001)]
    text = printed(make(rows=rows), limit=10)
    assert "(10 of 1,000; --limit N, --all)" in text
    assert "... 990 rows not shown" in text
    assert len(timeline(text)) == 11


def test_limit_zero_shows_no_timeline_rows(make: Callable[..., Any], build: Any) -> None:
    text = printed(make(rows=build.rows()), limit=0)
    assert timeline(text) == []


def test_quiet_listeners_among_several_are_short(make: Callable[..., Any], build: Any) -> None:
    quiet = build.summary(name="10.9.0.1:81", decisions={"queued": 1}, reasons={("queued", "new_request"): 1})
    text = printed(make(listeners=[quiet, build.full_summary()]))
    assert text.index("listener 10.9.0.1:80") < text.index("listener 10.9.0.1:81")
    assert text.count("fits in accept queue") == 1


def test_many_listeners_are_bounded(make: Callable[..., Any], build: Any) -> None:
    text = printed(make(listeners=[build.summary(name=f"10.9.0.1:{n}") for n in range(100)]))
    assert text.count("━ listener ") == 20
    assert "80 more listeners" in text


def test_no_listener_at_all(make: Callable[..., Any]) -> None:
    assert "No listen socket found" in printed(make(listeners=[]))


@pytest.mark.parametrize(
    "text",
    [
        "[/x]",
        "[red]x",
        "\x1b[2J",
        "\x1b]52;c;x\x07",
        "\x9b2J",
        "\u202e",
        "\udcff",
        ":warning:",
        "a\nb",
        "x" * 999,
    ],
)
def test_foreign_text_never_acts(make: Callable[..., Any], build: Any, text: str) -> None:
    rows = [
        MismatchRow(build.start, text, text, "wrong_reply", text),
        EventRow(build.start, build.name, None, text, (0, 0), (0, 0), {}, text),
    ]
    head = {
        "capture": text, "kernel": text, "assumed": [text], "quality_reasons": [text], "notes": [text],
        "skipped": {text: 1}, "problems": [text],
    }  # fmt: skip
    summary = build.full_summary()
    summary.kernel_note = summary.backlog_source = text
    output = printed(make(rows=rows, head=head, listeners=[summary]))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\udcff]", output)
    if text in {"[/x]", "[red]x", ":warning:"}:
        assert text in output


@pytest.mark.parametrize("peer", ["fe80::1", "2001:db8:a:b:ab::1"])
def test_ipv6_endpoints_are_verbatim(make: Callable[..., Any], build: Any, peer: str) -> None:
    summary = build.full_summary()
    summary.impacts[0].peer = f"[{peer}]:443"
    summary.name = "[fd09::1]:443"
    text = printed(
        make(rows=[build.packet(1, 0, outcomes.OVERFLOW, peer=peer)], listeners=[summary]), width=100
    )
    assert f"[{peer}]:4004" in text
    assert f"[{peer}]:443" in text
    assert "listener [fd09::1]:443" in text
