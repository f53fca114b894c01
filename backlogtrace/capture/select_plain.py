"""Which TCP packets can matter to a listen socket: the rule, packet by packet.

A packet is left out only when it provably belongs to an established connection, or when nothing seen so far
makes either of its endpoints a server. SYN, RST and FIN are always kept. Proof of establishment is something
that no request socket, cookie or TIME_WAIT socket sends (RFC 9293 section 3.10; Linux tcp_check_req()):
payload or a FIN from the server, or a bare ACK from it for more than the SYN.
Knows no queue and decides nothing about the packets it keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backlogtrace.capture.options import parse_options
from backlogtrace.segment import ACK, FIN, RST, SYN

if TYPE_CHECKING:
    from collections.abc import Collection

    from backlogtrace.capture.info import CaptureInfo
    from backlogtrace.capture.packet import Packet

_HALF = 1 << 31


class _Flow:
    """What has been seen of one pair of endpoints."""

    __slots__ = ("ambiguous", "established", "expected", "fastopen")

    def __init__(self) -> None:
        self.established = False
        self.expected: int | None = None
        """Acknowledgment number that covers the client's SYN and its data; None before a SYN."""
        self.ambiguous = False
        """SYNs with several expectations were seen."""
        self.fastopen = False
        """A SYN carried data or a Fast Open option: its server may send data before the handshake ends."""

    def syn(self, expected: int, fastopen: bool) -> None:
        """Takes a SYN without ACK."""
        self.ambiguous |= self.expected is not None and self.expected != expected
        self.expected = expected
        self.fastopen |= fastopen

    def proves(self, flags: int, ack: int, length: int) -> bool:
        """Whether an ACK from the server shows that the connection is established."""
        if (
            self.expected is not None
            and not self.ambiguous
            and 0 < (ack - self.expected & 0xFFFFFFFF) < _HALF
        ):
            return True
        return not self.fastopen and (length > 0 or flags & FIN != 0)


class PlainSelector:
    """Applies the rule to one batch of packets after another."""

    def __init__(self, ports: Collection[int], info: CaptureInfo) -> None:
        self._ports = frozenset(port.to_bytes(2, "big") for port in ports)
        self._servers: set[bytes] = set()
        self._flows: dict[bytes, _Flow] = {}
        self._info = info

    def choose(self, packets: list[Packet]) -> list[Packet]:
        """The packets of the batch to keep."""
        for _, _, (src, dst, flags, *_) in packets:
            if flags & SYN:
                self._servers.add(src if flags & ACK else dst)
        return [packet for packet in packets if self._keep(packet)]

    def _keep(self, packet: Packet) -> bool:
        src, dst, flags, seq, ack, _, length, options, _ = packet[2]
        if flags & (SYN | RST):
            self._restart(src, dst, flags, seq, length, options)
            return True
        from_server = src in self._servers or src[-2:] in self._ports
        to_server = dst in self._servers or dst[-2:] in self._ports
        if not (from_server or to_server):
            self._info.midstream += not flags & FIN
            return flags & FIN != 0
        key = src + dst if src < dst else dst + src
        flow = self._flows.get(key)
        if flow is not None and flow.established:
            self._info.established += not flags & FIN
            return flags & FIN != 0
        # where both ends are servers, the sender need not be the one that listens on this connection
        if from_server and not to_server and flags & ACK:
            if flow is None:
                flow = self._flows[key] = _Flow()
            flow.established = flow.proves(flags, ack, length)
        return True

    def _restart(self, src: bytes, dst: bytes, flags: int, seq: int, length: int, options: bytes) -> None:
        """After a SYN or RST nothing is established on this pair of endpoints."""
        key = src + dst if src < dst else dst + src
        flow = self._flows.get(key)
        if flow is None:
            if not flags & SYN:
                return
            flow = self._flows[key] = _Flow()
        flow.established = False
        if flags & (SYN | ACK) == SYN:
            fastopen = length > 0 or parse_options(options, syn=True)[5] is not None
            flow.syn(seq + 1 + length & 0xFFFFFFFF, fastopen)
