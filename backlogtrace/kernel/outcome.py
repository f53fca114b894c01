"""What the kernel did with one packet: a decision, made once, returned by reference.

Knows the words of the output contract. Refuses to know how a decision is reached or shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Decision = Literal[
    "queued",
    "cookie",
    "fastopen",
    "retransmitted",
    "established",
    "dropped",
    "overflow",
    "rst",
    "deferred",
    "aborted",
    "ignored",
    "passed",
]
Reply = Literal["synack", "rst", "ack"]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The kernel's decision on one inbound packet, with everything that follows from it.

    Instances are interned per listener (kernel.outcomes), so identity is equality and a total is
    a count of references: what is counted and what is shown cannot drift apart.
    """

    decision: Decision
    reason: str
    rule: str
    """Stable identifier of the rule, `<stage>.<reason>`, e.g. `request.accept_queue_full`."""
    function: str
    """Kernel function that decides."""
    reply: Reply | None = None
    """What the kernel sends at once."""
    counters: dict[str, int] = field(default_factory=dict)
    """Listen-path counters added, as /proc/net/netstat and /proc/net/snmp spell them."""
