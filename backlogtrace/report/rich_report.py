"""The report for a person on call: head, verdict and figures per listener, timeline.

Knows the order of the page and its colours. Text from outside goes through safe() into Text objects:
rich never sees it as markup. Refuses to decide what happened (verdict) or what is shown (digest).
"""

from __future__ import annotations

import shutil
import tempfile
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, cast

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from backlogtrace.report import chart, words
from backlogtrace.report.clock import duration, seconds, utc
from backlogtrace.report.digest import digest
from backlogtrace.report.prom import nstat_name
from backlogtrace.report.safe import safe
from backlogtrace.report.timeline import COLOURS, WIDE, Layout, cells, lines
from backlogtrace.report.verdict import verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backlogtrace.replay.rows import Header, ListenerSummary, MismatchRow, Row
    from backlogtrace.report import Analysis
    from backlogtrace.report.digest import Digest

_CLIENTS_SHOWN = 10
_LISTENERS_SHOWN = 20
_BUFFER_ROWS = 5000
_LEVEL_STYLE = {"good": "bold green", "notice": "bold yellow", "bad": "bold red"}
_LEVEL_WORD = {"good": "OK", "notice": "NOTICE", "bad": "PROBLEM"}
_FATE_ORDER = {"never": 0, "reset": 0, "gave_up": 0, "open": 1, "connected": 2}
_LIMIT_SYSCTLS = (
    "net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog", "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_abort_on_overflow", "net.ipv4.tcp_synack_retries",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Look:
    """How the report is to look."""

    width: int = 80
    colour: bool = False
    ascii_only: bool = False
    every_row: bool = False
    """All rows in the timeline, not only those that matter."""
    limit: int = 40
    """Rows of the timeline, half of them from its beginning; not used with every_row."""


def write_rich(analysis: Analysis, out: TextIO, look: Look) -> None:
    """Consume `analysis` and print the report to `out`."""
    everything = _Everything(analysis, look) if look.every_row else None
    kept = digest(analysis, 0 if everything else look.limit, everything.add if everything else None)
    _Page(out, look).print(analysis.header, analysis.listeners, kept, everything)


class _Everything:
    """The timeline of all rows: lines wait in a spool file, since the head comes first."""

    def __init__(self, analysis: Analysis, look: Look) -> None:
        self._analysis, self._look = analysis, look
        self._rows: list[Row] = []
        self._start: int | None = None
        self._layout: Layout | None = None
        self._listeners: set[str] = set()
        self._spool = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - lives as long as the report
            8 << 20, "w+", encoding="utf-8", newline="\n", prefix="backlogtrace-"
        )

    def add(self, row: Row) -> None:
        """Take the next row."""
        self._rows.append(row)
        if len(self._rows) >= _BUFFER_ROWS:
            self._flush()

    def _flush(self) -> None:
        """Format what waits; the first rows decide the widths for all."""
        if not self._rows:
            return
        if self._start is None:
            self._start = _start(self._analysis.header, self._rows[0])
        self._listeners.update(row.listener for row in self._rows)
        long, several = self._look.width >= WIDE, len(self._listeners) > 1
        texts = [cells(row, self._start, long=long, listener=several) for row in self._rows]
        if self._layout is None:
            self._layout = Layout(texts, self._look.width, colour=self._look.colour)
            self._spool.write(self._layout.heading())
        self._spool.writelines(map(self._layout.line, texts))
        self._rows.clear()

    def copy_to(self, out: TextIO) -> None:
        """Write all lines to `out`."""
        self._flush()
        self._spool.seek(0)
        shutil.copyfileobj(self._spool, out, 1 << 20)
        self._spool.close()


