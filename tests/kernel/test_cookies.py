"""SYN cookies: which acknowledgement is valid, for how long, and when the kernel looks at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backlogtrace.kernel import outcomes as out
from backlogtrace.kernel.clock import NS, TickClock, WindowClock
from backlogtrace.kernel.cookies import CookieJar, mss_index
from backlogtrace.kernel.profiles import DEFAULT
from tests.kernel.build import MS, SERVER, START, Server, ack, client, server_isn, syn

if TYPE_CHECKING:
    from backlogtrace.kernel.outcome import Outcome

KEY = client(1) + SERVER


def jar(
    clock: TickClock | WindowClock | None = None, *, at: float = 0, mss: int = 1460, isn: int | None = None
) -> CookieJar:
    """A jar that sent client 1 a cookie, which was seen unless `isn` is 0."""
    cookies = CookieJar(DEFAULT, clock or TickClock(250, START - 1000 * NS))
    cookies.send(KEY, syn(1, at, mss=mss))
    if isn != 0:
        cookies.seen(KEY, server_isn(1) if isn is None else isn)
    return cookies


@pytest.mark.parametrize(
    ("mss", "index"),
    [
        (0, 0),
        (1, 0),
        (535, 0),
        (536, 0),
        (1299, 0),
        (1300, 1),
        (1439, 1),
        (1440, 2),
        (1459, 2),
        (1460, 3),
        (65535, 3),
    ],
)
def test_mss_index_v4_is_the_largest_entry_not_above(mss: int, index: int) -> None:
    """IPv4 table 536, 1300, 1440, 1460; a missing MSS counts as 536, a smaller one is raised to it."""
    assert mss_index(DEFAULT, mss, ipv6=False) == index


@pytest.mark.parametrize(
    ("mss", "index"), [(0, 0), (1219, 0), (1220, 0), (1420, 1), (1439, 1), (1440, 2), (8939, 2), (8940, 3)]
)
def test_mss_index_v6_is_the_largest_entry_not_above(mss: int, index: int) -> None:
    """IPv6 table 1220, 1420, 1440, 8940; a missing MSS counts as 1220."""
    assert mss_index(DEFAULT, mss, ipv6=True) == index


def test_ack_of_the_cookie_is_valid() -> None:
    """The plain case."""
    assert jar().verify(KEY, ack(1, 10)) == "valid"


@pytest.mark.parametrize("shift", [1, 1000, 1 << 31])
def test_ack_with_both_numbers_shifted_is_valid(shift: int) -> None:
    """The cookie is a hash plus the client's ISN: seq + k with ack + k decodes to the same."""
    first = ack(1, 10)
    moved = first._replace(seq=(first.seq + shift) % 2**32, ack=(first.ack + shift) % 2**32)
    assert jar().verify(KEY, moved) == "valid"


@pytest.mark.parametrize(("off", "verdict"), [(-4, "invalid"), (-3, "valid"), (0, "valid"), (1, "invalid")])
def test_ack_of_another_mss_index_is_valid(off: int, verdict: str) -> None:
    """What is left of the cookie is an index: 0 to 3 pass, and an MSS of 1460 is 3."""
    first = ack(1, 10)
    assert jar().verify(KEY, first._replace(ack=first.ack + off)) == verdict


@pytest.mark.parametrize(("off", "verdict"), [(-1, "invalid"), (3, "valid"), (4, "invalid")])
def test_ack_above_the_smallest_mss_index_is_valid(off: int, verdict: str) -> None:
    """With an MSS of 536 the three numbers above decode to larger MSS values."""
    first = ack(1, 10)
    assert jar(mss=536).verify(KEY, first._replace(ack=first.ack + off)) == verdict


def test_ack_of_a_client_without_cookie_is_invalid() -> None:
    """Another client's 4-tuple hashes to something else."""
    assert jar().verify(client(2) + SERVER, ack(2, 10)) == "invalid"


def test_cookie_that_was_not_seen_is_judged_by_the_client_number() -> None:
    """A capture that misses the SYN-ACK still shows whether the ACK continues the SYN."""
    cookies = jar(isn=0)
    assert cookies.verify(KEY, ack(1, 10)) == "valid"
    assert cookies.verify(KEY, ack(1, 10, seq=5)) == "invalid"


