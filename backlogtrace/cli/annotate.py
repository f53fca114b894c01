"""`backlogtrace annotate`: the capture again, with what the listen socket did as packet comments.

Knows that the capture is read twice, so that a pipe is kept in a temporary file first. Refuses to know what
comments say and how they get into blocks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import click

from backlogtrace.cli.app import CONTEXT, fail
from backlogtrace.cli.completion import files
from backlogtrace.cli.options import ALL_PACKETS, input_files, model_options, parse_model
from backlogtrace.errors import CaptureError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from backlogtrace.cli.options import Model

_COPY = 1 << 20


@click.command(context_settings=CONTEXT, short_help="Write a capture with the decisions as comments.")
@click.argument("captures", nargs=-1, required=True, metavar="CAPTURE", shell_complete=files)
@model_options
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    shell_complete=files,
    help="The pcapng file to write, whole or not at all; compressed if it ends in .gz "
    "[default: standard output, if no terminal].",
)
@click.option(
    "--colors",
    metavar="FILE",
    shell_complete=files,
    help="Write colouring rules for the comments to FILE, too.",
)
@ALL_PACKETS
def annotate(captures: tuple[str, ...], **values: Any) -> int:  # fmt: skip
    """Write CAPTURE as pcapng with a comment on every packet that was judged.

    In Wireshark, the comments say what the listen socket did: decision, reason, queues, certainty,
    counters, rule. A comment on the whole capture has the settings. All blocks and options that CAPTURE
    had are kept as they were; a pcap file is converted. Simple Packet Blocks have no room for comments:
    they stay as they are and are counted on standard error.
    """
    from backlogtrace.cli.output import opened, opened_binary
    from backlogtrace.report.comments import color_filters

    if len(captures) > 1:
        raise UsageError(
            f"annotate takes one capture, not {len(captures)}: merge them first (mergecap -w all.pcapng ...)"
        )
    model = parse_model(values, all_packets=values["all_packets"])
    inputs = input_files(captures, values)
    output, colors = values["output"], values["colors"]
    if colors is not None and os.path.realpath(colors) == os.path.realpath(output or "-"):
        raise UsageError(f"--colors {colors}: is also the output; choose another file")
    with _kept(captures[0]) as path, opened_binary(output, inputs) as out:
        problems = _annotate(path, model, out)
        if colors is not None:
            with opened(colors, inputs) as rules:
                rules.write(color_filters())
    return max((fail(_named(problem, path, captures[0]), 3) for problem in problems), default=0)


def _annotate(path: str, model: Model, out: IO[bytes]) -> list[str]:
    """Read twice, first to judge and then to write; returns what went wrong while reading."""
    from backlogtrace.capture import open_capture
    from backlogtrace.capture.annotate import Comments, write_annotated
    from backlogtrace.cli.progress import progress
    from backlogtrace.replay import analyze as replay
    from backlogtrace.report.comments import PacketComments

    with progress([path]) as tell:
        with open_capture(
            [path], reader=model.reader, keep_all=model.options.all_packets, ports=model.ports,
            progress=tell, bundle=not model.options.all_packets, keep_small=True,
        ) as capture:  # fmt: skip
            analysis = replay(capture, model.host, model.options)
            found = PacketComments(analysis)
        comments = Comments(found.section, found.frames, found.text)
        info = write_annotated(path, comments, out, tell)
    _note(comments.simple, "a Simple Packet Block can hold none (editcap makes Enhanced ones)")
    _note(comments.crowded, "the block would become larger than readers take")
    return analysis.header.problems or info.problems


def _note(count: int, why: str) -> None:
    if count:
        sys.stderr.write(f"backlogtrace: note: {count} comments left out: {why}\n")


@contextlib.contextmanager
def _kept(name: str) -> Iterator[str]:
    """The name of a file with the bytes of `name` that can be read twice."""
    from backlogtrace.capture.reader import rereadable

    if rereadable(name):
        yield name
        return
    with tempfile.NamedTemporaryFile(prefix="backlogtrace-") as spool:
        try:
            with contextlib.nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb") as pipe:  # noqa: PTH123
                shutil.copyfileobj(pipe, spool, _COPY)
            spool.flush()
        except OSError as error:
            raise CaptureError(f"{_shown(name)}: cannot be kept in a temporary file ({error})") from None
        try:
            yield spool.name
        except CaptureError as error:
            raise CaptureError(_named(str(error), spool.name, name)) from None


def _named(message: str, path: str, name: str) -> str:
    """A message about the file `path` that stands for `name`."""
    return message.replace(path, _shown(name))


def _shown(name: str) -> str:
    return "standard input" if name == "-" else name
