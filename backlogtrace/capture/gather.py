"""Bytes at many offsets of a buffer at once, as numpy rows, without copying the buffer.

Words are little-endian reads of whatever is there. Offsets past the end give anything: the caller knows what
is inside a packet. Knows no packet format but how many bytes of options a TCP header may have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from backlogtrace.capture.link import Data

    Ints = npt.NDArray[np.int64]
    Words = npt.NDArray[np.uint32]
    Octets = npt.NDArray[np.uint8]

MAX_OPTIONS = 40
"""Bytes of TCP options at most (RFC 9293 section 3.1)."""


def octets(rows: Words) -> Octets:
    """The same rows as bytes."""
    return rows.view(np.uint8).reshape(len(rows), 4 * rows.shape[1])


def rows_at(data: Data, at: Ints, size: int) -> Words:
    """(k, size / 4) words from each offset on."""
    last = len(data) - size
    if last < 0 or not len(at):
        return np.zeros((len(at), size // 4), np.uint32)
    window = np.ndarray((last + 1,), np.dtype(f"V{size}"), data, strides=(1,))
    return window[np.minimum(at, last)].view("<u4").reshape(-1, size // 4)


def halves_at(data: Data, at: Ints) -> npt.NDArray[np.uint16]:
    """The 16-bit word at each offset."""
    window = np.ndarray((len(data) - 1,), np.dtype("<u2"), data, strides=(1,))
    found: npt.NDArray[np.uint16] = window[np.minimum(at, len(data) - 2)]
    return found


def octets_at(data: Data, at: Ints) -> Octets:
    """The byte at each offset."""
    window = np.ndarray((len(data),), np.dtype("u1"), data)
    found: Octets = window[np.minimum(at, len(data) - 1)]
    return found


def options_at(data: Data, at: Ints, size: Ints) -> Octets:
    """(k, 40) bytes from each offset on, of which `size` count: these are right up to the end of the data."""
    body = octets(rows_at(data, at, MAX_OPTIONS))
    for number in np.flatnonzero((at > len(data) - MAX_OPTIONS) & (size > 0)).tolist():
        tail = data[int(at[number]) : int(at[number] + size[number])]
        body[number, : len(tail)] = np.frombuffer(tail, np.uint8)
    return body


class Places(NamedTuple):
    """Where the TCP headers of some packets are, in one or several buffers."""

    tcp_at: Ints
    end: Ints
    """Offset behind the captured bytes of the packet."""
    data: list[Data]
    origin: Ints | None = None
    """Which buffer each packet is in; None where there is only one."""

    def chosen(self, index: Ints | slice) -> Places:
        """Some of them."""
        origin = None if self.origin is None else self.origin[index]
        return Places(self.tcp_at[index], self.end[index], self.data, origin)

    def options(self, size: Ints) -> tuple[Octets, Ints]:
        """((k, 40) bytes behind the fixed headers, how many of the `size` option bytes were captured)."""
        at = self.tcp_at + 20
        size = np.minimum(size, self.end - at)
        if self.origin is None:
            return options_at(self.data[0], at, size), size
        body = np.zeros((len(at), MAX_OPTIONS), np.uint8)
        for number, data in enumerate(self.data):
            here = np.flatnonzero(self.origin == number)
            body[here] = options_at(data, at[here], size[here])
        return body, size

    @staticmethod
    def joined(parts: Sequence[Places]) -> Places:
        """The places of all parts, one part after the other."""
        data: list[Data] = []
        origins = []
        for part in parts:
            own = np.zeros(len(part.tcp_at), np.int64) if part.origin is None else part.origin
            origins.append(own + len(data))
            data += part.data
        return Places(
            np.concatenate([part.tcp_at for part in parts]),
            np.concatenate([part.end for part in parts]),
            data,
            np.concatenate(origins),
        )
