"""What a capture from the client's side proves less of."""

from __future__ import annotations

from pathlib import Path

import pytest

from backlogtrace.capture import open_capture
from backlogtrace.replay import Options, analyze
from backlogtrace.replay.host import Host, load_host
from backlogtrace.replay.rows import PacketRow
from backlogtrace.segment import ACK, SYN
from tests.replay.wire import Wire, replay

_FOLDER = Path(__file__).parents[2] / "fixtures" / "seed_documents-0001"


def _rows(options: Options) -> list[PacketRow]:
    with open_capture([str(_FOLDER / "capture.pcap")]) as capture:
        rows = list(analyze(capture, load_host(_FOLDER / "host.json"), options))
    return [row for row in rows if isinstance(row, PacketRow)]


def test_silence_at_the_server_has_no_rival_everything_given() -> None:
    rows = _rows(Options(vantage="server"))
    assert {row.certainty for row in rows} == {"certain"}
    assert not any(row.rivals for row in rows)


def test_silence_at_the_client_may_be_a_packet_lost_on_the_way() -> None:
    silent = [row for row in _rows(Options(vantage="client")) if row.outcome.decision == "overflow"]
    assert silent
    assert all(row.rivals == ("lost_after_capture",) for row in silent)
    assert any(row.certainty == "likely" for row in silent)


def _handshakes(server_ms: float, client_ms: float, count: int = 8) -> Wire:
    """One after another; the last client's SYN gets no answer."""
    wire = Wire()
    for c in range(1, count):
        wire.inbound(SYN, c, 100 * c)
        wire.outbound(SYN | ACK, c, 100 * c + server_ms)
        wire.inbound(ACK, c, 100 * c + server_ms + client_ms)
    wire.inbound(SYN, count, 100 * count)
    wire.inbound(SYN, count, 100 * count + 1000)
    return wire


@pytest.mark.parametrize(
    ("server_ms", "client_ms", "place"),
    [(40, 0.1, "near the clients"), (20, 15, "between"), (0.1, 40, ""), (2, 0.1, ""), (0.1, 0.1, "")],
)
def test_the_times_of_handshakes_tell_where_the_capture_was_taken(
    server_ms: float, client_ms: float, place: str
) -> None:
    result = replay(_handshakes(server_ms, client_ms), Host())
    reasons = " ".join(result.header.quality_reasons)
    assert ("captured" in reasons) is bool(place)
    assert place in reasons
    lost = [row for row in result.packets if row.outcome.decision == "dropped"]
    assert all(("lost_after_capture" in row.rivals) for row in lost) or not place
    assert result.header.quality == ("B" if place else "A")


def test_what_is_said_of_the_place_counts_more() -> None:
    result = replay(_handshakes(40, 0.1), Host(), vantage="server")
    assert result.header.quality == "A"
