"""The errors that reach the user; each knows its exit code (DESIGN: exit codes)."""

from __future__ import annotations


class BacklogtraceError(Exception):
    """Something the user must know; the message says what is wrong, where, and what to do."""

    exit_code = 1


class UsageError(BacklogtraceError):
    """An option, host file or parameter that cannot be used."""

    exit_code = 2


class CaptureError(BacklogtraceError):
    """A capture that cannot be read at all, or only up to a point."""

    exit_code = 3
