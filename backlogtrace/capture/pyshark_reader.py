"""Reads a capture through pyshark: tshark finds the packets and takes them apart.

Slow (a few thousand packets a second), but it decodes every encapsulation that Wireshark knows; the
innermost TCP segment counts. Where an IP header claims more bytes than were on the wire, tshark
believes the wire; the other readers believe the header. IPv4 header checksums are not looked at.
Knows how tshark names things and how to run it without its user's settings. Refuses to know what the
segments mean.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import tempfile
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any

from backlogtrace.capture.checksums import RIGHT, WRONG, judged
from backlogtrace.capture.file import open_file
from backlogtrace.capture.options import parse_options
from backlogtrace.capture.source import STDIN
from backlogtrace.errors import BacklogtraceError, UsageError
from backlogtrace.segment import ACK, SYN, Segment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backlogtrace.capture.info import CaptureInfo

_PREFERENCES = {
    "tcp.relative_sequence_numbers": "FALSE",
    "tcp.desegment_tcp_streams": "FALSE",
    "tcp.analyze_sequence_numbers": "FALSE",
    "tcp.check_checksum": "FALSE",
    "ip.defragment": "FALSE",
    "ip.check_checksum": "FALSE",
    "ip.tso_support": "TRUE",
    "ipv6.defragment": "FALSE",
    "ipv6.tso_support": "TRUE",
}
_TCP = "6"
_EXTENSION_HEADERS = ("0", "43", "44", "51", "60")
_MIN_HEADER = 20
_HEADER = Struct("!HHIIHHHH")
_BLOCK = 1 << 16
_TRUE = ("1", "True", "true")


def segments(path: str, info: CaptureInfo) -> Iterator[Segment]:
    """Yield the TCP segments of the capture at `path`, in file order, and count the rest in `info`.

    A packet without a time (pcapng Simple Packet Block) is counted as `untimed`. What tshark has to
    say about a damaged file ends up in `info.problems`, after everything that it could read.
    Raises BacklogtraceError when pyshark or tshark is missing, UsageError for pipes, and
    CaptureError when the file is no capture.
    """
    tunnels: Counter[str] = Counter()
    frame = 0
    for packet in _packets(path, info):
        number = int(packet.number)
        untimed = number - frame - 1
        if untimed:
            info.skip("untimed", untimed)
        info.packets += number - frame
        frame = number
        time_ns = _nanoseconds(packet.sniff_timestamp)
        info.clock([time_ns])
        found = _segment(packet, time_ns, info, tunnels)
        if isinstance(found, Segment):
            info.tcp_packets += 1
            yield found
        else:
            info.skip(found)
    info.notes.extend(tunnel_notes(tunnels))


def tunnel_notes(tunnels: Counter[str]) -> list[str]:
    """One line per kind of tunnel, e.g. `ip:udp:vxlan:eth:ip`, with the number of segments found in it."""
    return [
        f"{count} TCP segments came through a tunnel ({layers}): the innermost addresses and ports count"
        for layers, count in sorted(tunnels.items())
    ]


def _packets(path: str, info: CaptureInfo) -> Iterator[Any]:
    """The packets from pyshark; tshark is gone when this ends, however it ends."""
    pyshark, tshark = _tools()
    if path == STDIN or Path(path).is_fifo():
        raise UsageError(f"{path}: --reader pyshark reads no pipes: save it first, or use --reader native")
    source, framer = open_file(path)
    source.close()
    info.saw_format(framer.format)
    info.bytes += source.total or 0
    loop = asyncio.new_event_loop()
    capture = _capture_class(pyshark)(
        os.path.abspath(path),  # noqa: PTH100 - a name like -X must not become an option of tshark
        keep_packets=False,
        use_json=True,
        # tshark numbers all packets, and leaves out those without a time, which pyshark chokes on.
        display_filter="frame.time_epoch",
        custom_parameters=["-J", "frame ip ipv6 tcp"],
        override_prefs=_PREFERENCES,
        tshark_path=tshark,
        eventloop=loop,
    )
    packets = iter(capture)
    try:
        with _empty_profile():  # tshark starts with the first packet
            first = next(packets, None)
        if first is not None:
            yield first
            yield from packets
    finally:
        packets.close()
        capture.close()
        loop.close()
    if capture.exit_code:
        info.problems.append(f"{path}: {capture.complaint()}; what came before was read")


def _capture_class(pyshark: Any) -> Any:
    """A FileCapture that waits for tshark to end, so that it leaves no zombie and its exit code is known.

    pyshark's own way, kill and look, races with asyncio's child watcher for the exit code.
    """

    class Capture(pyshark.FileCapture):  # type: ignore[misc]
        exit_code = 0

        async def _cleanup_subprocess(self, process: Any) -> None:
            if not self._eof_reached:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                # A pipe with unread data would keep wait() waiting for ever.
                while await process.stdout.read(_BLOCK):
                    pass
            code = await process.wait()
            self.exit_code = code if self._eof_reached else 0
            self._running_processes.discard(process)

        def complaint(self) -> str:
            """What tshark said last."""
            words: str = self._last_error_line or f"tshark ended with exit code {self.exit_code}"
            return words.removeprefix("tshark: ").rstrip(".")

    return Capture


def _tools() -> tuple[Any, str]:
    try:
        import pyshark
    except ImportError as error:
        raise BacklogtraceError(
            "--reader pyshark needs pyshark: pip install pyshark, or use --reader native"
        ) from error
    tshark = shutil.which("tshark")
    if tshark is None:
        raise BacklogtraceError(
            "--reader pyshark needs tshark, which is not on the PATH: install Wireshark's command line tools "
            "(Debian: apt install tshark), or use --reader native"
        )
    return pyshark, tshark


@contextmanager
def _empty_profile() -> Iterator[None]:
    """Keep tshark from reading its user's preferences, profiles, plugins and Lua scripts."""
    names = ("WIRESHARK_CONFIG_DIR", "HOME")
    saved = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="backlogtrace-") as folder:
        os.environ.update(dict.fromkeys(names, folder))
        try:
            yield
        finally:
            for name, value in saved.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _segment(packet: Any, time_ns: int, info: CaptureInfo, tunnels: Counter[str]) -> Segment | str:
    """The innermost TCP segment, or the reason why there is none."""
    names, ips, tcps = _layers(packet)
    cut = int(_field(packet.frame_info, "frame.cap_len")) < int(_field(packet.frame_info, "frame.len"))
    info.snaplen_cut += cut
    if not ips:
        return "not_ip"
    ip = ips[-1]
    if not tcps and _is_other(ip):
        return "not_tcp"
    if any(_is_fragment(ip) for ip in ips):
        return "fragment"
    tcp = tcps[-1] if tcps else None
    # Without one of these the dissector gave up inside the header.
    if tcp is None or not _field(tcp, "tcp.len") or not _field(tcp, "tcp.checksum"):
        return "truncated_headers" if cut else "bad_header"
    if int(_field(tcp, "tcp.hdr_len")) < _MIN_HEADER:
        return "bad_header"
    if len(ips) > 1:
        tunnels[":".join(names)] += 1
    return _from_fields(int(packet.number), time_ns, ip, tcp, info)


