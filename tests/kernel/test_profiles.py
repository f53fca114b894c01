"""Kernel families: names, releases, and the provenance of what differs."""

from __future__ import annotations

import itertools
import re
from dataclasses import fields

import pytest

from backlogtrace.kernel import changes, profiles
from backlogtrace.kernel.profile import Change, Profile, derive
from backlogtrace.kernel.settings import DEFAULTS

CHANGES = [value for value in vars(changes).values() if isinstance(value, Change)]
RELEASES = {
    "3.10.0-514.el7.x86_64": "3.10-el7",
    "3.10.108": "3.10",
    "4.4.178": "4.4",
    "4.18.0-240.el8.x86_64": "4.18-el8",
    "5.4.59": "5.4",
    "5.4.290": "5.4.290",
    "5.4.0-216-generic": "5.4.290",
    "5.10.66": "5.10.0",
    "5.10.67": "5.10.67",
    "5.10.262": "5.10",
    "5.10.0-30-cloud-amd64": "5.10.67",
    "5.15.135": "5.15",
    "5.15.0-134-generic": "5.15",
    "5.15.0-139-generic": "5.15.177",
    "6.1.124": "6.1.0",
    "6.1.125": "6.1.125",
    "6.1.192": "6.1",
    "6.12.9": "6.12.0",
    "6.12.10": "6.12.10",
    "6.12.104-cloud-amd64": "6.12.18",
    "6.12.117+deb13-cloud-amd64": "6.12",
    "6.18.41": "6.18.0",
    "6.18.44": "6.18",
    "7.2.13": "7.2",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.field)
def test_change_says_where_it_comes_from(change: Change) -> None:
    """A 12-digit commit with its subject or none, a mainline version, functions, a summary, known fields."""
    assert re.fullmatch(r"[0-9a-f]{12}|", change.commit)
    assert bool(change.commit) == bool(change.subject)
    assert re.fullmatch(r"v\d+\.\d+", change.since)
    assert change.functions
    assert change.summary
    assert change.field in {f.name for f in fields(Profile)}
    assert all(re.fullmatch(r"v\d+\.\d+\.\d+", tree) for tree in change.backports)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.field)
def test_change_made_some_profile_differ(change: Change) -> None:
    """It is part of a profile, and sets another value there than somewhere else."""
    having = [p for p in profiles.PROFILES if change in p.changes]
    assert having
    assert all(getattr(p, change.field) == change.after for p in having)
    assert any(getattr(p, change.field) != change.after for p in profiles.PROFILES)


def test_names_are_unique_and_found() -> None:
    """Every family name picks its profile."""
    names = [profile.name for profile in profiles.PROFILES]
    assert len(set(names)) == len(names)
    for profile in profiles.PROFILES:
        assert profiles.find(profile.name)[0] is profile


def test_levels_of_a_series_differ_from_each_other() -> None:
    """No two profiles of one stable series behave the same."""

    def behaviour(profile: Profile) -> dict[str, object]:
        return {f.name: getattr(profile, f.name) for f in fields(Profile) if f.name not in {"name", "tree", "changes"}}

    series = itertools.groupby(profiles.PROFILES, key=lambda profile: ".".join(profile.name.split(".")[:2]))
    for _, levels in series:
        for one, other in itertools.combinations(levels, 2):
            assert behaviour(one) != behaviour(other)


@pytest.mark.parametrize(("release", "name"), RELEASES.items())
def test_release_string_picks_the_profile(release: str, name: str) -> None:
    """`uname -r` of vanilla, Debian, Ubuntu and RHEL kernels, without a note."""
    profile, note = profiles.find(release)
    assert profile.name == name
    assert not note


@pytest.mark.parametrize(
    ("release", "words"),
    [
        ("5.3.1", "not modelled"),
        ("6.13.2", "not modelled"),
        ("8.1.0", "not modelled"),
        ("2.6.32", "older"),
        ("5.14.0-503.el9", "back-ports"),
        ("6.8.0-130-generic", "6.6"),
        ("5.4", "5.4.290"),
    ],
)
def test_profile_that_only_stands_in_says_so(release: str, words: str) -> None:
    profile, note = profiles.find(release)
    assert words in note
    assert profile.name in note or profile.tree in note


@pytest.mark.parametrize("text", ["", "banana", "linux-5.10", "five", "6.x"])
def test_text_that_is_no_kernel_is_an_error_that_names_the_known(text: str) -> None:
    with pytest.raises(ValueError, match=r"known: .*5\.10"):
        profiles.find(text)


def test_near_miss_is_named() -> None:
    with pytest.raises(ValueError, match=r"did you mean 4\.18-el8\?"):
        profiles.find("4-18-el8")


def test_defaults_are_known_settings() -> None:
    for profile in profiles.PROFILES:
        assert set(profile.defaults) <= set(DEFAULTS)


def test_somaxconn_was_128_before_5_4() -> None:
    """4096 since mainline 5.4."""
    for profile in profiles.PROFILES:
        old = profile.name == "4.18-el8" or int(profile.name.split(".")[0]) < 4 or profile.name.startswith("4.")
        assert profile.defaults.get("net.core.somaxconn", 4096) == (128 if old else 4096)


@pytest.mark.parametrize(
    ("field", "having"),
    [
        ("syn_spare", {"5.10", "6.1", "6.12", "6.18", "7.2"}),
        ("rst_needs_exact_seq", {"6.1", "6.12", "6.18", "7.2"}),
        ("checks_tsecr", {"6.18", "7.2"}),
        ("rto_max_setting", {"6.18", "7.2"}),
        ("dataless_fastopen", {"5.10", "5.15", "6.1", "6.12", "6.18", "7.2"}),
        ("request_takes_tsval", {"5.4", "5.15"}),
        ("timewait_syn_is_plain", {"5.4", "5.10", "5.15", "6.1"}),
    ],
)
def test_recorded_kernels_differ_as_measured(field: str, having: set[str]) -> None:
    """The families with a recording: 5.4.59, 5.10.262, 5.15.135, 6.1.192, 6.12.117, 6.18.44, 7.2.13."""
    recorded = ("5.4", "5.10", "5.15", "6.1", "6.12", "6.18", "7.2")
    assert {name for name in recorded if getattr(profiles.find(name)[0], field)} == having


def test_derive_refuses_a_change_that_changes_nothing() -> None:
    with pytest.raises(ValueError, match="syn_spare"):
        derive(profiles.DEFAULT, "x", "y", changes.SYN_QUEUE_BACKLOG_PLUS_ONE)


def test_derive_refuses_an_unknown_field() -> None:
    wrong = Change("colour", "red", "s", "v6.1", ("f",))
    with pytest.raises((TypeError, AttributeError)):
        derive(profiles.DEFAULT, "x", "y", wrong)
