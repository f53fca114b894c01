"""Is the checksum of a packet right, as far as the capture can tell? (RFC 1071, RFC 9293 section 3.1)

Only packets without payload are checked, captured whole and with no header between IP and TCP: those that
make handshakes, and that neither GRO merges nor anybody blanks. A checksum that the network card was to fill
in is no wrong one: it is 0, or the sum of the pseudo-header alone (CHECKSUM_PARTIAL).
Refuses to say what a wrong checksum means: a capture that was rewritten has nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backlogtrace.capture.link import Data

TCP_PROTOCOL = 6
UNKNOWN, RIGHT, WRONG = range(3)
ONES = 0xFFFF
"""A number is congruent to the sum of its 16-bit digits modulo this, and to 0 where a checksum is right."""
_PLAIN = (20, 40)
"""Bytes of IPv4 and IPv6 headers with nothing after them but TCP."""
_CHECK_AT = 16


def checked(data: Data, network: int, tcp: int, room: int, ends: bytes) -> int:
    """The checksum of a packet whose TCP header of `room` bytes is all there is behind its IP header.

    `network` and `tcp` are the offsets of the headers, `ends` both addresses.
    """
    four = data[network] >> 4 == 4
    if tcp - network != _PLAIN[not four]:
        return UNKNOWN
    if four and data[network + 10] == data[network + 11] == 0:
        return UNKNOWN
    found = judged(data[tcp : tcp + room], ends)
    if four and found != UNKNOWN and int.from_bytes(data[network:tcp], "big") % ONES:
        return WRONG
    return found


def judged(tcp: bytes, ends: bytes) -> int:
    """The checksum of a TCP header with its options and no payload."""
    check = int.from_bytes(tcp[_CHECK_AT : _CHECK_AT + 2], "big")
    if not check:
        return UNKNOWN
    addresses = int.from_bytes(ends, "big") + TCP_PROTOCOL
    if not (int.from_bytes(tcp, "big") + addresses + len(tcp)) % ONES:
        return RIGHT
    # with the length or, for a card that is to cut the data up, without
    return UNKNOWN if (check - addresses) % ONES in (0, len(tcp)) else WRONG
