"""The table of sysctls: names, near misses, ranges."""

from __future__ import annotations

import pytest

from backlogtrace.kernel import sysctl


def test_every_name_is_found_by_its_short_and_its_full_form() -> None:
    for name in sysctl.SYSCTLS:
        assert sysctl.full_name(name) == name
        assert sysctl.full_name(name.rpartition(".")[2]) == name


@pytest.mark.parametrize(
    "written", ["net/ipv4/tcp_syncookies", "/proc/sys/net/ipv4/tcp_syncookies", " tcp_syncookies "]
)
def test_other_spellings_mean_the_same(written: str) -> None:
    assert sysctl.full_name(written) == "net.ipv4.tcp_syncookies"


def test_short_names_are_unique() -> None:
    assert len({name.rpartition(".")[2] for name in sysctl.SYSCTLS}) == len(sysctl.SYSCTLS)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("tcp_syncookie", "tcp_syncookies"),
        ("net.ipv4.tcp_abort_on_overflw", "net.ipv4.tcp_abort_on_overflow"),
        ("somaxcon", "somaxconn"),
        ("zzz", None),
    ],
)
def test_near_miss_keeps_the_form(wrong: str, meant: str | None) -> None:
    assert sysctl.near_miss(wrong) == meant


@pytest.mark.parametrize(
    ("name", "value", "fine"),
    [
        ("net.ipv4.tcp_syncookies", 2, True),
        ("net.ipv4.tcp_syncookies", 3, False),
        ("net.ipv4.tcp_synack_retries", 255, True),
        ("net.ipv4.tcp_synack_retries", 256, False),
        ("net.core.somaxconn", -1, False),
        ("net.ipv4.tcp_rto_max_ms", 999, False),
    ],
)
def test_complaint_names_range_and_value(name: str, value: int, fine: bool) -> None:
    complaint = sysctl.complaint(name, value)
    assert (complaint is None) == fine
    if complaint:
        entry = sysctl.SYSCTLS[name]
        assert f"{entry.low} to {entry.high}" in complaint
        assert complaint.endswith(f"not {value}")
