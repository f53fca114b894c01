"""Totals of one listener while the replay runs, and the clients it hit.

Counts references to outcomes; turns them into a ListenerSummary at the end. Refuses to decide
anything.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from backlogtrace.replay.doubt import Doubt
from backlogtrace.replay.rows import ClientImpact, ListenerSummary, QueueSample
from backlogtrace.segment import endpoint_text

if TYPE_CHECKING:
    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.kernel.stack import Stack
    from backlogtrace.replay.group import Group
    from backlogtrace.replay.host import HostListener
    from backlogtrace.segment import Segment

IMPACT_LIMIT = 1000
_OPEN_LIMIT = 100_000  # attempts followed at a time; a flood must not fill the memory
_SAMPLES = 512
_HARMFUL = frozenset({"dropped", "overflow", "rst"})
_TAKEN = frozenset({"queued", "cookie", "fastopen"})


class Attempt:
    """A connection attempt that was hit, until its fate is known."""

    __slots__ = (
        "decisions",
        "first_ack_ns",
        "first_ns",
        "given_up",
        "last_ns",
        "peer",
        "refused",
        "taken_ns",
    )

    def __init__(self, peer: bytes, first_ns: int, taken_ns: int | None) -> None:
        self.peer = peer
        self.first_ns = first_ns
        self.taken_ns = taken_ns
        """When the SYN was taken at last."""
        self.first_ack_ns: int | None = None
        """First segment that should have completed the handshake."""
        self.last_ns = first_ns
        self.refused = False
        """Its SYN was dropped, and no later one was taken."""
        self.given_up = False
        """The kernel dropped its request."""
        self.decisions: dict[str, int] = {}


class Track:
    """One listener of the replay."""

    def __init__(
        self, name: str, end: bytes, socket: ListenSocket | None, summary: ListenerSummary, span_ns: int = 0
    ) -> None:
        """`span_ns`: how long the capture is, where that is known."""
        self.name = name
        self.end = end
        self.socket = socket
        self.summary = summary
        self.hits: dict[Outcome, int] = {}
        self.former: list[ListenSocket] = []
        """Closed sockets it had before, which may have left requests behind."""
        self.group: Group | None = None
        """Where several sockets had this address and port."""
        self.resends = 0
        self._counts_resends = True
        self.doubt = Doubt()
        self.attempts: dict[bytes, Attempt] = {}
        self._impacts: list[tuple[int, int, ClientImpact]] = []
        self._impact_count = 0
        self._refused = 0
        self._samples: list[QueueSample] = []
        self._width = max(1_000_000, span_ns // _SAMPLES + 1)
        self._top: QueueSample
        self.edge_ns = -1
        """End of the current sample's time slice."""
        self.top_accept = 0
        self.top_syn = 0

    def open(self, stack: Stack, given: HostListener, backlog: int | None) -> None:
        """listen() was called: make the socket and note its limits."""
        asked = backlog if backlog is not None else stack.settings.somaxconn
        if self.socket is not None:
            self.former.append(self.socket)
        self._counts_resends = stack.profile.counts_syn_retrans
        self.socket = stack.open(
            self.end, asked, defer_accept_s=given.defer_accept or 0, syncnt=given.syncnt or 0,
            fastopen_qlen=given.fastopen_qlen,
        )  # fmt: skip
        summary = self.summary
        summary.effective_backlog = self.socket.backlog
        summary.accept_capacity = self.socket.accept_capacity
        summary.syn_capacity = self.socket.syn_capacity

    def member(self, key: bytes) -> Track:
        """The socket's track that a 4-tuple belongs to: this one, or another one of its group."""
        return self if self.group is None else self.group.of(key)

    @property
    def reach(self) -> int:
        """The longest accept queue, or twice the longest SYN queue: half full, it is under pressure."""
        longest = ((sample.accept_queue[1], 2 * sample.syn_queue[1]) for sample in self._samples)
        return max((max(accept, syn) for accept, syn in longest), default=0)

    def queues(self) -> tuple[int, int, int]:
        """Accept queue length, lowest and highest SYN queue length."""
        socket = self.socket
        if socket is None:
            return 0, 0, 0
        left = self.left_behind()
        return len(socket.accept_queue), socket.syn_length - socket.expiring + left, socket.syn_length + left

    def left_behind(self) -> int:
        """Requests of closed sockets: they count no more, but are there until their timer finds out."""
        if not self.former:
            return 0
        self.former = [socket for socket in self.former if socket.requests]
        return sum(socket.requests for socket in self.former)

    def count(self, outcome: Outcome, now: int, accept: int) -> None:
        """A packet of an ordinary handshake, after which the accept queue is `accept` long."""
        hits = self.hits
        hits[outcome] = hits.get(outcome, 0) + 1
        if now >= self.edge_ns or accept > self.top_accept or self.socket.qlen > self.top_syn:  # type: ignore[union-attr]
            _, syn_low, syn_high = self.queues()
            self.sample(now, accept, syn_low, syn_high)

    def sample(self, now: int, accept: int, syn_low: int, syn_high: int) -> None:
        """Remember queue lengths: the highest per time slice, slices doubling when there are too many.

        Callers may leave it out while `now` is before `edge_ns` and neither length is above its top.
        """
        if now >= self.edge_ns:
            samples = self._samples
            if len(samples) >= _SAMPLES:
                self._width *= 2
                samples[:] = [_merge(*samples[i : i + 2]) for i in range(0, len(samples), 2)]
            self._top = QueueSample(now, (accept, accept), (syn_low, syn_high))
            samples.append(self._top)
            self.edge_ns = now + self._width
            self.top_accept, self.top_syn = accept, syn_high
            return
        if accept > self.top_accept:
            self.top_accept = accept
            self._top.accept_queue = (accept, accept)
        if syn_high > self.top_syn:
            self.top_syn = syn_high
            self._top.syn_queue = (syn_low, syn_high)

    def hit(self, key: bytes, segment: Segment, decision: str, born_ns: int | None) -> None:
        """A harmful decision on a connection attempt."""
        attempt = self.attempts.get(key)
        if attempt is None:
            if len(self.attempts) >= _OPEN_LIMIT:
                self._impact_count += 1
                return
            attempt = Attempt(segment.src, born_ns or segment.time_ns, born_ns)
            self.attempts[key] = attempt
            attempt.refused = decision == "dropped"
            self._refused += attempt.refused
        attempt.last_ns = segment.time_ns
        attempt.decisions[decision] = attempt.decisions.get(decision, 0) + 1
        if decision == "overflow" and attempt.first_ack_ns is None:
            attempt.first_ack_ns = segment.time_ns

    def account(self, key: bytes, segment: Segment, decision: str, born_ns: int | None) -> None:
        """What a decision means for the connection attempt it concerns; `born_ns`: its request's SYN."""
        now = segment.time_ns
        if decision in _HARMFUL:
            self.hit(key, segment, decision, born_ns)
            if decision == "rst":
                self.ended(key, now, by_client=False)
        elif decision == "established":
            self.connected(key, now)
        elif decision in _TAKEN:
            attempt = self.attempts.get(key)
            if attempt is not None:
                attempt.taken_ns = attempt.last_ns = now
                self._refused -= attempt.refused
                attempt.refused = False
        elif decision == "aborted":
            self.ended(key, now, by_client=True)

    def expired(self, key: bytes, counters: dict[str, int]) -> None:
        """The request was given up: without another SYN its client never connects."""
        self.summary.expired += 1
        for name, value in counters.items():
            self.summary.counters[name] = self.summary.counters.get(name, 0) + value
        attempt = self.attempts.get(key)
        if attempt is not None:
            attempt.given_up = True

    def connected(self, key: bytes, now: int) -> None:
        """The attempt made it: the listener cost it the wait for the SYN and for the accept queue."""
        attempt = self.attempts.pop(key, None)
        if attempt is None:
            return
        added = (attempt.taken_ns or attempt.first_ns) - attempt.first_ns
        if attempt.first_ack_ns is not None:
            added += now - attempt.first_ack_ns
        self._settle(attempt, "connected", added)

    def ended(self, key: bytes, now: int, *, by_client: bool) -> None:
        """The attempt was reset, by the server or by the client."""
        attempt = self.attempts.pop(key, None)
        if attempt is not None:
            self._settle(attempt, "gave_up" if by_client else "reset", now - attempt.first_ns)

    def _settle(self, attempt: Attempt, fate: str, added: int) -> None:
        self._impact_count += 1
        impact = ClientImpact(
            peer=endpoint_text(attempt.peer),
            first_ns=attempt.first_ns,
            decisions=attempt.decisions,
            fate=fate,  # type: ignore[arg-type]
            added_ns=added,
        )
        entry = (added, -self._impact_count, impact)
        if len(self._impacts) < IMPACT_LIMIT:
            heapq.heappush(self._impacts, entry)
        else:
            heapq.heappushpop(self._impacts, entry)

    def finish(self, end_ns: int, open_ns: int) -> ListenerSummary:
        """The summary; attempts hit within `open_ns` before the end are still open, older ones failed."""
        for attempt in self.attempts.values():
            fate = "open" if end_ns - attempt.last_ns < open_ns and not attempt.given_up else "never"
            self._settle(attempt, fate, attempt.last_ns - attempt.first_ns)
        summary = self.summary
        for outcome, count in self.hits.items():
            if outcome.decision == "passed":
                continue
            summary.decisions[outcome.decision] = summary.decisions.get(outcome.decision, 0) + count
            what = (outcome.decision, outcome.reason)
            summary.reasons[what] = summary.reasons.get(what, 0) + count
            for name, times in outcome.counters.items():
                summary.counters[name] = summary.counters.get(name, 0) + times * count
        taken = sum(count for outcome, count in self.hits.items() if outcome.decision in _TAKEN)
        summary.clients = taken + self._refused
        if self.resends and self._counts_resends:
            summary.counters["TCPSynRetrans"] = summary.counters.get("TCPSynRetrans", 0) + self.resends
        summary.samples = self._samples
        for sample in self._samples:
            summary.peak_accept_queue = max(summary.peak_accept_queue, sample.accept_queue)
            summary.peak_syn_queue = max(summary.peak_syn_queue, sample.syn_queue, key=lambda q: (q[1], q[0]))
        summary.impacts = sorted((entry[2] for entry in self._impacts), key=lambda impact: impact.first_ns)
        summary.impacts_hidden = self._impact_count - len(self._impacts)
        return summary


def _merge(first: QueueSample, second: QueueSample | None = None) -> QueueSample:
    if second is None:
        return first
    return QueueSample(
        first.time_ns,
        max(first.accept_queue, second.accept_queue),
        max(first.syn_queue, second.syn_queue, key=lambda q: (q[1], q[0])),
    )
