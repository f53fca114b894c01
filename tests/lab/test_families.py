"""The families: repeatable, possible on a real network, and each about what its name says."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest

from backlogtrace.kernel import sysctl
from backlogtrace.lab.families import FAMILIES, make

if TYPE_CHECKING:
    from backlogtrace.lab.scenario import Scenario

RETRIES = "net.ipv4.tcp_synack_retries"
EVERY = pytest.mark.parametrize("family", FAMILIES)


def some(family: str, count: int = 30) -> list[Scenario]:
    return [make(family, seed, 6) for seed in range(count)]


@EVERY
def test_same_seed_gives_the_same_script(family: str) -> None:
    assert some(family) == some(family)


@EVERY
def test_other_seeds_give_other_scripts(family: str) -> None:
    assert len({repr(scenario.clients) for scenario in some(family)}) == 30


def test_a_script_is_the_same_on_every_machine() -> None:
    """A text as seed gives the same numbers with every Python: a recording can be played again elsewhere."""
    scenario = make("mixed", 7, 6)
    assert scenario.name == "mixed-0007"
    assert (scenario.backlog, len(scenario.clients), scenario.clients[0].isn) == (16, 12, 3349031549)


@EVERY
def test_everything_happens_while_the_scenario_lasts(family: str) -> None:
    for scenario in some(family):
        assert all(0 < client.start < scenario.lasts for client in scenario.clients)
        assert all(0 <= odd.at < scenario.lasts for odd in scenario.odd)
        assert all(odd.client < len(scenario.clients) for odd in scenario.odd)


@EVERY
def test_clients_have_endpoints_of_their_own_unless_they_come_back(family: str) -> None:
    for scenario in some(family):
        ends = [(client.address, client.port) for client in scenario.clients]
        assert family == "timewait" or len(set(ends)) == len(ends)
        assert all(ipaddress.ip_address(address) for address, _ in ends)


@EVERY
def test_settings_are_known_and_possible(family: str) -> None:
    for scenario in some(family):
        changes = [(step.name, step.value) for step in scenario.app if step.op == "sysctl"]
        for name, value in [*scenario.sysctl.items(), *changes]:
            assert sysctl.complaint(name, value) is None


@EVERY
def test_some_request_shows_when_timers_fire_before_the_retries_end(family: str) -> None:
    for scenario in some(family):
        assert scenario.sysctl[RETRIES] > 0
        ends = [step.at for step in scenario.app if step.name == RETRIES and step.value == 0]
        if ends:
            assert min(ends) >= 1300
            assert any(client.manner == "silent" and client.start == 40 for client in scenario.clients)


@pytest.mark.parametrize(
    ("family", "claim"),
    [
        ("relisten", lambda s: any(step.op == "listen" for step in s.app)),
        (
            "reopening",
            lambda s: [step.op for step in s.app if step.op in {"close", "open"}] == ["close", "open"],
        ),
        (
            "migrating",
            lambda s: [step.op for step in s.app if step.op in {"close", "open"}][:2] == ["open", "close"],
        ),
        ("closing", lambda s: s.app[-1].op == "close"),
        ("ipv6", lambda s: s.address == "::" and any(":" in client.address for client in s.clients)),
        ("defer", lambda s: s.defer_accept),
        ("no_cookies", lambda s: s.sysctl["net.ipv4.tcp_syncookies"] == 0),
        ("odd_segments", lambda s: len(s.odd) >= 15),
        ("timewait", lambda s: len({(c.address, c.port) for c in s.clients}) < len(s.clients)),
    ],
)
def test_family_is_about_what_its_name_says(family: str, claim: object) -> None:
    assert callable(claim)
    assert all(claim(scenario) for scenario in some(family))
