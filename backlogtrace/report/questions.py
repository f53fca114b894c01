"""Questions that people ask about listen queues, answered by playing them on the model.

Figures in the answers are computed for the kernel that is asked for. Refuses to read captures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backlogtrace.kernel.families import PROFILES
from backlogtrace.kernel.settings import make_settings
from backlogtrace.replay.situations import SITUATIONS, Scene, play
from backlogtrace.report.kernels import Page, Table
from backlogtrace.report.miniature import LEGEND, arithmetic, seconds, table
from backlogtrace.segment import SYN

if TYPE_CHECKING:
    from collections.abc import Callable

    from backlogtrace.replay.situations import Play, Setup

PRUNED = (
    "Each time is the earliest: this kernel looks every 200 ms at some of its requests, so up to 0.6 s later."
)
_OVERFLOW = "ACK that completes a handshake while the accept queue is full"
_AFTERWARDS = "ACK while the accept queue is full, data a minute after the request is gone"
_RETRIES = "net.ipv4.tcp_synack_retries"
_LIMITS = (64, 128, 256, 1024, 4096)
"""Values of tcp_max_syn_backlog that are tried."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, what answers it, and a recording that shows the answer."""

    text: str
    answer: Callable[[Setup], tuple[list[str], list[Table]]]
    """Sentences, and tables for them."""
    fixture: str
    """Recording of a real kernel, in the source tree."""


def answer(name: str, setup: Setup, note: str = "") -> Page:
    """The answer to the question called `name`, on a server."""
    question = QUESTIONS[name]
    sentences, tables = question.answer(setup)
    folder = f"fixtures/{question.fixture}"
    pruned = [PRUNED] if setup.profile.timer == "prune" else []
    legend = [LEGEND] if any("packet" in one.header for one in tables) else []
    return Page(
        f"{question.text} ({setup.profile.name}, listen({setup.backlog}))",
        tables,
        {
            "topic": name, "kind": "question", "question": question.text, "kernel": setup.profile.name,
            "backlog": setup.backlog, "answer": sentences, "fixture": folder,
            "tables": [[dict(zip(one.header, row, strict=True)) for row in one.rows] for one in tables],
        },
        notes=[*([note] if note else []), *sentences],
        closing=[
            *legend, *pruned,
            f"A real kernel: `backlogtrace analyze {folder}/capture.pcap --host {folder}/host.json`",
        ],
    )  # fmt: skip


def _played(name: str, setup: Setup) -> Play:
    """A situation that small queues always reach."""
    found = play(name, setup)
    if found is None:
        found = play(name, replace(setup, backlog=4))
    assert found is not None
    return found


def _lifetime(setup: Setup) -> tuple[list[str], list[Table]]:
    what = _played(_OVERFLOW, setup)
    listener = Scene(setup).listener
    waits = [listener.interval(number) for number in range(len(what.synack_ns) + 1)]
    overflows = sum(one.counters.get("ListenOverflows", 0) for one in what.outcomes)
    gone = what.gone_ns or 0
    return [
        (
            f"{gone / 1e9:.1f} s after its SYN the request is gone: {len(what.synack_ns)} more SYN-ACKs"
            f" (tcp_synack_retries), each after twice the wait of the one before, and a last wait:"
            f" {' + '.join(map(str, waits))} = {sum(waits)} s."
        ),
        "Nothing is sent when it goes, and no listen counter counts it.",
        f"Meanwhile every ACK that is ignored counts one overflow: {overflows} for this one connection.",
    ], [table({"what happens": what})]


def _client_learns(setup: Setup) -> tuple[list[str], list[Table]]:
    quiet = _played(_AFTERWARDS, setup)
    loud = _played(_AFTERWARDS, replace(setup, sysctl={"net.ipv4.tcp_abort_on_overflow": 1}))
    return [
        (
            "Not when the server gives up: nothing is sent then. The client is connected as far as"
            " it knows, and"
            " learns of it when it sends something: no request, no connection, so the answer is a"
            f" {'RST' if quiet.outcomes[-1].reply == 'rst' else 'silence'}."
        ),
        "A client that only waits for the server to speak waits until its keepalives fail, if it has them.",
        "With tcp_abort_on_overflow = 1 it learns at once: its ACK is answered with a RST.",
    ], [table({"tcp_abort_on_overflow = 0": quiet, "= 1": loud})]


def _synacks(setup: Setup) -> tuple[list[str], list[Table]]:
    default = make_settings(setup.profile.defaults, {}).tcp_synack_retries
    rows = []
    for retries in range(8):
        what = _played("SYN, then silence", replace(setup, sysctl={_RETRIES: retries}))
        given_up = "never" if what.gone_ns is None else f"{what.gone_ns / 1e9:.1f}"
        mark = " (default)" if retries == default else ""
        rows.append((f"{retries}{mark}", seconds(what.synack_ns) or "none", given_up))
    crowd = [(f"{waiting} of {capacity}", str(synacks)) for waiting, capacity, synacks in _crowded(setup)]
    return [
        (
            f"tcp_synack_retries is {default}: the SYN-ACK is sent once at once and {default} times"
            f" again, after"
            " waits that double."
        ),
        "When the SYN queue is more than half full, requests that have been repeated once get fewer.",
    ], [
        Table(("tcp_synack_retries", "SYN-ACK again after (s)", "given up after (s)"), rows),
        Table(("requests in the SYN queue", "SYN-ACKs again"), crowd),
    ]


