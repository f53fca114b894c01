"""A hypothesis tried on a capture: how much of what the wire shows contradicts it.

Replays the packets without making rows. Refuses to say what a hypothesis is worth.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from backlogtrace.kernel import profiles
from backlogtrace.kernel.settings import make_settings
from backlogtrace.kernel.stack import Stack
from backlogtrace.replay.calibrate import server_clock
from backlogtrace.replay.engine import Replay
from backlogtrace.replay.events import EventQueue
from backlogtrace.replay.host import AcceptModel
from backlogtrace.replay.journal import Journal
from backlogtrace.replay.route import Route
from backlogtrace.replay.rows import ListenerSummary
from backlogtrace.replay.track import Track
from backlogtrace.segment import endpoint, endpoint_text

if TYPE_CHECKING:
    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.replay.acceptance import Floor
    from backlogtrace.replay.evidence import Evidence
    from backlogtrace.replay.host import Host
    from backlogtrace.replay.rows import PacketRow
    from backlogtrace.segment import Segment

_NOTED = 64
_RELIEVED = 4


class Decided(NamedTuple):
    """What a hypothesis says of a packet."""

    decision: str
    others: tuple[str, ...] = ()
    """What else became of it, where it contradicts the hypothesis."""


class Contradiction(NamedTuple):
    """Something the wire shows that the hypothesis does not allow."""

    time_ns: int
    frame: int | None
    detail: str
    unreset: bool = False
    """A RST was to come, and none was seen: all that one lost packet need have done."""


class Score(NamedTuple):
    """How well a hypothesis explains a capture."""

    contradictions: int
    accepts: int
    """accept() calls that had to be assumed."""
    weak: int
    """Those among them that only a missing SYN-ACK speaks for."""
    noted: tuple[Contradiction, ...]
    """The first contradictions, by time."""
    whole: bool
    """Whether the trial went on to the end; else there were too many contradictions."""
    packets: int
    """Packets replayed until then."""
    relieved: tuple[int, ...]
    """When a full accept queue had room again (ns), the last times before the first contradiction."""
    floors: dict[str, Floor]
    """What the packets prove of the accept queues, by listener."""
    reach: int
    """A larger backlog than this makes no difference: neither queue, nor half the SYN queue, was longer."""


def blank_summary() -> ListenerSummary:
    """Totals of a listener that nobody will ask for."""
    return ListenerSummary("", "", "", None, "", 0, 0, 0, 0, {})


class _TooManyError(Exception):
    """More contradictions than the hypothesis is allowed."""


class _Tally(Journal):
    """Keeps no rows; counts what contradicts, and notes decisions if asked to."""

    def __init__(self, limit: int, decisions: dict[int, Decided] | None) -> None:
        super().__init__("likely", routine=False, everything=False)
        self.found = 0
        self.noted: list[Contradiction] = []
        self._limit = limit
        self._decisions = decisions
        self._contradicting: int | None = None

    def wants(self, decision: str) -> bool:  # noqa: ARG002 - the same for all
        """Whether a packet with this decision is asked for."""
        return self._decisions is not None

    def packet(
        self, key: bytes, track: Track, segment: Segment, outcome: Outcome, queues: tuple[int, int, int]
    ) -> PacketRow | None:
        """Note the decision."""
        del key, track, queues
        assert self._decisions is not None
        self._decisions[segment.frame] = Decided(outcome.decision)
        return None

    def left_open(self, segment: Segment, row: PacketRow | None, rivals: tuple[str, ...]) -> None:
        """Note what else became of a packet that contradicts, or whose RST may have been lost."""
        del row
        if self._decisions is not None and (segment.frame == self._contradicting or rivals == ("rst",)):
            self._decisions[segment.frame] = self._decisions[segment.frame]._replace(others=rivals)

    def sent(self, *_args: object, **_options: object) -> None:
        """Not kept."""

    def event(self, *_args: object, **_options: object) -> None:
        """Not kept."""

    def mismatch(
        self, track: Track, key: bytes, when: int, what: str, detail: str, frame: int | None = None
    ) -> None:
        """Count it."""
        del track, key
        self.found += 1
        self._contradicting = frame
        if self.found > self._limit:
            raise _TooManyError
        if len(self.noted) < _NOTED:
            unreset = what == "missing_reply" and detail.startswith("RST")
            self.noted.append(Contradiction(when, frame, detail, unreset))


def attempt(
    segments: list[Segment],
    evidence: Evidence,
    host: Host,
    *,
    completing: frozenset[int] = frozenset(),
    limit: int = 1 << 62,
    decisions: dict[int, Decided] | None = None,
) -> Score:
    """Replay `segments` with `host` as the facts and accept() worked out, up to `limit` contradictions.

    `completing`: ACKs (frames) whose SYN came before the first of the segments.
    `decisions` gets the decision of every inbound packet, by frame.
    """
    assert host.kernel is not None
    profile, _ = profiles.find(host.kernel)
    stack = Stack(
        profile,
        make_settings(profile.defaults, host.sysctl),
        server_clock(profile, segments, host.hz, host.boot_ns),
    )
    route = Route()
    tracks = []
    for given in host.listeners:
        end = endpoint(given.address, given.port)
        track = Track(endpoint_text(end), end, None, blank_summary())
        track.open(stack, given, given.backlog)
        tracks.append(track)
        route.add(end, track)
    journal = _Tally(limit, decisions)
    events = EventQueue(stack, route, journal, host, tracks, AcceptModel("never"))
    replay = Replay(stack, route, journal, events, evidence)
    replay.last_ns = segments[-1].time_ns if segments else 0
    acceptance = replay.acceptance
    assert acceptance is not None
    acceptance.completing = completing
    whole = True
    try:
        left = segments
        for _ in replay.run(left, len(left)):
            pass
        while replay.split_at is not None:
            left = replay.single(left[replay.split_at :])
            for _ in replay.run(left, len(left)):
                pass
        for _ in replay.finish():
            pass
    except _TooManyError:
        whole = False
    noted = tuple(sorted(journal.noted, key=lambda noted: (noted.time_ns, noted.frame or 0)))
    before = bisect_left(acceptance.relieved, noted[0].time_ns) if noted else 0
    return Score(
        journal.found,
        acceptance.accepts,
        acceptance.weak,
        noted,
        whole,
        len(segments) if whole else bisect_right(segments, replay.now, key=attrgetter("time_ns")),
        tuple(acceptance.relieved[max(0, before - _RELIEVED) : before]),
        acceptance.floors,
        max(track.reach for track in tracks),
    )
