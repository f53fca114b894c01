"""`explain`: what settings change is computed, and every word of the output can be looked up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from backlogtrace.cli.app import app
from backlogtrace.errors import UsageError
from backlogtrace.kernel.families import PROFILES
from backlogtrace.kernel.sysctl import SYSCTLS
from backlogtrace.replay.situations import Scene, Setup
from backlogtrace.report.miniature import arithmetic
from backlogtrace.report.sysctl_words import LESSONS

if TYPE_CHECKING:
    from click.testing import Result

    from backlogtrace.kernel.profile import Profile

FIXTURES = Path(__file__).parents[2] / "fixtures"


def explain(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["explain", *arguments], standalone_mode=False)


CONNECTIONS = "SYNs of two connections that are established, within a second"
CLOSED = "connection in the accept queue of a socket that is closed, another one listens"


def played(*arguments: str) -> dict[str, Any]:
    """Situation -> what happens by default and as given, where they differ."""
    page = json.loads(explain("-T", "json", *arguments).output)
    return {one["situation"]: (one["default"], one["given"]) for one in page["situations"] if one["differs"]}


def test_abort_on_overflow_resets_requests_but_neither_syns_nor_cookies() -> None:
    found = played("--sysctl", "tcp_abort_on_overflow=1")
    assert list(found) == ["ACK that completes a handshake while the accept queue is full"]
    ((before, after),) = found.values()
    assert [one["decision"] for one in before["packets"]] == ["queued", *["overflow"] * 6]  # each ACK
    assert len(before["synack_again_ns"]) == 5  # an ignored ACK does not stop the retransmissions
    assert 63 <= before["given_up_ns"] / 1e9 <= 68
    assert [one["reply"] for one in after["packets"]] == ["synack", "rst"]
    assert after["given_up_ns"] is None


@pytest.mark.parametrize("kernel", ["3.10", "6.12"])
@pytest.mark.parametrize(
    ("setting", "situation"),
    [
        ("somaxconn=1", "SYN while the accept queue is full"),
        ("tcp_syncookies=0", "SYN while the SYN queue is full"),
        ("tcp_synack_retries=2", "SYN, then silence"),
        ("tcp_abort_on_overflow=1", "ACK that completes a handshake while the accept queue is full"),
        ("tcp_max_syn_backlog=4", "tcp_syncookies=0: the first SYN of many that is not queued"),
        ("tcp_timestamps=0", "SYN with a timestamp, its ACK with an older one"),
        ("tcp_rfc1337=1", "RST for a connection in TIME_WAIT, then data"),
        ("tcp_fastopen=0x203", "SYN with data that asks for a Fast Open cookie"),
        ("tcp_sack=0", "SYN answered with a cookie, then the settings are changed, then its ACK"),
        ("tcp_window_scaling=0", "SYN answered with a cookie, then the settings are changed, then its ACK"),
        ("tcp_ecn=0", "SYN that offers ECN, then ACK"),
    ],
)
def test_a_setting_makes_a_difference_on_old_and_new_kernels(
    kernel: str, setting: str, situation: str
) -> None:
    name, _, value = setting.partition("=")
    assert situation in played("--kernel", kernel, "--sysctl", f"{name}={int(value, 0)}")


def test_syncookies_2_is_1_on_an_old_kernel() -> None:
    assert played("--kernel", "3.10", "--sysctl", "tcp_syncookies=2") == {}
    new = played("--kernel", "6.12", "--sysctl", "tcp_syncookies=2")["SYN, then silence"]
    assert new[1]["packets"][0]["reason"] == "syncookies_always"


@pytest.mark.parametrize(
    ("kernel", "setting", "situation"),
    [
        ("3.10", "tcp_tw_recycle=1", "two clients of one address, the second with older timestamps"),
        ("6.12", "tcp_invalid_ratelimit=50", "SYN repeated twice, 100 ms apart"),
        ("7.2", "tcp_rto_max_ms=2000", "SYN, then silence"),
        ("5.10", "tcp_challenge_ack_limit=1", CONNECTIONS),
        ("6.12", "tcp_challenge_ack_limit=1", CONNECTIONS),
        ("5.10", "tcp_challenge_ack_limit=0", CONNECTIONS),
        (
            "5.15",
            "tcp_migrate_req=1",
            "SYN to a socket that is closed then, another one listens, ACK 2 s later",
        ),
        ("6.12", "tcp_migrate_req=1", CLOSED),
    ],
)
def test_a_setting_makes_a_difference_where_it_exists(kernel: str, setting: str, situation: str) -> None:
    assert situation in played("--kernel", kernel, "--sysctl", setting)


def test_tw_recycle_drops_a_client_behind_nat_and_is_gone_on_new_kernels() -> None:
    ((before, after),) = played("--kernel", "3.10", "--sysctl", "tcp_tw_recycle=1").values()
    assert before["packets"][0]["decision"] == "queued"
    assert after["packets"][0]["reason"] == "tw_recycle_paws"
    assert played("--kernel", "6.12", "--sysctl", "tcp_tw_recycle=1") == {}


def test_times_are_called_the_earliest_only_where_timers_come_in_rounds() -> None:
    retries = ("--sysctl", "tcp_synack_retries=2")
    assert "Each time is the earliest" in explain("--kernel", "3.10", *retries).output
    assert "Each time is the earliest" not in explain("--kernel", "6.12", *retries).output


def test_the_limits_are_worked_out() -> None:
    page = json.loads(
        explain("-T", "json", "--backlog", "511", "--kernel", "3.10", "--sysctl", "somaxconn=1024").output
    )
    before, after = page["limits"]
    assert (before["backlog"], after["backlog"]) == (
        "min(511, somaxconn 128) = 128",
        "min(511, somaxconn 1024) = 511",
    )
    assert before["accept queue"] == "full when longer than 128: 129 fit"
    assert after["accept queue"] == "full when longer than 511: 512 fit"


@pytest.mark.parametrize(
    "given",
    [
        ("--backlog", "0", "--kernel", "5.10", "--sysctl", "tcp_syncookies=0"),
        ("--sysctl", "tcp_max_syn_backlog=0", "--sysctl", "tcp_syncookies=0"),
    ],
)
def test_a_queue_that_no_client_can_fill_is_said_to_be_none(given: tuple[str, ...]) -> None:
    late = "ACK that completes a handshake while the accept queue is full"  # its request takes the only place
    assert f"{late}\tnot played: a queue never fills" in explain("-T", "text", *given).output
    assert "SYN while the SYN queue is full" in played(*given)


def test_migration_keeps_what_close_would_reset() -> None:
    ((before, after),) = [played("--kernel", "6.12", "--sysctl", "tcp_migrate_req=1")[CLOSED]]
    assert [step["what"] for step in before["steps"]] == ["packet", "packet", "reset", "packet"]
    assert [step["what"] for step in after["steps"]] == ["packet", "packet", "moved", "packet"]
    assert before["packets"][-1]["decision"] == "rst"
    assert (after["packets"][-1]["decision"], after["accept_queue"]) == ("passed", 1)
    assert played("--kernel", "5.10", "--sysctl", "tcp_migrate_req=1") == {}


def test_challenge_acks_of_a_second_are_used_up() -> None:
    found = played("--kernel", "6.12", "--sysctl", "tcp_challenge_ack_limit=1")
    ((before, after),) = found.values()
    assert (before["packets"][-1]["reply"], after["packets"][-1]["reply"]) == ("ack", None)
    assert after["packets"][-1]["reason"] == "challenge_ack_limit"
    assert played("--kernel", "6.12", "--sysctl", "tcp_challenge_ack_limit=0") == {}  # no limit since 6.2


def test_cookie_with_ecn_is_refused_before_3_19() -> None:
    meanwhile = "SYN answered with a cookie, then the settings are changed, then its ACK"
    before, after = played("--kernel", "3.10", "--sysctl", "tcp_ecn=0")[meanwhile]
    assert (before["packets"][-1]["decision"], after["packets"][-1]["decision"]) == ("established", "rst")
    for kernel in ("rhel7", "4.4", "6.12"):
        assert meanwhile not in played("--kernel", kernel, "--sysctl", "tcp_ecn=0")
    out = explain("--sysctl", "tcp_ecn=0", "-T", "text").output
    assert "queued, SYN-ACK with ECE (0, 1)\tqueued, SYN-ACK (0, 1)" in out
    assert "the SYN-ACK does not accept ECN" in out


def test_tw_reuse_is_said_to_change_nothing_and_why() -> None:
    why = "the listen path never reads it, so no packet that a listener gets is treated differently"
    assert why in explain("-T", "text", "--sysctl", "tcp_tw_reuse=1").output
    assert why in explain("-T", "text", "tcp_tw_reuse").output
    assert played("--sysctl", "tcp_tw_reuse=1") == {}


@pytest.mark.parametrize("name", SYSCTLS)
def test_every_sysctl_changes_a_situation_on_some_kernel_or_says_why_not(name: str) -> None:
    short = name.rpartition(".")[2]
    values = {"tcp_synack_retries": 2, "tcp_fastopen": 0x203, "tcp_invalid_ratelimit": 50, "somaxconn": 1,
              "tcp_max_syn_backlog": 4, "tcp_rto_max_ms": 2000}  # fmt: skip
    tried = [values[short]] if short in values else [0, 1]
    changes = [
        played("--kernel", kernel, "--sysctl", f"{short}={value}")
        for kernel in ("3.10", "7.2")
        for value in tried
    ]
    assert any(changes) is not bool(LESSONS[name].unread)


def test_every_sysctl_says_who_reads_it_and_what_goes_wrong() -> None:
    assert set(LESSONS) == set(SYSCTLS)
    page = json.loads(explain("somaxconn", "-T", "json").output)
    assert page["default"].startswith("128 (3.10 to ")
    assert page["default"].endswith("to 7.2)")
    assert "next listen()" in page["takes_effect"]
    assert "plays what a value changes" in explain("tcp_ecn").output


def test_the_reserved_quarter_of_tcp_max_syn_backlog() -> None:
    found = played("--sysctl", "tcp_max_syn_backlog=4", "--backlog", "8")
    assert len(found) == 1  # with cookies it is no limit at all
    ((before, after),) = found.values()
    assert (before["packets"][0]["reason"], before["syn_queue"]) == ("syn_queue_full", 9)
    assert (after["packets"][0]["reason"], after["syn_queue"]) == ("syn_queue_reserved", 4)


def test_a_counter_names_the_rules_that_count_it() -> None:
    rules = {row["rule"] for row in json.loads(explain("listenoverflows", "-T", "json").output)["rules"]}
    assert {
        "listen.accept_queue_full",
        "request.accept_queue_full",
        "cookie.cookie_accept_queue_full",
    } <= rules
    assert "listen.syn_queue_full" not in rules


def test_every_topic_that_is_listed_can_be_asked_for() -> None:
    topics = json.loads(explain("-T", "json").output)["topics"]
    assert {"net.core.somaxconn", "ListenDrops", "overflow", "accept_queue_full"} <= set(topics)
    for name in topics:
        assert explain(name).exception is None


def answers(topic: str, *more: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(explain(topic, "-T", "json", *more).output)
    assert found["kind"] == "question"
    return found


def recorded(page: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the recording that a page names."""
    text = (FIXTURES.parent / page["fixture"] / "expected.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_an_overflowed_connection_lives_as_long_as_the_recorded_one_did() -> None:
    """A 3.10.0-514.el7: 63.2 to 64.6 s after its SYN, and five SYN-ACKs later."""
    rows = recorded(answers("overflowed-connection"))
    peer = next(row["peer"] for row in rows if row.get("decision") == "overflow")
    mine = [row for row in rows if row.get("peer") == peer]
    gone = next(row["time_ns"] for row in mine if row.get("event") == "expired")
    assert 63 <= (gone - mine[0]["time_ns"]) / 1e9 <= 64.7
    synacks = [row for row in mine if row["type"] == "packet" and row["decision"] == "synack"]
    assert len(synacks) == 1 + 5
    assert "1 + 2 + 4 + 8 + 16 + 32 = 63 s" in answers("overflowed-connection")["answer"][0]


def test_the_client_learns_from_the_answer_to_its_data() -> None:
    steps = answers("client-learns", "--kernel", "3.10.0-514.el7")["tables"][0]
    assert [step["packet"] for step in steps[-2:]] == ["timer", "client ACK"]
    assert steps[-2]["tcp_abort_on_overflow = 0"].startswith("request given up")
    assert steps[-1]["tcp_abort_on_overflow = 0"].startswith("RST")
    assert steps[1]["= 1"].startswith("RST")


def test_retries_are_counted_and_cut_in_a_crowd() -> None:
    retries, crowd = answers("five-synacks", "--kernel", "6.12")["tables"]
    assert [row["SYN-ACK again after (s)"].count(".") for row in retries] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [row["SYN-ACKs again"] for row in crowd] == ["5", "5", "2", "2"]


def test_a_request_moves_from_one_count_to_the_other() -> None:
    for kernel, home in (("3.10", "belongs to the listener"), ("6.12", "ehash")):
        found = answers("syn-queue", "--kernel", kernel)
        assert home in found["answer"][0]
        cells = [row["what happens"] for row in found["tables"][0]]
        assert [cell.rpartition("(")[2] for cell in cells] == ["0, 1)", "1, 0)", "0, 0)"]


def test_a_cookie_counts_a_drop_on_old_kernels_only() -> None:
    cookie = "SYN while the SYN queue is full"
    for kernel, counts in (("3.10", True), ("6.12", False)):
        (rows,) = answers("counters", "--kernel", kernel)["tables"]
        added = {row["counter"]: row["added in"].split("; ") for row in rows}
        assert (cookie in added["ListenDrops"]) is counts
        assert cookie not in added["ListenOverflows"]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
@pytest.mark.parametrize("backlog", [0, 1, 5, 128, 511, 5000, 70_000])
def test_the_arithmetic_arrives_at_what_fits(profile: Profile, backlog: int) -> None:
    for values in ({}, {"net.core.somaxconn": 100_000, "net.ipv4.tcp_syncookies": 0}):
        listener = Scene(Setup(profile, values, backlog)).listener
        steps = arithmetic(listener, backlog)
        assert steps["backlog"].endswith(f"= {listener.backlog}")
        assert steps["SYN queue"].endswith(f" {listener.syn_capacity} fit")
        accept = f" {listener.accept_capacity} fit" if listener.accept_capacity < 1 << 20 else "16 bits, too"
        assert steps["accept queue"].endswith(accept)
        first = int(steps["fewer SYN-ACKs"].split()[1])
        for length, pressed in ((first - 1, False), (first, True)):
            listener.qlen = length
            assert listener.under_pressure() is pressed


def test_java_asks_for_50_and_gets_51() -> None:
    """As the recorded server did."""
    found = answers("backlog", "--backlog", "50")
    assert {row["accept queue"] for row in found["tables"][1]} == {"51"}
    assert max(row["accept_queue"][1] for row in recorded(found) if "accept_queue" in row) == 51


def test_three_quarters_of_tcp_max_syn_backlog() -> None:
    found = answers("cookies-off", "--kernel", "6.1", "--backlog", "511")
    (rows,) = found["tables"]
    assert rows[2] == {
        "tcp_max_syn_backlog": "256", "requests queued": "193",
        "why the next SYN is dropped": "syn_queue_reserved",
    }  # fmt: skip
    assert rows[4]["why the next SYN is dropped"] == "syn_queue_full"
    assert "syn_queue_reserved" in {row.get("reason") for row in recorded(found)}


@pytest.mark.parametrize("name", ["TCP_DEFER_ACCEPT", "TCP_SYNCNT", "TCP_FASTOPEN"])
@pytest.mark.parametrize("kernel", ["3.10", "6.12"])
def test_a_socket_option_makes_a_difference(name: str, kernel: str) -> None:
    page = json.loads(explain(name, "--kernel", kernel, "--backlog", "4", "-T", "json").output)
    assert any(one["differs"] for one in page["situations"])


def test_both_worlds_are_shown_packet_by_packet() -> None:
    out = explain("--sysctl", "tcp_abort_on_overflow=1", "-T", "text").output.splitlines()
    assert "0.001\tclient ACK\toverflow, silent (5, 1)\tRST (5, 0)" in out


def test_an_unknown_word_gets_the_nearest() -> None:
    result = explain("ListenDrop")
    assert isinstance(result.exception, UsageError)
    assert "did you mean ListenDrops?" in str(result.exception)


def test_a_topic_and_settings_at_once_are_refused() -> None:
    assert "one of them" in str(explain("overflow", "--sysctl", "tcp_syncookies=0").exception)
