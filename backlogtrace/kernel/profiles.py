"""Which kernel family answers for a name, a distribution or what `uname -r` prints.

Version numbers are compared here and nowhere else, because distributions carry changes back: a
release string picks a profile, code asks the profile. Refuses to know what the profiles say.
"""

from __future__ import annotations

import difflib
import re
from typing import Final

from backlogtrace.kernel import distributions
from backlogtrace.kernel.families import DEFAULT, EL7, EL8, MAINLINE, PROFILES, STABLE
from backlogtrace.kernel.profile import Profile

__all__ = ["DEFAULT", "PROFILES", "Profile", "find"]

# Distributions that count builds instead of stable levels: first build -> stable level it carries.
_DEBIAN: Final[dict[tuple[int, int], tuple[tuple[int, int], ...]]] = {
    (4, 19): ((1, 37), (6, 67), (8, 98), (27, 316)),
    (5, 10): ((1, 4), (9, 70), (34, 234), (35, 237), (46, 262)),
    (6, 1): ((2, 7), (31, 128), (33, 133), (55, 192)),
}
_UBUNTU: Final[dict[tuple[int, int], tuple[tuple[int, int], ...]]] = {
    (5, 4): ((0, 30), (210, 290)),
    (5, 15): ((0, 30), (135, 178), (141, 179)),
    (6, 8): ((0, 0), (71, 72), (130, 128), (148, 158)),  # levels of 6.6, which 6.8 follows
}
_RELEASE = re.compile(r"(\d{1,3})\.(\d{1,3})(?:\.(\d{1,6}))?((?:[-+._~].*)?)", re.DOTALL)
_BUILD = re.compile(r"-(?:0\.deb\d+\.)?(\d{1,5})(-|$)")
_NAMED: Final = {profile.name: profile for profile in PROFILES}


def find(text: str) -> tuple[Profile, str]:
    """Profile for a family, a distribution or a `uname -r`, and a note when it only stands in for it.

    Raises ValueError that says what is known when `text` is none of them.
    """
    text = text.strip()
    if text in _NAMED:
        return _NAMED[text], _later_levels(_NAMED[text])
    distribution = distributions.release(text)
    if distribution is not None:
        kernel, note = distribution
        profile, doubt = find(kernel)
        return profile, f"{note}; {doubt}" if doubt and profile.name != kernel else note
    match = _RELEASE.fullmatch(text)
    if match is None:
        raise ValueError(_complaint(text))
    patch = None if match[3] is None else int(match[3])
    return _by_release((int(match[1]), int(match[2])), patch, match[4], text)


def _complaint(text: str) -> str:
    near = difflib.get_close_matches(text.lower(), [*_NAMED, *distributions.NAMES], n=1)
    hint = f"did you mean {near[0]}? " if near else "`backlogtrace kernels` lists them; "
    return (
        f"{text!r} is no kernel family, no distribution and no release as `uname -r` prints it; {hint}"
        f"examples: {DEFAULT.name}, {distributions.NAMES[0]}, 5.15.0-139-generic"
    )


def _by_release(series: tuple[int, int], patch: int | None, rest: str, text: str) -> tuple[Profile, str]:
    if ".el" in rest:
        return _enterprise(series, text)
    note = ""
    build = _BUILD.match(rest)
    if patch == 0 and build:
        ubuntu = series not in _DEBIAN or "generic" in rest or "lowlatency" in rest
        table = (_UBUNTU if ubuntu else _DEBIAN).get(series)
        if table is not None:
            patch = max((level for first, level in table if first <= int(build[1])), default=0)
        else:
            note = f"{text} does not tell which stable release it carries; "
        if series == (6, 8):
            series, note = (6, 6), f"Ubuntu's {text} follows 6.6 stable; "
    levels = STABLE.get(series)
    if levels is not None:
        assert patch is not None  # bare names of these series are profile names
        profile = [made for first, made in levels if first <= patch][-1]
        return profile, f"{note}{profile.name} stands in" if note else ""
    profile = _mainline(series)
    if series < next(iter(STABLE)):
        note = f"{text} is older than the modelled kernels (3.10 and later) and its rules differ"
    elif f"{series[0]}.{series[1]}" == profile.name and not patch and not rest:
        return profile, ""
    else:
        note = f"{text} is not modelled itself"
    return profile, f"{note}; {profile.name} stands in"


def _mainline(series: tuple[int, int]) -> Profile:
    """What stands in for a mainline version: the newest family not above it, else the oldest."""
    return [MAINLINE[0][1], *(made for first, made in MAINLINE if first <= series)][-1]


def _later_levels(profile: Profile) -> str:
    """What a bare series name hides: later stable releases of it behave differently."""
    for (major, minor), levels in STABLE.items():
        if profile.name != f"{major}.{minor}":
            continue
        known = len(profile.changes)
        later = [patch for patch, made in levels if made.changes[:known] == profile.changes]
        if len(later) > 1:
            return (
                f"{profile.name} is taken as {profile.tree}; releases from {profile.name}.{later[1]} on "
                "differ, give the full `uname -r`"
            )
    return ""


def _enterprise(series: tuple[int, int], text: str) -> tuple[Profile, str]:
    """RHEL and its clones: back-ports are not visible in the release string."""
    if series == (3, 10):
        return EL7, ""
    if series == (4, 18):
        return EL8, ""
    profile = STABLE[6, 12][0][1] if series == (6, 12) else _mainline(series)
    return profile, f"{text} carries back-ports its name does not tell; {profile.name} stands in"
