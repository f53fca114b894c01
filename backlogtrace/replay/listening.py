"""What the packets of a capture show of one listening endpoint.

A record that evidence.py fills; refuses to know packets' rules.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from backlogtrace.replay.stranger import Stranger

if TYPE_CHECKING:
    from backlogtrace.replay.flow import Flow
    from backlogtrace.segment import Segment


class Door(NamedTuple):
    """A listener was closed or opened, as RSTs show it."""

    time_ns: int
    open: bool


@dataclass(slots=True)
class Listening:
    """What is known of a listening endpoint."""

    attempts: int = 0
    """Connection attempts that got a SYN-ACK."""
    repeats: int = 0
    """How often a SYN-ACK was repeated at most without being asked for."""
    ack_resets: int = 0
    """ACKs answered with a RST."""
    first: Counter[int] = field(default_factory=Counter)
    """What clients sent first after a SYN-ACK: the bits SENT_DATA, LATE, REMINDED -> how often."""
    perhaps: list[tuple[int, Segment]] = field(default_factory=list)
    """When a SYN-ACK was sent (ns), and what the client sent first after it if it was no ACK at once."""
    early: tuple[list[int], list[int]] = ([], [])
    """From when on connections may have been in the accept queue, and from when on they were (ns)."""
    unrepeated: int = 0
    """SYN-ACKs that nobody answered and that were not repeated either."""
    cookie_signs: int = 0
    fastopen: bool = False
    """SYNs with a Fast Open option came."""
    doors: list[Door] = field(default_factory=list)
    refused: array[int] = field(default_factory=lambda: array("q"))
    """Times (ns) of what was not let in: SYNs without an answer, ACKs that did not complete."""
    lasting_ns: int | None = None
    """When it began to refuse what it had to, for certain: several SYNs in a row, or an ACK."""
    row: int = 0
    """How many SYNs in a row got no answer."""
    row_ns: int = 0
    """Time of the first of them."""
    taken: array[int] = field(default_factory=lambda: array("q"))
    """Times (ns) of what was: the first packet of each connection that the server used."""
    closed: bool = False
    alive_ns: int = 0
    """Last time a SYN was answered with a SYN-ACK."""
    first_rst_ns: int | None = None
    """First RST since the last sign that somebody listens."""
    asked: deque[Segment] = field(default_factory=deque)
    """The SYNs that may still be answered."""
    answers: bool = True
    """Whether the last SYN was answered."""
    single: tuple[Segment, bool] | None = None
    """The last SYN if it was not, and nothing was refused just before; whether the one before it was."""
    unexplained: deque[tuple[Segment, Flow]] = field(default_factory=deque)
    """Bare ACKs of clients whose SYN got no answer; a RST may still answer them."""
    stranger: Stranger = field(default_factory=Stranger)
    """What speaks against a Linux kernel."""
    reset_ns: int = 0
    """Last time a SYN was answered with a RST."""

    @property
    def trouble(self) -> int:
        """How much of what is unusual was seen."""
        return len(self.refused) + self.ack_resets + self.cookie_signs

    def add(self, other: Listening) -> None:
        """Add what is known of another endpoint of the same listener."""
        self.attempts += other.attempts
        self.repeats = max(self.repeats, other.repeats)
        self.first += other.first
        self.unrepeated += other.unrepeated
        self.ack_resets += other.ack_resets
        self.cookie_signs += other.cookie_signs
        self.fastopen = self.fastopen or other.fastopen
        self.doors = sorted([*self.doors, *other.doors])
        self.refused = array("q", sorted([*self.refused, *other.refused]))
        self.taken = array("q", sorted([*self.taken, *other.taken]))
        self.stranger.add(other.stranger)

    @property
    def troubled(self) -> bool:
        """Whether anything but handshakes that just succeed was seen."""
        return bool(
            self.refused
            or self.repeats
            or self.ack_resets
            or self.cookie_signs
            or self.doors
            or self.fastopen
        )
