"""What happened at a listener in plain words, and what to change: written from totals, nothing else.

Knows which facts make which sentence. Refuses to blame a queue that refused nothing, and to guess.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from backlogtrace.report.clock import duration, seconds
from backlogtrace.report.safe import safe
from backlogtrace.report.words import count, label

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backlogtrace.replay.rows import ListenerSummary, Span

Kind = tuple[str, str]
Level = Literal["good", "notice", "bad"]

SYN_REFUSED: Kind = ("dropped", "accept_queue_full")
ACK_REFUSED: Kind = ("overflow", "accept_queue_full")
COOKIE_REFUSED: Kind = ("overflow", "cookie_accept_queue_full")
RESET: Kind = ("rst", "abort_on_overflow")
ACCEPT_QUEUE_FULL = (SYN_REFUSED, ACK_REFUSED, COOKIE_REFUSED, RESET)

DAMAGED: Kind = ("ignored", "wrong_checksum")
UNANSWERED: Kind = ("dropped", "unanswered")
RECYCLED: Kind = ("dropped", "tw_recycle_paws")

SYN_QUEUE_FULL: Kind = ("dropped", "syn_queue_full")
SYN_QUEUE_RESERVED: Kind = ("dropped", "syn_queue_reserved")
COOKIES: Kind = ("cookie", "syn_queue_full")
COOKIES_ALWAYS: Kind = ("cookie", "syncookies_always")
COOKIE_CAME_BACK: Kind = ("established", "cookie_valid")

_FLOOD_SHARE = 0.2
"""Below this share of cookies that come back, the clients hardly are clients."""
_FLOOD_MIN = 20
"""Fewer cookies than this prove no flood."""
_TOLD = frozenset({
    *ACCEPT_QUEUE_FULL, RECYCLED, SYN_QUEUE_FULL, SYN_QUEUE_RESERVED, COOKIES, COOKIES_ALWAYS,
    ("rst", "no_request"), ("rst", "no_listener"), ("rst", "cookie_invalid"), ("rst", "cookie_expired"),
    UNANSWERED,
})  # fmt: skip
"""Kinds that have a paragraph of their own."""


_COUNTERS = (
    "compare the counters here with what `nstat` counted meanwhile, or give what the host knows (--host: "
    "backlog, sysctls, accept() times)"
)
_SETTLED_BY = {
    "lost_after_capture": "capture on the server itself, and compare TcpExtListenOverflows before and after",
    "firewall": "look at the counters of the host's packet filter: a SYN that it drops counts no ListenDrops",
    "other_listener": "log accept() for each socket of the SO_REUSEPORT group (--host)",
}
"""What else it may have been -> what would tell."""


@dataclass(slots=True)
class Verdict:
    """A headline, what happened, and what to do about it."""

    level: Level = "good"
    headline: str = ""
    story: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def worse(self, level: Level, headline: str) -> None:
        """Raise the level; the first headline of the worst level stays."""
        order: tuple[Level, ...] = ("good", "notice", "bad")
        if not self.headline or order.index(level) > order.index(self.level):
            self.level, self.headline = level, headline


def verdict(
    summary: ListenerSummary,
    spans: dict[Kind, Span],
    start_ns: int,
    undecided: Mapping[tuple[str, ...], int] | None = None,
    *,
    thinned: bool = False,
) -> Verdict:
    """The verdict on one listener.

    `spans` says when each kind of row first and last happened; times are told from `start_ns`. `undecided`
    has what else may have become of packets, and of how many (`thinned`: at least).
    """
    result = Verdict()
    if summary.stranger:
        _stranger(result, summary)
        return result
    if summary.mismatches:
        _mismatches(result, summary)
    if summary.sockets > 1:
        result.story.append(
            f"{summary.sockets:,} sockets have this address and port (SO_REUSEPORT). A hash that the capture "
            "does not show decides which one gets a client: where neither accept() calls nor the server's "
            "answers tell, queue lengths are the range that all possible choices allow. The limits are those "
            "of one socket."
        )
    _cookies_on_the_wire(result, summary)
    _accept_queue(result, summary, spans, start_ns)
    _syn_queue(result, summary, spans, start_ns)
    _recycled(result, summary)
    _damaged(result, summary)
    _unanswered(result, summary)
    _cost(result, summary)
    _requests(result, summary)
    _rest(result, summary)
    _undecided(result, undecided or {}, "at least " if thinned else "")
    if not result.headline:
        result.headline = _nothing_wrong(summary)
    return result


def _stranger(result: Verdict, summary: ListenerSummary) -> None:
    """No queue is blamed where the kernel that is modelled may not be the one that answered."""
    refused = any(summary.decisions.get(kind) for kind in ("dropped", "overflow", "rst"))
    result.worse("bad" if refused else "notice", "This may be no Linux server: the model may not apply.")
    result.story += [
        (
            f"{summary.stranger}. No Linux listen socket does this: the server is another system, or a "
            "packet filter, load balancer or other middlebox answered or rewrote packets in its place."
        ),
        (
            "Other systems have other queues: Windows resets SYNs when its backlog is full, the BSDs keep a "
            "SYN cache and let 1.5 x backlog wait. What is said below of queues and rules is what Linux "
            "would have done."
        ),
    ]
    result.advice += [
        (
            "on Windows or a BSD, ask the system itself: `netstat -s`, and `netstat -Lan` on a BSD, show "
            "what its queues refused"
        ),
        "if the server is Linux, capture on the server itself, behind whatever answers in its place",
    ]


def _undecided(result: Verdict, undecided: Mapping[tuple[str, ...], int], least: str) -> None:
    """What the capture leaves open, and what would settle it."""
    if not undecided:
        return
    rivals = dict.fromkeys(rival for several in undecided for rival in several)
    number = sum(undecided.values())
    told = least + count(number, "decision is", "decisions are")
    told = told[0].upper() + told[1:]
    result.worse("notice", f"{told} undecided.")
    result.story.append(
        f"{told} the likeliest of several that the capture leaves "
        f"open; also possible: {', '.join(map(label, rivals))}."
    )
    settled = dict.fromkeys(_SETTLED_BY.get(rival, _COUNTERS) for rival in rivals)
    result.advice += [f"to settle what is undecided: {way}" for way in settled]


def _unanswered(result: Verdict, summary: ListenerSummary) -> None:
    """SYNs that no queue refused, as far as is known."""
    number = summary.reasons.get(UNANSWERED, 0)
    if number:
        result.worse("notice", f"{count(number, 'SYN')} got no answer although the queues had room.")
        result.story.append(
            f"{count(number, 'SYN')} got no answer although both queues had room, as far as the capture "
            "tells: before the listen socket a packet filter may drop SYNs, behind the capture some may get "
            "lost, or the capture has lost the answers."
        )


def _mismatches(result: Verdict, summary: ListenerSummary) -> None:
    if summary.lost:
        result.worse(
            "notice",
            f"Model and capture differ {count(summary.mismatches, 'time')}: the capture has lost packets.",
        )
        result.story.append(
            f"Later packets presuppose others that are not in the capture ({summary.lost}). Where model and "
            "capture differ, a lost packet is the likely reason; what is seen to depend on one is undecided. "
            "The differences are listed below."
        )
        result.advice.append(
            "capture again without loss: on the server itself, to a fast disk, with a larger buffer (tcpdump "
            "-B), and look at what tcpdump says it dropped"
        )
        return
    result.worse(
        "bad", f"Model and capture differ {count(summary.mismatches, 'time')}: read the rest with care."
    )
    result.story.append(
        "The server did something else than this kernel with these settings would have done, so the kernel, "
        "backlog, sysctls or accept() times given (or assumed) are probably not the server's, or the capture "
        "lost packets. The differences are listed below."
    )
    if summary.kernel_note:
        result.story.append(f"The kernel may be the reason: {safe(summary.kernel_note)}.")
    result.advice.append(
        "give the server's own values (--host, --kernel, --backlog, --sysctl) and look at the first "
        "difference"
    )


def _cookies_on_the_wire(result: Verdict, summary: ListenerSummary) -> None:
    """The packets themselves show more cookies, or more requests, than the model made."""
    cookies = summary.decisions.get("cookie", 0)
    answered = sum(summary.decisions.get(kind, 0) for kind in ("queued", "fastopen"))
    if summary.seen_cookies > cookies:
        result.worse("notice", "The server sent SYN cookies that the settings taken here do not explain.")
        result.story.append(
            f"At least {count(summary.seen_cookies, 'SYN-ACK')} of the capture {_was(summary.seen_cookies)} "
            f"SYN cookies, as options, timestamps or sequence numbers prove; the model sent {cookies:,}."
        )
        result.advice.append(
            "the server's SYN queue holds less than is taken here: give its backlog (--backlog), or "
            "net.ipv4.tcp_syncookies=2 if it answers every SYN with a cookie"
        )
    elif summary.seen_requests > answered:
        result.worse("notice", "The server kept requests where the model sent SYN cookies.")
        result.story.append(
            f"At least {count(summary.seen_requests, 'SYN-ACK')} of the capture "
            f"{_was(summary.seen_requests)} no SYN cookies, as options, timestamps or repetitions prove; the "
            f"model queued {answered:,} SYNs."
        )
        result.advice.append("the server's SYN queue holds more than is taken here: give its backlog")


def _accept_queue(result: Verdict, summary: ListenerSummary, spans: dict[Kind, Span], start_ns: int) -> None:
    reasons = summary.reasons
    refused = sum(reasons.get(kind, 0) for kind in ACCEPT_QUEUE_FULL)
    if not refused:
        return
    result.worse("bad", f"The accept queue was full: {count(refused, 'packet')} refused.")
    parts = []
    if number := reasons.get(SYN_REFUSED):
        parts.append(f"{count(number, 'SYN was', 'SYNs were')} dropped (the client sends it again)")
    if number := reasons.get(ACK_REFUSED):
        repeats = summary.sysctl.get("net.ipv4.tcp_synack_retries", 1)
        again = " and repeats its SYN-ACK" if repeats else ""
        parts.append(
            f"{count(number, 'segment')} that would have completed a handshake {_was(number)} ignored (the "
            f"client believes it is connected, the server still waits{again})"
        )
    if number := reasons.get(COOKIE_REFUSED):
        parts.append(
            f"{count(number, 'valid cookie')} {_was(number)} ignored in silence (the client believes it is "
            "connected; no SYN-ACK again, no RST, nothing on the wire shows it)"
        )
    if number := reasons.get(RESET):
        parts.append(f"{count(number, 'client')} {_was(number)} reset because tcp_abort_on_overflow is 1")
    result.story.append(
        f"{summary.accept_capacity:,} established connections fit in the accept queue ({_limit(summary)}). "
        f"{_when(spans, ACCEPT_QUEUE_FULL, start_ns)}it was full, and {_listed(parts)}."
    )
    if not summary.accepted:
        result.story.append(
            "No accept() call is known in all that time: if the application was stalled, a longer queue "
            "would only have filled later."
        )
    result.advice += _more_room(summary)
    if reasons.get(RESET):
        result.advice.append(
            "net.ipv4.tcp_abort_on_overflow=0 lets clients try again instead of failing at once, if that "
            "is better"
        )


def _limit(summary: ListenerSummary) -> str:
    """Why so many fit."""
    effective, asked = summary.effective_backlog, summary.backlog
    if asked is None:
        return f"backlog unknown, taken as {effective:,} ({safe(summary.backlog_source)}); backlog + 1 fit"
    source = f" ({safe(summary.backlog_source)})" if summary.backlog_source else ""
    if asked == effective:
        return f"backlog {effective:,}{source}; one more than the backlog fits"
    why = "by net.core.somaxconn"
    if _truncated(summary):
        why = "because this kernel keeps only 16 bits of it"
    return f"backlog {asked:,}{source} becomes {effective:,} {why}; one more than that fits"


def _truncated(summary: ListenerSummary) -> bool:
    """Whether the kernel (before 4.1) cut the limit to 16 bits."""
    return summary.effective_backlog < min(summary.backlog or 0, summary.somaxconn)


def _more_room(summary: ListenerSummary) -> list[str]:
    """What to change so that fewer connections are refused."""
    faster = "accept() faster: more acceptor threads or processes, nothing slow between two accept() calls"
    if not summary.accepted:
        faster = "find out why the application does not call accept() (blocked, stopped, out of descriptors?)"
    asked, somaxconn = summary.backlog, summary.somaxconn
    again = "then call listen() again (restart the service): the limit is taken when listen() is called"
    if asked is None:
        room = (
            "tell the real backlog with --backlog N (`ss -ltn` shows it as Send-Q): the limit is assumed here"
        )
        return [room, faster]
    if _truncated(summary):
        room = (
            f"pass a backlog below 65,536 to listen() (it is {asked:,}, of which 16 bits are kept), {again}"
        )
        return [room, faster]
    if asked != summary.effective_backlog:
        return [
            f"raise net.core.somaxconn (it is {somaxconn:,} and cuts the backlog {asked:,}), {again}",
            faster,
        ]
    if summary.backlog_source.startswith("inferred"):  # then somaxconn is not known either
        known = f"{safe(summary.backlog_source)} {asked:,}"
        return [
            f"raise the backlog passed to listen() ({known}), and net.core.somaxconn if it is lower, or",
            faster,
        ]
    room = f"raise the backlog passed to listen() (it is {asked:,})"
    if asked >= somaxconn:
        room += f" and net.core.somaxconn (it is {somaxconn:,}) with it"
    else:
        room += f"; net.core.somaxconn allows up to {somaxconn:,}"
    return [f"{room}, or", faster]


def _syn_queue(result: Verdict, summary: ListenerSummary, spans: dict[Kind, Span], start_ns: int) -> None:
    reasons = summary.reasons
    cookies, always = reasons.get(COOKIES, 0), reasons.get(COOKIES_ALWAYS, 0)
    dropped, reserved = reasons.get(SYN_QUEUE_FULL, 0), reasons.get(SYN_QUEUE_RESERVED, 0)
    if cookies:
        _cookies(result, summary, cookies, _when(spans, (COOKIES,), start_ns))
    if always:
        result.story.append(
            f"{count(always, 'SYN was', 'SYNs were')} answered with cookies because "
            f"net.ipv4.tcp_syncookies is 2, "
            "not because of a full queue."
        )
    if dropped:
        result.worse("bad", f"The SYN queue was full: {count(dropped, 'SYN')} dropped.")
        result.story.append(
            f"{count(summary.syn_capacity, 'request fits', 'requests fit')} in the SYN queue. "
            f"{_when(spans, (SYN_QUEUE_FULL,), start_ns)}it was full, and because SYN cookies were not used, "
            f"{count(dropped, 'SYN was', 'SYNs were')} dropped."
        )
        if not summary.sysctl.get("net.ipv4.tcp_syncookies", 1):
            result.advice.append(
                "set net.ipv4.tcp_syncookies=1: a full SYN queue then costs options, not connections"
            )
        result.advice.append("raise the backlog (it bounds the SYN queue too), unless the SYNs are an attack")
    if reserved:
        result.worse(
            "bad", f"The last quarter of tcp_max_syn_backlog was reached: {count(reserved, 'SYN')} dropped."
        )
        limit = summary.sysctl.get("net.ipv4.tcp_max_syn_backlog")
        result.story.append(
            f"With SYN cookies off the last quarter of "
            f"net.ipv4.tcp_max_syn_backlog{f' ({limit:,})' if limit else ''} "
            f"is kept for clients that proved themselves before; {count(reserved, 'SYN')} of others "
            f"{_was(reserved)} dropped."
        )
        result.advice.append("raise net.ipv4.tcp_max_syn_backlog, or set net.ipv4.tcp_syncookies=1")


def _recycled(result: Verdict, summary: ListenerSummary) -> None:
    number = summary.reasons.get(RECYCLED, 0)
    if not number:
        return
    result.worse("bad", f"tcp_tw_recycle refused clients: {count(number, 'SYN')} dropped.")
    result.story.append(
        "With net.ipv4.tcp_tw_recycle=1 a SYN whose timestamp is older than the last one of its address is "
        "dropped for a minute after a connection of that address was in TIME_WAIT. Clients behind one NAT "
        f"have one address and different clocks: {count(number, 'SYN')} {_was(number)} dropped so."
    )
    result.advice.append("set net.ipv4.tcp_tw_recycle=0: behind NAT it breaks clients at random")


def _damaged(result: Verdict, summary: ListenerSummary) -> None:
    """Packets that never came to the listener."""
    number = summary.reasons.get(DAMAGED, 0)
    if not number:
        return
    result.worse(
        "notice", f"{count(number, 'packet')} came damaged: the wrong checksum is why there was no answer."
    )
    result.story.append(
        f"{count(number, 'packet')} for this listener {_was(number)} captured with a wrong checksum. "
        "The kernel drops such packets before it looks for a socket, so neither queue had a part in it; the "
        "client waits until it sends again."
    )
    result.advice.append(
        "find what damages packets: a network card or its offload settings (`ethtool -S`), a cable, or a "
        "middlebox that rewrites them; the server counts them: `nstat -az TcpInCsumErrors IpExtInCsumErrors`"
    )


def _cookies(result: Verdict, summary: ListenerSummary, cookies: int, when: str) -> None:
    reasons = summary.reasons
    back, refused = reasons.get(COOKIE_CAME_BACK, 0), reasons.get(COOKIE_REFUSED, 0)
    result.worse("notice", f"The SYN queue was full: {count(cookies, 'SYN')} answered with SYN cookies.")
    result.story.append(
        f"{count(summary.syn_capacity, 'request fits', 'requests fit')} in the SYN queue. {when}it was full, "
        f"and {count(cookies, 'SYN was', 'SYNs were')} answered with SYN cookies. That works, but the server "
        "remembers nothing: a lost SYN-ACK is not sent again, and TCP options are lost unless timestamps "
        "carry them."
    )
    if cookies >= _FLOOD_MIN and back + refused < cookies * _FLOOD_SHARE:
        result.story.append(
            f"Only {back:,} of {cookies:,} cookies came back as an ACK: this looks like a SYN flood, "
            "against which cookies are the right answer."
        )
        result.advice.append("leave tcp_syncookies at 1; a bigger backlog does not stop a flood")
        return
    result.story.append(f"{back:,} of {cookies:,} cookies came back and made a connection.")
    if not any(reasons.get(kind) for kind in ACCEPT_QUEUE_FULL):
        backlog = "" if summary.backlog is None else f" (it is {summary.backlog:,})"
        result.advice.append(
            "if these are ordinary clients, raise the backlog passed to listen()"
            f"{backlog}: it bounds the SYN queue too"
        )


def _cost(result: Verdict, summary: ListenerSummary) -> None:
    impacts = summary.impacts
    if not impacts:
        return
    total = len(impacts) + summary.impacts_hidden
    fates: dict[str, int] = {}
    for impact in impacts:
        fates[impact.fate] = fates.get(impact.fate, 0) + 1
    words = {
        "connected": "connected late", "reset": "reset", "never": "never connected",
        "gave_up": "given up by the client",
        "open": "undecided when the capture ends",
    }  # fmt: skip
    late = [impact.added_ns for impact in impacts if impact.fate == "connected"]
    parts = [f"{number:,} {words[fate]}" for fate, number in fates.items()]
    of = max(summary.clients, total)
    text = f"{count(total, 'connection attempt')} of {of:,} {_was(total)} hit: {_listed(parts)}"
    if summary.impacts_hidden:
        text += f" (of the first {len(impacts):,})"
    if late:
        average = duration(sum(late) // len(late))
        text += f". The late ones waited {average} on average, {duration(max(late))} at most"
    result.story.append(f"{text}.")


def _requests(result: Verdict, summary: ListenerSummary) -> None:
    reasons = summary.reasons
    if summary.expired:
        refused = reasons.get(ACK_REFUSED, 0)
        cause = (
            "Among them can be clients whose ACK was ignored above; the others never answered."
            if refused
            else "Their clients never completed the handshake; the queues' limits are not the cause."
        )
        if not refused:
            result.worse(
                "notice", f"{count(summary.expired, 'request')} expired: the clients never answered."
            )
        result.story.append(
            f"{count(summary.expired, 'request')} {_was(summary.expired)} given up after the last SYN-ACK "
            f"(silently: the client is told nothing). {cause}"
        )
    for kind, text in (
        (
            ("rst", "no_request"),
            "answered with a RST: the server knew no such request (never seen, expired, aborted)",
        ),
        (("rst", "no_listener"), "answered with a RST: nothing was listening any more (or yet)"),
        (("rst", "cookie_invalid"), "answered with a RST: neither a known request nor a valid SYN cookie"),
        (("rst", "cookie_expired"), "answered with a RST: the SYN cookie was too old"),
    ):
        if number := reasons.get(kind):
            result.worse("notice", f"{count(number, 'packet')} answered with a RST, not because of a queue.")
            result.story.append(f"{count(number, 'packet')} {_was(number)} {text}.")
    if number := reasons.get(("deferred", "defer_accept")):
        result.story.append(
            f"{count(number, 'bare ACK')} {_was(number)} ignored because of TCP_DEFER_ACCEPT: by design, the "
            "connection completes when data comes. This looks like an overflow on the wire, and is none."
        )


def _rest(result: Verdict, summary: ListenerSummary) -> None:
    """Drops and resets that have no paragraph: named, not explained."""
    others = [
        f"{number:,} {label(reason)} ({decision})"
        for (decision, reason), number in summary.reasons.items()
        if decision in {"dropped", "overflow", "rst"} and (decision, reason) not in _TOLD
    ]
    if others:
        result.worse("notice", "Some packets were dropped or reset, not because of a full queue.")
        result.story.append(f"Also: {_listed(others)}.")


def _nothing_wrong(summary: ListenerSummary) -> str:
    if not summary.decisions:
        return "No packet of a handshake reached this listener."
    clients = f"{count(summary.clients, 'connection attempt')}: " if summary.clients else ""
    return (
        f"No problem at the listen socket. {clients}nothing was refused; at most "
        f"{summary.peak_accept_queue[1]:,} of "
        f"{summary.accept_capacity:,} waited in the accept queue and {summary.peak_syn_queue[1]:,} of "
        f"{summary.syn_capacity:,} in the SYN queue."
    )


def _when(spans: dict[Kind, Span], kinds: tuple[Kind, ...], start_ns: int) -> str:
    """`Between 1.000 s and 2.000 s ` or `At 1.000 s `; a neutral word when no row told the time."""
    known = [spans[kind] for kind in kinds if kind in spans]
    if not known:
        return "At times "
    first = seconds(min(span.first_ns for span in known) - start_ns)
    last = seconds(max(span.last_ns for span in known) - start_ns)
    return f"At {first} s " if first == last else f"Between {first} s and {last} s "


def _was(number: int) -> str:
    return "was" if number == 1 else "were"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
