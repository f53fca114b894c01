"""Canonical situations of a listen socket, played on the model: what happens, step by step.

Each one is a short script against a server of given kernel, sysctls and socket options, on a quiet machine
whose ticks are known. Refuses to compare two servers and to word anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from backlogtrace.kernel.clock import NS, TickClock
from backlogtrace.kernel.connection import TimeWait
from backlogtrace.kernel.listener import at_timer
from backlogtrace.kernel.request import Request
from backlogtrace.kernel.settings import make_settings
from backlogtrace.kernel.stack import Stack
from backlogtrace.segment import ACK, CWR, ECE, RST, SYN, Segment, endpoint, flag_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.kernel.profile import Profile

_START = 1_800_000_000 * NS
_UPTIME_S = 1000
_SERVER = endpoint("10.0.0.1", 80)
_DONE_NS = 300 * NS  # longer than any request lives with 7 retries
_LATER_NS = 60 * NS
_GAP_NS = NS // 1000
_CROWD_GAP_NS = 1000  # a queue is filled before any timer fires
_TSVAL = 7
"""The server's timestamp."""
What = Literal["packet", "synack", "expired", "accepted", "kept", "freed", "reset", "moved"]
QUEUE_LIMIT = 20_000
"""Packets that fill a queue; a limit above is not played."""


def _source(client: int) -> bytes:
    return endpoint(f"10.{1 + client // 60_000}.0.2", 1024 + client % 60_000)


@dataclass(frozen=True, slots=True)
class Setup:
    """A server: kernel, sysctls by their full names, and what the application asked for."""

    profile: Profile
    sysctl: dict[str, int] = field(default_factory=dict)
    backlog: int = 4
    """What it passes to listen()."""
    defer_accept_s: int = 0
    """TCP_DEFER_ACCEPT, seconds; 0: not set, likewise below."""
    syncnt: int = 0
    """TCP_SYNCNT."""
    fastopen_qlen: int = 16
    """TCP_FASTOPEN: length of the Fast Open queue."""


@dataclass(frozen=True, slots=True)
class Step:
    """A packet, a timer or a call that concerns the client a situation is about."""

    at_ns: int
    """Since the client's first step."""
    what: What
    """Packet of the client; the timer's SYN-ACK, the request's end; accept(); what close() does with it."""
    flags: str
    """Of the packet."""
    outcome: Outcome | None
    """What became of the client's packet."""
    queues: tuple[int, int]
    """Accept queue and SYN queue afterwards, packets."""
    ece: bool = False
    """The answer is a SYN-ACK that accepts ECN."""


@dataclass(frozen=True, slots=True)
class Play:
    """What happened to one client."""

    steps: list[Step]

    @property
    def outcomes(self) -> list[Outcome]:
        """Of its packets, in order."""
        return [step.outcome for step in self.steps if step.outcome is not None]

    @property
    def synack_ns(self) -> list[int]:
        """When the timer repeated its SYN-ACK."""
        return [step.at_ns for step in self.steps if step.what == "synack"]

    @property
    def ecn(self) -> bool:
        """Whether a SYN-ACK accepted ECN."""
        return any(step.ece for step in self.steps)

    @property
    def gone_ns(self) -> int | None:
        """When its request was given up."""
        return next((step.at_ns for step in self.steps if step.what == "expired"), None)

    @property
    def queues(self) -> tuple[int, int]:
        """Accept queue and SYN queue after its last packet, packets."""
        return next(step.queues for step in reversed(self.steps) if step.outcome is not None)


class UnreachableError(Exception):
    """The server never comes into the situation."""


