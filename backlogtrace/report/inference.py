"""What was worked out from a capture, as pages: the best server, its rival, what cannot be told.

Every sentence about a parameter is here. Refuses to rank.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backlogtrace.replay.hypothesis import FIELDS, UNLIMITED
from backlogtrace.report.clock import seconds
from backlogtrace.report.kernels import Page, Table

if TYPE_CHECKING:
    from backlogtrace.replay.hypothesis import Hypothesis
    from backlogtrace.replay.inference import Inference, ListenerInference
    from backlogtrace.replay.search import Found

NAMES = {
    "kernel": "kernel family",
    "backlog": "backlog (effective)",
    "syncookies": "tcp_syncookies",
    "abort": "tcp_abort_on_overflow",
    "retries": "tcp_synack_retries",
    "max_syn_backlog": "tcp_max_syn_backlog",
    "defer": "TCP_DEFER_ACCEPT (s)",
    "fastopen": "tcp_fastopen",
    "fastopen_qlen": "TCP_FASTOPEN",
}
_WHY_OPEN = {
    "kernel": "these families do the same with the packets seen",
    "backlog": "no queue was seen full at an exact length",
    "syncookies": "the SYN queue was not seen full",
    "abort": "no ACK was seen to meet a full accept queue before its request was gone",
    "retries": "no request was seen to run out of retries",
    "max_syn_backlog": "matters only with SYN cookies off, or before 4.3",
    "defer": "no bare ACK shows whether it was enough",
    "fastopen": "no SYN carried data or a Fast Open option that would tell",
    "fastopen_qlen": "the Fast Open queue was not seen full",
}
_APPLICATIONS = {
    1: "test servers",
    5: "Python socketserver and http.server",
    10: "Apache Thrift, many tutorials",
    50: "Java ServerSocket",
    100: "Tomcat (acceptCount), asyncio, uvloop",
    128: "listen(SOMAXCONN) before glibc 2.41, Redis before 3, net.core.somaxconn before 5.4",
    511: "nginx, Apache httpd, Redis, Node.js",
    512: "uWSGI on some systems, Kestrel",
    1024: "HAProxy, Envoy, Jetty on some systems",
    2048: "gunicorn, Uvicorn",
}
"""Effective backlogs that applications are known for."""
_SHOWN = 8


def page(inference: Inference) -> Page:
    """All listeners, those with the most trouble first."""
    tables: list[Table] = []
    notes: list[str] = []
    for one in sorted(inference.listeners, key=lambda one: -one.seen.trouble):
        if not one.ranked:
            notes.append(
                f"{one.name}: {one.seen.attempts:,} handshakes, nothing unusual: no queue was seen full, "
                "so the limits cannot be told"
            )
            continue
        tables.append(_parameters(one))
        notes += _sentences(one)
    title = f"{len(inference.listeners)} listener{'' if len(inference.listeners) == 1 else 's'}"
    return Page(title, tables, {"listeners": [document(one) for one in inference.listeners]}, notes)


def document(one: ListenerInference) -> dict[str, Any]:
    """One listener as JSON."""
    result: dict[str, Any] = {
        "listener": one.name,
        "attempts": one.seen.attempts,
        "refused": len(one.seen.refused),
        "packets_tried": one.packets,
        "best": None,
        "not_linux": one.seen.stranger.proof() or None,
        "parameters": {},
        "runner_up": None,
        "applications": None,
    }
    if not one.ranked:
        return result
    best, rival = one.ranked[0], one.runner_up()
    result["best"] = _found(best)
    result["parameters"] = {
        NAMES[name]: {
            "value": getattr(best.hypothesis, name),
            "told": not one.alternatives(name) and not _bound(one, name),
            "alternatives": one.alternatives(name),
            "reason": _WHY_OPEN[name] if one.alternatives(name) else None,
        }
        for name in _fields(one)
    }
    if rival is not None:
        separator = rival.score.noted[0] if rival.score.noted else None
        result["runner_up"] = _found(rival) | {
            "separated_by": None
            if separator is None
            else {"frame": separator.frame, "time_ns": separator.time_ns, "detail": separator.detail}
        }
    result["applications"] = _application(one)
    return result


def _found(found: Found) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(found.hypothesis, name) for name in FIELDS}
    values["changes"] = [change._asdict() for change in found.hypothesis.changes]
    values["contradictions"] = found.score.contradictions
    values["accepts_assumed"] = found.score.accepts
    values["cost"] = round(found.cost, 2)
    return values


def _parameters(one: ListenerInference) -> Table:
    rows = []
    for name in _fields(one):
        others = one.alternatives(name)
        certainty = "open" if others or _bound(one, name) else "told"
        listed = _kernels(one, others) if name == "kernel" else _listed(name, others)
        why = f"{listed} would do, too: {_WHY_OPEN[name]}" if others else _told(one, name)
        if _bound(one, name):
            why = "at least so many; only a part of the capture was searched, what waited before is not known"
        rows.append((NAMES[name], _value(name, getattr(one.ranked[0].hypothesis, name)), certainty, why))
    return Table((one.name, "best", "", "why"), rows)


def _kernels(one: ListenerInference, others: list[str]) -> str:
    """Other kernels, and the settings that each needs where they are not those of the best one."""
    best = one.ranked[0].hypothesis
    alike: list[str] = []
    own: list[str] = []
    for found in one.kernels():
        hypothesis = found.hypothesis
        if hypothesis.kernel in others:
            needs = _difference(replace(best, kernel=hypothesis.kernel), hypothesis)
            (own if needs else alike).append(
                f"{hypothesis.kernel} with {needs}" if needs else hypothesis.kernel
            )
    parts = ", ".join(sorted(alike))
    return "; ".join([*([parts] if parts else []), *sorted(own)])


def _bound(one: ListenerInference, name: str) -> bool:
    """Whether a value is only a lower bound."""
    return name == "backlog" and one.partial


def _fields(one: ListenerInference) -> list[str]:
    """The parameters that other values were tried of."""
    tried = {name: {getattr(found.hypothesis, name) for found in one.ranked} for name in FIELDS}
    return [name for name in FIELDS if len(tried[name]) > 1]


def _told(one: ListenerInference, name: str) -> str:
    """What speaks against the next best value of a parameter."""
    for found in one.variants(name):
        if found.score.noted:
            first = found.score.noted[0]
            where = f"frame {first.frame}" if first.frame else "a missing packet"
            value = _value(name, getattr(found.hypothesis, name))
            return f"not {value}: {where} ({first.detail})"
    return "other values have many contradictions"


def _sentences(one: ListenerInference) -> list[str]:
    best, rival = one.ranked[0], one.runner_up()
    known = f"{best.score.contradictions} contradictions" if best.score.contradictions else "no contradiction"
    proof = one.seen.stranger.proof()
    notes = [f"{one.name} may be no Linux server, and all of this void: {proof}"] if proof else []
    notes += [
        (
            f"{one.name}: {one.seen.attempts:,} handshakes, {len(one.seen.refused):,} packets not let in. "
            f"{len(one.ranked):,} servers were tried on {one.packets:,} packets; the best has {known}."
        )
    ]
    notes += [
        f"{one.name}: changed on the way, at {seconds(change.time_ns - one.first_ns)}: "
        f"{'listen() with backlog' if change.name == 'listen' else change.name} {change.value}"
        for change in best.hypothesis.changes
    ]
    if rival is None:
        notes.append(f"{one.name}: nothing that was tried comes close.")
    elif rival.score.noted:
        first = rival.score.noted[0]
        where = f"frame {first.frame}" if first.frame else "a packet that is missing"
        notes.append(
            f"{one.name}: runner-up {_difference(best.hypothesis, rival.hypothesis)}; "
            f"{where} at {seconds(first.time_ns - one.first_ns)} speaks against it: {first.detail}"
        )
    else:
        notes.append(
            f"{one.name}: runner-up {_difference(best.hypothesis, rival.hypothesis)}; "
            "no packet separates the two, it is only less usual"
        )
    if application := _application(one):
        notes.append(f"{one.name}: backlog {best.hypothesis.backlog} is what {application} use")
    return notes


def _application(one: ListenerInference) -> str | None:
    if one.alternatives("backlog") or one.partial or one.ranked[0].hypothesis.backlog == UNLIMITED:
        return None
    return _APPLICATIONS.get(one.ranked[0].hypothesis.backlog)


def _difference(best: Hypothesis, rival: Hypothesis) -> str:
    parts = [
        f"{NAMES[name]} {_value(name, getattr(rival, name))}"
        for name in FIELDS
        if getattr(best, name) != getattr(rival, name)
    ]
    if best.changes != rival.changes:
        change = "another change" if best.changes else "a change"
        parts.append(f"{change} on the way" if rival.changes else "nothing changed on the way")
    return ", ".join(parts)


def _value(name: str, value: object) -> str:
    if name == "backlog" and value == UNLIMITED:
        return f"{UNLIMITED} or more than was seen"
    return "not set" if value is None else str(value)


def _listed(name: str, values: list[Any]) -> str:
    """Values as a few words; runs of numbers as ranges."""
    if all(isinstance(value, int) for value in values):
        runs: list[list[int]] = []
        for value in sorted(values):
            if runs and value == runs[-1][-1] + 1:
                runs[-1].append(value)
            else:
                runs.append([value])
        words = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    else:
        words = [_value(name, value) for value in values]
    hidden = len(words) - _SHOWN
    return ", ".join(words[:_SHOWN]) + (f" and {hidden} more" if hidden > 0 else "")
