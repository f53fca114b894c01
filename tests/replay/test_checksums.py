"""Damaged packets: who is not to blame for the silence after them, and when a checksum is not believed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backlogtrace.capture import open_capture, reader
from backlogtrace.lab.craft import packet
from backlogtrace.replay import Options, analyze
from backlogtrace.replay.host import Host, HostListener, load_host, parse_accept
from backlogtrace.replay.rows import MismatchRow, OutRow, PacketRow
from backlogtrace.segment import ACK, SYN
from tests.capture.capture_files import RAW, Packet, pcap
from tests.kernel.build import SERVER, client, segment
from tests.replay.wire import Wire

if TYPE_CHECKING:
    from backlogtrace.replay import Analysis
    from backlogtrace.replay.rows import Row
    from backlogtrace.segment import Segment

FIXTURES = Path(__file__).parents[2] / "fixtures"
DAMAGED = 7
"""A client whose first packets come damaged."""


def written(path: Path, segments: list[Segment], wrong: set[int]) -> Path:
    """A capture of `segments`, the frames `wrong` with a bit of the window flipped."""
    made = []
    for one in segments:
        data = bytearray(packet(one))
        if one.frame in wrong:
            data[35] ^= 4
        made.append(Packet(bytes(data), one.time_ns))
    path.write_bytes(pcap(made, RAW))
    return path


def analysed(path: Path, host: Host | None = None, **options: object) -> tuple[Analysis, list[Row]]:
    with open_capture([str(path)], bundle=bool(options.pop("bundle", False))) as capture:
        analysis = analyze(capture, host or Host(), Options(**options))  # type: ignore[arg-type]
        return analysis, list(analysis)


def decisions(rows: list[Row]) -> list[tuple[int, str, str]]:
    return [(r.segment.frame, r.outcome.decision, r.outcome.reason) for r in rows if isinstance(r, PacketRow)]


def service(clients: int = 12, *, damaged: int = 2) -> tuple[list[Segment], set[int]]:
    """Handshakes one after another; the SYN of DAMAGED comes damaged, again and again, then whole."""
    wire = Wire()
    for c in range(1, clients + 1):
        at = 100 * c
        if c == DAMAGED:
            for again in range(damaged):
                wire.inbound(SYN, c, at + 1000 * ((1 << again) - 1))
            at += 1000 * ((1 << damaged) - 1)
        wire.handshake(c, at)
        wire.ack(c, at + 2, length=10)
        wire.outbound(ACK, c, at + 2.1, ack=wire_ack(c))
    segments = wire.segments
    syns = [one.frame for one in segments if one.flags == SYN and one.src == client(DAMAGED)]
    return segments, set(syns[:damaged])


def wire_ack(c: int) -> int:
    """What acknowledges ten bytes of a client."""
    return segment(ACK, c).seq + 10


@pytest.mark.parametrize("by_columns", [False, True], ids=["plain", "columns"])
@pytest.mark.parametrize("bundle", [False, True])
def test_a_damaged_syn_is_never_the_listeners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_columns: bool, bundle: bool
) -> None:
    if by_columns:
        monkeypatch.setattr(reader, "SMALL", 0)
    segments, wrong = service()
    analysis, rows = analysed(written(tmp_path / "x.pcap", segments, wrong), bundle=bundle)
    found = decisions(rows)
    assert [(frame, "ignored", "wrong_checksum") for frame in sorted(wrong)] == [
        row for row in found if row[1] not in {"queued", "established"}
    ]
    assert not any(isinstance(row, MismatchRow) for row in rows)
    assert analysis.header.quality == "A"
    [note] = [note for note in analysis.header.notes if "checksum" in note]
    assert ", ".join(map(str, sorted(wrong))) in note
    assert analysis.listeners[0].counters == {"PassiveOpens": 12}
    assert analysis.listeners[0].impacts == []


def test_nothing_but_these_packets_is_judged_differently(tmp_path: Path) -> None:
    segments, wrong = service()
    _, rows = analysed(written(tmp_path / "x.pcap", segments, wrong))
    rest = [one for one in segments if one.frame not in wrong]
    _, without = analysed(written(tmp_path / "y.pcap", rest, set()))
    assert [row[1:] for row in decisions(rows) if row[0] not in wrong] == [
        row[1:] for row in decisions(without)
    ]


def test_told_what_the_host_is_nothing_is_missed(tmp_path: Path) -> None:
    segments, wrong = service()
    path = written(tmp_path / "x.pcap", segments, wrong)
    host = Host(kernel="6.12", listeners=[HostListener("10.9.0.1", 80, 8)])
    for accept in ("immediate", "infer"):
        _, rows = analysed(path, host, accept=parse_accept(accept))
        assert not any(isinstance(row, MismatchRow) for row in rows)
        assert {row[0] for row in decisions(rows) if row[2] == "wrong_checksum"} == wrong


def test_a_damaged_ack_completes_nothing(tmp_path: Path) -> None:
    wire = Wire()
    for c in range(1, 9):
        wire.handshake(c, 100 * c)
        wire.ack(c, 100 * c + 2, length=10)
        wire.outbound(ACK, c, 100 * c + 2.1, ack=wire_ack(c))
    wire.syn(9, 1000)
    wire.ack(9, 1001)  # damaged
    wire.synack(9, 2020)
    wire.ack(9, 2021)
    wire.ack(9, 2022, length=10)
    wire.outbound(ACK, 9, 2022.1, ack=wire_ack(9))
    segments = wire.segments
    frame = next(one.frame for one in segments if one.src == client(9) and one.flags == ACK)
    _, rows = analysed(written(tmp_path / "x.pcap", segments, {frame}))
    found = {row[0]: row[1:] for row in decisions(rows)}
    assert found[frame] == ("ignored", "wrong_checksum")
    assert found[frame + 2] == ("established", "request_completed")
    assert [row.reason for row in rows if isinstance(row, OutRow) and row.segment.frame == frame + 1] == [
        "timer"
    ]


def test_whoever_answers_a_wrong_checksum_did_not_see_it(tmp_path: Path) -> None:
    segments, _ = service(damaged=0)
    syns = {one.frame for one in segments if one.flags == SYN}
    analysis, rows = analysed(written(tmp_path / "x.pcap", segments, {min(syns)}))
    assert not any(row[2] == "wrong_checksum" for row in decisions(rows))
    [reason] = analysis.header.quality_reasons
    assert "1 of 12 SYNs have a wrong checksum, and the server answered some" in reason
    assert analysis.header.quality == "B"


def test_an_answer_that_comes_late_takes_everything_back(tmp_path: Path) -> None:
    """In small pieces: what was marked before is judged again as if its checksum were right."""
    segments, wrong = service()
    last = max(one.frame for one in segments if one.flags == SYN)
    path = written(tmp_path / "x.pcap", segments, {*wrong, last})
    analysis, rows = analysed(path)
    assert not any(row[2] == "wrong_checksum" for row in decisions(rows))
    plain = [(frame, decision) for frame, decision, _ in decisions(rows)]
    _, as_before = analysed(written(tmp_path / "y.pcap", segments, set()))
    assert plain == [(frame, decision) for frame, decision, _ in decisions(as_before)]
    assert "answered some" in analysis.header.quality_reasons[0]


def test_a_rewritten_capture_is_not_believed(tmp_path: Path) -> None:
    segments, _ = service()
    everything = {one.frame for one in segments}
    analysis, rows = analysed(written(tmp_path / "x.pcap", segments, everything))
    assert not any(row[2] == "wrong_checksum" for row in decisions(rows))
    assert "14 of 14 SYNs have a wrong checksum" in analysis.header.quality_reasons[0]


def test_what_the_server_sends_with_wrong_checksums_is_its_cards_business(tmp_path: Path) -> None:
    segments, _ = service(damaged=0)
    own = {one.frame for one in segments if one.src == SERVER}
    analysis, rows = analysed(written(tmp_path / "x.pcap", segments, own))
    plain, expected = analysed(written(tmp_path / "y.pcap", segments, set()))
    assert decisions(rows) == decisions(expected)
    assert (analysis.header.quality, analysis.header.notes) == (plain.header.quality, plain.header.notes)


def test_a_repeated_syn_between_a_syn_ack_and_its_timer_is_no_answer(tmp_path: Path) -> None:
    segments, _ = service(damaged=0)
    wire = Wire()
    wire._made = list(segments)
    wire.syn(20, 1400)
    wire.inbound(SYN, 20, 2405)  # damaged
    wire.synack(20, 2420)
    wire.ack(20, 2421)
    segments = wire.segments
    again = [one.frame for one in segments if one.flags == SYN and one.src == client(20)][1]
    _, rows = analysed(written(tmp_path / "x.pcap", segments, {again}))
    assert (again, "ignored", "wrong_checksum") in decisions(rows)


def test_explained_by_the_one_check_there_is(tmp_path: Path) -> None:
    segments, wrong = service()
    frame = min(wrong)
    analysis, rows = analysed(written(tmp_path / "x.pcap", segments, wrong), checks_of=frame)
    assert rows
    [check] = analysis.checks
    assert (check.holds, check.ends) == (True, "host.wrong_checksum")


@pytest.mark.parametrize("host", [False, True], ids=["alone", "with host file"])
@pytest.mark.parametrize(
    "name",
    ["seed_documents-0001", "seed_documents-0005", "cookies-and-requests-4.4.1", "timewait-reuse-5.15",
     "relisten-larger-backlog-6.12", "ipv6-and-ipv4-cookies-5.15"],
)  # fmt: skip
def test_damaged_strangers_change_nothing_in_a_recording(tmp_path: Path, name: str, host: bool) -> None:
    """SYNs without payload, from ports that nobody answers; the checksum is that of the SYN they were."""
    folder = FIXTURES / name
    data = (folder / "capture.pcap").read_bytes()
    known = load_host(folder / "host.json") if host else None
    records = []
    offset = 24
    while offset < len(data):
        size = 16 + int.from_bytes(data[offset + 8 : offset + 12], "little")
        records.append(data[offset : offset + size])
        offset += size
    made: list[bytes] = []
    added = set()
    flags_at = [16 + (33 if record[16] >> 4 == 4 else 53) for record in records]
    ends = [at - 13 + (records[place][at - 1] >> 4 << 2) for place, at in enumerate(flags_at)]
    syns = [
        place
        for place, record in enumerate(records)
        if record[flags_at[place]] & 0x12 == SYN and ends[place] == len(record)
    ]
    chosen = syns[:: max(5, len(syns) // 3)]
    for place, record in enumerate(records):
        made.append(record)
        if place in chosen:
            stranger = bytearray(record)
            port = flags_at[place] - 13
            stranger[port : port + 2] = (61000 + place).to_bytes(2, "big")
            made.append(bytes(stranger))
            added.add(len(made))
    path = tmp_path / "x.pcap"
    path.write_bytes(data[:24] + b"".join(made))
    _, rows = analysed(path, known)
    _, expected = analysed(folder / "capture.pcap", known)
    found = decisions(rows)
    assert {row[0] for row in found if row[2] == "wrong_checksum"} == added
    assert [row[1:] for row in found if row[0] not in added] == [row[1:] for row in decisions(expected)]


def test_a_flood_of_damaged_packets_is_not_searched_through_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not looked for an answer of counts as received."""
    segments, wrong = service()
    monkeypatch.setattr("backlogtrace.replay.checksums._CREDIT", 0)
    _, rows = analysed(written(tmp_path / "x.pcap", segments, wrong))
    assert {row[1:] for row in decisions(rows) if row[0] in wrong} == {("dropped", "accept_queue_full")}
