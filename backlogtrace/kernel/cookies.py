"""SYN cookies that were sent: which acknowledgements the kernel will take as valid.

The kernel keeps nothing and recomputes a keyed hash. The key is unknown here, so the cookies seen
on the wire are remembered for as long as the kernel could accept them. What an acknowledgement may
differ in follows from the arithmetic, not from the key.

Sources: net/ipv4/syncookies.c (secure_tcp_syn_cookie, check_tcp_syn_cookie), include/net/tcp.h
(tcp_synq_overflow, tcp_synq_no_recent_overflow, MAX_SYNCOOKIE_AGE).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from backlogtrace.kernel.clock import Clock
    from backlogtrace.kernel.profile import Profile
    from backlogtrace.segment import Segment

_NS = 1_000_000_000
_MINUTE_NS = 60 * _NS
_MEMORY_NS = 240_000_000_000  # no kernel accepts an older cookie
_MASK = 0xFFFFFFFF
_UNKNOWN = 1 << 32  # flag above the 32 bits of an ISN that was not seen
_OPTIONS, _TIME = 68, 71  # bits below the options, below the time
SACK, WINDOW_SCALE, ECN = 1, 2, 4
"""Options that the timestamp of a cookie's SYN-ACK keeps for its ACK."""


def mss_index(profile: Profile, mss: int, *, ipv6: bool) -> int:
    """Index in the cookie's MSS table: the largest entry not above the SYN's MSS, else 0."""
    table = profile.cookie_mss_v6 if ipv6 else profile.cookie_mss_v4
    mss = mss or (1220 if ipv6 else 536)
    return max(bisect_right(table, mss) - 1, 0)


class SentCookies:
    """The cookies of a host: its secret is the same for all listeners, also for one that comes later."""

    __slots__ = ("kept_until", "order", "sent")

    def __init__(self) -> None:
        self.sent: dict[bytes, int] = {}
        self.order: deque[bytes] = deque()
        self.kept_until = 0
        """Up to this time (ns) none is too old."""


class CookieJar:
    """Cookies one listener sent among those of its host, and its memory of the last overflow.

    A cookie is packed into one int (a flood sends a million of them): time_ns, options (3 bits), MSS
    index (3 bits), client ISN (32 bits), cookie (33 bits, the top one set while it has not been seen).
    """

    __slots__ = ("_clock", "_host", "_idle_ns", "_mss", "_order", "_profile", "_sent", "_stamp", "_stamp_ns")

    def __init__(self, profile: Profile, clock: Clock, host: SentCookies | None = None) -> None:
        self._profile = profile
        self._clock = clock
        self._host = host = host or SentCookies()
        self._sent, self._order = host.sent, host.order
        self._mss: dict[tuple[int, int], int] = {}
        """Index by MSS and size of the client's endpoint, those asked for so far."""
        # two ticks less: within it the stamp cannot be due, wherever the ticks are
        self._idle_ns = profile.cookie_stamp_idle_s * _NS - 2 * _NS // clock.hz
        self._stamp = 0  # jiffies, as the kernel's u32
        self._stamp_ns: int | None = None

    def send(self, key: bytes, syn: Segment, options: int = 0) -> None:
        """A SYN was answered with a cookie, whose timestamp keeps `options` (SACK, ...)."""
        now = syn.time_ns
        kind = (syn.mss, len(syn.src))
        index = self._mss.get(kind)
        if index is None:
            index = self._mss[kind] = mss_index(self._profile, syn.mss, ipv6=len(syn.src) > 6)  # noqa: PLR2004 - bytes of an IPv4 endpoint
        self._sent[key] = (((now << 6 | options << 3 | index) << 32 | syn.seq) << 33) | _UNKNOWN
        self._order.append(key)
        if now > self._host.kept_until:
            self._forget(now)
        if self._stamp_ns is None or now - self._stamp_ns > self._idle_ns:
            self._overflow(now)

    def seen(self, key: bytes, isn: int) -> None:
        """The SYN-ACK that carried the cookie was captured."""
        packed = self._sent.get(key)
        if packed is not None:
            self._sent[key] = (packed >> 33 << 33) | isn

    def take_back(self, key: bytes) -> None:
        """The wire shows that no cookie was sent."""
        self._sent.pop(key, None)

    def _forget(self, now: int) -> None:
        horizon = now - _MEMORY_NS
        order, sent = self._order, self._sent
        while order:
            packed = sent.get(order[0])
            if packed is not None and packed >> _TIME >= horizon:
                self._host.kept_until = (packed >> _TIME) + _MEMORY_NS
                break
            sent.pop(order.popleft(), None)

    def _overflow(self, now: int) -> None:
        clock = self._clock
        tick = clock.tick(now) & _MASK
        idle = self._profile.cookie_stamp_idle_s * clock.hz
        if self._stamp_ns is None or not idle or (tick - self._stamp) & _MASK > idle:
            self._stamp = tick
            self._stamp_ns = now

    def recent_overflow(self, now: int) -> bool:
        """Whether acknowledgements without a request are checked for a cookie at all.

        The stamp starts at 0, which jiffies (u32) pass 300 s after boot: a listener that never
        overflowed then looks as if it had, for two minutes.
        """
        clock = self._clock
        if self._stamp_ns is None and not (clock.exact and self._profile.cookie_stamp_from_zero):
            return False
        since = clock.tick(now) - self._stamp + clock.hz
        return since & _MASK <= (self._profile.cookie_window_s + 1) * clock.hz

    def options(self, key: bytes) -> int:
        """What the timestamp of a cookie that was sent keeps: SACK, WINDOW_SCALE, ECN."""
        return self._sent.get(key, 0) >> _OPTIONS & (SACK | WINDOW_SCALE | ECN)

    def verify(self, key: bytes, ack: Segment) -> Literal["valid", "expired", "invalid", "unclear"]:
        """What check_tcp_syn_cookie says of an ACK; unclear where the cookie minute is not known."""
        packed = self._sent.get(key)
        if packed is None:
            return "invalid"
        isn = packed & _MASK
        client_isn = (packed >> 33) & _MASK
        if not packed & _UNKNOWN:
            index = (packed >> 65) & 7
            off = ((ack.ack - 1 - isn) - (ack.seq - 1 - client_isn)) & _MASK
            if (index + off) & _MASK >= len(self._profile.cookie_mss_v4):
                return "invalid"
        elif ack.seq != (client_isn + 1) & _MASK:
            return "invalid"
        max_age = self._profile.cookie_max_age
        sent_low = self._clock.minute(packed >> _TIME)
        low = self._clock.minute(ack.time_ns)
        if self._clock.exact:
            return "valid" if low - sent_low < max_age else "expired"
        age_ns = ack.time_ns - (packed >> _TIME)
        if age_ns <= (max_age - 1) * _MINUTE_NS:
            return "valid"
        return "unclear" if age_ns < max_age * _MINUTE_NS else "expired"
