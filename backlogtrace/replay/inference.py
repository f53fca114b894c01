"""What a capture does not show, worked out from what it shows: kernel, settings, accept().

Reads the capture once for the evidence, searches for the servers that explain each listener's
packets, and hands on what to replay the capture with. Says which packets the rivals decide
differently. Refuses to turn a guess into a fact.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from itertools import islice
from math import inf
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

from backlogtrace.replay.discovery import listening
from backlogtrace.replay.evidence import Evidence
from backlogtrace.replay.host import Host, HostListener
from backlogtrace.replay.hypothesis import SYSCTLS, UNLIMITED, Hypothesis
from backlogtrace.replay.listening import Listening
from backlogtrace.replay.route import Route
from backlogtrace.replay.search import CONTRADICTION, Found, Search
from backlogtrace.replay.track import Track
from backlogtrace.replay.trial import Decided, attempt, blank_summary
from backlogtrace.segment import ACK, HANDSHAKE, SYN, endpoint, endpoint_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from backlogtrace.replay.acceptance import Floor
    from backlogtrace.segment import Segment

_KEPT = 300_000
"""Packets and whole handshakes kept in memory, so that a capture need not be read twice."""
_WINDOW = 2_000
"""Packets of a listener that hypotheses are tried on, from shortly before the first trouble."""
_BEFORE = 1_500
_LATELY = 60_000
_BUDGET = 800_000
"""Packets replayed in a search."""
_SMALL_BUDGET = 200_000
"""Likewise where only a part of the packets is searched: a large capture has waited to be read already."""
_SAMPLE = 200_000
_JUDGED = 10_000
"""Packets of a listener that the best hypotheses are compared on in the end."""
_RIVALS = 12
_RIVAL_PACKETS = 50_000
"""The packets are decided by that many rivals, or by more while no more packets than this are replayed."""
_JUDGED_RIVALS = 4
_NEAR = 2.3
"""A hypothesis whose cost is this close to the best one's may be the truth as well: a tenth as likely."""
_NEAR_BUT_FOR_LOSS = 4.0
"""Likewise of one that has more contradictions, which may be one lost packet's."""
_NEAR_BUT_FOR_RST = 6.5
"""Likewise of one that is contradicted by nothing but a RST that was not seen."""
_NEAR_WITH_LOSSES = 5.0
"""Likewise where the capture is known to lose packets."""
_DEFERRING = 2
_PASSES = Decided("passed")
_SEARCHED = 8
"""Listeners that are searched for; the others share what was found for them."""


