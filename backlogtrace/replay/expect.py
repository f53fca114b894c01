"""Packets the server is predicted to send, until the capture shows them or their time is over."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from backlogtrace.kernel.timers import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backlogtrace.kernel.outcome import Outcome, Reply
    from backlogtrace.replay.rows import PacketRow
    from backlogtrace.replay.track import Track

LATE_NS = 1_000_000_000
"""A predicted packet is missing when the capture has not shown it by then."""


class Expectation:
    """One predicted packet."""

    __slots__ = ("attempt", "cause", "done", "due_ns", "key", "outcome", "reply", "row", "time_ns", "track")

    def __init__(self, key: bytes, track: Track, reply: Reply, time_ns: int) -> None:
        self.key = key
        self.track = track
        self.reply = reply
        self.time_ns = time_ns
        """When it is sent, at the latest."""
        self.due_ns = time_ns
        """Earliest time a timer may send it."""
        self.cause: int | None = None
        """Frame that it answers; None for a timer's packet."""
        self.outcome: Outcome | None = None
        self.row: PacketRow | None = None
        self.attempt = 0
        """SYN-ACKs of a timer: which repetition."""
        self.done = False


class Expectations:
    """All predicted packets that were not seen yet."""

    __slots__ = ("_order", "loss_ns", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[bytes, list[Expectation]] = {}
        """By client + server endpoint, in order; no empty lists."""
        self._order: deque[Expectation] = deque()
        self.loss_ns = NEVER
        """No prediction is overdue before this time."""

    def add(self, expectation: Expectation) -> None:
        """Predict a packet."""
        waiting = self.waiting.get(expectation.key)
        if waiting is None:
            self.waiting[expectation.key] = [expectation]
        else:
            waiting.append(expectation)
        if not self._order:
            self.loss_ns = expectation.time_ns + LATE_NS
        self._order.append(expectation)

    def take(self, key: bytes, reply: Reply) -> Expectation | None:
        """The first prediction that a packet seen fulfils."""
        waiting = self.waiting.get(key)
        if waiting is None:
            return None
        for position, expectation in enumerate(waiting):
            if expectation.reply == reply:
                del waiting[position]
                if not waiting:
                    del self.waiting[key]
                expectation.done = True
                return expectation
        return None

    def overdue(self, now: int) -> Iterator[Expectation]:
        """Predictions whose time is over at `now`; they are given up."""
        order = self._order
        while order and (order[0].done or order[0].time_ns + LATE_NS <= now):
            expectation = order.popleft()
            if not expectation.done:
                self.take(expectation.key, expectation.reply)
                yield expectation
        self.loss_ns = order[0].time_ns + LATE_NS if order else NEVER
