"""What a capture from the client's side proves less of."""

from __future__ import annotations

from pathlib import Path

from backlogtrace.capture import open_capture
from backlogtrace.replay import Options, analyze
from backlogtrace.replay.host import load_host
from backlogtrace.replay.rows import PacketRow

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
