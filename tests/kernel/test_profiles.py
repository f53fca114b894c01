"""Provenance of the profiles, and which of them answers for a name."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from backlogtrace.kernel import changes, distributions, families, profiles
from backlogtrace.kernel.profile import BEHAVIOURS, Change, Profile, derive, differences

EVERY_CHANGE = [change for change in vars(changes).values() if isinstance(change, Change)]
NAMED = {profile.name: profile for profile in profiles.PROFILES}


def base_of(profile: Profile) -> list[Profile]:
    """The profiles whose changes are the beginning of this one's, all but the profile itself."""
    return [
        other for other in profiles.PROFILES
        if other is not profile and profile.changes[: len(other.changes)] == other.changes
    ]  # fmt: skip


@pytest.mark.parametrize("change", EVERY_CHANGE, ids=lambda change: f"{change.field}-{change.since}")
def test_every_change_says_where_it_comes_from(change: Change) -> None:
    assert re.fullmatch(r"v\d+\.\d+", change.since)
    assert re.fullmatch(r"([0-9a-f]{12})?", change.commit)
    assert change.subject or not change.commit
    assert change.field in BEHAVIOURS
    assert change.summary
    assert not change.summary.endswith(".")
    assert change.functions
    assert all(re.fullmatch(r"v\d+\.\d+\.\d+|\d+\.\d+\.\d+-\d+\.el\d+", tree) for tree in change.backports)


@pytest.mark.parametrize("change", EVERY_CHANGE, ids=lambda change: f"{change.field}-{change.since}")
def test_every_change_is_used_and_makes_a_difference(change: Change) -> None:
    having = [profile for profile in profiles.PROFILES if change in profile.changes]
    assert having
    assert any(getattr(profile, change.field) != change.after for profile in profiles.PROFILES)


@pytest.mark.parametrize("profile", profiles.PROFILES, ids=lambda profile: profile.name)
def test_a_profile_is_the_oldest_plus_its_changes(profile: Profile) -> None:
    values = {change.field: change.after for change in profile.changes}
    expected = replace(families.V3_10, **values)  # type: ignore[arg-type]
    assert {name: getattr(profile, name) for name in BEHAVIOURS} == {
        name: getattr(expected, name) for name in BEHAVIOURS
    }


@pytest.mark.parametrize("profile", profiles.PROFILES[1:], ids=lambda profile: profile.name)
def test_neighbours_differ_by_exactly_the_changes_between_them(profile: Profile) -> None:
    base = max(base_of(profile), key=lambda other: len(other.changes))
    added = profile.changes[len(base.changes) :]
    forward, back = differences(base, profile), differences(profile, base)
    assert sorted(change.summary for entry in forward for change in entry.changes) == sorted(
        change.summary for change in added
    )
    assert not any(entry.undone for entry in forward)
    assert all(entry.undone for entry in back)
    assert {entry.field: (entry.after, entry.before) for entry in back} == {
        entry.field: (entry.before, entry.after) for entry in forward
    }


def test_differences_of_branches_name_the_changes_of_either_side() -> None:
    """4.4.178 has the back-port that 4.7 lacks; 4.7 has two changes that 4.4 never got."""
    found = {entry.field: entry for entry in differences(NAMED["4.4"], NAMED["4.7"])}
    assert set(found) == {"full_queue_admits_young", "cookie_counts_drop", "out_of_window_limited"}
    assert found["full_queue_admits_young"].changes == (changes.NO_FULL_QUEUE_GRACE,)
    assert {name for name, entry in found.items() if entry.undone} == {"full_queue_admits_young"}


def test_a_value_that_changed_twice_lists_both_changes() -> None:
    [timer] = [entry for entry in differences(NAMED["3.10"], NAMED["6.12"]) if entry.field == "timer"]
    assert (timer.before, timer.after) == ("prune", "wheel")
    assert timer.changes == (changes.REQUEST_TIMERS, changes.TIMER_WHEEL)


@pytest.mark.parametrize("first", profiles.PROFILES, ids=lambda profile: profile.name)
def test_every_difference_has_a_change_behind_it(first: Profile) -> None:
    for second in profiles.PROFILES:
        assert all(entry.changes for entry in differences(first, second))


def test_deriving_what_is_so_already_is_an_error() -> None:
    with pytest.raises(ValueError, match="syn_spare is 1 already"):
        derive(NAMED["6.12"], "5.9", "v5.9", changes.SYN_QUEUE_BACKLOG_PLUS_ONE)
    with pytest.raises(ValueError, match="dataless_fastopen is True already"):
        derive(NAMED["5.4"], "x", "x", changes.FASTOPEN_DATALESS, changes.FASTOPEN_DATALESS)
    with pytest.raises(AttributeError, match="no_such_field"):
        derive(NAMED["6.12"], "x", "x", replace(changes.RTO_MAX, field="no_such_field"))


