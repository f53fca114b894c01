"""Cookies told from requests on the wire alone: in recordings of real kernels, and sign by sign."""

from __future__ import annotations

import json
from collections import Counter
from math import inf, log
from pathlib import Path

import pytest

from backlogtrace.capture import open_capture
from backlogtrace.kernel import profiles
from backlogtrace.kernel.cookie_signs import TSVALUES
from backlogtrace.replay import cookie_witness
from backlogtrace.replay.cookie_witness import CookieWitness, Recognition
from backlogtrace.replay.host import AcceptModel, Host, load_host
from backlogtrace.segment import ACK, RST, SYN, Segment
from tests.kernel.build import server_isn
from tests.replay.wire import Wire, host, replay

FIXTURES = Path(__file__).parents[2] / "fixtures"
RECORDED = sorted(path.parent.name for path in FIXTURES.glob("*/truth.jsonl"))
EL7, V5_15 = (profiles.find(name)[0] for name in ("rhel7", "5.15.135"))


def watched(segments: list[Segment], profile: profiles.Profile = V5_15, hz: int = 0) -> CookieWitness:
    witness = CookieWitness(profile, hz=hz)
    for segment in segments:
        witness.feed(segment)
    return witness


def recorded(folder: Path) -> tuple[list[tuple[str, Recognition]], Counter[tuple[str, str]]]:
    """(what the kernel did, what was recognised) for the SYN-ACKs of a recording; and how often each."""
    host = load_host(folder / "host.json")
    assert host.kernel is not None
    profile, _ = profiles.find(host.kernel)
    truth = [json.loads(line) for line in (folder / "truth.jsonl").read_text("utf-8").splitlines()]
    rows = {row["n"]: row for row in truth if "n" in row}
    with open_capture([str(folder / "capture.pcap")], keep_all=True) as capture:
        segments = [s for chunk in capture.chunks() for s in chunk if isinstance(s, Segment)]
    witness = watched(segments, profile, host.hz or 0)
    asked: dict[bytes, str] = {}
    found = []
    for segment in segments:
        row = rows.get(segment.frame)
        if row is None:  # after the end of the scenario
            continue
        if segment.flags & (SYN | ACK) == SYN:
            sent = "SyncookiesSent" in row["counters"]
            asked[segment.src + segment.dst] = "cookie" if sent else "request"
        elif segment.frame in witness.recognitions:
            origin = "request" if row["cause"] == 0 else asked[segment.dst + segment.src]
            found.append((origin, witness.recognitions[segment.frame]))
    return found, Counter((origin, _strength(known)) for origin, known in found)


def _strength(known: Recognition) -> str:
    return "proved" if known.proved else "open" if known.verdict == "either" else "likely"


@pytest.mark.parametrize("name", RECORDED)
def test_no_verdict_on_a_recorded_kernel_is_wrong(name: str) -> None:
    found, _ = recorded(FIXTURES / name)
    assert found
    assert [known.signs for origin, known in found if known.verdict not in {origin, "either"}] == []


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        # without timestamp offsets nearly every cookie shows
        ("cookies-repeated-syns-el7", {("cookie", "proved"): 23}),
        (
            "cookies-and-requests-4.4.1",
            {("request", "proved"): 7, ("cookie", "proved"): 11, ("cookie", "open"): 1},
        ),
        # with them, those without timestamps, or next to others of the same client
        ("syncookies-always-expired-5.10", {("cookie", "open"): 4, ("cookie", "proved"): 1}),
        (
            "ipv6-and-ipv4-cookies-5.15",
            {
                ("request", "open"): 2,
                ("request", "proved"): 5,
                ("cookie", "open"): 15,
                ("cookie", "proved"): 5,
            },
        ),
        # timestamps, no repetition of a SYN, nothing sent by the server: only timers tell
        (
            "seed_documents-0001",
            {("request", "open"): 6, ("cookie", "open"): 3, ("request", "proved"): 6},
        ),
    ],
)
def test_how_many_a_recorded_kernel_gives_away(name: str, counts: dict[tuple[str, str], int]) -> None:
    assert recorded(FIXTURES / name)[1] == counts


