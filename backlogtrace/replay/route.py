"""Which listener an endpoint belongs to: exact addresses first, then wildcards by port."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backlogtrace.replay.track import Track

_ANY_V4 = bytes(4)
_ANY_V6 = bytes(16)


class Route:
    """Listeners by endpoint (address and port in network order)."""

    __slots__ = ("exact", "wild")

    def __init__(self) -> None:
        self.exact: dict[bytes, Track] = {}
        """Listeners bound to an address, and what wildcards were found to serve."""
        self.wild: dict[bytes, Track] = {}

    def add(self, end: bytes, track: Track) -> None:
        """A listener bound to `end`; an all-zero address serves all of its family (`::` both)."""
        (self.exact if any(end[:-2]) else self.wild)[end] = track

    def find(self, end: bytes) -> Track | None:
        """The listener that serves `end`."""
        found = self.exact.get(end)
        if found is None and self.wild:
            port = end[-2:]
            if len(end) == 6:  # noqa: PLR2004 - IPv4 endpoint
                found = self.wild.get(_ANY_V4 + port)
            found = found or self.wild.get(_ANY_V6 + port)
            if found is not None:
                self.exact[end] = found
        return found

    def of(self, key: bytes) -> Track:
        """The listener that a key (client + server endpoint) of the model belongs to."""
        track = self.find(key[len(key) // 2 :])
        assert track is not None
        return track
