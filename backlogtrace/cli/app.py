"""The command group: which commands there are, and how every one of them ends.

Knows the exit codes and that all errors are one line. Refuses to know what a command does.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from backlogtrace import __version__
from backlogtrace.cli import COMPLETION
from backlogtrace.errors import BacklogtraceError
from backlogtrace.report.safe import safe

COMMANDS = {
    "analyze": "backlogtrace.cli.analyze",
    "annotate": "backlogtrace.cli.annotate",
    "check": "backlogtrace.cli.check",
    "explain": "backlogtrace.cli.explain",
    "infer": "backlogtrace.cli.infer",
    "kernels": "backlogtrace.cli.kernels",
    "lab": "backlogtrace.cli.lab",
    "schema": "backlogtrace.cli.schema",
}
"""Command -> module that has it under the same name; imported when it is needed."""

_EPILOG = """\b
Examples:
  backlogtrace analyze --host host.json capture.pcap
  tcpdump -w - 'tcp port 80' | backlogtrace analyze --backlog 128 -
  backlogtrace analyze -T jsonl --fail-on dropped,overflow capture.pcapng.gz
Exit codes: 0 done, 1 a --fail-on condition or an expectation failed,
2 usage, 3 input unreadable or truncated, 4 inconclusive under --strict,
130 interrupted.
"""

CONTEXT: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "terminal_width": 80,
    "max_content_width": 80,
}
_INTERRUPTED = 130


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name)
        return command


@click.group("backlogtrace", cls=_LazyGroup, context_settings=CONTEXT, epilog=_EPILOG)
@click.version_option(__version__, message="%(prog)s %(version)s")
def app() -> None:
    """Explain a packet capture by what the Linux listen socket did with it.

    Replays TCP handshakes through a model of the kernel's SYN queue and accept queue and says for
    every packet what happened and why: queued, answered with a SYN cookie, dropped, overflowed, reset.
    """


def run(arguments: list[str]) -> int:
    """Run `arguments` and return the exit code; nothing but a bug raises."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return fail(f"cannot write: {error.strerror or error}", 2)
    return code


def _run(arguments: list[str]) -> int:
    try:
        if COMPLETION in os.environ:
            app.main(arguments, "backlogtrace")
        # Not app.main(): it prints on Ctrl-C and ends with 1 on a closed pipe.
        with app.make_context("backlogtrace", arguments) as context:
            result = app.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return fail(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except BacklogtraceError as error:
        return fail(str(error), error.exit_code)
    return result if isinstance(result, int) else 0


def fail(message: str, code: int) -> int:
    """Print one line on stderr and return `code`."""
    text = safe(" ".join(message.split("\n")), 4000)
    try:
        sys.stderr.write(f"backlogtrace: error: {text}\n")
        sys.stderr.flush()
    except OSError:  # nobody listens; the exit code still tells
        pass
    return code
