"""Ordinary handshakes come as one item, everything else as it came before."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from backlogtrace.capture import bundle, columns, open_capture, reader
from backlogtrace.capture.file import CaptureFile
from backlogtrace.capture.info import CaptureInfo
from backlogtrace.segment import (
    CWR,
    ECE,
    HANDSHAKE,
    HANDSHAKE_MAX_NS,
    PSH,
    Handshake,
    Segment,
    end_seq,
    endpoint,
)
from tests.capture.capture_files import ACK, FIN, RAW, RST, SYN, Packet, ipv4, ipv6, pcap, tcp
from tests.capture.test_columns import read_columns

if TYPE_CHECKING:
    from pathlib import Path

CLIENT, OTHER, SERVER = ("10.0.0.1", 4000), ("10.0.0.3", 5000), ("10.0.0.2", 80)
COOKIE = b"\x22\x0a12345678"


class Step(NamedTuple):
    """A packet of the connection from CLIENT to SERVER."""

    outward: bool
    flags: int
    seq: int
    ack: int
    length: int = 0
    tsval: int = -1
    tsecr: int = -1
    cookie: bool = False
    window: int = 64240
    time_ns: int = 1000

    def data(self, client: tuple[str, int] = CLIENT, server: tuple[str, int] = SERVER) -> bytes:
        """The IP packet."""
        (src, sport), (dst, dport) = (server, client) if self.outward else (client, server)
        options = COOKIE if self.cookie else b""
        if self.tsval >= 0:
            options += b"\1\1\x08\x0a" + self.tsval.to_bytes(4, "big") + max(self.tsecr, 0).to_bytes(4, "big")
        head = bytearray(
            tcp(sport, dport, self.flags, self.seq, self.ack, options=options, payload=b"x" * self.length)
        )
        head[14:16] = self.window.to_bytes(2, "big")
        if ":" in src:
            return ipv6(bytes(head), endpoint(src, 0)[:-2], endpoint(dst, 0)[:-2])
        return ipv4(bytes(head), src, dst)


ORDINARY = [
    Step(False, SYN, 100, 0, tsval=7, tsecr=0),
    Step(True, SYN | ACK, 500, 101, tsval=90, tsecr=7),
    Step(False, ACK, 101, 501, tsval=8, tsecr=90),
    Step(False, ACK | PSH, 101, 501, 10, tsval=8, tsecr=90),
    Step(True, ACK, 501, 111, tsval=91, tsecr=8),
]
REQUEST, PROOF = ORDINARY[3], ORDINARY[4]


CLOSING = [
    Step(False, FIN | ACK, 111, 501, tsval=9, tsecr=91),
    Step(True, FIN | ACK, 501, 111, tsval=92, tsecr=8),
    Step(True, FIN | ACK | PSH, 501, 112, 3, tsval=92, tsecr=9),
    Step(False, FIN | ACK, 111, 502),
]
closings = st.sampled_from([CLOSING[::2], CLOSING[1::2], CLOSING[:2], CLOSING[1::-1], CLOSING[::3]])


def changed(number: int, **fields: object) -> list[Step]:
    """The ordinary connection with one packet changed."""
    steps = list(ORDINARY)
    steps[number] = steps[number]._replace(**fields)  # type: ignore[arg-type]
    return steps


def inserted(number: int, *steps: Step) -> list[Step]:
    """The ordinary connection with packets before one of its own."""
    return [*ORDINARY[:number], *steps, *ORDINARY[number:]]


def write(path: Path, packets: list[tuple[int, bytes]]) -> Path:
    path.write_bytes(pcap([Packet(data, time_ns) for time_ns, data in packets], RAW))
    return path


def of(steps: list[Step], client: tuple[str, int] = CLIENT) -> list[tuple[int, bytes]]:
    return [(step.time_ns, step.data(client)) for step in steps]


def read_bundled(path: Path, window: int = columns.WINDOW) -> tuple[list[Segment | Handshake], CaptureInfo]:
    info = CaptureInfo()
    windows = columns.decoded_windows(CaptureFile(str(path), info), info, window)
    return [one for chunk in columns.segment_chunks(windows, info, False, (), True) for one in chunk], info


def handshakes(items: list[Segment | Handshake]) -> list[Handshake]:
    return [one for one in items if isinstance(one, Handshake)]


def opened(items: list[Segment | Handshake]) -> list[Segment]:
    """The packets in capture order."""
    found: list[Segment] = []
    for one in items:
        packets = one.segments() if isinstance(one, Handshake) else [one]
        found += packets
        if isinstance(one, Handshake):
            of_server = [packet for packet in packets[3:] if packet.src == one.dst and not packet.flags & FIN]
            assert one.opening() == packets[:3] + of_server[:1]
    return sorted(found, key=lambda one: one.frame)


def bundled(tmp_path: Path, packets: list[tuple[int, bytes]]) -> list[Segment | Handshake]:
    """What a capture gives, having checked it against the packets one by one."""
    path = write(tmp_path / "x.pcap", packets)
    items, info = read_bundled(path)
    segments, other = read_columns(path, keep_all=False)
    assert opened(items) == segments
    assert [one.frame for one in items] == sorted(one.frame for one in items)
    assert info == other
    return items


def test_an_ordinary_handshake_is_one_item(tmp_path: Path) -> None:
    end = Step(False, FIN | ACK, 111, 501, time_ns=2000)
    steps = [step._replace(time_ns=1000 + number) for number, step in enumerate(ORDINARY)]
    one, last = bundled(tmp_path, [(999, ORDINARY[2].data(OTHER)), *of([*steps, end])])[1:]
    assert isinstance(one, Handshake)
    assert one[:8] == (2, 1000, endpoint(*CLIENT), endpoint(*SERVER), HANDSHAKE, 1002, 111, 8)
    assert [part.frame for part in one.segments()] == [2, 3, 4, 5, 6]
    assert isinstance(last, Segment)
    assert (last.frame, last.flags) == (7, FIN | ACK)


def test_ipv6_and_a_handshake_without_timestamps(tmp_path: Path) -> None:
    steps = [step._replace(tsval=-1) for step in ORDINARY]
    packets = [(1000, step.data(("fd09::1", 4000), ("fd09::2", 80))) for step in steps]
    (one,) = handshakes(bundled(tmp_path, [*of(ORDINARY, OTHER)[:1], *packets, *of(ORDINARY)]))[:1]
    assert (one.frame, one.src, one.dst, one.tsval) == (
        2,
        endpoint("fd09::1", 4000),
        endpoint("fd09::2", 80),
        -1,
    )


@pytest.mark.parametrize(
    "steps",
    [
        changed(0, flags=SYN | ECE | CWR),
        changed(1, flags=SYN | ACK | ECE),
        [*changed(2, time_ns=1000 + HANDSHAKE_MAX_NS)[:3], PROOF._replace(time_ns=10**10, length=3)],
        inserted(4, REQUEST._replace(seq=111, length=7)),
        [*ORDINARY[:3], PROOF._replace(ack=101, length=1)],
        [
            Step(False, SYN, 2**32 - 1, 0),
            Step(True, SYN | ACK, 2**32 - 1, 0),
            Step(False, ACK, 0, 0),
            Step(True, ACK, 0, 0, 5),
        ],
    ],
)
def test_these_are_ordinary_too(tmp_path: Path, steps: list[Step]) -> None:
    assert len(handshakes(bundled(tmp_path, of(steps)))) == 1


NOT_ORDINARY = {
    "no proof": ORDINARY[:4],
    "no SYN": ORDINARY[1:],
    "no SYN-ACK": [ORDINARY[0], *ORDINARY[2:]],
    "no ACK": [*ORDINARY[:2], *ORDINARY[3:]],
    "SYN with ECE only": changed(0, flags=SYN | ECE),
    "SYN with PSH": changed(0, flags=SYN | PSH),
    "SYN with data": changed(0, length=1),
    "SYN with Fast Open": changed(0, cookie=True),
    "SYN-ACK with Fast Open": changed(1, cookie=True),
    "SYN-ACK with data": changed(1, length=1),
    "SYN-ACK for another SYN": changed(1, ack=102),
    "SYN-ACK from the client": changed(1, outward=False),
    "ACK with PSH": changed(2, flags=ACK | PSH),
    "ACK with data": changed(2, length=1),
    "ACK with another number": changed(2, seq=102),
    "ACK of another SYN-ACK": changed(2, ack=502),
    "ACK from the server": changed(2, outward=True),
    "ACK too late": [
        step._replace(time_ns=1001 + HANDSHAKE_MAX_NS if number > 1 else 1000)
        for number, step in enumerate(ORDINARY)
    ],
    "time steps back before the SYN-ACK": changed(0, time_ns=1001),
    "time steps back before the ACK": [
        step._replace(time_ns=1001 if number == 1 else 1000) for number, step in enumerate(ORDINARY)
    ],
    "time steps back before the proof": changed(4, time_ns=999),
    "ACK with an older timestamp": changed(2, tsval=6),
    "ACK with a timestamp half a turn older": changed(2, tsval=7 + 2**31),
    "ACK that echoes another timestamp": changed(2, tsecr=89),
    "SYN again": inserted(1, ORDINARY[0]),
    "SYN-ACK again": inserted(2, ORDINARY[1]),
    "SYN-ACK again after the ACK": inserted(3, ORDINARY[1]),
    "SYN after the proof": [*ORDINARY, ORDINARY[0]],
    "RST of the client": inserted(3, Step(False, RST, 101, 0)),
    "RST of the server": inserted(4, Step(True, RST, 501, 0)),
    "RST first": inserted(0, Step(True, RST, 501, 0)),
    "FIN of the client": changed(3, flags=FIN | ACK),
    "bare ACK again": inserted(3, ORDINARY[2]),
    "data without ACK": changed(3, flags=PSH),
    "data from before": changed(3, seq=100),
    "data beyond the window": changed(3, seq=101 + 64240),
    "data that acknowledges more": changed(3, ack=502),
    "bare ACK of the server": inserted(4, PROOF._replace(ack=101)),
    "proof from further on": changed(4, seq=502),
    "proof for less": changed(4, ack=100, length=1),
}


@pytest.mark.parametrize("steps", NOT_ORDINARY.values(), ids=NOT_ORDINARY)
def test_these_are_not_ordinary(tmp_path: Path, steps: list[Step]) -> None:
    packets = [*of(steps), *of(ORDINARY, OTHER)]
    (one,) = handshakes(bundled(tmp_path, packets))
    assert one.src == endpoint(*OTHER)


def test_the_closing_of_both_sides_is_in_the_item(tmp_path: Path) -> None:
    for server_first, ends in enumerate((CLOSING[::2], CLOSING[1::2])):
        steps = [
            step._replace(time_ns=1000 + number) for number, step in enumerate([*ORDINARY, *ends], start=1)
        ]
        (one,) = handshakes(bundled(tmp_path, [*of(steps), *of([*ORDINARY[:1], CLOSING[0]], OTHER)]))
        assert [part.frame for part in one.segments()] == [1, 2, 3, 4, 5, 6, 7]
        # data of the client's came with nobody's FIN; the server's FIN is the first that it said
        assert one[10:14] == (1007, 1006 if server_first else 1007, True, bool(server_first))
        assert one[14:] == ((1006, 112, 502, 111, -1) if server_first else (1006, 112, 505, 112, 9))


@pytest.mark.parametrize(
    "ends",
    [
        CLOSING[:1],
        CLOSING[1::-1],  # the client's FIN does not acknowledge the server's
        CLOSING[::3],
        [CLOSING[0]._replace(flags=FIN | RST | ACK), CLOSING[2]],
        [CLOSING[0]._replace(time_ns=2000), CLOSING[2]._replace(time_ns=1999)],
        [CLOSING[0], CLOSING[2], CLOSING[0]],
    ],
)
def test_another_closing_stays_segments(tmp_path: Path, ends: list[Step]) -> None:
    (one,) = handshakes(bundled(tmp_path, of([*ORDINARY, *ends])))
    assert not one.closed
    assert len(one.segments()) == 5


def test_what_the_server_says_first_is_known(tmp_path: Path) -> None:
    said = PROOF._replace(length=7, time_ns=3000)
    (one,) = handshakes(bundled(tmp_path, of([*ORDINARY, said, said._replace(seq=508, time_ns=4000)])))
    assert (one.last_ns, one.served_ns) == (1000, 3000)


def test_a_proof_with_fin_stays_a_segment(tmp_path: Path) -> None:
    one, last = bundled(tmp_path, of(changed(4, flags=FIN | ACK, ack=105)))
    assert isinstance(one, Handshake)
    assert [part.frame for part in one.segments()] == [1, 2, 3, 4]
    assert one.rcv_nxt == 105
    assert (last.frame, last.flags) == (5, FIN | ACK)


def test_a_client_that_serves_others_is_not_bundled(tmp_path: Path) -> None:
    asked = Step(False, SYN, 1, 0).data(OTHER, CLIENT)
    assert not handshakes(bundled(tmp_path, [(0, asked), *of(ORDINARY)]))


@pytest.mark.parametrize("before", [ORDINARY[:1], ORDINARY, [Step(True, RST, 501, 0)]])
def test_a_flow_of_an_earlier_batch_is_not_bundled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: list[Step]
) -> None:
    monkeypatch.setattr(columns, "_BATCH", 5)
    filling = [(1000, ORDINARY[0].data((f"10.0.1.{number}", 9))) for number in range(5 - len(before))]
    later = [step._replace(seq=step.seq + 3000) if not step.outward else step for step in ORDINARY]
    later = [step._replace(ack=step.ack + 3000) if step.outward else step for step in later]
    items = bundled(tmp_path, [*of(before), *filling, *of(later), *of(ORDINARY, OTHER)])
    assert [one.frame for one in handshakes(items) if one.frame > 5] == [11]


def test_a_handshake_across_batches_is_not_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_BATCH", 4)
    assert not handshakes(bundled(tmp_path, of(ORDINARY)))


def test_a_fin_that_is_the_proof_closes_nothing(tmp_path: Path) -> None:
    (one,) = handshakes(bundled(tmp_path, of([*ORDINARY[:4], *CLOSING[1::2]])))
    assert (len(one.segments()), one.closed) == (4, False)


def test_many_handshakes_are_taken_apart_in_any_order(tmp_path: Path) -> None:
    clients = [(f"10.1.0.{number}", 4000 + number) for number in range(100)]
    path = write(tmp_path / "x.pcap", [(1000, step.data(client)) for step in ORDINARY for client in clients])
    segments, _ = read_columns(path, keep_all=False)
    found = handshakes(read_bundled(path)[0])
    assert [one.src for one in found] == [endpoint(*client) for client in clients]
    for one in [*found[::-1], *found[::7]]:
        assert one.segments() == [part for part in segments if one.src in {part.src, part.dst}]
        assert one.opening() == [one.segments()[number] for number in (0, 1, 2, 4)]


def test_a_source_keeps_the_options_of_its_packets_only(tmp_path: Path) -> None:
    packets = [*of([Step(False, ACK, 1, 1, 1400)] * 500), *of(ORDINARY, OTHER)]
    (one,) = handshakes(bundled(tmp_path, packets))
    assert isinstance(one.source, bundle.BundleSource)
    headers = one.source._headers
    assert len(headers) == 5
    assert [len(data) for data in headers.places.data] == [5 * 40]
    assert headers.rows.base is None or headers.rows.base.nbytes == headers.rows.nbytes


def test_lists_of_any_size_hold_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = [(f"10.1.0.{number}", 4000) for number in range(20)]
    packets = [packet for client in clients for packet in [*of(ORDINARY, client), *of(ORDINARY[:1], OTHER)]]
    whole = bundled(tmp_path, packets)
    monkeypatch.setattr(columns, "_CHUNK", 3)
    parts = bundled(tmp_path, packets)
    assert [one[:5] for one in parts] == [one[:5] for one in whole]
    assert len(handshakes(parts)) == 20


def test_only_a_single_large_capture_is_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write(tmp_path / "x.pcap", of(ORDINARY)))

    def count(*paths: str, keep_all: bool = False, bundle: bool = True) -> int:
        with open_capture(paths, keep_all=keep_all, bundle=bundle) as capture:
            found = [one for chunk in capture.chunks() for one in chunk]
        assert capture.info.kept == 5 * len(paths)
        return len(handshakes(found))

    assert count(path) == 0
    monkeypatch.setattr(reader, "SMALL", 0)
    assert count(path) == 1
    assert count(path, bundle=False) == 0
    assert count(path, keep_all=True) == 0
    other = str(write(tmp_path / "y.pcap", of(ORDINARY, OTHER)))
    assert count(other) == 1
    assert count(path, other) == 0


# ---- against the contract, read packet by packet -----------------------------------------------------


def ordinary(flow: list[Segment], servers: set[bytes]) -> list[Segment]:
    """The packets of the ordinary handshake that a flow begins with in its first batch; [] without one."""
    parts = opening(flow, servers)
    ends = flow[len(parts) :]
    times = [one.time_ns for one in flow]
    if (
        not parts
        or parts[-1].src != flow[0].dst  # the proof is the server's FIN itself
        or times != sorted(times)
        or [one.flags & (SYN | RST | FIN | ACK) for one in ends] != [FIN | ACK] * 2
        or ends[0].src == ends[1].src
    ):
        return parts
    crossed = ends[0].src == flow[0].dst and 0 < (end_seq(ends[0]) - ends[1].ack) % 2**32 < 2**31
    return parts if crossed else flow


def opening(flow: list[Segment], servers: set[bytes]) -> list[Segment]:
    """Its packets up to the server's proof."""
    if len(flow) < 4:
        return []
    syn, answer, third = flow[:3]
    client, server, first, other = syn.src, syn.dst, (syn.seq + 1) % 2**32, (answer.seq + 1) % 2**32
    fine = (
        syn.flags in {SYN, SYN | ECE | CWR}
        and client not in servers
        and answer.flags in {SYN | ACK, SYN | ACK | ECE}
        and (answer.src, answer.ack) == (server, first)
        and (third.src, third.flags, third.seq, third.ack) == (client, ACK, first, other)
        and not (syn.length or answer.length or third.length)
        and syn.fastopen is None
        and answer.fastopen is None
        and third.time_ns - syn.time_ns <= HANDSHAKE_MAX_NS
        and not (min(syn.tsval, third.tsval) >= 0 and (third.tsval - syn.tsval) % 2**32 >= 2**31)
        and not (min(answer.tsval, third.tsval) >= 0 and third.tsecr != answer.tsval)
        and sum(one.flags & SYN != 0 for one in flow) == 2
    )
    if not fine:
        return []
    for at, one in enumerate(islice(flow, 3, None), 3):
        if one.flags & RST or not one.flags & ACK:
            return []
        ahead = (one.ack - first) % 2**32
        if one.src == server and (0 < ahead < 2**31 or one.length or one.flags & FIN):
            times = [part.time_ns for part in flow[: at + 1]]
            if ahead >= 2**31 or one.seq != other or times != sorted(times):
                return []
            return flow[: at + (not one.flags & FIN)]
        beyond = (one.seq - first) % 2**32
        inside = beyond + one.length <= answer.window and one.length and one.ack == other
        if one.src == server or one.flags & FIN or not inside:
            return []
    return []


