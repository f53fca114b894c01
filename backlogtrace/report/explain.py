"""Pages of `explain`: two servers side by side, and what decides, counts or is meant by a word.

Every difference shown is computed by playing situations on the model. Refuses to run a capture.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from backlogtrace.errors import UsageError
from backlogtrace.kernel import outcomes
from backlogtrace.kernel.families import PROFILES
from backlogtrace.kernel.outcome import Outcome
from backlogtrace.kernel.settings import make_settings
from backlogtrace.kernel.sysctl import SYSCTLS, full_name
from backlogtrace.replay.situations import SITUATIONS, Scene, play
from backlogtrace.report import words
from backlogtrace.report.kernels import Page, Table
from backlogtrace.report.sysctl_words import LESSONS

if TYPE_CHECKING:
    from backlogtrace.kernel.profile import Profile
    from backlogtrace.replay.situations import Play

_OUTCOMES = [value for value in vars(outcomes).values() if isinstance(value, Outcome)]

_PRUNED = (
    "Each time is the earliest: this kernel looks every 200 ms at some of its requests, so up to 0.6 s later."
)


def effect(profile: Profile, sysctl: dict[str, int], backlog: int, note: str = "") -> Page:
    """What the given settings change, against the kernel's defaults, with the backlog given."""
    defaults = make_settings(profile.defaults, {}).as_dict()
    rows, entries = [], []
    for name in SITUATIONS:
        before, after = (play(name, profile, values, backlog) for values in ({}, sysctl))
        if before is None or after is None:
            rows.append((name, "not played: a queue never fills, or is too long", ""))
            continue
        if before != after:
            rows.append((name, _story(before), _story(after)))
        entries.append(
            {"situation": name, "default": _facts(before), "given": _facts(after), "differs": before != after}
        )
    changes = [
        f"{name}: {defaults[name]} -> {value} ({SYSCTLS[name].meaning})"
        if name in defaults
        else f"{name} is not part of the model: what {value} changes is not shown"
        for name, value in sysctl.items()
    ]
    unchanged = [str(entry["situation"]) for entry in entries if not entry["differs"]]
    changed = len(entries) - len(unchanged)
    limits = [_limits(profile, values, backlog) for values in ({}, sysctl)]
    rows.insert(0, ("limits", limits[0], "the same" if limits[0] == limits[1] else limits[1]))
    return Page(
        title=f"{profile.name}, listen({backlog}): {changed} of {len(entries)} situations change",
        tables=[Table(("situation", "defaults", "as given"), rows)],
        data={
            "kernel": profile.name, "backlog": backlog, "sysctl": sysctl, "limits": limits,
            "situations": entries,
        },
        notes=[*([note] if note else []), *changes],
        closing=[
            *([f"The same with both: {'; '.join(unchanged)}."] if unchanged else []),
            *([_PRUNED] if profile.timer == "prune" else []),
            "Computed by the model of this kernel; on a host, `ss -ltn` and `nstat -az` show it.",
        ],
    )  # fmt: skip


def _limits(profile: Profile, sysctl: dict[str, int], backlog: int) -> str:
    listener = Scene(profile, sysctl, backlog).listener
    return (
        f"backlog min({backlog}, somaxconn {listener.settings.somaxconn}) = {listener.backlog}; "
        f"{listener.accept_capacity} fit in the accept queue, {listener.syn_capacity} in the SYN queue"
    )


def _facts(what: Play) -> dict[str, Any]:
    return {
        "packets": [
            {
                "decision": one.decision, "reason": one.reason, "rule": one.rule, "function": one.function,
                "reply": one.reply, "counters": one.counters,
            }
            for one in what.outcomes
        ],
        "accept_queue": what.queues[0],
        "syn_queue": what.queues[1],
        "synack_again_ns": what.synack_ns,
        "given_up_ns": what.gone_ns,
    }  # fmt: skip


