"""Reads a capture through scapy's dissection, into tunnels: the innermost TCP segment counts.

The file format is read by this package, because scapy's own readers drop if_tsoffset, mix up the
interfaces of several sections and keep quiet about cut files. Slow (a few thousand packets a second).
What scapy cannot take apart is skipped: an IPv6 length of 0 (as bad_header), Teredo (as not_tcp).
Knows scapy's layer classes. Refuses to know what the segments mean.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from backlogtrace.capture.checksums import RIGHT, UNKNOWN, WRONG, checked
from backlogtrace.capture.file import CaptureFile
from backlogtrace.capture.options import parse_options
from backlogtrace.errors import BacklogtraceError
from backlogtrace.segment import ACK, SYN, Segment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backlogtrace.capture.info import CaptureInfo

_WINDOW = 1 << 20
"""Bytes read at once."""
_TCP, _TCP_HEADER = 6, 20
_INET6_FAMILIES = (10, 24, 28, 30)
"""AF_INET6 of Linux, NetBSD, FreeBSD and macOS; scapy knows only that of the system it runs on."""


def segments(path: str, info: CaptureInfo) -> Iterator[Segment]:
    """Yield the TCP segments of the capture at `path`, in file order, and count the rest in `info`.

    `-` is standard input. Raises BacklogtraceError when scapy is missing and CaptureError when the
    file is no capture; damage further on ends up in `info.problems`, after everything before it.
    """
    dissector = _Dissector()
    file = CaptureFile(path, info)
    try:
        for window, records in file.windows(_WINDOW, file.framer.scan):
            for at, caplen, wirelen, time_ns, linktype in records:
                info.packets += 1
                info.snaplen_cut += caplen < wirelen
                info.saw_link(linktype)
                info.clock([time_ns])
                data = bytes(window.data[at : at + caplen])
                found = dissector.segment(data, wirelen, linktype, info)
                if isinstance(found, Segment):
                    info.tcp_packets += 1
                    dissector.note_checksum(found.flags, info)
                    yield found._replace(frame=info.packets, time_ns=time_ns)
                else:
                    info.skip(found)
    finally:
        file.close()
    info.notes.extend(dissector.notes())


class _Dissector:
    """Scapy, as far as it is needed, and the tunnels seen so far."""

    def __init__(self) -> None:
        try:
            from scapy.config import conf
            from scapy.contrib import etherip, geneve, mpls  # noqa: F401 - they bind themselves to their carriers
            from scapy.layers import inet, inet6, ipsec, l2, ppp, vxlan  # noqa: F401 - likewise
            from scapy.packet import bind_bottom_up
        except ImportError as error:
            raise BacklogtraceError(
                "--reader scapy needs scapy: pip install scapy, or use --reader native"
            ) from error
        # Scapy logs what it thinks of odd packets; they are counted here instead.
        conf.logLevel = logging.CRITICAL
        for loopback in (l2.Loopback, l2.LoopbackOpenBSD):
            known = [fields for fields, _ in loopback.payload_guess]
            for family in _INET6_FAMILIES:
                if {"type": family} not in known:
                    bind_bottom_up(loopback, inet6.IPv6, type=family)
        self._ip, self._ip6, self._tcp = inet.IP, inet6.IPv6, inet.TCP
        self._extension = (inet6._IPv6ExtHdr, ipsec.AH)  # noqa: SLF001 - the only name of what they share
        self._fragment_header = inet6.IPv6ExtHdrFragment
        self._icmp = (inet.ICMP, inet6._ICMPv6)  # noqa: SLF001 - likewise
        self._links = {
            12: inet6.IPv46,
            14: inet6.IPv46,
            101: inet6.IPv46,
            228: inet.IP,
            229: inet6.IPv6,
            0: l2.Loopback,
            108: l2.LoopbackOpenBSD,
            50: ppp.HDLC,
        }
        self._other_links = conf.l2types.num2layer
        self._tunnels: Counter[str] = Counter()
        self._checksum = UNKNOWN

    def notes(self) -> list[str]:
        """One line per kind of tunnel, e.g. `IP/UDP/VXLAN/Ethernet/IP`, with the number of segments in it."""
        return [
            f"{count} TCP segments came through a tunnel ({layers}): the innermost addresses and ports count"
            for layers, count in sorted(self._tunnels.items())
        ]

    def segment(self, data: bytes, wirelen: int, linktype: int, info: CaptureInfo) -> Segment | str:
        """The innermost TCP segment of a packet (frame and time 0), or the reason why there is none."""
        link = self._links.get(linktype) or self._other_links.get(linktype)
        if link is None:
            return f"unsupported_linktype_{linktype}"
        try:
            layers = self._layers(link(data))
        except Exception:  # noqa: BLE001 - scapy guards every layer but the first, which raises what it likes
            return "truncated_headers"
        ips = [layer for layer in layers if isinstance(layer, self._ip | self._ip6)]
        if not ips:
            return "not_ip"
        if ips[-1].version != (4 if isinstance(ips[-1], self._ip) else 6):
            return "bad_header"
        inside = layers[layers.index(ips[-1]) :]
        tcps = [layer for layer in inside if isinstance(layer, self._tcp)]
        if not tcps and self._protocol(inside) != _TCP:
            return "not_tcp"
        if any(self._is_fragment(layer) for layer in layers):
            return "fragment"
        claimed = ips[-1].len if isinstance(ips[-1], self._ip) else ips[-1].plen + 40
        there = len(ips[-1].original)
        if not tcps or len(tcps[-1].original) < _TCP_HEADER:
            return "truncated_headers" if claimed > there else "bad_header"
        # A length of 0 is segmentation offload: the packet record knows the length.
        room = self._room(inside[: inside.index(tcps[-1])], claimed or there + wirelen - len(data))
        header = tcps[-1].dataofs * 4
        if header < _TCP_HEADER or header > room:
            return "bad_header"
        if len(ips) > 1:
            first, last = layers.index(ips[0]), layers.index(ips[-1])
            self._tunnels["/".join(type(layer).__name__ for layer in layers[first : last + 1])] += 1
        info.length_zero += not claimed
        info.options_cut += len(tcps[-1].original) < header
        self._checksum = UNKNOWN
        if claimed and room == header <= len(tcps[-1].original):
            network = ips[-1].original
            at = len(network) - len(tcps[-1].original)
            ends = network[12:20] if network[0] >> 4 == 4 else network[8:40]
            self._checksum = checked(network, 0, at, room, ends)
        return _from_layers(ips[-1].original, tcps[-1], room - header)

    def note_checksum(self, flags: int, info: CaptureInfo) -> None:
        """Notes what is known of the checksum of the last segment, which is the last packet counted."""
        syn = flags & (SYN | ACK) == SYN
        found = self._checksum
        info.checksums.take(
            [info.packets] if found == WRONG else [], syn and found == RIGHT, syn and found == WRONG
        )

    def _layers(self, layer: Any) -> list[Any]:
        """The layers of a packet, outermost first, without what an ICMP error quotes."""
        layers = []
        while layer and not isinstance(layer, self._icmp):
            layers.append(layer)
            layer = layer.payload
        return layers

    def _protocol(self, inside: list[Any]) -> int:
        """The protocol number behind an IP header and its extension headers."""
        protocol: int = inside[0].nh if isinstance(inside[0], self._ip6) else inside[0].proto
        for layer in inside[1:]:
            if not isinstance(layer, self._extension):
                break
            protocol = layer.nh
        return protocol

    def _is_fragment(self, layer: Any) -> bool:
        if isinstance(layer, self._ip):
            return bool(layer.flags.MF or layer.frag)
        return isinstance(layer, self._fragment_header) and bool(layer.m or layer.offset)

    def _room(self, headers: list[Any], total: int) -> int:
        """Bytes from the TCP header to the end of an IP packet of `total` bytes.

        `headers` are the IP header and what lies between it and TCP.
        """
        fixed = headers[0].ihl * 4 if isinstance(headers[0], self._ip) else 40
        return total - fixed - sum(len(layer.original) - len(layer.payload.original) for layer in headers[1:])


def _from_layers(ip: bytes, tcp: Any, length: int) -> Segment:
    source, target = (ip[12:16], ip[16:20]) if ip[0] >> 4 == 4 else (ip[8:24], ip[24:40])
    flags = int(tcp.flags) & 0xFF
    return Segment(
        0,
        0,
        source + tcp.sport.to_bytes(2, "big"),
        target + tcp.dport.to_bytes(2, "big"),
        flags,
        tcp.seq,
        tcp.ack,
        tcp.window,
        length,
        *parse_options(tcp.original[_TCP_HEADER : tcp.dataofs * 4], bool(flags & SYN)),
    )
