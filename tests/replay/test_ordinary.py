"""The short way for whole handshakes does to the model what the long way does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from backlogtrace.capture import open_capture
from backlogtrace.replay import Options, analyze
from backlogtrace.replay.host import AcceptModel, Host, HostEvent, load_host
from backlogtrace.replay.rows import MismatchRow, OutRow, PacketRow
from backlogtrace.segment import ACK, FIN, HANDSHAKE, RST, SYN
from tests.replay.bundle import bundle
from tests.replay.wire import FakeCapture, Wire, at, host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backlogtrace.replay.rows import Row
    from backlogtrace.segment import Segment

_FIXTURES = sorted(Path(__file__).parents[2].joinpath("fixtures").glob("*/truth.jsonl"))
_PARAMETERS: dict[str, dict[str, Any]] = {
    "nothing given": {},
    "accept queue fills": {"backlog": 1, "accept": AcceptModel("never")},
    "slow accept": {
        "backlog": 3,
        "accept": AcceptModel("rate", 3.0),
        "sysctl": {"net.ipv4.tcp_syncookies": 0},
    },
}


class _Pieces:
    """A capture in pieces of `size` packets, ordinary handshakes of a piece put together or not."""

    rereadable = False

    def __init__(self, what: Path | list[Segment], size: int, *, together: bool) -> None:
        if isinstance(what, Path):
            with open_capture([str(what)], keep_all=True) as capture:
                self._segments = cast("list[Segment]", [item for chunk in capture.chunks() for item in chunk])
            self.info = capture.info
        else:
            self._segments = what
            self.info = FakeCapture(what).info
        self._size = size
        self._together = together
        self.bundled = 0
        self.closed = 0

    def chunks(self) -> Iterator[list[Any]]:
        for start in range(0, len(self._segments), self._size):
            piece: list[Any] = self._segments[start : start + self._size]
            if self._together:
                piece = bundle(piece)
                self.bundled += sum(item.flags == HANDSHAKE for item in piece)
                self.closed += sum(getattr(item, "closed", False) for item in piece)
            yield piece


def _outcome(capture: _Pieces, host: Any, options: Options) -> Any:
    return _outcome_and_rows(capture, host, options)[0]


def _outcome_and_rows(capture: _Pieces, host: Any, options: Options) -> tuple[Any, list[Row]]:
    analysis = analyze(cast("Any", capture), host, options)
    rows = list(analysis)
    mismatches = sorted(
        (row.what, row.frame or 0, row.peer or "") for row in rows if isinstance(row, MismatchRow)
    )
    totals = [
        (s.name, s.decisions, s.counters, s.clients, s.expired, s.accepted,
         s.peak_accept_queue, s.peak_syn_queue, s.impacts)
        for s in analysis.listeners
    ]  # fmt: skip
    return (analysis.header.handshake_packets, mismatches, totals), rows


@pytest.mark.parametrize("size", [30, 100_000])
@pytest.mark.parametrize("parameters", [*_PARAMETERS, "host file"])
def test_handshakes_together_or_apart_same_result(parameters: str, size: int) -> None:
    bundled = 0
    rows = size > 30
    for truth in _FIXTURES:
        folder = truth.parent
        known = load_host(folder / "host.json") if parameters == "host file" else None
        options = Options(routine_rows=rows, **_PARAMETERS.get(parameters, {}))
        apart, together = (
            _Pieces(folder / "capture.pcap", size, together=choice) for choice in (False, True)
        )
        found, expected = (_outcome_and_rows(way, known, options) for way in (together, apart))
        assert found[0] == expected[0], folder.name
        assert not rows or found[1] == expected[1], folder.name
        bundled += together.bundled
    assert bundled > 50


@pytest.mark.parametrize("truth", _FIXTURES, ids=[path.parent.name for path in _FIXTURES])
def test_rows_wanted_or_not_same_totals(truth: Path) -> None:
    """Leaving out the rows of ordinary packets takes another way through the replay."""
    folder = truth.parent
    for known in (load_host(folder / "host.json"), None):
        short, long = (
            _outcome(
                _Pieces(folder / "capture.pcap", 100_000, together=False), known, Options(routine_rows=rows)
            )
            for rows in (False, True)
        )
        assert short == long


@st.composite
def _connections(draw: st.DrawFn) -> list[Segment]:
    """Connections of a few clients that use their ports again, closed by either side or reset."""
    wire = Wire()
    for c in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, 40)) * 10.0 + c / 1000  # no two packets at the same time
        for turn in range(draw(st.integers(1, 3))):  # no ISN twice: the same SYN within 5 ms is a copy
            isn, theirs = draw(st.integers(0, 9)) * 10_000 + turn, draw(st.integers(1, 9)) * 100_000
            stamp = draw(st.sampled_from([-1, 5, 1000 + round(at)]))
            step = draw(st.sampled_from([1, 5, 300]))
            wire.inbound(SYN, c, at, seq=isn, tsval=stamp)
            wire.outbound(SYN | ACK, c, at + 0.1, seq=theirs, ack=isn + 1)
            wire.inbound(ACK, c, at + step, seq=isn + 1, ack=theirs + 1, tsval=stamp)
            wire.inbound(ACK, c, at + step + 0.1, seq=isn + 1, ack=theirs + 1, length=10, tsval=stamp)
            wire.outbound(ACK, c, at + step + 0.2, seq=theirs + 1, ack=isn + 11)
            fate = draw(st.sampled_from(["client", "client", "server", "server", "crossed", "reset", "open"]))
            ends = at + step + draw(st.sampled_from([1.0, 20.0, 2000.0]))
            covered = theirs + (1 if fate in {"client", "crossed"} else 2)
            if fate in {"client", "server", "crossed"}:
                first = fate == "client"
                wire.inbound(FIN | ACK, c, ends + (not first), seq=isn + 11, ack=covered, tsval=stamp)
                wire.outbound(FIN | ACK, c, ends + first, seq=theirs + 1, ack=isn + (12 if first else 11))
            elif fate == "reset":
                wire.inbound(RST, c, ends, seq=isn + 11)
            at = ends + draw(st.sampled_from([2.0, 40.0, 3000.0, 59_000.0, 61_500.0, 130_000.0]))
    return wire.segments


def _happens(ms: float, op: str, **fields: Any) -> HostEvent:
    return HostEvent(at(ms), cast("Any", op), 0, **fields)


_HOSTS = [
    Host(),
    host(1),
    host(3, [_happens(ms, "accept") for ms in range(5, 400, 30)]),
    host(3, [_happens(100.5, "close"), _happens(140.5, "listen", backlog=2)]),
]


@settings(max_examples=150, deadline=None)
@given(
    _connections(),
    st.sampled_from(_HOSTS),
    st.sampled_from([AcceptModel("infer"), AcceptModel("immediate"), AcceptModel("rate", 20.0)]),
    st.sampled_from([7, 20, 1000]),
    st.sampled_from(["rows", "totals"]),
)
def test_connections_together_or_apart_same_result(
    segments: list[Segment], known: Host, accept: AcceptModel, size: int, what: str
) -> None:
    rows = what == "rows"
    options = Options(routine_rows=rows, accept=accept)
    together, apart = (_Pieces(segments, size, together=choice) for choice in (True, False))
    found, expected = (_outcome_and_rows(way, known, options) for way in (together, apart))
    assert found[0] == expected[0]
    if rows and size == 1000:  # in pieces, witnesses for and against cookies are not the same packets
        assert found[1] == expected[1]
    event(f"closed: {bool(together.closed)}")


def test_rows_of_packets_at_the_same_time_are_in_order_of_frames() -> None:
    wire = Wire()
    for c in range(4):
        wire.inbound(SYN, c, 1.0, seq=100)
    for c in reversed(range(4)):
        wire.outbound(SYN | ACK, c, 1.0, seq=500, ack=101)
    wire.inbound(SYN, 9, 1.0, seq=100)
    for c in (2, 0, 3, 1):
        wire.inbound(ACK, c, 1.0, seq=101, ack=501)
    wire.inbound(SYN, 8, 1.0, seq=100)
    for c in range(4):
        wire.inbound(ACK, c, 2.0, seq=101, ack=501, length=10)
        wire.outbound(ACK, c, 2.0, seq=501, ack=111)
    together, apart = (_Pieces(wire.segments, 1000, together=choice) for choice in (True, False))
    found, rows = _outcome_and_rows(together, host(8), Options())
    assert together.bundled == 4
    frames = [row.segment.frame for row in rows if isinstance(row, PacketRow | OutRow)]
    assert frames == sorted(frames)
    assert len(frames) == 14
    assert (found, rows) == _outcome_and_rows(apart, host(8), Options())
