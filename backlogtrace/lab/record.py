"""Playing a scenario on the kernel and writing down what it did, packet by packet.

Knows the layout of the ground truth (capture.pcap, host.json, truth.jsonl, summary.json). Refuses to
know which of it is expected.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import platform
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Self

from backlogtrace.errors import BacklogtraceError
from backlogtrace.lab import craft, netns
from backlogtrace.lab.client import Peer
from backlogtrace.lab.tun import SERVER4, SERVER6, Tun
from backlogtrace.segment import Segment, endpoint, endpoint_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backlogtrace.lab.scenario import App, Scenario
    from backlogtrace.lab.tun import Frame

_MS = 1_000_000
_CLOCK_STEP_NS = 500_000
_LINKTYPE_RAW = 101
_PCAP = struct.Struct("<IHHiIII")
_PCAP_NANOSECONDS = 0xA1B23C4D
_RECORD = struct.Struct("<IIII")
_TCP_FASTOPEN = 23
_SETTLE_S = 0.02


class SpoiledError(BacklogtraceError):
    """A recording that is of no use: packets were missed, or the clock was set meanwhile. Play it again."""


def record(scenario: Scenario, folder: Path) -> None:
    """Play `scenario` in a namespace of its own and write the recording to `folder`, which is made.

    The calling process stays in that namespace. Raises CannotRunError when the machine does not let
    it, SpoiledError when the recording is of no use.
    """
    netns.enter()
    for name, value in scenario.sysctl.items():
        netns.set_sysctl(name, value)
    boot_ns = netns.boot_ns()
    with Tun() as tun, contextlib.ExitStack() as opened:
        listeners = [opened.enter_context(_Listener(scenario)) for _ in range(scenario.sockets)]
        listeners[0].open(scenario.backlog)
        time.sleep(_SETTLE_S)  # the kernel begins to stamp packets a moment after it was asked to
        player = _Player(scenario, tun, listeners)
        player.play()
        if tun.missed():
            raise SpoiledError(f"{scenario.name}: the machine was too busy to record every packet")
        if abs(netns.boot_ns() - boot_ns) > _CLOCK_STEP_NS:
            raise SpoiledError(f"{scenario.name}: the clock was set while it was recorded")
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, player, boot_ns)


class _Listener:
    """The server's listening socket and the connections that it accepted; a context manager."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self.accepted: list[socket.socket] = []
        self.socket: socket.socket | None = None
        self.backlog = self.inode = self.opened_ns = 0

    def open(self, backlog: int) -> None:
        """A new listening socket."""
        scenario = self._scenario
        family = socket.AF_INET6 if ":" in scenario.address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if scenario.sockets > 1:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for option, value in (
            (socket.TCP_DEFER_ACCEPT, scenario.defer_accept),
            (_TCP_FASTOPEN, scenario.fastopen_qlen),
            (socket.TCP_SYNCNT, scenario.syncnt),
        ):
            if value is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.bind((scenario.address, scenario.port))
        sock.settimeout(0)
        sock.listen(backlog)
        self.inode = os.fstat(sock.fileno()).st_ino
        if self.socket is None:
            self.backlog, self.opened_ns = backlog, time.time_ns()
        self.socket = sock

    def accept(self, most: int) -> list[str]:
        """accept() until there is nothing more; the peers, as the host file spells them."""
        peers: list[str] = []
        while self.socket is not None and len(peers) < most:
            try:
                connection, address = self.socket.accept()
            except OSError:  # nothing there, or closed
                break
            connection.settimeout(0)
            self.accepted.append(connection)
            host = address[0].removeprefix("::ffff:")
            peers.append(endpoint_text(endpoint(host, address[1])))
        return peers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self.socket, *self.accepted):
            if sock is not None:
                sock.close()


