"""Ordinary handshakes, found in columns: SYN, SYN-ACK, ACK and the server's proof as one item.

The FINs of both sides are in it, too, where the connection is over within the same batch.

What is not ordinary beyond doubt, or not whole within one batch, is left as it is: a handshake that is not
found costs time and changes nothing.
Knows no queue; what a listen socket makes of a handshake is not its business.
"""

from __future__ import annotations

from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from backlogtrace.capture.emit import endpoints, parse_columns, segments
from backlogtrace.capture.headers import ACKED, OFFSET_FLAGS, PORTS, SEQ, Headers
from backlogtrace.capture.select_columns import flow_tags, slots_of
from backlogtrace.collector import without_collector
from backlogtrace.segment import (
    ACK,
    CWR,
    ECE,
    FIN,
    HANDSHAKE,
    HANDSHAKE_MAX_NS,
    RST,
    SYN,
    Handshake,
    Segment,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from backlogtrace.capture.gather import Ints
    from backlogtrace.capture.select_columns import Bools, ColumnSelector, Tags

    Numbers = npt.NDArray[np.uint32]

_SEEN_BITS = 24
_COUNT_BITS = 14
_LEAST = 4
"""Packets of the shortest handshake: SYN, SYN-ACK, ACK and proof."""
_HALF = np.uint32(1 << 31)
_ONE = np.uint32(1)
_ONE_BIT = np.uint64(1)
_WAY_BITS = 20
_BLOCK = 64
"""Handshakes taken apart together: numpy's calls cost about as much as so many."""
_handshake = partial(tuple.__new__, Handshake)


class Bundles(NamedTuple):
    """The ordinary handshakes of one batch, in the order of their SYNs."""

    packets: Ints
    """Indexes of their packets in the batch, one handshake after the other."""
    bounds: Ints
    """Where each begins in `packets`, and where the last one ends."""
    ack_ns: Ints
    rcv_nxt: Numbers
    tsval: Ints
    last_ns: Ints
    served_ns: Ints
    closings: Closings

    @property
    def opening(self) -> Ints:
        """Indexes of the SYNs."""
        return self.packets[self.bounds[:-1]]


class Closings(NamedTuple):
    """How connections end; one entry per handshake, see Handshake."""

    closed: Bools
    server_first: Bools
    fin_ns: Ints
    fin_in: Numbers
    fin_out: Numbers
    fin_ack: Numbers
    fin_tsval: Ints


class BundleSource:
    """The packets of handshakes, copied from their batch, for who wants them one by one."""

    def __init__(self, headers: Headers, bundles: Bundles, first_frame: int, times: Ints) -> None:
        self._headers = headers.detached(bundles.packets)
        self._frames = self._headers.number + first_frame
        self._times = times[self._headers.number]
        self._bounds = bundles.bounds
        self._closed = bundles.closings.closed
        self._block = -1
        self._found: list[Segment] = []
        self._first_opening = self._next_opening = 0
        self._openings: list[Segment] = []

    def segments(self, number: int) -> list[Segment]:
        """See HandshakeSource."""
        first = number // _BLOCK * _BLOCK
        bounds = self._bounds[first : first + _BLOCK + 1]
        if first != self._block:
            self._found = self._some(np.arange(bounds[0], bounds[-1]))
            self._block = first
        start, end = (bounds[number - first : number - first + 2] - bounds[0]).tolist()
        return self._found[start:end]

    def opening(self, number: int) -> list[Segment]:
        """See HandshakeSource."""
        if not self._first_opening <= number < self._next_opening:
            # who asks for one after the other will ask for all
            size = 8 * _BLOCK if number == self._next_opening else _BLOCK
            bounds = self._bounds[number : number + size + 1]
            begins, ends = bounds[:-1], bounds[1:]
            proofs = ends - 1 - 2 * self._closed[number : number + len(ends)]
            self._openings = self._some(np.stack((begins, begins + 1, begins + 2, proofs), axis=1).ravel())
            self._first_opening, self._next_opening = number, number + len(ends)
        start = 4 * (number - self._first_opening)
        packets = self._openings[start : start + 4]
        # where the proof has a FIN it is not in the item, and the last packet is the client's
        return packets if packets[3].src == packets[1].src else packets[:3]

    def _some(self, chosen: Ints) -> list[Segment]:
        return segments(self._headers, chosen, self._frames[chosen], self._times[chosen])


class Bundler:
    """Finds the ordinary handshakes of one batch of packets after another."""

    def __init__(self, selector: ColumnSelector) -> None:
        self._selector = selector
        self._seen = np.zeros(1 << _SEEN_BITS, np.bool_)
        """Slots of flows of which an earlier batch had packets."""
        self._spoke = np.full(1 << _WAY_BITS, -1, np.int32)
        """First packet of a batch, by source and destination, that carries data or a FIN."""

    def find(
        self, headers: Headers, times: Ints, chosen: Ints, ends: tuple[Tags, Tags], fastopen: Bools
    ) -> Bundles | None:
        """The ordinary handshakes among the packets `chosen`; None when there are none.

        `times` has the times of all packets; `ends` and `fastopen` are as for ColumnSelector.choose().
        """
        if not len(chosen):
            return None
        groups = self._openings(headers, chosen, *ends)
        if groups is None:
            return None
        when = times[headers.number[groups.packets]]
        good, proof = groups.handshakes(headers, when, ends[0])
        good = good[~fastopen[groups.packets[groups.first[good]]]]
        good = good[~fastopen[groups.packets[groups.first[good] + 1]]]
        syns = groups.packets[groups.first[good]]
        # where the client may be a server too, it is not certain who listens
        good = good[~self._selector.maybe_servers(ends[0][syns], headers.rows[syns, PORTS] & 0xFFFF)]
        good, tsval = _in_step(headers, groups, good)
        if not len(good):
            return None
        good_order = np.argsort(groups.packets[groups.first[good]])
        good, tsval = good[good_order], tsval[good_order]
        first, last = groups.first[good], proof[good]
        proofs = groups.packets[last]
        rcv_nxt = headers.rows[proofs, ACKED].byteswap()
        closings = groups.closings(headers, when, ends[0], good, last)
        # a FIN ends more than the handshake: one that proves stays a segment of its own
        size = last - first + (headers.flags[proofs] & FIN == 0) + 2 * closings.closed
        return Bundles(
            groups.packets[_ranges(first, size)],
            np.concatenate(([0], np.cumsum(size))),
            when[first + 2],
            rcv_nxt,
            tsval,
            when[first + size - 1],
            self._served(headers, times, ends, groups.packets[first]),
            closings,
        )

    def _served(self, headers: Headers, times: Ints, ends: tuple[Tags, Tags], syns: Ints) -> Ints:
        """When the server first sent data or a FIN on the connections of some SYNs; -1: not known."""
        source, target = ends
        first = self._spoke
        spoken = np.flatnonzero((headers.length > 0) | (headers.flags & FIN != 0))[::-1]
        slots = slots_of(source[spoken] + (target[spoken] << _ONE_BIT), _WAY_BITS)
        # of several in a slot the first must stand: numpy assigns in order, so it comes last
        first[slots] = spoken
        client, server = source[syns], target[syns]
        found = first[slots_of(server + (client << _ONE_BIT), _WAY_BITS)]
        first[slots] = -1
        mine = (found >= 0) & (source[found] == server) & (target[found] == client)
        return np.where(mine, times[headers.number[found]], -1)

    def _openings(self, headers: Headers, chosen: Ints, source: Tags, target: Tags) -> _Groups | None:
        """The packets of each flow that this batch opens with a SYN; None when there are none."""
        flow = flow_tags(source[chosen], target[chosen])
        slots = slots_of(flow, _SEEN_BITS)
        fresh = ~self._seen[slots]
        self._seen[slots] = True
        # most flows of a flood have no ACK and proof: not sorting them saves more than counting costs
        slots = slots_of(flow, _COUNT_BITS)
        plain = slots[headers.flags[chosen] & (SYN | RST) == 0]
        likely = fresh & (np.bincount(plain, minlength=1 << _COUNT_BITS)[slots] >= 2)
        chosen, flow = chosen[likely], flow[likely]
        if not len(chosen):
            return None
        order = np.argsort(flow, kind="stable")
        flow = flow[order]
        edges = np.flatnonzero(flow[1:] != flow[:-1]) + 1
        first = np.concatenate(([0], edges))
        size = np.diff(first, append=len(flow))
        packets = chosen[order]
        flags = headers.flags[packets[first]]
        opens = (size >= _LEAST) & ((flags == SYN) | (flags == SYN | ECE | CWR))
        first, size = first[opens], size[opens]
        if not len(first):
            return None
        return _Groups(packets[_ranges(first, size)], np.cumsum(size) - size, size)


class _Groups(NamedTuple):
    """Packets of some flows, flow by flow, in capture order within each."""

    packets: Ints
    """Indexes in the batch."""
    first: Ints
    """Where each flow begins in `packets`."""
    size: Ints

    def handshakes(self, headers: Headers, times: Ints, source: Tags) -> tuple[Ints, Ints]:
        """(flows that begin with an ordinary handshake but for options, where each flow has its proof).

        `times` are those of the packets, `source` the hashes of the source of each packet of the batch.
        """
        rows = headers.rows[self.packets]
        seq, acked = rows[:, SEQ].byteswap(), rows[:, ACKED].byteswap()
        flags, length = headers.flags[self.packets], headers.length[self.packets]
        syn, answer, third = self.first, self.first + 1, self.first + 2
        hashes = source[self.packets]
        of_client = hashes == np.repeat(hashes[syn], self.size)
        client_next, server_next = seq[syn] + _ONE, seq[answer] + _ONE
        later = times[1:] >= times[:-1]
        took = times[third] - times[syn]

        good = (length[syn] == 0) & (length[answer] == 0) & (length[third] == 0)
        good &= (flags[answer] & ~np.uint8(ECE)) == SYN | ACK
        good &= ~of_client[answer] & (acked[answer] == client_next)
        good &= (flags[third] == ACK) & of_client[third]
        good &= (seq[third] == client_next) & (acked[third] == server_next)
        good &= later[syn] & later[answer] & (took <= HANDSHAKE_MAX_NS)
        good &= np.add.reduceat(flags & SYN != 0, syn, dtype=np.int64) == 2

        beyond = seq - np.repeat(client_next, self.size)
        covered = acked - np.repeat(client_next, self.size)
        from_first = np.repeat(server_next, self.size)
        proves = ~of_client & (flags & (SYN | RST | ACK) == ACK)
        proves &= (covered - _ONE < _HALF - _ONE) | (length > 0) | (flags & FIN != 0)
        where = np.arange(len(flags))
        proof = np.minimum.reduceat(np.where(proves, where, len(flags)), syn)
        good &= proof < len(flags)
        proof[~good] = third[~good] + 1
        good &= (seq[proof] == server_next) & (covered[proof] < _HALF)

        window = np.repeat(rows[answer, OFFSET_FLAGS].byteswap() & 0xFFFF, self.size)
        data = of_client & (flags & (SYN | RST | FIN | ACK) == ACK) & (length > 0) & (acked == from_first)
        data &= beyond + length <= window
        odd = _before(~data)
        good &= odd[proof] == odd[third + 1]
        back = _before(~later)
        good &= back[proof] == back[syn]
        return np.flatnonzero(good), proof

    def closings(self, headers: Headers, times: Ints, source: Tags, good: Ints, proof: Ints) -> Closings:
        """How the connections of the flows `good` end, whose proofs are at `proof`.

        They are closed where nothing but a FIN of each side follows and the clock does not step back.
        """
        end = self.first[good] + self.size[good] - 1
        closed = end - proof == 2
        first, second = self.packets[np.where(closed, end - 1, end)], self.packets[end]
        flags = headers.flags
        ends = SYN | RST | FIN | ACK
        closed &= (flags[self.packets[proof]] & FIN == 0) & (source[first] != source[second])
        closed &= (flags[first] & ends == FIN | ACK) & (flags[second] & ends == FIN | ACK)
        closed &= (times[end] >= times[end - 1]) & (times[end - 1] >= times[proof])
        server_first = source[second] == source[self.packets[self.first[good]]]
        of_client, of_server = np.where(server_first, second, first), np.where(server_first, first, second)
        fin_in, fin_out = _after(headers, of_client), _after(headers, of_server)
        # a FIN that does not acknowledge the other side's, which came before it: both may be on their way
        crossed = fin_out - headers.rows[of_client, ACKED].byteswap() - _ONE < _HALF - _ONE
        closed &= ~(server_first & crossed)
        fin_ack = headers.rows[of_server, ACKED].byteswap()
        tsval = parse_columns(headers, of_client).tsval
        return Closings(closed, server_first, times[end - 1], fin_in, fin_out, fin_ack, tsval)


def _after(headers: Headers, packets: Ints) -> Numbers:
    """Sequence numbers after FINs."""
    after: Numbers = headers.rows[packets, SEQ].byteswap() + headers.length[packets].astype(np.uint32) + _ONE
    return after


def _before(marks: Bools) -> Ints:
    """How many marks there are before each place."""
    return np.concatenate(([0], np.cumsum(marks)))


def _ranges(first: Ints, size: Ints) -> Ints:
    """first[0], first[0] + 1 … (size[0] numbers), first[1] …"""
    found: Ints = np.repeat(first - np.cumsum(size) + size, size) + np.arange(size.sum())
    return found


def _in_step(headers: Headers, groups: _Groups, good: Ints) -> tuple[Ints, Ints]:
    """(those of the flows `good` whose timestamps are ordinary, the timestamp value of their ACK)"""
    count = len(good)
    first = groups.first[good]
    found = parse_columns(headers, groups.packets[np.concatenate((first, first + 1, first + 2))])
    opening, answer, completing = found.tsval.reshape(3, count)
    echo = found.tsecr[2 * count :]
    older = (opening >= 0) & (completing >= 0) & ((completing - opening) & 0xFFFFFFFF >= _HALF)
    stranger = (answer >= 0) & (completing >= 0) & (echo != answer)
    fine = ~(older | stranger)
    return good[fine], completing[fine]


def mixed_items(
    headers: Headers, chosen: Ints, bundles: Bundles, source: BundleSource, first_frame: int, times: Ints
) -> list[Segment | Handshake]:
    """Packets as Segments, but SYNs of `bundles` as Handshakes; the other packets of these must not be given.

    The packet of index 0, TCP or not, has the number `first_frame`; `times` has the times of all packets.
    """
    low, high = np.searchsorted(bundles.opening, (chosen[0], chosen[-1] + 1)).tolist()
    opening = bundles.opening[low:high]
    single = np.ones(len(chosen), np.bool_)
    single[np.searchsorted(chosen, opening)] = False
    number = headers.number[chosen[single]]
    items: list[Segment | Handshake] = []
    items += segments(headers, chosen[single], number + first_frame, times[number])
    items += _handshakes(headers, bundles, source, range(low, high), first_frame, times)
    place = np.empty(len(chosen), np.int64)
    place[single] = np.arange(len(number))
    place[~single] = np.arange(len(number), len(chosen))
    return list(map(items.__getitem__, place.tolist()))


def _handshakes(
    headers: Headers, bundles: Bundles, source: BundleSource, some: range, first_frame: int, times: Ints
) -> list[Handshake]:
    """The handshakes of the numbers `some`."""
    these = slice(some.start, some.stop)
    opening = bundles.opening[these]
    number = headers.number[opening]
    columns = (
        (number + first_frame).tolist(),
        times[number].tolist(),
        *endpoints(headers, opening, headers.rows[opening]),
        repeat(HANDSHAKE),
        bundles.ack_ns[these].tolist(),
        bundles.rcv_nxt[these].tolist(),
        bundles.tsval[these].tolist(),
        repeat(source),
        some,
        bundles.last_ns[these].tolist(),
        bundles.served_ns[these].tolist(),
        *(column[these].tolist() for column in bundles.closings),
    )
    # as in emit.segments()
    with without_collector():
        return list(map(_handshake, zip(*columns, strict=False)))
