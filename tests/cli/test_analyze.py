"""`analyze` from the outside: formats, exit codes, pipes, files, colour."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from backlogtrace.report.schema import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]


def analyze(
    run: Run, folder: Path, *arguments: str | Path, **options: Any
) -> subprocess.CompletedProcess[str]:
    return run("analyze", "--host", folder / "host.json", folder / "capture.pcap", *arguments, **options)


# ---- what comes out -------------------------------------------------------------------------------


def test_the_report_tells_what_happened(run: Run, folder: Path) -> None:
    result = analyze(run, folder)
    assert result.returncode == 0
    assert result.stderr == ""
    assert "PROBLEM: The accept queue was full: 1 packet refused." in result.stdout
    assert "raise the backlog passed to listen() (it is 1)" in result.stdout
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_jsonl_is_valid_and_names_the_bare_file(run: Run, folder: Path) -> None:
    result = analyze(run, folder, "-T", "jsonl")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    validator = jsonschema.Draft202012Validator(SCHEMAS["jsonl"])
    for row in rows:
        validator.validate(row)
    assert rows[0]["capture"] == "capture.pcap"
    dropped = [row for row in rows if row.get("decision") == "dropped"]
    assert [(row["frame"], row["reason"], row["accept_queue"]) for row in dropped] == [
        (7, "accept_queue_full", [2, 2])
    ]
    assert rows[-1]["counters"]["ListenOverflows"] == 1


def test_other_formats(run: Run, folder: Path) -> None:
    table = list(csv.DictReader(io.StringIO(analyze(run, folder, "-T", "csv").stdout)))
    assert [row["decision"] for row in table if row["frame"] == "7"] == ["dropped"]
    assert "backlogtrace_tcpext_listen_overflows_total" in analyze(run, folder, "-T", "prom").stdout
    assert re.search(
        r"^frame=7 .* DROPPED accept_queue_full", analyze(run, folder, "-T", "text").stdout, re.MULTILINE
    )


def test_output_does_not_depend_on_folder_or_hash_seed(run: Run, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "else" / "where"
    other.mkdir(parents=True)
    (other / "capture.pcap").write_bytes((folder / "capture.pcap").read_bytes())
    (other / "host.json").write_bytes((folder / "host.json").read_bytes())
    one = analyze(run, folder, "-T", "jsonl", env={"PYTHONHASHSEED": "1"})
    two = analyze(
        run, other, "-T", "jsonl", env={"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo", "COLUMNS": "200"}
    )
    assert one.stdout == two.stdout


def test_standard_input(folder: Path, run: Run) -> None:
    with (folder / "capture.pcap").open("rb") as stream:
        result = run("analyze", "--host", folder / "host.json", "-T", "jsonl", "-", stdin=stream)
    assert result.returncode == 0
    assert json.loads(result.stdout.splitlines()[0])["packets"] == 7


def test_all_shows_routine_packets(run: Run, folder: Path) -> None:
    assert "queued" in analyze(run, folder, "--all").stdout.partition("timeline of all rows")[2]


def test_limit(run: Run, folder: Path) -> None:
    assert "timeline" not in analyze(run, folder, "--limit", "0").stdout.partition("Clients hit")[0]
    assert analyze(run, folder, "--limit", "1").returncode == 0


# ---- exit codes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "code"),
    [("dropped", 1), ("rst,dropped", 1), ("overflow", 0), ("rst,cookie", 0), ("mismatch", 0)],
)
def test_fail_on(run: Run, folder: Path, conditions: str, code: int) -> None:
    result = analyze(run, folder, "--fail-on", conditions)
    assert result.returncode == code
    assert ("--fail-on dropped: 1 found" in result.stderr) == (code == 1)
    assert "listener 10.9.0.1:80" in result.stdout


def test_fail_on_nothing_found(run: Run, quiet: Path) -> None:
    result = run("analyze", quiet, "--fail-on", "dropped,overflow,rst,cookie")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_truncated_capture_is_analysed_up_to_the_damage(run: Run, folder: Path) -> None:
    capture = folder / "capture.pcap"
    capture.write_bytes(capture.read_bytes()[:-5])
    result = analyze(run, folder, "-T", "jsonl")
    assert result.returncode == 3
    assert result.stderr.startswith("backlogtrace: error: ")
    assert "capture.pcap" in result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows[0]["packets"] == 6
    assert rows[0]["problems"]
    assert sum(row["type"] == "packet" for row in rows) == 6


@pytest.mark.parametrize("content", [b"", b"hello, world: this is no capture\n", b"\x00" * 100])
def test_what_is_no_capture(run: Run, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(content)
    result = run("analyze", path)
    assert result.returncode == 3
    assert result.stdout == ""
    assert result.stderr.startswith("backlogtrace: error: ")
    assert "x.pcap" in result.stderr
    assert "Traceback" not in result.stderr


def test_missing_file_and_folder(run: Run, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pcap", tmp_path):
        result = run("analyze", path)
        assert result.returncode == 3
        assert str(path) in result.stderr


def test_strict_accepts_a_firm_answer(run: Run, folder: Path) -> None:
    assert analyze(run, folder, "--strict").returncode == 0


def test_strict_refuses_a_doubtful_one() -> None:
    from backlogtrace.cli.analyze import _verdict
    from backlogtrace.replay.rows import Header

    nothing: dict[str, Any] = {"fail_on": frozenset(), "undecided": 0}
    assert _verdict(Header("x", quality="C"), [], strict=True, **nothing) == 4
    assert _verdict(Header("x", quality="B"), [], strict=True, **nothing) == 0
    assert _verdict(Header("x", quality="D"), [], strict=False, **nothing) == 0
    assert _verdict(Header("x"), [], strict=True, fail_on=frozenset(), undecided=1) == 4


# ---- pipes and signals ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["rich", "text", "jsonl", "csv", "prom"])
def test_a_closed_pipe_is_quiet(folder: Path, run: Run, form: str) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "backlogtrace", "analyze", str(folder / "capture.pcap"), "-T", form]
    done = subprocess.run(command, check=False, stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_a_full_disk_is_an_error_not_a_traceback(run: Run, folder: Path) -> None:
    command = [sys.executable, "-m", "backlogtrace", "analyze", str(folder / "capture.pcap"), "-T", "jsonl"]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(b"backlogtrace: error: cannot write")
    assert b"Traceback" not in done.stderr


def test_ctrl_c_is_quiet(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # a shell starts what it puts into the background with SIGINT ignored, and children inherit that
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "backlogtrace", "analyze", "-T", "text", str(pipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    signal.signal(signal.SIGINT, before)
    # Opening the other end waits until the program reads: from then on it can be interrupted.
    with pipe.open("wb"):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")


# ---- files ----------------------------------------------------------------------------------------


def test_output_file_is_what_stdout_would_be(run: Run, folder: Path) -> None:
    target = folder / "out.jsonl"
    result = analyze(run, folder, "-T", "jsonl", "-o", target)
    assert (result.returncode, result.stdout) == (0, "")
    assert target.read_text() == analyze(run, folder, "-T", "jsonl").stdout
    assert stat.S_IMODE(target.stat().st_mode) & 0o077 == 0o077 & ~_umask() & 0o066
    assert sorted(path.name for path in folder.iterdir()) == ["capture.pcap", "host.json", "out.jsonl"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("name", ["capture.pcap", "host.json", "link"])
def test_inputs_are_never_overwritten(run: Run, folder: Path, name: str) -> None:
    (folder / "link").symlink_to(folder / "capture.pcap")
    before = (folder / "capture.pcap").read_bytes(), (folder / "host.json").read_bytes()
    result = analyze(run, folder, "-o", folder / name)
    assert result.returncode == 2
    assert "it is also an input" in result.stderr
    assert before == ((folder / "capture.pcap").read_bytes(), (folder / "host.json").read_bytes())


def test_a_failed_run_leaves_the_old_output(run: Run, folder: Path) -> None:
    target = folder / "out.txt"
    target.write_text("old")
    (folder / "capture.pcap").write_bytes(b"no capture")
    assert analyze(run, folder, "-o", target).returncode == 3
    assert target.read_text() == "old"
    assert not list(folder.glob(".*"))


def test_output_to_a_device_a_folder_and_nowhere(run: Run, folder: Path) -> None:
    assert analyze(run, folder, "-o", "/dev/null").returncode == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)  # noqa: PTH116
    result = analyze(run, folder, "-o", folder)
    assert (result.returncode, "it is a folder" in result.stderr) == (2, True)
    result = analyze(run, folder, "-o", folder / "no" / "such" / "place")
    assert (result.returncode, "No such file or directory" in result.stderr) == (2, True)


def test_an_output_link_keeps_pointing(run: Run, folder: Path) -> None:
    target, link = folder / "real.txt", folder / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    assert analyze(run, folder, "-o", link).returncode == 0
    assert link.is_symlink()
    assert "PROBLEM" in target.read_text()


# ---- looks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "environment", "coloured"),
    [
        ([], {}, False),
        (["--color", "always"], {}, True),
        (["--color", "always"], {"NO_COLOR": "1"}, True),
        (["--color", "never"], {"FORCE_COLOR": "1"}, False),
        ([], {"FORCE_COLOR": "1"}, True),
        ([], {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colour(
    run: Run, folder: Path, options: list[str], environment: dict[str, str], coloured: bool
) -> None:
    result = analyze(run, folder, *options, env=environment)
    assert ("\x1b[" in result.stdout) == coloured


def test_columns_sets_the_width(run: Run, folder: Path) -> None:
    text = analyze(run, folder, env={"COLUMNS": "120"}).stdout
    assert max(map(len, text.splitlines())) == 120


def test_an_ascii_terminal_gets_ascii(run: Run, folder: Path) -> None:
    result = analyze(run, folder, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert result.returncode == 0
    assert result.stdout.isascii()
    assert "== listener 10.9.0.1:80 ==" in result.stdout


def test_a_hostile_file_name_is_shown_not_obeyed(run: Run, tmp_path: Path, quiet: Path) -> None:
    name = b"\x1b[2J[red][x]:b:\xff\n.pcap"
    path = str(tmp_path / os.fsdecode(name))
    quiet.rename(path)
    for form in ("rich", "text", "prom", "csv", "jsonl"):
        result = run("analyze", path, "-T", form)
        assert result.returncode == 0, result.stderr
        assert "\x1b" not in result.stdout
    shown = run("analyze", path).stdout
    assert "\\x1b[2J[red][x]:b:\\xff\\x0a.pcap" in shown
    missing = run("analyze", path + "2")
    assert missing.returncode == 3
    assert "\x1b" not in missing.stderr
    assert missing.stderr.count("\n") == 1
