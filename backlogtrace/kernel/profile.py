"""What differs between kernels on the listen path, as data.

A profile is a base plus changes; a change says which field it sets and where it comes from. Code
asks fields, never versions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

Evidence = Literal["read", "measured", "reported"]


@dataclass(frozen=True, slots=True)
class Change:
    """One behaviour that a kernel change altered, with its provenance."""

    field: str
    """Field of Profile that it sets."""
    after: object
    """The value since the change."""
    summary: str
    """What a user sees of it."""
    since: str
    """Mainline version that first has it, e.g. `v6.14`."""
    functions: tuple[str, ...]
    commit: str = ""
    """Mainline commit, 12 hex digits; empty where it was not verified."""
    subject: str = ""
    backports: tuple[str, ...] = ()
    """Other trees known to have it."""
    evidence: Evidence = "read"
    """read in the trees, measured on running kernels, or reported by others."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The behaviours of one kernel family."""

    name: str
    """Family name as given to --kernel."""
    tree: str
    """The tree whose source or truth data the profile was made from."""
    syn_spare: int = 0
    """Requests that fit beyond the backlog: 0 where the SYN queue is full at qlen >= backlog, 1 at qlen > backlog."""
    request_takes_tsval: bool = True
    """A segment at or before rcv_nxt moves the request's ts_recent (tcp_check_req)."""
    rst_needs_exact_seq: bool = False
    """A RST for a request must have seq == rcv_nxt, else a challenge ACK answers it."""
    checks_tsecr: bool = False
    """A segment for a request must echo a timestamp that was sent."""
    rto_max_setting: bool = False
    """SYN-ACK intervals are capped by tcp_rto_max_ms instead of a fixed 120 s."""
    dataless_fastopen: bool = True
    """Fast Open without cookie also for a SYN that carries the option but no data."""
    timewait_syn_is_plain: bool = True
    """A SYN that reuses a TIME_WAIT 4-tuple passes the SYN-queue and cookie tests like any other."""
    defaults: dict[str, int] = field(default_factory=dict)
    """Sysctl defaults that differ from DEFAULTS."""
    changes: tuple[Change, ...] = ()
    """What made this profile out of its base."""


def derive(base: Profile, name: str, tree: str, *changes: Change) -> Profile:
    """A profile that is `base` plus `changes`.

    Raises TypeError when a change names no field, ValueError when it changes nothing.
    """
    values: dict[str, object] = {}
    for change in changes:
        if getattr(base, change.field) == change.after:
            message = f"{name}: {change.field} is {change.after!r} already"
            raise ValueError(message)
        values[change.field] = change.after
    return replace(base, name=name, tree=tree, changes=(*base.changes, *changes), **values)  # type: ignore[arg-type]
