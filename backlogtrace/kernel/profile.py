"""What differs between kernels on the listen path, as data.

A profile is a base plus changes; a change says which field it sets and where it comes from. Code
asks fields, never versions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Final, Literal

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
    """Mainline version that first has it, e.g. `v6.14`; without a commit, the oldest known to have it."""
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
    usual_hz: int = 250
    """Ticks per second of the binaries that are usually run; the model takes HZ from the host file."""
    syn_table: bool = False
    """The listener has a table of requests, a power of two fixed at the first listen(): the limit."""
    backlog_bits: Literal[16, 32] = 32
    """Width of the backlog and of the accept queue's length; with 16, a backlog of 65535 is never reached."""
    syn_spare: int = 0
    """Requests that fit beyond the backlog: 0 where the SYN queue is full at qlen >= backlog, 1 at >."""
    full_queue_admits_young: int = -1
    """A SYN passes a full accept queue while no more than this many requests are young; -1: never."""
    timer: Literal["wheel", "tick", "prune"] = "wheel"
    """When request timers fire: rounded up by the timer wheel, at their tick, or when the listener's
    200 ms timer comes by their hash bucket."""
    requests_die_with_listener: bool = False
    """close() frees pending requests at once."""
    syncookies_2_is_1: bool = False
    """tcp_syncookies=2 is nothing but "on"."""
    cookie_counts_drop: bool = False
    """Every cookie sent counts ListenDrops."""
    cookie_mss_v4: tuple[int, ...] = (536, 1300, 1440, 1460)
    cookie_mss_v6: tuple[int, ...] = (1220, 1420, 1440, 8940)
    cookie_max_age: int = 2
    """Cookie minutes: this one and the previous ones."""
    cookie_window_s: int = 120
    """How long after the last overflow cookies are looked at."""
    cookie_stamp_idle_s: int = 1
    """The overflow is noted anew only after this long."""
    cookie_stamp_from_zero: bool = True
    """A listener that never overflowed counts as having done so when jiffies (u32) were 0."""
    cookie_stamp_of_group: bool = True
    """The sockets of a SO_REUSEPORT group share the memory of the last overflow."""
    stray_ack_counts_failed: bool = False
    """An ACK without request and without recent overflow counts SyncookiesFailed, too."""
    wrong_ack_may_be_cookie: bool = True
    """A wrong acknowledgement of a pending request is checked for a cookie."""
    duplicate_syn_limited: bool = True
    """tcp_invalid_ratelimit holds for duplicate SYNs."""
    out_of_window_limited: bool = True
    """tcp_invalid_ratelimit holds for the ACKs that answer other unacceptable segments."""
    counts_syn_retrans: bool = True
    """The counter TCPSynRetrans exists."""
    established_syn_acked: bool = True
    """A SYN for an established connection is answered with a challenge ACK."""
    challenge_limit_0_is_none: bool = False
    """tcp_challenge_ack_limit=0 allows no challenge ACKs; else it is no limit."""
    tw_recycle: bool = False
    """tcp_tw_recycle exists: old timestamps of an address are refused for a minute after a TIME_WAIT."""
    tw_recycle_needs_timestamp: bool = True
    """It refuses SYNs without timestamps from such an address, too."""
    timewait_acks_limited: bool = True
    """TIME_WAIT answers at most every 500 ms."""
    fastopen_option_34: bool = True
    """The standard Fast Open option is known (not only the experimental one)."""
    fastopen_counts_every_syn: bool = False
    """Without cookie requirement, every SYN with data counts TCPFastOpenPassive, child or not."""
    fastopen_flag_1000: bool = False
    """tcp_fastopen & 0x1000: every SYN makes a child, without cookie and data, too."""
    fastopen_clamped: bool = True
    """The Fast Open queue is limited by net.core.somaxconn."""
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
    migrates_requests: bool = False
    """tcp_migrate_req exists: what a closed socket had moves to another one of its SO_REUSEPORT group."""
    cookie_needs_ecn: bool = False
    """A cookie that agreed to ECN is refused while tcp_ecn is 0."""
    tsval_clock: Literal["jiffies", "ms"] = "ms"
    """Unit of the timestamps that the kernel sends."""
    tsval_offset: Literal["none", "mixed", "host", "connection"] = "connection"
    """What is added to that clock: nothing, nothing for cookies only, a number per pair of hosts, or one
    per connection; nothing with tcp_timestamps=2."""
    defaults: dict[str, int] = field(default_factory=dict)
    """Sysctl defaults that differ from DEFAULTS."""
    changes: tuple[Change, ...] = ()
    """What made this profile out of its base."""


def derive(base: Profile, name: str, tree: str, *changes: Change, usual_hz: int = 250) -> Profile:
    """A profile that is `base` plus `changes`.

    Raises AttributeError when a change names no field, ValueError when it changes nothing.
    """
    values: dict[str, object] = {}
    for change in changes:
        if values.get(change.field, getattr(base, change.field)) == change.after:
            message = f"{name}: {change.field} is {change.after!r} already"
            raise ValueError(message)
        values[change.field] = change.after
    made = (*base.changes, *changes)
    return replace(base, name=name, tree=tree, usual_hz=usual_hz, changes=made, **values)  # type: ignore[arg-type]


_TITLE = {"name", "tree", "usual_hz", "changes"}
BEHAVIOURS: Final = tuple(f.name for f in fields(Profile) if f.name not in _TITLE)
"""The fields of Profile that say how a kernel behaves, in their order."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One behaviour in which two profiles differ."""

    field: str
    before: object
    after: object
    changes: tuple[Change, ...]
    """What makes the difference, oldest first."""
    undone: bool
    """The changes belong to the first profile: the second does not have them."""


def differences(before: Profile, after: Profile) -> list[Difference]:
    """The behaviours that differ, with the changes that one profile has and the other has not."""
    found = []
    for name in BEHAVIOURS:
        old, new = getattr(before, name), getattr(after, name)
        if old == new:
            continue
        mine = tuple(c for c in after.changes if c.field == name and c not in before.changes)
        theirs = tuple(c for c in before.changes if c.field == name and c not in after.changes)
        found.append(Difference(name, old, new, mine or theirs, undone=not mine))
    return found
