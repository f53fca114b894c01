"""Writes the manual page, man/backlogtrace.1: `make man`.

Commands, options and their texts are what --help says; here is only what no command says of itself.
Refuses to write what changes by itself (a date), so that a test can hold the committed page to the program.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backlogtrace import __version__
from backlogtrace.cli.app import COMMANDS, app

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_CODES = {
    "0": "Done.",
    "1": "A --fail-on condition or an expectation failed.",
    "2": "Wrong usage.",
    "3": "A capture is unreadable, truncated or unsupported; what could be read was analysed.",
    "4": "Inconclusive, under --strict.",
    "130": "Interrupted.",
}
FILES = {
    "host.json": "What a capture cannot show: kernel, sysctls, listeners, backlogs, the times of accept(). "
    "Given with --host; in a fixture it has this name. `backlogtrace schema host` describes it.",
    "fixtures/NAME/": "A fixture of `check`: capture.pcap (or .pcapng, also .gz, .zst or .lz4), host.json, "
    "and expected.jsonl (what `analyze -T jsonl` must print) or truth.jsonl (what a real kernel did).",
}
ENVIRONMENT = {
    "NO_COLOR, FORCE_COLOR, TERM": "Whether --color auto means colour: no if NO_COLOR is set, yes if "
    "FORCE_COLOR is, no if TERM is dumb, else if standard output is a terminal.",
    "COLUMNS": "Width of the report.",
    "GITHUB_WORKSPACE": "The checkout: `check --github` names files relative to it.",
    "_BACKLOGTRACE_COMPLETE": "With bash_source, zsh_source or fish_source, backlogtrace prints the shell "
    'code that completes its command line: eval "$(_BACKLOGTRACE_COMPLETE=bash_source backlogtrace)".',
}  # fmt: skip
EXAMPLES = {
    "backlogtrace analyze --host host.json capture.pcap": "What happened, and why.",
    "tcpdump -w - 'tcp port 80' | backlogtrace analyze --backlog 128 -": "The same of what is captured now.",
    "backlogtrace explain --sysctl tcp_abort_on_overflow=1": "What a setting changes.",
    "backlogtrace check fixtures --github --junit report.xml": "Expectations in continuous integration.",
}


def page() -> str:
    """The whole page as roff."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    context = click.Context(app, info_name="backlogtrace", **app.context_settings)
    first, *rest = _paragraphs(app)
    yield '.\\" Made by tools/manpage.py (make man) from the texts of --help: change those.'
    yield f'.TH BACKLOGTRACE 1 "" "backlogtrace {__version__}" "User Commands"'
    yield from (".nh", ".ad l")
    yield from (".SH NAME", "backlogtrace \\- " + roff(first[0].lower() + first[1:].rstrip(".")))
    yield ".SH SYNOPSIS"
    yield from _usage(context)
    yield ".SH DESCRIPTION"
    # without the .PP of the first one: a section begins with a paragraph
    yield from [line for paragraph in rest for line in _paragraph(paragraph)][1:]
    yield ".SH OPTIONS"
    yield from _options(context)
    yield ".SH COMMANDS"
    for name in COMMANDS:
        command = app.get_command(context, name)
        assert command is not None
        yield from _command(click.Context(command, context, name, **command.context_settings))
    yield from _section("EXIT STATUS", EXIT_CODES)
    yield from _section("FILES", FILES)
    yield from _section("ENVIRONMENT", ENVIRONMENT)
    yield from _section("EXAMPLES", EXAMPLES)
    yield from (".SH SEE ALSO", ".BR listen (2),", ".BR tcp (7),", ".BR tcpdump (8),", ".BR ss (8)")


def _command(context: click.Context) -> Iterator[str]:
    yield f".SS {roff(str(context.info_name))}"
    yield from _usage(context)
    for paragraph in _paragraphs(context.command):
        yield from _paragraph(paragraph)
    yield from _options(context)


def _usage(context: click.Context) -> Iterator[str]:
    pieces = context.command.collect_usage_pieces(context)
    yield f"\\fB{roff(context.command_path)}\\fR {roff(' '.join(pieces))}"


def _options(context: click.Context) -> Iterator[str]:
    for param in context.command.get_params(context):
        record = param.get_help_record(context)
        if record is not None and isinstance(param, click.Option):  # arguments are told of in the text
            yield from _entry(*record)


def _section(title: str, entries: dict[str, str]) -> Iterator[str]:
    yield f".SH {title}"
    for name, text in entries.items():
        yield from _entry(name, text)


def _entry(name: str, text: str) -> Iterator[str]:
    yield from (".TP", f"\\fB{roff(name)}\\fR", roff(text))


def _paragraphs(command: click.Command) -> list[str]:
    return [text for text in (command.help or "").split("\n\n") if text.strip()]


def _paragraph(text: str) -> Iterator[str]:
    yield ".PP"
    if text.startswith("\b\n"):  # click's mark: keep the lines as they are
        yield from (".nf", *map(roff, text[2:].splitlines()), ".fi")
    else:
        yield roff(" ".join(text.split()))


def roff(text: str) -> str:
    """`text` as roff shows it unchanged: no character in it is a command, a quote stays straight."""
    special = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}
    escaped = re.sub(r"[-\\'`^~]", lambda found: special[found[0]], " ".join(text.split()))
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
