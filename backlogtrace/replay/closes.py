"""What close() of a listener shows: it resets what waits in the accept queue, and nothing else.

Refuses to know the packets before: it is told when a connection may have been complete.
"""

from __future__ import annotations

from typing import NamedTuple

_BURST_NS = 1_000_000_000  # the RSTs of one close() come closer together


class Burst(NamedTuple):
    """The RSTs of one close()."""

    start_ns: int
    oldest_ns: int
    """When the first of the connections was complete that it reset."""

    def spares(self, first_ns: int, last_ns: int, packets: int) -> int:
        """How many of a client's last packets cannot have put its connection into the accept queue.

        It sent `packets` of them from `first_ns` to `last_ns`, and its connection was not reset. accept()
        takes the oldest ones first: where it has not taken an older one, it has not taken this one either.
        """
        if last_ns > self.start_ns:
            return 0
        return packets if self.oldest_ns < first_ns else int(self.oldest_ns < last_ns)


class Closes:
    """The RSTs that nothing asked for, on connections on which nobody had said anything."""

    def __init__(self) -> None:
        self._bursts: dict[bytes, list[Burst]] = {}

    def reset(self, end: bytes, time_ns: int, complete_ns: int) -> None:
        """A listener's connection was reset that was complete at `complete_ns`; 0: not known."""
        bursts = self._bursts.setdefault(end, [])
        if not bursts or time_ns - bursts[-1].start_ns >= _BURST_NS:
            bursts.append(Burst(time_ns, complete_ns or time_ns))
        elif 0 < complete_ns < bursts[-1].oldest_ns:
            bursts[-1] = bursts[-1]._replace(oldest_ns=complete_ns)

    def last(self) -> dict[bytes, int]:
        """When each listener was closed last, as far as this shows (ns)."""
        return {end: bursts[-1].start_ns for end, bursts in self._bursts.items()}

    def spared(self, end: bytes, first_ns: int, last_ns: int, packets: int) -> int:
        """Burst.spares() of the close() that spares most."""
        bursts = self._bursts.get(end, ())
        return max((burst.spares(first_ns, last_ns, packets) for burst in bursts), default=0)
