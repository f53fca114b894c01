"""The short way for whole handshakes does to the model what the long way does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from backlogtrace.capture import open_capture
from backlogtrace.replay import Options, analyze
from backlogtrace.replay.host import AcceptModel, load_host
from backlogtrace.replay.rows import MismatchRow
from backlogtrace.segment import HANDSHAKE
from tests.replay.bundle import bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    def __init__(self, path: Path, size: int, *, together: bool) -> None:
        with open_capture([str(path)], keep_all=True) as capture:
            self._segments = cast("list[Segment]", [item for chunk in capture.chunks() for item in chunk])
        self.info = capture.info
        self._size = size
        self._together = together
        self.bundled = 0

    def chunks(self) -> Iterator[list[Any]]:
        for start in range(0, len(self._segments), self._size):
            piece: list[Any] = self._segments[start : start + self._size]
            if self._together:
                piece = bundle(piece)
                self.bundled += sum(item.flags == HANDSHAKE for item in piece)
            yield piece


def _outcome(capture: _Pieces, host: Any, options: Options) -> Any:
    analysis = analyze(cast("Any", capture), host, options)
    mismatches = sorted(
        (row.what, row.frame or 0, row.peer or "") for row in analysis if isinstance(row, MismatchRow)
    )
    return (
        analysis.header.handshake_packets,
        mismatches,
        [
            (s.name, s.decisions, s.counters, s.clients, s.expired, s.accepted,
             s.peak_accept_queue, s.peak_syn_queue, s.impacts)
            for s in analysis.listeners
        ],
    )  # fmt: skip


@pytest.mark.parametrize("size", [30, 100_000])
@pytest.mark.parametrize("given", [*_PARAMETERS, "host file"])
def test_handshakes_together_or_apart_same_result(given: str, size: int) -> None:
    bundled = 0
    for truth in _FIXTURES:
        folder = truth.parent
        host = load_host(folder / "host.json") if given == "host file" else None
        options = Options(routine_rows=False, **_PARAMETERS.get(given, {}))
        apart, together = (
            _Pieces(folder / "capture.pcap", size, together=choice) for choice in (False, True)
        )
        assert _outcome(together, host, options) == _outcome(apart, host, options), folder.name
        bundled += together.bundled
    assert bundled > 50


@pytest.mark.parametrize("truth", _FIXTURES, ids=[path.parent.name for path in _FIXTURES])
def test_rows_wanted_or_not_same_totals(truth: Path) -> None:
    """Leaving out the rows of ordinary packets takes another way through the replay."""
    folder = truth.parent
    for host in (load_host(folder / "host.json"), None):
        short, long = (
            _outcome(
                _Pieces(folder / "capture.pcap", 100_000, together=False), host, Options(routine_rows=rows)
            )
            for rows in (False, True)
        )
        assert short == long
