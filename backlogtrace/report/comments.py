"""Decisions as packet comments for Wireshark, one line per packet, and the colours that go with them.

Comments are kept in few bytes per row until all is read: how much fits in a queue is known only then.
Refuses to know how a comment gets into a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from backlogtrace.replay.rows import EventRow, MismatchRow, OutRow, PacketRow
from backlogtrace.report.digest import digest
from backlogtrace.report.safe import safe
from backlogtrace.report.verdict import verdict
from backlogtrace.report.words import added, span

if TYPE_CHECKING:
    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.replay.rows import Header, ListenerSummary, Row, Span
    from backlogtrace.report import Analysis
    from backlogtrace.report.digest import Kind

PREFIX = "backlogtrace: "
"""Starts every comment; a display filter finds them by it and the decision."""
_BETWEEN = " · "
_NEXT = " | "
_LIMIT = 500

COLORS: tuple[tuple[str, str, tuple[int, int, int], tuple[int, int, int]], ...] = (
    ("model and capture differ", "mismatch", (0x5B, 0x21, 0x84), (0xFF, 0xFF, 0xFF)),
    ("reset by the server", "rst", (0xA4, 0x00, 0x00), (0xFF, 0xFC, 0x9C)),
    ("accept queue full: ACK ignored", "overflow", (0xD9, 0x3B, 0x2B), (0xFF, 0xFF, 0xFF)),
    ("SYN dropped", "dropped", (0xF2, 0x8E, 0x2B), (0x12, 0x27, 0x2E)),
    ("request removed", "aborted", (0xE8, 0xC9, 0xB5), (0x12, 0x27, 0x2E)),
    ("SYN cookie", "cookie", (0xFF, 0xF2, 0x9A), (0x12, 0x27, 0x2E)),
    ("TCP_DEFER_ACCEPT", "deferred", (0xDD, 0xD6, 0xF3), (0x12, 0x27, 0x2E)),
    ("SYN repeated", "retransmitted", (0xFB, 0xE3, 0xC8), (0x12, 0x27, 0x2E)),
    ("SYN-ACK repeated", "sent synack (timer)", (0xFB, 0xE3, 0xC8), (0x12, 0x27, 0x2E)),
    ("no effect", "ignored", (0xE6, 0xE6, 0xE6), (0x12, 0x27, 0x2E)),
    ("accept queue entered", "established", (0xCF, 0xEB, 0xC7), (0x12, 0x27, 0x2E)),
    ("Fast Open", "fastopen", (0xCF, 0xEB, 0xC7), (0x12, 0x27, 0x2E)),
    ("request made", "queued", (0xDA, 0xEE, 0xFF), (0x12, 0x27, 0x2E)),
)
"""(name, what follows PREFIX, background, text), worst first: Wireshark takes the first that fits."""


class _Decided(NamedTuple):
    """What one row says about a packet of a client, as in PacketRow."""

    listener: str
    outcome: Outcome
    accept_queue: tuple[int, int]
    syn_queue: tuple[int, int]
    certainty: str
    resolved_by: int | None
    rivals: tuple[str, ...]


class PacketComments:
    """The comments of a whole analysis."""

    def __init__(self, analysis: Analysis) -> None:
        """Consumes `analysis`."""
        self._parts: dict[int, _Decided | str | list[_Decided | str]] = {}
        self._words: dict[Outcome, tuple[str, str]] = {}
        """How the comment on a decision begins and ends."""
        self._judging: set[str] = set()
        """Listeners that have judged a packet."""
        self._moving: set[str] = set()
        """Those whose limits may have changed after that."""
        spans = digest(analysis, 0, self._add).spans
        self._fits = {
            summary.name: f"/{summary.accept_capacity}"
            for summary in analysis.listeners
            if summary.name not in self._moving and summary.sockets == 1
        }
        self.section = _section(analysis.header, analysis.listeners, spans)
        """The comment on the whole capture, several lines."""

    @property
    def frames(self) -> list[int]:
        """Numbers of the packets that have a comment, ascending."""
        return sorted(self._parts)

    def text(self, frame: int) -> str:
        """The comment of one packet."""
        parts = self._parts[frame]
        return _NEXT.join(map(self._text, parts)) if type(parts) is list else self._text(parts)  # type: ignore[arg-type]

    def _text(self, part: _Decided | str) -> str:
        if type(part) is not _Decided:
            return f"{PREFIX}{part}"
        listener, outcome, accept, syn, certainty, proof, rivals = part
        words = self._words.get(outcome)
        if words is None:
            words = self._words[outcome] = _words(outcome)
        start, end = words
        fits = self._fits.get(listener, "")
        proved = "" if proof is None else f" by frame {proof}"
        others = f" or {', '.join(rivals)}" if rivals else ""
        return f"{start}{span(accept)}{fits} syn {span(syn)}{_BETWEEN}{certainty}{proved}{others}{end}"

    def _add(self, row: Row) -> None:
        """Take the next row."""
        part: _Decided | str
        if type(row) is PacketRow:
            frame = row.segment.frame
            part = _Decided(
                row.listener, row.outcome, row.accept_queue, row.syn_queue,
                row.certainty, row.resolved_by, row.rivals,
            )  # fmt: skip
            self._judging.add(row.listener)
        elif type(row) is OutRow:
            frame, part = row.segment.frame, _sent(row)
        elif type(row) is EventRow:
            if row.event == "listen" and row.listener in self._judging:
                self._moving.add(row.listener)
            return
        else:
            assert type(row) is MismatchRow
            if row.frame is None:
                return
            frame, part = row.frame, f"mismatch ({row.what}) {safe(row.detail, _LIMIT)}"
        before = self._parts.get(frame)
        if before is None:
            self._parts[frame] = part
        elif type(before) is list:
            before.append(part)
        else:
            self._parts[frame] = [before, part]  # type: ignore[list-item]


def _words(outcome: Outcome) -> tuple[str, str]:
    """The comment on a decision up to the length of the accept queue, and from the counters on."""
    parts = [added(outcome.counters)] if outcome.counters else []
    parts.append(f"{outcome.rule}@{outcome.function}")
    start = f"{PREFIX}{outcome.decision} ({outcome.reason}) accept "
    return start, _BETWEEN.join(["", *parts])


def _sent(row: OutRow) -> str:
    parts = [f"sent {row.decision} ({row.reason})"]
    if row.attempt:
        parts.append(f"repetition {row.attempt}")
    if row.cause is not None:
        parts.append(f"answers frame {row.cause}")
    if row.counters:
        parts.append(added(row.counters))
    if not row.expected:
        parts.append("not expected")
    return _BETWEEN.join(parts)


def _section(header: Header, listeners: list[ListenerSummary], spans: dict[str, dict[Kind, Span]]) -> str:
    lines = [f"{PREFIX}kernel {safe(header.kernel)} · mode {header.mode} · quality {header.quality}"]
    lines += [f"quality: {safe(reason, _LIMIT)}" for reason in header.quality_reasons]
    if header.assumed:
        lines.append(f"assumed: {', '.join(map(safe, header.assumed))}")
    lines += [f"note: {safe(note, _LIMIT)}" for note in header.notes]
    for summary in listeners:
        lines += _listener(
            summary, verdict(summary, spans.get(summary.name, {}), header.first_ns or 0).headline
        )
    return "\n".join(lines)


def _listener(summary: ListenerSummary, headline: str) -> list[str]:
    asked = "unknown" if summary.backlog is None else summary.backlog
    decisions = " ".join(f"{name}={count}" for name, count in summary.decisions.items())
    settings = " ".join(f"{name.rpartition('.')[2]}={value}" for name, value in summary.sysctl.items())
    limits = f"accept {summary.accept_capacity} syn {summary.syn_capacity}"
    peaks = f"accept {span(summary.peak_accept_queue)} syn {span(summary.peak_syn_queue)}"
    return [
        f"listener {safe(summary.name)}: {headline}",
        f"  backlog {asked} ({safe(summary.backlog_source)}), fits: {limits}; peak: {peaks}",
        f"  decisions: {decisions or 'none'}; mismatches: {summary.mismatches}",
        f"  counters: {added(summary.counters) or 'none'}",
        f"  settings: {settings}",
    ]


def color_filters() -> str:
    """A colour-filter file for Wireshark (View, Coloring Rules, Import)."""
    lines = ["# backlogtrace: colours for the comments of `backlogtrace annotate`"]
    for name, start, background, text in COLORS:
        ground, ink = (f"[{','.join(str(part * 257) for part in color)}]" for color in (background, text))
        lines.append(f'@backlogtrace: {name}@frame.comment contains "{PREFIX}{start}"@{ground}{ink}')
    return "\n".join(lines) + "\n"
