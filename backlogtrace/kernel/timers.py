"""The order in which request timers fire.

Timers are kept in buckets as on the kernel's wheel: those of one tick and level fire last armed
first (first armed first before 4.8). Refuses to know what a timer does when it fires.

Source: kernel/time/timer.c (enqueue_timer adds at the head, expire_timers walks from it, higher
levels first).
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backlogtrace.kernel.clock import Clock
    from backlogtrace.kernel.request import Request

_LEVELS = 16
NEVER = 1 << 200


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
            if due < self.next_due:
                self.next_due = due
        else:
            bucket.append(request)

    def pop_due(self, now_ns: int) -> Iterator[Request]:
        """Requests whose timer may fire at or before `now_ns`, in firing order."""
        keys = self._keys
        while keys and keys[0] < (now_ns + 1) * _LEVELS:
            key = heapq.heappop(keys)
            bucket = self._buckets.pop(key)
            for request in reversed(bucket) if self._lifo else bucket:
                if request.timer == key:  # else stopped or restarted meanwhile
                    yield request
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