def test_names_are_unique_and_find_themselves() -> None:
    assert len(NAMED) == len(profiles.PROFILES)
    for name, profile in NAMED.items():
        assert profiles.find(name)[0] is profile
    assert set(NAMED) >= families.RECORDED
    assert profiles.DEFAULT in profiles.PROFILES
    of_tables = [made for levels in families.STABLE.values() for _, made in levels]
    assert all(made in profiles.PROFILES for made in [*of_tables, *(made for _, made in families.MAINLINE)])


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("3.10.108", "3.10"),
        ("3.10.0-514.el7.x86_64", "3.10-el7"),
        ("3.10.0-1160.118.1.el7.x86_64", "3.10-el7"),
        ("4.4.1", "4.4.1"),
        ("4.4.177", "4.4.1"),
        ("4.4.178", "4.4"),
        ("4.9.206", "4.9.0"),
        ("4.9.337", "4.9"),
        ("4.14.355-275.570.amzn2.x86_64", "4.14"),
        ("4.18.0-240.el8.x86_64", "4.18-el8"),
        ("4.18.0-553.el8_10.x86_64", "4.18-el8"),
        ("4.19.0-6-amd64", "4.19.0"),
        ("4.19.0-27-cloud-amd64", "4.19"),
        ("5.4.59", "5.4"),
        ("5.4.4", "5.4.0"),
        ("5.4.0-26-generic", "5.4"),
        ("5.4.0-208-generic", "5.4"),
        ("5.4.0-211-generic", "5.4.290"),
        ("5.10.0-8-amd64", "5.10.0"),
        ("5.10.0-33-amd64", "5.10.67"),
        ("5.10.0-34-amd64", "5.10.234"),
        ("5.10.0-46-cloud-amd64", "5.10"),
        ("5.15.176", "5.15"),
        ("5.15.0-134-generic", "5.15"),
        ("5.15.0-135-generic", "5.15.177"),
        ("5.15.0-141-lowlatency", "5.15.179"),
        ("5.15.167.4-microsoft-standard-WSL2", "5.15"),
        ("6.1.0-30-amd64", "6.1.0"),
        ("6.1.0-31-amd64", "6.1.125"),
        ("6.1.0-0.deb11.33-cloud-amd64", "6.1.130"),
        ("6.1.0-56-cloud-amd64", "6.1"),
        ("6.1.103-111.183.amzn2023.x86_64", "6.1.0"),
        ("6.12.10-200.fc41.x86_64", "6.12.10"),
        ("6.12.90+deb13-amd64", "6.12.18"),
        ("6.12.117+deb13-cloud-amd64", "6.12"),
        ("6.18.41", "6.18.0"),
        ("6.18.44", "6.18"),
        ("7.2.13+deb14-cloud-amd64", "7.2"),
    ],
)
def test_a_release_string_finds_its_profile_without_a_note(release: str, name: str) -> None:
    profile, note = profiles.find(release)
    assert (profile.name, note) == (name, "")


@pytest.mark.parametrize(
    ("release", "name", "words"),
    [
        ("2.6.32-754.el6.x86_64", "3.10", "back-ports its name does not tell; 3.10 stands in"),
        ("2.6.32", "3.10", "older than the modelled kernels"),
        ("3.16.0-4-amd64", "3.13", "3.16.0-4-amd64 is not modelled itself; 3.13 stands in"),
        ("4.2", "4.1", "4.2 is not modelled itself"),
        ("4.4.0-210-generic", "4.4.1", "does not tell which stable release"),
        ("4.5", "4.4.1", "4.4.1 stands in"),
        ("4.12.14-122.124-default", "4.10", "4.10 stands in"),
        ("4.15.0-213-generic", "4.15", "not modelled itself"),
        ("5.3.18", "4.18", "4.18 stands in"),
        ("5.14.0-427.el9.x86_64", "5.15", "back-ports its name does not tell"),
        ("6.12.0-55.el10.x86_64", "6.12.0", "back-ports its name does not tell"),
        ("6.8.0-53-generic", "6.6.0", "follows 6.6 stable"),
        ("6.8.0-150-generic", "6.6", "follows 6.6 stable"),
        ("6.14.0-37-generic", "6.12.18", "6.12.18 stands in"),
        ("9.1", "7.2", "7.2 stands in"),
        ("5.15", "5.15", "releases from 5.15.177 on differ"),
    ],
)
def test_a_stand_in_says_so(release: str, name: str, words: str) -> None:
    profile, note = profiles.find(release)
    assert profile.name == name
    assert words in note


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("rhel7", "3.10-el7", "kernel of release 7.9"),
        ("CentOS 7", "3.10-el7", "3.10.0-1160.el7"),
        ("rhel8.6", "4.18-el8", "kernel of release 8.10"),
        ("rocky8", "4.18-el8", "4.18.0-553"),
        ("almalinux9", "5.15", "kernel of release 9.7"),
        ("centos-stream-10", "6.12.0", "6.12.0 stands in"),
        ("debian10", "4.19", "4.19.316"),
        ("bullseye", "5.10", "5.10.262"),
        ("debian:12", "6.1", "6.1.0-54 and older behave differently"),
        ("debian13", "6.12", "6.12.117"),
        ("ubuntu20.04", "5.4.290", "5.4.0-216"),
        ("Ubuntu 22.04", "5.15.179", "5.15.0-204"),
        ("noble", "6.6", "follows 6.6 stable"),
        ("amazonlinux2", "5.10", "4.14"),
        ("al2023", "6.1", "6.12"),
        ("sles15", "6.6.0", "6.6.0 stands in"),
    ],
)
def test_a_distribution_means_its_current_kernel_and_says_which(text: str, name: str, words: str) -> None:
    profile, note = profiles.find(text)
    assert profile.name == name
    assert note.startswith(f"{text} is taken as ")
    assert words in note


def test_every_distribution_is_found() -> None:
    for name in distributions.NAMES:
        profile, note = profiles.find(name)
        assert profile in profiles.PROFILES
        assert note


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rhel71", "did you mean rhel7?"),
        ("ubuntu22.4", "did you mean ubuntu22.04?"),
        ("5.1O", "did you mean 5.1"),
        ("debian99", "did you mean debian"),
        ("windows", "`backlogtrace kernels` lists them"),
        ("", "'' is no kernel family"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(text: str, words: str) -> None:
    with pytest.raises(ValueError, match="is no kernel family, no distribution and no release") as caught:
        profiles.find(text)
    assert words in str(caught.value)
