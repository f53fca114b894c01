"""Pages of `explain`: two servers side by side, and what decides, counts or is meant by a word.

Every difference shown is computed by playing situations on the model. Refuses to run a capture.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
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
from backlogtrace.report.miniature import LEGEND, arithmetic, facts, story
from backlogtrace.report.miniature import table as miniature
from backlogtrace.report.option_words import OPTIONS
from backlogtrace.report.questions import PRUNED, QUESTIONS, answer
from backlogtrace.report.sysctl_words import LESSONS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backlogtrace.replay.situations import Setup

_OUTCOMES = [value for value in vars(outcomes).values() if isinstance(value, Outcome)]

_SIZES = {"net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog", "net.ipv4.tcp_syncookies"}
"""Sysctls that the size of a queue depends on."""


def effect(setup: Setup, sysctl: dict[str, int], note: str = "") -> Page:
    """What the given settings change, against the kernel's defaults."""
    profile = setup.profile
    defaults = make_settings(profile.defaults, {}).as_dict()
    changes = [
        f"{name}: {defaults[name]} -> {value} ({SYSCTLS[name].meaning})"
        if name in defaults
        else f"{name} = {value}: {LESSONS[name].unread}"
        for name, value in sysctl.items()
    ]
    after = replace(setup, sysctl=sysctl)
    compared = _compare(setup, after, ("defaults", "as given"))
    return Page(
        title=f"{profile.name}, listen({setup.backlog}): {compared.title}",
        tables=compared.tables,
        data={
            "kernel": profile.name, "backlog": setup.backlog, "sysctl": sysctl,
            "limits": [_limits(one) for one in (setup, after)], **compared.data,
        },
        notes=[*([note] if note else []), *changes],
        closing=[*compared.closing, "On a host, `ss -ltn` and `nstat -az` show it."],
    )  # fmt: skip


def _limits(setup: Setup) -> dict[str, str]:
    return arithmetic(Scene(setup).listener, setup.backlog)


def _compare(before: Setup, after: Setup, names: tuple[str, str]) -> Page:
    """Every situation on both servers: those that differ in words, then packet by packet."""
    mine, its = _limits(before), _limits(after)
    fits = [
        (what, mine.get(what, ""), "the same" if mine.get(what) == its.get(what) else its.get(what, ""))
        for what in mine | its
    ]
    stories, miniatures, entries = [], [], []
    for name in SITUATIONS:
        one, other = play(name, before), play(name, after)
        if one is None or other is None:
            stories.append((name, "not played: a queue never fills, or is too long", ""))
            continue
        if one != other:
            stories.append((name, story(one, other), story(other, one)))
            miniatures.append(miniature(dict(zip(names, (one, other), strict=True)), name))
        entries.append(
            {"situation": name, "default": facts(one), "given": facts(other), "differs": one != other}
        )
    unchanged = [str(entry["situation"]) for entry in entries if not entry["differs"]]
    tables = [Table(("what fits", *names), fits)]
    if stories:
        tables.append(Table(("situation", *names), stories))
    return Page(
        title=f"{len(entries) - len(unchanged)} of {len(entries)} situations change"
        if entries
        else "no situation can be played",
        tables=[*tables, *miniatures],
        data={"situations": entries},
        closing=[
            *([LEGEND] if miniatures else []),
            *([f"The same with both: {'; '.join(unchanged)}."] if unchanged else []),
            *([PRUNED] if before.profile.timer == "prune" else []),
            "Computed by the model of this kernel.",
        ],
    )


def topics() -> dict[str, str]:
    """Every word that can be asked for -> its kind."""
    found = dict.fromkeys(QUESTIONS, "question") | dict.fromkeys(SYSCTLS, "sysctl")
    found |= dict.fromkeys(OPTIONS, "socket option")
    for one in _OUTCOMES:
        found |= {one.decision: "decision"} | dict.fromkeys(one.counters, "counter")
    return found | {one.reason: "reason" for one in _OUTCOMES if one.reason not in found}


def overview() -> Page:
    """What can be asked for."""
    known = topics()
    rows = [(kind, " ".join(sorted(name for name in known if known[name] == kind)))
            for kind in ("sysctl", "socket option", "decision", "reason", "counter")]  # fmt: skip
    questions = [(name, question.text) for name, question in QUESTIONS.items()]
    return Page(
        "explain TOPIC, or explain --sysctl NAME=VALUE",
        [Table(("question", "asks"), questions), Table(("kind", "topics"), rows)],
        {"topics": known},
    )


def _sysctl(name: str, setup: Setup, note: str) -> Page:
    """What a setting is and does, who reads it and when; of those that size queues, what fits."""
    entry, lesson = SYSCTLS[name], LESSONS[name]
    about = {
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
    rows = [(what, text) for what, text in about.items() if text]
    short = name.rpartition(".")[2]
    sized = _limits(setup) if name in _SIZES else {}
    where = f"{setup.profile.name}, listen({setup.backlog})"
    return Page(
        name,
        [Table((short, ""), rows), *([Table(("what fits", where), list(sized.items()))] if sized else [])],
        {
            "topic": name, "kind": "sysctl", **_keys(rows),
            **({"kernel": setup.profile.name, "backlog": setup.backlog, "limits": sized} if sized else {}),
        },
        notes=[note] if note and sized else [],
        closing=[
            f"No situation changes: {lesson.unread}." if lesson.unread
            else f"`explain --sysctl {short}=VALUE` plays what a value changes."
        ],
    )  # fmt: skip


def _keys(rows: Iterable[tuple[str, str]]) -> dict[str, Any]:
    return {what.replace(" ", "_"): text for what, text in rows}


def _option(name: str, setup: Setup, note: str) -> Page:
    """What a socket option is and does, and what one value changes."""
    option = OPTIONS[name]
    about = {
        "meaning": option.meaning, "default": option.default, "read by": option.read_by,
        "takes effect": option.takes_effect, "often missed": option.mistake, "on a host": option.check,
    }  # fmt: skip
    table = Table((name, ""), list(about.items()))
    data = {"topic": name, "kind": "socket option", **_keys(about.items())}
    if not option.sample:
        return Page(name, [table], data)
    unset: dict[str, Any] = dict.fromkeys(option.sample, 0)
    before = replace(setup, sysctl=option.sysctl, **unset)
    compared = _compare(before, replace(before, **option.sample), ("without", option.shown))
    needed = [f"{key.rpartition('.')[2]} = {value:#x}" for key, value in option.sysctl.items()]
    return Page(
        f"{name} on {setup.profile.name}, listen({setup.backlog}): {compared.title}",
        [table, *compared.tables],
        data | {"kernel": setup.profile.name, "backlog": setup.backlog} | compared.data,
        notes=[*([note] if note else []), *([f"played with {', '.join(needed)}"] if needed else [])],
        closing=compared.closing,
    )


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


def topic(name: str, setup: Setup, note: str = "") -> Page:
    """The rules that count a counter, reach a decision or have a reason; a setting; the answer to a question.

    `setup` is the server that is played where something is, `note` what there is to say of its kernel.
    Raises UsageError for an unknown word, with the nearest one.
    """
    known = topics()
    wanted = full_name(name) or next((word for word in known if word.lower() == name.lower()), None)
    if wanted is None:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "`backlogtrace explain` lists the topics"
        raise UsageError(f"nothing is known about {name!r}; {hint}")
    if known[wanted] == "sysctl":
        return _sysctl(wanted, setup, note)
    if known[wanted] == "socket option":
        return _option(wanted, setup, note)
    if known[wanted] == "question":
        return answer(wanted, setup, note)
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