class Scene:
    """One listening server and as many clients as a situation needs."""

    def __init__(self, setup: Setup) -> None:
        profile = setup.profile
        settings = make_settings(profile.defaults, setup.sysctl)
        clock = TickClock(profile.usual_hz, _START - _UPTIME_S * NS, wheel=profile.timer == "wheel")
        self.stack = Stack(profile, settings, clock)
        self._setup = setup
        self.listener = self._open()
        self.now = _START
        self.later: dict[str, int] = {}
        """Sysctls that `change` sets."""
        self._clients = 0
        self._gap_ns = _GAP_NS
        self._steps: list[tuple[bytes, Step]] = []
        """With the client's endpoint; times since the start."""

    def _open(self) -> ListenSocket:
        setup = self._setup
        return self.stack.open(
            _SERVER, setup.backlog, defer_accept_s=setup.defer_accept_s, syncnt=setup.syncnt,
            fastopen_qlen=setup.fastopen_qlen,
        )  # fmt: skip

    @property
    def queues(self) -> tuple[int, int]:
        """Lengths of the accept queue and the SYN queue, packets."""
        return len(self.listener.accept_queue), self.listener.syn_length

    def client(self) -> int:
        """A client that was not there before."""
        self._clients += 1
        return self._clients

    def play(self, client: int) -> Play:
        """What happened to a client so far."""
        mine = [step for source, step in self._steps if source == _source(client)]
        return Play([replace(step, at_ns=step.at_ns - mine[0].at_ns) for step in mine])

    def send(
        self, client: int, flags: int, *, data: int = 0, fastopen: bytes | None = None, tsval: int = -1
    ) -> Outcome:
        """A segment of a client arrives, a moment after the one before."""
        self.now += self._gap_ns
        source, isn = _source(client), 1000 * client
        segment = Segment(
            frame=1, time_ns=self.now, src=source, dst=_SERVER, flags=flags,
            seq=isn if flags & SYN else isn + 1, ack=isn + 8 if flags & ACK else 0, window=64240,
            length=data, mss=1460 if flags & SYN else 0, fastopen=fastopen,
            tsval=tsval, tsecr=_TSVAL if tsval >= 0 and flags & ACK else tsval,
            wscale=7 if flags & SYN else -1, sack_ok=bool(flags & SYN),
        )  # fmt: skip
        outcome = self.stack.receive(segment)
        ece = outcome.reply == "synack" and self.listener.accepts_ecn(segment)
        ece = ece and (outcome.decision != "cookie" or tsval >= 0)
        self._note(source, self.now, "packet", flag_text(flags), outcome, ece=ece)
        if outcome.reply == "synack":
            self._synack(segment)
        return outcome

    def _note(
        self,
        source: bytes,
        time_ns: int,
        what: What,
        flags: str = "",
        outcome: Outcome | None = None,
        *,
        ece: bool = False,
    ) -> None:
        self._steps.append((source, Step(time_ns, what, flags, outcome, self.queues, ece)))

    def _synack(self, syn: Segment) -> None:
        """The answer to a SYN is on the wire."""
        synack = syn._replace(
            src=_SERVER,
            dst=syn.src,
            flags=SYN | ACK,
            seq=syn.seq + 7,
            ack=syn.seq + 1,
            length=0,
            fastopen=None,
            tsval=_TSVAL if syn.tsval >= 0 and self.listener.settings.tcp_timestamps else -1,
        )
        entry = self.stack.ehash.get(syn.src + _SERVER)
        if isinstance(entry, Request):
            entry.synack_seen(synack)
        else:
            self.listener.cookies.seen(syn.src + _SERVER, synack.seq)

    def accept(self) -> None:
        """The application calls accept()."""
        self.now += self._gap_ns
        child = self.listener.accept()
        if child is not None:
            self._note(child.key[: -len(_SERVER)], self.now, "accepted")

    def replace_socket(self, client: int) -> None:
        """Another socket begins to listen on the port, and the one before is closed: what of the client?"""
        key = _source(client) + _SERVER
        entry = self.stack.ehash.get(key)
        before, self.listener = self.listener, self._open()
        self.now += self._gap_ns
        before.close()
        if entry is None:  # a cookie: the server knows nothing of the client
            return
        left = key in self.stack.ehash
        half_open = isinstance(entry, Request)
        what: What = ("kept" if left else "freed") if half_open else "moved" if left else "reset"
        self._note(_source(client), self.now, what)

    def leave_in_timewait(self, client: int, tsval: int = -1) -> None:
        """A connection of the client was closed by the server a moment ago."""
        key = _source(client) + _SERVER
        self.stack.ehash[key] = TimeWait(key, 1000 * client + 1, tsval, self.now)
        if self.stack.recycles and tsval >= 0:
            self.stack.peers.remember(key, tsval, self.now)

    def fill_accept_queue(self) -> None:
        """Complete handshakes that nobody accepts, until no more fit.

        Raises UnreachableError where the server lets no client in.
        """
        self._gap_ns = _CROWD_GAP_NS
        while not self.listener.accept_queue_full():
            client = self.client()
            self.send(client, SYN)
            if self.send(client, ACK, data=1).decision != "established":
                raise UnreachableError
        self._gap_ns = _GAP_NS

    def fill_syn_queue(self) -> None:
        """Send SYNs of clients that stay silent, until one makes no request."""
        self._gap_ns = _CROWD_GAP_NS
        while self.listener.qlen < self.listener.syn_capacity:
            if self.send(self.client(), SYN).decision != "queued":
                break
        self._gap_ns = _GAP_NS

    def change(self) -> None:
        """The administrator sets what the setup says, where the server was opened without it."""
        for name, value in self.later.items():
            self.stack.settings.set(name, value)

    def wait(self, client: int | None = None, for_ns: int = 0) -> None:
        """Let time pass (0: until every request is gone); `client` acknowledges each SYN-ACK that it gets."""
        timers, end = self.stack.timers, self.now + (for_ns or _DONE_NS)
        while timers.next_due <= end:
            for request in timers.pop_due(timers.next_due):
                listener = at_timer(request)
                expire, send = (True, False) if listener is None else listener.timer_plan(request)
                source = request.key[: -len(_SERVER)]
                self.now = max(self.now, request.due)
                request.listener.timer_fired(request, request.due, expire=expire, send=send)
                if expire or send:
                    self._note(source, self.now, "expired" if expire else "synack")
                if client is not None and send and source == _source(client):
                    self.send(client, ACK)
        if for_ns:
            self.now = end


