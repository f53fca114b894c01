"""`backlogtrace annotate`: comments as tshark reads them, packets as they were, outputs and refusals."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from backlogtrace.capture.file import CaptureFile
from backlogtrace.capture.info import CaptureInfo
from backlogtrace.cli import app as app_module
from backlogtrace.kernel.outcome import Decision
from backlogtrace.report.comments import COLORS, color_filters
from tests.capture.test_annotate import blocks, original, without_comment
from tests.cli.conftest import OVERFLOWING, ROOT, pcap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="no tshark")
FIXTURES = sorted(ROOT.glob("fixtures/*/capture.*"))
REFUSED = (
    "backlogtrace: dropped (accept_queue_full) accept 2/2 syn 0 · certain · ListenOverflows+1 ListenDrops+1"
    " · listen.accept_queue_full@tcp_conn_request"
)


def tshark(path: Path, *fields: str, colour: bool = False) -> list[list[str]]:
    """The fields of all packets."""
    names = [argument for field in fields for argument in ("-e", field)]
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", *names, *(["--color"] if colour else [])]
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
    return [line.split("\t") for line in done.stdout.splitlines()]


def packets(path: Path) -> Iterator[tuple[int, int, int, bytes]]:
    """(time in ns, bytes on the wire, link type, captured bytes) of every packet."""
    info = CaptureInfo()
    file = CaptureFile(str(path), info)
    for window, records in file.windows(1 << 20, file.framer.scan):
        for at, caplen, wirelen, time_ns, linktype in records:
            yield time_ns, wirelen, linktype, bytes(window.data[at : at + caplen])
    assert info.problems == []


def rows(path: Path, host: Path, out: Path) -> list[dict[str, Any]]:
    """What analyze says, but for the name of the capture."""
    assert app_module.run(["analyze", "--host", str(host), "-T", "jsonl", "-o", str(out), str(path)]) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    found[0]["capture"] = ""
    return found


@needs_tshark
@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.parent.name)
def test_every_fixture(path: Path, tmp_path: Path) -> None:
    host, out = path.with_name("host.json"), tmp_path / "out.pcapng"
    assert app_module.run(["annotate", "--host", str(host), "-o", str(out), str(path)]) == 0
    judged = rows(path, host, tmp_path / "before.jsonl")
    assert rows(out, host, tmp_path / "after.jsonl") == judged
    assert list(packets(out)) == list(packets(path))

    comments = {int(frame): text for frame, text in tshark(out, "frame.number", "frame.comment")}
    comments = {frame: text for frame, text in comments.items() if text.startswith("backlogtrace: ")}
    assert comments.keys() == {row["frame"] for row in judged if row.get("frame") is not None}
    for row in judged:
        if row["type"] == "packet":
            sent = "sent " if row["dir"] == "out" else ""
            assert f"backlogtrace: {sent}{row['decision']} ({row['reason']})" in comments[row["frame"]]
        elif row["type"] == "mismatch" and row["frame"] is not None:
            assert f"backlogtrace: mismatch ({row['what']}) " in comments[row["frame"]]
    if path.suffix == ".pcapng":
        before, after = blocks(path.read_bytes()), blocks(out.read_bytes())
        grown = [(new, old) for new, old in zip(after, before, strict=True) if new != old]
        assert len(grown) == len(comments) + 1
        assert {original(new, old)[:14] for new, old in grown} == {"backlogtrace: "}


def test_all_words_of_a_comment(folder: Path) -> None:
    out = folder / "out.pcapng"
    arguments = [
        "annotate",
        "--host",
        str(folder / "host.json"),
        str(folder / "capture.pcap"),
        "-o",
        str(out),
    ]
    assert app_module.run(arguments) == 0
    section, _, *found = blocks(out.read_bytes())
    assert len(found) == len(OVERFLOWING)
    assert without_comment(found[-1])[0] == REFUSED
    assert without_comment(found[1])[0] == "backlogtrace: sent synack (reply) · answers frame 1"
    about = without_comment(section)[0].splitlines()
    assert about[0] == "backlogtrace: kernel 5.10 · mode predict · quality A"
    assert "listener 10.9.0.1:80: The accept queue was full: 1 packet refused." in about
    assert "  backlog 1 (host file), fits: accept 2 syn 2; peak: accept 2 syn 1" in about
    assert "  counters: PassiveOpens+2 ListenOverflows+1 ListenDrops+1" in about


def test_limits_that_change_are_left_out(tmp_path: Path) -> None:
    comments = []
    for events in ([], [{"time_ns": 1_795_322_240_005_000_000, "op": "listen", "listener": 0, "backlog": 5}]):
        host = {"kernel": "5.10", "listeners": [{"address": "10.9.0.1", "port": 80, "backlog": 1}]}
        (tmp_path / "host.json").write_text(json.dumps(host | {"events": events}))
        (tmp_path / "x.pcap").write_bytes(pcap(OVERFLOWING[:6]))
        arguments = ["--host", str(tmp_path / "host.json"), "--accept", "never", str(tmp_path / "x.pcap")]
        assert app_module.run(["annotate", *arguments, "-o", str(tmp_path / "out")]) == 0
        comments.append(without_comment(blocks((tmp_path / "out").read_bytes())[4])[0])
    assert " accept 1/2 syn 0 " in comments[0]
    assert " accept 1 syn 0 " in comments[1]


@needs_tshark
def test_wireshark_colours_by_the_rules(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    out, colours = folder / "out.pcapng", folder / "colorfilters"
    result = run("annotate", "--backlog", "1", folder / "capture.pcap", "-o", out, "--colors", colours)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert colours.read_text() == color_filters()
    monkeypatch.setenv("WIRESHARK_CONFIG_DIR", str(colours.parent))
    rules = tshark(out, "frame.number", "frame.coloring_rule.name", colour=True)
    named = {int(frame): rule.removeprefix("backlogtrace: ") for frame, rule in rules}
    assert named[1] == named[4] == "request made"
    assert named[3] == named[6] == "accept queue entered"
    assert named[7] == "SYN dropped"
    assert "backlogtrace" not in rules[1][1]


def test_every_decision_that_matters_has_a_colour() -> None:
    starts = {start for _, start, _, _ in COLORS}
    assert set(Decision.__args__) - starts == {"passed"}  # type: ignore[attr-defined]


def test_standard_input_and_output(folder: Path) -> None:
    arguments = ["annotate", "--host", str(folder / "host.json"), "-o"]
    named = folder / "out.pcapng"
    assert app_module.run([*arguments, str(named), str(folder / "capture.pcap")]) == 0
    command = [sys.executable, "-m", "backlogtrace", *arguments, "-", "-"]
    for data, code in ((folder / "capture.pcap").read_bytes(), 0), (b"", 3), (pcap(OVERFLOWING)[:-1], 3):
        done = subprocess.run(command, check=False, input=data, capture_output=True, cwd=ROOT)
        assert done.returncode == code
        if code:
            assert done.stderr.count(b"\n") == 1
            assert done.stderr.startswith(b"backlogtrace: error: standard input: ")
        else:
            assert done.stdout == named.read_bytes()


def test_a_cut_capture_is_written_as_far_as_it_goes(folder: Path, run: Run) -> None:
    cut, out = folder / "cut.pcap", folder / "out.pcapng"
    cut.write_bytes(pcap(OVERFLOWING)[:-1])
    result = run("annotate", "--backlog", "1", cut, "-o", out)
    assert result.returncode == 3
    assert result.stderr.count("\n") == 1
    assert "the capture ends inside a record" in result.stderr
    assert len(blocks(out.read_bytes())) == 2 + len(OVERFLOWING) - 1


def test_an_unreadable_capture_leaves_no_file(folder: Path, run: Run) -> None:
    (folder / "text").write_text("no capture")
    result = run("annotate", folder / "text", "-o", folder / "out.pcapng", "--colors", folder / "colours")
    assert (result.returncode, result.stdout) == (3, "")
    assert not (folder / "out.pcapng").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["capture.pcap", "host.json", "text"]


def test_compressed_in_and_out(folder: Path) -> None:
    packed = folder / "capture.pcap.gz"
    packed.write_bytes(gzip.compress(pcap(OVERFLOWING)))
    for name in ("out.pcapng", "out.pcapng.gz"):
        assert app_module.run(["annotate", "--backlog", "1", str(packed), "-o", str(folder / name)]) == 0
    plain = (folder / "out.pcapng").read_bytes()
    assert plain[:4] == b"\n\r\r\n"
    assert gzip.decompress((folder / "out.pcapng.gz").read_bytes()) == plain


def test_simple_packets_are_kept_and_counted(folder: Path, run: Run) -> None:
    parts = [
        struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28),
        struct.pack("<IIHHII", 1, 20, 101, 0, 0, 20),
    ]
    parts += [struct.pack("<III", 3, 56, 40) + data + struct.pack("<I", 56) for _, data in OVERFLOWING]
    (folder / "simple.pcapng").write_bytes(b"".join(parts))
    result = run("annotate", folder / "simple.pcapng", "-o", folder / "out.pcapng")
    assert result.returncode == 0
    note = "a Simple Packet Block can hold none (editcap makes Enhanced ones)"
    assert result.stderr == f"backlogtrace: note: {len(OVERFLOWING)} comments left out: {note}\n"
    assert [block.data for block in blocks((folder / "out.pcapng").read_bytes())][1:] == parts[1:]


def test_no_bytes_on_a_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert app_module.run(["annotate", str(folder / "capture.pcap")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "backlogtrace: error: standard output is a terminal: name a file with -o, or redirect it\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["capture.pcap", "capture.pcap", "-o", "out"], "takes one capture, not 2: merge them first"),
        (["capture.pcap", "-o", "capture.pcap"], "it is also an input"),
        (["capture.pcap", "-o", "out", "--colors", "capture.pcap"], "it is also an input"),
        (["capture.pcap", "-o", "out", "--colors", "./out"], "is also the output"),
        (["capture.pcap", "-o", "."], "it is a folder"),
        (["capture.pcap", "-o", "missing/out"], "cannot write missing/out: No such file"),
        (["capture.pcap", "-o", "missing/out.gz"], "cannot write missing/out.gz: No such file"),
    ],
)
def test_usage_errors(folder: Path, run: Run, arguments: list[str], words: str) -> None:
    before = (folder / "capture.pcap").read_bytes()
    result = run("annotate", *arguments, cwd=folder)
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert (folder / "capture.pcap").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["capture.pcap", "host.json"]