def _start(header: Header, row: Row | None) -> int:
    if header.first_ns is not None or row is None:
        return header.first_ns or 0
    return cast("int", getattr(row, "time_ns", None) or cast("Any", row).segment.time_ns)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the caller decide: rich would end the program with exit code 1."""
        raise  # noqa: PLE0704 - rich calls this from its except clause


class _Page:
    """Prints the parts of the report in order."""

    def __init__(self, out: TextIO, look: Look) -> None:
        self._out, self._look = out, look
        self._console = _Console(
            file=out, width=look.width, markup=False, emoji=False, highlight=False, soft_wrap=False,
            force_terminal=look.colour, no_color=not look.colour, legacy_windows=False,
            color_system="standard" if look.colour else None,
        )  # fmt: skip
        self._box = box.ASCII if look.ascii_only else box.SIMPLE_HEAD

    def print(
        self, header: Header, listeners: list[ListenerSummary], kept: Digest, everything: _Everything | None
    ) -> None:
        chosen = kept.selection.chosen()
        start = _start(header, chosen[0][1] if chosen else None)
        self._head(header)
        shown = sorted(listeners, key=_trouble, reverse=True)[:_LISTENERS_SHOWN]
        for summary in shown:
            self._listener(summary, kept, start, alone=len(listeners) == 1)
        if len(listeners) > len(shown):
            self._line(
                f"{len(listeners) - len(shown)} more listeners, the quieter ones, are not shown.", "dim"
            )
        if not listeners:
            self._line("No listen socket found: no SYN, no SYN-ACK and no --listener.", "bold yellow")
        self._mismatches(kept, start, several=len(listeners) > 1)
        self._timeline(kept, chosen, start, several=len(listeners) > 1, everything=everything)

    # -- parts -------------------------------------------------------------------------------------

    def _head(self, header: Header) -> None:
        self._rule(f"backlogtrace: {safe(header.capture)}")
        rows = [
            ("read", f"{header.packets:,} packets, {header.handshake_packets:,} of them about handshakes")
        ]
        if header.skipped:
            parts = [f"{number:,} {safe(words.skipped(why))}" for why, number in header.skipped.items()]
            rows.append(("not analysed", ", ".join(parts)))
        if header.first_ns is not None and header.last_ns is not None:
            rows.append(("time", f"{utc(header.first_ns)}, {duration(header.last_ns - header.first_ns)}"))
        worked_out = " (settings worked out from the capture)" if header.mode == "infer" else ""
        rows.append(("kernel", f"{safe(header.kernel)}{worked_out}"))
        if header.assumed:
            rows.append(("assumed", ", ".join(map(safe, header.assumed))))
        reasons = f": {'; '.join(map(safe, header.quality_reasons))}" if header.quality_reasons else ""
        rows.append(("quality", f"{header.quality}{reasons}"))
        rows += [("note", safe(note)) for note in header.notes]
        rows += [("PROBLEM", safe(problem, 500)) for problem in header.problems]
        self._pairs(rows)

    def _listener(self, summary: ListenerSummary, kept: Digest, start: int, *, alone: bool) -> None:
        """One listener: its verdict, and the figures too unless it is one of several without trouble."""
        self._console.print()
        self._rule(f"listener {safe(summary.name)}")
        name = summary.name
        spans, undecided = kept.spans.get(name, {}), kept.undecided.get(name)
        found = verdict(summary, spans, start, undecided, thinned=kept.thinned)
        style = _LEVEL_STYLE[found.level]
        self._paragraph(f"{_LEVEL_WORD[found.level]}: {found.headline}", style)
        for paragraph in found.story:
            self._paragraph(paragraph)
        if found.advice:
            self._line("What to change:", "bold")
            for advice in found.advice:
                self._bullet(advice)
        if found.level == "good" and not alone:
            return
        self._charts(summary)
        self._limits(summary)
        self._decisions(summary)
        self._counters(summary)
        self._clients(summary, start)

    def _charts(self, summary: ListenerSummary) -> None:
        """Both queues over time against what fits."""
        if not summary.samples or summary.last_ns <= summary.first_ns:
            return
        width = min(self._look.width - 6, 120)
        edge = "|" if self._look.ascii_only else "▏"
        span = summary.last_ns - summary.first_ns
        for name, limit, peak, attribute in (
            ("accept queue", summary.accept_capacity, summary.peak_accept_queue, "accept_queue"),
            ("SYN queue", summary.syn_capacity, summary.peak_syn_queue, "syn_queue"),
        ):
            samples = [(sample.time_ns, getattr(sample, attribute)[1]) for sample in summary.samples]
            lengths = chart.columns(samples, summary.first_ns, summary.last_ns, width)
            full = " FULL" if peak[1] >= limit else ""
            top = max(lengths)
            self._console.print()
            self._line(f"{name}: peak {_range(peak)} of {limit:,}{full}", "bold")
            bar = chart.bar(lengths, limit, ascii_only=self._look.ascii_only)
            self._console.print(
                Text.assemble("  ", edge, (bar, "red" if full else "cyan"), "|" if edge == "|" else "▕")
            )
            self._line(f"   {chart.axis(span, width, lengths.index(top) if top else None)}", "dim")

    def _limits(self, summary: ListenerSummary) -> None:
        asked = "unknown" if summary.backlog is None else f"{summary.backlog:,}"
        source = f" ({safe(summary.backlog_source)})" if summary.backlog_source else ""
        self._title("Limits")
        rows = [
            ("kernel", safe(summary.kernel)),
            ("backlog asked", f"{asked}{source}"),
            ("backlog in effect", f"{summary.effective_backlog:,}"),
            ("fits in accept queue", f"{summary.accept_capacity:,}"),
            ("fits in SYN queue", f"{summary.syn_capacity:,}"),
        ]
        rows += [
            (name.rpartition(".")[2], str(summary.sysctl[name]))
            for name in _LIMIT_SYSCTLS
            if name in summary.sysctl
        ]
        self._pairs(rows)

    def _decisions(self, summary: ListenerSummary) -> None:
        if not summary.reasons:
            return
        self._title("Decisions")
        table = self._table("packets", "decision", "what happened")
        for (decision, reason), number in sorted(
            summary.reasons.items(), key=lambda item: (-item[1], item[0])
        ):
            table.add_row(
                Text(f"{number:,}"),
                Text(decision, _rich_style(decision)),
                Text(safe(words.sentence(decision, reason))),
            )
        if summary.expired:
            table.add_row(
                Text(f"{summary.expired:,}"), Text("expired"), Text(words.EVENT_SENTENCES["expired"])
            )
        self._rows(table)

    def _counters(self, summary: ListenerSummary) -> None:
        if not summary.counters:
            return
        self._title("Counters the kernel added (as `nstat` prints them)")
        self._pairs([(nstat_name(name), f"{number:,}") for name, number in sorted(summary.counters.items())])

    def _clients(self, summary: ListenerSummary, start: int) -> None:
        if not summary.impacts:
            return
        ranked = sorted(summary.impacts, key=lambda impact: (_FATE_ORDER[impact.fate], -impact.added_ns))
        self._title("Clients hit")
        table = self._table("client", "first seen", "fate", "cost", "why")
        for impact in ranked[:_CLIENTS_SHOWN]:
            why = ", ".join(f"{number} {decision}" for decision, number in impact.decisions.items())
            first = f"{(impact.first_ns - start) / 1e9:.3f} s"
            texts = (safe(impact.peer), first, words.FATES[impact.fate], duration(impact.added_ns), safe(why))
            table.add_row(*map(Text, texts))
        self._rows(table)
        hidden = len(ranked) - _CLIENTS_SHOWN + summary.impacts_hidden
        if hidden > 0:
            self._line(f"  ... and {words.count(hidden, 'more attempt')}", "dim")

    def _mismatches(self, kept: Digest, start: int, *, several: bool) -> None:
        if not kept.mismatch_count:
            return
        self._console.print()
        self._rule(f"MODEL AND CAPTURE DIFFER: {words.count(kept.mismatch_count, 'time')}")
        for row in kept.mismatches:
            self._bullet(_mismatch_text(row, start, several=several), "red")
        if kept.mismatch_count > len(kept.mismatches):
            self._line(f"  ... and {kept.mismatch_count - len(kept.mismatches):,} more", "red")

    def _timeline(
        self,
        kept: Digest,
        chosen: list[tuple[int, Row]],
        start: int,
        *,
        several: bool,
        everything: _Everything | None,
    ) -> None:
        self._console.print()
        seen = kept.selection.seen
        if everything:
            self._rule("timeline of all rows")
            everything.copy_to(self._out)
            return
        if not seen:
            return
        title = "timeline of the packets that matter"
        if len(chosen) < seen:
            title += f" ({len(chosen):,} of {seen:,}; --limit N, --all)"
        self._rule(title)
        self._out.writelines(
            lines(chosen, start, self._look.width, colour=self._look.colour, listener=several)
        )

    # -- pieces ------------------------------------------------------------------------------------

    def _rule(self, title: str) -> None:
        line = "=" if self._look.ascii_only else "━"
        text = f"{line * 2} {title} "
        self._console.print(Text(text + line * max(self._look.width - len(text), 0), "bold", overflow="fold"))

    def _title(self, title: str) -> None:
        self._console.print()
        self._line(title, "bold")

    def _line(self, text: str, style: str = "") -> None:
        """One short line as it is."""
        self._console.print(Text(text, style))

    def _paragraph(self, text: str, style: str = "") -> None:
        """Wrapped at blanks; nothing at the ends of lines that a diff would show."""
        self._line("\n".join(textwrap.wrap(text, self._look.width)), style)

    def _bullet(self, text: str, style: str = "") -> None:
        wrapped = textwrap.wrap(text, self._look.width, initial_indent=" - ", subsequent_indent="   ")
        self._line("\n".join(wrapped), style)

    def _pairs(self, rows: Sequence[tuple[str, str]]) -> None:
        """Names and values in two columns, long values wrapped."""
        indent = max(len(name) for name, _ in rows) + 4
        for name, value in rows:
            first, *more = textwrap.wrap(value, max(self._look.width - indent, 20)) or [""]
            self._console.print(Text.assemble("  ", (f"{name:{indent - 4}}", "dim"), "  ", first))
            for line in more:
                self._line(f"{'':{indent}}{line}")

    def _rows(self, table: Table) -> None:
        """Print a table without blanks at the ends of its lines."""
        with self._console.capture() as captured:
            self._console.print(table, width=self._look.width - 2)
        self._out.writelines(f"  {line.rstrip()}\n" for line in captured.get().splitlines())

    def _table(self, *headings: str) -> Table:
        table = Table(box=self._box, pad_edge=False, show_edge=False, header_style="dim")
        for heading in headings:
            table.add_column(
                Text(heading), justify="right" if heading in {"packets", "cost", "first seen"} else "left",
                overflow="fold", no_wrap=heading in {"packets", "decision", "first seen"},
            )  # fmt: skip
        return table


def _trouble(summary: ListenerSummary) -> tuple[int, int]:
    """Listeners with trouble first, then busy ones."""
    harm = sum(summary.decisions.get(name, 0) for name in ("dropped", "overflow", "rst")) + summary.mismatches
    return harm, sum(summary.decisions.values())


def _mismatch_text(row: MismatchRow, start: int, *, several: bool) -> str:
    where = "" if row.frame is None else f"frame {row.frame}, "
    listener = f"{safe(row.listener)}, " if several else ""
    when = f"{seconds(row.time_ns - start)} s"
    return f"{where}{when}, {listener}{safe(row.peer)}: {words.MISMATCHES[row.what]}: {safe(row.detail)}"


def _range(bounds: tuple[int, int]) -> str:
    low, high = bounds
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


_SGR_NAMES = {
    "1": "bold",
    "7": "reverse",
    "31": "red",
    "32": "green",
    "33": "yellow",
    "35": "magenta",
    "36": "cyan",
}


def _rich_style(decision: str) -> str:
    """The timeline's colour of a decision as rich names it."""
    return " ".join(_SGR_NAMES[code] for code in COLOURS.get(decision, "").split(";") if code)