def _crowded(setup: Setup) -> list[tuple[int, int, int]]:
    """(requests that wait, what fits, repetitions that the oldest gets)."""
    setup = replace(setup, backlog=64)
    capacity = Scene(setup).listener.syn_capacity
    found = []
    for others in (0, capacity // 2 - 2, capacity // 2 + 2, capacity - 1):
        scene = Scene(setup)
        first = scene.client()
        scene.send(first, SYN)
        scene.now += 500_000_000  # so that they are still there when its timer fires
        for _ in range(others):
            scene.send(scene.client(), SYN)
        scene.wait()
        found.append((others + 1, capacity, len(scene.play(first).synack_ns)))
    return found


def _syn_queue(setup: Setup) -> tuple[list[str], list[Table]]:
    what = _played("SYN, ACK, accept()", setup)
    home = (
        "a hash table that belongs to the listener; its size, a power of two, is fixed at the first listen()"
        if setup.profile.syn_table
        else "the host's hash of all connections (ehash); the listener only counts them (qlen), so there is"
        " no list that one could look at"
    )
    return [
        f"On this kernel requests live in {home}.",
        (
            "The accept queue is a real list. The ACK moves a connection from one count to the"
            " other, accept()"
            " takes the oldest."
        ),
        (
            "`ss -ltn` shows the accept queue (Recv-Q, its limit as Send-Q), `ss -tn state syn-recv`"
            " the requests."
        ),
    ], [table({"what happens": what})]


def _counters(setup: Setup) -> tuple[list[str], list[Table]]:
    found: dict[str, list[str]] = {}
    for name in SITUATIONS:
        for given, label in (({}, ""), ({"net.ipv4.tcp_syncookies": 0}, " (cookies off)")):
            what = play(name, replace(setup, sysctl=given))
            for counter in sorted({key for one in what.outcomes for key in one.counters} if what else ()):
                where = found.setdefault(counter, [])
                if name not in where:
                    where.append(name + label)
    return [
        (
            "The accept queue's: ListenOverflows, each with a ListenDrops. The SYN queue's:"
            " TCPReqQFullDoCookies"
            " where cookies go out, TCPReqQFullDrop where SYNs are dropped, the latter with a"
            " ListenDrops, too."
        ),
        "So ListenDrops beyond ListenOverflows are the SYN queue's"
        + (
            " or cookies: this kernel counts one for every cookie."
            if setup.profile.cookie_counts_drop
            else "."
        ),
        "One count is one packet, not one connection: clients and timers repeat.",
    ], [Table(("counter", "added in"), [(name, "; ".join(where)) for name, where in sorted(found.items())])]


def _backlog(setup: Setup) -> tuple[list[str], list[Table]]:
    rows: list[tuple[str, ...]] = []
    for profile in PROFILES:  # oldest first
        listener = Scene(replace(setup, profile=profile)).listener
        fit = (str(listener.accept_capacity), str(listener.syn_capacity), str(listener.settings.somaxconn))
        if rows and rows[-1][1:] == fit:
            rows[-1] = (f"{rows[-1][0].partition(' to ')[0]} to {profile.name}", *fit)
        else:
            rows.append((profile.name, *fit))
    steps = arithmetic(Scene(setup).listener, setup.backlog)
    return [
        (
            "Yes, both: the backlog, at most somaxconn, limits the accept queue and, through it,"
            " the SYN queue."
            " One more than the backlog fits in the accept queue."
        ),
    ], [
        Table(("what fits", f"{setup.profile.name}, listen({setup.backlog})"), list(steps.items())),
        Table(("kernel", "accept queue", "SYN queue", "default somaxconn"), rows),
    ]


def _cookies_off(setup: Setup) -> tuple[list[str], list[Table]]:
    off = {"net.ipv4.tcp_syncookies": 0}
    capacity = Scene(setup).listener.syn_capacity
    rows = []
    for limit in _LIMITS:
        given = replace(setup, sysctl={**off, "net.ipv4.tcp_max_syn_backlog": limit})
        what = _played("tcp_syncookies=0: the first SYN of many that is not queued", given)
        rows.append((str(limit), str(what.queues[1]), what.outcomes[-1].reason))
    sized = " It also enters the size of the listener's table." if setup.profile.syn_table else ""
    return [
        (
            "With tcp_syncookies = 0 its last quarter is kept for known peers: other SYNs are dropped where"
            f" M - length < M / 4. Beyond that the SYN queue's own limit ({capacity} fit by"
            f" default) drops them."
        ),
        "With cookies on it drops nothing: a full SYN queue answers with cookies." + sized,
    ], [Table(("tcp_max_syn_backlog", "requests queued", "why the next SYN is dropped"), rows)]


QUESTIONS: dict[str, Question] = {
    "overflowed-connection": Question(
        "How long does an overflowed connection live on the server?", _lifetime, "overflowed-connection-el7"
    ),
    "client-learns": Question(
        "When does the client learn that its connection was lost?",
        _client_learns,
        "overflowed-connection-el7",
    ),
    "five-synacks": Question(
        "Why is the SYN-ACK sent five times more?", _synacks, "overflowed-connection-el7"
    ),
    "syn-queue": Question(
        "Is there a SYN queue, and where do requests live?", _syn_queue, "seed_documents-0001"
    ),
    "counters": Question("Which counter belongs to which queue?", _counters, "seed_documents-0001"),
    "backlog": Question("Does the backlog limit the SYN queue?", _backlog, "seed_documents-0003"),
    "cookies-off": Question(
        "What does tcp_max_syn_backlog do with cookies off?",
        _cookies_off,
        "seed_documents-0005",
    ),
}
"""Name -> question."""
