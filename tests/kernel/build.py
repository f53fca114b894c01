"""A listen socket and its clients in a few words: segments, a server, and its timers run as planned.

Times are milliseconds after START. Client 3 is 10.9.1.3:20003 with the initial sequence number 3000;
the server's is 7003 for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from backlogtrace.kernel import profiles
from backlogtrace.kernel.clock import TickClock
from backlogtrace.kernel.request import Request
from backlogtrace.kernel.settings import make_settings
from backlogtrace.kernel.stack import Stack
from backlogtrace.segment import ACK, FIN, PSH, SYN, Segment, endpoint

if TYPE_CHECKING:
    from backlogtrace.kernel.clock import Clock
    from backlogtrace.kernel.connection import Child
    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.kernel.profile import Profile

START = 1_800_000_000_000_000_000
MS = 1_000_000
UPTIME_S = 1000
SERVER = endpoint("10.9.0.1", 80)
SERVER_V6 = endpoint("fd09::1", 80)

OLDEST_MODERN = "4.18-el8"
MODERN = profiles.PROFILES[[p.name for p in profiles.PROFILES].index(OLDEST_MODERN) :]
"""What tests/kernel states about all profiles was read in the sources of 4.18 to 7.2."""


def modern_id(profile: Profile) -> str:
    """Test id of a profile."""
    return profile.name


def client(c: int, *, v6: bool = False) -> bytes:
    """Endpoint of client `c`."""
    return endpoint(f"fd09::1:{c:x}" if v6 else f"10.9.1.{c % 250 + 1}", 20000 + c)


def isn(c: int) -> int:
    """The client's initial sequence number."""
    return 1000 * c


def server_isn(c: int) -> int:
    """The server's initial sequence number towards client `c`."""
    return 7000 + c


def segment(flags: int, c: int = 1, at: float = 0, *, v6: bool = False, **fields: object) -> Segment:
    """A segment of client `c`; SYNs carry its ISN, others what follows it and a right acknowledgement."""
    values: dict[str, object] = {
        "frame": 1,
        "time_ns": START + round(at * MS),
        "src": client(c, v6=v6),
        "dst": SERVER_V6 if v6 else SERVER,
        "flags": flags,
        "seq": isn(c) if flags & SYN else isn(c) + 1,
        "ack": server_isn(c) + 1 if flags & ACK else 0,
        "window": 64240,
        "length": 0,
        "mss": 1460 if flags & SYN else 0,
    }
    return Segment(**{**values, **fields})  # type: ignore[arg-type]


def syn(c: int = 1, at: float = 0, **fields: object) -> Segment:
    """The client's SYN."""
    return segment(SYN, c, at, **fields)  # type: ignore[arg-type]


def ack(c: int = 1, at: float = 0, *, data: int = 0, fin: bool = False, **fields: object) -> Segment:
    """The ACK that completes the handshake, with `data` bytes."""
    flags = ACK | (PSH if data else 0) | (FIN if fin else 0)
    return segment(flags, c, at, length=data, **fields)  # type: ignore[arg-type]


class Fired(NamedTuple):
    """What a timer did."""

    ms: float
    client: int
    what: str
    """`synack`, `silent` or `expired`."""


class Server:
    """One listener on a quiet machine: its SYN-ACKs are on the wire at once."""

    def __init__(
        self,
        profile: Profile = profiles.DEFAULT,
        backlog: int = 4,
        *,
        clock: Clock | None = None,
        fastopen_qlen: int | None = None,
        **options: int,
    ) -> None:
        """`options`: defer_accept (s), syncnt, and sysctls by their short names."""
        defer_accept = options.pop("defer_accept", 0)
        syncnt = options.pop("syncnt", 0)
        names = {
            ("net.core." if name == "somaxconn" else "net.ipv4.") + name: v for name, v in options.items()
        }
        self.stack = Stack(
            profile,
            make_settings(profile.defaults, names),
            clock or TickClock(250, START - UPTIME_S * 1000 * MS),
        )
        self.listener = self.stack.open(
            SERVER, backlog, defer_accept_s=defer_accept, syncnt=syncnt, fastopen_qlen=fastopen_qlen
        )

    def receive(self, inbound: Segment, c: int | None = None, *, tsval: int = -1) -> Outcome:
        """A segment arrives; where the answer is a SYN-ACK, the model sees it (with timestamp `tsval`)."""
        outcome = self.stack.receive(inbound)
        if outcome.reply == "synack":
            number = server_isn(c or int.from_bytes(inbound.src[-2:], "big") - 20000)
            synack = inbound._replace(
                src=inbound.dst, dst=inbound.src, flags=SYN | ACK, seq=number, ack=inbound.seq + 1,
                window=65160, length=0, tsval=tsval, tsecr=inbound.tsval,
            )  # fmt: skip
            entry = self.stack.ehash.get(inbound.src + inbound.dst)
            pending = entry if type(entry) is Request else getattr(entry, "fastopen", None)
            if pending is not None:
                pending.synack_seen(synack)
            else:
                self.listener.cookies.seen(inbound.src + inbound.dst, synack.seq)
        return outcome

    def connect(self, *clients: int, at: float = 0) -> None:
        """Complete handshakes."""
        for c in clients:
            assert self.receive(syn(c, at)).decision in {"queued", "cookie"}
            assert self.receive(ack(c, at)).decision == "established"

    def request(self, c: int) -> Request:
        """The request of client `c`."""
        entry = self.stack.ehash[client(c) + SERVER]
        assert isinstance(entry, Request)
        return entry

    def pending(self, c: int) -> bool:
        """Whether client `c` has a request."""
        return type(self.stack.ehash.get(client(c) + SERVER)) is Request

    def child(self, c: int) -> Child:
        """The connection of client `c`."""
        entry = self.stack.ehash[client(c) + SERVER]
        assert not isinstance(entry, Request)
        return entry  # type: ignore[return-value]

    def run(self, until: float) -> list[Fired]:
        """Fire the timers that are due until then, each at its time."""
        fired: list[Fired] = []
        timers = self.stack.timers
        while timers.next_due <= START + until * MS:
            for request in timers.pop_due(timers.next_due):
                listener = request.listener
                expire, send = listener.timer_plan(request)
                what = "expired" if expire else "synack" if send else "silent"
                c = int.from_bytes(request.key[4:6], "big") - 20000
                fired.append(Fired((request.due - START) / MS, c, what))
                listener.timer_fired(request, request.due, expire=expire, send=send)
        return fired

    @property
    def queues(self) -> tuple[int, int, int]:
        """(accept queue, SYN queue, young)."""
        return len(self.listener.accept_queue), self.listener.qlen, self.listener.young
