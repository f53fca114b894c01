"""The model against a recording of a real kernel, packet by packet (DESIGN section 6).

Reads a scenario folder (capture.pcap, host.json, truth.jsonl) and lists every difference between
what the kernel did and what the replay says. Refuses to excuse anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from backlogtrace.errors import CaptureError
from backlogtrace.kernel.clock import LATE_NS
from backlogtrace.replay.analysis import Options, analyze
from backlogtrace.replay.host import load_host
from backlogtrace.replay.rows import EventRow, MismatchRow, OutRow, PacketRow

if TYPE_CHECKING:
    from backlogtrace.capture import Capture
    from backlogtrace.replay.host import Host

LISTEN_COUNTERS: Final = frozenset({
    "ListenOverflows", "ListenDrops", "SyncookiesSent", "SyncookiesRecv", "SyncookiesFailed",
    "TCPReqQFullDoCookies", "TCPReqQFullDrop", "EmbryonicRsts", "TCPDeferAcceptDrop",
    "TCPFastOpenPassive", "TCPFastOpenPassiveFail", "TCPFastOpenListenOverflow",
    "TCPFastOpenCookieReqd", "PAWSPassive", "PAWSEstab", "TCPACKSkippedSynRecv", "PassiveOpens",
    "AttemptFails", "TCPSynRetrans", "OutRsts",
})  # fmt: skip
"""Counters of the contract; the others belong to established connections."""
_TIMER_COUNTER: Final = "TCPSynRetrans"
"""Counted by timers too, which may fire between a packet and the reading of its counters: summed up."""
_PACKET_COUNTERS: Final = LISTEN_COUNTERS - {_TIMER_COUNTER}
_READ_LATER: Final = frozenset({"syn_queue", "counters"})
"""What a timer may change between a packet and the reading."""
_SYN_QUEUE_COUNTERS: Final = frozenset({"TCPReqQFullDoCookies", "TCPReqQFullDrop"})
_OWN_COUNTERS: Final = _PACKET_COUNTERS - {"OutRsts", "PAWSEstab", "AttemptFails"}
"""What a packet of an established connection never touches."""


@dataclass(slots=True)
class Difference:
    """One fact about one frame on which kernel and model disagree."""

    frame: int
    field: str
    expected: object
    """What the kernel did."""
    actual: object
    """What the model says."""
    explanation: str | None = None


@dataclass(slots=True)
class Comparison:
    """A scenario's result."""

    frames: int = 0
    """Frames judged: inbound packets and timer packets."""
    differences: list[Difference] = field(default_factory=list)


def compare_scenario(folder: str | Path) -> Comparison:
    """Replay the scenario in `folder` and compare it with its truth.jsonl.

    Raises CaptureError when a file is missing or damaged, UsageError for a bad host file.
    """
    from backlogtrace.capture import open_capture

    folder = Path(folder)
    truth = _load_truth(folder / "truth.jsonl")
    host = load_host(folder / "host.json")
    with open_capture([str(folder / "capture.pcap")], keep_all=True) as capture:
        return compare_capture(capture, host, truth)


def compare_capture(capture: Capture, host: Host, truth: list[dict[str, Any]]) -> Comparison:
    """Like compare_scenario, with the files opened already."""
    rows = {row["n"]: row for row in truth if "n" in row}
    late = _LateTimers(truth)
    result = Comparison()
    resent = 0
    unread: list[Difference] = []
    for row in analyze(capture, host, Options(all_packets=True)):
        if type(row) is EventRow and row.event == "expired":
            _read_later(unread, row)
            late.expired(row)
        elif type(row) is PacketRow:
            _maybe_read_later(unread, row)
            expected = rows.get(row.segment.frame)
            if expected is not None:
                result.frames += 1
                resent += row.outcome.counters.get(_TIMER_COUNTER, 0)
                _compare_in(row, expected, result)
                unread = [
                    d for d in result.differences if d.frame == row.segment.frame and d.field in _READ_LATER
                ]
                late.explain(unread, row)
        elif type(row) is OutRow:
            expected = rows.get(row.segment.frame)
            late.fired += row.reason == "timer"
            if expected is not None:
                result.frames += expected["cause"] == 0
                resent += row.counters.get(_TIMER_COUNTER, 0)
                _compare_out(row, expected, result)
        elif type(row) is MismatchRow and (row.frame is None or row.frame in rows):
            result.differences.append(Difference(row.frame or 0, row.what, None, row.detail))
    counted = sum(row.get("counters", {}).get(_TIMER_COUNTER, 0) for row in truth)
    _differ(result, max(rows, default=0), _TIMER_COUNTER, counted, resent)
    return result


