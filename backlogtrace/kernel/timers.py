"""The order in which request timers fire.

Timers are kept in buckets as on the kernel's wheel: those of one tick and level fire last armed
first (first armed first before 4.8). Refuses to know what a timer does when it fires.

Source: kernel/time/timer.c (enqueue_timer adds at the head, expire_timers walks from it, higher
levels first).
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backlogtrace.kernel.clock import Clock
    from backlogtrace.kernel.request import Request

_LEVELS = 16
NEVER = 1 << 200


def level_of(request: Request) -> int:
    """Level of the wheel that holds the timer of `request` (see RequestTimers)."""
    return _LEVELS - 1 - request.timer % _LEVELS


class RequestTimers:
    """All pending request timers of a host."""

    __slots__ = ("_buckets", "_clock", "_keys", "_lifo", "next_due")

    def __init__(self, clock: Clock, *, lifo: bool) -> None:
        self._clock = clock
        self._lifo = lifo
        self._buckets: dict[int, list[Request]] = {}
        self._keys: list[int] = []
        self.next_due = NEVER
        """Earliest time (ns) at which a timer may fire."""

    def arm(self, request: Request, now_ns: int, seconds: int, latest_ns: int = 0) -> None:
        """(Re)start the timer of `request`, now or at the latest at `latest_ns`."""
        due, deadline, level = self._clock.arm(now_ns, seconds)
        if latest_ns > now_ns:
            deadline = self._clock.arm(latest_ns, seconds)[1]
        request.due = due
        request.deadline = deadline
        key = due * _LEVELS + _LEVELS - 1 - level
        if request.timer == key:
            return  # armed for that very tick already
        request.timer = key
        bucket = self._buckets.get(key)
        if bucket is None:
            self._buckets[key] = [request]
            heapq.heappush(self._keys, key)
            self.next_due = min(self.next_due, due)
        else:
            bucket.append(request)

    def saw(self, request: Request, when_ns: int) -> None:
        """The SYN-ACK of a request's timer was seen; the clock has learnt from it already."""

    def pop_due(self, now_ns: int) -> Iterator[Request]:
        """Requests whose timer may fire at or before `now_ns`, in firing order."""
        keys = self._keys
        while keys and keys[0] < (now_ns + 1) * _LEVELS:
            key = heapq.heappop(keys)
            bucket = self._buckets.pop(key)
            for request in reversed(bucket) if self._lifo else bucket:
                if request.timer == key:  # else stopped or restarted meanwhile
                    yield request
        while keys and not any(request.timer == keys[0] for request in self._buckets[keys[0]]):
            del self._buckets[heapq.heappop(keys)]  # nothing but stopped timers
        self.next_due = keys[0] // _LEVELS if keys else NEVER

    def due_by(self, now_ns: int) -> list[Request]:
        """Requests whose timer may fire at or before `now_ns`, without taking them."""
        keys, limit = self._keys, (now_ns + 1) * _LEVELS
        found: list[Request] = []
        todo = [0]  # walk the heap from its root: a key at or above the limit has no lower ones below
        while todo:
            place = todo.pop()
            if place < len(keys) and keys[place] < limit:
                found += (request for request in self._buckets[keys[place]] if request.timer == keys[place])
                todo += (2 * place + 1, 2 * place + 2)
        return found


class WindowTimers:
    """Timers of a host whose ticks are not known: first armed, first due, per interval.

    Same interface as RequestTimers; cheaper, because no order within a tick has to be kept.
    """

    __slots__ = ("_clock", "_late", "_queues", "_token", "next_due")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queues: dict[int, deque[tuple[int, int, Request]]] = {}
        self._late: list[tuple[int, int, Request]] = []
        """Heap of those that were armed as of an earlier time than others of their interval."""
        self._token = 0
        self.next_due = NEVER

    def arm(self, request: Request, now_ns: int, seconds: int, latest_ns: int = 0) -> None:
        """(Re)start the timer of `request`, now or at the latest at `latest_ns`."""
        due, deadline = self.window(request, now_ns, max(now_ns, latest_ns), seconds)
        request.due = due
        request.deadline = deadline
        self._token = request.timer = self._token + 1
        entry = (due, self._token, request)
        queue = self._queues.get(seconds)
        if queue is None:
            queue = self._queues[seconds] = deque()
        if queue and queue[-1][0] > due:
            heapq.heappush(self._late, entry)
        else:
            queue.append(entry)
        self.next_due = min(self.next_due, due)

    def window(self, request: Request, earliest: int, latest: int, seconds: int) -> tuple[int, int]:  # noqa: ARG002
        """(earliest, latest) ns at which a timer fires that was armed between two times."""
        return self._clock.arm(earliest, seconds)[0], self._clock.arm(latest, seconds)[1]

    def saw(self, request: Request, when_ns: int) -> None:
        """The SYN-ACK of a request's timer was seen."""

    def pop_due(self, now_ns: int) -> Iterator[Request]:
        """Requests whose timer may fire at or before `now_ns`, in order."""
        while True:
            first = self._first()
            if first is None or first[0] > now_ns:
                break
            self._take(first)
            yield first[2]
        self.next_due = first[0] if first is not None else NEVER

    def due_by(self, now_ns: int) -> list[Request]:
        """Requests whose timer may fire at or before `now_ns`, without taking them."""
        entries = [entry for queue in self._queues.values() for entry in queue] + self._late
        return [request for due, token, request in entries if due <= now_ns and request.timer == token]

    def _first(self) -> tuple[int, int, Request] | None:
        """The pending timer that is due first; stopped ones in front are dropped."""
        late = self._late
        while late and late[0][2].timer != late[0][1]:
            heapq.heappop(late)
        best = late[0] if late else None
        for queue in self._queues.values():
            while queue and queue[0][2].timer != queue[0][1]:
                queue.popleft()
            if queue and (best is None or queue[0] < best):
                best = queue[0]
        return best

    def _take(self, entry: tuple[int, int, Request]) -> None:
        if self._late and self._late[0] is entry:
            heapq.heappop(self._late)
            return
        for queue in self._queues.values():
            if queue and queue[0] is entry:
                queue.popleft()
                return