def _story(what: Play) -> str:
    lines = []
    for one in what.outcomes:
        counted = f" [{words.added(one.counters)}]" if one.counters else ""
        lines.append(f"{one.decision}: {words.sentence(one.decision, one.reason)}{counted}")
    lines.append(f"then {what.queues[0]} in the accept queue, {what.queues[1]} in the SYN queue")
    if what.synack_ns:
        times = ", ".join(f"{when / 1e9:.1f}" for when in what.synack_ns)
        lines.append(f"SYN-ACK again after {times} s")
    if what.gone_ns is not None:
        lines.append(f"given up after {what.gone_ns / 1e9:.1f} s")
    return "; ".join(lines)


def topics() -> dict[str, str]:
    """Every word that can be asked for -> its kind."""
    found = dict.fromkeys(SYSCTLS, "sysctl")
    for one in _OUTCOMES:
        found |= {one.decision: "decision"} | dict.fromkeys(one.counters, "counter")
    return found | {one.reason: "reason" for one in _OUTCOMES if one.reason not in found}


def overview() -> Page:
    """What can be asked for."""
    known = topics()
    rows = [(kind, " ".join(sorted(name for name in known if known[name] == kind)))
            for kind in ("sysctl", "decision", "reason", "counter")]  # fmt: skip
    return Page(
        "explain TOPIC, or explain --sysctl NAME=VALUE", [Table(("kind", "topics"), rows)], {"topics": known}
    )


def _sysctl(name: str) -> Page:
    """What a setting is and does, who reads it and when."""
    entry, lesson = SYSCTLS[name], LESSONS[name]
    facts = {
        "meaning": entry.meaning,
        "values": f"{entry.low} to {entry.high}",
        "default": _default(name),
        "exists": lesson.exists,
        "applies to": lesson.scope,
        "read by": lesson.read_by,
        "takes effect": lesson.takes_effect,
        "often missed": lesson.mistake,
        "on a host": lesson.check,
    }
    rows = [(what, text) for what, text in facts.items() if text]
    short = name.rpartition(".")[2]
    return Page(
        name, [Table((short, ""), rows)],
        {"topic": name, "kind": "sysctl", **{what.replace(" ", "_"): text for what, text in rows}},
        closing=[
            f"`explain --sysctl {short}=VALUE` plays what a value changes." if facts["default"]
            else "It is not part of the model: no decision shown depends on it."
        ],
    )  # fmt: skip


def _default(name: str) -> str:
    """`128 (3.10 to 4.18), 4096 (5.4 to 7.2)`; empty for a setting that the model has not."""
    if name == "net.ipv4.tcp_max_syn_backlog":
        return "by memory, at least 128; 4096 is assumed"
    found: dict[int, list[str]] = {}
    for profile in PROFILES:  # oldest first
        values = make_settings(profile.defaults, {}).as_dict()
        if name in values:
            found.setdefault(values[name], []).append(profile.name)
    if len(found) == 1:
        return str(next(iter(found)))
    return ", ".join(f"{value} ({where[0]} to {where[-1]})" for value, where in found.items())


def topic(name: str) -> Page:
    """The rules that count a counter, reach a decision or have a reason.

    Raises UsageError for an unknown word, with the nearest one.
    """
    known = topics()
    wanted = full_name(name) or next((word for word in known if word.lower() == name.lower()), None)
    if wanted is None:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "`backlogtrace explain` lists the topics"
        raise UsageError(f"nothing is known about {name!r}; {hint}")
    if known[wanted] == "sysctl":
        return _sysctl(wanted)
    found = [one for one in _OUTCOMES if wanted in {one.decision, one.reason, *one.counters}]
    rows = [
        (
            one.rule, one.function, words.sentence(one.decision, one.reason), one.reply or "silent",
            " ".join(one.counters),
        )
        for one in found
    ]  # fmt: skip
    unique = list(dict.fromkeys(rows))
    header = ("rule", "kernel function", "what happens", "reply", "counters")
    return Page(
        f"{wanted} ({known[wanted]}): {len(unique)} rules",
        [Table(header, unique)],
        {
            "topic": wanted,
            "kind": known[wanted],
            "rules": [dict(zip(header, row, strict=True)) for row in unique],
        },
    )
