"""Signs of cookies: what the kernel's arithmetic allows, with the ISNs and TSvals computed as it does."""

from __future__ import annotations

from math import inf, log
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlogtrace.kernel import profiles
from backlogtrace.kernel.cookie_signs import (
    Answer,
    Offers,
    Sign,
    encoded_options,
    option_signs,
    relate,
    residue,
    residue_sign,
    weigh,
)
from backlogtrace.kernel.cookies import mss_index
from backlogtrace.segment import ACK, ECE, SYN
from tests.kernel.build import client, segment, syn

if TYPE_CHECKING:
    from backlogtrace.segment import Segment

U32 = 0xFFFFFFFF
PROFILE = profiles.DEFAULT
HASH0 = 0x9E3779B9


def answer(to: Segment, seq: int = 0, *, delay_ns: int = 50_000, **fields: object) -> Answer:
    """The SYN and a SYN-ACK to it."""
    made = segment(SYN | ACK, seq=seq & U32, ack=to.seq + 1 & U32, **fields)  # type: ignore[arg-type]
    return Answer(to, made._replace(src=to.dst, dst=to.src, time_ns=to.time_ns + delay_ns))


def cookie(to: Segment, minute: int, hash1: list[int]) -> int:
    """secure_tcp_syn_cookie() with made-up hashes."""
    low = (hash1[minute] + mss_index(PROFILE, to.mss, ipv6=False)) & 0xFFFFFF
    return (HASH0 + to.seq + (minute << 24) + low) & U32


def clocked(at_ns: int) -> int:
    """secure_tcp_seq(): a hash and a clock of 64 ns."""
    return (HASH0 + (at_ns >> 6)) & U32


@given(
    first=st.integers(0, U32), second=st.integers(0, U32), at=st.integers(1, 59_000),
    mss=st.tuples(*[st.sampled_from([0, 500, 1300, 1440, 1460, 9000])] * 2), low=st.integers(0, 0xFFFFFF),
)  # fmt: skip
def test_two_cookies_of_one_minute_are_always_related(
    first: int, second: int, at: int, mss: tuple[int, int], low: int
) -> None:
    one, two = syn(seq=first, mss=mss[0]), syn(at=at, seq=second, mss=mss[1])
    kind = relate(PROFILE, answer(one, cookie(one, 0, [low])), answer(two, cookie(two, 0, [low]))).kind
    assert kind in {"same", "cookies", "maybe_cookies"}
    if first == second and mss[0] == mss[1]:
        assert kind == "same"


@given(
    first=st.integers(0, U32), second=st.integers(0, U32), minutes=st.integers(1, 99),
    at=st.integers(0, 59_999), low=st.lists(st.integers(0, 0xFFFFFF), min_size=100, max_size=100),
)  # fmt: skip
def test_cookies_of_two_minutes_are_never_unrelated(
    first: int, second: int, minutes: int, at: int, low: list[int]
) -> None:
    one, two = syn(at=59_000, seq=first), syn(at=60_000 * minutes + at, seq=second)
    kind = relate(PROFILE, answer(one, cookie(one, 0, low)), answer(two, cookie(two, minutes, low))).kind
    assert kind in {"later_minute", "cookies", "maybe_cookies", "clock"}  # the last three by rare chance


@given(
    first=st.integers(0, U32), second=st.integers(0, U32), at=st.integers(1, 3_600_000),
    within=st.integers(0, 50),
)  # fmt: skip
def test_two_requests_follow_the_clock(first: int, second: int, at: int, within: int) -> None:
    one, two = syn(seq=first), syn(at=at, seq=second)
    isns = [clocked(each.time_ns + within * 1000) for each in (one, two)]
    kind = relate(PROFILE, answer(one, isns[0]), answer(two, isns[1])).kind
    assert kind in {"clock", "maybe_cookies"} or (kind == "cookies" and second != first)


def test_changed_client_isn_moves_a_cookie_but_not_a_request() -> None:
    one, two = syn(seq=1000), syn(at=3000, seq=777_777)
    moved = relate(PROFILE, answer(one, 50), answer(two, 50 + 776_777))
    assert moved.kind == "cookies"
    assert relate(PROFILE, answer(one, 50), answer(two, 50)).kind == "unrelated"