def _silent_client(scene: Scene) -> int:
    client = scene.client()
    scene.send(client, SYN)
    scene.wait()
    return client


def _complete(scene: Scene) -> int:
    client = scene.client()
    scene.send(client, SYN)
    scene.send(client, ACK)
    scene.wait(client)
    return client


def _syn_accept_queue_full(scene: Scene) -> int:
    scene.fill_accept_queue()
    return _silent_client(scene)


def _syn_queue_full(scene: Scene) -> int:
    scene.fill_syn_queue()
    client = scene.client()
    scene.send(client, SYN)
    return client


def _ack_accept_queue_full(scene: Scene) -> int:
    late = scene.client()
    scene.send(late, SYN)
    scene.fill_accept_queue()
    scene.send(late, ACK)
    scene.wait(late)
    return late


def _cookie_accept_queue_full(scene: Scene) -> int:
    scene.fill_syn_queue()
    late = scene.client()
    scene.send(late, SYN)
    for client in range(1, late):  # those that fill the SYN queue
        scene.send(client, ACK, data=1)
    scene.fill_accept_queue()
    scene.send(late, ACK)
    return late


def _changed_meanwhile(scene: Scene) -> int:
    scene.fill_syn_queue()
    client = scene.client()
    scene.send(client, SYN | ECE | CWR, tsval=1000)
    scene.change()
    scene.send(client, ACK, tsval=1001)
    return client


def _cookies_off(scene: Scene) -> int:
    client = scene.client()
    while scene.send(client, SYN).decision == "queued":
        client = scene.client()
    return client


def _syn_repeated(scene: Scene) -> int:
    client = scene.client()
    scene.send(client, SYN)
    for _ in range(2):
        scene.now += NS // 10
        scene.send(client, SYN)
    return client


def _older_timestamp(scene: Scene) -> int:
    client = scene.client()
    scene.send(client, SYN, tsval=1000)
    scene.send(client, ACK, tsval=10)
    return client


def _behind_nat(scene: Scene) -> int:
    scene.leave_in_timewait(scene.client(), tsval=5000)
    client = scene.client()
    scene.send(client, SYN, tsval=1000)
    return client


