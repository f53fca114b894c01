"""What a situation looks like packet by packet, for one server or two side by side; and what fits its queues.

Reads plays and listeners. Refuses to play anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backlogtrace.report import words
from backlogtrace.report.kernels import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.replay.situations import Play, Step

_REPLIES = {"synack": "SYN-ACK", "rst": "RST", "ack": "ACK", None: "silent"}
_EVENTS = {
    "synack": "SYN-ACK again", "expired": "request given up", "accepted": "accept() takes it",
    "kept": "close(): request stays", "freed": "close(): request freed", "reset": "close(): reset",
    "moved": "close(): moved to the other socket",
}  # fmt: skip
_WHERE = {"packet": "client", "synack": "timer", "expired": "timer"}
_FLAGS = {"S": "SYN", "F": "FIN", "R": "RST", "A": "ACK", "P": "PSH", "E": "ECE", "C": "CWR"}
LEGEND = "(a, s): a connections in the accept queue, s requests in the SYN queue afterwards."
_ROWS = 24
_MS = 1_000_000
_U16 = 0xFFFF


def table(worlds: dict[str, Play], title: str = "") -> Table:
    """One column of steps for each world; what happens at the same time in several shares a row."""
    rows: dict[tuple[int, str, str], list[str]] = {}
    for column, play in enumerate(worlds.values()):
        for step in play.steps:
            key = (step.at_ns // _MS, _WHERE.get(step.what, "server"), _flags(step))
            rows.setdefault(key, [""] * len(worlds))[column] = cell(step)
    found = [
        (f"{at / 1000:.3f}", f"{who} {flags}".rstrip(), *cells)
        for (at, who, flags), cells in sorted(rows.items())
    ]
    if len(found) > _ROWS:
        found = [*found[:_ROWS], ("", f"and {len(found) - _ROWS} more", *[""] * len(worlds))]
    return Table(("s", "packet", *worlds), found, title=title)


def cell(step: Step) -> str:
    """`overflow, silent (6, 1)`: decision, reply, and both queues afterwards."""
    accept, syn = step.queues
    if step.outcome is None:
        text = _EVENTS[step.what]
    else:
        decision, reply = step.outcome.decision, step.outcome.reply
        text = "RST" if decision == reply else f"{decision}, {_REPLIES[reply]}"
        text += " with ECE" if step.ece else ""
    return f"{text} ({accept}, {syn})"


def _flags(step: Step) -> str:
    return " ".join(_FLAGS.get(letter, letter) for letter in step.flags)


def facts(play: Play) -> dict[str, Any]:
    """The play for programs; times in ns since the client's first packet."""
    return {
        "packets": [
            {
                "decision": one.decision, "reason": one.reason, "rule": one.rule, "function": one.function,
                "reply": one.reply, "counters": one.counters,
            }
            for one in play.outcomes
        ],
        "steps": [
            {
                "at_ns": step.at_ns, "what": step.what, "flags": step.flags,
                "decision": step.outcome.decision if step.outcome else None,
                "accept_queue": step.queues[0], "syn_queue": step.queues[1], "ece": step.ece,
            }
            for step in play.steps
        ],
        "accept_queue": play.queues[0],
        "syn_queue": play.queues[1],
        "synack_again_ns": play.synack_ns,
        "given_up_ns": play.gone_ns,
    }  # fmt: skip


def seconds(times_ns: Sequence[int]) -> str:
    """`1.0, 3.0, 7.0`."""
    return ", ".join(f"{when / 1e9:.1f}" for when in times_ns)


def story(play: Play, other: Play) -> str:
    """The play in one paragraph, from where it differs from another."""
    same = 0
    for mine, its in zip(play.outcomes[:-1], other.outcomes[:-1], strict=False):
        if mine is not its:
            break
        same += 1
    repeated: dict[str, int] = {}
    for one in play.outcomes[same:]:
        counted = f" [{words.added(one.counters)}]" if one.counters else ""
        line = f"{one.decision}: {words.sentence(one.decision, one.reason)}{counted}"
        repeated[line] = repeated.get(line, 0) + 1
    lines = [line + (f" ({times} times)" if times > 1 else "") for line, times in repeated.items()]
    accept, syn = play.queues
    lines.append(f"then {accept} in the accept queue, {syn} in the SYN queue")
    if play.ecn is not other.ecn:
        lines.append(f"the SYN-ACK {'accepts' if play.ecn else 'does not accept'} ECN")
    if fate := [_EVENTS[step.what] for step in play.steps if step.what in {"reset", "moved"}]:
        lines += fate
    if play.synack_ns:
        lines.append(f"SYN-ACK again after {seconds(play.synack_ns)} s")
    if play.gone_ns is not None:
        lines.append(f"given up after {seconds([play.gone_ns])} s")
    return "; ".join(lines)


def arithmetic(listener: ListenSocket, asked: int) -> dict[str, str]:
    """What fits in both queues, step by step (ListenSocket.listen()); `asked` was passed to listen()."""
    settings, profile, backlog = listener.settings, listener.profile, listener.backlog
    unlimited = profile.backlog_bits == 16 and backlog == _U16  # noqa: PLR2004 - u16
    narrow = f", {_U16} (16 bits)" if unlimited else ""
    steps = {
        "backlog": f"min({asked}, somaxconn {settings.somaxconn}{narrow}) = {backlog}",
        "accept queue": "never full: its length has 16 bits, too" if unlimited
        else f"full when longer than {backlog}: {listener.accept_capacity} fit",
    }  # fmt: skip
    most, limit = listener.syn_capacity, settings.tcp_max_syn_backlog
    if profile.syn_table:
        wanted = max(min(backlog, limit), 8)
        steps["SYN queue"] = (
            f"max(min({backlog}, tcp_max_syn_backlog {limit}), 8) = {wanted};"
            f" next power of two above it: {most} fit"
        )
        steps["fewer SYN-ACKs"] = f"from {most // 2} requests on (half of {most})"
    else:
        when = f"longer than {backlog}" if profile.syn_spare else f"{backlog} long"
        steps["SYN queue"] = f"full when {when}: {most} fit"
        first = max(8, backlog) // 2 + 1
        steps["fewer SYN-ACKs"] = f"from {first} requests on (2 * length > max(8, {backlog}))"
    if settings.tcp_syncookies:
        steps["SYN queue full"] = (
            f"SYN cookies (tcp_syncookies = {settings.tcp_syncookies}); tcp_max_syn_backlog drops nothing"
        )
        return steps
    first = limit - (limit >> 2) + 1
    steps["SYN queue full"] = "SYNs are dropped (tcp_syncookies = 0)"
    reserve = f"dropped from {first} requests on ({limit} - length < {limit} / 4)"
    steps["tcp_max_syn_backlog"] = reserve if first < most else f"{reserve}: the SYN queue is full before"
    return steps
