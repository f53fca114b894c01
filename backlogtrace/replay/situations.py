"""Canonical situations of a listen socket, played on the model: what happens, decision by decision.

Each one is a short script against a server of given profile, sysctls and backlog, on a quiet machine
whose ticks are known. Refuses to compare two servers and to word anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backlogtrace.kernel.clock import NS, TickClock
from backlogtrace.kernel.connection import TimeWait
from backlogtrace.kernel.request import Request
from backlogtrace.kernel.settings import make_settings
from backlogtrace.kernel.stack import Stack
from backlogtrace.segment import ACK, RST, SYN, Segment, endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.kernel.profile import Profile

_START = 1_800_000_000 * NS
_UPTIME_S = 1000
_SERVER = endpoint("10.0.0.1", 80)
_DONE_NS = 300 * NS  # longer than any request lives with 7 retries
_TSVAL = 7
"""The server's timestamp."""
QUEUE_LIMIT = 20_000
"""Packets that fill a queue; a limit above is not played."""


def _source(client: int) -> bytes:
    return endpoint(f"10.{1 + client // 60_000}.0.2", 1024 + client % 60_000)


@dataclass(slots=True)
class Play:
    """What happened to the packet that a situation is about."""

    outcomes: list[Outcome] = field(default_factory=list)
    synack_ns: list[int] = field(default_factory=list)
    """When the timer repeated its SYN-ACK, ns after the request was made."""
    gone_ns: int | None = None
    """When the request was given up, likewise."""
    queues: tuple[int, int] = (0, 0)
    """Accept queue and SYN queue after the packet."""


class UnreachableError(Exception):
    """The server never comes into the situation."""


class Scene:
    """One listening server and as many clients as a situation needs."""

    def __init__(self, profile: Profile, sysctl: dict[str, int], backlog: int) -> None:
        settings = make_settings(profile.defaults, sysctl)
        clock = TickClock(profile.usual_hz, _START - _UPTIME_S * NS, wheel=profile.timer == "wheel")
        self.stack = Stack(profile, settings, clock)
        self.listener = self.stack.open(_SERVER, backlog, fastopen_qlen=16)
        self.now = _START
        self._clients = 0

    @property
    def queues(self) -> tuple[int, int]:
        """Lengths of the accept queue and the SYN queue, packets."""
        return len(self.listener.accept_queue), self.listener.syn_length

    def client(self) -> int:
        """A client that was not there before."""
        self._clients += 1
        return self._clients

    def send(
        self, client: int, flags: int, *, data: int = 0, fastopen: bytes | None = None, tsval: int = -1
    ) -> Outcome:
        """A segment of a client arrives a millisecond after the one before."""
        self.now += NS // 1000
        source, isn = _source(client), 1000 * client
        segment = Segment(
            frame=1, time_ns=self.now, src=source, dst=_SERVER, flags=flags,
            seq=isn if flags & SYN else isn + 1, ack=isn + 8 if flags & ACK else 0, window=64240,
            length=data, mss=1460 if flags & SYN else 0, fastopen=fastopen,
            tsval=tsval, tsecr=_TSVAL if tsval >= 0 and flags & ACK else tsval,
        )  # fmt: skip
        outcome = self.stack.receive(segment)
        if outcome.reply == "synack":
            synack = segment._replace(
                src=_SERVER,
                dst=source,
                flags=SYN | ACK,
                seq=isn + 7,
                ack=isn + 1,
                length=0,
                fastopen=None,
                tsval=_TSVAL if tsval >= 0 and self.listener.settings.tcp_timestamps else -1,
            )
            entry = self.stack.ehash.get(source + _SERVER)
            if isinstance(entry, Request):
                entry.synack_seen(synack)
            else:
                self.listener.cookies.seen(source + _SERVER, synack.seq)
        return outcome

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
        while not self.listener.accept_queue_full():
            client = self.client()
            self.send(client, SYN)
            if self.send(client, ACK).decision != "established":
                raise UnreachableError

    def fill_syn_queue(self) -> None:
        """Send SYNs of clients that stay silent, until one makes no request."""
        while self.listener.qlen < self.listener.syn_capacity:
            if self.send(self.client(), SYN).decision != "queued":
                break

    def watch(self, play: Play) -> Play:
        """Let time pass until every request is gone; notes what the last client's timer did."""
        play.queues = self.queues
        requests = [entry for entry in self.stack.ehash.values() if isinstance(entry, Request)]
        mine = requests[-1] if requests else None
        timers = self.stack.timers
        while timers.next_due <= self.now + _DONE_NS:
            for request in timers.pop_due(timers.next_due):
                expire, send = self.listener.timer_plan(request)
                if request is mine and expire:
                    play.gone_ns = request.due - request.born
                elif request is mine and send:
                    play.synack_ns.append(request.due - request.born)
                self.listener.timer_fired(request, request.due, expire=expire, send=send)
        return play


