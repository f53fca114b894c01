"""JSON Lines, the contract with other programs (DESIGN section 3): keys, their order, one object a line.

Written by hand for speed: everything but numbers is a fragment made once and looked up afterwards.
Refuses to know anything that the rows do not say.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from typing import TYPE_CHECKING, Any, TextIO

from backlogtrace.replay.rows import EventRow, MismatchRow, OutRow, PacketRow
from backlogtrace.segment import endpoint_text, flag_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.replay.rows import Header, ListenerSummary, Row
    from backlogtrace.report import Analysis

SCHEMA_VERSION = "1"

_SPOOL_BYTES = 8 << 20
_CACHE_LIMIT = 1 << 12
"""Peers whose JSON text is remembered: few enough to stay in the cache of the processor."""
_BATCH = 2048
_FLAGS = tuple(flag_text(flags) for flags in range(256))


def write_jsonl(analysis: Analysis, out: TextIO) -> None:
    """Header, rows, summaries. The header is complete only at the end, so rows wait in a spool file."""
    with tempfile.SpooledTemporaryFile(
        _SPOOL_BYTES, "w+", encoding="utf-8", newline="\n", prefix="backlogtrace-"
    ) as spool:
        _write_rows(analysis, spool.write)
        out.write(header_line(analysis.header))
        spool.seek(0)
        shutil.copyfileobj(spool, out, 1 << 20)
    for summary in analysis.listeners:
        out.write(summary_line(summary))


def _write_rows(rows: Iterable[Row], write: Callable[[str], object]) -> None:
    line = RowLines()
    batch: list[str] = []
    for row in rows:
        batch.append(line(row))
        if len(batch) == _BATCH:
            write("".join(batch))
            batch.clear()
    write("".join(batch))


class RowLines:
    """Turns rows into lines; holds the fragments that repeat."""

    def __init__(self) -> None:
        self._quoted: dict[str, str] = {}
        self._peers: dict[bytes, str] = {}
        self._outcomes: dict[Outcome, str] = {}
        self._rivals: dict[tuple[str, ...], str] = {}

    def __call__(self, row: Row) -> str:
        """The JSON object of `row` with its newline."""
        if type(row) is PacketRow:
            return self._packet(row)
        if type(row) is OutRow:
            return self._out(row)
        if type(row) is EventRow:
            return self._event(row)
        assert type(row) is MismatchRow
        return _dump({
            "type": "mismatch", "frame": row.frame, "time_ns": row.time_ns, "listener": row.listener,
            "peer": row.peer, "what": row.what, "detail": row.detail,
        })  # fmt: skip

    def _packet(self, row: PacketRow) -> str:
        segment, outcome = row.segment, row.outcome
        accept_low, accept_high = row.accept_queue
        syn_low, syn_high = row.syn_queue
        peer = self._peers.get(segment.src) or self._new_peer(segment.src)
        listener = self._quoted.get(row.listener) or self._new_text(row.listener)
        decided = self._outcomes.get(outcome) or self._new_outcome(outcome)
        if row.certainty == "certain" and row.resolved_by is None and not row.rivals:
            end = '"certain","resolved_by":null,"rivals":[]}\n'
        else:
            resolved = "null" if row.resolved_by is None else row.resolved_by
            rivals = self._rivals.get(row.rivals) or self._new_rivals(row.rivals)
            end = f'"{row.certainty}","resolved_by":{resolved},"rivals":{rivals}}}\n'
        return (
            f'{{"type":"packet","frame":{segment.frame},"time_ns":{segment.time_ns},"listener":{listener},'
            f'"peer":{peer},"dir":"in","flags":"{_FLAGS[segment.flags & 0xFF]}",{decided}'
            f'"accept_queue":[{accept_low},{accept_high}],"syn_queue":[{syn_low},{syn_high}],"certainty":{end}'
        )

    def _out(self, row: OutRow) -> str:
        segment = row.segment
        peer = self._peers.get(segment.dst) or self._new_peer(segment.dst)
        listener = self._quoted.get(row.listener) or self._new_text(row.listener)
        reason = self._quoted.get(row.reason) or self._new_text(row.reason)
        return (
            f'{{"type":"packet","frame":{segment.frame},"time_ns":{segment.time_ns},"listener":{listener},'
            f'"peer":{peer},"dir":"out","flags":"{_FLAGS[segment.flags & 0xFF]}","decision":"{row.decision}",'
            f'"reason":{reason},"cause":{"null" if row.cause is None else row.cause},'
            f'"attempt":{"null" if row.attempt is None else row.attempt},'
            f'"expected":{"true" if row.expected else "false"}'
            f"{_counters_tail(row.counters)}}}\n"
        )

    def _event(self, row: EventRow) -> str:
        accept_low, accept_high = row.accept_queue
        syn_low, syn_high = row.syn_queue
        listener = self._quoted.get(row.listener) or self._new_text(row.listener)
        event = self._quoted.get(row.event) or self._new_text(row.event)
        detail = f',"detail":{_compact(row.detail)}' if row.detail else ""
        return (
            f'{{"type":"event","time_ns":{row.time_ns},"listener":{listener},'
            f'"peer":{"null" if row.peer is None else _compact(row.peer)},"event":{event},'
            f'"accept_queue":[{accept_low},{accept_high}],"syn_queue":[{syn_low},{syn_high}]'
            f"{_counters_tail(row.counters)}{detail}}}\n"
        )

    def _new_peer(self, end: bytes) -> str:
        if len(self._peers) >= _CACHE_LIMIT:
            self._peers.clear()
        text = self._peers[end] = f'"{endpoint_text(end)}"'
        return text

    def _new_text(self, text: str) -> str:
        quoted = self._quoted[text] = _compact(text)
        return quoted

    def _new_rivals(self, rivals: tuple[str, ...]) -> str:
        text = self._rivals[rivals] = _compact(rivals)
        return text

    def _new_outcome(self, outcome: Outcome) -> str:
        whole = _compact({
            "decision": outcome.decision, "reason": outcome.reason, "rule": outcome.rule,
            "function": outcome.function, "reply": outcome.reply, "counters": outcome.counters,
        })  # fmt: skip
        text = self._outcomes[outcome] = f"{whole[1:-1]},"
        return text


def header_line(header: Header) -> str:
    """The first line; lists that say why something is less than perfect only when they say something."""
    data: dict[str, Any] = {
        "type": "header", "schema_version": SCHEMA_VERSION, "capture": header.capture,
        "packets": header.packets, "handshake_packets": header.handshake_packets, "kernel": header.kernel,
        "mode": header.mode, "assumed": header.assumed, "quality": header.quality,
    }  # fmt: skip
    extras = {
        "quality_reasons": header.quality_reasons,
        "notes": header.notes,
        "skipped": header.skipped,
        "problems": header.problems,
    }
    return _dump(data | {key: value for key, value in extras.items() if value})


def summary_line(summary: ListenerSummary) -> str:
    """One listener's totals."""
    return _dump({
        "type": "summary", "listener": summary.name, "kernel": summary.kernel, "backlog": summary.backlog,
        "decisions": summary.decisions, "counters": summary.counters,
        "peak_accept_queue": summary.peak_accept_queue, "peak_syn_queue": summary.peak_syn_queue,
        "mismatches": summary.mismatches,
    })  # fmt: skip


def _counters_tail(counters: dict[str, int]) -> str:
    return f',"counters":{_compact(counters)}' if counters else ""


_compact = json.JSONEncoder(separators=(",", ":")).encode


def _dump(value: dict[str, Any]) -> str:
    return _compact(value) + "\n"
