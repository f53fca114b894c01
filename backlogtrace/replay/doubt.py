"""By how much the length of a SYN queue may be wrong: what the capture lost is not in the model.

Knows how many packets were lost, and which SYNs they may have decided about. Refuses to know why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.kernel.outcome import Outcome


class Doubt:
    """The doubt about one listener's SYN queue."""

    __slots__ = ("_by", "_settling")

    def __init__(self) -> None:
        self._by = 0
        """Requests."""
        self._settling: set[bytes] = set()
        """Connections whose SYN was left undecided for it, as long as they are half-open."""

    def grow(self) -> None:
        """The capture has lost a packet, or shows one that the model does not understand."""
        self._by += 1

    def about(self, outcome: Outcome, key: bytes, socket: ListenSocket) -> bool:
        """Whether it leaves open if a SYN got a request or a cookie: the queue is that close to its limit.

        If it was longer, or had room for one more, it is as the model has it after that SYN; until what
        came of the SYN leaves the queue, or does not.
        """
        if outcome.decision == "established" and key in self._settling:
            self._settling.remove(key)
            self._by += 1
        if not self._by or socket.settings.tcp_syncookies != 1:
            return False
        room = socket.syn_capacity - socket.qlen
        if outcome.decision != "cookie" and not (outcome.decision == "queued" and room < self._by):
            return False
        self._by -= 1
        self._settling.add(key)
        return True
