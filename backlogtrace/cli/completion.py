"""What the shell offers after TAB, besides the commands, options and choices that click knows itself.

Knows where the words come from, and imports them only when a shell asks. Refuses to know any shell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import click
    from click.shell_completion import CompletionItem

    Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:  # noqa: ARG001 - click's signature
    """The shell's own files."""
    return [_item(incomplete, "file")]


def folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:  # noqa: ARG001
    """The shell's own folders."""
    return [_item(incomplete, "dir")]


def kernels(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:  # noqa: ARG001
    """Families and distributions; what `uname -r` prints is known to the user alone."""
    from backlogtrace.kernel import distributions
    from backlogtrace.kernel.profiles import PROFILES

    return _starting((*(profile.name for profile in PROFILES), *distributions.NAMES), incomplete)


def topics(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Topics of `explain`, sysctls by their short names; files where none fits or a packet is asked for."""
    from backlogtrace.report.explain import topics as known

    if ctx.params.get("frame") is not None:
        return files(ctx, param, incomplete)
    full = incomplete.startswith("net.")
    words = (word if full else word.rpartition(".")[2] for word in known())
    return _starting(words, incomplete) or files(ctx, param, incomplete)


def listed(known: Sequence[str]) -> Complete:
    """For an option that takes words separated by commas: those that were not given yet."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:  # noqa: ARG001
        given, comma, _ = incomplete.rpartition(",")
        words = [word for word in known if word not in given.split(",")]
        return _starting([f"{given}{comma}{word}" for word in words], incomplete)

    return complete


def _starting(words: Iterable[str], incomplete: str) -> list[CompletionItem[str]]:
    return [_item(word) for word in words if word.startswith(incomplete)]


def _item(value: str, kind: str = "plain") -> CompletionItem[str]:
    from click.shell_completion import CompletionItem

    return CompletionItem(value, type=kind)
