"""A server that may explain a capture: kernel family and the settings that decide about handshakes.

Knows how plausible a server is before any packet is looked at. Refuses to look at packets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from backlogtrace.replay.host import Host, HostEvent, HostListener

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backlogtrace.replay.listening import Door

KERNELS = (
    "6.12",
    "6.1",
    "5.10",
    "5.15",
    "5.4",
    "4.18-el8",
    "3.10-el7",
    "7.2",
    "6.18",
    "4.4",
    "4.4.1",
    "3.10",
)
"""Families that differ on the wire, the usual ones first."""
_FEW = 50
"""Hardly a program asks for a smaller backlog."""
_ROUND = frozenset({
    *(1 << power for power in range(17)), 5, 10, 20, 25, 30, 40, 50, 75, 100, 150, 200, 250, 300, 400, 500,
    511, 1000, 2000, 5000, 10_000, 65_535,
})  # fmt: skip
"""Numbers that people write. Kernels differ by one in what fits: 64 of one may be 63 of another."""
UNLIMITED = 4096
"""net.core.somaxconn since 5.4: the backlog of a listener whose queues were never seen full."""
FIELDS = (
    "kernel", "backlog", "syncookies", "abort", "retries", "max_syn_backlog", "defer", "fastopen",
    "fastopen_qlen",
)  # fmt: skip
"""What a hypothesis says of a server, but for changes on the way."""
SYSCTLS = {
    "syncookies": "net.ipv4.tcp_syncookies",
    "abort": "net.ipv4.tcp_abort_on_overflow",
    "retries": "net.ipv4.tcp_synack_retries",
    "max_syn_backlog": "net.ipv4.tcp_max_syn_backlog",
    "fastopen": "net.ipv4.tcp_fastopen",
}
"""Fields of Hypothesis that are settings of the host."""


class Change(NamedTuple):
    """Something that was changed while the capture ran."""

    time_ns: int
    name: str
    """`listen`, or the full name of a sysctl."""
    value: int


@dataclass(frozen=True, slots=True, order=True)
class Hypothesis:
    """One server."""

    kernel: str = KERNELS[0]
    backlog: int = UNLIMITED
    """After the clamp to net.core.somaxconn."""
    syncookies: int = 1
    abort: int = 0
    retries: int = 5
    max_syn_backlog: int = 2048
    defer: int = 0
    """TCP_DEFER_ACCEPT, seconds."""
    fastopen: int = 1
    fastopen_qlen: int | None = None
    changes: tuple[Change, ...] = ()

    def host(self, listener: HostListener, base: Host, doors: Sequence[Door] = ()) -> Host:
        """The host file that says the same of one listener; `doors`: when it was closed and opened."""
        events = [
            HostEvent(door.time_ns, "listen" if door.open else "close", 0, backlog=self.backlog)
            for door in doors
        ]
        for change in self.changes:
            if change.name == "listen":
                events.append(HostEvent(change.time_ns, "listen", 0, backlog=change.value))
            else:
                events.append(HostEvent(change.time_ns, "sysctl", name=change.name, value=change.value))
        sysctl = {full: getattr(self, name) for name, full in SYSCTLS.items()}
        socket = replace(
            listener,
            backlog=self.backlog,
            defer_accept=self.defer,
            fastopen_qlen=self.fastopen_qlen,
            opened_ns=None,
        )
        return replace(
            base,
            kernel=self.kernel,
            sysctl={"net.core.somaxconn": max(self.backlog, UNLIMITED), **base.sysctl, **sysctl},
            listeners=[socket],
            events=sorted([*base.events, *events], key=lambda event: event.time_ns),
        )

    def implausibility(self) -> float:
        """How far it is from what servers are usually set to: a rough -log of a prior."""
        backlogs = [self.backlog, *(change.value for change in self.changes if change.name == "listen")]
        usual_retries = 0.0 if self.retries == 5 else 2.0 if self.retries else 5.0  # noqa: PLR2004 - default
        return (
            (0.0, 0.0, 2.0)[self.syncookies]
            + (self.syncookies == 0)
            + 2 * self.abort
            + usual_retries
            + (self.max_syn_backlog != 2048)  # noqa: PLR2004 - a usual value
            + 6 * (self.defer > 0)
            + (self.fastopen not in {0, 1})
            + 2 * (self.fastopen_qlen is not None)
            + 3 * (self.kernel in {"4.4.1", "3.10", "4.4"})
            + 4 * len(self.changes)
            + 3 * (min(backlogs) < _FEW)  # one number out of many: -log of a twentieth
            + 0.4 * (not _ROUND.issuperset(backlogs))
            + 2 * (min(backlogs) == 0)
            + (KERNELS.index(self.kernel) / 100 if self.kernel in KERNELS else 0)
            - self.backlog / 10_000
        )
