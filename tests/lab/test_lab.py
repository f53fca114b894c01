"""`backlogtrace lab` on the kernel that runs the tests, and what it says where it cannot run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backlogtrace.lab import netns
from backlogtrace.lab.families import FAMILIES

ROOT = Path(__file__).parents[2]


def lab(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "backlogtrace", "lab", *arguments],
        check=False, capture_output=True, encoding="utf-8", timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


def require_a_kernel_to_ask() -> None:
    try:
        netns.require()
    except netns.CannotRunError as error:
        pytest.skip(str(error))


def test_this_kernel_behaves_as_the_model_believes(tmp_path: Path) -> None:
    require_a_kernel_to_ask()
    count = len(FAMILIES)
    result = lab("--count", str(count), "--jobs", str(count), "--keep", str(tmp_path), "-T", "json")
    if result.returncode == 3:
        pytest.skip(result.stderr.strip())
    found = json.loads(result.stdout)
    assert found["differing"] == []
    assert result.returncode == 0
    assert found["scenarios"] == sum(family["scenarios"] for family in found["families"].values()) == count
    # an empty comparison would agree with everything
    assert all(family["packets"] >= 4 for family in found["families"].values())
    folder = tmp_path / os.uname().release / "mixed-0000"
    assert {path.name for path in folder.iterdir()} == {
        "capture.pcap", "host.json", "truth.jsonl", "summary.json",
    }  # fmt: skip
    lines = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    assert [line["n"] for line in lines if "n" in line] == sorted(line["n"] for line in lines if "n" in line)
    assert lines[-1]["dir"] == "end"


def test_ordinary_user_is_told_that_root_is_needed() -> None:
    if os.geteuid() == 0:
        if subprocess.run(["setpriv", "--version"], check=False, capture_output=True).returncode:
            pytest.skip("no setpriv to become another user")
        unprivileged = ("setpriv", "--reuid", "65534", "--clear-groups")
        if subprocess.run([*unprivileged, sys.executable, "-c", "import click"], check=False).returncode:
            pytest.skip("other users cannot run this Python")
        result = lab("--count", "1", prefix=unprivileged)
    else:
        result = lab("--count", "1")
    assert result.returncode == 3
    assert result.stdout == ""
    assert result.stderr.startswith("backlogtrace: error: lab needs root")
    assert "sudo" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_missing_device_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(netns.os, "geteuid", lambda: 0)  # type: ignore[attr-defined]
    monkeypatch.setattr(netns, "TUN", tmp_path / "tun")
    with pytest.raises(netns.CannotRunError, match=r"tun cannot be opened \(No such file.*modprobe tun"):
        netns.require()


def test_other_systems_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netns.sys, "platform", "darwin")  # type: ignore[attr-defined]
    monkeypatch.setattr(netns.platform, "system", lambda: "Darwin")  # type: ignore[attr-defined]
    with pytest.raises(netns.CannotRunError, match="this is Darwin"):
        netns.require()


@pytest.mark.parametrize("arguments", [("--count", "0"), ("--family", "none"), ("--seconds", "0.1")])
def test_impossible_options_are_usage_errors(arguments: tuple[str, ...]) -> None:
    assert lab(*arguments).returncode == 2


def test_machine_facts_are_plausible() -> None:
    if sys.platform != "linux":
        pytest.skip("a Linux kernel is needed")
    assert netns.hz() in {100, 250, 300, 500, 1000}
    first, second = netns.boot_ns(), netns.boot_ns()
    assert abs(first - second) < 1_000_000
    assert {"ListenOverflows", "SyncookiesSent", "PassiveOpens", "OutRsts"} <= netns.counters().keys()
