"""Numpy columns to Segments: TCP options of many packets at once, and the fast way to make many tuples.

The options are read as options.parse_options() reads them. Refuses to select.
"""

from __future__ import annotations

from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from backlogtrace.capture.gather import MAX_OPTIONS, octets
from backlogtrace.capture.headers import (
    ACKED,
    OFFSET_FLAGS,
    PORTS,
    SEQ,
    SOURCE,
    TARGET,
    Headers,
)
from backlogtrace.capture.options import (
    END,
    EXPERIMENT,
    FAST_OPEN,
    FAST_OPEN_MAGIC,
    MAX_WINDOW_SCALE,
    MSS,
    NOP,
    SACK_PERMITTED,
    TIMESTAMPS,
    WINDOW_SCALE,
    fast_open_cookie,
)
from backlogtrace.collector import without_collector
from backlogtrace.segment import SYN, Segment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backlogtrace.capture.gather import Ints, Octets, Words
    from backlogtrace.capture.headers import Bools

# beginnings of option lists, as little-endian reads give them
_NOP_NOP_TIMESTAMPS = int.from_bytes((NOP, NOP, TIMESTAMPS, 10), "little")
_SACK_PERMITTED_TIMESTAMPS = int.from_bytes((SACK_PERMITTED, 2, TIMESTAMPS, 10), "little")
_MSS = int.from_bytes((MSS, 4), "little")
_NOP_WINDOW_SCALE = int.from_bytes((NOP, WINDOW_SCALE, 3), "little")
_SIX_ENDPOINTS = 36
_segment = partial(tuple.__new__, Segment)
"""Segment from a tuple of all its fields, without the Python function in between."""


class Options:
    """Options of some packets of a batch; arrays have one entry per packet, absent as in Segment."""

    __slots__ = ("fastopen", "mss", "sack_ok", "tsecr", "tsval", "wscale")

    def __init__(self, count: int) -> None:
        self.mss = np.zeros(count, np.int64)
        self.wscale = np.full(count, -1, np.int64)
        self.sack_ok = np.zeros(count, np.bool_)
        self.tsval = np.full(count, -1, np.int64)
        self.tsecr = np.full(count, -1, np.int64)
        self.fastopen: dict[int, bytes | None] = {}
        """Index of the packet -> cookie, for the few that have one."""


def parse_columns(headers: Headers, chosen: Ints) -> Options:
    """The options of the packets `chosen`."""
    found = Options(len(chosen))
    some = np.flatnonzero(octets(headers.rows)[chosen, 4 * OFFSET_FLAGS] > 0x5F)
    if len(some):
        body, size = headers.options(chosen[some])
        syn = headers.flags[chosen[some]] & SYN != 0
        left = _take_common(found, some, body, size, syn)
        if len(left):
            _walk(found, some[left], body[left], size[left], syn[left])
    return found


def fast_open(headers: Headers) -> Bools:
    """Which packets are SYNs with a Fast Open option."""
    found = np.zeros(len(headers), np.bool_)
    syns = np.flatnonzero(headers.flags & SYN)
    if len(syns):
        body, size = headers.options(syns)
        # few lists have a byte that could be the option's kind, but for the numbers in the commonest list
        possible = np.flatnonzero(~_is_linux_syn(body.view("<u4"), size))
        body = body[possible]
        possible = possible[((body == FAST_OPEN) | (body == EXPERIMENT)).any(axis=1)]
        cookies = parse_columns(headers, syns[possible]).fastopen
        found[syns[possible[[number for number, cookie in cookies.items() if cookie is not None]]]] = True
    return found


def _is_linux_syn(words: Words, size: Ints) -> Bools:
    """Which option lists are MSS, SACK permitted, timestamps, window scale."""
    fits: Bools = (size == 20) & (words[:, 0] & 0xFFFF == _MSS) & (words[:, 1] == _SACK_PERMITTED_TIMESTAMPS)
    fits &= (words[:, 4] & 0xFFFFFF) == _NOP_WINDOW_SCALE
    return fits


def _take_common(found: Options, place: Ints, body: Octets, size: Ints, syn: Bools) -> Ints:
    """Takes the two lists that Linux sends most; gives back which packets have another."""
    words = body.view("<u4")
    stamped = (size == 12) & (words[:, 0] == _NOP_NOP_TIMESTAMPS)
    chosen = np.flatnonzero(stamped)
    if len(chosen):
        where = place[chosen]
        found.tsval[where] = words[chosen, 1].byteswap()
        found.tsecr[where] = words[chosen, 2].byteswap()
    opening = syn & _is_linux_syn(words, size)
    chosen = np.flatnonzero(opening)
    if len(chosen):
        where = place[chosen]
        found.mss[where] = words[chosen, 0].byteswap() & 0xFFFF
        found.sack_ok[where] = True
        found.tsval[where] = words[chosen, 2].byteswap()
        found.tsecr[where] = words[chosen, 3].byteswap()
        found.wscale[where] = np.minimum(words[chosen, 4] >> 24, MAX_WINDOW_SCALE)
    return np.flatnonzero(~(stamped | opening))


