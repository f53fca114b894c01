"""Checksums of many packets at once: what checksums.checked() says, for columns.

Words are little-endian reads of network-order bytes: a ones' complement sum is the same in either order, but
for the order of its own bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backlogtrace.capture.checksums import ONES, TCP_PROTOCOL
from backlogtrace.capture.gather import octets
from backlogtrace.capture.headers import FIRST, OFFSET_FLAGS, PLAIN_4, PLAIN_6, PORTS, SOURCE, TARGET

if TYPE_CHECKING:
    from backlogtrace.capture.gather import Ints, Words
    from backlogtrace.capture.headers import Bools, Headers

_TTL, _CHECK = 3, 10
"""Words of a row whose high half is the IPv4 checksum, whose low half is TCP's."""


def checksums(headers: Headers, chosen: Ints) -> tuple[Ints, Ints]:
    """(those of the packets `chosen` whose checksum is right, those whose checksum is wrong)"""
    some = chosen[(headers.length[chosen] == 0) & (headers.rows[chosen, _CHECK] & ONES != 0)]
    if not len(some):
        return some, some
    rows = headers.rows[some]
    kind = rows[:, FIRST] & 0xFF
    four = (kind == PLAIN_4) & (rows[:, _TTL] >> 16 != 0)
    size = (octets(rows)[:, 4 * OFFSET_FLAGS] >> 4).astype(np.int64) << 2
    options, captured = _options(headers, some, size)
    known = (four | (kind == PLAIN_6)) & captured
    addresses = _sum(rows[:, SOURCE : TARGET + 1])
    if len(headers.six_at):
        places, six = headers.six_of(some)
        addresses[places] = _sum(six.view("<u4"))
    addresses += TCP_PROTOCOL << 8
    check = (rows[:, _CHECK] & ONES).astype(np.int64)
    total = _sum(rows[:, PORTS:]) + options + addresses + (size << 8)
    offset = (check - addresses) % ONES
    partial = (offset == 0) | (offset == size << 8)
    fits = total % ONES == 0
    known &= fits | ~partial
    fits &= ~four | (_sum(rows[:, FIRST : TARGET + 1]) % ONES == 0)
    return some[known & fits], some[known & ~fits]


def _options(headers: Headers, some: Ints, size: Ints) -> tuple[Ints, Bools]:
    """(sum of the options of each packet, whether all of them were captured)"""
    total, captured = np.zeros(len(some), np.int64), np.ones(len(some), np.bool_)
    longer = np.flatnonzero(size > 20)
    if len(longer):
        body, there = headers.options(some[longer])
        wanted = size[longer] - 20
        words = body.view("<u4").astype(np.int64)
        words[np.arange(0, 40, 4) >= wanted[:, None]] = 0
        total[longer] = words.sum(axis=1)
        captured[longer] = there == wanted
    return total, captured


def _sum(words: Words) -> Ints:
    """The sum of each row; column by column is the fast way through narrow rows."""
    total = np.zeros(len(words), np.int64)
    for column in words.T:
        total += column
    return total
