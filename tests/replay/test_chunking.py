"""How a capture is cut into chunks is the reader's business: the rows are the same."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backlogtrace.capture import open_capture
from backlogtrace.replay.host import load_host
from tests.replay.wire import replay

if TYPE_CHECKING:
    from backlogtrace.replay.host import Host
    from backlogtrace.segment import Segment
    from tests.replay.wire import Result

FIXTURES = Path(__file__).parents[2] / "fixtures"
NAMES = (
    "burst-pressure-expiry-7.2", "fastopen-cookie-6.12", "late-capture-busy-machine-6.18", "odd-segments-7.2",
    "overflow-expired-rst-5.15", "seed_documents-0001", "timewait-reuse-5.15",
)  # fmt: skip


@cache
def read(name: str) -> tuple[list[Segment], Host]:
    with open_capture([str(FIXTURES / name / "capture.pcap")], keep_all=True) as capture:
        return [segment for chunk in capture.chunks() for segment in chunk], load_host(
            FIXTURES / name / "host.json"
        )


def known(name: str, what: str) -> Host:
    """`all` of the host file, without the machine's clock, or nothing but the kernel."""
    host = read(name)[1]
    if what == "all":
        return host
    host = replace(host, hz=None, boot_ns=None)
    return host if what == "no clock" else replace(host, listeners=[], events=[], accept_log=False)


@cache
def whole(name: str, what: str) -> Result:
    return replay(read(name)[0], known(name, what), all_packets=True)


@pytest.mark.parametrize("what", ["all", "no clock", "kernel only"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_rows_do_not_depend_on_how_the_capture_is_cut(what: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES))
    segments = read(name)[0]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(segments)), max_size=8)))
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
