"""A 4-tuple that is used again, where the capture does not show the last packet of its closing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from backlogtrace.capture.info import CaptureInfo
from backlogtrace.replay import Options, analyze
from backlogtrace.replay.rows import MismatchRow, PacketRow
from backlogtrace.segment import ACK, FIN, SYN, Segment, endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLIENT = endpoint("10.0.0.2", 40000)
_SERVER = endpoint("10.0.0.1", 80)


class _Capture:
    rereadable = False

    def __init__(self, segments: list[Segment]) -> None:
        self._segments = segments
        self.info = CaptureInfo(names=["x"], packets=len(segments))
        self.info.span(0, segments[-1].time_ns)

    def chunks(self) -> Iterator[list[Segment]]:
        yield self._segments


def _connection(start_ns: int, isn: int, *, last_ack: bool) -> list[tuple[int, bool, int, int, int]]:
    """(time, from the client, flags, seq, ack) of a connection that the client closes first."""
    ms = 1_000_000
    packets = [
        (start_ns, True, SYN, isn, 0),
        (start_ns + ms, False, SYN | ACK, 9000, isn + 1),
        (start_ns + 2 * ms, True, ACK, isn + 1, 9001),
        (start_ns + 5 * ms, True, ACK | FIN, isn + 1, 9001),
        (start_ns + 6 * ms, False, ACK | FIN, 9001, isn + 2),
    ]
    if last_ack:
        packets.append((start_ns + 7 * ms, True, ACK, isn + 2, 9002))
    return packets


def _rows(*, last_ack: bool) -> list[Any]:
    packets = [*_connection(0, 100, last_ack=last_ack), *_connection(5_000_000_000, 70_000, last_ack=True)]
    segments = [
        Segment(
            number,
            when,
            _CLIENT if inbound else _SERVER,
            _SERVER if inbound else _CLIENT,
            flags,
            seq,
            ack,
            65535,
            0,
        )
        for number, (when, inbound, flags, seq, ack) in enumerate(packets, 1)
    ]
    return list(analyze(cast("Any", _Capture(segments)), None, Options()))


def test_closed_by_client_last_ack_seen_reuse_is_queued() -> None:
    rows = _rows(last_ack=True)
    assert not [row for row in rows if isinstance(row, MismatchRow)]
    assert [row.outcome.decision for row in rows if isinstance(row, PacketRow)].count("queued") == 2


def test_closed_by_client_last_ack_not_seen_reuse_is_queued() -> None:
    """The reader leaves out plain ACKs of established connections, the last one of a closing too."""
    rows = _rows(last_ack=False)
    assert not [row for row in rows if isinstance(row, MismatchRow)]
    assert [row.outcome.decision for row in rows if isinstance(row, PacketRow)].count("queued") == 2
