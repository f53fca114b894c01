"""The host file and the options that say the same."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backlogtrace.errors import UsageError
from backlogtrace.replay.host import (
    AcceptModel,
    HostEvent,
    HostListener,
    load_host,
    parse_accept,
    parse_listener,
    parse_sysctl,
)
from backlogtrace.segment import endpoint

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE: dict[str, Any] = {
    "kernel": "5.10.0-30-cloud-amd64",
    "hz": 250,
    "boot_ns": 1795300000000000000,
    "sysctl": {"net.ipv4.tcp_syncookies": 1, "tcp_abort_on_overflow": 0},
    "listeners": [
        {
            "address": "10.0.0.1", "port": 8080, "backlog": 5, "opened_ns": 1795323440307110744,
            "defer_accept": 3, "fastopen_qlen": 16, "syncnt": 2,
        },
        {"address": "fd09:0::1", "port": 443},
    ],
    "events": [
        {"time_ns": 9, "op": "close", "listener": 0},
        {"time_ns": 5, "op": "accept", "listener": 1, "peer": "[fd09::2]:20001"},
        {"time_ns": 6, "op": "accept", "listener": 0},
        {"time_ns": 7, "op": "sysctl", "name": "tcp_abort_on_overflow", "value": 1},
        {"time_ns": 8, "op": "listen", "listener": 0, "backlog": 20},
    ],
}  # fmt: skip


def write(folder: Path, content: object) -> Path:
    path = folder / "host.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def complaint(folder: Path, content: object) -> str:
    with pytest.raises(UsageError) as caught:
        load_host(write(folder, content))
    return str(caught.value)


def test_the_documented_example_loads(tmp_path: Path) -> None:
    host = load_host(write(tmp_path, EXAMPLE))
    assert (host.kernel, host.hz, host.boot_ns) == ("5.10.0-30-cloud-amd64", 250, 1795300000000000000)
    assert host.sysctl == {"net.ipv4.tcp_syncookies": 1, "net.ipv4.tcp_abort_on_overflow": 0}
    assert host.listeners == [
        HostListener("10.0.0.1", 8080, 5, 1795323440307110744, 3, 16, 2),
        HostListener("fd09::1", 443),
    ]


def test_events_are_in_order_of_time(tmp_path: Path) -> None:
    host = load_host(write(tmp_path, EXAMPLE))
    assert host.events == [
        HostEvent(5, "accept", 1, endpoint("fd09::2", 20001)),
        HostEvent(6, "accept", 0),
        HostEvent(7, "sysctl", name="net.ipv4.tcp_abort_on_overflow", value=1),
        HostEvent(8, "listen", 0, backlog=20),
        HostEvent(9, "close", 0),
    ]


def test_an_empty_object_is_a_host_of_which_nothing_is_known(tmp_path: Path) -> None:
    host = load_host(write(tmp_path, {}))
    assert (host.kernel, host.hz, host.boot_ns, host.sysctl) == (None, None, None, {})
    assert not host.listeners
    assert not host.events


def test_one_listener_needs_no_index(tmp_path: Path) -> None:
    content = {"listeners": [{"port": 80}], "events": [{"time_ns": 1, "op": "close"}]}
    assert load_host(write(tmp_path, content)).events[0].listener == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"kernal": "5.10"}, "kernal: unknown key; did you mean 'kernel'?"),
        ({"kernel": 5.1}, "kernel: must be text"),
        ({"hz": 0}, "hz: 0 is not between 1 and 10000"),
        ({"hz": True}, "hz: must be a whole number, not true/false"),
        ({"boot_ns": "1"}, "boot_ns: must be a whole number, not text"),
        (
            {"sysctl": {"tcp_syncookie": 1}},
            "sysctl: unknown sysctl 'tcp_syncookie'; did you mean tcp_syncookies?",
        ),
        ({"sysctl": {"tcp_syncookies": 9}}, "sysctl: net.ipv4.tcp_syncookies takes 0 to 2"),
        ({"sysctl": []}, "sysctl: must be an object, not a list"),
        ({"listeners": {}}, "listeners: must be a list, not an object"),
        ({"listeners": [{"address": "::"}]}, "listeners[0]: needs a port"),
        ({"listeners": [{"port": 70000}]}, "listeners[0].port: 70000 is not between 1 and 65535"),
        ({"listeners": [{"port": 1, "address": "web"}]}, "listeners[0].address: 'web' is not a numeric"),
        (
            {"listeners": [{"port": 1, "backlog": 1.5}]},
            "listeners[0].backlog: must be a whole number, not a fraction",
        ),
        (
            {"listeners": [{"port": 1, "backlogg": 1}]},
            "listeners[0].backlogg: unknown key; did you mean 'backlog'?",
        ),
        ({"events": [{"op": "close"}]}, "events[0]: needs time_ns"),
        (
            {"events": [{"time_ns": 1, "op": "shut"}]},
            "events[0].op: 'shut' is none of accept, sysctl, listen, close",
        ),
        (
            {"events": [{"time_ns": 1, "op": "close"}]},
            "events[0]: refers to a listener, but `listeners` is empty",
        ),
        (
            {"events": [{"time_ns": 1, "op": "sysctl", "name": "tcp_sack"}]},
            "events[0]: a sysctl event needs name and",
        ),
        (
            {"listeners": [{"port": 1}, {"port": 2}], "events": [{"time_ns": 1, "op": "close"}]},
            "events[0]: needs `listener`, a number from 0 to 1",
        ),
        (
            {"listeners": [{"port": 1}], "events": [{"time_ns": 1, "op": "close", "listener": 1}]},
            "events[0].listener: 1 is not between 0 and 0",
        ),
        (
            {"listeners": [{"port": 1}], "events": [{"time_ns": 1, "op": "accept", "peer": "fd09::2:80"}]},
            "events[0].peer: 'fd09::2:80' is not an address and port",
        ),
        (
            {"listeners": [{"port": 1}], "events": [{"time_ns": 1, "op": "listen"}]},
            "events[0]: a listen event needs the backlog",
        ),
    ],
)
def test_errors_name_the_place_and_the_remedy(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    message = complaint(tmp_path, change)
    assert message.startswith(f"host file {tmp_path}")
    assert expected in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "not JSON: line 1, column 2"),
        ("[]", "must be an object, not a list"),
        ("[" * 100_000, "not JSON that can be read"),
        ("1" * 5000, "not JSON that can be read"),
    ],
)
def test_what_is_no_host_file_at_all(tmp_path: Path, content: str, expected: str) -> None:
    assert expected in complaint(tmp_path, content)


def test_binary_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    path.write_bytes(b'{"kernel": "\xff"}')
    with pytest.raises(UsageError, match="not UTF-8 text"):
        load_host(path)
    with pytest.raises(UsageError, match="No such file"):
        load_host(tmp_path / "other.json")
    with pytest.raises(UsageError, match="directory"):
        load_host(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = ("kernel", "hz", "boot_ns", "sysctl", "listeners", "events")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(keys), json_values, max_size=6))
def test_any_json_loads_or_is_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    path = write(tmp_path_factory.getbasetemp(), content)
    with contextlib.suppress(UsageError):
        load_host(path)


def test_sysctl_option() -> None:
    assert parse_sysctl("tcp_syncookies=1") == ("net.ipv4.tcp_syncookies", 1)
    assert parse_sysctl("net.core.somaxconn = 128") == ("net.core.somaxconn", 128)
    assert parse_sysctl("tcp_fastopen=0x402") == ("net.ipv4.tcp_fastopen", 0x402)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp_syncookies", "write NAME=VALUE"),
        ("tcp_syncokies=1", "did you mean tcp_syncookies"),
        ("tcp_syncookies=on", "'on' is not a whole number"),
        ("tcp_syncookies=3", "takes 0 to 2"),
        ("whatever=1", "known are net.core.somaxconn"),
    ],
)
def test_sysctl_option_errors(text: str, expected: str) -> None:
    with pytest.raises(UsageError, match=r"--sysctl") as caught:
        parse_sysctl(text)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        (":80", "::", 80), ("*:80", "::", 80), ("10.0.0.1:8080", "10.0.0.1", 8080),
        ("[fd09:0:0::2]:443", "fd09::2", 443), ("[::]:1", "::", 1),
    ],
)  # fmt: skip
def test_listener_option(text: str, address: str, port: int) -> None:
    assert parse_listener(text) == HostListener(address, port)


@pytest.mark.parametrize("text", ["80", "", "web:80", ":0", ":65536", "fd09::2:80", "1.2.3:80", ":8 0", ":٣"])
def test_listener_option_errors(text: str) -> None:
    with pytest.raises(UsageError, match="--listener"):
        parse_listener(text)


def test_accept_option() -> None:
    assert parse_accept("infer") == AcceptModel("infer")
    assert parse_accept("never") == AcceptModel("never")
    assert parse_accept("rate=2.5/s") == AcceptModel("rate", 2.5)
    assert parse_accept("rate=100") == AcceptModel("rate", 100)


@pytest.mark.parametrize(
    "text",
    ["", "fast", "rate=", "rate=0/s", "rate=-1/s", "rate=nan/s", "rate=inf/s", "rate=1e-300/s", "rate=x/s"],
)
def test_accept_option_errors(text: str) -> None:
    with pytest.raises(UsageError, match="--accept"):
        parse_accept(text)