def test_clients_with_a_clock_of_their_own_prove_nothing() -> None:
    elapsed = 3_000_000_000 >> 6
    one, two = syn(seq=1000), syn(at=3000, seq=1000 + elapsed)
    assert relate(PROFILE, answer(one, 50), answer(two, 50 + elapsed)).kind == "maybe_cookies"


def test_other_mss_moves_a_cookie_by_its_index() -> None:
    one, two = syn(mss=536), syn(at=400, mss=1460)
    assert relate(PROFILE, answer(one, 9), answer(two, 12)).kind == "cookies"
    assert relate(PROFILE, answer(one, 9), answer(two, 13)).kind != "cookies"


TS = {"tsval": 500, "tsecr": 0}


@pytest.mark.parametrize(
    ("asked", "got", "offers", "odds"),
    [
        ({"wscale": 7, "sack_ok": True}, {}, Offers(), log(20)),
        ({"wscale": 7}, {}, Offers(wscale=True), inf),
        ({"wscale": 7}, {}, Offers(sack=True, wscale=False), None),
        ({"sack_ok": True}, {}, Offers(sack=True), inf),
        ({}, {}, Offers(sack=True, wscale=True), None),
        ({"wscale": 7}, {"wscale": 9}, Offers(), -inf),
        ({"sack_ok": True}, {"sack_ok": True}, Offers(), -inf),
        ({"wscale": 7, **TS}, {"wscale": 9, **TS}, Offers(), None),
        ({"wscale": 7, **TS}, {"wscale": 9}, Offers(), -inf),  # the server has timestamps switched off
        ({}, {"fastopen": b"12345678"}, Offers(), -inf),
        ({"length": 100}, {"ack": 1 + 1000 + 100}, Offers(), -inf),
        ({"length": 100}, {}, Offers(), None),
    ],
)
def test_options_of_a_synack(
    asked: dict[str, object], got: dict[str, object], offers: Offers, odds: float | None
) -> None:
    sent = syn(**asked)  # type: ignore[arg-type]
    found = option_signs(sent, answer(sent, 7).synack._replace(**got), offers)  # type: ignore[arg-type]
    assert [sign.odds for sign in found] == ([] if odds is None else [odds])


def test_ecn_answer_without_timestamps_is_no_cookie() -> None:
    sent = syn()
    made = answer(sent, 7).synack
    assert option_signs(sent, made._replace(flags=made.flags | ECE), Offers()) == [Sign("options_kept", -inf)]


@given(clock=st.integers(64, U32), wscale=st.integers(-1, 14), sack=st.booleans(), offset=st.integers(0, U32))
def test_residue_is_the_offset_whatever_the_options(clock: int, wscale: int, sack: bool, offset: int) -> None:
    sent = syn(wscale=wscale, sack_ok=sack, tsval=1)
    made = answer(sent, 7, wscale=7 if wscale >= 0 else -1, sack_ok=sack, tsval=0).synack
    options = encoded_options(sent, made)
    shown = (clock & ~63) | options
    if shown > clock:  # cookie_init_timestamp()
        shown -= 64
    made = made._replace(tsval=(shown + offset) & U32)
    assert residue(sent, made) == offset % 64
    assert 0 <= clock - shown < 64


def test_residue_that_differs_is_a_proof_and_one_that_fits_is_not() -> None:
    assert residue_sign(5, 6).odds == -inf
    assert residue_sign(5, 5).odds == log(64)


@pytest.mark.parametrize(
    ("odds", "verdict"),
    [
        ([], "either"), ([log(64)], "either"), ([log(64), log(3)], "cookie"), ([inf], "cookie"),
        ([-inf, log(64)], "request"), ([-log(1000)], "request"), ([inf, -inf], "either"),
    ],
)  # fmt: skip
def test_signs_are_added_up(odds: list[float], verdict: str) -> None:
    assert weigh(Sign("some", each) for each in odds)[0] == verdict


def test_addresses_choose_the_mss_table() -> None:
    one = syn(mss=1220, v6=True)
    two = syn(at=400, mss=8940, v6=True)
    assert client(1, v6=True) == one.src
    assert relate(PROFILE, answer(one, 9), answer(two, 12)).kind == "cookies"
