"""The host file and the options that say the same: what the capture cannot show about the server.

Knows the format (DESIGN section 2) and turns every error into one line that names the file and the
JSON path. Refuses to know defaults and what the model does with any of it.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from backlogtrace.errors import UsageError
from backlogtrace.kernel import sysctl
from backlogtrace.segment import endpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

Operation = Literal["accept", "sysctl", "listen", "close"]
AcceptKind = Literal["infer", "immediate", "never", "rate"]

_PORT_MAX = 65535
_BACKLOG_MAX = 2**31 - 1
_HZ_MAX = 10_000
_RETRIES_MAX = 255
_TIME_MAX = 2**63 - 1
_SIZE_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class HostListener:
    """A listening socket as the host file or `--listener` gives it; None is "not said"."""

    address: str
    """Numeric; `::` serves IPv4 clients too."""
    port: int
    backlog: int | None = None
    """What the application passed to listen(); the kernel clamps it."""
    opened_ns: int | None = None
    defer_accept: int | None = None
    """TCP_DEFER_ACCEPT in seconds, as given to setsockopt()."""
    fastopen_qlen: int | None = None
    """TCP_FASTOPEN, as given to setsockopt()."""
    syncnt: int | None = None
    """TCP_SYNCNT."""


@dataclass(frozen=True, slots=True)
class HostEvent:
    """Something an application or the administrator did, at `time_ns` since the epoch."""

    time_ns: int
    op: Operation
    listener: int | None = None
    """Index in Host.listeners."""
    peer: bytes | None = None
    """accept: the connection that was returned, as segment.endpoint(); None when not said."""
    name: str = ""
    """sysctl: full name."""
    value: int = 0
    """sysctl: new value."""
    backlog: int | None = None
    """listen: the new backlog."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host file; events are in order of time."""

    kernel: str | None = None
    hz: int | None = None
    """Ticks per second (CONFIG_HZ)."""
    boot_ns: int | None = None
    """Wall clock at boot, nanoseconds since the epoch."""
    sysctl: dict[str, int] = field(default_factory=dict)
    """By full name."""
    listeners: list[HostListener] = field(default_factory=list)
    events: list[HostEvent] = field(default_factory=list)
    accept_log: bool = False
    """Whether the file has `events` at all: then its accept() calls are all there were."""


@dataclass(frozen=True, slots=True)
class AcceptModel:
    """How the application is taken to call accept() where the host file does not say."""

    kind: AcceptKind
    per_second: float = 0.0
    """Only for kind `rate`: calls per second, finite and above 0."""


# ---- options -------------------------------------------------------------------------------------