def _silent_client(scene: Scene) -> Play:
    return scene.watch(Play([scene.send(scene.client(), SYN)]))


def _syn_accept_queue_full(scene: Scene) -> Play:
    scene.fill_accept_queue()
    return scene.watch(Play([scene.send(scene.client(), SYN)]))


def _syn_queue_full(scene: Scene) -> Play:
    scene.fill_syn_queue()
    return Play([scene.send(scene.client(), SYN)], queues=scene.queues)


def _ack_accept_queue_full(scene: Scene) -> Play:
    late = scene.client()
    scene.send(late, SYN)
    scene.fill_accept_queue()
    return scene.watch(Play([scene.send(late, ACK)]))


def _cookie_accept_queue_full(scene: Scene) -> Play:
    scene.fill_syn_queue()
    late = scene.client()
    outcomes = [scene.send(late, SYN)]
    for client in range(1, late):  # those that fill the SYN queue
        scene.send(client, ACK)
    scene.fill_accept_queue()
    outcomes.append(scene.send(late, ACK))
    return Play(outcomes, queues=scene.queues)


def _cookies_off(scene: Scene) -> Play:
    while (outcome := scene.send(scene.client(), SYN)).decision == "queued":
        pass
    return Play([outcome], queues=scene.queues)


def _syn_repeated(scene: Scene) -> Play:
    client = scene.client()
    outcomes = [scene.send(client, SYN)]
    for _ in range(2):
        scene.now += NS // 10
        outcomes.append(scene.send(client, SYN))
    return Play(outcomes, queues=scene.queues)


def _older_timestamp(scene: Scene) -> Play:
    client = scene.client()
    outcomes = [scene.send(client, SYN, tsval=1000), scene.send(client, ACK, tsval=10)]
    return Play(outcomes, queues=scene.queues)


def _behind_nat(scene: Scene) -> Play:
    scene.leave_in_timewait(scene.client(), tsval=5000)
    outcome = scene.send(scene.client(), SYN, tsval=1000)
    return Play([outcome], queues=scene.queues)


def _rst_in_timewait(scene: Scene) -> Play:
    client = scene.client()
    scene.leave_in_timewait(client)
    return Play([scene.send(client, RST), scene.send(client, ACK, data=100)], queues=scene.queues)


def _fastopen(scene: Scene) -> Play:
    outcome = scene.send(scene.client(), SYN, data=100, fastopen=b"")
    return Play([outcome], queues=scene.queues)


_NO_COOKIES = "tcp_syncookies=0: the first SYN of many that is not queued"

SITUATIONS: dict[str, Callable[[Scene], Play]] = {
    "SYN, then silence": _silent_client,
    "SYN while the accept queue is full": _syn_accept_queue_full,
    "SYN while the SYN queue is full": _syn_queue_full,
    "ACK that completes a handshake while the accept queue is full": _ack_accept_queue_full,
    "SYN while the SYN queue is full, its ACK while the accept queue is full": _cookie_accept_queue_full,
    _NO_COOKIES: _cookies_off,
    "SYN repeated twice, 100 ms apart": _syn_repeated,
    "SYN with a timestamp, its ACK with an older one": _older_timestamp,
    "two clients of one address, the second with older timestamps": _behind_nat,
    "RST for a connection in TIME_WAIT, then data": _rst_in_timewait,
    "SYN with data that asks for a Fast Open cookie": _fastopen,
}
"""Name -> script."""

_ASSUMED = {_NO_COOKIES: {"net.ipv4.tcp_syncookies": 0}}
"""Name -> settings that the situation is about, whatever is given."""


def play(name: str, profile: Profile, sysctl: dict[str, int], backlog: int) -> Play | None:
    """What happens in a situation on a server; None when a queue is too long to be filled, or never fills.

    `sysctl` has full names; `backlog` is what the application passed to listen(). Raises KeyError for an
    unknown situation.
    """
    scene = Scene(profile, sysctl | _ASSUMED.get(name, {}), backlog)
    if max(scene.listener.accept_capacity, scene.listener.syn_capacity) > QUEUE_LIMIT:
        return None
    try:
        return SITUATIONS[name](scene)
    except UnreachableError:
        return None