def conversation(*answers: dict[str, object]) -> list[Segment]:
    """SYNs of client 1 every 400 ms, each answered; the fields of each SYN-ACK, `syn_` ones of its SYN."""
    wire = Wire()
    for number, fields in enumerate(answers):
        at = 400 * number
        wire.inbound(SYN, 1, at, **{k[4:]: v for k, v in fields.items() if k.startswith("syn_")})
        wire.outbound(SYN | ACK, 1, at + 0.05, **{k: v for k, v in fields.items() if k[:4] != "syn_"})
    return wire.segments


def signs(witness: CookieWitness) -> list[dict[str, float]]:
    return [
        {name: round(sign.odds, 3) for name, sign in known.signs.items()}
        for known in dict.fromkeys(witness.recognitions.values())
    ]


def test_duplicate_syn_with_another_answer_was_forgotten() -> None:
    found = signs(watched(conversation({"seq": 5}, {"seq": 900_000_000})))
    assert found == [{"isn_forgotten": inf}, {"isn_not_cookie": -inf}]


def test_duplicate_syn_with_the_same_answer_leaves_both_open() -> None:
    witness = watched(conversation({"seq": 5}, {"seq": 5}))
    assert signs(witness) == [{}, {}]
    first, second = witness.recognitions.values()
    assert first.signs is second.signs


def test_reopened_listener_answers_with_requests() -> None:
    found = signs(watched(conversation({"seq": 5}, {"seq": 5 + (400_000_000 >> 6)})))
    assert found == [{"isn_clock": round(-log(1000), 3)}] * 2


def test_reset_in_between_leaves_it_open_whether_there_was_a_request() -> None:
    wire = Wire()
    for at, isn in ((0, 5), (400, 900_000_000)):
        wire.inbound(SYN, 1, at)
        wire.outbound(SYN | ACK, 1, at + 0.05, seq=isn)
    wire.inbound(RST, 1, 200)
    assert signs(watched(wire.segments)) == [{}, {}]


def test_timer_repeats_only_requests() -> None:
    wire = Wire()
    wire.syn(1, 0)
    wire.outbound(SYN | ACK, 1, 1004)
    witness = watched(wire.segments)
    assert signs(witness) == [{"repeated_by_timer": -inf}]
    assert list(witness.recognitions) == [2, 3]


def test_packet_captured_twice_is_no_repetition() -> None:
    wire = Wire()
    wire.syn(1, 0)
    wire.outbound(SYN | ACK, 1, 0.06)
    assert signs(watched(wire.segments)) == [{}]


@pytest.mark.parametrize(("last_ms", "seen"), [(2400, False), (2600, True)])
def test_synack_that_is_not_repeated_is_likely_a_cookie(last_ms: int, seen: bool) -> None:
    wire = Wire()
    wire.syn(1, 0)
    wire.syn(2, last_ms)  # the server lives
    first, _ = watched(wire.segments).recognitions.values()
    assert ("not_repeated" in first.signs) is seen
    assert first.verdict == ("cookie" if seen else "either")


def test_synack_of_a_client_that_went_on_need_not_be_repeated() -> None:
    wire = Wire()
    wire.syn(1, 0)
    wire.inbound(ACK, 1, 1)
    wire.syn(2, 2600)
    assert "not_repeated" not in signs(watched(wire.segments))[0]


def stamped(*tsvals: tuple[float, int], **options: object) -> list[Segment]:
    """SYNs from ports 20001, 20002, … of one address, and their SYN-ACKs with TSval at (ms, TSval)."""
    wire = Wire()
    for c, (at, tsval) in enumerate(tsvals, 1):
        wire.inbound(SYN, c, at, tsval=1, tsecr=0, **options)
        wire.outbound(SYN | ACK, c, at + 0.05, tsval=tsval, tsecr=1, **options)
    address = b"\x0a\x09\x01\x02"
    return [
        made._replace(dst=address + made.dst[-2:])
        if made.flags & ACK
        else made._replace(src=address + made.src[-2:])
        for made in wire.segments
    ]


def test_timestamp_behind_another_one_of_the_same_hosts_proves_a_cookie() -> None:
    # the kernel's clock shows 100,000 at 0 ms; both keep 7 | SACK in their low bits
    bits = 0x17
    old = (100_040 & ~63 | bits) - 64 * (bits > (100_040 & 63))
    witness = watched(stamped((0, 100_000), (40, old), (500, 100_500), wscale=7, sack_ok=True))
    one, two, three = (known.signs for known in witness.recognitions.values())
    assert two["timestamp_behind"].odds == inf
    assert one["timestamp_bits"].odds == -inf
    assert three["timestamp_bits"].odds == -inf