@dataclass(slots=True)
class ListenerInference:
    """What was worked out for one listener."""

    listener: HostListener
    name: str
    seen: Listening
    ranked: list[Found] = field(default_factory=list)
    """The hypotheses that were tried to the end, the best first; empty where nothing called for a search."""
    packets: int = 0
    """Packets that they were tried on."""
    first_ns: int = 0
    """Time of the first packet of the capture."""
    loses: bool = False
    """See Evidence."""
    partial: bool = False
    """Only a later part of a large capture was searched: what waited in the queues before is not known."""

    @property
    def best(self) -> Hypothesis | None:
        """The hypothesis that explains most, most plainly."""
        return self.ranked[0].hypothesis if self.ranked else None

    def variants(self, name: str) -> list[Found]:
        """The hypotheses that differ from the best one in one field only, the better ones first."""
        best = self.ranked[0].hypothesis
        value = getattr(best, name)
        return [
            found
            for found in self.ranked[1:]
            if getattr(found.hypothesis, name) != value and replace(found.hypothesis, **{name: value}) == best
        ]

    def alternatives(self, name: str) -> list[Any]:
        """Other values of one field that leave the best hypothesis as free of contradictions.

        Of kernels also those that need other settings for it, if those are not much less usual.
        """
        values = {
            getattr(found.hypothesis, name)
            for found in (self.kernels() if name == "kernel" else self.variants(name))
            if self.as_good(found)
        }
        return sorted(values, key=lambda value: (value is not None, value))

    def kernels(self) -> list[Found]:
        """The best hypothesis of every other kernel: with the settings of the best one, or else its own."""
        best = self.ranked[0].hypothesis
        own: dict[str, Found] = {}
        for found in self.ranked[1:]:
            if found.hypothesis.kernel != best.kernel and found.cost < self.ranked[0].cost + CONTRADICTION:
                own.setdefault(found.hypothesis.kernel, found)
        alike = {found.hypothesis.kernel: found for found in self.variants("kernel") if self.as_good(found)}
        return list({**own, **alike}.values())

    def as_good(self, found: Found) -> bool:
        """Whether a hypothesis is as free of contradictions as the best one."""
        best = self.ranked[0].score
        return found.score.contradictions <= best.contradictions and found.score.weak <= best.weak

    def runner_up(self) -> Found | None:
        """The best hypothesis that the packets speak against, else the best that is only less usual."""
        best = self.ranked[0]
        against = (f for f in self.ranked if f.score.contradictions > best.score.contradictions)
        return next(against, self.ranked[1] if len(self.ranked) > 1 else None)

    def near(self) -> list[Found]:
        """The best hypothesis and those that explain the packets about as well, the different ones first.

        Many differ in a setting that makes no difference to these packets.
        """
        best = self.ranked[0]
        near = [found for found in self.ranked if found.cost <= best.cost + self._margin(found)]
        alike: Counter[object] = Counter()
        order = []
        for place, found in enumerate(near):
            score = found.score
            kind = found.hypothesis.kernel, score.contradictions, score.accepts, score.weak, score.reach
            order.append((alike[kind], place))
            alike[kind] += 1
        most = max(_RIVALS, _RIVAL_PACKETS // max(1, self.packets))
        return [near[place] for _, place in sorted(order)[:most]]

    def _margin(self, found: Found) -> float:
        """How much more than the best hypothesis one that may be the truth as well costs."""
        if self.loses:
            return _NEAR_WITH_LOSSES
        best, score = self.ranked[0].score.contradictions, found.score
        if score.contradictions == best + 1 and score.noted[-1].unreset:
            return _NEAR_BUT_FOR_RST
        more = score.contradictions > best
        return _NEAR_BUT_FOR_LOSS if more else _NEAR


@dataclass(slots=True)
class Inference:
    """What was worked out for a capture."""

    evidence: Evidence
    host: Host
    """The facts to replay the capture with."""
    listeners: list[ListenerInference]
    floors: dict[str, Floor]
    """What is proved of the accept queues, by listener."""
    differing: dict[int, tuple[str, ...]]
    """Packets (frames) that near rivals decide differently -> their other decisions."""
    doubted: dict[int, tuple[str, ...]]
    """Likewise by servers that only TCP_DEFER_ACCEPT makes less usual: what they send looks the same."""

    def backlog_source(self, listener: HostListener) -> str:
        """Where the backlog of a listener comes from; empty when it was given."""
        for one in self.listeners:
            if (one.listener.address, one.listener.port) == (listener.address, listener.port):
                if one.best is None or one.listener.backlog is not None:
                    return ""
                return "inferred from a part: at least" if one.partial else "inferred"
        return ""


class Recording:
    """The packets of a capture as they are read the first time, as far as they are kept."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self.items: list[Segment] | None = []
        """All of them in order; None when there were more than `limit`."""
        self.sample: list[Segment] = []
        """Those around the first trouble."""
        self._before: deque[Segment] = deque(maxlen=_LATELY)
        """The last packets: trouble is noticed some time after it began."""
        self._lasting = False

    def add(self, chunk: list[Segment], trouble_ns: int | None, lasting_ns: int | None = None) -> None:
        """The next packets; `trouble_ns`: when the first unusual thing was seen, None: nothing so far.

        What was seen before `lasting_ns` may be a few lost packets: the sample begins again then.
        """
        if self.items is not None:
            self.items += chunk
            if len(self.items) > self._limit:
                self.items = None
        if lasting_ns is not None and not self._lasting:
            self._lasting = True
            self._begin(chunk, lasting_ns)
            self._before.clear()
        elif trouble_ns is not None and not self.sample:
            self._begin(chunk, trouble_ns)
        elif trouble_ns is not None and len(self.sample) < _SAMPLE:
            self.sample += chunk
        if not self._lasting:
            self._before += chunk

    def _begin(self, chunk: list[Segment], trouble_ns: int) -> None:
        around = [*self._before, *chunk]
        start = bisect_left(around, trouble_ns, key=attrgetter("time_ns"))
        self.sample = around[max(0, start - _BEFORE) :]

    def finish(self, trouble_ns: int | None) -> None:
        """All packets were added; some trouble is noticed only then."""
        if trouble_ns is not None and not self.sample:
            self.sample = list(self._before)


class Reader:
    """The first pass over a capture: finds listeners, gathers evidence, keeps packets."""

    def __init__(
        self, listeners: list[HostListener], limit: int, backlog: int | None, *, rereadable: bool
    ) -> None:
        """At most `limit` listeners are found; all packets are kept of what can be read only once."""
        self.evidence = Evidence()
        self.recording = Recording(_KEPT if rereadable else inf)
        self.listeners = list(listeners)
        self._given = bool(listeners)
        self._limit = limit
        self._backlog = backlog
        self.first_ns = 0
        self.ignored = 0
        """Listeners beyond the limit."""
        self.route = Route()
        for listener in listeners:
            self._serve(endpoint(listener.address, listener.port))

    def read(self, chunks: Iterable[list[Segment]]) -> None:
        """Read all of it."""
        evidence = self.evidence
        for chunk in chunks:
            if not chunk:
                continue
            self.first_ns = self.first_ns or chunk[0].time_ns
            if not self._given:
                for end in listening(chunk, self.route.exact):
                    if len(self.listeners) >= self._limit:
                        self.ignored += 1
                        continue
                    self._serve(end)
                    address, _, port = endpoint_text(end).rpartition(":")
                    self.listeners.append(HostListener(address.strip("[]"), int(port), self._backlog))
            evidence.see(chunk, self.route)
            self.recording.add(chunk, evidence.trouble_ns(), evidence.lasting_ns())
        evidence.finish()
        self.recording.finish(evidence.trouble_ns())
        items = self.recording.items
        if items is not None and self._troubled() and any(item.flags & HANDSHAKE for item in items):
            # how the reader put handshakes together must make no difference to what is found
            self.recording.items = items = singles(items)
            self.evidence = evidence = Evidence()
            evidence.see(items, self.route)
            evidence.finish()

    def _troubled(self) -> bool:
        return any(known.troubled for known in self.evidence.listening.values())

    def _serve(self, end: bytes) -> None:
        self.route.add(end, Track(endpoint_text(end), end, None, blank_summary()))


def infer(reader: Reader, host: Host) -> Inference:
    """Work out what `host` does not say about the listeners of a capture that was read."""
    evidence, recording = reader.evidence, reader.recording
    found = [
        ListenerInference(
            listener, endpoint_text(endpoint(listener.address, listener.port)), _seen(evidence, listener)
        )
        for listener in reader.listeners
    ]
    judged = [] if evidence.missing() else [one for one in found if one.seen.troubled]
    troubled = sorted(judged, key=lambda one: one.seen.trouble, reverse=True)[:_SEARCHED]
    shared = _fixed(host)
    differing: dict[int, tuple[str, ...]] = {}
    doubted: dict[int, tuple[str, ...]] = {}
    floors: dict[str, Floor] = {}
    for one in troubled:
        segments = list(islice(_of_listener(recording, one.listener), _JUDGED))
        one.first_ns = reader.first_ns
        one.partial = recording.items is None and bool(segments) and segments[0].time_ns > reader.first_ns
        completing: frozenset[int] = frozenset()
        if one.partial:
            segments, completing = _begun_in(segments, one.listener)
        fixed = {**shared, **_fixed_listener(one.listener)}
        search = Search(
            segments[:_WINDOW], evidence, one.listener, replace(host, listeners=[], events=[]),
            seen=one.seen, fixed=fixed, budget=_BUDGET if len(segments) <= _WINDOW else _SMALL_BUDGET,
        )  # fmt: skip
        search.completing = completing
        one.ranked = search.run()
        one.packets = len(segments)
        one.loses = evidence.loses
        if len(segments) > _WINDOW:
            one.ranked = _judged(search, one.near()[:_JUDGED_RIVALS], segments, evidence)
        near = one.near()
        deferring = [found for found in one.variants("defer") if one.as_good(found)][:_DEFERRING]
        if len(near) > 1 or deferring:
            decided = [_decisions(search, rival, segments, evidence) for rival in (*near, *deferring)]
            differing |= _differing(decided[0], decided[1 : len(near)])
            doubted |= _differing(decided[0], decided[len(near) :])
        best = one.ranked[0].hypothesis
        shared.update({name: getattr(best, name) for name in ("kernel", *SYSCTLS)})
        floors |= one.ranked[0].score.floors
    return Inference(evidence, _facts(host, found, shared), found, floors, differing, doubted)


def singles(items: list[Segment]) -> list[Segment]:
    """The packets, with every whole handshake taken apart."""
    packets: list[Segment] = []
    for item in items:
        if item.flags & HANDSHAKE:
            packets += item.segments()  # type: ignore[attr-defined]
        else:
            packets.append(item)
    packets.sort(key=itemgetter(0))
    return packets


def _seen(evidence: Evidence, listener: HostListener) -> Listening:
    """What is known of a listener; of all addresses that a wildcard serves together."""
    total = Listening()
    for end, known in evidence.listening.items():
        if _serves(listener, end):
            total.add(known)
    return total


def _serves(listener: HostListener, end: bytes) -> bool:
    own = endpoint(listener.address, listener.port)
    if any(own[:-2]):
        return own == end
    return own[-2:] == end[-2:] and (len(own) == len(end) or listener.address == "::")


def _of_listener(recording: Recording, listener: HostListener) -> Iterator[Segment]:
    """The packets of one listener, as far as they were kept."""
    serves: dict[bytes, bool] = {}
    for segment in recording.sample if recording.items is None else recording.items:
        for end in (segment.src, segment.dst):
            if end not in serves:
                serves[end] = _serves(listener, end)
        if serves[segment.dst] or (serves[segment.src] and not segment.flags & HANDSHAKE):
            yield segment


def _begun_in(segments: list[Segment], listener: HostListener) -> tuple[list[Segment], frozenset[int]]:
    """Without the packets of connections that were in use before; frames of ACKs that may complete one.

    Which ACKs do that is not known: those that are the first seen of their connection are taken for it.
    """
    wanted: dict[bytes, bool] = {}
    kept, completing = [], set()
    for segment in segments:
        key, reverse = segment.src + segment.dst, segment.dst + segment.src
        if segment.flags & HANDSHAKE or segment.flags & (SYN | ACK) == SYN:
            wanted[key] = True
        elif key not in wanted and reverse not in wanted:
            wanted[key] = segment.flags == ACK and not segment.length and _serves(listener, segment.dst)
            if wanted[key]:
                completing.add(segment.frame)
        if wanted.get(key) or wanted.get(reverse):
            kept.append(segment)
    return kept, frozenset(completing)


def _fixed(host: Host) -> dict[str, object]:
    """Fields of Hypothesis that the user has given."""
    fixed: dict[str, object] = {
        name: host.sysctl[full] for name, full in SYSCTLS.items() if full in host.sysctl
    }
    if host.kernel is not None:
        fixed["kernel"] = host.kernel
    return fixed


def _fixed_listener(listener: HostListener) -> dict[str, object]:
    given = {
        "backlog": listener.backlog,
        "defer": listener.defer_accept,
        "fastopen_qlen": listener.fastopen_qlen,
    }
    return {name: value for name, value in given.items() if value is not None}


def _judged(search: Search, rivals: list[Found], segments: list[Segment], evidence: Evidence) -> list[Found]:
    """The best hypotheses again, by more of the packets."""
    judged = []
    for rival in rivals:
        score = attempt(segments, evidence, search.host(rival.hypothesis), completing=search.completing)
        judged.append(Found(search.cost(rival.hypothesis, score), rival.hypothesis, score))
    return sorted(judged, key=lambda one: one.cost)


def _decisions(
    search: Search, rival: Found, segments: list[Segment], evidence: Evidence
) -> dict[int, Decided]:
    """What a hypothesis says of every packet, by frame."""
    decisions: dict[int, Decided] = {}
    host = search.host(rival.hypothesis)
    attempt(segments, evidence, host, completing=search.completing, decisions=decisions)
    return decisions


def _differing(best: dict[int, Decided], others: Iterable[dict[int, Decided]]) -> dict[int, tuple[str, ...]]:
    """Packets that rivals decide differently from the best hypothesis, or leave open where one contradicts.

    What belongs to a connection that was established already has no decision: it passes.
    """
    found: dict[int, dict[str, None]] = {}
    for decisions in others:
        for frame in best.keys() | decisions.keys():
            decided, mine = decisions.get(frame, _PASSES), best.get(frame, _PASSES)
            if decided.decision != mine.decision:
                other = decided.decision
                found.setdefault(frame, {})["defer_accept" if other == "deferred" else other] = None
            elif decided.others and not mine.others:
                found.setdefault(frame, {}).update(dict.fromkeys(decided.others))
    return {frame: tuple(names) for frame, names in found.items()}


def _facts(host: Host, found: list[ListenerInference], shared: dict[str, object]) -> Host:
    """The host file that says what was worked out."""
    listeners, events, changes = [], [], []
    for index, one in enumerate(found):
        best = one.best
        if best is None:
            listeners.append(one.listener)
            continue
        facts = best.host(one.listener, Host(), one.seen.doors)
        listeners.append(facts.listeners[0])
        for event in facts.events:
            if event.op == "sysctl":
                changes.append(event)
            else:
                events.append(replace(event, listener=index))
    sysctl = {full: value for name, full in SYSCTLS.items() if isinstance(value := shared.get(name), int)}
    if sysctl:
        largest = max((listener.backlog or 0 for listener in listeners), default=0)
        sysctl["net.core.somaxconn"] = max(largest, UNLIMITED)
    return replace(
        host,
        kernel=str(shared["kernel"]) if "kernel" in shared else host.kernel,
        sysctl={"net.core.somaxconn": max(largest, UNLIMITED), **sysctl, **host.sysctl}
        if sysctl
        else host.sysctl,
        listeners=listeners,
        events=sorted({*events, *changes}, key=lambda event: event.time_ns),
    )