@st.composite
def connections(draw: st.DrawFn) -> list[tuple[int, bytes]]:
    """Several connections, mostly ordinary, packets mixed."""
    lanes = []
    for client in (CLIENT, OTHER, ("10.0.0.4", 1), ("fd09::1", 2)):
        server = (
            ("fd09::2", 80) if ":" in client[0] else draw(st.sampled_from([SERVER, SERVER, SERVER, CLIENT]))
        )
        steps = list(draw(st.sampled_from([*[ORDINARY] * 99, *NOT_ORDINARY.values()])))
        steps += draw(st.one_of(st.lists(st.sampled_from([PROOF, REQUEST, *CLOSING]), max_size=3), closings))
        field = draw(st.sampled_from([*[None] * 9, "seq", "ack", "length", "flags", "tsval", "time_ns"]))
        if field is not None:
            at = draw(st.integers(0, len(steps) - 1))
            change = draw(st.sampled_from([-1, 1, 10]))
            value = max(0, getattr(steps[at], field) + change) & 0xFFFFFF
            steps[at] = steps[at]._replace(**{field: value & 0xFF if field == "flags" else value})
        lanes.append([(step.time_ns, step.data(client, server)) for step in steps])
    mixed = []
    while any(lanes):
        lane = draw(st.sampled_from([lane for lane in lanes if lane]))
        mixed.append(lane.pop(0))
    return mixed


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(connections(), st.sampled_from([6, 15, 100, 100]))
def test_bundled_is_what_the_contract_says_and_nothing_else(
    tmp_path: Path, packets: list[tuple[int, bytes]], batch: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_BATCH", batch)
        items = bundled(tmp_path, packets)
    segments = opened(items)
    servers = {one.src if one.flags & ACK else one.dst for one in segments if one.flags & SYN}
    flows: dict[frozenset[bytes], list[Segment]] = {}
    for one in segments:
        flow = flows.setdefault(frozenset((one.src, one.dst)), [])
        if not flow or (flow[0].frame - 1) // batch == (one.frame - 1) // batch:
            flow.append(one)
    expected = [parts for flow in flows.values() if (parts := ordinary(flow, servers))]
    expected.sort()
    found = handshakes(items)
    event(f"{len(found)} handshakes")
    assert [one.segments() for one in found] == expected
    for whole, parts in zip(found, expected, strict=True):
        check(whole, parts)
        flow = flows[frozenset((whole.src, whole.dst))]
        spoke = any(part.src == whole.dst and (part.length or part.flags & FIN) for part in flow)
        assert whole.served_ns >= 0 or not spoke


def check(one: Handshake, parts: list[Segment]) -> None:
    """The fields of a handshake say what its packets say."""
    assert one.last_ns == parts[-1].time_ns
    ends = [part for part in parts if part.flags & FIN]
    assert one.closed == (len(ends) == 2)
    if one.closed:
        (of_client,) = (part for part in ends if part.src == one.src)
        (of_server,) = (part for part in ends if part.src == one.dst)
        assert one.server_first == (ends[0] is of_server)
        assert (one.fin_in, one.fin_out) == (end_seq(of_client), end_seq(of_server))
        assert one.fin_ns == ends[0].time_ns
        assert (one.fin_ack, one.fin_tsval) == (of_server.ack, of_client.tsval)
