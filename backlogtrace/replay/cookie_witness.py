"""Which SYN-ACKs of a capture are cookies: collects the signs of each from the wire alone.

Fed with the packets in order; needs no model of the queues and no host file. Every SYN-ACK gets a
`Recognition`, to which later packets add: a repetition, the clock of another packet, the next
SYN-ACK of the same 4-tuple. Takes the capture to be complete. Refuses to follow one or the other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, cast

from backlogtrace.kernel import cookie_signs as signs
from backlogtrace.kernel.cookie_signs import Answer, Offers, Sign
from backlogtrace.segment import ACK, FLAG_BITS, HANDSHAKE, RST, SYN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backlogtrace.kernel.clock import Clock
    from backlogtrace.kernel.cookie_signs import Origin
    from backlogtrace.kernel.profile import Profile
    from backlogtrace.kernel.settings import Settings
    from backlogtrace.segment import Handshake, Segment

_SILENCE_NS = 2_500_000_000
"""A request's SYN-ACK is repeated after 1 s: at the latest by then on every kernel."""
_SHORTEST_LIFE_NS = 900_000_000
_TIMER_NS = 500_000_000
_MEMORY_NS = 120_000_000_000
_BUDGET = 200_000
"""Packets looked at on the side of an analysis; a flood must not cost twice."""
_WHOLE = 500
"""Whole handshakes among them, at most: a sample, since nothing was refused to them."""
_USUAL_HZ = (100, 250, 300, 1000)
_HZ_SLACK = 0.02
_NEAR = 2 * signs.TSVALUES
_PENDING = 64  # undecided SYN-ACKs kept per clock
_PROOF = float("inf")


class Recognition:
    """What is known of one SYN-ACK."""

    __slots__ = ("answer", "signs")

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.signs: dict[str, Sign] = {}
        """By name; SYN-ACKs that must be of one origin share them."""

    def add(self, sign: Sign) -> None:
        """One more sign; of the same name the stronger one counts."""
        known = self.signs.get(sign.name)
        if known is None or abs(sign.odds) > abs(known.odds):
            self.signs[sign.name] = sign

    @property
    def odds(self) -> float:
        """Natural logarithm of the odds for a cookie; infinite where it is proved, 0 when contradicting."""
        return signs.weigh(self.signs.values())[1]

    @property
    def verdict(self) -> Origin:
        """Cookie or request where one of them is likely, else either."""
        return signs.weigh(self.signs.values())[0]

    @property
    def proved(self) -> bool:
        """Whether the verdict is more than likely."""
        return abs(self.odds) == _PROOF


class _Flow:
    """One 4-tuple."""

    __slots__ = ("last", "last_ns", "reset", "spoke", "syn", "syns")

    def __init__(self) -> None:
        self.syn: Segment | None = None
        self.syns = 0
        """SYNs since the last SYN-ACK."""
        self.last: Recognition | None = None
        self.last_ns = 0
        self.spoke = False
        """The client sent something else than SYNs since the last SYN-ACK."""
        self.reset = False


class _TsClock:
    """The timestamps that come from one clock and offset."""

    __slots__ = ("base", "base_ns", "checked", "first", "first_ns", "hz", "pending", "residue")

    def __init__(self, hz: int, residue: int | None) -> None:
        self.hz = hz
        """Ticks per second; 0: not known."""
        self.residue = residue
        """What all cookies have in common; None: not known yet."""
        self.pending: deque[Recognition] = deque(maxlen=_PENDING)
        self.first = -1
        self.first_ns = 0
        self.base = 0.0
        self.base_ns = 0
        """The most advanced clock seen, in ticks relative to the first packet, and when."""
        self.checked = 0.0
        """Base with which the undecided SYN-ACKs were compared."""

    def relative(self, tsval: int, when_ns: int) -> float:
        """Ticks that a clock showing `tsval` at `when_ns` is ahead of that of the first packet."""
        return signs.signed(tsval - self.first) - (when_ns - self.first_ns) * self.hz / 1e9

    def near(self, found: Recognition) -> bool:
        """Whether a SYN-ACK can be of this clock: back-ports made offsets finer than a profile may know."""
        synack = found.answer.synack
        return self.first < 0 or abs(self.base - self.relative(synack.tsval, synack.time_ns)) < _NEAR


