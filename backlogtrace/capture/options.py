"""TCP options as the kernel's tcp_parse_options() reads them.

Sources: RFC 9293 section 3.1, RFC 7323, RFC 2018, RFC 7413, and its experimental form (RFC 6994).
Knows nothing about what a listener makes of them.
"""

from __future__ import annotations

END, NOP, MSS, WINDOW_SCALE, SACK_PERMITTED, TIMESTAMPS, FAST_OPEN, EXPERIMENT = 0, 1, 2, 3, 4, 8, 34, 254
FAST_OPEN_MAGIC = b"\xf9\x89"
MAX_WINDOW_SCALE = 14
"""RFC 7323 section 2.3; the kernel uses 14 where more is offered."""
COOKIE_MIN, COOKIE_MAX = 4, 16
"""Bytes of a Fast Open cookie."""

Parsed = tuple[int, int, bool, int, int, bytes | None]
"""(MSS, window scale, SACK permitted, timestamp value, timestamp echo, Fast Open), absent as in Segment."""

NO_OPTIONS: Parsed = (0, -1, False, -1, -1, None)


def parse_options(options: bytes, syn: bool) -> Parsed:
    """Reads the option bytes behind the fixed header; `syn` says whether the SYN flag is set.

    Stops, as the kernel does, at an end-of-options, at a length below 2 and at an option that overruns.
    """
    mss, wscale, sack_ok, tsval, tsecr, fastopen = NO_OPTIONS
    at, end = 0, len(options)
    while at < end:
        kind = options[at]
        if kind == NOP:
            at += 1
            continue
        if kind == END or at + 2 > end:
            break
        size = options[at + 1]
        if size < 2 or at + size > end:
            break
        if kind == TIMESTAMPS and size == 10:
            tsval = int.from_bytes(options[at + 2 : at + 6], "big")
            tsecr = int.from_bytes(options[at + 6 : at + 10], "big")
        elif syn:
            if kind == MSS and size == 4:
                # an MSS of 0 leaves what was there
                mss = int.from_bytes(options[at + 2 : at + 4], "big") or mss
            elif kind == WINDOW_SCALE and size == 3:
                wscale = min(options[at + 2], MAX_WINDOW_SCALE)
            elif kind == SACK_PERMITTED and size == 2:
                sack_ok = True
            elif kind == FAST_OPEN:
                fastopen = fast_open_cookie(options[at + 2 : at + size], fastopen)
            elif kind == EXPERIMENT and options[at + 2 : at + 4] == FAST_OPEN_MAGIC and size >= 4:
                fastopen = fast_open_cookie(options[at + 4 : at + size], fastopen)
        at += size
    return mss, wscale, sack_ok, tsval, tsecr, fastopen


def fast_open_cookie(cookie: bytes, before: bytes | None) -> bytes | None:
    """What the kernel's tcp_parse_fastopen_option() makes of an option body; `before` is what it had."""
    size = len(cookie)
    if size & 1:
        return before
    if size == 0 or COOKIE_MIN <= size <= COOKIE_MAX:
        return cookie
    return None