class _LateTimers:
    """Timers that a busy machine ran later than their tick: its counter of timeouts tells when."""

    def __init__(self, truth: list[dict[str, Any]]) -> None:
        self.fired = 0
        """Timers that the model has fired so far, except those without any trace."""
        self._expired: list[EventRow] = []
        self._timeouts: dict[int, int] = {}
        """What the kernel had counted when it was read after a frame."""
        counted = 0
        for row in truth:
            counted += row.get("counters", {}).get("TCPTimeouts", 0)
            if "n" in row:
                self._timeouts[row["n"]] = counted

    def expired(self, event: EventRow) -> None:
        """A request expired in the model."""
        self.fired += 1
        self._expired.append(event)

    def explain(self, differences: list[Difference], row: PacketRow) -> None:
        """Requests that have just expired in the model, but whose timers the kernel had not run yet."""
        behind = self.fired - self._timeouts.get(row.segment.frame, self.fired)
        recent = [e for e in self._expired if row.segment.time_ns - e.time_ns <= LATE_NS]
        self._expired = recent
        for difference in differences:
            if difference.field != "syn_queue" or not isinstance(difference.expected, int):
                continue
            missing = difference.expected - row.syn_queue[1]
            if 0 < missing <= min(behind, len(recent)):
                peer, late = recent[-missing].peer, (row.segment.time_ns - recent[-missing].time_ns) / 1e6
                difference.explanation = f"the timer of {peer} was {late:.0f} ms late and had not run yet"


def _read_later(unread: list[Difference], event: EventRow) -> None:
    """The recorder reads the queues some time after the packet: a timer may have come between."""
    for difference in unread:
        expected, actual = difference.expected, difference.actual
        low, high = event.syn_queue
        if isinstance(expected, int):
            explained = low <= expected <= high
        else:
            counters: dict[str, int] = actual | event.counters  # type: ignore[operator]
            explained = bool(event.counters) and expected == counters
        if explained:
            difference.explanation = f"read after the expiry of {event.peer} before the next packet"


def _maybe_read_later(unread: list[Difference], after: PacketRow) -> None:
    """Likewise for requests that may have expired (their window is open) when the next packet comes."""
    lowest = after.syn_queue[0] - (after.outcome.decision == "queued")
    for difference in unread:
        if isinstance(difference.expected, int) and lowest <= difference.expected < difference.actual[0]:  # type: ignore[index]
            difference.explanation = f"read after an expiry before frame {after.segment.frame}"


def _compare_in(row: PacketRow, expected: dict[str, Any], result: Comparison) -> None:
    frame = row.segment.frame
    passed = row.outcome.decision == "passed"
    names = _OWN_COUNTERS if passed else _PACKET_COUNTERS
    kernel = {name: value for name, value in expected["counters"].items() if name in names}
    model = {name: value for name, value in row.outcome.counters.items() if name in names}
    if kernel != model:
        explanation = _queue_at_its_limit(row, kernel, model)
        result.differences.append(Difference(frame, "counters", kernel, model, explanation))
    shared = isinstance(expected["accept_queue"], list)
    for queue in ("accept_queue", "syn_queue"):
        low, high = getattr(row, queue)
        lengths = expected[queue] if shared and queue == "accept_queue" else [expected[queue]]
        if shared and queue == "syn_queue":
            high = max(high, expected[queue])  # the requests of all sockets were counted
        if not any(low <= length <= high for length in lengths):
            result.differences.append(Difference(frame, queue, expected[queue], [low, high]))


def _queue_at_its_limit(row: PacketRow, kernel: dict[str, int], model: dict[str, int]) -> str | None:
    """A timer was due, and only the counters show whether it came before the SYN."""
    low, high = row.syn_queue
    if row.certainty == "undecided" and {"queued", "cookie"} & {*row.rivals}:
        return "undecided: a timer was due, and the SYN-ACK may be a cookie or a request's"
    differing = {name for name in kernel.keys() | model.keys() if kernel.get(name) != model.get(name)}
    if row.outcome.decision != "dropped" or low == high or not differing <= _SYN_QUEUE_COUNTERS:
        return None
    return f"dropped with {low} or with {high} requests in the SYN queue: a timer was due"


def _compare_out(row: OutRow, expected: dict[str, Any], result: Comparison) -> None:
    if row.decision == "passed":
        return
    cause = expected["cause"]
    if cause == 0 and row.decision == "synack":
        _differ(result, row.segment.frame, "reason", "timer", row.reason)
        return
    answered = cause if isinstance(cause, int) and cause else None
    if row.decision == "synack" and row.cause is None:
        return  # a timer may have fired while the recorder watched what a packet does
    _differ(result, row.segment.frame, "cause", answered, row.cause)


def _differ(result: Comparison, frame: int, what: str, expected: object, actual: object) -> None:
    if expected != actual:
        result.differences.append(Difference(frame, what, expected, actual))


def _load_truth(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]
    except OSError as error:
        raise CaptureError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise CaptureError(f"{path}: not JSON Lines: {error}") from error
