"""The kernel families that are modelled, and which of them answers for a given `uname -r`.

Profiles are a base plus changes. Version numbers are compared here and nowhere else, because
distributions carry changes back: a release string picks a profile, code asks the profile.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from backlogtrace.kernel import changes
from backlogtrace.kernel.profile import Change, Profile, derive

if TYPE_CHECKING:
    from collections.abc import Sequence

Levels = tuple[tuple[int, Profile], ...]


def _series(name: str, base: Profile, tree: str, *steps: tuple[int, Sequence[Change]], proved: int = -1) -> Levels:
    """Profiles of a stable series: (first patch level, profile).

    The one that was held against a recorded kernel (`tree`) has the bare name of the series.
    """
    levels: list[tuple[int, Profile]] = []
    for position, (patch, made) in enumerate(steps):
        named = position == proved % len(steps)
        profile = derive(base, name if named else f"{name}.{patch}", tree if named else f"v{name}.{patch}", *made)
        levels.append((patch, profile))
        base = profile
    return tuple(levels)


_SPARE = changes.SYN_QUEUE_BACKLOG_PLUS_ONE
_TSVAL = changes.REQUEST_KEEPS_TSVAL
_EXACT = changes.RST_EXACT

_V3_10: Final = Profile(
    name="3.10",
    tree="v3.10.108",
    syn_table=True,
    full_queue_admits_young=1,
    timer="prune",
    requests_die_with_listener=True,
    syncookies_2_is_1=True,
    cookie_counts_drop=True,
    cookie_mss_v4=(64, 512, 536, 1024, 1440, 1460, 4312, 8960),
    cookie_mss_v6=(64, 512, 536, 1220, 1420, 1440, 4400, 8940),
    cookie_max_age=4,
    cookie_window_s=3,
    cookie_stamp_idle_s=0,
    cookie_stamp_from_zero=False,
    stray_ack_counts_failed=True,
    wrong_ack_may_be_cookie=False,
    duplicate_syn_limited=False,
    out_of_window_limited=False,
    counts_syn_retrans=False,
    established_syn_acked=False,
    timewait_acks_limited=False,
    timewait_syn_is_plain=False,
    fastopen_option_34=False,
    fastopen_counts_every_syn=True,
    fastopen_clamped=False,
    dataless_fastopen=False,
    defaults={"net.core.somaxconn": 128, "net.ipv4.tcp_fastopen": 0},
)
_EL7: Final = replace(
    _V3_10,
    name="3.10-el7",
    tree="RHEL 7, 3.10.0-514.el7",
    syncookies_2_is_1=False,
    cookie_mss_v4=(536, 1300, 1440, 1460),
    cookie_mss_v6=(1220, 1420, 1440, 8940),
    cookie_max_age=2,
    duplicate_syn_limited=True,
    counts_syn_retrans=True,
    established_syn_acked=True,
    timewait_acks_limited=True,
    fastopen_option_34=True,
    fastopen_counts_every_syn=False,
)
_V4_4_1: Final = replace(
    _EL7,
    name="4.4.1",
    tree="v4.4.1",
    syn_table=False,
    timer="tick",
    requests_die_with_listener=False,
    cookie_window_s=120,
    cookie_stamp_idle_s=1,
    stray_ack_counts_failed=False,
    wrong_ack_may_be_cookie=True,
    fastopen_clamped=True,
    defaults={"net.core.somaxconn": 128},
)
_V4_4: Final = replace(_V4_4_1, name="4.4", tree="v4.4.178", full_queue_admits_young=-1)

EL8: Final = Profile(
    name="4.18-el8",
    tree="RHEL 8.3, 4.18.0-240.el8",
    dataless_fastopen=False,
    defaults={"net.core.somaxconn": 128},
)
_5_4 = _series("5.4", EL8, "v5.4.59", (0, [changes.SOMAXCONN_4096]), (290, [_SPARE]), proved=0)
_5_10 = _series(
    "5.10", _5_4[0][1], "Debian 11, v5.10.262",
    (0, []), (67, [changes.FASTOPEN_DATALESS]), (234, [_SPARE]), (235, [_TSVAL]),
)  # fmt: skip
_5_15 = _series(
    "5.15", _5_10[1][1], "v5.15.135", (0, []), (177, [_SPARE]), (179, [_TSVAL]), proved=0
)
_6_1 = _series(
    "6.1", _5_15[0][1], "Debian 12, v6.1.192", (0, []), (125, [_SPARE]), (130, [_TSVAL]), (191, [_EXACT])
)
_6_6 = _series("6.6", _6_1[0][1], "v6.6.153", (0, []), (72, [_SPARE]), (81, [_TSVAL]), (153, [_EXACT]))
_6_12 = _series(
    "6.12", _6_6[0][1], "Debian 13, v6.12.117",
    (0, [changes.TIMEWAIT_SYN_EXEMPT]), (10, [_SPARE]), (18, [_TSVAL]), (105, [_EXACT]),
)  # fmt: skip
_6_18 = _series(
    "6.18", _6_12[2][1], "v6.18.44", (0, [changes.TSECR_CHECK, changes.RTO_MAX]), (42, [_EXACT])
)
_7_2 = _series("7.2", _6_18[1][1], "Debian sid, v7.2.13", (0, []))

DEFAULT: Final = _6_12[-1][1]
"""Assumed when no kernel is given."""

_STABLE: Final[dict[tuple[int, int], Levels]] = {
    (5, 4): _5_4, (5, 10): _5_10, (5, 15): _5_15, (6, 1): _6_1, (6, 6): _6_6,
    (6, 12): _6_12, (6, 18): _6_18, (7, 2): _7_2,
}  # fmt: skip
PROFILES: Final[tuple[Profile, ...]] = (
    EL8, *(profile for levels in _STABLE.values() for _, profile in levels),
)  # fmt: skip
_MAINLINE: Final[tuple[tuple[tuple[int, int], Profile], ...]] = (
    # series without stable levels of their own: the newest line not above them stands in
    ((4, 10), EL8),
    ((5, 4), _5_4[0][1]),
    ((5, 10), _5_10[0][1]),
    ((5, 14), _5_15[0][1]),
    ((5, 18), _6_1[0][1]),
    ((6, 10), _6_12[0][1]),
    ((6, 13), _6_12[1][1]),
    ((6, 14), _6_12[2][1]),
    ((6, 15), _6_18[0][1]),
    ((7, 2), _7_2[0][1]),
)
# Distributions that count builds instead of stable levels: first build -> stable level it carries.
_DEBIAN: Final[dict[tuple[int, int], tuple[tuple[int, int], ...]]] = {
    (5, 10): ((1, 4), (9, 70), (34, 234), (35, 237), (46, 262)),
    (6, 1): ((2, 7), (31, 128), (33, 133), (55, 192)),
}
_UBUNTU: Final[dict[tuple[int, int], tuple[tuple[int, int], ...]]] = {
    (5, 4): ((0, 0), (210, 290)),
    (5, 15): ((0, 30), (135, 178), (141, 179)),
    (6, 8): ((0, 0), (71, 72), (130, 128), (148, 158)),  # levels of 6.6, which 6.8 follows
}
_RELEASE = re.compile(r"(\d{1,3})\.(\d{1,3})(?:\.(\d{1,6}))?(.*)", re.DOTALL)


def find(text: str) -> tuple[Profile, str]:
    """Profile for a family name or a `uname -r`, and a note when it only stands in for it.

    Raises ValueError with the known names when `text` is neither.
    """
    text = text.strip()
    for series, levels in _STABLE.items():
        for _, profile in levels:
            if profile.name == text:
                return profile, _later_levels(series, profile)
    if text == EL8.name:
        return EL8, ""
    match = _RELEASE.fullmatch(text)
    if match is None:
        names = [profile.name for profile in PROFILES]
        near = difflib.get_close_matches(text, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        message = f"{text!r} is no kernel family and no release as `uname -r` prints it; {hint}known: {', '.join(names)}"
        raise ValueError(message)
    patch = None if match[3] is None else int(match[3])
    return _by_release((int(match[1]), int(match[2])), patch, match[4], text)


def _by_release(series: tuple[int, int], patch: int | None, rest: str, text: str) -> tuple[Profile, str]:
    if series == (4, 18) and ".el8" in rest:
        return EL8, ""
    if series == (3, 10):
        return (_EL7, "") if ".el7" in rest else (_V3_10, "")
    if series == (4, 4):
        return (_V4_4 if (patch or 0) >= 178 else _V4_4_1), ""
    if ".el" in rest:
        return _enterprise(series, text)
    note = ""
    build = re.match(r"-(?:0\.deb\d+\.)?(\d{1,5})(-|$)", rest)
    if patch == 0 and build:
        ubuntu = series not in _DEBIAN or "generic" in rest or "lowlatency" in rest
        table = (_UBUNTU if ubuntu else _DEBIAN).get(series)
        if table is not None:
            patch = max((level for first, level in table if first <= int(build[1])), default=0)
        else:
            note = f"{text} does not tell which stable release it carries; "
        if series == (6, 8):
            series, note = (6, 6), f"Ubuntu's {text} follows 6.6 stable; "
    levels = _STABLE.get(series)
    if levels is not None:
        assert patch is not None  # bare names of modelled series are profile names
        profile = [made for first, made in levels if first <= patch][-1]
        return profile, f"{note}{profile.name} stands in" if note else ""
    older = [made for first, made in _MAINLINE if first <= series]
    if not older:
        return EL8, f"{text} is older than the modelled kernels (4.18 and later) and its rules differ; {EL8.name} stands in"
    return older[-1], f"{text} is not modelled itself; {older[-1].name} stands in"


def _later_levels(series: tuple[int, int], profile: Profile) -> str:
    """What a bare series name hides: later stable releases of it behave differently."""
    names = f"{series[0]}.{series[1]}"
    later = [patch for patch, made in _STABLE[series] if made.changes[: len(profile.changes)] == profile.changes]
    if profile.name != names or len(later) < 2:  # noqa: PLR2004 - itself and one more
        return ""
    return f"{names} is taken as {profile.tree}; releases from {names}.{later[1]} on differ, give the full `uname -r`"


def _enterprise(series: tuple[int, int], text: str) -> tuple[Profile, str]:
    """RHEL and its clones: back-ports are not visible in the release string."""
    older = [made for first, made in _MAINLINE if first <= series]
    profile = older[-1] if older else EL8
    if series == (6, 12):
        profile = _6_12[0][1]
    return profile, f"{text} carries back-ports its name does not tell; {profile.name} stands in"
