"""Which TCP packets can matter to a listen socket: the rule of select_plain, for many packets at once.

State is kept in tables of fixed size, indexed by a hash. Where two flows or endpoints want the same slot
something is forgotten, and what is forgotten only makes more packets stay: the result is select_plain's or a
superset of it.
Knows no queue and decides nothing about the packets it keeps.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from backlogtrace.capture.headers import ACKED, PORTS, SEQ, SOURCE, TARGET, Headers
from backlogtrace.segment import ACK, FIN, RST, SYN

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy.typing as npt

    from backlogtrace.capture.gather import Ints
    from backlogtrace.capture.info import CaptureInfo

    Tags = npt.NDArray[np.uint64]
    Bools = npt.NDArray[np.bool_]

_FLOW_BITS = 20
_SERVER_BITS = 17
_PORTS = 1 << 16
_AMBIGUOUS, _FASTOPEN = 1, 2


class Hasher:
    """64-bit hashes of endpoints.

    The key comes from the capture's first packets, so that results repeat and nobody who sends packets can
    know which of them will collide.
    """

    def __init__(self, seed: bytes) -> None:
        digest = hashlib.blake2b(seed, digest_size=40).digest()
        self._whiten, first, second, third, fourth = np.frombuffer(digest, "<u8").astype(np.uint64)
        # odd factors lose nothing
        self._factors = [factor | np.uint64(1) for factor in (first, second, third, fourth)]

    def endpoints(self, headers: Headers) -> tuple[Tags, Tags]:
        """Hashes of the source and the destination, address and port, of each packet; never 0."""
        rows = headers.rows
        ports = rows[:, PORTS]
        source = rows[:, SOURCE].astype(np.uint64)
        source <<= np.uint64(16)
        source |= ports & 0xFFFF
        target = rows[:, TARGET].astype(np.uint64)
        target <<= np.uint64(16)
        target |= ports >> 16
        self._mix(source)
        self._mix(target)
        if len(headers.six_at):
            halves = headers.six.view("<u8").reshape(-1, 4)
            pairs = ports[headers.six_at].view("<u2").reshape(-1, 2)
            source[headers.six_at] = self._mixed_six(halves[:, 0], halves[:, 1], pairs[:, 0])
            target[headers.six_at] = self._mixed_six(halves[:, 2], halves[:, 3], pairs[:, 1])
        return source, target

    def _mix(self, value: Tags) -> None:
        """Makes hashes of numbers, in place."""
        value ^= self._whiten
        value *= self._factors[0]
        value ^= value >> np.uint64(32)
        value *= self._factors[1]
        value |= np.uint64(1)

    def _mixed_six(self, high: Tags, low: Tags, port: npt.NDArray[np.uint16]) -> Tags:
        value: Tags = (high ^ self._whiten) * self._factors[2]
        value ^= value >> np.uint64(29)
        value = (value + low) * self._factors[3]
        value ^= value >> np.uint64(31)
        value += port
        self._mix(value)
        return value


class _Endpoints:
    """A set of endpoints that knows when it does not know."""

    def __init__(self) -> None:
        self._tags = np.zeros(1 << _SERVER_BITS, np.uint64)
        self._crowded = np.zeros(1 << _SERVER_BITS, np.bool_)

    def add(self, tags: Tags) -> None:
        """Adds endpoints; one that finds its slot taken makes the slot crowded."""
        slots = slots_of(tags, _SERVER_BITS)
        free = self._tags[slots] == 0
        self._tags[slots[free]] = tags[free]
        self._crowded[slots[self._tags[slots] != tags]] = True

    def lookup(self, tags: Tags) -> tuple[Bools, Bools]:
        """(which are in the set for certain, which may be in it)"""
        slots = slots_of(tags, _SERVER_BITS)
        certain = self._tags[slots] == tags
        return certain, certain | self._crowded[slots]


def slots_of(tags: Tags, bits: int) -> Ints:
    """Slots of hashes in a table of 2^bits."""
    return (tags >> np.uint64(64 - bits)).astype(np.int64)


def flow_tags(source: Tags, target: Tags) -> Tags:
    """Hashes of pairs of endpoints, the same for both directions; never 0."""
    flow: Tags = source + target
    # the sum of two odd numbers: its lowest bit is free, and 0 stands for an empty slot
    flow |= np.uint64(1)
    return flow


class ColumnSelector:
    """Applies the rule to one batch of packets after another."""

    def __init__(self, ports: Collection[int], info: CaptureInfo, seed: bytes) -> None:
        self._hasher = Hasher(seed)
        self._info = info
        self._ports: Bools | None = None
        if ports:
            self._ports = np.zeros(_PORTS, np.bool_)
            # the columns hold ports as a little-endian read gives them
            self._ports[[(port & 0xFF) << 8 | port >> 8 for port in ports]] = True
        self._servers = _Endpoints()
        self._established = np.zeros(1 << _FLOW_BITS, np.uint64)
        """Flow whose establishment has been proved."""
        self._syn = np.zeros(1 << _FLOW_BITS, np.uint64)
        """Flow of the last SYN."""
        self._expected = np.zeros(1 << _FLOW_BITS, np.uint32)
        """Acknowledgment number that covers the SYN and its data."""
        self._doubt = np.zeros(1 << _FLOW_BITS, np.uint8)
        """Whether the slot's SYNs expected different numbers, and whether one may have opened fast."""
        self._proof_at = np.zeros(1 << _FLOW_BITS, np.int32)
        """Index in the batch of the proof that made a slot established in it."""
        self._restart_at = np.full(1 << _FLOW_BITS, -1, np.int32)
        """Index in the batch of the last SYN or RST in a slot, -1 when there is none."""

    def learn(self, headers: Headers) -> tuple[Tags, Tags]:
        """Takes the servers that the batch shows, before anything is chosen; gives the endpoints' hashes."""
        source, target = self._hasher.endpoints(headers)
        asked = np.flatnonzero(headers.flags & (SYN | ACK) == SYN)
        answered = np.flatnonzero(headers.flags & (SYN | ACK) == SYN | ACK)
        self._servers.add(np.concatenate((target[asked], source[answered])))
        return source, target

    def choose(self, headers: Headers, endpoints: tuple[Tags, Tags], fastopen: Bools) -> Ints:
        """Indexes of the packets to keep. `fastopen`: which packets carry a Fast Open option."""
        flags = headers.flags
        source, target = endpoints
        flow = flow_tags(source, target)
        slots = slots_of(flow, _FLOW_BITS)
        restarts = np.flatnonzero(flags & (SYN | RST))
        self._restart(headers, flow, slots, restarts, fastopen)
        special = flags & (SYN | RST | FIN) != 0
        open_yet = self._established[slots] != flow
        open_yet |= special
        rest = np.flatnonzero(open_yet)
        self._info.established += len(flags) - len(rest)
        keep = np.ones(len(rest), np.bool_)
        ordinary = np.flatnonzero(flags[rest] & (SYN | RST) == 0)
        if len(ordinary):
            keep[ordinary] = self._ordinary(headers, rest[ordinary], source, target, flow, slots)
        self._restart_at[slots[restarts]] = -1
        return rest[keep]

    def maybe_servers(self, tags: Tags, ports: npt.NDArray[np.uint32]) -> Bools:
        """Which endpoints may be servers; ports as a little-endian read gives them."""
        return self._server(tags, ports)[1]

    def _restart(self, headers: Headers, flow: Tags, slots: Ints, restarts: Ints, fastopen: Bools) -> None:
        """Forgets what SYN and RST put in doubt, and takes what SYNs say."""
        self._established[slots[restarts]] = 0
        self._restart_at[slots[restarts]] = restarts
        syns = restarts[headers.flags[restarts] & (SYN | ACK) == SYN]
        slot, tag = slots[syns], flow[syns]
        length = headers.length[syns]
        expected = (headers.rows[syns, SEQ].byteswap() + (length + 1)).astype(np.uint32)
        taken = self._syn[slot] != 0
        doubtful = taken & ((self._syn[slot] != tag) | (self._expected[slot] != expected))
        self._syn[slot] = tag
        self._expected[slot] = expected
        # where several of this batch share a slot, the last one is in it
        doubtful |= (self._syn[slot] != tag) | (self._expected[slot] != expected)
        self._doubt[slot[doubtful]] |= _AMBIGUOUS
        self._doubt[slot[(length > 0) | fastopen[syns]]] |= _FASTOPEN

    def _ordinary(
        self, headers: Headers, chosen: Ints, source: Tags, target: Tags, flow: Tags, slots: Ints
    ) -> Bools:
        """Which of the packets without SYN and RST, of flows not known as established, to keep."""
        flags = headers.flags[chosen]
        fin = flags & FIN != 0
        from_server, maybe_from = self._server(source[chosen], headers.rows[chosen, PORTS] & 0xFFFF)
        _, maybe_to = self._server(target[chosen], headers.rows[chosen, PORTS] >> 16)
        related = maybe_from | maybe_to
        keep = related | fin
        self._info.midstream += int((~keep).sum())
        proof = np.flatnonzero(from_server & ~maybe_to & (flags & ACK != 0))
        where = chosen[proof[self._proves(headers, chosen[proof], flow, slots)]]
        where = where[where > self._restart_at[slots[where]]]
        if len(where):
            # of several proofs in a slot the first must stand: numpy assigns in order, so it comes last
            place = slots[where][::-1]
            self._established[place] = flow[where][::-1]
            self._proof_at[place] = where[::-1]
            late = chosen > self._proof_at[slots[chosen]]
            late &= self._established[slots[chosen]] == flow[chosen]
            late &= keep & ~fin
            self._info.established += int(late.sum())
            keep &= ~late
        kept: Bools = keep
        return kept

    def _server(self, tags: Tags, ports: npt.NDArray[np.uint32]) -> tuple[Bools, Bools]:
        """(which endpoints are servers for certain, which may be)"""
        certain, maybe = self._servers.lookup(tags)
        if self._ports is not None:
            named = self._ports[ports]
            return certain | named, maybe | named
        return certain, maybe

    def _proves(self, headers: Headers, chosen: Ints, flow: Tags, slots: Ints) -> Bools:
        """Whether these ACKs from a server show that their connection is established."""
        slot = slots[chosen]
        doubt = self._doubt[slot]
        speaks = (headers.length[chosen] > 0) | (headers.flags[chosen] & FIN != 0)
        ahead = headers.rows[chosen, ACKED].byteswap() - self._expected[slot]
        beyond = (ahead - np.uint32(1)) < np.uint32((1 << 31) - 1)
        known = (self._syn[slot] == flow[chosen]) & (doubt & _AMBIGUOUS == 0)
        proved: Bools = (known & beyond) | (speaks & (doubt & _FASTOPEN == 0))
        return proved