class CookieWitness:
    """Collects signs; `recognitions` maps frame numbers of SYN-ACKs to what is known of them.

    `settings` are the server's where they are known (None: not), `clock` its clock if exact, `hz` its
    ticks per second where timestamps count them.
    """

    def __init__(
        self, profile: Profile, settings: Settings | None = None, clock: Clock | None = None, hz: int = 0
    ) -> None:
        self._profile = profile
        self._settings = settings
        self._clock = clock if clock is not None and clock.exact else None
        self._hz = 1000 if profile.tsval_clock == "ms" else hz
        self._flows: dict[bytes, _Flow] = {}
        self._order: deque[tuple[int, bytes]] = deque()
        self._clocks: dict[bytes, _TsClock] = {}
        self._silent: dict[bytes, deque[tuple[int, _Flow, Recognition]]] = {}
        self._offers: dict[bytes, Offers] = {}
        self.recognitions: dict[int, Recognition] = {}

    def feed(self, segment: Segment) -> Recognition | None:
        """The next packet; a SYN-ACK's recognition, which may grow later."""
        flags = segment.flags
        if flags & SYN:
            if flags & ACK:
                flow = self._flows.get(segment.dst + segment.src)
                return None if flow is None or flow.syn is None else self._synack(flow, segment)
            self._syn(segment)
            return None
        flow = self._flows.get(segment.src + segment.dst)
        if flow is not None:
            flow.spoke = True
            flow.reset = flow.reset or bool(flags & RST)
            return None
        flow = self._flows.get(segment.dst + segment.src)
        if flow is not None:
            flow.reset = flow.reset or bool(flags & RST)
            self._alive(segment)
            if segment.tsval >= 0 and (clock := self._clock_of(segment)) is not None:
                self._advance(clock, segment.tsval, segment.time_ns)
                self._current(clock)
        return None

    def _syn(self, syn: Segment) -> None:
        key = syn.src + syn.dst
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = _Flow()
        flow.syn = syn
        flow.syns += 1
        flow.last_ns = syn.time_ns
        self._order.append((syn.time_ns, key))
        self._forget(syn.time_ns - _MEMORY_NS)

    def _forget(self, horizon: int) -> None:
        order = self._order
        while order and order[0][0] < horizon:
            when, key = order.popleft()
            flow = self._flows.get(key)
            if flow is not None and flow.last_ns <= when:
                del self._flows[key]
                self._clocks.pop(key, None)

    # ---- a SYN-ACK ----

    def _synack(self, flow: _Flow, synack: Segment) -> Recognition | None:
        syn, before = flow.syn, flow.last
        assert syn is not None
        self._alive(synack)
        if before is not None and not flow.syns:
            if synack.seq == before.answer.synack.seq and (
                synack.time_ns - before.answer.synack.time_ns > _TIMER_NS
            ):
                before.add(signs.REPEATED)
                self.recognitions[synack.frame] = before
                self._repeated(before.answer.synack, synack)
            return None
        if not 1 <= (synack.ack - syn.seq) & 0xFFFFFFFF <= 2 + syn.length:
            return None
        found = Recognition(Answer(syn, synack))
        if before is not None:
            self._compare(flow, before, found)
        for sign in signs.option_signs(syn, synack, self._offers_of(syn, synack)):
            found.add(sign)
        self._timestamps(found)
        self.recognitions[synack.frame] = found
        flow.last, flow.syns, flow.spoke, flow.reset = found, 0, False, False
        pending = self._silent.get(synack.src)
        if pending is None:
            pending = self._silent[synack.src] = deque()
        pending.append((synack.time_ns + _SILENCE_NS, flow, found))
        return found

    def _offers_of(self, syn: Segment, synack: Segment) -> Offers:
        """Options that the server answers with, as given or as other SYN-ACKs showed."""
        if self._settings is not None:
            return Offers(bool(self._settings.tcp_sack), bool(self._settings.tcp_window_scaling))
        host = synack.src[:-2]
        known = self._offers.get(host, Offers())
        if syn.sack_ok and synack.sack_ok and not known.sack:
            known = self._offers[host] = known._replace(sack=True)
        if syn.wscale >= 0 and synack.wscale >= 0 and not known.wscale:
            known = self._offers[host] = known._replace(wscale=True)
        return known

    def _compare(self, flow: _Flow, before: Recognition, found: Recognition) -> None:
        """The ISNs of two SYN-ACKs of one 4-tuple."""
        relation = signs.relate(self._profile, before.answer, found.answer)
        if relation.kind == "same":
            found.signs = before.signs  # one request or two equal cookies
            return
        if relation.kind in {"cookies", "maybe_cookies"}:
            sign = signs.COOKIES if relation.kind == "cookies" else signs.MAYBE_COOKIES
            before.add(sign)
            found.add(sign)
            return
        if relation.kind == "clock":
            before.add(signs.REQUESTS)
            found.add(signs.REQUESTS)
            return
        if flow.spoke or flow.reset:
            return  # what was there before may be gone, and TIME_WAIT chooses ISNs differently
        first, second = before.answer.syn, found.answer.syn
        if first.seq == second.seq and second.time_ns - before.answer.synack.time_ns < _SHORTEST_LIFE_NS:
            before.add(signs.FORGOTTEN)
        elif before.odds == -_PROOF:
            found.add(signs.NOT_THE_CLOCK)
        if before.odds == _PROOF:
            if relation.kind == "unrelated" or self._same_minute(first, second):
                found.add(signs.NOT_A_COOKIE)
            else:
                found.add(signs.later_minute(relation))

    def _same_minute(self, first: Segment, second: Segment) -> bool:
        clock = self._clock
        return clock is not None and clock.minute(first.time_ns) == clock.minute(second.time_ns)

    # ---- timestamps ----

    def _clock_of(self, segment: Segment) -> _TsClock | None:
        """The clock of a packet of the server; None where timestamps tell nothing."""
        offset = self._profile.tsval_offset
        if self._settings is not None and self._settings.tcp_timestamps == 2:  # noqa: PLR2004 - no offset
            offset = "none"
        if offset == "mixed":
            return None
        key = (
            b""
            if offset == "none"
            else segment.dst[:-2] + segment.src[:-2]
            if offset == "host"
            else segment.dst + segment.src
        )
        clock = self._clocks.get(key)
        if clock is None:
            clock = self._clocks[key] = _TsClock(self._hz, 0 if offset == "none" else None)
        return clock

    def _timestamps(self, found: Recognition) -> None:
        syn, synack = found.answer
        if synack.tsval in {-1, 0xFFFFFFFF} or (clock := self._clock_of(synack)) is None:
            return
        if clock.residue is not None and clock.near(found):
            found.add(signs.residue_sign(signs.residue(syn, synack), clock.residue))
        self._advance(clock, synack.tsval, synack.time_ns)
        if not self._behind(clock, found):
            clock.pending.append(found)

    def _repeated(self, first: Segment, again: Segment) -> None:
        """Two SYN-ACKs of one request show how many ticks a second has."""
        if min(first.tsval, again.tsval) < 0 or (clock := self._clock_of(again)) is None:
            return
        if not clock.hz:
            rate = signs.signed(again.tsval - first.tsval) / (again.time_ns - first.time_ns) * 1e9
            clock.hz = self._hz = next((hz for hz in _USUAL_HZ if abs(rate - hz) < hz * _HZ_SLACK), 0)
        self._advance(clock, again.tsval, again.time_ns)

    def _advance(self, clock: _TsClock, tsval: int, when_ns: int) -> None:
        """A packet shows at least this clock: SYN-ACKs whose clock is behind it are cookies."""
        if not clock.hz:
            return
        if clock.first < 0:
            clock.first, clock.first_ns, clock.base_ns = tsval, when_ns, when_ns
        shown = clock.relative(tsval, when_ns)
        if shown > clock.base - 1:
            clock.base, clock.base_ns = shown, when_ns
        if shown > clock.checked + 1:
            clock.checked = shown
            for found in list(clock.pending):
                if self._behind(clock, found):
                    clock.pending.remove(found)

    def _behind(self, clock: _TsClock, found: Recognition) -> bool:
        """Whether a SYN-ACK's clock is behind, even if it was made when the SYN came."""
        if clock.first < 0:
            return False
        syn, synack = found.answer
        behind = clock.base - clock.relative(synack.tsval, syn.time_ns)
        if not signs.lag_slack(clock.hz, clock.base_ns - syn.time_ns) < behind < _NEAR:
            return False
        found.add(signs.BEHIND)
        if clock.residue is None:
            clock.residue = signs.residue(syn, synack)
            for other in clock.pending:
                if other is not found and clock.near(other):
                    other.add(signs.residue_sign(signs.residue(*other.answer), clock.residue))
        return True

    def _current(self, clock: _TsClock) -> None:
        """A packet that is no SYN-ACK has the clock itself: those that had it, too, are hardly cookies."""
        while clock.pending and clock.first >= 0:
            found = clock.pending.popleft()
            synack = found.answer.synack
            slack = signs.lag_slack(clock.hz, clock.base_ns - synack.time_ns)
            if abs(clock.base - clock.relative(synack.tsval, synack.time_ns)) < slack:
                found.add(signs.current(slack))

    # ---- silence ----

    def _alive(self, segment: Segment) -> None:
        """The server sent a packet: what it has not repeated by now it will not repeat."""
        pending = self._silent.get(segment.src)
        now = segment.time_ns
        while pending and pending[0][0] <= now:
            _, flow, found = pending.popleft()
            silent = flow.last is found and not (flow.spoke or flow.syns or flow.reset)
            if silent and signs.REPEATED.name not in found.signs:
                found.add(signs.NOT_REPEATED)


