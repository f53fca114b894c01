"""Nanoseconds as people write them: seconds after the start, durations, UTC dates.

Knows integers only, so that no nanosecond is rounded away and no year is too late for a date.
Refuses to know time zones other than UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime

_SECOND = 1_000_000_000
_LAST_DATE_S = 253_402_300_799
"""9999-12-31 23:59:59, the last second that datetime can name."""


def seconds(span_ns: int) -> str:
    """`1.234567`: seconds and microseconds, cut (not rounded), with a sign only when negative."""
    sign, span_ns = ("-", -span_ns) if span_ns < 0 else ("", span_ns)
    whole, rest = divmod(span_ns, _SECOND)
    return f"{sign}{whole}.{rest // 1000:06d}"


def duration(span_ns: int) -> str:
    """A span as one reads it aloud: `850 us`, `12.3 ms`, `4.02 s`, `3 min 5 s`, `2 h 4 min`."""
    if span_ns < 1_000_000:  # noqa: PLR2004
        return f"{span_ns // 1000} us"
    if span_ns < _SECOND:
        return f"{span_ns / 1e6:.3g} ms" if span_ns < 999_500_000 else "1 s"  # noqa: PLR2004
    whole = span_ns // _SECOND
    if whole < 120:  # noqa: PLR2004
        return f"{span_ns / 1e9:.4g} s"
    if whole < 7200:  # noqa: PLR2004
        return f"{whole // 60} min {whole % 60} s"
    if whole < 172_800:  # noqa: PLR2004 - two days
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def utc(time_ns: int) -> str:
    """`2026-11-22 15:06:01.123456 UTC`; seconds since the epoch where no calendar reaches."""
    whole, rest = divmod(time_ns, _SECOND)
    if not 0 <= whole <= _LAST_DATE_S:
        return f"{seconds(time_ns)} s after 1970"
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%d %H:%M:%S}.{rest // 1000:06d} UTC"
