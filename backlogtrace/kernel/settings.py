"""The sysctls that the listen path reads while it runs.

One mutable object per host (network namespace), shared by all its listeners, because a sysctl
changes for all of them at once. Defaults per kernel belong to the profiles.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

DEFAULTS: dict[str, int] = {
    "net.core.somaxconn": 4096,
    "net.ipv4.tcp_syncookies": 1,
    "net.ipv4.tcp_abort_on_overflow": 0,
    "net.ipv4.tcp_max_syn_backlog": 4096,
    "net.ipv4.tcp_synack_retries": 5,
    "net.ipv4.tcp_fastopen": 1,
    "net.ipv4.tcp_timestamps": 1,
    "net.ipv4.tcp_sack": 1,
    "net.ipv4.tcp_window_scaling": 1,
    "net.ipv4.tcp_invalid_ratelimit": 500,
    "net.ipv4.tcp_rto_max_ms": 120_000,
    "net.ipv4.tcp_tw_recycle": 0,
    "net.ipv4.tcp_rfc1337": 0,
    "net.ipv4.tcp_migrate_req": 0,
    "net.ipv4.tcp_challenge_ack_limit": 1000,
    "net.ipv4.tcp_ecn": 2,
}


@dataclass(slots=True)
class Settings:
    """Current values, named as the sysctls without their prefix (tcp_invalid_ratelimit in ms)."""

    somaxconn: int
    tcp_syncookies: int
    tcp_abort_on_overflow: int
    tcp_max_syn_backlog: int
    tcp_synack_retries: int
    tcp_fastopen: int
    tcp_timestamps: int
    tcp_sack: int
    tcp_window_scaling: int
    tcp_invalid_ratelimit: int
    tcp_rto_max_ms: int
    tcp_tw_recycle: int
    tcp_rfc1337: int
    tcp_migrate_req: int
    tcp_challenge_ack_limit: int
    tcp_ecn: int

    def set(self, name: str, value: int) -> None:
        """Set by full name; names that the listen path does not read are ignored."""
        short = name.rpartition(".")[2]
        if short in _NAMES:
            setattr(self, short, value)

    def as_dict(self) -> dict[str, int]:
        """Values by full name."""
        return {name: getattr(self, name.rpartition(".")[2]) for name in DEFAULTS}


_NAMES = frozenset(f.name for f in fields(Settings))


def make_settings(defaults: dict[str, int], given: dict[str, int]) -> Settings:
    """Settings from the common defaults, a profile's and the values given (full names)."""
    merged = {**DEFAULTS, **defaults, **given}
    return Settings(**{name.rpartition(".")[2]: merged[name] for name in DEFAULTS})