class _Player:
    """Plays one scenario in real time; the world of its clients."""

    def __init__(self, scenario: Scenario, tun: Tun, listeners: list[_Listener]) -> None:
        self.scenario = scenario
        self.cookies: dict[bytes, bytes] = {}
        self.frames: list[Frame] = []
        self.lines: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.listeners = listeners
        self._tun = tun
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._made = 0
        self._peers: dict[bytes, Peer] = {}
        self._start_ns = 0
        self._over = False
        self.first_counters = self._counters = netns.counters()

    @property
    def counters(self) -> dict[str, int]:
        """What was counted in all."""
        return _grown(self.first_counters, self._counters)

    def play(self) -> None:
        """Do everything on the agenda, and listen in between."""
        for number, script in enumerate(self.scenario.clients):
            server = endpoint(SERVER6 if ":" in script.address else SERVER4, self.scenario.port)
            peer = Peer(number, script, server, self)
            self.later(script.start, lambda peer=peer: self._begin(peer))  # type: ignore[misc]
            for odd in self.scenario.odd:
                if odd.client == number:
                    self.later(odd.at, lambda peer=peer, odd=odd: peer.oddity(odd.kind))  # type: ignore[misc]
        for step in self.scenario.app:
            self.later(step.at, lambda step=step: self._act(step))  # type: ignore[misc]
        self.later(self.scenario.lasts, self._stop)
        self._start_ns = time.monotonic_ns()
        while not self._over:
            wait = self._agenda[0][0] - self._now()
            if wait <= 0:
                heapq.heappop(self._agenda)[2]()
            elif select.select([self._tun.tap], [], [], wait / 1e9)[0]:
                self._timers()
        self._timers()
        self.lines.append(self._look() | {"dir": "end", "time_ns": time.time_ns()})

    def _now(self) -> int:
        return time.monotonic_ns() - self._start_ns if self._start_ns else 0

    def _stop(self) -> None:
        self._over = True

    def _begin(self, peer: Peer) -> None:
        self._peers[peer.me] = peer
        peer.start()

    # ---- what the clients ask for ------------------------------------------------------------

    def now_ms(self) -> int:
        """Milliseconds since the start."""
        return self._now() // _MS

    def later(self, ms: int, action: Callable[[], None]) -> None:
        """Put `action` on the agenda, `ms` milliseconds from now."""
        self._made += 1
        heapq.heappush(self._agenda, (self._now() + ms * _MS, self._made, action))

    def send(self, peer: Peer, segment: Segment) -> None:
        """Let the kernel receive a segment, and write down what it does."""
        self._catch_up()
        self._made += 1
        self._tun.write(craft.packet(segment._replace(frame=self._made)))
        handled = time.time_ns()
        cause: int | str = 0
        answers: list[Segment] = []
        line: dict[str, Any] = {}
        for frame in self._tun.drain():
            heard = self._add(frame)
            if heard is None:
                continue
            if not frame.out:
                cause = heard.frame
                line |= {"n": cause, "dir": "in", "client": peer.number, "sent": []}
                self.lines.append(line)
                continue
            answered = cause if frame.time_ns <= handled else 0
            self.lines.append({"n": heard.frame, "dir": "out", "cause": answered})
            line.get("sent", []).append(heard.frame)
            answers.append(heard)
        line |= self._look()
        self._deliver(answers)

    # ---- what happens on its own -------------------------------------------------------------

    def _timers(self, cause: int | str = 0) -> list[int]:
        """Take in what the kernel sent meanwhile; the frames."""
        heard = [segment for frame in self._tun.drain() if (segment := self._add(frame))]
        if not heard:
            return []
        self.lines += [{"n": segment.frame, "dir": "out", "cause": cause} for segment in heard]
        if cause == 0:
            self.lines[-1] |= self._look()
        self._deliver(heard)
        return [segment.frame for segment in heard]

    def _catch_up(self) -> None:
        """Before something is done: what timers did until now, with or without a packet, is not its doing."""
        self._timers()
        before = self._look()
        if before["counters"]:
            self.lines.append(before | {"dir": "timer", "time_ns": time.time_ns()})

    def _add(self, frame: Frame) -> Segment | None:
        """Keep a TCP packet of the capture; None for the others."""
        segment = craft.parse(frame.data, frame.time_ns, len(self.frames) + 1)
        if segment is not None:
            self.frames.append(frame)
        return segment

    def _deliver(self, segments: list[Segment]) -> None:
        for segment in segments:
            peer = self._peers.get(segment.dst)
            if peer is not None:
                peer.hear(segment)

    def _look(self) -> dict[str, Any]:
        """Counters since the last look, and the queues."""
        before, self._counters = self._counters, netns.counters()
        lengths, syn_queue = netns.queues(self.scenario.port)
        accept_queues = [lengths.get(listener.inode, 0) for listener in self.listeners]
        accept_queue = accept_queues if self.scenario.sockets > 1 else accept_queues[0]
        grown = _grown(before, self._counters)
        return {"counters": grown, "accept_queue": accept_queue, "syn_queue": syn_queue}

    # ---- what the application does -----------------------------------------------------------

    def _act(self, step: App) -> None:
        self._catch_up()
        when = time.time_ns()
        listener = self.listeners[step.socket]
        event = {"time_ns": when, "op": step.op, "listener": step.socket}
        done = 1
        match step.op:
            case "accept":
                peers = listener.accept(step.value)
                done = len(peers)
                self.events += [event | {"peer": peer} for peer in peers]
            case "sysctl":
                netns.set_sysctl(step.name, step.value)
                self.events.append(event | {"name": step.name, "value": step.value})
            case "listen":
                assert listener.socket is not None
                listener.socket.listen(step.value)
                self.events.append(event | {"backlog": step.value})
            case "close":
                assert listener.socket is not None
                listener.socket.close()
                self.events.append(event)
            case "open":
                if listener.socket is not None:
                    self.events.append(event | {"op": "listen", "backlog": step.value})
                listener.open(step.value)
            case "write" | "finish":
                done = self._use(step)
        sent = self._timers("app")
        line = {"dir": "app", "op": step.op, "time_ns": when, "ok": done, "sent": sent}
        self.lines.append(self._look() | line)

    def _use(self, step: App) -> int:
        accepted = self.listeners[step.socket].accepted
        if step.value >= len(accepted):
            return 0
        connection = accepted[step.value]
        try:
            if step.op == "write":
                connection.send(b"y" * 40)
            else:
                connection.close()
        except OSError:  # the client is gone
            return 0
        return 1