def _from_fields(frame: int, time_ns: int, ip: Any, tcp: Any, info: CaptureInfo) -> Segment:
    flags = int(_field(tcp, "tcp.flags"), 16) & 0xFF
    source, target = _addresses(ip)
    _note_checksum(frame, ip, tcp, source + target, info)
    options = _options(tcp)
    info.options_cut += len(options) < int(_field(tcp, "tcp.hdr_len")) - _MIN_HEADER
    return Segment(
        frame,
        time_ns,
        source + int(_field(tcp, "tcp.srcport")).to_bytes(2, "big"),
        target + int(_field(tcp, "tcp.dstport")).to_bytes(2, "big"),
        flags,
        int(_field(tcp, "tcp.seq_raw")),
        int(_field(tcp, "tcp.ack_raw")),
        int(_field(tcp, "tcp.window_size_value")),
        int(_field(tcp, "tcp.len")),
        *parse_options(options, bool(flags & SYN)),
    )


def _options(tcp: Any) -> bytes:
    """The options as captured; pyshark has `None` where the capture cut all of them."""
    text = _field(tcp, "tcp.options")
    return b"" if text == "None" else bytes.fromhex(text.replace(":", ""))


def _note_checksum(frame: int, ip: Any, tcp: Any, ends: bytes, info: CaptureInfo) -> None:
    """Notes what is known of the TCP checksum; the header is put together again from its fields."""
    options = _options(tcp)
    header, flags = int(_field(tcp, "tcp.hdr_len")), int(_field(tcp, "tcp.flags"), 16)
    plain = _field(ip, "ip.hdr_len") == "20" or _field(ip, "ipv6.nxt") == _TCP
    if not plain or int(_field(tcp, "tcp.len")) or len(options) != header - _MIN_HEADER:
        return
    fixed = _HEADER.pack(
        *(int(_field(tcp, f"tcp.{name}")) for name in ("srcport", "dstport", "seq_raw", "ack_raw")),
        header << 10 | flags,
        int(_field(tcp, "tcp.window_size_value")),
        int(_field(tcp, "tcp.checksum"), 16),
        int(_field(tcp, "tcp.urgent_pointer") or 0),
    )
    found = judged(fixed + options, ends)
    syn = flags & (SYN | ACK) == SYN
    info.checksums.take([frame] if found == WRONG else [], syn and found == RIGHT, syn and found == WRONG)


