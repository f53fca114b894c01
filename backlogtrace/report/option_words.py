"""What a person should know about each socket option of a listener, and values worth playing.

Refuses to know what the values change: that is played.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class SocketOption:
    """One option or argument, in words; functions are the kernel's."""

    meaning: str
    default: str
    read_by: str
    takes_effect: str
    mistake: str
    check: str
    """How a host shows it."""
    sample: dict[str, Any] = field(default_factory=dict)
    """Fields of `Setup` that show it at work; empty where one socket cannot."""
    shown: str = ""
    """The sample as an application writes it."""
    sysctl: dict[str, int] = field(default_factory=dict)
    """Without which it does nothing."""


OPTIONS: dict[str, SocketOption] = {
    "TCP_DEFER_ACCEPT": SocketOption(
        "seconds for which a bare ACK does not complete a handshake: the server waits for data",
        "0: off",
        "tcp_check_req, reqsk_timer_handler",
        "with the next ACK",
        "the seconds are rounded up to rounds of the SYN-ACK timer (1, 3, 7, ... s), and the client believes "
        "it is connected all the while",
        "`nstat -az TcpExtTCPDeferAcceptDrop`",
        {"defer_accept_s": 3},
        "TCP_DEFER_ACCEPT = 3 s",
    ),
    "TCP_SYNCNT": SocketOption(
        "how often the SYN-ACK is repeated, for this socket",
        "0: tcp_synack_retries decides",
        "reqsk_timer_handler; inet_csk_reqsk_queue_prune before 4.3",
        "at once, for waiting requests too",
        "its name speaks of SYNs: on a listener it is SYN-ACKs",
        "`ss -tano state syn-recv`",
        {"syncnt": 1},
        "TCP_SYNCNT = 1",
    ),
    "TCP_FASTOPEN": SocketOption(
        "how many Fast Open connections may wait for the end of their handshake",
        "0: off, unless tcp_fastopen has 0x400",
        "tcp_try_fastopen; since 4.4 somaxconn limits it",
        "with the next SYN",
        "without bit 0x2 of tcp_fastopen it does nothing",
        "`nstat -az 'TcpExtTCPFastOpen*'`",
        {"fastopen_qlen": 16},
        "TCP_FASTOPEN = 16",
        {"net.ipv4.tcp_fastopen": 0x203},
    ),
    "SO_REUSEPORT": SocketOption(
        "several sockets listen on one address and port; a hash of the client's address and port chooses one",
        "off",
        "inet_lookup_listener (reuseport_select_sock)",
        "when the socket is bound",
        "each socket has its own two queues: one can be full while its neighbours are empty, and its clients "
        "are not moved; when it is closed they are reset, unless tcp_migrate_req is set",
        "`ss -ltn`: one line for each socket",
    ),
}