@pytest.mark.parametrize(("minutes", "verdict"), [(0, "valid"), (1, "valid"), (2, "expired"), (3, "expired")])
def test_cookie_of_this_and_the_previous_minute_is_valid(minutes: int, verdict: str) -> None:
    """MAX_SYNCOOKIE_AGE is 2, counted in minutes of jiffies."""
    clock = TickClock(250, START - 1000 * NS)
    sent = (
        next(ms for ms in range(0, 60_000, 4) if clock.minute(START + ms * MS) != clock.minute(START)) + 100
    )
    cookies = jar(clock, at=sent)
    assert cookies.verify(KEY, ack(1, sent + minutes * 60_000)) == verdict


def test_cookie_at_the_end_of_its_minute_expires_after_60_seconds() -> None:
    """Sent in the last tick of a minute it has but one more; sent in the first it has nearly two."""
    clock = TickClock(250, START - 1000 * NS)
    flip = next(ms for ms in range(0, 60_000, 4) if clock.minute(START + ms * MS) != clock.minute(START))
    assert jar(clock, at=flip - 4).verify(KEY, ack(1, flip + 60_000)) == "expired"
    assert jar(clock, at=flip).verify(KEY, ack(1, flip + 119_996)) == "valid"


@pytest.mark.parametrize(
    ("age_s", "verdict"), [(59, "valid"), (61, "unclear"), (119, "unclear"), (120, "expired")]
)
def test_cookie_age_without_hz_is_unclear_in_the_second_minute(age_s: int, verdict: str) -> None:
    """Without HZ and boot time nobody knows where the minute ends."""
    assert jar(WindowClock()).verify(KEY, ack(1, age_s * 1000)) == verdict


@pytest.mark.parametrize(
    ("seconds", "recent"), [(-1, True), (0, True), (1, True), (119.9, True), (120, True), (120.1, False)]
)
def test_overflow_is_recent_for_two_minutes(seconds: float, recent: bool) -> None:
    """now in [stamp - 1 s, stamp + 120 s], in jiffies and inclusive."""
    assert jar().recent_overflow(START + round(seconds * NS)) is recent


def test_overflow_stamp_moves_after_a_second() -> None:
    """A second cookie within HZ ticks of the stamp leaves it alone, a later one renews it."""
    cookies = jar()
    cookies.send(KEY, syn(1, 900))
    assert not cookies.recent_overflow(START + 121 * NS - 200 * MS)
    cookies.send(KEY, syn(1, 1100))
    assert cookies.recent_overflow(START + 121 * NS)


@pytest.mark.parametrize(
    ("uptime_s", "recent"),
    [(298.9, False), (299, True), (360, True), (420, True), (420.1, False), (1000, False)],
)
def test_listener_that_never_overflowed_looks_recent_five_minutes_after_boot(
    uptime_s: float, recent: bool
) -> None:
    """The stamp starts at 0, which 32-bit jiffies reach 300 s after boot: from 299 s to 420 s of uptime."""
    cookies = CookieJar(DEFAULT, TickClock(250, START))
    assert cookies.recent_overflow(START + round(uptime_s * NS)) is recent


def test_listener_that_never_overflowed_is_not_recent_without_hz() -> None:
    """Where uptime is not known, the two minutes of it are not assumed."""
    assert not CookieJar(DEFAULT, WindowClock()).recent_overflow(START)


def test_cookies_of_the_last_minutes_only_are_kept() -> None:
    """A flood does not fill the memory: cookies that nobody would accept are forgotten."""
    cookies = jar()
    cookies.send(client(2) + SERVER, syn(2, 241_000))
    assert cookies.verify(KEY, ack(1, 241_001)) == "invalid"
    assert cookies.verify(client(2) + SERVER, ack(2, 241_001, seq=2001)) == "valid"


@pytest.mark.parametrize("option", ["tcp_sack", "tcp_window_scaling"])
@pytest.mark.parametrize(("stamped", "outcome"), [(True, out.RST_COOKIE_OPTION), (False, out.COOKIE_VALID)])
def test_an_option_that_the_cookie_agreed_to_must_still_be_on(
    option: str, stamped: bool, outcome: Outcome
) -> None:
    """The timestamp of the ACK brings the options back; without one there are none."""
    server = Server(tcp_syncookies=2)
    server.receive(syn(tsval=1, sack_ok=True, wscale=7), tsval=50)
    server.stack.settings.set(f"net.ipv4.{option}", 0)
    assert server.receive(ack(at=10, tsval=2 if stamped else -1, tsecr=50 if stamped else -1)) is outcome


def test_an_option_that_was_off_already_does_not_matter() -> None:
    server = Server(tcp_syncookies=2, tcp_sack=0)
    server.receive(syn(tsval=1, sack_ok=True), tsval=50)
    assert server.receive(ack(at=10, tsval=2, tsecr=50)) is out.COOKIE_VALID
