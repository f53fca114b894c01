"""An analysis: a capture, what is known about the host, and the replay that yields the rows.

Finds the listeners, fills in what was not given and says so, and sums up. Refuses to format
anything.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from backlogtrace.collector import without_collector
from backlogtrace.errors import UsageError
from backlogtrace.kernel import profiles
from backlogtrace.kernel.settings import make_settings
from backlogtrace.kernel.stack import Stack
from backlogtrace.replay.calibrate import server_clock
from backlogtrace.replay.cookie_witness import SideWitness
from backlogtrace.replay.discovery import listening
from backlogtrace.replay.engine import Replay
from backlogtrace.replay.events import EventQueue
from backlogtrace.replay.group import Group
from backlogtrace.replay.host import AcceptModel, Host, HostListener
from backlogtrace.replay.inference import Reader, infer
from backlogtrace.replay.intake import Intake
from backlogtrace.replay.journal import Journal
from backlogtrace.replay.lookahead import AHEAD_NS
from backlogtrace.replay.route import Route
from backlogtrace.replay.rows import Header, ListenerSummary
from backlogtrace.replay.track import Track
from backlogtrace.segment import endpoint, endpoint_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal

    from backlogtrace.capture import Capture
    from backlogtrace.kernel.outcome import Outcome
    from backlogtrace.kernel.path import Check
    from backlogtrace.kernel.settings import Settings
    from backlogtrace.replay.clocksteps import Steps
    from backlogtrace.replay.inference import Inference, Recording
    from backlogtrace.replay.rows import Row, Span
    from backlogtrace.segment import Segment

LISTENER_LIMIT = 4096
"""Listeners found by themselves; a port scan must not fill the memory."""
_AHEAD_SEGMENTS = 200_000  # bound on what is kept back for looking ahead
_STILL_OPEN_NS = 70_000_000_000  # a handshake may succeed as long as the client repeats its SYN
_LAST_ROWS_NS = 1_000_000_000
"""The last packets have rows, however many they are: a timeline shows them."""
_RELEVANT = ("net.core.somaxconn", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_abort_on_overflow")


@dataclass(frozen=True, slots=True)
class Options:
    """What the user said on the command line; everything overrides the host file."""

    kernel: str | None = None
    sysctl: dict[str, int] = field(default_factory=dict)
    backlog: int | None = None
    listeners: tuple[HostListener, ...] = ()
    accept: AcceptModel = field(default_factory=lambda: AcceptModel("infer"))
    vantage: Literal["auto", "server", "client"] = "auto"
    all_packets: bool = False
    """Rows for packets of established connections, too."""
    routine_rows: bool = True
    """Rows for packets that went the ordinary way; a report that shows none can do without."""
    every_row: bool = True
    """Rows also where more packets come in a second than a report for people can show."""
    checks_of: int | None = None
    """Frame whose checks are wanted."""


class Analysis:
    """Iterate for the rows, once; `header` and `listeners` are complete afterwards."""

    def __init__(self, capture: Capture, host: Host | None, options: Options) -> None:
        self._intake = Intake(capture)
        self._options = options
        self.host = _merge(host or Host(), options)
        self._given = bool(self.host.listeners)
        self.inference: Inference | None = None
        """What was worked out from the capture, where anything had to be; from the first row on."""
        self.listeners: list[ListenerSummary] = []
        # Where a file lies says nothing about it, and must not make two outputs differ.
        self.header = Header(capture=" ".join(Path(name).name or name for name in capture.info.names))
        self.many: dict[str, dict[Outcome, Span]] = {}
        """Listener -> kind -> packets without rows, see `Options.every_row`."""
        self.checks: list[Check] = []
        """What the kernel asked of the packet `Options.checks_of`, in order."""
        self._tracks: list[Track] = []
        self._missing = ""
        """What the capture lacks, in words."""
        self._away = ""
        """Where it was taken, in words, if not at the server: what the server never got is in it, too."""
        self._strangers: dict[str, str] = {}
        """Listener -> what shows that its server is no Linux kernel, in words; empty: nothing does."""
        self._found = False
        """Whether all listeners of the capture are known."""
        self._route = Route()
        self._ignored_listeners = 0
        self._witness: SideWitness | None = None

    def __iter__(self) -> Iterator[Row]:
        given = self.host
        intake, route = self._intake, self._route
        chunks = intake.studied(self.work_out(), route) if self._infers() else intake.chunks(route)
        profile, note, assumed = _kernel(self.host.kernel)
        first = next(chunks, [])
        self.header.first_ns = first[0].time_ns if first else None
        clock = server_clock(profile, first, self.host.hz, self.host.boot_ns)
        settings = make_settings(profile.defaults, self.host.sysctl)
        stack = Stack(profile, settings, clock)
        self._stack, self._note = stack, note
        for listener in self.host.listeners:
            self._add(endpoint(listener.address, listener.port), listener)
        migrate = "net.ipv4.tcp_migrate_req"
        wanted = bool(settings.tcp_migrate_req) or any(
            e.name == migrate and e.value for e in self.host.events
        )
        for group in {id(track.group): track.group for track in self._tracks if track.group}.values():
            group.learn(self.host.events, self._tracks, migrates=profile.migrates_requests and wanted)
        accept = self._options.accept
        if accept.kind == "infer":
            logged = self.host.accept_log or self.inference is not None
            accept = AcceptModel("never" if logged else "immediate")  # but for those logged or worked out
        assumed += self._assumptions(given, settings)
        if self._options.vantage == "auto" and self.inference is not None:
            self._away = self.inference.evidence.vantage.away()
        away = self._options.vantage == "client" or bool(self._away)
        journal = Journal(
            "likely" if assumed or away else "certain",
            silence_rivals=("lost_after_capture",) if away else (),
            routine=self._options.routine_rows, everything=self._options.all_packets,
        )  # fmt: skip
        if journal.certainty == "likely":
            known = self.host.kernel is not None
            journal.witness = SideWitness(
                profile, self.host.hz, kernel_known=known, sampling=not journal.routine
            )
        self._witness = journal.witness
        events = EventQueue(stack, self._route, journal, self.host, self._tracks[:], accept)
        inference = self.inference
        evidence, floors = (None, None) if inference is None else (inference.evidence, inference.floors)
        replay = Replay(stack, self._route, journal, events, evidence, floors)
        replay.watched = self._options.checks_of
        if self.inference is not None:
            self.header.mode = "infer"
            journal.differing, journal.doubted = self.inference.differing, self.inference.doubted
            self._missing = self.inference.evidence.missing()
            self._strangers = {one.name: one.seen.stranger.proof() for one in self.inference.listeners}
            journal.strangers = frozenset(name for name, proof in self._strangers.items() if proof)
            journal.blind = bool(self._missing)
            if not (self._options.every_row or self._options.routine_rows or journal.blind):
                journal.thin_until = self.inference.evidence.last_ns - _LAST_ROWS_NS
                self.many = journal.many
        self.header.kernel = profile.name
        self.header.assumed = assumed
        with without_collector():
            rows = self._replay(replay, chain([first], chunks))
            yield from rows if self._intake.steps is None else map(self._intake.steps.captured, rows)
        self._finish(replay)

    def _infers(self) -> bool:
        """Whether accept() calls are to be worked out."""
        ends = {(listener.address, listener.port) for listener in self.host.listeners}
        alone = len(ends) == len(self.host.listeners)  # which socket of a group was served is not worked out
        return self._options.accept.kind == "infer" and not self.host.accept_log and alone

    def work_out(self) -> Recording:
        """Read the capture and work out what is not known of its host."""
        reader = self._intake.study(self._reader, timed_events=bool(self.host.events))
        self.inference = infer(reader, self.host)
        self.host = self.inference.host
        self._ignored_listeners = reader.ignored
        self._found = True
        return reader.recording

    def _reader(self) -> Reader:
        return Reader(
            self.host.listeners, LISTENER_LIMIT, self._options.backlog, rereadable=self._intake.rereadable
        )

    def _assumptions(self, given: Host, settings: Settings) -> list[str]:
        """What the user did not say and the replay takes to be so, worked out or not."""
        assumed = ["accept=infer"] if self.inference is not None else []
        if self.inference is None and self._options.accept.kind == "infer" and not self.host.accept_log:
            assumed = ["accept=immediate"]
        if given.kernel is None and self.host.kernel is not None:
            assumed.append(f"kernel={profiles.find(self.host.kernel)[0].name}")
        backlogs = {
            settings.somaxconn if now.backlog is None else now.backlog
            for now in self.host.listeners
            if not any(
                (now.address, now.port) == (was.address, was.port) and was.backlog is not None
                for was in given.listeners
            )
        } or ({settings.somaxconn} if not self.host.listeners and self._options.backlog is None else set())
        assumed += [f"backlog={backlog}" for backlog in sorted(backlogs)]
        values = settings.as_dict()
        names = [name for name in values if name in _RELEVANT or name in self.host.sysctl]
        return assumed + [f"{name}={values[name]}" for name in names if name not in given.sysctl]

    def _replay(self, replay: Replay, chunks: Iterator[list[Segment]]) -> Iterator[Row]:
        """Chunk by chunk, the last AHEAD_NS of each kept back so that replies can be looked up."""
        waiting: list[Segment] = []
        for chunk in chunks:
            if not self._given and not self._found:
                self._discover(chunk)
            waiting += chunk
            if self._witness is not None and waiting:
                self._witness.add(chunk)
                self._witness.look(waiting[0].time_ns + AHEAD_NS)
            while True:
                upto = _settled(waiting)
                yield from replay.run(waiting, upto)
                if replay.split_at is None:
                    break
                waiting = replay.single(waiting[replay.split_at :])
            waiting = waiting[upto:]
        replay.last_ns = waiting[-1].time_ns if waiting else replay.now
        yield from replay.run(waiting, len(waiting))
        while replay.split_at is not None:
            waiting = replay.single(waiting[replay.split_at :])
            yield from replay.run(waiting, len(waiting))
        replay.last_ns = max(replay.last_ns, replay.now)
        yield from replay.finish()

    def _discover(self, chunk: list[Segment]) -> None:
        """Add the listeners that a chunk shows."""
        for end in listening(chunk, self._route.exact):
            if len(self._tracks) >= LISTENER_LIMIT:
                self._ignored_listeners += 1
                continue
            self._add(end, HostListener("", 0, self._options.backlog))

    def _add(self, end: bytes, given: HostListener) -> None:
        stack = self._stack
        name = endpoint_text(end)
        asked = given.backlog
        summary = ListenerSummary(
            name=name,
            kernel=stack.profile.name,
            kernel_note=self._note,
            backlog=asked,
            backlog_source="assumed" if asked is None else self._backlog_source(given),
            effective_backlog=0,
            somaxconn=stack.settings.somaxconn,
            accept_capacity=0,
            syn_capacity=0,
            sysctl=stack.settings.as_dict(),
        )
        first = next((known for known in self._tracks if known.end == end), None)
        if first is None:
            known_ns = 0 if self.inference is None else self.inference.evidence.last_ns
            track = Track(name, end, None, summary, max(0, known_ns - (self.header.first_ns or 0)))
            self._route.add(end, track)
        else:  # another socket of the same address and port
            track = Track(name, end, None, first.summary)
            first.group = first.group or Group(first)
            first.group.add(track)
            first.summary.sockets += 1
        self._tracks.append(track)
        if given.opened_ns is None:
            track.open(stack, given, asked)

    def _backlog_source(self, listener: HostListener) -> str:
        if self._options.backlog is not None:
            return "--backlog"
        source = self.inference.backlog_source(listener) if self.inference is not None else ""
        return source or "host file"

    def _finish(self, replay: Replay) -> None:
        info = self._intake.info
        self.checks = replay.checks
        header = self.header
        header.packets = info.packets
        header.handshake_packets = replay.handshake_packets
        header.skipped = dict(info.skipped)
        if self._intake.steps is None:
            header.first_ns, header.last_ns = info.first_ns, info.last_ns
        else:  # of the time that passed
            header.last_ns = replay.last_ns
        header.problems = list(info.problems)
        header.notes = list(info.notes)
        if self._ignored_listeners:
            header.notes.append(
                f"only the first {LISTENER_LIMIT} listeners are analysed; "
                f"{self._ignored_listeners} more endpoints got SYNs"
            )
        merged = self.inference.evidence.directions.merged if self.inference is not None else 0
        if merged:
            header.notes.append(
                f"{merged} packets are larger than any frame: GRO or TSO merged them before the capture, "
                "which changes nothing about handshakes"
            )
        if damage := self._intake.note():
            header.notes.append(damage)
        if self._note:
            header.notes.insert(0, self._note)
        for end, origin in self._witness.proved() if self._witness is not None else ():
            seen = self._route.find(end)
            if seen is not None:
                seen.summary.seen_cookies += origin == "cookie"
                seen.summary.seen_requests += origin == "request"
        for track in self._tracks:
            if track.group is not None and track is not track.group.tracks[0]:
                continue
            if track.hits or self._given:
                summary = track.finish(replay.last_ns, _STILL_OPEN_NS)
                if track.group is not None:
                    summary.peak_accept_queue, summary.peak_syn_queue = track.group.peaks
                if replay.acceptance is not None:
                    summary.peak_accept_queue = replay.acceptance.peak(track)
                summary.stranger = self._strangers.get(summary.name, "")
                summary.lost = self._lost_packets()
                summary.first_ns, summary.last_ns = header.first_ns or 0, header.last_ns or 0
                self.listeners.append(summary)
        if self._intake.steps is not None:
            self._as_captured(self._intake.steps)
        _grade(header, self._blemishes())

    def _as_captured(self, steps: Steps) -> None:
        """Clients hit and packets without rows are found in the capture by its own times."""
        for summary in self.listeners:
            for impact in summary.impacts:
                impact.first_ns = steps.captured_ns(impact.first_ns)
        for span in (span for kinds in self.many.values() for span in kinds.values()):
            span.first_ns, span.last_ns = map(steps.captured_ns, (span.first_ns, span.last_ns))

    def _lost_packets(self) -> str:
        """What the capture is known to have lost, in words."""
        if self.inference is None or self._missing:
            return ""
        return self.inference.evidence.lost_packets()

    def _blemishes(self) -> Iterator[tuple[str, Literal["B", "C", "D"]]]:
        """What is wrong with the capture, and the best grade it can have for that."""
        yield from self._intake.blemishes()
        lost = self._lost_packets()
        if lost:
            yield f"not captured, although later packets presuppose it: {lost}", "B"
        if self._away:
            yield self._away, "B"
        for name, proof in self._strangers.items():
            if proof:
                yield f"{name} may be no Linux server: {proof}", "C"
        if self._missing:
            yield self._missing, "D"


def _settled(segments: list[Segment]) -> int:
    """How many segments can be replayed: those whose next AHEAD_NS are there, too."""
    if not segments:
        return 0
    horizon = segments[-1].time_ns - AHEAD_NS
    known = bisect_right(segments, horizon, key=attrgetter("time_ns"))
    return max(known, len(segments) - _AHEAD_SEGMENTS)


def _merge(host: Host, options: Options) -> Host:
    """The host file with what the command line overrides; `--listener` leaves out the others."""
    kept: list[HostListener] = []
    index: dict[int | None, int] = {}  # of a listener in the file -> among those kept
    for wanted in options.listeners or host.listeners:
        match = [
            (n, known)
            for n, known in enumerate(host.listeners)
            if (known.address, known.port) == (wanted.address, wanted.port) and n not in index
        ]
        number, listener = match[0] if match else (None, wanted)
        if number is not None:
            index[number] = len(kept)
        kept.append(listener if options.backlog is None else replace(listener, backlog=options.backlog))
    index[None] = 0
    events = [
        replace(event, listener=index.get(event.listener, 0))
        for event in host.events
        if (event.op == "sysctl" or event.listener in index)
        and not (event.op == "accept" and options.accept.kind != "infer")
    ]
    return replace(
        host,
        kernel=options.kernel or host.kernel,
        sysctl={**host.sysctl, **options.sysctl},
        listeners=kept,
        events=events,
    )


def _kernel(text: str | None) -> tuple[profiles.Profile, str, list[str]]:
    if text is None:
        return profiles.DEFAULT, "", [f"kernel={profiles.DEFAULT.name}"]
    try:
        profile, note = profiles.find(text)
    except ValueError as error:
        raise UsageError(f"--kernel: {error}") from None
    return profile, note, []


def _grade(header: Header, blemishes: Iterable[tuple[str, Literal["B", "C", "D"]]]) -> None:
    """How far the capture can be trusted: A whole, B blemished, C damaged or incomplete, D one-sided."""
    for reason, grade in blemishes:
        header.quality_reasons.append(reason)
        header.quality = max(header.quality, grade)


def infer_capture(capture: Capture, host: Host | None, options: Options | None = None) -> Inference:
    """Work out what is not known of the host of a capture, without replaying it.

    Raises UsageError for a kernel that is no kernel. Reading errors are in `capture.info.problems`.
    """
    analysis = Analysis(capture, host, options or Options())
    _kernel(analysis.host.kernel)
    analysis.work_out()
    assert analysis.inference is not None
    return analysis.inference


def analyze(capture: Capture, host: Host | None, options: Options | None = None) -> Analysis:
    """Replay `capture` against what is known about the host.

    Raises UsageError for a kernel that is no kernel. Reading errors are in `header.problems`.
    """
    return Analysis(capture, host, options or Options())
