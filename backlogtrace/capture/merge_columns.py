"""Several large captures of one host as one, by time: merge, for columns.

Gives the order of merge.in_time_order(): within a capture nothing changes places, so the key of a packet is
the latest time of its capture up to it. Captures that do not overlap pass through untouched, one after
another.
Knows nothing about what the packets are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backlogtrace.capture.columns import Batch
from backlogtrace.capture.headers import Headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from backlogtrace.capture.gather import Ints


class _Reading:
    """A capture that is being read: its next packets and their keys."""

    def __init__(self, number: int, windows: Iterator[list[Batch]]) -> None:
        self.number = number
        self._windows = windows
        self._batches: list[Batch] = []
        self._latest: int | None = None
        self.keys: Ints = np.empty(0, np.int64)

    def fill(self) -> bool:
        """Makes sure that there are next packets; False at the end of the capture."""
        if not len(self.keys):
            self._batches = next(self._windows, [])
            if not self._batches:
                return False
            times = [batch.times for batch in self._batches]
            if self._latest is not None:
                times[0] = np.maximum(times[0], self._latest)
            self.keys = np.maximum.accumulate(np.concatenate(times))
            self._latest = int(self.keys[-1])
        return True

    def take(self, count: int) -> list[Batch]:
        """Takes the next `count` packets."""
        taken = []
        self.keys = self.keys[count:]
        while count:
            batch = self._batches[0]
            if len(batch.times) > count:
                taken.append(_cut(batch, 0, count))
                self._batches[0] = _cut(batch, count, len(batch.times))
                break
            taken.append(self._batches.pop(0))
            count -= len(batch.times)
        return taken


def merged_windows(
    first_times: Sequence[int | None], open_windows: Callable[[int], Iterator[list[Batch]]]
) -> Iterator[list[Batch]]:
    """The packets of all captures in merged order.

    `first_times[n]` is the time of the first packet of capture n (ns), None when it has none;
    `open_windows(n)` gives its packets and is called when they are due.
    """
    waiting = sorted((first, number) for number, first in enumerate(first_times) if first is not None)
    waiting.reverse()
    active: list[_Reading] = []
    while waiting or active:
        active = [reading for reading in active if reading.fill()]
        limit = min(((int(reading.keys[-1]), reading.number) for reading in active), default=None)
        if waiting and (limit is None or waiting[-1] <= limit):
            number = waiting.pop()[1]
            active.append(_Reading(number, open_windows(number)))
            active.sort(key=lambda reading: reading.number)
        elif limit is not None:
            yield _up_to(active, limit)


def _up_to(active: list[_Reading], limit: tuple[int, int]) -> list[Batch]:
    """Takes the packets up to a limit (key, capture), in merged order."""
    keys: list[Ints] = []
    taken: list[list[Batch]] = []
    for reading in active:
        side = "right" if reading.number <= limit[1] else "left"
        count = int(np.searchsorted(reading.keys, limit[0], side=side))  # type: ignore[call-overload]
        if count:
            keys.append(reading.keys[:count])
            taken.append(reading.take(count))
    if len(taken) == 1:
        return taken[0]
    return [_interleaved([batch for batches in taken for batch in batches], np.concatenate(keys))]


def _interleaved(batches: list[Batch], keys: Ints) -> Batch:
    """One batch of several, sorted by key; equal keys keep their order."""
    order = np.argsort(keys, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    start = 0
    numbers = []
    for batch in batches:
        numbers.append(place[batch.headers.number + start])
        start += len(batch.times)
    number = np.concatenate(numbers)
    packets = np.argsort(number)
    headers = Headers.merged([batch.headers for batch in batches], packets, number[packets])
    return Batch(np.concatenate([batch.times for batch in batches])[order], headers)


def _cut(batch: Batch, first: int, last: int) -> Batch:
    """The packets `first` to `last`, not included."""
    begin, end = np.searchsorted(batch.headers.number, (first, last)).tolist()
    headers = batch.headers.slice(begin, end)
    headers.number = headers.number - first
    return Batch(batch.times[first:last], headers)
