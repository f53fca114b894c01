"""Which endpoints listen, told by the packets: who gets SYNs, who sends SYN-ACKs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backlogtrace.segment import ACK, HANDSHAKE, RST, SYN

if TYPE_CHECKING:
    from collections.abc import Collection

    from backlogtrace.segment import Segment


def listening(chunk: list[Segment], known: Collection[bytes]) -> list[bytes]:
    """Endpoints not `known` yet that get a SYN which no RST refuses, or send a SYN-ACK to no listener.

    One SYN-ACK is enough: a listener may be closed later, and some systems reset SYNs when it is full.
    """
    refused: set[bytes] = set()
    answered: set[bytes] = set()
    asked: dict[bytes, None] = {}
    answers: dict[bytes, bytes] = {}
    for segment in chunk:
        flags = segment.flags
        if flags & (SYN | HANDSHAKE):
            if flags & ACK:
                answered.add(segment.src)
                if segment.src not in known and segment.src not in asked:
                    answers[segment.src] = segment.dst
            elif segment.dst not in known:
                asked[segment.dst] = None
        elif flags & (RST | ACK) == RST | ACK and segment.seq == 0:
            refused.add(segment.src)
    refused -= answered
    for end, peer in answers.items():
        if peer not in known and (peer not in asked or peer in refused):
            asked[end] = None
    return [end for end in asked if end not in refused]