def _layers(packet: Any) -> tuple[list[str], list[Any], list[Any]]:
    """Names of the layers from the first IP header to the last, IP layers, TCP layers; outermost first.

    What an error message quotes is not part of them: tshark names such a header, but nests it.
    """
    names = _field(packet.frame_info, "frame.protocols").split(":")
    quote = min((names.index(name) for name in ("icmp", "icmpv6") if name in names), default=len(names))
    found = {layer.layer_name: iter([layer, *layer.duplicate_layers]) for layer in packet.layers}
    layers = [(at, name, next(found.get(name, iter(())), None)) for at, name in enumerate(names[:quote])]
    ips = [(at, layer) for at, name, layer in layers if name in ("ip", "ipv6") and layer is not None]
    tcps = [layer for _, name, layer in layers if name == "tcp" and layer is not None]
    between = names[ips[0][0] : ips[-1][0] + 1] if ips else []
    return between, [layer for _, layer in ips], tcps


def _is_other(ip: Any) -> bool:
    """Whether what follows an IP header and its extension headers is certainly not TCP."""
    if _field(ip, "ipv6.plen") == "":
        return _field(ip, "ip.proto") not in ("", _TCP)
    protocol = _field(ip, "ipv6.nxt")
    # In the order of RFC 8200 section 4.1: the last one that is there names the protocol.
    for name in ("ipv6.hopopts", "ipv6.routing", "ipv6.fraghdr", "ipv6.dstopts"):
        header = _nested(ip, name)
        if header is not None:
            protocol = _field(header[-1] if isinstance(header, list) else header, f"{name}.nxt")
    return protocol not in ("", _TCP, *_EXTENSION_HEADERS)


def _is_fragment(ip: Any) -> bool:
    flags, header = _nested(ip, "ip.flags_tree"), _nested(ip, "ipv6.fraghdr")
    if header is not None:
        more, offset = _field(header, "ipv6.fraghdr.more"), _field(header, "ipv6.fraghdr.offset")
    elif flags is not None:
        more, offset = _field(flags, "ip.flags.mf"), _field(ip, "ip.frag_offset")
    else:
        return False
    return more in _TRUE or offset != "0"


def _addresses(ip: Any) -> tuple[bytes, bytes]:
    if _field(ip, "ip.src"):
        return socket.inet_aton(_field(ip, "ip.src")), socket.inet_aton(_field(ip, "ip.dst"))
    family = socket.AF_INET6
    return socket.inet_pton(family, _field(ip, "ipv6.src")), socket.inet_pton(family, _field(ip, "ipv6.dst"))


def _nested(layer: Any, name: str) -> Any:
    """A part of a pyshark layer, None when it is missing."""
    try:
        return layer.get_field(name)
    except AttributeError:
        return None


def _field(layer: Any, name: str) -> str:
    """A field of a pyshark layer by its full name, empty when it is missing."""
    value = _nested(layer, name)
    return "" if value is None else str(value)


def _nanoseconds(epoch: str) -> int:
    """`1704067352.797131254` as nanoseconds."""
    seconds, _, fraction = epoch.partition(".")
    nanoseconds = int(fraction[:9].ljust(9, "0"))
    return int(seconds) * 1_000_000_000 + (-nanoseconds if seconds.startswith("-") else nanoseconds)