def _grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: grown for name, value in after.items() if (grown := value - before.get(name, 0))}


def _write(folder: Path, player: _Player, boot_ns: int) -> None:
    scenario = player.scenario
    kernel = platform.release()
    with (folder / "capture.pcap").open("wb") as capture:
        capture.write(_PCAP.pack(_PCAP_NANOSECONDS, 2, 4, 0, 0, 65535, _LINKTYPE_RAW))
        for frame in player.frames:
            seconds, nanoseconds = divmod(frame.time_ns, 1_000_000_000)
            capture.write(_RECORD.pack(seconds, nanoseconds, len(frame.data), len(frame.data)) + frame.data)
    given = {
        "defer_accept": scenario.defer_accept, "fastopen_qlen": scenario.fastopen_qlen,
        "syncnt": scenario.syncnt,
    }  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None}
    listeners = [
        {
            "address": scenario.address,
            "port": scenario.port,
            "backlog": one.backlog,
            "opened_ns": one.opened_ns,
        }
        | options
        for one in player.listeners
    ]
    host = {
        "kernel": kernel, "hz": netns.hz(), "boot_ns": boot_ns, "sysctl": scenario.sysctl,
        "listeners": listeners, "events": player.events,
    }  # fmt: skip
    (folder / "host.json").write_text(json.dumps(host, indent=1) + "\n", encoding="utf-8")
    with (folder / "truth.jsonl").open("w", encoding="utf-8") as truth:
        for line in player.lines:
            truth.write(json.dumps(line, separators=(",", ":")) + "\n")
    summary = {
        "id": scenario.name, "family": scenario.family, "seed": scenario.seed, "kernel": kernel,
        "counters": player.counters, "frames": len(player.frames),
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary) + "\n", encoding="utf-8")
