"""Options that several commands share, and what they mean together.

Knows names, help texts and the way from words to Options. Refuses to know what a command does with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from backlogtrace.cli.completion import files, kernels
from backlogtrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backlogtrace.kernel.profile import Profile
    from backlogtrace.replay import Options
    from backlogtrace.replay.host import Host

Command = TypeVar("Command", bound="Callable[..., Any]")

FAIL_CONDITIONS = ("dropped", "overflow", "rst", "cookie", "mismatch")

KERNEL = click.option(
    "--kernel", metavar="VERSION", shell_complete=kernels,
    help="Family (5.10), distribution (rhel7) or `uname -r`.",
)  # fmt: skip
_MODEL = (
    click.option(
        "--host", "host_file", metavar="FILE", shell_complete=files,
        help="What the capture cannot show: kernel, sysctls, listeners, accept() times (JSON).",
    ),
    KERNEL,
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


OUTPUT = click.option(
    "-o", "--output", metavar="FILE", shell_complete=files, help="Write to FILE, whole or not at all."
)
ALL_PACKETS = click.option(
    "--all", "all_packets", is_flag=True, help="Every packet, also those of established connections."
)


def with_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """One decorator for several options, in the order that --help shows."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


model_options = with_options(*_MODEL)
"""Decorator: the options that describe the server and the capture."""


@dataclass(frozen=True, slots=True)
class Model:
    """The parsed options: the host file, what the replay needs, what the reader needs."""

    host: Host | None
    options: Options
    reader: str
    ports: tuple[int, ...]
    """Ports that are served for certain."""


def parse_model(
    values: dict[str, Any], *, all_packets: bool = False, routine_rows: bool = True, every_row: bool = True
) -> Model:
    """Turn the values of model_options into a Model.

    Raises UsageError for the first value that cannot be used.
    """
    from backlogtrace.replay import Options
    from backlogtrace.replay.host import (
        checked_backlog,
        load_host,
        parse_accept,
        parse_listener,
        parse_sysctl,
        served_ports,
    )

    host = load_host(values["host_file"]) if values["host_file"] is not None else None
    listeners = tuple(parse_listener(text) for text in values["listeners"])
    options = Options(
        kernel=values["kernel"],
        sysctl=dict(parse_sysctl(text) for text in values["sysctls"]),
        backlog=checked_backlog(values["backlog"]),
        listeners=listeners,
        accept=parse_accept(values["accept"]),
        vantage=values["vantage"],
        all_packets=all_packets,
        routine_rows=routine_rows,
        every_row=every_row,
    )
    return Model(host, options, values["reader"], served_ports(host, listeners))


def input_files(captures: tuple[str, ...], values: dict[str, Any]) -> list[str]:
    """The files that a command with model_options reads, and must not write to."""
    return [*captures, *([values["host_file"]] if values["host_file"] else [])]


def find_kernel(text: str) -> tuple[Profile, str]:
    """Profile for --kernel and a note; raises UsageError for an unknown name."""
    from backlogtrace.kernel import profiles

    try:
        return profiles.find(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def parse_fail_on(texts: tuple[str, ...], known: Sequence[str] = FAIL_CONDITIONS) -> frozenset[str]:
    """The words of `--fail-on dropped,overflow`, given once or several times.

    Raises UsageError for a word that is not among the `known`.
    """
    chosen = [word.strip() for text in texts for word in text.split(",")]
    for word in chosen:
        if word not in known:
            raise UsageError(f"--fail-on {word!r}: use {', '.join(known)}, separated by commas")
    return frozenset(chosen)
