"""Measures backlogtrace next to the tools people would otherwise run on the same captures.

    python bench/run.py [--rounds N] [--only CAPTURE]… [--skip TOOL]… [--directory DIRECTORY]

Every figure is for a whole process with its children, the start of the interpreter included. All
tools run in turn, round after round, so that a busy machine hurts them alike; the medians are
printed as Markdown. CPU seconds are the figure to compare. Captures that are missing are made first.

Knows how to run and weigh processes; refuses to know what they compute.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
HANDSHAKES = "tcp[tcpflags] & (tcp-syn|tcp-rst) != 0 or (ip6 and ip6[53] & 6 != 0)"
"""tcp[] does not look into IPv6, hence the second half."""
OURS = [sys.executable, "-m", "backlogtrace"]
TOOLS = {
    "backlogtrace analyze": [*OURS, "analyze", "{capture}"],
    "backlogtrace analyze -T jsonl": [*OURS, "analyze", "-T", "jsonl", "{capture}"],
    "tcpdump -w, SYN/RST": ["tcpdump", "-r", "{capture}", "-w", "/dev/null", HANDSHAKES],
    "tcptrace -n": ["tcptrace", "-n", "{capture}"],
    "tshark -Y SYN -w": ["tshark", "-r", "{capture}", "-Y", "tcp.flags.syn==1", "-w", "/dev/null"],
}
"""Command lines by the name in the table. tcpdump keeps no state: it is the floor, not a rival."""
PACKETS = {"flood": 1_781_118, "web": 2_020_000, "bulk": 3_000_000}
"""What generate.py writes at full scale."""
STARTS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "backlogtrace --help": [*OURS, "--help"],
    "backlogtrace analyze, 5 KB capture": [*OURS, "analyze", "fixtures/format-base/capture.pcap"],
}
START_ROUNDS = 20
TCPTRACE_FLOOD_BYTES = 9_000_000_000
"""tcptrace keeps 4.6 KB for each of the flood's million connections, and more while it grows."""


class Cost(NamedTuple):
    """What one run took."""

    cpu: float
    """User and system seconds of the process and its children."""
    wall: float
    """Seconds."""
    memory: int
    """Largest resident set of the process or of one of its children, bytes; this process's own
    size at least, because a child begins as its copy."""


class FailedRunError(Exception):
    """The measured command did not succeed, so its figures mean nothing."""


def run(command: list[str]) -> Cost:
    """Run `command` with its output thrown away; Python may keep what it compiled, as where it is installed.

    Raises FailedRunError, with the last line of its complaint, unless it exits with 0.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    with process:
        complaint = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
    if process.returncode:
        last_words = complaint.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise FailedRunError(f"exit code {process.returncode}: {last_words[0]}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024)


def rounds_of(
    on: str,
    commands: dict[str, list[str]],
    rounds: int,
    notes: list[str],
) -> dict[str, list[Cost]]:
    """Run the commands in turn, `rounds` times; one that fails `on` the capture is noted, not repeated."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for number in range(rounds):
        for name in list(costs):
            if sys.stderr.isatty():
                sys.stderr.write(f"\rround {number + 1} of {rounds}: {name}\033[K")
            try:
                costs[name].append(run(commands[name]))
            except FailedRunError as error:
                notes.append(f"{name}: not measured on {on} ({error})")
                del costs[name]
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    return costs


def median(costs: list[Cost]) -> Cost:
    """Median of each figure by itself."""
    return Cost(*(statistics.median(column) for column in zip(*costs, strict=True)))


def available_memory() -> int:
    """Bytes that can be used without swapping (Linux); else all there is."""
    try:
        meminfo = Path("/proc/meminfo").read_text("ascii")
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(meminfo.split("MemAvailable:")[1].split()[0]) * 1024


def measure_capture(capture: Path, tools: dict[str, list[str]], rounds: int, notes: list[str]) -> list[str]:
    """The Markdown table of one capture."""
    commands = {
        name: [word.replace("{capture}", str(capture)) for word in command] for name, command in tools.items()
    }
    if capture.stem == "flood" and "tcptrace -n" in commands and available_memory() < TCPTRACE_FLOOD_BYTES:
        notes.append(f"tcptrace -n: skipped on flood, it needs {TCPTRACE_FLOOD_BYTES / 1e9:.0f} GB of memory")
        del commands["tcptrace -n"]
    costs = rounds_of(capture.stem, commands, rounds, notes)
    packets = PACKETS[capture.stem]
    base = median(costs["backlogtrace analyze"]).cpu if "backlogtrace analyze" in costs else 0.0
    lines = [
        "",
        f"### {capture.stem}: {packets:,} packets, {capture.stat().st_size / 1e6:,.0f} MB",
        "",
        "| command | runs | CPU s | CPU of analyze = 1 | wall s | packets per CPU s | peak RSS MB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, of_tool in costs.items():
        cost = median(of_tool)
        relative = f"{cost.cpu / base:.2f}" if base else "-"
        lines.append(
            f"| `{name}` | {len(of_tool)} | {cost.cpu:.2f} | {relative} | {cost.wall:.2f} "
            f"| {packets / cost.cpu:,.0f} | {cost.memory / 1e6:,.0f} |"
        )
    return lines


def measure_starts(notes: list[str]) -> list[str]:
    """The Markdown table of what starting costs."""
    lines = ["", "### start", "", "| command | runs | CPU ms | wall ms |", "|---|--:|--:|--:|"]
    for name, of_tool in rounds_of("start", STARTS, START_ROUNDS, notes).items():
        cost = median(of_tool)
        lines.append(f"| `{name}` | {len(of_tool)} | {cost.cpu * 1e3:.0f} | {cost.wall * 1e3:.0f} |")
    return lines


def machine() -> str:
    """What the figures were measured on."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        cpuinfo = []
    models = [line.partition(": ")[2] for line in cpuinfo if line.startswith("model name")]
    processor = models[0] if models else platform.machine()
    return (
        f"{processor}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )


def installed(skip: list[str], notes: list[str]) -> dict[str, list[str]]:
    """The tools that can be run and were not skipped."""
    tools = {}
    for name, command in TOOLS.items():
        if any(name.startswith(word) for word in skip):
            notes.append(f"{name}: skipped as asked")
        elif shutil.which(command[0]) is None:
            notes.append(f"{name}: not installed")
        else:
            tools[name] = command
    return tools


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Measure backlogtrace next to tshark, tcptrace and tcpdump.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=[*PACKETS, "start"], action="append", help="repeatable")
    parser.add_argument("--skip", action="append", default=[], metavar="TOOL", help="e.g. tshark; repeatable")
    parser.add_argument("--directory", type=Path, default=Path("build/bench"), help="where the captures are")
    arguments = parser.parse_args()
    notes: list[str] = []
    tools = installed(arguments.skip, notes)
    print(f"Medians of interleaved runs on {machine()}.")
    for name in arguments.only or [*PACKETS, "start"]:
        if name == "start":
            lines = measure_starts(notes)
        else:
            capture = (arguments.directory / f"{name}.pcap").absolute()
            if not capture.exists():
                # in a process of its own: numpy would count as memory of every tool
                generator = [sys.executable, str(ROOT / "bench/generate.py"), str(capture.parent)]
                subprocess.run([*generator, "--only", name], check=True, stdout=subprocess.DEVNULL)
            lines = measure_capture(capture, tools, arguments.rounds, notes)
        print("\n".join(lines), flush=True)
    for note in notes:
        print(f"\n{note}")
    if any(note.startswith("backlogtrace") and "not measured" in note for note in notes):
        sys.exit(1)


if __name__ == "__main__":
    main()
