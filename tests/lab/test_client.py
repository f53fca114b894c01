"""Clients of scenarios: what they send, by script and in answer to what they hear."""

from __future__ import annotations

import heapq
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import pytest

from backlogtrace.lab.client import Peer
from backlogtrace.lab.scenario import Client, Oddity
from backlogtrace.segment import ACK, FIN, RST, SYN, Segment, endpoint, flag_text

if TYPE_CHECKING:
    from collections.abc import Callable

SERVER = endpoint("10.9.0.1", 8080)
SCRIPT = Client("10.9.1.2", 20001, start=0, isn=1000, rtt=40, syn_retries=(1000, 3000))


class World:
    """Time that passes when it is told to, and a list of what was sent."""

    def __init__(self) -> None:
        self.cookies: dict[bytes, bytes] = {}
        self.sent: list[tuple[int, Segment]] = []
        self.now = 0
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []

    def later(self, ms: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + ms, len(self._agenda), action))

    def send(self, peer: Peer, segment: Segment) -> None:  # noqa: ARG002 - the protocol
        self.sent.append((self.now, segment))

    def now_ms(self) -> int:
        return self.now

    def run(self, until: int) -> list[str]:
        """Let time pass; everything sent so far as `ms flags length`."""
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, action = heapq.heappop(self._agenda)
            action()
        self.now = until
        return [f"{ms} {flag_text(segment.flags)} {segment.length}" for ms, segment in self.sent]


def started(**changed: object) -> tuple[World, Peer]:
    world = World()
    peer = Peer(0, replace(SCRIPT, **changed), SERVER, world)  # type: ignore[arg-type]
    peer.start()
    return world, peer


def from_server(flags: int, seq: int, ack: int, **changed: object) -> Segment:
    return Segment(0, 0, SERVER, b"", flags, seq, ack, 0, 0)._replace(**changed)  # type: ignore[arg-type]


SYNACK = from_server(SYN | ACK, 5000, 1001)


def test_syn_is_repeated_as_long_as_nobody_answers() -> None:
    world, _ = started()
    assert world.run(9000) == ["0 S 0", "1000 S 0", "3000 S 0"]


def test_handshake_is_completed_after_the_round_trip() -> None:
    world, peer = started()
    peer.hear(SYNACK)
    assert world.run(9000) == ["0 S 0", "40 A 0"]
    assert (world.sent[-1][1].seq, world.sent[-1][1].ack) == (1001, 5001)


def test_lost_ack_is_sent_when_the_synack_comes_again() -> None:
    world, peer = started(lost_acks=1)
    peer.hear(SYNACK)
    assert world.run(1000) == ["0 S 0"]
    peer.hear(SYNACK)
    assert world.run(2000) == ["0 S 0", "1040 A 0"]


def test_data_is_repeated_until_it_is_acknowledged() -> None:
    world, peer = started(data_after=100, data_length=10, data_retries=(300, 900, 2100))
    peer.hear(SYNACK)
    assert world.run(500) == ["0 S 0", "40 A 0", "140 AP 10", "440 AP 10"]
    peer.hear(from_server(ACK, 5001, 1011))
    assert len(world.run(9000)) == 4


def test_rst_ends_the_client() -> None:
    world, peer = started(data_after=100)
    peer.hear(SYNACK)
    world.run(50)
    peer.hear(from_server(RST, 5001, 0))
    assert world.run(9000) == ["0 S 0", "40 A 0"]


def test_refusing_client_resets_in_answer_to_the_synack() -> None:
    world, peer = started(manner="refuse")
    peer.hear(SYNACK)
    assert world.run(9000) == ["0 S 0", "40 R 0"]


def test_fin_is_acknowledged_and_answered() -> None:
    world, peer = started(ending="fin", ends_after=100)
    peer.hear(SYNACK)
    world.run(50)
    peer.hear(from_server(ACK | FIN, 5001, 1001))
    assert world.run(9000)[2:] == ["90 A 0", "150 AF 0"]
    assert world.sent[-1][1].ack == 5002


def test_fast_open_uses_the_cookie_its_address_was_given() -> None:
    world, peer = started(fastopen="cookie")
    assert world.sent[0][1].fastopen == b""
    peer.hear(SYNACK._replace(fastopen=b"12345678"))
    second = Peer(1, replace(SCRIPT, fastopen="cookie", syn_data=20), SERVER, world)
    second.start()
    assert (world.sent[-1][1].fastopen, world.sent[-1][1].length) == (b"12345678", 20)


@pytest.mark.parametrize("kind", get_args(Oddity))
def test_every_oddity_sends_one_segment_before_and_after_the_handshake(kind: Oddity) -> None:
    world, peer = started()
    peer.oddity(kind)
    peer.hear(SYNACK)
    world.run(50)
    peer.oddity(kind)
    assert len(world.sent) == 4
