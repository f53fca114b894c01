"""Options that several commands share, and what they mean together.

Knows names, help texts and the way from words to Options. Refuses to know what a command does with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from backlogtrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from backlogtrace.replay import Options
    from backlogtrace.replay.host import Host

Command = TypeVar("Command", bound="Callable[..., Any]")

FAIL_CONDITIONS = ("dropped", "overflow", "rst", "cookie", "mismatch")

_MODEL = (
    click.option(
        "--host", "host_file", metavar="FILE",
        help="What the capture cannot show: kernel, sysctls, listeners, accept() times (JSON).",
    ),
    click.option("--kernel", metavar="VERSION", help="Family (5.10), distribution (rhel7) or `uname -r`."),
    click.option(
        "--sysctl", "sysctls", multiple=True, metavar="NAME=VALUE",
        help="Setting of the server, short or full name; repeatable.",
    ),
    click.option("--backlog", type=int, metavar="N", help="What the application passed to listen()."),
    click.option(
        "--listener", "listeners", multiple=True, metavar="ADDR:PORT",
        help="Only these listeners; :PORT is any address; repeatable.",
    ),
    click.option(
        "--accept", metavar="MODEL", default="infer", show_default=True,
        help="When the application calls accept(): immediate, never or rate=N/s; infer: as the host file "
        "says, else worked out from the capture, with all that is not given.",
    ),
    click.option(
        "--vantage", type=click.Choice(("auto", "server", "client")), default="auto", show_default=True,
        help="Where the capture was taken; from the client's side silence proves less.",
    ),
    click.option(
        "--reader", type=click.Choice(("auto", "native", "scapy", "pyshark")), default="auto",
        show_default=True, help="What reads the capture.",
    ),
)  # fmt: skip


def model_options(command: Command) -> Command:
    """Add the options that describe the server and the capture."""
    for option in reversed(_MODEL):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Model:
    """The parsed options: the host file, what the replay needs, what the reader needs."""

    host: Host | None
    options: Options
    reader: str
    ports: tuple[int, ...]
    """Ports that are served for certain."""


def parse_model(values: dict[str, Any], *, all_packets: bool = False, routine_rows: bool = True) -> Model:
    """Turn the values of model_options into a Model.

    Raises UsageError for the first value that cannot be used.
    """
    from backlogtrace.replay import Options
    from backlogtrace.replay.host import load_host, parse_accept, parse_listener, parse_sysctl

    host = load_host(values["host_file"]) if values["host_file"] is not None else None
    listeners = tuple(parse_listener(text) for text in values["listeners"])
    if values["backlog"] is not None and not -(2**31) <= values["backlog"] < 2**31:
        raise UsageError(f"--backlog {values['backlog']}: listen() takes a C int, {-(2**31)} to {2**31 - 1}")
    options = Options(
        kernel=values["kernel"],
        sysctl=dict(parse_sysctl(text) for text in values["sysctls"]),
        backlog=values["backlog"],
        listeners=listeners,
        accept=parse_accept(values["accept"]),
        vantage=values["vantage"],
        all_packets=all_packets,
        routine_rows=routine_rows,
    )
    served = [*listeners, *(host.listeners if host else ())]
    return Model(host, options, values["reader"], tuple({listener.port: None for listener in served}))


def parse_fail_on(texts: tuple[str, ...]) -> frozenset[str]:
    """The conditions of `--fail-on dropped,overflow`, given once or several times.

    Raises UsageError for a word that is no condition.
    """
    chosen = [word.strip() for text in texts for word in text.split(",")]
    for word in chosen:
        if word not in FAIL_CONDITIONS:
            raise UsageError(f"--fail-on {word!r}: use {', '.join(FAIL_CONDITIONS)}, separated by commas")
    return frozenset(chosen)
