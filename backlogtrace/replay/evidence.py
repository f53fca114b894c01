"""What the wire itself says of every inbound packet, whatever kernel and settings the server has.

One pass over a capture, before any replay of it. Per packet of a connection that is not yet in use:
the direct reply, whether the server repeated its SYN-ACK afterwards, whether it used the
connection, whether the client had to send again. Knows no queue and no rule of any kernel.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from backlogtrace.replay.bits import (
    ACK_REPLY,
    ACKED_AGAIN,
    CLOCK_SIGN,
    COOKIE_SIGN,
    CROSSED,
    FASTOPEN_SIGN,
    FOREIGN,
    GOES_ON,
    GONE,
    IGNORED,
    LATE,
    NOT_RESET,
    REMINDED,
    REPEATED,
    REPLY,
    REQUEST_SIGN,
    RST_REPLY,
    SENT_DATA,
    SYNACK_REPLY,
    UNSEEN_ACK,
    UNSEEN_SYN,
    USED,
    WAITED,
)
from backlogtrace.replay.calibration import Directions, Vantage
from backlogtrace.replay.closes import Closes
from backlogtrace.replay.flow import (
    CROSSING_NS,
    Flow,
    acknowledges,
    acks_data,
    answers,
    by_timer,
    crosses,
    reopened,
    takes_data,
)
from backlogtrace.replay.listening import Door, Listening
from backlogtrace.segment import ACK, FIN, FLAG_BITS, HANDSHAKE, RST, SYN, end_seq, seq_after

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backlogtrace.replay.route import Route
    from backlogtrace.replay.stranger import Stranger
    from backlogtrace.segment import Segment

REPLY_NS = 300_000_000
"""A direct reply comes within this."""
_FIRST_REPLY_NS = 980_000_000
"""The first SYN-ACK of a connection: no timer sends one so early, so it is the answer to the SYN."""
_AT_ONCE_NS = 50_000_000  # a kernel answers sooner, and is seen to where the capture is near
_MUCH = 5  # times as long as any SYN-ACK took
_DELAYED_ACK_NS = 200_000_000  # TCP_DELACK_MAX
_STAYS_CLOSED_NS = 1_000_000_000
_FULL_NS = 3_000_000_000  # a queue that is full refuses more than one
_FLOWS = 100_000  # of a generation: a flood must not fill the memory
_ALONE_NS = 3_000_000_000  # a request's SYN-ACK is repeated by then
_TAKEN_BACK = 1_000
_MOST_REPEATS = 63  # no capture is as long as these take
_IN_A_ROW = 3  # SYNs: so many do not get lost, or their answers
_MOSTLY = 4  # times as many clients acknowledge at once as do not: those may have done so, too
_PROMPT_NS = 500_000_000  # longer than a round trip takes
_WHOLE_LOOKED_AT = 64
"""Whole handshakes whose SYN-ACK is looked at."""
_MASK = 0xFFFFFFFF
_OPENING = SYN | ACK | RST
_FIRST = SENT_DATA | LATE | REMINDED
_RATE = 1_000  # of so many attempts one lost packet says nothing about the others


class Evidence:
    """The evidence of a capture: `see` every segment, then `finish`."""

    def __init__(self) -> None:
        self.last_ns = 0
        self.directions = Directions()
        self.vantage = Vantage()
        self.listening: dict[bytes, Listening] = {}
        """By endpoint."""
        self.lost: set[int] = set()
        """SYNs (frames) whose SYN-ACK was not captured, but acknowledged, or sent again by a timer."""
        self.unsure: set[int] = set()
        """Packets (frames) of clients that may have been dropped, although something answers them: that may
        answer another one, which the capture lost."""
        self.connected: set[int] = set()
        """RSTs (frames) of clients that sent no ACK before: only who is connected acknowledges with it."""
        self.unseen_syns = self.unseen_synacks = self.unseen_acks = self.unseen_others = 0
        """What the capture lost besides: SYNs that a SYN-ACK answers, SYN-ACKs that a client acknowledges
        again, ACKs that complete a handshake, and others that the server acknowledges or resets."""
        self.loses = False
        """In the end: whether the capture is known to lose packets, and not just one out of thousands."""
        self._bits = array("H", bytes(2048))
        self._flows: dict[bytes, Flow] = {}
        self._older: dict[bytes, Flow] = {}
        """The generation before: only those that come again are kept on."""
        self._single: list[tuple[Segment, bool]] = []
        """SYNs whose answer the capture may have lost, and whether those before and after them got one."""
        self._closes = Closes()
        self._older_left = False
        """Flows were left behind for want of memory: what is not known may have been known once."""
        self._used_ns: dict[int, int] = {}
        """See taken_by(); None there: no other packet can have completed the handshake."""
        self._again: dict[int, Segment] = {}
        """See acked_again()."""
        self._completed_ns: dict[int, int] = {}
        """See unseen_ack_ns(): the latest that it can be."""
        self._trip_ns = 0

    # ---- asking ----

    def missing(self) -> str:
        """What the capture lacks for a judgement, in words; empty when it lacks nothing."""
        return self.directions.missing(max((known.repeats for known in self.listening.values()), default=0))

    def lost_packets(self) -> str:
        """What is not in the capture although later packets presuppose it, in words; empty: nothing."""
        kinds = self._losses().items()
        return ", ".join(f"{number} {kind}{'s' * (number > 1)}" for kind, number in kinds if number)

    def _losses(self) -> dict[str, int]:
        """How many packets of each kind the capture is known to have lost."""
        return {
            "SYN": self.unseen_syns,
            "SYN-ACK": len(self.lost) + self.unseen_synacks,
            "ACK": self.unseen_acks,
            "later packet": self.unseen_others,
        }

    def of(self, frame: int) -> int:
        """What is known of a packet, as bits; 0: nothing."""
        return self._bits[frame] if frame < len(self._bits) else 0

    def unanswered(self, frame: int) -> bool:
        """Whether nothing shows that the server knows the connection of a packet, whose SYN is not known."""
        return self.of(frame) & (FOREIGN | USED | ACK_REPLY | RST_REPLY) == FOREIGN

    def taken_by(self, frame: int) -> int | None:
        """When the client sent the last packet that can have been taken instead of a USED one (ns)."""
        return self._used_ns.get(frame)

    def unseen_ack_ns(self, synack: Segment) -> int | None:
        """When an ACK that the capture lost completed the handshake of a SYN-ACK; None: it lost none.

        Taken to be as late as that of most clients, but before the server used the connection.
        """
        if not self.of(synack.frame) & UNSEEN_ACK:
            return None
        return min(synack.time_ns + self._trip_ns, self._completed_ns[synack.frame] - 1)

    def acked_again(self, frame: int) -> Segment | None:
        """The ACK that a client sent next as if a timer had sent it another SYN-ACK; None: it sent none."""
        return self._again.get(frame)

    def trouble_ns(self) -> int | None:
        """When the first unusual thing was seen so far, or noticed; None: nothing was."""
        troubled = [known for known in self.listening.values() if known.troubled]
        refused = [known.refused[0] for known in troubled if known.refused]
        return min(refused, default=self.last_ns) if troubled else None

    def lasting_ns(self) -> int | None:
        """When first more was refused so far than a few lost packets may seem to be; None: nothing was."""
        return min((ns for known in self.listening.values() if (ns := known.lasting_ns)), default=None)

    def troubled(self, end: bytes) -> bool:
        """Whether anything unusual was seen at a listening endpoint."""
        known = self.listening.get(end)
        return known is not None and known.troubled

    def ack_missing(self, segment: Segment) -> bool:
        """Whether the capture may have lost the ACK before a packet that completes a handshake.

        So it is where a client seems to have sent none, or a late one, while most of the others sent one at
        once; and where the capture is known to have lost packets, if what it sent may have come after one.
        """
        kind = self.of(segment.frame) & _FIRST
        if not kind & (SENT_DATA | LATE):
            return False
        first = self.listening[segment.dst].first
        if kind & SENT_DATA:
            usual = sum(times for other, times in first.items() if not other & SENT_DATA)
            only = usual > 0 and first[kind] == 1
        else:
            usual, only = first[kind ^ LATE], False
        return only or usual >= _MOSTLY * first[kind] or (self.loses and kind != LATE)

    def perhaps_in(self, end: bytes, now: int) -> int:
        """How many connections of a listening endpoint may be complete already, by an ACK that was lost."""
        since, until = self._known(end).early
        return bisect_right(since, now) - bisect_right(until, now)

    def last_refusal(self, end: bytes, before_ns: int) -> int | None:
        """When something was last refused at a listening endpoint before `before_ns`."""
        known = self.listening.get(end)
        if known is None:
            return None
        place = bisect_left(known.refused, before_ns)
        return known.refused[place - 1] if place else None

    def refuses_next(self, end: bytes, now: int) -> bool:
        """Whether the next that is known of a listening endpoint is that it refuses something."""
        known = self.listening.get(end)
        if known is None:
            return False
        refusal = bisect_right(known.refused, now)
        taken = bisect_right(known.taken, now)
        if refusal == len(known.refused):
            return False
        return taken == len(known.taken) or known.refused[refusal] < known.taken[taken]

    # ---- taking in ----

    def see(self, segments: Iterable[Segment], route: Route) -> None:
        """Take in the next segments of a capture, in order; `route` knows the listeners among them."""
        exact, wild = route.exact, route.wild
        size = len(self._bits)
        for segment in segments:
            if segment.frame >= size:
                size = self._reach(segment.frame)
            self.last_ns = segment.time_ns
            src, dst, flags = segment.src, segment.dst, segment.flags
            inbound = dst in exact or (bool(wild) and route.find(dst) is not None)
            if flags > FLAG_BITS:  # a whole handshake, or a packet that the server did not get
                if inbound and flags & HANDSHAKE:
                    self.directions.whole += 1
                    self._bits[segment.frame] |= SYNACK_REPLY
                    known = self._known(dst)
                    known.attempts += 1
                    known.first[0] += 1
                    if known.attempts <= _WHOLE_LOOKED_AT:
                        syn, synack, *_ = segment.opening()  # type: ignore[attr-defined]
                        known.stranger.synack(syn, synack)
                continue
            if inbound and (src in exact or (wild and route.find(src) is not None)):  # both ends listen
                inbound = flags & (SYN | ACK) == SYN or self._flow(src + dst) is not None
            if inbound:
                if flags & _OPENING == SYN:
                    key = src + dst
                    if key not in self._flows and key not in self._older:
                        self._opened(segment, key)
                        continue
                self.directions.count(segment, inbound=True)
                self._inbound(segment)
            elif src in exact or (wild and route.find(src) is not None):
                self.directions.count(segment, inbound=False)
                self._outbound(segment)

    def _reach(self, frame: int) -> int:
        """Make room for what is known of a packet; returns for how many there is room now."""
        if frame >= len(self._bits):
            self._bits.frombytes(bytes(2 * max(len(self._bits), frame)))
        return len(self._bits)

    def whole(self, handshake: list[Segment]) -> None:
        """The packets of a handshake that came as one item: each was what it had to be."""
        for segment in handshake:
            self._reach(segment.frame)
        self._bits[handshake[0].frame] |= SYNACK_REPLY
        for segment in handshake[2:]:
            if segment.src == handshake[0].src:
                self._bits[segment.frame] |= USED | ACK_REPLY

    def finish(self) -> None:
        """The capture is over."""
        self._trip_ns = self.vantage.trip_ns()
        for known in self.listening.values():
            self._judge_syns(known, None)
            if known.single is not None:
                self._judge_single(*known.single)
            self._judge_acks(known, self.last_ns)
        for end, closed_ns in self._closes.last().items():
            known = self._known(end)
            if not known.closed and known.alive_ns < closed_ns < self.last_ns - _STAYS_CLOSED_NS:
                known.doors.append(Door(closed_ns - 1, open=False))
        self._leave(self._older)
        self._leave(self._flows)
        self._older, self._flows = {}, {}
        for known in self.listening.values():
            known.refused = array("q", sorted(known.refused))
            known.taken = array("q", sorted(known.taken))
        attempts = sum(known.attempts for known in self.listening.values())
        self.loses = sum(self._losses().values()) * _RATE > attempts
        for known in self.listening.values():
            early = [(sent_ns, first.time_ns) for sent_ns, first in known.perhaps if self.ack_missing(first)]
            known.early = sorted(since for since, _ in early), sorted(until for _, until in early)
            known.perhaps.clear()
        for syn, between in self._single:
            refused, when = self._known(syn.dst).refused, syn.time_ns
            alone = bisect_right(refused, when + _FULL_NS) - bisect_left(refused, when - _FULL_NS) <= 1
            if (alone and between) or (self.loses and (alone or between)):
                self.unsure.add(syn.frame)

    def _known(self, end: bytes) -> Listening:
        found = self.listening.get(end)
        if found is None:
            found = self.listening[end] = Listening()
        return found

    def _mark_pending(self, flow: Flow, bit: int) -> None:
        for frame, _ in flow.pending:
            self._bits[frame] |= bit

    def _follow(self, key: bytes, flow: Flow) -> Flow:
        if len(self._flows) >= _FLOWS:
            self._older_left = self._older_left or bool(self._older)
            self._leave(self._older)
            self._older, self._flows = self._flows, {}
        self._flows[key] = flow
        return flow

    def _flow(self, key: bytes) -> Flow | None:
        found = self._flows.get(key)
        if found is None and self._older:
            found = self._older.pop(key, None)
            if found is not None:
                self._flows[key] = found
        return found

    def _leave(self, flows: dict[bytes, Flow]) -> None:
        """No more is to be learnt of `flows`."""
        alone = self.last_ns - _ALONE_NS
        spared: dict[bytes, list[int]] = {}
        for key, flow in flows.items():
            if flow.synack is None or flow.used:
                continue
            end = key[len(key) // 2 :]
            if flow.ignored_ns and not flow.repeats and flow.last_ns < alone:
                # nobody took its data, and the kernel had no retries left for its request
                self._known(end).refused.append(flow.ignored_ns)
            if flow.pending:
                late = self._closes.spared(end, flow.pending_ns, flow.last_ns, len(flow.pending))
                if late:
                    for frame, _ in flow.pending[-late:]:
                        self._bits[frame] |= NOT_RESET
                    spared.setdefault(end, []).append(flow.last_ns if late == 1 else flow.pending_ns)
            elif not flow.repeats and flow.last_ns < alone and flow.asked is not None:
                self._known(end).unrepeated += flow.asked.time_ns == flow.last_ns
        for end, times in spared.items():
            if len(times) > 1:  # a RST may have been lost, but not several
                self._known(end).refused.extend(times)

    def _inbound(self, segment: Segment) -> None:
        key = segment.src + segment.dst
        flow = self._flow(key)
        flags = segment.flags
        if flow is None:  # not opened by a SYN, see _opened()
            flow = self._follow(key, Flow(None))
        if flow.last_flags & _OPENING == SYN and not flags & (SYN | RST) and flow.asked is not None:
            asked = flow.asked
            if flow.isn not in {None, asked.seq} and acknowledges(segment, asked):
                flow = self._follow(key, reopened(flow, asked))  # the capture lost the SYN-ACK in between
        if flow.alone_ns > 0 and not flags & (SYN | RST):
            reset_ns = self._known(segment.dst).reset_ns
            if flow.alone_ns + CROSSING_NS < reset_ns < segment.time_ns - CROSSING_NS:
                flow.outlived = segment.frame
        flow.alone_ns = -1
        if flags & _OPENING == SYN:
            flow.asked = segment
            self._syn(segment)
        if flow.isn is None:
            self._bits[segment.frame] |= FOREIGN
        if flow.synack_ns and not flags & (SYN | RST):
            self.vantage.add(flow.synack_delay_ns, segment.time_ns - flow.synack_ns)
            flow.synack_ns = 0
        flow.last, flow.last_ns, flow.last_flags = segment.frame, segment.time_ns, flags
        flow.data = flow.data or segment.length > 0
        if flags & RST:
            if flags & ACK and flow.synack is not None and flow.sent_seq is None and not flow.used:
                self.connected.add(segment.frame)
            self._mark_pending(flow, GONE)
            flow.pending = ()
        if not (flow.used or flags & (SYN | RST)):
            self._acknowledgement(flow, segment)

    def _acknowledgement(self, flow: Flow, segment: Segment) -> None:
        """What may complete the handshake."""
        flags = segment.flags
        # clients send data without a handshake, but no bare ACK
        bare = not segment.length and not flags & FIN
        if bare and flow.synack is None and flow.asked is not None and acknowledges(segment, flow.asked):
            known = self._known(segment.dst)
            self._judge_acks(known, segment.time_ns)
            known.unexplained.append((segment, flow))
            if flow.asked.length and segment.seq == end_seq(flow.asked):
                self._bits[flow.asked.frame] |= FASTOPEN_SIGN  # the SYN-ACK has taken its data
        if flow.synack is not None and flow.acked_seq is None:
            kind = (
                (0 if bare else SENT_DATA)
                | (0 if segment.time_ns - flow.sent_ns < _PROMPT_NS else LATE)
                | (REMINDED if flow.repeats else 0)
            )
            flow.trip_ns = flow.trip_ns or min(segment.time_ns - flow.sent_ns, _PROMPT_NS)
            known = self._known(segment.dst)
            known.first[kind] += 1
            self._bits[segment.frame] |= kind
            if kind & (SENT_DATA | LATE) and len(known.perhaps) < _FLOWS:
                known.perhaps.append((flow.sent_ns, segment))
        seq = segment.seq if segment.length else -1
        if seq >= 0:
            again = [place for place, (_, old) in enumerate(flow.pending) if old == seq]
            if again:
                for frame, _ in flow.pending[: again[-1] + 1]:
                    self._bits[frame] |= IGNORED
                flow.pending = flow.pending[again[-1] + 1 :]
                flow.ignored_ns = flow.ignored_ns or flow.pending_ns
        elif bare and flow.pending and segment.seq == flow.acked_seq:
            self._mark_pending(flow, ACKED_AGAIN)
            if flow.acks >= flow.synacks and _timer_between(flow, segment):
                self.unseen_synacks += flow.repeats > 0
                for frame, _ in flow.pending:
                    self._again.setdefault(frame, segment)
        flow.acks += bare
        if not flow.pending:
            flow.pending_ns = segment.time_ns
        flow.pending = (*flow.pending, (segment.frame, seq))
        flow.acked_seq = segment.seq
        end = end_seq(segment)
        if flow.sent_seq is None or seq_after(end, flow.sent_seq):
            flow.sent_seq = end

    def _opened(self, syn: Segment, key: bytes) -> None:
        """_inbound() of the first SYN of a flow: most of what a flood is."""
        self.directions.syns += 1
        flow = self._follow(key, Flow(syn.seq))
        flow.asked = syn
        flow.last, flow.last_ns, flow.last_flags = syn.frame, syn.time_ns, syn.flags
        if syn.length:
            flow.data = True
        self._syn(syn)

    def _syn(self, syn: Segment) -> None:
        known = self._known(syn.dst)
        if syn.fastopen is not None:
            known.fastopen = True
        asked = known.asked
        if asked and asked[0].time_ns + REPLY_NS < syn.time_ns:
            self._judge_syns(known, syn.time_ns)
        asked.append(syn)

    def _judge_syns(self, known: Listening, now: int | None) -> None:
        """The SYNs that got no answer up to `now`, and to which none can come any more; None: the end."""
        asked, bits = known.asked, self._bits
        while asked and (now is None or asked[0].time_ns + REPLY_NS < now):
            syn = asked.popleft()
            when = syn.time_ns
            answered = bool(bits[syn.frame] & REPLY)
            if known.single is not None:
                single, after_answer = known.single
                self._judge_single(single, after_answer and answered)
                known.single = None
            if not answered:
                if known.answers or not known.refused or when - known.refused[-1] > _FULL_NS:
                    known.single = syn, known.answers
                known.refused.append(when)
                if known.first_rst_ns is not None and known.first_rst_ns < when:
                    known.first_rst_ns = None  # dropped: somebody listens
            known.answers = answered
            if not known.lasting_ns:
                _count_row(known, when, answered=answered)

    def _judge_single(self, syn: Segment, between: bool) -> None:
        """A SYN got no answer; `between`: although those before and after it did."""
        flow = self._flow(syn.src + syn.dst)
        if flow is not None and flow.asked is syn and flow.last == syn.frame:  # and nobody asked again
            self._single.append((syn, between))

    def _judge_acks(self, known: Listening, now: int) -> None:
        """What acknowledges something although no SYN-ACK was captured, up to `now`."""
        while known.unexplained:
            ack, flow = known.unexplained[0]
            reset = self._bits[ack.frame] & RST_REPLY
            if not reset and ack.time_ns + REPLY_NS >= now:
                break
            known.unexplained.popleft()
            self._answered(known, flow, ack.ack, sure=not reset)

    def _answered(self, known: Listening, flow: Flow, ack: int, *, sure: bool = True) -> None:
        """The last SYN of a flow was answered; the capture lost the SYN-ACK."""
        syn = flow.asked
        if syn is None or flow.synack is not None or flow.isn != syn.seq:
            return
        self.lost.add(syn.frame)
        if not sure:
            self.unsure.add(syn.frame)
        self._bits[syn.frame] |= SYNACK_REPLY
        _take_back(known.refused, syn.time_ns)
        known.attempts += 1
        flow.synack = (ack - 1) & _MASK
        flow.synack_frame = syn.frame

    def _unasked(self, key: bytes, synack: Segment) -> None:
        """A SYN-ACK of a connection that nothing is known of; the capture lost its SYN."""
        flow = self._follow(key, Flow((synack.ack - 1) & _MASK))
        flow.synack, flow.synack_frame, flow.sent_ns = synack.seq, synack.frame, synack.time_ns
        flow.alone_ns = -1
        self._known(synack.src).attempts += 1
        self._bits[synack.frame] |= UNSEEN_SYN | SYNACK_REPLY
        self.unseen_syns += 1

    def _unseen_ack(self, flow: Flow, when: int) -> None:
        """The server uses a connection that nothing the capture shows has completed."""
        fast_open = flow.asked is not None and flow.asked.length  # needs no ACK
        if flow.synack is None or flow.acked_seq is not None or fast_open:
            return
        self._bits[flow.synack_frame] |= UNSEEN_ACK
        self._completed_ns[flow.synack_frame] = when
        self.unseen_acks += 1

    def _outbound(self, segment: Segment) -> None:
        key = segment.dst + segment.src
        flow = self._flow(key)
        flags = segment.flags
        if flow is None or (flags & SYN and not answers(segment, flow)):
            if flags & SYN and not self._older_left:
                self._unasked(key, segment)
            return
        if flags & SYN and flow.asked is not None and flow.asked.seq != flow.isn:
            asked = flow.asked
            if segment.ack in {end_seq(asked), (asked.seq + 1) & _MASK}:  # a new connection
                flow = self._follow(key, reopened(flow, asked))
        self._judge(flow, segment)
        if flags & SYN and crosses(flow, segment):
            self._bits[segment.frame] |= CROSSED
        direct = flow.last if self._replies(flow, segment) else 0
        if direct:
            self._bits[direct] |= SYNACK_REPLY if flags & SYN else RST_REPLY if flags & RST else ACK_REPLY
            flow.last = 0
        # the client has answered it, or a timer repeats it
        unseen = not direct and (flow.pending or flags & SYN)
        if flow.synack is None and not flags & RST and (unseen or takes_data(segment, flow)):
            sure = bool(flow.pending) or not flags & SYN
            if not sure and not by_timer(segment.time_ns - flow.last_ns):
                self._unasked(key, segment)
                return
            self._answered(self._known(segment.src), flow, segment.seq + bool(flags & SYN), sure=sure)
            if not sure:
                self._bits[segment.frame] |= UNSEEN_SYN | SYNACK_REPLY
        if flags & SYN:
            self._synack(flow, segment, asked=bool(direct))
        elif flags & RST:
            self._rst(flow, segment, direct)
        elif not flow.used and (segment.length or flags & FIN or acks_data(segment, flow)):
            self._use(flow, segment)

    def _replies(self, flow: Flow, segment: Segment) -> bool:
        """Whether the server's packet can be the direct reply to the client's last one."""
        delay = segment.time_ns - flow.last_ns
        if segment.flags & SYN:
            if not flow.last_flags & SYN:
                return False  # the timer's
            return delay <= (REPLY_NS if flow.synack is not None else _FIRST_REPLY_NS)
        if segment.flags & RST and (segment.flags & flow.last_flags & ACK or self._late(delay)):
            return False  # what answers an ACK takes its number from it and acknowledges nothing
        return delay <= REPLY_NS and not self._bits[segment.frame] & CROSSED

    def _late(self, delay_ns: int) -> bool:
        """Whether the kernel's own replies are captured much sooner: then this one answers another packet."""
        return delay_ns > _AT_ONCE_NS and delay_ns > _MUCH * max(self.vantage.server_ns, default=delay_ns)

    def _synack(self, flow: Flow, synack: Segment, *, asked: bool) -> None:
        known = self._known(synack.src)
        flow.synacks += 1
        if flow.alone_ns >= 0 and flow.asked is not None:
            self._alone(known.stranger, flow, synack, asked=asked)
        crossing: tuple[tuple[int, int], ...] = ()
        if flow.synack is None:
            known.attempts += 1
            if asked and synack.time_ns - flow.last_ns > REPLY_NS:
                _take_back(known.refused, flow.last_ns)  # taken for dropped meanwhile
        else:
            since = synack.time_ns - (flow.asked or synack).time_ns
            if not asked and flow.sent_ns and 0 < since < _FIRST_REPLY_NS:
                self.unseen_syns += 1
                self._bits[synack.frame] |= UNSEEN_SYN
            elif not asked and flow.sent_ns:
                self._bits[flow.synack_frame] |= GOES_ON
                if flow.asked is not None and flow.asked.seq == flow.isn:
                    self._bits[flow.asked.frame] |= REQUEST_SIGN
                flow.repeats += 1
                known.repeats = max(known.repeats, flow.repeats)
            if self._bits[synack.frame] & CROSSED:
                flow.pending, crossing = flow.pending[:-1], flow.pending[-1:]
            self._mark_pending(flow, REPEATED)
            if flow.pending:
                known.refused.append(flow.last_ns)
                known.lasting_ns = known.lasting_ns or flow.last_ns
        if asked:
            if not self.vantage.full():
                flow.synack_ns, flow.synack_delay_ns = synack.time_ns, synack.time_ns - flow.last_ns
            known.alive_ns = synack.time_ns
            known.first_rst_ns = None
            if known.closed:
                known.closed = False
                known.stranger.opened(synack.time_ns - known.doors[-1].time_ns, synack.frame)
                opened_ns = flow.last_ns if flow.last_flags & SYN else synack.time_ns
                known.doors.append(Door(opened_ns - 1, open=True))  # the SYN was let in already
        flow.pending = crossing
        if not crossing:
            flow.acked_seq = None
        flow.synack, flow.synack_frame, flow.sent_ns = synack.seq, synack.frame, synack.time_ns
        flow.used = False

    def _alone(self, stranger: Stranger, flow: Flow, synack: Segment, *, asked: bool) -> None:
        """A SYN-ACK while the client has sent nothing but one SYN."""
        assert flow.asked is not None
        if flow.synack is None:
            flow.alone_ns = synack.time_ns if asked else -1
            if asked:
                stranger.synack(flow.asked, synack)
        elif flow.alone_ns and synack.seq == flow.synack:
            stranger.repeated(flow.repeats + 1, synack.time_ns - flow.alone_ns, synack.frame)

    def _rst(self, flow: Flow, rst: Segment, direct: int) -> None:
        known = self._known(rst.src)
        if known.first_rst_ns is None:
            known.first_rst_ns = flow.last_ns if direct else rst.time_ns
        for_syn = (
            bool(direct) and flow.synack is None and flow.asked is not None and flow.asked.frame == direct
        )
        if for_syn:
            known.stranger.reset(rst)
            known.reset_ns = rst.time_ns
        if for_syn and rst.flags & ACK and not rst.seq:
            if not known.closed:
                known.closed = True
                known.doors.append(Door(known.first_rst_ns - 1, open=False))
            return
        if direct:
            if flow.synack is not None and flow.last_flags & SYN and not known.closed:
                self._bits[flow.synack_frame] |= GOES_ON  # a SYN within the window ends a request
            if flow.pending and flow.pending[-1][0] == direct:
                known.ack_resets += 1
                known.stranger.closes()
                flow.pending = flow.pending[:-1]
                self._unknown(known, flow)
            return
        if not rst.flags & ACK:
            if self._late(rst.time_ns - flow.last_ns):  # answers what the capture lost
                self.unseen_others += 1
                self._unknown(known, flow)
            return
        # only a connection is reset without being asked
        if not flow.data and acks_data(rst, flow):
            flow.data = True
            self.unseen_others += 1
        if not flow.used:
            known.stranger.closes()
        if not flow.data:
            self._closes.reset(rst.src, rst.time_ns, flow.pending_ns if flow.pending else 0)
            self._mark_pending(flow, WAITED)
        if rst.flags & ACK and not (flow.used or flow.pending):
            self._unseen_ack(flow, rst.time_ns)
        self._mark_pending(flow, USED)
        flow.pending = ()

    def _unknown(self, known: Listening, flow: Flow) -> None:
        """The server knows no connection: it has let in none of the client's packets before."""
        if flow.pending:
            self._mark_pending(flow, IGNORED)
            known.refused.append(flow.pending_ns)
            flow.pending = ()

    def _use(self, flow: Flow, segment: Segment) -> None:
        flow.used = True
        if flow.outlived:
            known = self._known(segment.src)
            if not known.cookie_signs:  # a cookie needs no listener in between
                known.stranger.survived(flow.outlived)
            flow.outlived = 0
        if flow.pending:
            self._known(segment.src).taken.append(flow.pending_ns)
            if flow.sent_seq is not None and seq_after(segment.ack, flow.sent_seq):
                self.unseen_others += 1
        else:
            self._unseen_ack(flow, segment.time_ns)
        self._mark_pending(flow, USED)
        for frame, _ in flow.pending[:-1]:
            if not self._bits[frame] & ACK_REPLY:
                self._used_ns[frame] = flow.last_ns
        if flow.pending and flow.pending[-1][1] >= 0 and segment.time_ns - flow.last_ns > _DELAYED_ACK_NS:
            # answers the same data once more, which the capture lost
            self.unsure.update(frame for frame, _ in flow.pending)
        flow.pending = ()

    def _judge(self, flow: Flow, segment: Segment) -> None:
        """Whether the SYN-ACK of a flow was a cookie: by its options, or by its clock."""
        syn = flow.asked
        if syn is None:
            return
        if segment.flags & SYN:
            if segment.time_ns - syn.time_ns > REPLY_NS or flow.last != syn.frame:
                return
            if syn.length and segment.ack == end_seq(syn):
                self._bits[syn.frame] |= FASTOPEN_SIGN
            if syn.tsval >= 0 and segment.tsval >= 0:
                flow.answered = segment.time_ns, segment.tsval
            elif syn.tsval < 0 and (syn.wscale >= 0 or syn.sack_ok):
                # without timestamps there is no place for the client's options in a cookie
                self._sign(syn, cookie=segment.wscale < 0 and not segment.sack_ok)
            return
        if flow.answered is None or segment.tsval < 0:
            return
        then_ns, tsval = flow.answered
        flow.answered = None
        # a cookie's timestamp is set back by up to 63 ms to carry the client's options
        skew = ((segment.tsval - tsval) & _MASK) - (segment.time_ns // 1_000_000 - then_ns // 1_000_000)
        if 3 <= skew < 70:  # noqa: PLR2004 - rounding of two clocks, 63 ms and a tick of 4
            self._sign(syn, cookie=True)
        elif -3 <= skew <= 1:  # noqa: PLR2004
            self._bits[syn.frame] |= CLOCK_SIGN

    def _sign(self, syn: Segment, *, cookie: bool) -> None:
        self._bits[syn.frame] |= COOKIE_SIGN if cookie else REQUEST_SIGN
        self._known(syn.dst).cookie_signs += cookie


def _count_row(known: Listening, when: int, *, answered: bool) -> None:
    """A SYN was or was not answered."""
    if answered:
        known.row = 0
        return
    known.row += 1
    if known.row == 1:
        known.row_ns = when
    if known.row == _IN_A_ROW:
        known.lasting_ns = known.row_ns


def _timer_between(flow: Flow, ack: Segment) -> bool:
    """Whether an ACK comes when the client has just got a SYN-ACK from a timer."""
    since = ((1 << min(flow.repeats, _MOST_REPEATS)) - 1) * 1_000_000_000 + ack.time_ns - flow.sent_ns
    return by_timer(since) or by_timer(since - flow.trip_ns)


def _take_back(times: array[int], when: int) -> None:
    """Remove one of the last times; they are nearly in order, and a flood's are not all looked at."""
    for place in range(len(times) - 1, max(len(times) - _TAKEN_BACK, 0) - 1, -1):
        if times[place] == when:
            del times[place]
            return