class SideWitness:
    """A witness next to a replay: gets the packets ahead of it, and looks at them no further than asked.

    So what it says does not depend on how the capture is cut into chunks.
    """

    def __init__(self, profile: Profile, hz: int | None, *, kernel_known: bool, sampling: bool) -> None:
        """`sampling`: of whole handshakes a few will do, because nobody asks about each."""
        if not kernel_known:  # then the timestamps' clock is not, either
            profile = replace(profile, tsval_offset="mixed")
        self._timed = kernel_known
        self._sampling = sampling
        self._witness = CookieWitness(profile, hz=hz or 0)
        self._waiting: deque[Segment] = deque()
        self._left = _BUDGET
        self._whole_left = _WHOLE if sampling else _BUDGET
        self._apart: dict[int, list[Segment]] = {}
        """Openings of handshakes taken apart, by frame, until they are asked for."""

    @property
    def exhausted(self) -> bool:
        """Whether it looks at no more packets: of those it did not look at, nothing is known."""
        return self._left <= 0

    def add(self, chunk: list[Segment]) -> None:
        """The next packets of the capture, whole handshakes among them."""
        if self._left <= 0:
            return
        singles: list[Segment] = []
        for item in chunk[: self._left]:
            if item.flags <= FLAG_BITS:
                singles.append(item)
            elif item.flags & HANDSHAKE and self._whole_left:
                self._whole_left -= 1
                singles += self._take_apart(cast("Handshake", item))
        self._left -= len(singles)
        singles.sort(key=itemgetter(0))
        self._waiting.extend(singles)

    def _take_apart(self, item: Handshake) -> list[Segment]:
        """The packets of a handshake that can tell anything."""
        if self._timed:
            return item.segments()
        if self._sampling:
            return item.opening()
        packets = self._apart[item.frame] = item.opening()
        return packets

    def opening(self, item: Handshake) -> list[Segment]:
        """Its opening; it is asked for once."""
        return self._apart.pop(item.frame, None) or item.opening()

    def look(self, until_ns: int) -> None:
        """Look at the packets up to the first one after `until_ns`."""
        waiting, feed = self._waiting, self._witness.feed
        while waiting and waiting[0].time_ns <= until_ns:
            feed(waiting.popleft())

    def of(self, synack: Segment, until_ns: int) -> Recognition | None:
        """What the packets up to `until_ns` say of a SYN-ACK; None for one that was not looked at."""
        self.look(until_ns)
        return self._witness.recognitions.get(synack.frame)

    def proved(self) -> Iterator[tuple[bytes, Origin]]:
        """Listening endpoint and origin of every SYN-ACK whose origin is proved, repetitions once."""
        while self._waiting:
            self._witness.feed(self._waiting.popleft())
        for known in dict.fromkeys(self._witness.recognitions.values()):
            if known.proved:
                yield known.answer.synack.src, known.verdict