def _walk(found: Options, place: Ints, body: Octets, size: Ints, syn: Bools) -> None:
    """Reads option after option of all packets in lockstep; packet k of `body` is `place[k]` of `found`."""
    flat = body.ravel()
    row = np.arange(len(place)) * MAX_OPTIONS
    cursor = np.zeros(len(place), np.int64)
    going = np.flatnonzero(size > 0)
    while len(going):
        at = row[going] + cursor[going]
        kind = flat[at]
        nop = kind == NOP
        left = size[going] - cursor[going]
        length = np.where(nop, 1, flat[np.minimum(at + 1, len(flat) - 1)])
        fits = nop | ((kind != END) & (left >= 2) & (length >= 2) & (length <= left))
        if not fits.all():
            going, at, kind, length = going[fits], at[fits], kind[fits], length[fits]
        _take(found, place[going], syn[going], flat, at, kind, length)
        cursor[going] += length
        going = going[cursor[going] < size[going]]


def _take(
    found: Options, place: Ints, syn: Bools, flat: Octets, at: Ints, kind: Octets, length: Octets
) -> None:
    """Takes one option of each packet: `kind` and `length` at `at`."""
    chosen = np.flatnonzero((kind == TIMESTAMPS) & (length == 10))
    if len(chosen):
        where = place[chosen]
        found.tsval[where] = _number(flat, at[chosen] + 2, 4)
        found.tsecr[where] = _number(flat, at[chosen] + 6, 4)
    of_syn = syn & (kind > NOP)
    if not of_syn.any():
        return
    chosen = np.flatnonzero(of_syn & (kind == MSS) & (length == 4))
    if len(chosen):
        value = _number(flat, at[chosen] + 2, 2)
        where = place[chosen]
        found.mss[where] = np.where(value == 0, found.mss[where], value)
    chosen = np.flatnonzero(of_syn & (kind == WINDOW_SCALE) & (length == 3))
    if len(chosen):
        found.wscale[place[chosen]] = np.minimum(flat[at[chosen] + 2], MAX_WINDOW_SCALE)
    chosen = np.flatnonzero(of_syn & (kind == SACK_PERMITTED) & (length == 2))
    if len(chosen):
        found.sack_ok[place[chosen]] = True
    for number in np.flatnonzero(of_syn & ((kind == FAST_OPEN) | (kind == EXPERIMENT))).tolist():
        option = flat[int(at[number]) : int(at[number] + length[number])].tobytes()
        body = option[2:]
        if option[0] == EXPERIMENT:
            if not body.startswith(FAST_OPEN_MAGIC):
                continue
            body = body[len(FAST_OPEN_MAGIC) :]
        packet = int(place[number])
        found.fastopen[packet] = fast_open_cookie(body, found.fastopen.get(packet))


def _number(flat: Octets, at: Ints, size: int) -> Ints:
    """Big-endian numbers of `size` bytes at each offset."""
    value = flat[at].astype(np.int64)
    for step in range(1, size):
        value = value << 8 | flat[at + step]
    return value


def segments(headers: Headers, chosen: Ints, frames: Ints, times: Ints) -> list[Segment]:
    """The packets `chosen` as Segments, with their numbers and times."""
    if not len(chosen):
        return []
    rows = headers.rows[chosen]
    source, target = endpoints(headers, chosen, rows)
    columns: tuple[Iterable[object], ...] = (
        frames.tolist(),
        times.tolist(),
        source,
        target,
        headers.flags[chosen].tolist(),
        rows[:, SEQ].byteswap().tolist(),
        rows[:, ACKED].byteswap().tolist(),
        (rows[:, OFFSET_FLAGS].byteswap() & 0xFFFF).tolist(),
        headers.length[chosen].tolist(),
    )
    if octets(rows)[:, 4 * OFFSET_FLAGS].max() <= 0x5F:
        columns += tuple(map(repeat, (0, -1, False, -1, -1, None)))
    else:
        columns += _option_columns(parse_columns(headers, chosen), len(chosen))
    # nothing here can be garbage: looking for it among new segments would take a third of the time
    with without_collector():
        return list(map(_segment, zip(*columns, strict=False)))


def _option_columns(found: Options, count: int) -> tuple[Iterable[object], ...]:
    fastopen: Iterable[object] = repeat(None)
    if found.fastopen:
        cookies: list[bytes | None] = [None] * count
        for where, cookie in found.fastopen.items():
            cookies[where] = cookie
        fastopen = cookies
    return (
        found.mss.tolist(),
        found.wscale.tolist(),
        found.sack_ok.tolist(),
        found.tsval.tolist(),
        found.tsecr.tolist(),
        fastopen,
    )


def endpoints(headers: Headers, chosen: Ints, rows: Words) -> tuple[list[bytes], list[bytes]]:
    """Endpoint bytes of the sources and destinations of the packets `chosen`, whose rows are `rows`."""
    halves = rows.view(np.uint16)
    ends = np.empty((len(rows), 6), np.uint16)
    ends[:, 0:2], ends[:, 2] = halves[:, 2 * SOURCE : 2 * SOURCE + 2], halves[:, 2 * PORTS]
    ends[:, 3:5], ends[:, 5] = halves[:, 2 * TARGET : 2 * TARGET + 2], halves[:, 2 * PORTS + 1]
    pairs = ends.view("V6")
    source, target = pairs[:, 0].tolist(), pairs[:, 1].tolist()
    if len(headers.six_at):
        places, addresses = headers.six_of(chosen)
        wide = np.empty((len(places), _SIX_ENDPOINTS), np.uint8)
        ports = octets(rows)[places, 24:28]
        wide[:, :16], wide[:, 16:18] = addresses[:, :16], ports[:, :2]
        wide[:, 18:34], wide[:, 34:] = addresses[:, 16:], ports[:, 2:]
        pairs = wide.view("V18")
        for place, one, other in zip(
            places.tolist(), pairs[:, 0].tolist(), pairs[:, 1].tolist(), strict=True
        ):
            source[place], target[place] = one, other
    return source, target