def parse_sysctl(text: str) -> tuple[str, int]:
    """(`net.ipv4.tcp_syncookies`, 1) for `tcp_syncookies=1` or the full name.

    Raises UsageError for unknown names (with the near miss), non-numbers and impossible values.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--sysctl {text!r}: write NAME=VALUE, for example tcp_syncookies=1")
    full = sysctl.full_name(name)
    if full is None:
        raise UsageError(f"--sysctl {text!r}: {_unknown_sysctl(name)}")
    try:
        number = int(value.strip(), 0)
    except ValueError:
        raise UsageError(f"--sysctl {text!r}: the value {value!r} is not a whole number") from None
    if problem := sysctl.complaint(full, number):
        raise UsageError(f"--sysctl {text!r}: {problem}")
    return full, number


def parse_listener(text: str) -> HostListener:
    """Listener for `ADDR:PORT`, `[V6]:PORT` or `:PORT` (any address of both families).

    Raises UsageError when the address is not numeric or the port is not 1 to 65535.
    """
    address, colon, port = text.strip().rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) <= _PORT_MAX:
        raise UsageError(
            f"--listener {text!r}: write ADDRESS:PORT, [IPV6]:PORT or :PORT with a port from 1 to {_PORT_MAX}"
        )
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    elif ":" in address:
        raise UsageError(f"--listener {text!r}: put the IPv6 address in brackets, [{address}]:{port}")
    address = address if address not in {"", "*"} else "::"
    if not _numeric(address):
        raise UsageError(f"--listener {text!r}: {address!r} is not a numeric IPv4 or IPv6 address")
    return HostListener(_canonical(address), int(port))


def parse_accept(text: str) -> AcceptModel:
    """Accept model for `infer`, `immediate`, `never` or `rate=N/s`.

    Raises UsageError for anything else and for rates that are not finite and above 0.
    """
    if text in {"infer", "immediate", "never"}:
        return AcceptModel(cast("AcceptKind", text))
    match = re.fullmatch(r"rate=([^/]+)(?:/s)?", text)
    if match is None:
        raise UsageError(f"--accept {text!r}: use infer, immediate, never or rate=N/s, for example rate=50/s")
    try:
        rate = float(match[1])
    except ValueError:
        raise UsageError(
            f"--accept {text!r}: {match[1]!r} is not a number of accept() calls a second"
        ) from None
    # The lower bound keeps 1/rate in nanoseconds inside 63 bits: slower than that is "never".
    if not math.isfinite(rate) or not 1e-6 <= rate <= 1e9:  # noqa: PLR2004
        raise UsageError(f"--accept {text!r}: the rate must be between 0.000001 and 1000000000 a second")
    return AcceptModel("rate", rate)


def checked_backlog(backlog: int | None) -> int | None:
    """`backlog` as it was given; raises UsageError when it is no C int, which is what listen() takes."""
    if backlog is not None and not -_BACKLOG_MAX - 1 <= backlog <= _BACKLOG_MAX:
        raise UsageError(
            f"--backlog {backlog}: listen() takes a C int, {-_BACKLOG_MAX - 1} to {_BACKLOG_MAX}"
        )
    return backlog


def served_ports(host: Host | None, listeners: Sequence[HostListener] = ()) -> tuple[int, ...]:
    """Ports that are served for certain: those given as options and those of the host file."""
    served = [*listeners, *(host.listeners if host else ())]
    return tuple({listener.port: None for listener in served})


# ---- the file ------------------------------------------------------------------------------------


def load_host(path: str | Path) -> Host:
    """Read a host file.

    Raises UsageError with the file, the JSON path (`events[3].peer`) and what is wrong.
    """
    name = str(path)
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"host file {name}: {error.strerror or error}") from None
    if len(raw) > _SIZE_MAX:
        raise UsageError(f"host file {name}: {len(raw)} bytes is more than any host file needs ({_SIZE_MAX})")
    try:
        data = json.loads(raw)
    except UnicodeDecodeError as error:
        raise UsageError(f"host file {name}: not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise UsageError(
            f"host file {name}: not JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except (RecursionError, ValueError) as error:
        raise UsageError(f"host file {name}: not JSON that can be read: {error}") from None
    return _Reader(name).host(data)


class _Reader:
    """Checks one parsed file; every method takes the JSON path of what it looks at."""

    def __init__(self, name: str) -> None:
        self.name = name

    def fail(self, where: str, problem: str) -> NoReturn:
        raise UsageError(f"host file {self.name}: {where + ': ' if where else ''}{problem}")

    def table(self, where: str, value: object, known: tuple[str, ...]) -> dict[str, Any]:
        """`value` as an object whose keys are all in `known`."""
        if not isinstance(value, dict):
            self.fail(where, f"must be an object, not {_kind(value)}")
        for key in value:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
                self.fail(f"{where}.{key}" if where else key, f"unknown key; {hint}")
        return value

    def items(self, where: str, value: object) -> list[Any]:
        if not isinstance(value, list):
            self.fail(where, f"must be a list, not {_kind(value)}")
        return value

    def number(self, where: str, value: object, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail(where, f"must be a whole number, not {_kind(value)}")
        if not low <= value <= high:
            self.fail(where, f"{value} is not between {low} and {high}")
        return value

    def optional(self, where: str, row: dict[str, Any], key: str, high: int) -> int | None:
        """A number from 0 to `high` that may be missing or null."""
        return None if row.get(key) is None else self.number(f"{where}{key}", row[key], 0, high)

    def host(self, data: object) -> Host:
        top = self.table("", data, ("kernel", "hz", "boot_ns", "sysctl", "listeners", "events"))
        kernel = top.get("kernel")
        if kernel is not None and (not isinstance(kernel, str) or not kernel.strip()):
            self.fail("kernel", "must be text such as '5.10' or what `uname -r` prints")
        hz = None if top.get("hz") is None else self.number("hz", top["hz"], 1, _HZ_MAX)
        listeners = [
            self.listener(f"listeners[{n}]", row)
            for n, row in enumerate(self.items("listeners", _given(top, "listeners", [])))
        ]
        events = [
            self.event(f"events[{n}]", row, len(listeners))
            for n, row in enumerate(self.items("events", _given(top, "events", [])))
        ]
        events.sort(key=lambda event: event.time_ns)
        return Host(
            kernel, hz, self.optional("", top, "boot_ns", _TIME_MAX),
            self.settings(_given(top, "sysctl", {})),
            listeners, events, "events" in top,
        )  # fmt: skip

    def settings(self, value: object) -> dict[str, int]:
        if not isinstance(value, dict):
            self.fail("sysctl", f"must be an object, not {_kind(value)}")
        return dict(self.setting("sysctl", name, number) for name, number in value.items())

    def setting(self, where: str, name: str, value: object) -> tuple[str, int]:
        full = sysctl.full_name(name)
        if full is None:
            self.fail(where, _unknown_sysctl(name))
        number = self.number(f"{where}.{name}", value, -(2**63), 2**63)
        if problem := sysctl.complaint(full, number):
            self.fail(where, problem)
        return full, number

    def listener(self, where: str, value: object) -> HostListener:
        row = self.table(
            where,
            value,
            ("address", "port", "backlog", "opened_ns", "defer_accept", "fastopen_qlen", "syncnt"),
        )
        if "port" not in row:
            self.fail(where, "needs a port")
        address = row.get("address", "::")
        if not isinstance(address, str) or not _numeric(address):
            self.fail(f"{where}.address", f"{address!r} is not a numeric IPv4 or IPv6 address")
        dot = f"{where}."
        return HostListener(
            _canonical(address),
            self.number(f"{dot}port", row["port"], 1, _PORT_MAX),
            # listen() takes a C int; the kernel reads it as unsigned, so -1 means "the maximum".
            None if row.get("backlog") is None else self.backlog(f"{dot}backlog", row["backlog"]),
            self.optional(dot, row, "opened_ns", _TIME_MAX),
            self.optional(dot, row, "defer_accept", _BACKLOG_MAX),
            self.optional(dot, row, "fastopen_qlen", _BACKLOG_MAX),
            self.optional(dot, row, "syncnt", _RETRIES_MAX),
        )

    def backlog(self, where: str, value: object) -> int:
        return self.number(where, value, -_BACKLOG_MAX - 1, _BACKLOG_MAX)

    def event(self, where: str, value: object, listeners: int) -> HostEvent:
        row = self.table(where, value, ("time_ns", "op", "listener", "peer", "name", "value", "backlog"))
        for key in ("time_ns", "op"):
            if key not in row:
                self.fail(where, f"needs {key}")
        time_ns = self.number(f"{where}.time_ns", row["time_ns"], 0, _TIME_MAX)
        op = row["op"]
        if op == "sysctl":
            return self.sysctl_event(where, row, time_ns)
        if op not in {"accept", "listen", "close"}:
            self.fail(f"{where}.op", f"{op!r} is none of accept, sysctl, listen, close")
        listener = self.which(where, row, listeners)
        if op == "accept":
            return HostEvent(time_ns, "accept", listener, peer=self.peer(f"{where}.peer", row.get("peer")))
        if op == "listen":
            if row.get("backlog") is None:
                self.fail(where, "a listen event needs the backlog")
            return HostEvent(
                time_ns, "listen", listener, backlog=self.backlog(f"{where}.backlog", row["backlog"])
            )
        return HostEvent(time_ns, "close", listener)

    def which(self, where: str, row: dict[str, Any], listeners: int) -> int:
        """Index of the listener; may be left out when there is exactly one."""
        if row.get("listener") is None and listeners == 1:
            return 0
        if not listeners:
            self.fail(where, "refers to a listener, but `listeners` is empty")
        if row.get("listener") is None:
            self.fail(where, f"needs `listener`, a number from 0 to {listeners - 1}")
        return self.number(f"{where}.listener", row["listener"], 0, listeners - 1)

    def sysctl_event(self, where: str, row: dict[str, Any], time_ns: int) -> HostEvent:
        if not isinstance(row.get("name"), str) or "value" not in row:
            self.fail(where, "a sysctl event needs name and value")
        name, number = self.setting(where, row["name"], row["value"])
        return HostEvent(time_ns, "sysctl", name=name, value=number)

    def peer(self, where: str, value: object) -> bytes | None:
        if value is None:
            return None
        parsed = _endpoint(value) if isinstance(value, str) else None
        if parsed is None:
            self.fail(where, f"{value!r} is not an address and port such as 10.0.0.1:4000 or [fd09::2]:4000")
        return parsed


def _given(row: dict[str, Any], key: str, default: object) -> object:
    """The value of `key`; `default` where it is missing or null."""
    value = row.get(key)
    return default if value is None else value


def _unknown_sysctl(name: str) -> str:
    close = sysctl.near_miss(name)
    hint = f"did you mean {close}?" if close else f"known are {', '.join(sysctl.SYSCTLS)}"
    return f"unknown sysctl {name.strip()!r}; {hint}"


def _kind(value: object) -> str:
    """JSON's word for the type of `value`."""
    words = {dict: "an object", list: "a list", str: "text", bool: "true/false", float: "a fraction"}
    return "null" if value is None else words.get(type(value), "a number")


def _numeric(address: str) -> bool:
    try:
        endpoint(address, 0)
    except (OSError, ValueError):
        return False
    return True


def _canonical(address: str) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_ntop(family, socket.inet_pton(family, address))


def _endpoint(text: str) -> bytes | None:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > _PORT_MAX:
        return None
    address = match[1] or match[2]
    return endpoint(address, int(match[3])) if _numeric(address) else None
