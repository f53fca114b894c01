"""How a capture is cut into chunks is the reader's business: the rows are the same.

Two things are learned from what the first chunk holds: the phase of the machine's timers, and, where
no listeners are given, that a client's own SYN-ACK is not a listener's. Cuts before that are left out.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backlogtrace.capture import open_capture
from backlogtrace.kernel.clock import TickClock
from backlogtrace.kernel.profiles import find
from backlogtrace.replay.calibrate import server_clock
from backlogtrace.replay.host import load_host
from backlogtrace.segment import Segment
from tests.replay.wire import replay

if TYPE_CHECKING:
    from backlogtrace.replay.host import Host
    from tests.replay.wire import Result

FIXTURES = Path(__file__).parents[2] / "fixtures"
NAMES = (
    "burst-pressure-expiry-7.2", "fastopen-cookie-6.12", "late-capture-busy-machine-6.18", "odd-segments-7.2",
    "overflow-expired-rst-5.15", "seed_documents-0001", "timewait-reuse-5.15",
)  # fmt: skip


@cache
def read(name: str) -> tuple[list[Segment], Host]:
    with open_capture([str(FIXTURES / name / "capture.pcap")], keep_all=True) as capture:
        segments = [item for chunk in capture.chunks() for item in chunk if isinstance(item, Segment)]
    return segments, load_host(FIXTURES / name / "host.json")


def known(name: str, what: str) -> Host:
    """`all` of the host file, without the machine's clock, or nothing but the kernel."""
    host = read(name)[1]
    if what == "all":
        return host
    host = replace(host, hz=None, boot_ns=None)
    return host if what == "no clock" else replace(host, listeners=[], events=[], accept_log=False)


@cache
def first_cut(name: str, what: str) -> int:
    """The first position behind which a cut must not matter."""
    segments, host = read(name)
    if what != "all":
        return 0

    def phase(upto: int) -> object:
        clock = server_clock(find(host.kernel or "")[0], segments[:upto], host.hz, host.boot_ns)
        return (clock.lags, clock.busy) if isinstance(clock, TickClock) else None

    learned = phase(len(segments))
    return next(n for n in range(len(segments), -1, -1) if n == 0 or phase(n - 1) != learned)


@cache
def whole(name: str, what: str) -> Result:
    return replay(read(name)[0], known(name, what), all_packets=True)


@pytest.mark.parametrize("what", ["all", "no clock", "kernel only"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_rows_do_not_depend_on_how_the_capture_is_cut(what: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([n for n in NAMES if what != "kernel only" or n != "odd-segments-7.2"]))
    segments = read(name)[0]
    cuts = sorted(data.draw(st.sets(st.integers(first_cut(name, what), len(segments)), max_size=8)))
    cut = replay(segments, known(name, what), cuts=cuts, all_packets=True)
    one = whole(name, what)
    for got, expected in zip(cut.rows, one.rows, strict=False):
        assert got == expected
    assert len(cut.rows) == len(one.rows)
    assert cut.listeners == one.listeners


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_the_same_packet_by_packet(name: str) -> None:
    """Every chunk a single packet."""
    segments = read(name)[0]
    cut = replay(segments, known(name, "no clock"), cuts=list(range(len(segments))), all_packets=True)
    assert cut.rows == whole(name, "no clock").rows
