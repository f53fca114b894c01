"""One connection attempt, as its packets show it: what evidence.py remembers of each while it goes on.

Says what a packet is to its connection (an answer, a repetition, one that crosses another). Knows no other
connection, and no rule of any kernel but when a SYN-ACK's timer fires.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backlogtrace.segment import ACK, RST, SYN, end_seq, seq_after

if TYPE_CHECKING:
    from backlogtrace.segment import Segment

CROSSING_NS = 2_000_000
"""What is captured this close together may have happened in the other order."""
_MASK = 0xFFFFFFFF


class Flow:
    """One connection attempt (a client's 4-tuple and initial sequence number) while it is not in use.

    Class attributes are initial values: a flood makes a million of these.
    """

    synack: int | None = None
    """Sequence number of the last SYN-ACK."""
    synack_frame = 0
    """Frame of that SYN-ACK; of its SYN where it was not captured."""
    sent_ns = 0
    """Time of that SYN-ACK; 0: not captured."""
    pending: tuple[tuple[int, int], ...] = ()
    """Frame and sequence number (-1: no data) of the client's packets since then."""
    pending_ns = 0
    ignored_ns = 0
    """When it sent the first of them, where it had to send its data again."""
    last = 0
    """Frame of the client's last packet while it has no reply."""
    last_ns = 0
    last_flags = 0
    synack_ns = synack_delay_ns = 0
    """Time of a SYN-ACK that answered a SYN at once, and how long that took, until the client's ACK."""
    alone_ns = 0
    """Time of the SYN-ACK that answered the first SYN, while the client sent nothing else; -1: it did."""
    outlived = 0
    """Frame of the client's ACK, where a SYN was reset between the SYN-ACK and it."""
    acked_seq: int | None = None
    """Sequence number of the client's last packet since that SYN-ACK."""
    sent_seq: int | None = None
    """That of what the client sends next."""
    used = False
    data = False
    """The client sent data."""
    repeats = 0
    trip_ns = 0
    """How long the client took to answer it, the first time, if not too long."""
    synacks = 0
    """How many SYN-ACKs were captured."""
    acks = 0
    """How many ACKs without data."""
    asked: Segment | None = None
    """The client's last SYN."""
    answered: tuple[int, int] | None = None
    """Time (ns) and timestamp of the SYN-ACK that answered it, until it is judged."""

    def __init__(self, isn: int | None) -> None:
        self.isn = isn
        """The client's; None when the SYN was not seen."""


def reopened(flow: Flow, syn: Segment) -> Flow:
    """The connection that `syn` has opened on a 4-tuple that was in use before."""
    new = Flow(syn.seq)
    new.asked = syn
    new.last, new.last_ns, new.last_flags = flow.last, flow.last_ns, flow.last_flags
    new.alone_ns = -1
    new.data = syn.length > 0
    return new


def by_timer(delay_ns: int) -> bool:
    """Whether a timer may send a SYN-ACK that long after the SYN: 1, 3, 7 ... s, or a little later."""
    seconds = (delay_ns + CROSSING_NS) // 1_000_000_000
    nominal = ((1 << (seconds + 1).bit_length() - 1) - 1) * 1_000_000_000
    late = max(nominal // 8 + 100_000_000, 650_000_000)
    return nominal > 0 and delay_ns <= nominal + late


def acknowledges(ack: Segment, syn: Segment) -> bool:
    """Whether a bare ACK is what a client sends that got a SYN-ACK."""
    return bool(ack.flags & ACK and ack.ack) and ack.seq in {(syn.seq + 1) & _MASK, end_seq(syn)}


def acks_data(segment: Segment, flow: Flow) -> bool:
    """Whether the server acknowledges more than the client's SYN."""
    return flow.isn is not None and seq_after(segment.ack, (flow.isn + 1) & _MASK)


def takes_data(segment: Segment, flow: Flow) -> bool:
    """Likewise, and no more than the capture shows."""
    if flow.sent_seq is None or seq_after(segment.ack, flow.sent_seq):
        return False
    return acks_data(segment, flow)


def answers(synack: Segment, flow: Flow) -> bool:
    """Whether a SYN-ACK answers a SYN that was captured, as far as any was."""
    isn = (synack.ack - 1) & _MASK
    if flow.isn is None or isn == flow.isn:
        return True
    syn = flow.asked
    return syn is not None and (isn == syn.seq or synack.ack == end_seq(syn))


def crosses(flow: Flow, synack: Segment) -> bool:
    """Whether a SYN-ACK that came again may have been sent before the client's last packet came."""
    again = flow.synack == synack.seq and not flow.last_flags & (SYN | RST)
    return again and synack.time_ns - flow.last_ns < CROSSING_NS
