"""Selection keeps whatever could matter to a listen socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backlogtrace.capture import columns, select_columns
from backlogtrace.capture.file import CaptureFile
from backlogtrace.capture.info import CaptureInfo
from backlogtrace.segment import Segment
from tests.capture.capture_files import ACK, FIN, RAW, RST, SYN, Packet, ipv4, pcap, tcp
from tests.capture.test_columns import read_columns, read_plain

if TYPE_CHECKING:
    from pathlib import Path


CLIENT, SERVER = ("10.0.0.1", 4000), ("10.0.0.2", 80)
COOKIE = b"\x22\x0a12345678"


def packet(  # noqa: PLR0917
    outward: bool,
    flags: int,
    seq: int = 0,
    ack: int = 0,
    length: int = 0,
    options: bytes = b"",
    client: tuple[str, int] = CLIENT,
    server: tuple[str, int] = SERVER,
) -> bytes:
    """A packet to the server, or from it when `outward`."""
    (src, sport), (dst, dport) = (server, client) if outward else (client, server)
    return ipv4(tcp(sport, dport, flags, seq, ack, options=options, payload=b"x" * length), src, dst)


def write(path: Path, packets: list[bytes]) -> Path:
    path.write_bytes(pcap([Packet(data, number) for number, data in enumerate(packets)], RAW))
    return path


def frames(segments: list[Segment]) -> list[int]:
    return [segment.frame for segment in segments]


def kept(tmp_path: Path, packets: list[bytes], *, exact: bool = True) -> list[int]:
    """Frames that the plain selection keeps; the one by columns keeps the same, or more unless `exact`."""
    path = write(tmp_path / "x.pcap", packets)
    segments, info = read_plain(path, keep_all=False)
    others, other = read_columns(path, keep_all=False)
    assert set(segments) <= set(others)
    if exact:
        assert others == segments
        assert other == info
    assert info.tcp_packets == info.kept + info.established + info.midstream
    return frames(segments)


HANDSHAKE = [packet(False, SYN, 100), packet(True, SYN | ACK, 500, 101), packet(False, ACK, 101, 501)]


def test_packets_after_the_servers_payload_are_left_out(tmp_path: Path) -> None:
    packets = [
        *HANDSHAKE,
        packet(False, ACK, 101, 501, 10),
        packet(True, ACK, 501, 111, 5),
        packet(False, ACK, 111, 506),
        packet(True, ACK, 506, 111, 5),
        packet(False, FIN | ACK, 111, 511),
        packet(True, ACK, 511, 112),
    ]
    assert kept(tmp_path, packets) == [1, 2, 3, 4, 5, 8]


def test_a_bare_ack_for_more_than_the_syn_proves_the_connection(tmp_path: Path) -> None:
    packets = [
        *HANDSHAKE,
        packet(False, ACK, 101, 501, 10),
        packet(True, ACK, 501, 111),
        packet(False, ACK, 111, 501),
    ]
    assert kept(tmp_path, packets) == [1, 2, 3, 4, 5]


def test_a_bare_ack_that_a_request_socket_could_send_proves_nothing(tmp_path: Path) -> None:
    packets = [*HANDSHAKE, *[packet(True, ACK, 501, 101), packet(False, ACK, 101, 501)] * 3]
    assert kept(tmp_path, packets) == list(range(1, 10))


def test_a_bare_ack_without_a_syn_proves_nothing(tmp_path: Path) -> None:
    packets = [HANDSHAKE[1], packet(True, ACK, 501, 5000), packet(False, ACK, 5000, 501)]
    assert kept(tmp_path, packets) == [1, 2, 3]


def test_a_bare_ack_after_syns_of_two_numbers_proves_nothing(tmp_path: Path) -> None:
    packets = [
        HANDSHAKE[0],
        packet(False, SYN, 50),
        packet(True, ACK, 501, 101),
        packet(False, ACK, 101, 501),
    ]
    assert kept(tmp_path, packets) == [1, 2, 3, 4]


def test_fast_open_data_before_the_handshake_ends_proves_nothing(tmp_path: Path) -> None:
    opening = packet(False, SYN, 100, length=4, options=COOKIE)
    packets = [
        opening,
        packet(True, SYN | ACK, 500, 105),
        packet(True, ACK, 501, 105, 9),
        packet(False, ACK, 105, 510),
    ]
    assert kept(tmp_path, packets) == [1, 2, 3, 4]
    beyond = [packet(False, ACK, 105, 510, 7), packet(True, ACK, 510, 112), packet(False, ACK, 112, 510)]
    assert kept(tmp_path, packets + beyond) == [1, 2, 3, 4, 5, 6]


def test_a_cookie_without_data_is_a_fast_open_too(tmp_path: Path) -> None:
    packets = [
        packet(False, SYN, 100, options=COOKIE),
        packet(True, ACK, 501, 101, 9),
        packet(False, ACK, 101, 510),
    ]
    assert kept(tmp_path, packets) == [1, 2, 3]


def test_a_syn_or_rst_makes_a_connection_matter_again(tmp_path: Path) -> None:
    data = [packet(True, ACK, 501, 101, 5), packet(False, ACK, 101, 506)]
    assert kept(tmp_path, [*HANDSHAKE, *data, HANDSHAKE[0], data[1]], exact=False) == [1, 2, 3, 4, 6, 7]
    assert kept(tmp_path, [*HANDSHAKE, *data, packet(True, RST, 506), data[1]], exact=False) == [
        1,
        2,
        3,
        4,
        6,
        7,
    ]


def test_clients_payload_proves_nothing(tmp_path: Path) -> None:
    packets = [*HANDSHAKE, *[packet(False, ACK, 101, 501, 10)] * 4]
    assert kept(tmp_path, packets) == [1, 2, 3, 4, 5, 6, 7]


def test_where_both_ends_are_servers_payload_proves_nothing(tmp_path: Path) -> None:
    other = packet(False, SYN, 7, client=("10.0.0.3", 5), server=CLIENT)
    packets = [
        other,
        *HANDSHAKE,
        packet(False, ACK, 101, 501, 10),
        packet(True, ACK, 501, 111, 9),
        HANDSHAKE[2],
    ]
    assert kept(tmp_path, packets) == [1, 2, 3, 4, 5, 6, 7]


def test_strangers_are_left_out_unless_their_port_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pcap", [packet(False, ACK, 1, 1), packet(True, ACK, 1, 1), *HANDSHAKE[2:]])
    for ports, expected in (((), []), ((80,), [1, 2, 3]), ((81,), [])):
        info = CaptureInfo()
        windows = columns.decoded_windows(CaptureFile(str(path), info), info)
        chunks = columns.segment_chunks(windows, info, False, ports)
        found = [one for chunk in chunks for one in chunk if isinstance(one, Segment)]
        assert frames(found) == expected
        assert info.midstream == 3 - len(expected)


def test_a_server_seen_later_in_the_window_counts_from_the_start(tmp_path: Path) -> None:
    stranger = packet(False, ACK, 1, 1, client=("10.0.0.9", 9))
    assert kept(tmp_path, [stranger, *HANDSHAKE]) == [1, 2, 3, 4]


# ---- against the rule in its simplest form ----------------------------------------------------------


def may_leave_out(packets: list[Segment]) -> set[int]:
    """Frames that the rule allows to leave out, worked out from whole histories instead of running state."""
    servers = {one.dst if not one.flags & ACK else one.src for one in packets if one.flags & SYN}
    allowed = set()
    for index, one in enumerate(packets):
        if one.flags & (SYN | RST | FIN):
            continue
        if not servers & {one.src, one.dst}:
            allowed.add(one.frame)
            continue
        history = [past for past in packets[:index] if {past.src, past.dst} == {one.src, one.dst}]
        restart = max((at for at, past in enumerate(history) if past.flags & (SYN | RST)), default=-1)
        for at in range(restart + 1, len(history)):
            proof = history[at]
            if not proof.flags & ACK or proof.src not in servers or proof.dst in servers:
                continue
            syns = [past for past in history[:at] if past.flags & (SYN | ACK) == SYN]
            ends = {(past.seq + past.length + 1) % 2**32 for past in syns}
            opened_fast = any(past.length or past.fastopen is not None for past in syns)
            beyond = len(ends) == 1 and 0 < (proof.ack - min(ends)) % 2**32 < 2**31
            if beyond or (not opened_fast and (proof.length or proof.flags & FIN)):
                allowed.add(one.frame)
    return allowed


@st.composite
def histories(draw: st.DrawFn) -> list[bytes]:
    """Few endpoints, few numbers: everything collides."""
    clients = st.sampled_from([CLIENT, ("10.0.0.1", 4001), ("10.0.0.3", 80)])
    servers = st.sampled_from([SERVER, SERVER, CLIENT])
    numbers = st.sampled_from([0, 100, 101, 102, 2**31 + 100, 2**32 - 1])
    one = st.builds(
        packet,
        st.booleans(),
        st.sampled_from([SYN, SYN | ACK, ACK, ACK, ACK, FIN | ACK, RST, 0]),
        numbers,
        numbers,
        st.sampled_from([0, 0, 1]),
        st.sampled_from([b"", b"", b"", COOKIE]),
        clients,
        servers,
    )
    return draw(st.lists(one, max_size=30))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories(), st.integers(1, 7), st.sampled_from([1, 20]))
@example([*HANDSHAKE, packet(True, ACK, 501, 101, 1), HANDSHAKE[2], HANDSHAKE[0], HANDSHAKE[2]], 3, 20)
def test_nothing_is_left_out_against_the_rule(
    tmp_path: Path, packets: list[bytes], batch: int, bits: int
) -> None:
    path = write(tmp_path / "x.pcap", packets)
    every, _ = read_plain(path)
    allowed = may_leave_out(every)
    plainly, _ = read_plain(path, keep_all=False)
    assert {one.frame for one in every} - {one.frame for one in plainly} == allowed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_BATCH", batch)
        patch.setattr(select_columns, "_FLOW_BITS", bits)
        patch.setattr(select_columns, "_SERVER_BITS", bits)
        by_columns, other = read_columns(path, keep_all=False)
    assert {one.frame for one in every} - {one.frame for one in by_columns} <= allowed
    assert other.tcp_packets == other.kept + other.established + other.midstream
