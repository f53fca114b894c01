"""A TUN device and a tap on it: packets into the kernel, and every packet that passed with its time.

Knows ioctls and packet sockets. Refuses to know TCP.

Packets are written to the TUN device: the kernel handles each before the write returns. They are
observed as tcpdump would, on a packet socket: the kernel stamps them when they pass, however late
this process is allowed to read them.

Sources: linux/if_tun.h, linux/sockios.h, packet(7), netdevice(7).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple, Self

from backlogtrace.lab.netns import TUN, CannotRunError, has_ipv6, set_sysctl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_NAME = b"lab0"
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x1, 0x1000
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFFLAGS, _SIOCGIFINDEX = 0x8916, 0x891C, 0x8914, 0x8933
_UP_RUNNING = 0x41
_ETH_P_ALL = 3
_SO_TIMESTAMPNS = 35  # socket has no name for it
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_OUTGOING = 263, 6, 4
_ROOM = 4 << 20
_SNAP = 65535
SERVER4, SERVER6 = "10.9.0.1", "fd09::1"


class Frame(NamedTuple):
    """A packet that passed the device."""

    time_ns: int
    """Wall clock, stamped by the kernel."""
    data: bytes
    out: bool
    """Sent by the kernel."""


class Tun:
    """A TUN device in the current namespace with SERVER4/16 and SERVER6/64, up; a context manager.

    Raises CannotRunError when it cannot be made.
    """

    def __init__(self) -> None:
        self._device = -1
        self._tap: socket.socket | None = None
        try:
            self._device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(self._device, _TUNSETIFF, struct.pack("16sH22x", _NAME, _IFF_TUN | _IFF_NO_PI))
            _configure()
            self._tap = tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
            tap.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            tap.bind((_NAME.decode(), _ETH_P_ALL))
            tap.settimeout(0)
        except OSError as error:
            self.close()
            problem = error.strerror or error
            raise CannotRunError(f"no TUN device in a network namespace: {problem}") from error
        self.tap = tap

    def write(self, data: bytes) -> None:
        """Let the kernel receive `data`; it has handled it when this returns."""
        os.write(self._device, data)

    def drain(self) -> Iterator[Frame]:
        """What has passed since the last call, in order."""
        with contextlib.suppress(BlockingIOError):
            while True:  # the device's own queue must not fill up
                os.read(self._device, _SNAP)
        while True:
            try:
                data, extra, _, address = self.tap.recvmsg(_SNAP, 128)
            except BlockingIOError:
                return
            seconds, nanoseconds = struct.unpack("@ll", extra[0][2])
            yield Frame(seconds * 1_000_000_000 + nanoseconds, data, address[2] == _PACKET_OUTGOING)

    def missed(self) -> int:
        """Packets that passed unseen since the last call, because nobody read for too long."""
        _, drops = struct.unpack("II", self.tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return int(drops)

    def close(self) -> None:
        """Take the device away."""
        if self._tap is not None:
            self._tap.close()
        if self._device >= 0:
            os.close(self._device)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _configure() -> None:
    """Addresses, then up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, address in ((_SIOCSIFADDR, SERVER4), (_SIOCSIFNETMASK, "255.255.0.0")):
            place = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(control, request, struct.pack("16s16s8x", _NAME, place))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", _NAME, _UP_RUNNING))
        index = struct.unpack("16si20x", fcntl.ioctl(control, _SIOCGIFINDEX, struct.pack("16s24x", _NAME)))[1]
    if has_ipv6():
        set_sysctl("net.ipv6.conf.all.disable_ipv6", 0)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
            place = struct.pack("16sIi", socket.inet_pton(socket.AF_INET6, SERVER6), 64, index)
            fcntl.ioctl(control, _SIOCSIFADDR, place)
