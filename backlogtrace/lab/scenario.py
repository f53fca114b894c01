"""What a scenario is: a listener, its sysctls, clients and what the application does, all decided beforehand.

Knows the script. Refuses to know how it is drawn (families) and how it is played (record, client).
All times are milliseconds after the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Ending = Literal["stay", "reset", "fin"]
Manner = Literal["normal", "silent", "refuse"]
"""normal: completes the handshake; silent: sends its SYNs and nothing else; refuse: RST to the SYN-ACK."""
Oddity = Literal[
    "rst", "rst_off", "ack_off", "seq_off", "paws", "far_data", "syn_again", "syn_later", "syn_earlier",
    "syn_fin", "syn_ack", "fin", "no_ack", "null", "stray_ack", "bare_ack",
]  # fmt: skip
Operation = Literal["accept", "sysctl", "listen", "close", "open", "write", "finish"]
"""close, open: of the listening socket; write, finish: of an accepted connection."""


@dataclass(frozen=True, slots=True)
class Client:
    """One connection attempt and how its TCP stack behaves."""

    address: str
    port: int
    start: int
    isn: int
    rtt: int = 40
    """How long it takes to answer."""
    mss: int = 1460
    wscale: int = 7
    """-1: no window scaling."""
    sack: bool = True
    tsval: int = -1
    """First timestamp; -1: no timestamps."""
    ecn: bool = False
    manner: Manner = "normal"
    syn_retries: tuple[int, ...] = (1000, 3000, 7000)
    """After the start, as long as no SYN-ACK came."""
    lost_acks: int = 0
    """Answers to SYN-ACKs that get lost on the way to the server."""
    data_after: int | None = None
    """When to send data, after completing the handshake; None: never."""
    data_length: int = 10
    data_first: bool = False
    """The handshake's third segment carries the data."""
    data_retries: tuple[int, ...] = (300, 900, 2100, 4500, 9300)
    """After the first sending, as long as the data is not acknowledged."""
    ending: Ending = "stay"
    ends_after: int = 500
    """When to end, after completing the handshake (reset) or the server's FIN (fin)."""
    fastopen: Literal["request", "cookie", "bad"] | None = None
    """cookie: the one that its address was given, else a request."""
    syn_data: int = 0
    """Payload of the SYN, bytes."""


@dataclass(frozen=True, slots=True)
class Odd:
    """A segment out of the ordinary, made from what client number `client` knows by then."""

    at: int
    client: int
    kind: Oddity


@dataclass(frozen=True, slots=True)
class App:
    """What the application or the administrator does.

    `value`: how many connections accept() takes at most, the new backlog, the new setting, or the
    number of the accepted connection that is written to or closed. `socket`: which of several.
    """

    at: int
    op: Operation
    value: int = 0
    name: str = ""
    socket: int = 0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything about one recording; the kernel's part is what remains open."""

    family: str
    seed: int
    lasts: int
    sysctl: dict[str, int]
    """By full name."""
    backlog: int
    clients: tuple[Client, ...]
    odd: tuple[Odd, ...] = ()
    app: tuple[App, ...] = ()
    address: str = "0.0.0.0"  # noqa: S104 - a listener in a namespace of its own
    port: int = 8080
    defer_accept: int | None = None
    fastopen_qlen: int | None = None
    syncnt: int | None = None
    sockets: int = 1
    """How many sockets share the address and port (SO_REUSEPORT); `open` opens all but the first."""

    @property
    def name(self) -> str:
        """`burst-0007`: family and seed."""
        return f"{self.family}-{self.seed:04}"