def _rst_in_timewait(scene: Scene) -> int:
    client = scene.client()
    scene.leave_in_timewait(client)
    scene.send(client, RST)
    scene.send(client, ACK, data=100)
    return client


def _fastopen(scene: Scene) -> int:
    client = scene.client()
    scene.send(client, SYN, data=100, fastopen=b"")
    return client


def _ecn(scene: Scene) -> int:
    client = scene.client()
    scene.send(client, SYN | ECE | CWR)
    scene.send(client, ACK)
    return client


def _syns_on_connections(scene: Scene) -> int:
    clients = scene.client(), scene.client()
    for client in clients:
        scene.send(client, SYN)
        scene.send(client, ACK, data=1)
        scene.accept()
    for client in clients:
        scene.send(client, SYN)
    return clients[1]


def _connection_of_closed(scene: Scene) -> int:
    client = scene.client()
    scene.send(client, SYN)
    scene.send(client, ACK, data=1)
    scene.replace_socket(client)
    scene.send(client, ACK, data=100)
    return client


def _request_of_closed(scene: Scene) -> int:
    client = scene.client()
    scene.send(client, SYN)
    scene.replace_socket(client)
    scene.wait(for_ns=2 * NS)
    scene.send(client, ACK, data=1)
    return client


def _accepted(scene: Scene) -> int:
    client = scene.client()
    scene.send(client, SYN)
    scene.send(client, ACK, data=1)
    scene.accept()
    return client


def _data_after_the_end(scene: Scene) -> int:
    client = _ack_accept_queue_full(scene)
    scene.now += _LATER_NS
    scene.send(client, ACK, data=100)
    return client


_MEANWHILE = "SYN answered with a cookie, then the settings are changed, then its ACK"
_NO_COOKIES = "tcp_syncookies=0: the first SYN of many that is not queued"

SITUATIONS: dict[str, Callable[[Scene], int]] = {
    "SYN, then silence": _silent_client,
    "SYN and ACK, then silence": _complete,
    "SYN while the accept queue is full": _syn_accept_queue_full,
    "SYN while the SYN queue is full": _syn_queue_full,
    "ACK that completes a handshake while the accept queue is full": _ack_accept_queue_full,
    "SYN while the SYN queue is full, its ACK while the accept queue is full": _cookie_accept_queue_full,
    _MEANWHILE: _changed_meanwhile,
    _NO_COOKIES: _cookies_off,
    "SYN repeated twice, 100 ms apart": _syn_repeated,
    "SYN with a timestamp, its ACK with an older one": _older_timestamp,
    "two clients of one address, the second with older timestamps": _behind_nat,
    "RST for a connection in TIME_WAIT, then data": _rst_in_timewait,
    "SYN with data that asks for a Fast Open cookie": _fastopen,
    "SYN that offers ECN, then ACK": _ecn,
    "SYNs of two connections that are established, within a second": _syns_on_connections,
    "connection in the accept queue of a socket that is closed, another one listens": _connection_of_closed,
    "SYN to a socket that is closed then, another one listens, ACK 2 s later": _request_of_closed,
}
"""Name -> script, which gives the client it is about."""

LIVES: dict[str, Callable[[Scene], int]] = {
    "SYN, ACK, accept()": _accepted,
    "ACK while the accept queue is full, data a minute after the request is gone": _data_after_the_end,
}
"""More of them, which answer a question and compare nothing."""

_ASSUMED = {_NO_COOKIES: {"net.ipv4.tcp_syncookies": 0}}
"""Name -> settings that the situation is about, whatever is given."""


def play(name: str, setup: Setup) -> Play | None:
    """What happens in a situation on a server; None when a queue is too long to be filled, or never fills.

    Raises KeyError for an unknown situation.
    """
    before = {} if name == _MEANWHILE else setup.sysctl
    scene = Scene(replace(setup, sysctl=before | _ASSUMED.get(name, {})))
    scene.later = setup.sysctl
    if max(scene.listener.accept_capacity, scene.listener.syn_capacity) > QUEUE_LIMIT:
        return None
    try:
        return scene.play((SITUATIONS | LIVES)[name](scene))
    except UnreachableError:
        return None
