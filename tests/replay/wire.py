"""Captures made by hand: conversations as lists of segments, and what an analysis makes of them.

Clients, sequence numbers and the time (milliseconds after START) are those of tests.kernel.build.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from backlogtrace.capture.info import CaptureInfo
from backlogtrace.replay import Analysis, Options, analyze
from backlogtrace.replay.host import Host, HostListener
from backlogtrace.replay.rows import EventRow, MismatchRow, OutRow, PacketRow
from backlogtrace.segment import ACK, FIN, RST, SYN, Segment
from tests.kernel.build import MS, SERVER, START, client, segment, server_isn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backlogtrace.replay.host import HostEvent
    from backlogtrace.replay.rows import Row

KNOWN = {
    "net.core.somaxconn": 4096,
    "net.ipv4.tcp_syncookies": 1,
    "net.ipv4.tcp_abort_on_overflow": 0,
}
"""The settings that are not assumed once they are given."""


class FakeCapture:
    """What replay/ needs of a capture: `info` and `chunks()`."""

    rereadable = False

    def __init__(self, segments: list[Segment], cuts: list[int] | None = None) -> None:
        self.segments = segments
        self._cuts = cuts or []
        self.info = CaptureInfo(names=["made.pcap"], packets=len(segments))
        self.info.clock([segment.time_ns for segment in segments])

    def chunks(self) -> Iterator[list[Segment]]:
        """The segments, cut before the positions given."""
        edges = [0, *self._cuts, len(self.segments)]
        for start, end in pairwise(edges):
            yield self.segments[start:end]


class Wire:
    """A conversation with the server, packet by packet; `segments` has them in order of time."""

    def __init__(self, server: bytes = SERVER) -> None:
        self._server = server
        self._made: list[Segment] = []

    @property
    def segments(self) -> list[Segment]:
        """In order of time (then of writing), with frame numbers from 1."""
        ordered = sorted(self._made, key=lambda made: made.time_ns)
        return [made._replace(frame=number) for number, made in enumerate(ordered, 1)]

    def inbound(self, flags: int, c: int, at: float, **fields: object) -> None:
        """A packet of client `c`."""
        made = segment(flags, c, at, **fields)  # type: ignore[arg-type]
        self._made.append(made if "dst" in fields else made._replace(dst=self._server))

    def outbound(self, flags: int, c: int, at: float, **fields: object) -> None:
        """A packet to client `c`; a SYN carries the server's initial sequence number."""
        values: dict[str, object] = {
            "seq": server_isn(c) + (not flags & SYN),
            "ack": segment(ACK, c).seq if flags & ACK else 0,
            "window": 65160,
            "mss": 1460 if flags & SYN else 0,
            **fields,
        }
        made = segment(flags, c, at, **values)  # type: ignore[arg-type]
        self._made.append(made._replace(src=self._server, dst=client(c)))

    def syn(self, c: int, at: float, *, answered: bool = True, **fields: object) -> None:
        """A SYN, and 50 us later its SYN-ACK."""
        self.inbound(SYN, c, at, **fields)
        if answered:
            self.synack(c, at + 0.05)

    def synack(self, c: int, at: float, **fields: object) -> None:
        self.outbound(SYN | ACK, c, at, **fields)

    def ack(self, c: int, at: float, **fields: object) -> None:
        """The client's ACK, or with `length` data."""
        self.inbound(ACK, c, at, **fields)

    def rst(self, c: int, at: float, **fields: object) -> None:
        """The server's RST."""
        self.outbound(RST, c, at, **fields)

    def handshake(self, c: int, at: float) -> None:
        """SYN, SYN-ACK and, a millisecond later, ACK."""
        self.syn(c, at)
        self.ack(c, at + 1)

    def close(self, c: int, at: float) -> None:
        """The client's FIN: something that ends a capture without meaning."""
        self.inbound(FIN | ACK, c, at)


class Result:
    """Rows, sorted by kind, with header and summaries."""

    def __init__(self, analysis: Analysis) -> None:
        self.rows: list[Row] = list(analysis)
        self.header = analysis.header
        self.listeners = analysis.listeners

    @property
    def packets(self) -> list[PacketRow]:
        return [row for row in self.rows if isinstance(row, PacketRow)]

    @property
    def sent(self) -> list[OutRow]:
        return [row for row in self.rows if isinstance(row, OutRow)]

    @property
    def events(self) -> list[EventRow]:
        return [row for row in self.rows if isinstance(row, EventRow)]

    @property
    def mismatches(self) -> list[MismatchRow]:
        return [row for row in self.rows if isinstance(row, MismatchRow)]

    @property
    def decisions(self) -> list[str]:
        """Of the inbound packets, in order."""
        return [row.outcome.decision for row in self.packets]


def host(backlog: int | None = 4, events: list[HostEvent] | None = None, **sysctls: int) -> Host:
    """A 6.12 server on 10.9.0.1:80, HZ not known; nobody accepts unless `events` say so."""
    return Host(
        kernel="6.12",
        sysctl={**KNOWN, **{f"net.ipv4.{name}": value for name, value in sysctls.items()}},
        listeners=[HostListener("10.9.0.1", 80, backlog)],
        events=events or [],
        accept_log=True,
    )


def replay(
    wire: Wire | list[Segment], known: Host | None = None, *, cuts: list[int] | None = None, **options: object
) -> Result:
    """Analyse a conversation (`known`: None is host(), Host() is nothing)."""
    segments = wire.segments if isinstance(wire, Wire) else wire
    capture = FakeCapture(segments, cuts)
    return Result(analyze(capture, host() if known is None else known, Options(**options)))  # type: ignore[arg-type]


def at(ms: float) -> int:
    """A time in nanoseconds since the epoch."""
    return START + round(ms * MS)
