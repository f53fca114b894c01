"""The words for profiles: complete, and short enough for a table."""

from __future__ import annotations

import pytest

from backlogtrace.kernel.profile import BEHAVIOURS, Profile
from backlogtrace.kernel.profiles import PROFILES
from backlogtrace.report import kernel_words as words


def test_every_behaviour_has_words_and_nothing_else_has() -> None:
    assert set(words.BEHAVIOURS) == set(BEHAVIOURS)
    labels = [words.label(name) for name in BEHAVIOURS]
    assert len(set(labels)) == len(labels)
    assert max(map(len, labels)) <= 36


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_every_value_has_words(profile: Profile) -> None:
    for name in BEHAVIOURS:
        assert words.value(name, getattr(profile, name)).strip()


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_different_values_have_different_words(name: str) -> None:
    values = {repr(getattr(profile, name)): getattr(profile, name) for profile in PROFILES}
    assert len({words.value(name, value) for value in values.values()}) == len(values)


def test_defaults_are_the_effective_ones() -> None:
    assert words.value("defaults", {"net.core.somaxconn": 128}).startswith("somaxconn 128, tcp_fastopen 1,")
    assert words.value("defaults", {}).startswith("somaxconn 4096, tcp_fastopen 1,")
