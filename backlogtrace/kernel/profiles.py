"""The kernel families that are modelled, and which of them answers for a given `uname -r`.

Profiles are a base plus changes. Version numbers are compared here and nowhere else, because
distributions carry changes back: a release string picks a profile, code asks the profile.
"""

from __future__ import annotations

import difflib
import re
from typing import Final

from backlogtrace.kernel import changes
from backlogtrace.kernel.profile import Profile, derive

EL8: Final = Profile(
    name="4.18-el8",
    tree="RHEL 8.3, 4.18.0-240.el8",
    dataless_fastopen=False,
    defaults={"net.core.somaxconn": 128},
)
V5_4: Final = derive(EL8, "5.4", "v5.4.59", changes.SOMAXCONN_4096)
V5_10_OLD: Final = derive(V5_4, "5.10.223", "Debian 11, v5.10.223", changes.FASTOPEN_DATALESS)
V5_10: Final = derive(V5_10_OLD, "5.10", "Debian 11, v5.10.262", changes.SYN_QUEUE_BACKLOG_PLUS_ONE)
V5_15_OLD: Final = derive(V5_10_OLD, "5.15", "v5.15.135")
V5_15: Final = derive(V5_15_OLD, "5.15.177", "v5.15.177", changes.SYN_QUEUE_BACKLOG_PLUS_ONE)
V6_1_OLD: Final = derive(V5_15_OLD, "6.1.124", "v6.1.124", changes.REQUEST_KEEPS_TSVAL)
V6_1: Final = derive(V6_1_OLD, "6.1", "Debian 12, v6.1.192", changes.SYN_QUEUE_BACKLOG_PLUS_ONE)
V6_12_9: Final = derive(V6_1_OLD, "6.12.9", "v6.12.9", changes.TIMEWAIT_SYN_EXEMPT)
V6_12_95: Final = derive(V6_12_9, "6.12.95", "Debian 12 backports, v6.12.95", changes.SYN_QUEUE_BACKLOG_PLUS_ONE)
V6_12: Final = derive(V6_12_95, "6.12", "Debian 13, v6.12.117", changes.RST_EXACT)
V6_18_35: Final = derive(
    V6_12_95, "6.18.35", "v6.18.35", changes.TSECR_CHECK, changes.RTO_MAX, changes.PAWS_TIMEWAIT
)
V6_18: Final = derive(V6_18_35, "6.18", "v6.18.44", changes.RST_EXACT)
V7_2: Final = derive(V6_18, "7.2", "Debian sid, v7.2.13")

PROFILES: Final[tuple[Profile, ...]] = (
    EL8, V5_4, V5_10_OLD, V5_10, V5_15_OLD, V5_15, V6_1_OLD, V6_1, V6_12_9, V6_12_95, V6_12, V6_18_35, V6_18, V7_2,
)  # fmt: skip
DEFAULT: Final = V6_12
"""Assumed when no kernel is given."""

_STABLE: Final[dict[tuple[int, int], tuple[tuple[int, Profile], ...]]] = {
    # series -> (first patch level, profile), ascending
    (5, 4): ((0, V5_4),),
    (5, 10): ((0, V5_10_OLD), (234, V5_10)),
    (5, 15): ((0, V5_15_OLD), (177, V5_15)),
    (6, 1): ((0, V6_1_OLD), (125, V6_1)),
    (6, 6): ((0, V6_1_OLD), (72, V6_1)),
    (6, 12): ((0, V6_12_9), (10, V6_12_95), (105, V6_12)),
    (6, 18): ((0, V6_18_35), (44, V6_18)),
    (7, 2): ((0, V7_2),),
}
_MAINLINE: Final[tuple[tuple[tuple[int, int], Profile], ...]] = (
    # series without a table of their own: the newest line not above them answers
    ((4, 18), EL8),
    ((5, 4), V5_4),
    ((5, 10), V5_10_OLD),
    ((5, 15), V5_15_OLD),
    ((5, 17), V6_1_OLD),
    ((6, 14), V6_12_95),
    ((6, 15), V6_18_35),
    ((7, 0), V7_2),
)
_DEBIAN_ABI: Final[dict[tuple[int, int], tuple[tuple[int, int], ...]]] = {
    # `5.10.0-NN-…`: Debian's ABI number -> first upstream patch level built under it
    (5, 10): ((0, 0), (32, 223), (33, 226), (34, 234), (46, 262)),
    (6, 1): ((0, 0), (30, 124), (31, 128), (50, 176), (56, 192)),
}
_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(.*)", re.DOTALL)


def find(text: str) -> tuple[Profile, str]:
    """Profile for a family name or a `uname -r`, and a note when it only stands in.

    Raises ValueError with the known names when `text` is neither.
    """
    text = text.strip()
    for profile in PROFILES:
        if profile.name == text:
            return profile, ""
    match = _RELEASE.fullmatch(text)
    if match is None:
        names = [profile.name for profile in PROFILES]
        near = difflib.get_close_matches(text, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        message = f"{text!r} is no kernel family and no release as `uname -r` prints it; {hint}known: {', '.join(names)}"
        raise ValueError(message)
    major, minor, patch, rest = int(match[1]), int(match[2]), int(match[3] or -1), match[4]
    return _by_release((major, minor), patch, rest, text)


def _by_release(series: tuple[int, int], patch: int, rest: str, text: str) -> tuple[Profile, str]:
    if series == (4, 18) and ".el8" in rest:
        return EL8, ""
    table = _STABLE.get(series)
    debian = re.match(r"-(\d+)-", rest) if patch == 0 else None
    if debian and series in _DEBIAN_ABI and "generic" not in rest:
        abi = int(debian[1])
        patch = max(level for first, level in _DEBIAN_ABI[series] if first <= abi)
    if table is not None:
        if patch < 0:  # a bare series name means its newest
            return table[-1][1], ""
        profile = max((entry for entry in table if entry[0] <= patch), key=lambda entry: entry[0])[1]
        if patch == 0 and len(table) > 1 and not debian:
            return profile, f"{text} does not tell the stable level it was built from; {profile.name} stands in"
        if patch == 0 and debian and "generic" in rest:
            return profile, f"Ubuntu's {text} carries fixes of later stable releases; {profile.name} stands in"
        return profile, ""
    older = [profile for first, profile in _MAINLINE if first <= series]
    if not older:
        return EL8, f"{text} is older than the kernels that are modelled (4.18 and later): {EL8.name} stands in, and its rules differ"
    return older[-1], f"{text} is not modelled itself; {older[-1].name} ({older[-1].tree}) stands in"
