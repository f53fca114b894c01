"""The rows of an analysis and the totals of a listener: what report/ shows and JSON Lines spells out.

Rows are produced once, in capture order, and not changed after they are handed out. They hold
references, no formatted text: formatting belongs to report/.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.segment import Segment

Certainty = Literal["certain", "likely", "undecided"]


@dataclass(slots=True)
class PacketRow:
    """An inbound packet and what the kernel did with it."""

    segment: Segment
    listener: str
    """Name of the listener, `ADDRESS:PORT` as configured or found."""
    outcome: Outcome
    accept_queue: tuple[int, int]
    """sk_ack_backlog right after the packet, [lowest, highest] the evidence allows."""
    syn_queue: tuple[int, int]
    """Request sockets (SYN_RECV) right after the packet, likewise."""
    certainty: Certainty = "certain"
    resolved_by: int | None = None
    """Frame that proves the decision."""
    rivals: tuple[str, ...] = ()
    """Other explanations that the evidence leaves open."""
    left_out: int = 0
    """Packets right before it that have no row, because too many came at once."""


@dataclass(slots=True)
class Span:
    """How often something happened and when first and last (ns since the epoch)."""

    count: int
    first_ns: int
    last_ns: int


@dataclass(slots=True)
class OutRow:
    """A packet the server sent."""

    segment: Segment
    listener: str
    decision: Literal["synack", "rst", "ack", "passed"]
    reason: str
    """reply, timer, cookie, or why else it was sent."""
    cause: int | None
    """Frame that it answers; None for a timer or the application."""
    attempt: int | None
    """SYN-ACKs: 0 for the first, 1 for the first repetition by the timer …"""
    expected: bool
    """Whether the model predicted it."""
    counters: dict[str, int] = field(default_factory=dict)
    """Counters of the timer event that sent it."""


@dataclass(slots=True)
class EventRow:
    """Something that leaves no packet: expired, accepted, listen, closed, sysctl."""

    time_ns: int
    listener: str
    peer: str | None
    event: str
    accept_queue: tuple[int, int]
    syn_queue: tuple[int, int]
    counters: dict[str, int] = field(default_factory=dict)
    detail: str = ""


@dataclass(slots=True)
class MismatchRow:
    """A difference between the model's prediction and the capture."""

    time_ns: int
    listener: str
    peer: str
    what: Literal["unexpected_reply", "missing_reply", "wrong_reply", "unexpected_packet", "missing_packet"]
    detail: str
    frame: int | None = None
    """The packet concerned; None where the packet is what is missing."""


Row = PacketRow | OutRow | EventRow | MismatchRow


@dataclass(slots=True)
class ClientImpact:
    """What one connection attempt suffered from the listener."""

    peer: str
    first_ns: int
    """Its first SYN (or first packet seen)."""
    decisions: dict[str, int]
    """How often each harmful decision hit it: dropped, overflow, rst …"""
    fate: Literal["connected", "reset", "never", "gave_up", "open"]
    """connected late; reset by the server; never connected; reset by the client; open at the end."""
    added_ns: int
    """Latency the listener added: first SYN to connection minus the handshake's own round trip;
    for the others the time from the first SYN to its last packet."""


@dataclass(slots=True)
class QueueSample:
    """Queue lengths right after `time_ns`: the highest of the interval that the sample stands for."""

    time_ns: int
    accept_queue: tuple[int, int]
    syn_queue: tuple[int, int]


@dataclass(slots=True)
class ListenerSummary:
    """Totals of one listener over the capture."""

    name: str
    kernel: str
    """Profile name, e.g. `5.10`."""
    kernel_note: str
    """Why this profile stands in for the kernel asked for; empty when it is the one."""
    backlog: int | None
    """What the application passed to listen(); None when unknown."""
    backlog_source: str
    """host file, --backlog, or assumed."""
    effective_backlog: int
    """After the clamp to net.core.somaxconn (sk_max_ack_backlog)."""
    somaxconn: int
    accept_capacity: int
    """How many connections fit in the accept queue."""
    syn_capacity: int
    """How many requests fit before cookies or drops."""
    sysctl: dict[str, int]
    """The settings the model ran with, by full name."""
    decisions: dict[str, int] = field(default_factory=dict)
    reasons: dict[tuple[str, str], int] = field(default_factory=dict)
    """(decision, reason) -> packets."""
    counters: dict[str, int] = field(default_factory=dict)
    peak_accept_queue: tuple[int, int] = (0, 0)
    peak_syn_queue: tuple[int, int] = (0, 0)
    mismatches: int = 0
    sockets: int = 1
    """Listening sockets that share the address and port (SO_REUSEPORT), or had it one after another."""
    lost: str = ""
    """Packets that the capture is known to have lost, in words; empty: none."""
    stranger: str = ""
    """What shows that the server is no Linux kernel, in words; empty when nothing does."""
    seen_cookies: int = 0
    seen_requests: int = 0
    """SYN-ACKs that the wire alone proves to be cookies, or not to be; 0 where all facts are given."""
    expired: int = 0
    accepted: int = 0
    """accept() calls that returned a connection (given or assumed)."""
    clients: int = 0
    """Connection attempts seen (4-tuples and client ISNs)."""
    impacts: list[ClientImpact] = field(default_factory=list)
    """Attempts that were hit, in order of first SYN; at most `IMPACT_LIMIT`."""
    impacts_hidden: int = 0
    samples: list[QueueSample] = field(default_factory=list)
    """Queue lengths over time, a bounded number of samples."""
    first_ns: int = 0
    last_ns: int = 0


@dataclass(slots=True)
class Header:
    """What was read and what was assumed; complete once the rows have been consumed."""

    capture: str
    packets: int = 0
    handshake_packets: int = 0
    kernel: str = ""
    mode: Literal["predict", "infer"] = "predict"
    assumed: list[str] = field(default_factory=list)
    quality: Literal["A", "B", "C", "D"] = "A"
    quality_reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    """Packets that were not analysed, by reason."""
    first_ns: int | None = None
    last_ns: int | None = None
    problems: list[str] = field(default_factory=list)
    """What went wrong while reading (the rest was analysed)."""
