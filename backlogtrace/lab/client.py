"""A client of a scenario: a small TCP stack that follows its script.

Knows when to send and what, from its script and from what it hears. Refuses to know clocks, devices
and what the server should have done.

Sources: RFC 9293 section 3.10, RFC 7323 section 3, RFC 7413 section 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from backlogtrace.segment import ACK, CWR, ECE, FIN, PSH, RST, SYN, Segment, endpoint, seq_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from backlogtrace.lab.scenario import Client, Oddity

_MASK = 0xFFFFFFFF
_WINDOW_SYN, _WINDOW = 64240, 502
_FAR = 0x100000
_BAD_COOKIE = b"\xaa" * 8


class World(Protocol):
    """What a client needs from where it lives."""

    cookies: dict[bytes, bytes]
    """Fast Open cookies by client address."""

    def later(self, ms: int, action: Callable[[], None]) -> None:
        """Call `action` in `ms` milliseconds."""

    def send(self, peer: Peer, segment: Segment) -> None:
        """Put a segment on the wire."""

    def now_ms(self) -> int:
        """Milliseconds since the start."""
        ...


class Peer:
    """A client that follows `script`, against the server at the endpoint `server`."""

    def __init__(self, number: int, script: Client, server: bytes, world: World) -> None:
        self.number = number
        self.script = script
        self.me = endpoint(script.address, script.port)
        self._server = server
        self._world = world
        self._base = Segment(0, 0, self.me, server, 0, 0, 0, _WINDOW, 0)
        self._next = (script.isn + 1) & _MASK
        self._acked = script.isn
        self._expects = 0
        self._isn: int | None = None  # the server's
        self._stamps = script.tsval >= 0
        self._recent = 0
        self._lost = script.lost_acks
        self._connected = self._gone = self._ended = False

    # ---- what it sends -----------------------------------------------------------------------

    def start(self) -> None:
        """Send the SYN, and again as long as nobody answers."""
        self.syn()
        for after in self.script.syn_retries:
            self._world.later(after, self._syn_again)

    def _syn_again(self) -> None:
        if self._isn is None and not self._gone:
            self.syn()

    def syn(self, **changed: Any) -> None:
        """The SYN of the script, with some fields `changed`."""
        script = self.script
        flags = SYN | ECE | CWR if script.ecn else SYN
        cookie = None
        if script.fastopen is not None:
            known = self._world.cookies.get(self.me[:-2], b"")
            cookie = {"request": b"", "bad": _BAD_COOKIE, "cookie": known}[script.fastopen]
        fields = {
            "flags": flags, "seq": script.isn, "window": _WINDOW_SYN, "length": script.syn_data,
            "mss": script.mss, "sack_ok": script.sack, "wscale": script.wscale, "fastopen": cookie,
            "tsval": self._clock() if script.tsval >= 0 else -1,
        }  # fmt: skip
        self._world.send(self, self._base._replace(**fields | changed))

    def _clock(self) -> int:
        return (self.script.tsval + self._world.now_ms() - self.script.start) & _MASK

    def _send(self, flags: int, **changed: Any) -> None:
        fields = {"flags": flags, "seq": self._next, "ack": self._expects}
        if self._stamps:
            fields |= {"tsval": self._clock(), "tsecr": self._recent}
        self._world.send(self, self._base._replace(**fields | changed))

    def _answer(self) -> None:
        """The third segment of the handshake, or the answer to a SYN-ACK sent again."""
        if self._gone:
            return
        if self._lost > 0:
            self._lost -= 1
            return
        first, self._connected = not self._connected, True
        script = self.script
        if first and script.data_first:
            self._data()
        else:
            self._send(ACK)
        if not first:
            return
        if script.data_after is not None and not script.data_first:
            self._world.later(script.data_after, self._data)
        if script.ending == "reset":
            self._world.later(script.ends_after, self._reset)

    def _data(self) -> None:
        if self._gone or self._ended:
            return
        seq = self._next
        self._next = (seq + self.script.data_length) & _MASK
        self._data_again(seq)
        for after in self.script.data_retries:
            self._world.later(after, lambda: self._data_again(seq))

    def _data_again(self, seq: int) -> None:
        if not self._gone and not seq_after(self._acked, seq):
            self._send(ACK | PSH, seq=seq, length=self.script.data_length)

    def _reset(self) -> None:
        if not self._gone:
            self._gone = True
            self._send(RST | ACK)

    def _finish(self) -> None:
        if not self._gone and not self._ended:
            self._ended = True
            self._send(FIN | ACK)
            self._next = (self._next + 1) & _MASK

    def _acknowledge(self) -> None:
        if not self._gone:
            self._send(ACK)

    # ---- what it hears -----------------------------------------------------------------------

    def hear(self, segment: Segment) -> None:
        """A segment from the server arrives."""
        if self._gone or (self.script.manner == "silent" and self._isn is not None):
            return
        if segment.flags & RST:
            self._gone = True
        elif segment.flags & SYN and segment.flags & ACK:
            self._hear_synack(segment)
        elif self._connected:
            self._hear_later(segment)

    def _hear_synack(self, segment: Segment) -> None:
        if segment.fastopen:
            self._world.cookies[self.me[:-2]] = segment.fastopen
        script = self.script
        if not self._connected:
            self._isn = segment.seq
            self._expects = (segment.seq + 1) & _MASK
            self._next = self._acked = segment.ack
            self._stamps = script.tsval >= 0 and segment.tsval >= 0
        self._recent = max(segment.tsval, 0)
        if script.manner == "refuse":
            self._gone = True
            self._world.later(script.rtt, lambda: self._send(RST))
        elif script.manner == "normal":
            self._world.later(script.rtt, self._answer)

    def _hear_later(self, segment: Segment) -> None:
        if seq_after(segment.ack, self._acked):
            self._acked = segment.ack
        fin = segment.flags & FIN
        size = segment.length + bool(fin)
        if not size:
            return
        if segment.seq == self._expects:
            self._expects = (segment.seq + size) & _MASK
            self._recent = max(segment.tsval, 0)
            if fin and self.script.ending == "fin":
                self._world.later(self.script.ends_after, self._finish)
        self._world.later(self.script.rtt, self._acknowledge)

    # ---- what no stack would send ------------------------------------------------------------

    def oddity(self, kind: Oddity) -> None:
        """Send a segment that is out of place, out of window or out of its mind."""
        sends: dict[str, Callable[[], None]] = {
            "rst": lambda: self._send(RST, ack=0),
            "rst_off": lambda: self._send(RST, ack=0, seq=(self._next + 100) & _MASK),
            "ack_off": lambda: self._send(ACK, ack=(self._expects + 1000) & _MASK),
            "seq_off": lambda: self._send(ACK, seq=(self._next + _FAR) & _MASK),
            "paws": lambda: self._send(ACK, **self._old_stamp()),
            "far_data": lambda: self._send(ACK | PSH, seq=(self._next + _FAR) & _MASK, length=30),
            "syn_again": self.syn,
            "syn_later": lambda: self.syn(seq=(self.script.isn + 100_000) & _MASK),
            "syn_earlier": lambda: self.syn(seq=(self.script.isn - 1000) & _MASK),
            "syn_fin": lambda: self.syn(flags=SYN | FIN),
            "syn_ack": lambda: self.syn(flags=SYN | ACK, ack=self._expects),
            "fin": lambda: self._send(FIN | ACK),
            "no_ack": lambda: self._send(PSH, length=12),
            "null": lambda: self._send(0),
            "stray_ack": lambda: self._send(ACK, seq=self.script.isn ^ 0x5A5A5A5A, ack=0x12345678),
            "bare_ack": lambda: self._send(ACK),
        }
        sends[kind]()

    def _old_stamp(self) -> dict[str, int]:
        return {"tsval": (self._clock() - 1_000_000) & _MASK} if self._stamps else {}
