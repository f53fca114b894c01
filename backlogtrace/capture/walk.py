"""Finding all records of a window at once, although each says only where the next one starts.

Many walkers set out at likely record starts spread over the window and step in lockstep, one numpy operation
for all of them. A walker's path is believed only when it is proved: it starts where the walker before it
arrives, and the first starts at a true record. Where that fails the true path is walked step by step until it
meets a walker's. So likely starts are guessed, records never are.
Knows two formats' record lengths and nothing else of them.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from backlogtrace.capture.gather import Ints
    from backlogtrace.capture.link import Data

_WALKERS = 1024
"""Walkers at most."""
_MIN_PART = 1 << 14
"""Bytes per walker at least: below, plain stepping is as fast."""
_RECORDS_PER_WALKER = 128
"""Records per walker, about: fewer would not be worth the search for its start."""
_SAMPLE = 32
_SYNC_DEPTH = 24
"""Plausible headers in a row that make a likely start: a capture inside payload passes shorter tests."""
_SYNC_TRIES = 8
_STRIDE = 16
"""Steps between two looks at which walkers have arrived."""


class Layout(NamedTuple):
    """Where a format keeps the length of a record."""

    order: str
    length_at: int
    """Offset of the 32-bit length in the record."""
    extra: int
    """Bytes of a record that its length does not count."""
    least: int
    """Least step: what keeps a walker moving at an impossible length."""
    header: int
    """Bytes needed to read the header."""
    most: int
    """Largest believable length."""
    mark: bytes
    """Bytes that most records share."""
    mark_at: int
    align: int


def pcap_layout(order: str, header: int, most: int, first_record: bytes) -> Layout:
    """Layout of a pcap file with a true record header: neighbours share the high half of its seconds."""
    mark_at = 2 if order == "<" else 0
    return Layout(order, 8, header, header, header, most, first_record[mark_at : mark_at + 2], mark_at, 1)


def pcapng_layout(order: str, least: int, most: int) -> Layout:
    """Layout of a pcapng section: most blocks are Enhanced Packet Blocks."""
    mark = b"\x06\0\0\0" if order == "<" else b"\0\0\0\x06"
    return Layout(order, 4, 0, least, least, most, mark, 0, 4)


def words(data: Data, order: str) -> npt.NDArray[np.uint32]:
    """The 32-bit word at every byte offset, without a copy."""
    return np.ndarray((max(len(data) - 3, 0),), np.dtype(order + "u4"), data, strides=(1,))


def record_offsets(data: Data, start: int, end: int, layout: Layout) -> Ints:
    """Offsets, ascending, of the records that start in `data[start:end]` with a whole header.

    A true record must start at `start`. Lengths are not judged: after a record with an impossible one the
    offsets mean nothing.
    """
    limit = end - layout.header
    if start > limit:
        return np.empty(0, np.int64)
    word = words(data, layout.order)
    parts = _parts(data, start, limit, layout)
    guesses = _likely_starts(data, word, start, limit, layout, parts) if parts > 3 else np.empty(0, np.int64)
    if len(guesses) < 3:
        return np.array(_serial(data, start, limit + 1, layout), np.int64)
    starts = np.concatenate((np.array([start], np.int64), guesses))
    bounds = np.append(starts[1:], limit + 1)
    visited, arrivals = _lockstep(word, starts, bounds, limit, layout)
    unproved = np.flatnonzero(arrivals[:-1] != starts[1:])
    if len(unproved):
        return _repair(data, visited, bounds, arrivals, unproved.tolist(), layout)
    return visited


def _parts(data: Data, start: int, limit: int, layout: Layout) -> int:
    """How many walkers are worth their while, by the size of the first records."""
    sample = _serial(data, start, min(limit, start + _MIN_PART) + 1, layout)[: _SAMPLE + 1]
    size = (sample[-1] - start) // max(len(sample) - 1, 1)
    return min(_WALKERS, (limit - start) // max(_MIN_PART, size * _RECORDS_PER_WALKER))


def _serial(data: Data, at: int, bound: int, layout: Layout) -> list[int]:
    """Plain stepping from a true record up to `bound`."""
    unpack = Struct(layout.order + "I").unpack_from
    length_at, extra, least = layout.length_at, layout.extra, layout.least
    offsets = []
    while at < bound:
        offsets.append(at)
        at += max(unpack(data, at + length_at)[0] + extra, least)
    return offsets


def _likely_starts(
    data: Data, word: npt.NDArray[np.uint32], start: int, limit: int, layout: Layout, parts: int
) -> Ints:
    """One likely record start in each part of the window, where there is one."""
    size = (limit - start) // parts
    cursors = [start + size * number for number in range(1, parts)]
    ends = [*cursors[1:], limit]
    found: list[Ints] = []
    for _ in range(_SYNC_TRIES):
        candidates, following = [], []
        for cursor, stop in zip(cursors, ends, strict=True):
            at = _find(data, cursor, stop, start, layout)
            if at >= 0:
                candidates.append(at)
                following.append(stop)
        if not candidates:
            break
        likely = np.array(candidates, np.int64)
        good = _plausible(word, likely, limit, layout)
        found.append(likely[good])
        retry = np.flatnonzero(~good).tolist()
        cursors = [candidates[index] + 1 for index in retry]
        ends = [following[index] for index in retry]
    return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)


def _find(data: Data, cursor: int, stop: int, start: int, layout: Layout) -> int:
    """The next place of the mark that fits the alignment, -1 when there is none before `stop`."""
    while True:
        at = data.find(layout.mark, cursor + layout.mark_at, stop + layout.mark_at)
        if at < 0:
            return -1
        at -= layout.mark_at
        if (at - start) % layout.align == 0:
            return at
        cursor = at + 1


def _plausible(word: npt.NDArray[np.uint32], at: Ints, limit: int, layout: Layout) -> npt.NDArray[np.bool_]:
    """Whether a chain of believable headers starts at each offset."""
    good = np.ones(len(at), np.bool_)
    mark = int.from_bytes(layout.mark[:2], "big")
    for _ in range(_SYNC_DEPTH):
        inside = at <= limit
        here = np.minimum(at, limit)
        length = word[here + layout.length_at].astype(np.int64)
        fits = length <= layout.most
        if layout.extra:
            seconds = word[here] >> 16
            here += 4
            fits &= (seconds == _host(mark, layout.order)) & (word[here] < 1_000_000_000)
            here += 8
            fits &= length <= word[here]
        else:
            fits &= (length >= 32) & (length & 3 == 0)
            fits &= word[np.minimum(here + length - 4, limit)] == length
        good &= fits | ~inside
        at = at + np.maximum(length + layout.extra, layout.least)
    return good


def _host(mark: int, order: str) -> int:
    """The high half of the seconds from its two bytes in file order."""
    return (mark >> 8 | (mark & 0xFF) << 8) if order == "<" else mark


def _lockstep(
    word: npt.NDArray[np.uint32], starts: Ints, bounds: Ints, limit: int, layout: Layout
) -> tuple[Ints, Ints]:
    """(offsets visited by all walkers, ascending; first offset of each at or past its bound)"""
    arrivals = np.empty(len(starts), np.int64)
    counts = np.zeros(len(starts), np.int64)
    walkers = np.arange(len(starts))
    current = starts.copy()
    stretches: list[tuple[Ints, Ints, npt.NDArray[np.bool_]]] = []
    while len(walkers):
        rows = np.empty((_STRIDE + 1, len(walkers)), np.int64)
        rows[0] = current
        for step in range(_STRIDE):
            here = np.minimum(rows[step], limit)
            here += layout.length_at
            length = word[here].astype(np.int64)
            length += layout.extra
            if not layout.extra:
                np.maximum(length, layout.least, out=length)
            np.add(rows[step], length, out=rows[step + 1])
        before = rows < bounds
        stretches.append((walkers, rows[:_STRIDE], before[:_STRIDE]))
        counts[walkers] += before[:_STRIDE].sum(axis=0)
        arrived = ~before[_STRIDE]
        if arrived.any():
            first = before[:, arrived].sum(axis=0)
            arrivals[walkers[arrived]] = rows[first, np.flatnonzero(arrived)]
            going = ~arrived
            walkers, bounds, current = walkers[going], bounds[going], rows[_STRIDE][going]
        else:
            current = rows[_STRIDE]
    # no walker goes past the start of the next one: put one after the other, they are in order
    visited = np.empty(counts.sum(), np.int64)
    place = np.cumsum(counts) - counts
    steps = np.arange(_STRIDE)[:, np.newaxis]
    for walkers, rows, before in stretches:
        visited[(place[walkers] + steps)[before]] = rows[before]
        place[walkers] += _STRIDE
    return visited, arrivals


def _repair(
    data: Data, visited: Ints, bounds: Ints, arrivals: Ints, unproved: list[int], layout: Layout
) -> Ints:
    """Replaces what unproved walkers visited by the true path, up to where the two meet."""
    unpack = Struct(layout.order + "I").unpack_from
    known = set(visited.tolist())
    last = int(bounds[-1])
    keep = np.ones(len(visited), np.bool_)
    added: list[int] = []
    met = -1
    for walker in unproved:
        # before `met` the walkers were already found to be on a wrong path
        if walker < met:
            continue
        wrong_from = int(bounds[walker])
        at = int(arrivals[walker])
        while at < last and at not in known:
            added.append(at)
            at += max(unpack(data, at + layout.length_at)[0] + layout.extra, layout.least)
        low, high = np.searchsorted(visited, (wrong_from, at))
        keep[low:high] = False
        met = int(np.searchsorted(bounds, at, side="right"))
    path = np.concatenate((visited[keep], np.array(added, np.int64)))
    path.sort()
    return path
