"""`backlogtrace explain`: what a setting, counter, decision or reason does.

Knows options and formats. Refuses to know what anything means.
"""

from __future__ import annotations

from typing import Any

import click

from backlogtrace.cli.app import CONTEXT
from backlogtrace.cli.options import find_kernel
from backlogtrace.cli.pages import output_options, write_page
from backlogtrace.errors import UsageError

_BACKLOG = 4


@click.command(context_settings=CONTEXT, short_help="Show what a setting does, or what a word means.")
@click.argument("topic", required=False)
@click.option(
    "--sysctl", "sysctls", multiple=True, metavar="NAME=VALUE",
    help="Setting to try, short or full name; repeatable.",
)  # fmt: skip
@click.option("--backlog", type=click.IntRange(0, 10_000), default=_BACKLOG, show_default=True,
              help="What the application passes to listen().")  # fmt: skip
@click.option("--kernel", metavar="VERSION", help="Family (5.10), distribution (rhel7) or `uname -r`.")
@output_options()
def explain(topic: str | None, sysctls: tuple[str, ...], **values: Any) -> None:
    """Play what settings change, or say what a TOPIC means; without either, list the topics.

    With --sysctl, small situations (a SYN while a queue is full, an ACK that nobody can take, ...) are
    run on the model of the kernel twice, with its defaults and as given, and shown side by side. TOPIC is
    a sysctl, counter (ListenDrops), decision (overflow) or reason (syn_queue_full).
    """
    from backlogtrace.kernel.families import DEFAULT
    from backlogtrace.replay.host import parse_sysctl
    from backlogtrace.report import explain as report

    if topic is not None and sysctls:
        raise UsageError(f"--sysctl plays settings and {topic!r} is a topic: give one of them")
    if sysctls:
        profile, note = find_kernel(values["kernel"]) if values["kernel"] else (DEFAULT, "")
        page = report.effect(profile, dict(map(parse_sysctl, sysctls)), values["backlog"], note)
    else:
        page = report.topic(topic) if topic is not None else report.overview()
    write_page(page, values)
