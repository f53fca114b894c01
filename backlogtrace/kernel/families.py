"""The kernel families that are modelled: 3.10 is the base, every other one is a base plus changes.

The profiles that were held against a recorded kernel name it as their tree; the others follow from
the changes alone. Refuses to know what `uname -r` prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from backlogtrace.kernel import changes
from backlogtrace.kernel.profile import Change, Profile, derive

if TYPE_CHECKING:
    from collections.abc import Sequence

Levels = tuple[tuple[int, Profile], ...]
"""Profiles of a stable series: (first patch level, profile), ascending."""


def _series(
    name: str, base: Profile, tree: str, *steps: tuple[int, Sequence[Change]], proved: int = -1
) -> Levels:
    """A stable series whose back-ports came in `steps` (first patch level, changes).

    The step that was held against a recorded kernel (`tree`) has the bare name of the series; where
    none was, the newest has it.
    """
    levels: list[tuple[int, Profile]] = []
    for position, (patch, made) in enumerate(steps):
        level = f"{name}.{patch}"
        title = (name, tree) if position == proved % len(steps) else (level, f"v{level}")
        base = derive(base, *title, *made)
        levels.append((patch, base))
    return tuple(levels)


_SPARE = changes.SYN_QUEUE_BACKLOG_PLUS_ONE
_TSVAL = changes.REQUEST_KEEPS_TSVAL
_SPRING_2026 = (changes.RST_EXACT, changes.TSVAL_OFFSET_CONNECTION)
_STAMP = changes.COOKIE_STAMP_FROM_ZERO
_TIMESTAMPS_4_13 = (changes.TSVAL_MS, changes.TSVAL_OFFSET_HOST, changes.TW_RECYCLE_GONE)
_COOKIES_3_13 = (changes.SYNCOOKIES_2, changes.COOKIE_MSS_V4, changes.COOKIE_MSS_V6, changes.COOKIE_AGE)
_SEGMENTS_4_0 = (
    changes.SYN_RETRANS, changes.FASTOPEN_CHILDREN_COUNTED, changes.FASTOPEN_NO_FLAG_1000,
    changes.SYN_CHALLENGED, changes.TW_RECYCLE_TIMESTAMPS,
    changes.DUPLICATE_SYN_LIMITED, changes.TIMEWAIT_ACKS_LIMITED, changes.COOKIE_ECN_FORGIVEN,
)  # fmt: skip

V3_10: Final = Profile(
    name="3.10",
    tree="v3.10.108",
    syn_table=True,
    full_queue_admits_young=1,
    timer="prune",
    requests_die_with_listener=True,
    syncookies_2_is_1=True,
    cookie_counts_drop=True,
    cookie_mss_v4=(64, 512, 536, 1024, 1440, 1460, 4312, 8960),
    backlog_bits=16,
    cookie_mss_v6=(64, 512, 536, 1220, 1420, 1440, 4400, 8940),
    cookie_max_age=4,
    cookie_window_s=3,
    cookie_stamp_idle_s=0,
    cookie_stamp_from_zero=False,
    cookie_stamp_of_group=False,
    stray_ack_counts_failed=True,
    wrong_ack_may_be_cookie=False,
    duplicate_syn_limited=False,
    out_of_window_limited=False,
    counts_syn_retrans=False,
    established_syn_acked=False,
    challenge_limit_0_is_none=True,
    tw_recycle=True,
    tw_recycle_needs_timestamp=False,
    timewait_acks_limited=False,
    timewait_syn_is_plain=False,
    cookie_needs_ecn=True,
    fastopen_option_34=False,
    fastopen_counts_every_syn=True,
    fastopen_flag_1000=True,
    fastopen_clamped=False,
    tsval_clock="jiffies",
    tsval_offset="none",
    dataless_fastopen=False,
    defaults={"net.core.somaxconn": 128, "net.ipv4.tcp_fastopen": 0},
)
EL7: Final = derive(
    V3_10, "3.10-el7", "RHEL 7, 3.10.0-514.el7", *_COOKIES_3_13, *_SEGMENTS_4_0,
    changes.FASTOPEN_OPTION_34, usual_hz=1000,
)  # fmt: skip
V3_13: Final = derive(V3_10, "3.13", "v3.13", *_COOKIES_3_13, changes.FASTOPEN_CLIENT)
V4_0: Final = derive(V3_13, "4.0", "v4.0", *_SEGMENTS_4_0, changes.STRAY_ACK_SILENT)
V4_1: Final = derive(V4_0, "4.1", "v4.1", changes.FASTOPEN_OPTION_34, changes.REQUEST_TIMERS)
V4_4_1: Final = derive(
    V4_1, "4.4.1", "v4.4.1",
    changes.NO_SYN_TABLE, changes.REQUESTS_OUTLIVE_LISTENER, changes.WRONG_ACK_TRIED,
    changes.COOKIE_WINDOW, changes.COOKIE_STAMP, changes.FASTOPEN_CLAMPED,
)  # fmt: skip
V4_4: Final = derive(V4_4_1, "4.4", "v4.4.178", changes.NO_FULL_QUEUE_GRACE)
V4_7: Final = derive(V4_4_1, "4.7", "v4.7", changes.COOKIE_NO_DROP, changes.OUT_OF_WINDOW_LIMITED)
V4_8: Final = derive(V4_7, "4.8", "v4.8", changes.TIMER_WHEEL)
_4_9 = _series("4.9", V4_8, "v4.9.207", (0, []), (207, [_STAMP]))
V4_10: Final = derive(V4_8, "4.10", "v4.10", changes.NO_FULL_QUEUE_GRACE, changes.TSVAL_OFFSET)
_4_14 = _series("4.14", V4_10, "v4.14.160", (0, _TIMESTAMPS_4_13), (160, [_STAMP]))
V4_15: Final = derive(V4_10, "4.15", "v4.15", *_TIMESTAMPS_4_13, changes.TIMEWAIT_SYN_PLAIN)
V4_18: Final = derive(V4_15, "4.18", "v4.18", changes.COOKIE_STAMP_OF_GROUP)
EL8: Final = derive(V4_18, "4.18-el8", "RHEL 8, 4.18.0-240.el8", _STAMP, changes.BACKLOG_32, usual_hz=1000)
_4_19 = _series("4.19", V4_18, "v4.19.91", (0, []), (91, [_STAMP]))
_5_4 = _series(
    "5.4", V4_18, "v5.4.59",
    (0, [changes.SOMAXCONN_4096, changes.BACKLOG_32]), (5, [_STAMP]), (290, [_SPARE]), proved=1,
)  # fmt: skip
_5_10 = _series(
    "5.10", _5_4[1][1], "Debian 11, v5.10.262",
    (0, []), (67, [changes.FASTOPEN_DATALESS]), (234, [_SPARE]), (235, [_TSVAL]),
)  # fmt: skip
_5_15 = _series(
    "5.15", _5_10[1][1], "v5.15.135",
    (0, [changes.REQUESTS_MIGRATE]), (177, [_SPARE]), (179, [_TSVAL]), proved=0,
)  # fmt: skip
_6_1 = _series(
    "6.1", _5_15[0][1], "Debian 12, v6.1.192",
    (0, [changes.CHALLENGE_UNLIMITED]), (125, [_SPARE]), (130, [_TSVAL]), (191, _SPRING_2026),
)  # fmt: skip
_6_6 = _series(
    "6.6", _6_1[0][1], "v6.6.153",
    (0, [changes.CHALLENGE_ZERO]), (72, [_SPARE]), (81, [_TSVAL]), (153, _SPRING_2026),
)  # fmt: skip
_6_12 = _series(
    "6.12", _6_6[0][1], "Debian 13, v6.12.117",
    (0, [changes.TIMEWAIT_SYN_EXEMPT]), (10, [_SPARE]), (18, [_TSVAL]),
    (105, _SPRING_2026),
)  # fmt: skip
_6_18 = _series(
    "6.18", _6_12[2][1], "v6.18.44", (0, [changes.TSECR_CHECK, changes.RTO_MAX]), (42, _SPRING_2026)
)
_7_2 = _series("7.2", _6_18[1][1], "Debian sid, v7.2.13", (0, []))

DEFAULT: Final = _6_12[-1][1]
"""Assumed when no kernel is given."""
STABLE: Final[dict[tuple[int, int], Levels]] = {
    (3, 10): ((0, V3_10),), (4, 4): ((0, V4_4_1), (178, V4_4)),
    (4, 9): _4_9, (4, 14): _4_14, (4, 19): _4_19, (5, 4): _5_4, (5, 10): _5_10, (5, 15): _5_15,
    (6, 1): _6_1, (6, 6): _6_6, (6, 12): _6_12, (6, 18): _6_18, (7, 2): _7_2,
}  # fmt: skip
"""Series whose stable releases are told apart."""
MAINLINE: Final[tuple[tuple[tuple[int, int], Profile], ...]] = (
    ((3, 10), V3_10),
    ((3, 13), V3_13),
    ((4, 0), V4_0),
    ((4, 1), V4_1),
    ((4, 4), V4_4_1),
    ((4, 7), V4_7),
    ((4, 8), V4_8),
    ((4, 10), V4_10),
    ((4, 15), V4_15),
    ((4, 18), V4_18),
    ((5, 4), _5_4[0][1]),
    ((5, 5), _5_4[1][1]),
    ((5, 10), _5_10[0][1]),
    ((5, 14), _5_15[0][1]),
    ((6, 1), _6_1[0][1]),
    ((6, 2), _6_6[0][1]),
    ((6, 10), _6_12[0][1]),
    ((6, 13), _6_12[1][1]),
    ((6, 14), _6_12[2][1]),
    ((6, 15), _6_18[0][1]),
    ((7, 2), _7_2[0][1]),
)
"""(first mainline version, what stands in from there on) for series without levels of their own."""
PROFILES: Final[tuple[Profile, ...]] = (
    V3_10, EL7, V3_13, V4_0, V4_1, V4_4_1, V4_4, V4_7, V4_8, *(profile for _, profile in _4_9),
    V4_10, *(profile for _, profile in _4_14), V4_15, V4_18, EL8,
    *(profile for series, levels in STABLE.items() if series > (4, 18) for _, profile in levels),
)  # fmt: skip
"""All families, oldest first."""
RECORDED: Final = frozenset(
    ("3.10", "3.10-el7", "4.4.1", "4.4", "5.4", "5.10", "5.15", "6.1", "6.12", "6.18", "7.2")
)
"""Names of the families that were held packet by packet against a running kernel."""
