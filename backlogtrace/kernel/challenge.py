"""Challenge ACKs: how many a host may still send in the second at hand.

The budget of a second is drawn at random, half of tcp_challenge_ack_limit to one and a half times it,
and seconds begin where jiffies are a multiple of HZ. What follows from neither is not known here.

Source: net/ipv4/tcp_input.c (tcp_send_challenge_ack).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from backlogtrace.kernel.clock import NS, TickClock

if TYPE_CHECKING:
    from backlogtrace.kernel.clock import Clock
    from backlogtrace.kernel.profile import Profile
    from backlogtrace.kernel.settings import Settings

_SLACK_TICKS = 2


class ChallengeAcks:
    """The challenge ACKs of a host (of a network namespace since 6.1)."""

    def __init__(self, profile: Profile, settings: Settings, clock: Clock) -> None:
        self._profile = profile
        self._settings = settings
        self._clock = clock
        self._sent: deque[int] = deque()
        self._maybe: deque[int] = deque()

    def sent(self, now_ns: int) -> None:
        """One was sent."""
        _note(self._sent, now_ns)

    def may_be_sent(self, now_ns: int) -> None:
        """A segment came that is answered with one, or not: its connection's matter."""
        _note(self._maybe, now_ns)

    def allowed(self, now_ns: int) -> bool | None:
        """Whether one more may be sent; None: it depends on what was drawn."""
        limit = self._settings.tcp_challenge_ack_limit
        if not limit and self._profile.challenge_limit_0_is_none:
            return False
        least = (limit + 1) // 2
        if not limit or len(self._sent) + len(self._maybe) < least:
            return True
        since, sure = self._second(now_ns)
        if sum(when >= since for when in (*self._sent, *self._maybe)) < least:
            return True
        if sure is not None and sum(when >= sure for when in self._sent) >= least + limit - 1:
            return False
        return None

    def _second(self, now_ns: int) -> tuple[int, int | None]:
        """When the second at hand began at the earliest, and at the latest (None: maybe just now)."""
        clock = self._clock
        slack = _SLACK_TICKS * clock.tick_ns
        if not clock.exact or not isinstance(clock, TickClock):
            return now_ns - NS - slack, None
        newest = clock.jiffies(now_ns) + clock.lags[0]
        phases = [(newest - lag) % clock.hz for lag in clock.lags]
        earliest = now_ns - (max(phases) + 1) * clock.tick_ns - slack
        if min(phases) < _SLACK_TICKS or max(phases) >= clock.hz - _SLACK_TICKS:
            return earliest, None
        return earliest, now_ns - min(phases) * clock.tick_ns + slack


def _note(times: deque[int], now_ns: int) -> None:
    times.append(now_ns)
    while times[0] < now_ns - 2 * NS:
        times.popleft()