def test_timestamps_of_one_clock_prove_nothing() -> None:
    witness = watched(stamped((0, 100_000), (40, 100_040), (500, 100_501), wscale=7))
    assert signs(witness) == [{}, {}, {}]


def test_offset_per_connection_leaves_timestamps_incomparable() -> None:
    witness = watched(stamped((0, 100_000), (40, 99_000), wscale=7), profiles.DEFAULT)
    assert signs(witness) == [{}, {}]


@pytest.mark.parametrize(("tsval", "odds"), [(64 * 500 + 7, log(TSVALUES)), (64 * 500 + 8, -inf)])
def test_timestamp_without_offset_shows_its_bits(tsval: int, odds: float) -> None:
    found = signs(watched(stamped((0, tsval), wscale=7), EL7))
    assert found == [{"timestamp_bits": round(odds, 3)}]


def test_data_with_the_same_clock_speaks_for_a_request() -> None:
    wire = Wire()
    wire.syn(1, 0, tsval=1, tsecr=0)
    segments = [s._replace(tsval=5000, tsecr=1) if s.flags & ACK else s for s in wire.segments]
    wire = Wire()
    wire.outbound(ACK, 1, 100, tsval=5100, tsecr=1, length=10, seq=server_isn(1) + 1)
    (found,) = signs(watched([*segments, *wire.segments], profiles.DEFAULT))
    assert found["timestamp_current"] < -2


def answered(**fields: object) -> Wire:
    """A client that offers SACK and window scaling, and one after it; the first SYN-ACK has `fields`."""
    wire = Wire()
    wire.inbound(SYN, 1, 0, wscale=7, sack_ok=True)
    wire.outbound(SYN | ACK, 1, 0.05, **fields)
    wire.inbound(SYN, 2, 1, wscale=7, sack_ok=True)
    wire.outbound(SYN | ACK, 2, 1.05, wscale=7, sack_ok=True)
    return wire


@pytest.mark.parametrize(
    ("fields", "certainty", "rivals", "seen"),
    [
        ({"wscale": 7, "sack_ok": True}, "certain", (), (0, 2)),
        ({}, "likely", ("cookie",), (0, 1)),
        ({"seq": 5, "wscale": 7, "sack_ok": True}, "certain", (), (0, 2)),
    ],
)
def test_rows_say_what_the_wire_leaves_open(
    fields: dict[str, object], certainty: str, rivals: tuple[str, ...], seen: tuple[int, int]
) -> None:
    result = replay(answered(**fields), Host(), accept=AcceptModel("never"))
    row = result.packets[0]
    assert (row.certainty, row.rivals, row.resolved_by) == (certainty, rivals, 2)
    assert [(s.seen_cookies, s.seen_requests) for s in result.listeners] == [seen]


def test_row_against_the_wires_proof_is_undecided() -> None:
    """Nothing is given, so the SYN is taken as queued; its repetition gets another ISN."""
    wire = Wire()
    for number, isn in enumerate((5, 900_000_000)):
        wire.inbound(SYN, 1, 400 * number)
        wire.outbound(SYN | ACK, 1, 400 * number + 0.05, seq=isn)
    result = replay(wire, Host())
    assert (result.packets[0].certainty, result.packets[0].rivals) == ("undecided", ("cookie",))
    assert result.listeners[0].seen_cookies == 1


def test_nothing_is_open_when_everything_is_given() -> None:
    result = replay(answered(), host())
    assert [(row.certainty, row.rivals) for row in result.packets] == [("certain", ())] * 2
    assert [(s.seen_cookies, s.seen_requests) for s in result.listeners] == [(0, 0)]


def test_what_was_not_looked_at_is_not_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SYN-ACK without timestamps that keeps options is no cookie: proved only if it is looked at."""
    wire = Wire()
    for c in range(2):
        wire.inbound(SYN, c, 1.0 + c, seq=100, sack_ok=True)
        wire.outbound(SYN | ACK, c, 1.1 + c, seq=500, ack=101, sack_ok=True)
    for left, expected in ((10, ["certain", "certain"]), (2, ["certain", "likely"])):
        monkeypatch.setattr(cookie_witness, "_BUDGET", left)
        rows = replay(wire, Host()).packets
        assert [row.certainty for row in rows] == expected
        assert [row.rivals for row in rows][1] == (() if left == 10 else ("cookie",))
