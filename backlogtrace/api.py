"""The Python interface: one function, and the objects of the JSON Lines output as dictionaries.

Knows how a capture becomes rows in memory. Refuses to know anything that the JSON Lines do not say, so
that both have one schema (`backlogtrace schema`).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Row = dict[str, Any]
"""A row of the JSON Lines output: `type` is packet, event or mismatch; times are ns since the epoch."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What became of a capture, in memory. Iterate for the rows, in capture order."""

    header: dict[str, Any]
    """What was read and assumed: kernel, mode, assumed, quality, ... (`problems`: where it ended early)."""
    rows: list[Row]
    listeners: list[dict[str, Any]]
    """One summary for each listener: decisions, counters, peaks of the queues in packets, mismatches."""
    checks: list[dict[str, Any]]
    """What the kernel asked of the packet `checks_of`, in its order: `question`, `values` that it compared,
    the answer `holds`, and the rule that `ends` the path if so (empty: none)."""

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def counters(self) -> dict[str, int]:
        """The counters that all listeners added, named as in /proc/net/netstat and /proc/net/snmp."""
        return self._total("counters")

    @property
    def decisions(self) -> dict[str, int]:
        """How often each decision was made, over all listeners."""
        return self._total("decisions")

    def _total(self, key: str) -> dict[str, int]:
        total: Counter[str] = Counter()
        for summary in self.listeners:
            total.update(summary[key])
        return dict(total)


def analyze(  # noqa: PLR0913 - the options of the command, by keyword
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    host: str | os.PathLike[str] | None = None,
    kernel: str | None = None,
    sysctl: Mapping[str, int] | None = None,
    backlog: int | None = None,
    listeners: Sequence[str] = (),
    accept: str = "infer",
    vantage: Literal["auto", "server", "client"] = "auto",
    reader: Literal["auto", "native", "scapy", "pyshark"] = "auto",
    all_packets: bool = False,
    checks_of: int | None = None,
) -> Analysis:
    """What the listen socket did with every packet of a capture, as `backlogtrace analyze -T jsonl` says it.

    `path` is a capture or several of one host; the other arguments are the options of the command and
    override the host file: `host` is its path, `backlog` what the application passed to listen(),
    `listeners` are `ADDR:PORT` or `:PORT`, `accept` is infer, immediate, never or rate=N/s. `checks_of` is
    the number of an inbound packet for which `checks` is filled.

    A capture that ends inside a packet is analysed up to there, and `header["problems"]` says where.
    Raises `backlogtrace.errors.CaptureError` when a capture cannot be read at all, `UsageError` for an
    argument or host file that cannot be used; both are `BacklogtraceError`.
    """
    from backlogtrace.capture import open_capture
    from backlogtrace.replay import Options
    from backlogtrace.replay import analyze as replay
    from backlogtrace.replay.host import (
        checked_backlog,
        load_host,
        parse_accept,
        parse_listener,
        parse_sysctl,
        served_ports,
    )
    from backlogtrace.report.jsonl import RowLines, header_line, summary_line

    names = [path] if isinstance(path, str | os.PathLike) else path
    paths = [os.fspath(name) for name in names]
    known = load_host(os.fspath(host)) if host is not None else None
    options = Options(
        kernel=kernel,
        sysctl=dict(parse_sysctl(f"{name}={value}") for name, value in (sysctl or {}).items()),
        backlog=checked_backlog(backlog),
        listeners=tuple(parse_listener(text) for text in listeners),
        accept=parse_accept(accept),
        vantage=vantage,
        all_packets=all_packets,
        checks_of=checks_of,
    )
    ports = served_ports(known, options.listeners)
    with open_capture(paths, reader=reader, keep_all=all_packets, ports=ports, keep_small=True) as capture:
        analysis = replay(capture, known, options)
        line = RowLines()
        rows = [json.loads(line(row)) for row in analysis]
    return Analysis(
        json.loads(header_line(analysis.header)),
        rows,
        [json.loads(summary_line(summary)) for summary in analysis.listeners],
        [asdict(check) for check in analysis.checks],
    )
