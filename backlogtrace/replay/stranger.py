"""Is the server a Linux kernel at all? What no Linux listen socket sends, noted with its frame.

Other systems keep other queues: Windows resets SYNs when its backlog is full, the BSDs have a SYN
cache with timers of its own. Each sign here is one that no kernel in kernel/families.py makes,
whatever its settings; a packet filter or a middlebox that answers or rewrites in the server's place
can. Refuses to name the other system, and to judge by anything that a setting changes on Linux as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backlogtrace.segment import ACK

if TYPE_CHECKING:
    from backlogtrace.segment import Segment

NOT_LINUX = "not_linux"
"""The rival of every decision at such a server."""
_LOOKED_AT = 1_000
"""SYN-ACKs of a listener: the options of all others will not say more."""
_NEEDED = 2
"""One packet may be an accident (damaged, or of another connection with the same ports)."""
_REPEATED_ODDLY = 4
_FIRST_REPEATS = 2
_DOORS = 5
_QUICK_NS = 100_000_000
_TIMESTAMP_BYTES = 12
_LARGEST_WINDOW = 65_535
_SIGNED_WINDOW = 32_767  # with tcp_workaround_signed_windows
_REPEATS_S = (1, 3, 7, 15, 31, 63)
"""Since 3.1 a SYN-ACK is repeated so long after the first, if nothing comes of the client."""
_TOLERANCE_S = 0.45  # the timers of 3.10, and what a busy machine sends or captures late
_LATE = 1.15

_OPTION = "{} SYN-ACKs have an option that their SYN did not offer"
_NO_MSS = "{} SYN-ACKs have no MSS option"
_RESET = "{} RSTs for a SYN have a sequence number, a window or no ACK flag"
_SURVIVED = "{} handshakes were completed although the port reset SYNs in between"
_FLAPPING = (
    "{} times a SYN was answered within 100 ms after another had been reset, and no waiting connection was"
)
_SCHEDULE = "{} SYN-ACKs were repeated at other times than 1, 3, 7, 15 … s after the first"
_WINDOW = "the windows of all {} SYN-ACKs are no multiple of their MSS, and timestamps were turned down"


@dataclass(slots=True)
class Stranger:
    """The signs of one listening endpoint."""

    signs: dict[str, list[int]] = field(default_factory=dict)
    """Sentence -> frames that show it, the first ones."""
    counts: dict[str, int] = field(default_factory=dict)
    looked: int = 0
    usual: int = 0
    """SYN-ACKs that may well be of Linux by window or timestamps."""
    on_time: int = 0
    """SYN-ACKs that were repeated after a second."""
    really_closed: bool = False

    def synack(self, syn: Segment, synack: Segment) -> None:
        """The first SYN-ACK of a connection, and the only SYN that it can answer."""
        if self.looked >= _LOOKED_AT:
            return
        self.looked += 1
        if not synack.mss:
            if syn.mss:  # so the capture did not cut it
                self._note(_NO_MSS, synack.frame)
            self.usual += 1
            return
        if (
            (synack.wscale >= 0 > syn.wscale)
            or (synack.tsval >= 0 > syn.tsval)
            or (synack.sack_ok and not syn.sack_ok)
        ):
            self._note(_OPTION, synack.frame)
        # each alone may be a setting, or an MSS that was rewritten on the way
        turned_down = syn.tsval >= 0 > synack.tsval and synack.wscale >= 0
        if turned_down and not _whole_segments(synack):
            self._note(_WINDOW, synack.frame)
        else:
            self.usual += 1

    def repeated(self, number: int, after_ns: int, frame: int) -> None:
        """A SYN-ACK came again, `after_ns` after the first; nothing came of the client meanwhile."""
        if number > _FIRST_REPEATS:
            return
        after = after_ns / 1e9
        fitting = (s for s in _REPEATS_S if s - _TOLERANCE_S <= after <= _LATE * s + _TOLERANCE_S)
        # whatever the capture lost, the others come at these times
        place = next(fitting, None)
        if place is None:
            self._note(_SCHEDULE, frame)
        elif place == _REPEATS_S[0]:
            self.on_time += 1

    def reset(self, rst: Segment) -> None:
        """A RST answered the first SYN of a connection."""
        if rst.seq or rst.window or not rst.flags & ACK:
            self._note(_RESET, rst.frame)

    def survived(self, frame: int) -> None:
        """A handshake whose SYN-ACK was sent before, and whose ACK came after a SYN was reset."""
        self._note(_SURVIVED, frame)

    def opened(self, closed_ns: int, frame: int) -> None:
        """A SYN was answered again `closed_ns` after another had been reset."""
        if closed_ns < _QUICK_NS:
            self._note(_FLAPPING, frame)

    def closes(self) -> None:
        """A connection was reset unasked, as close() of a listener does."""
        self.really_closed = True

    def _note(self, sign: str, frame: int) -> None:
        frames = self.signs.setdefault(sign, [])
        if len(frames) < _NEEDED:
            frames.append(frame)
        self.counts[sign] = self.counts.get(sign, 0) + 1

    def add(self, other: Stranger) -> None:
        """Add the signs of another address of the same listener."""
        for sign, frames in other.signs.items():
            self.signs[sign] = sorted([*self.signs.get(sign, ()), *frames])[:_NEEDED]
            self.counts[sign] = self.counts.get(sign, 0) + other.counts[sign]
        self.looked += other.looked
        self.usual += other.usual
        self.on_time += other.on_time
        self.really_closed = self.really_closed or other.really_closed

    def proof(self) -> str:
        """What was seen that no Linux sends, in words, with a frame; empty where nothing was."""
        for sign, count in self.counts.items():
            if count >= self._enough(sign):
                return f"{sign.format(f'{count:,}')} (frame {self.signs[sign][0]})"
        return ""

    def _enough(self, sign: str) -> float:
        if sign is _SCHEDULE:
            return float("inf") if self.on_time else _REPEATED_ODDLY
        if sign is _WINDOW:
            return float("inf") if self.usual else _DOORS
        if sign is _FLAPPING:
            return float("inf") if self.really_closed else _DOORS
        return _NEEDED


def _whole_segments(synack: Segment) -> bool:
    """Whether Linux may offer such a window: whole segments, or as much as the field can say."""
    window = synack.window
    size = max(1, synack.mss - (_TIMESTAMP_BYTES if synack.tsval >= 0 else 0))
    return window <= size or window in {_SIGNED_WINDOW, _LARGEST_WINDOW} or not window % size
