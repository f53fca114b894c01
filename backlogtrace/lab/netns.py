"""This machine as a place for scenarios: what they need, namespaces of their own, /proc, the clock.

Knows how to enter a fresh network namespace and to read and set what belongs to it. Refuses to touch
anything of the namespace it started in.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from pathlib import Path

from backlogtrace.errors import BacklogtraceError

CLONE_NEWNET = 0x40000000
_MONOTONIC_COARSE = 6  # its resolution is one tick; Python names only the fine clock
_CHILD_HASH = Path("/proc/sys/net/ipv4/tcp_child_ehash_entries")
_HASH_ENTRIES = 1024
TUN = Path("/dev/net/tun")
_LISTEN, _SYN_RECV = "0A", "03"
_UNINTERESTING = {"InSegs", "OutSegs"}


class CannotRunError(BacklogtraceError):
    """This machine, or this user, cannot run scenarios; the message says what to do."""

    exit_code = 3


def require() -> None:
    """Check what scenarios need. Raises CannotRunError for the first thing that is missing."""
    if sys.platform != "linux":
        raise CannotRunError(f"lab asks a Linux kernel, and this is {platform.system()}: run it on Linux")
    if os.geteuid() != 0:
        raise CannotRunError(
            "lab needs root, for network namespaces and a TUN device of its own: run it with sudo "
            "(it changes nothing outside its namespaces)"
        )
    try:
        os.close(os.open(TUN, os.O_RDWR))
    except OSError as error:
        raise CannotRunError(
            f"{TUN} cannot be opened ({error.strerror}): load the driver with `modprobe tun`; in a container "
            f"start it with --device {TUN} --cap-add NET_ADMIN --cap-add SYS_ADMIN"
        ) from None
    if not os.access("/proc/sys/net/ipv4/tcp_syncookies", os.W_OK):
        raise CannotRunError(
            "/proc/sys is read-only here: lab must set sysctls in its own namespaces; "
            "run it outside the container, or start the container with --privileged"
        )


def enter() -> None:
    """Put this process into a network namespace of its own.

    Raises CannotRunError when the kernel refuses.
    """
    _unshare()
    if _CHILD_HASH.exists():
        # Since 6.1 a namespace may have its own, small table of connections: /proc/net/tcp, read after
        # every packet, is then read in 0.1 ms, not in 5.
        _CHILD_HASH.write_text(str(_HASH_ENTRIES))
        _unshare()


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise CannotRunError(
            f"no network namespace for the scenario ({os.strerror(ctypes.get_errno())}): lab needs the "
            "capabilities SYS_ADMIN and NET_ADMIN; in a container start it with --privileged"
        )


def has_ipv6() -> bool:
    """Whether this kernel speaks IPv6."""
    return Path("/proc/net/if_inet6").exists()


def has_sysctl(name: str) -> bool:
    """Whether this kernel has a setting, by its full name."""
    return Path("/proc/sys", *name.split(".")).exists()


def set_sysctl(name: str, value: int) -> None:
    """Set `net.ipv4.…` of the current namespace. Raises CannotRunError when it has no such setting."""
    path = Path("/proc/sys", *name.split("."))
    try:
        path.write_text(str(value))
    except OSError as error:
        raise CannotRunError(
            f"{name} cannot be set in a network namespace ({error.strerror}): lab needs Linux 4.15 or later"
        ) from None


def counters() -> dict[str, int]:
    """The TcpExt and Tcp counters of the current namespace, by name."""
    found: dict[str, int] = {}
    for path in ("/proc/net/netstat", "/proc/net/snmp"):
        lines = Path(path).read_text("ascii").splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            kind, *words = names.split()
            if kind in {"TcpExt:", "Tcp:"}:
                found.update(zip(words, map(int, values.split()[1:]), strict=True))
    return {name: value for name, value in found.items() if name not in _UNINTERESTING}


def queues(port: int) -> tuple[dict[int, int], int]:
    """Of `port`, from /proc/net/tcp{,6}: sk_ack_backlog by inode of the listener, connections in SYN_RECV."""
    accept_queues: dict[int, int] = {}
    syn_queue = 0
    ending = f":{port:04X}"
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(path):  # noqa: PTH110 - a kernel without IPv6; read after every packet
            continue
        with open(path, encoding="ascii") as rows:  # noqa: PTH123
            for row in rows:
                fields = row.split()
                if not fields[1].endswith(ending):
                    continue
                if fields[3] == _LISTEN:
                    accept_queues[int(fields[9])] = int(fields[4].partition(":")[2], 16)
                elif fields[3] == _SYN_RECV:
                    syn_queue += 1
    return accept_queues, syn_queue


def hz() -> int:
    """Timer ticks per second of this kernel (CONFIG_HZ)."""
    return round(1 / time.clock_getres(_MONOTONIC_COARSE))


def boot_ns() -> int:
    """Wall clock (ns since the epoch) at which the monotonic clock, and with it the ticks, began.

    It stays the same until somebody sets the clock; what is left is some hundred ns of reading.
    """

    def reading() -> tuple[int, int]:
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        return after - before, wall - (before + after) // 2

    return min(reading() for _ in range(20))[1]
