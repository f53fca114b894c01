"""Puts ordinary handshakes of a list of segments together, slowly and plainly."""

from __future__ import annotations

from backlogtrace.segment import (
    ACK,
    FIN,
    HANDSHAKE,
    HANDSHAKE_MAX_NS,
    RST,
    SYN,
    Handshake,
    Segment,
    end_seq,
    seq_after,
)

_MASK = 0xFFFFFFFF
_CONTROL = SYN | ACK | RST | FIN


class Packets:
    """The packets of all handshakes of a list."""

    def __init__(self) -> None:
        self.lists: list[list[Segment]] = []

    def segments(self, number: int) -> list[Segment]:
        return list(self.lists[number])

    def opening(self, number: int) -> list[Segment]:
        packets = self.lists[number]
        return packets[:3] + [packet for packet in packets[3:] if packet.src == packets[1].src][:1]


def bundle(segments: list[Segment]) -> list[Segment | Handshake]:
    """The same list with a Handshake for every flow that begins with an ordinary one."""
    flows: dict[frozenset[bytes], list[Segment]] = {}
    for segment in segments:
        flows.setdefault(frozenset((segment.src, segment.dst)), []).append(segment)
    source = Packets()
    items: list[Segment | Handshake] = []
    for flow in flows.values():
        used = _ordinary(flow)
        if used:
            syn, ack, last = flow[0], flow[2], flow[used - 1]
            closing = _closing(flow, used)
            served = next((one.time_ns for one in flow[3:] if one.src == syn.dst and _speaks(one)), -1)
            items.append(
                Handshake(
                    syn.frame, syn.time_ns, syn.src, syn.dst, HANDSHAKE,
                    ack.time_ns, last.ack, ack.tsval, source, len(source.lists),
                    flow[used + 2 * bool(closing) - 1].time_ns, served, *(closing or (False,) * 7),
                )
            )  # fmt: skip
            used += 2 * bool(closing)
            source.lists.append(flow[:used])
        items += flow[used:]
    return sorted(items, key=lambda item: item.frame)


def _speaks(segment: Segment) -> bool:
    return bool(segment.length or segment.flags & FIN)


def _closing(flow: list[Segment], used: int) -> tuple[()] | tuple[bool, bool, int, int, int, int, int]:
    """The fields of a Handshake from `closed` on, where nothing but a FIN of each side follows."""
    ends = flow[used:]
    if len(ends) != 2 or any(one.flags & _CONTROL != FIN | ACK for one in ends) or ends[0].src == ends[1].src:
        return ()
    times = [one.time_ns for one in flow]
    server_first = ends[1].src == flow[0].src
    of_server, of_client = ends if server_first else ends[::-1]
    if times != sorted(times) or (server_first and seq_after(end_seq(of_server), of_client.ack)):
        return ()
    return (
        True,
        server_first,
        ends[0].time_ns,
        end_seq(of_client),
        end_seq(of_server),
        of_server.ack,
        of_client.tsval,
    )


def _ordinary(flow: list[Segment]) -> int:
    """How many packets of a flow make its ordinary handshake, the server's proof included; 0: none."""
    if len(flow) < 4 or sum(bool(segment.flags & SYN) for segment in flow) != 2:
        return 0
    syn, synack, ack = flow[:3]
    if (
        syn.flags & _CONTROL != SYN
        or synack.flags & _CONTROL != SYN | ACK
        or ack.flags != ACK
        or synack.src != syn.dst
        or ack.src != syn.src
        or syn.length
        or ack.length
        or syn.fastopen is not None
        or synack.fastopen is not None
        or synack.ack != (syn.seq + 1) & _MASK
        or ack.seq != synack.ack
        or ack.ack != (synack.seq + 1) & _MASK
        or not 0 <= ack.time_ns - syn.time_ns <= HANDSHAKE_MAX_NS
        or (ack.tsval >= 0 and syn.tsval >= 0 and ack.tsval < syn.tsval)
        or (ack.tsecr >= 0 and synack.tsval >= 0 and ack.tsecr != synack.tsval)
    ):
        return 0
    for used, segment in enumerate(flow[3:], 4):
        if segment.flags & (RST | FIN | SYN):
            return 0
        if segment.src == syn.dst and (segment.length or segment.ack != end_seq(syn)):
            return used
        if segment.src == syn.dst:
            return 0
    return 0
