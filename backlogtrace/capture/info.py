"""What is known about a capture besides its segments: counts, times, losses, notes and problems.

Filled while the capture is read, complete when it has been read. Knows no file format and shows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CHECKSUMS_TOLD = 100_000
"""Packets with a wrong checksum of which the numbers are kept: a capture with more has been rewritten."""


@dataclass(slots=True)
class Checksums:
    """What the checksums of the packets delivered say, where they say anything (see capture.checksums)."""

    wrong: list[int] = field(default_factory=list)
    """Frames whose checksum is wrong, ascending but for merged captures; the first ones."""
    syns_right: int = 0
    syns_wrong: int = 0
    """SYNs without ACK: no reply is taken for one."""

    @property
    def full(self) -> bool:
        """Whether looking at more is of no use."""
        return len(self.wrong) >= CHECKSUMS_TOLD

    def take(self, wrong: list[int], syns_right: int, syns_wrong: int) -> None:
        """Takes the next packets of which checksums say something: frames of wrong ones, SYNs among all."""
        self.wrong += wrong
        self.syns_right += syns_right
        self.syns_wrong += syns_wrong

    def absorb(self, other: Checksums) -> None:
        """Adds the counts of another reading; its frames are numbered anew."""
        self.syns_right += other.syns_right
        self.syns_wrong += other.syns_wrong


@dataclass(slots=True)
class CaptureInfo:
    """Counts and findings of one reading of one or several capture files.

    `packets == tcp_packets + sum(skipped.values())` and
    `tcp_packets == kept + established + midstream` once the reading has ended.
    """

    names: list[str] = field(default_factory=list)
    """The files as the user named them; `-` is standard input."""
    format: str = ""
    """`pcap`, `pcapng`, or both joined by `+`."""
    linktypes: list[int] = field(default_factory=list)
    """LINKTYPE_ numbers (tcpdump.org/linktypes.html) of the packets, in order of appearance."""
    packets: int = 0
    bytes: int = 0
    """Bytes of the capture format that were read, after decompression."""
    tcp_packets: int = 0
    kept: int = 0
    """Segments delivered."""
    established: int = 0
    """TCP packets left out: they provably belong to an established connection."""
    midstream: int = 0
    """TCP packets left out: no handshake with either of their endpoints was seen."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Packets that are not TCP segments one can decode, each under one reason."""
    first_ns: int | None = None
    """Earliest and latest packet time, nanoseconds since the epoch."""
    last_ns: int | None = None
    backward_steps: int = 0
    """Packets with a time before their predecessor's."""
    backward_max_ns: int = 0
    """The largest such step."""
    snaplen_cut: int = 0
    """Packets captured shorter than they were."""
    options_cut: int = 0
    """TCP packets whose options the capture cut: the options behind the cut count as absent."""
    length_zero: int = 0
    """TCP packets with an IP length of 0 (segmentation offload): length taken from the packet record."""
    untimed: int = 0
    """Packets without a time (pcapng Simple Packet Blocks): they got their predecessor's."""
    dropped: int = 0
    """Packets that the capturing host reports as lost (pcapng interface statistics, else drop counts)."""
    checksums: Checksums = field(default_factory=Checksums)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """One line each: file, byte offset, frame, what is wrong, what to do."""
    _previous_ns: int | None = field(default=None, repr=False)

    def skip(self, reason: str, count: int = 1) -> None:
        """Counts packets that are not analysed."""
        self.skipped[reason] = self.skipped.get(reason, 0) + count

    def saw_link(self, linktype: int) -> None:
        """Notes a link type."""
        if linktype not in self.linktypes:
            self.linktypes.append(linktype)

    def saw_format(self, name: str) -> None:
        """Notes a file format."""
        if name not in self.format.split("+"):
            self.format = f"{self.format}+{name}" if self.format else name

    def clock(self, times: list[int]) -> None:
        """Takes the times of the next packets, in delivery order."""
        if not times:
            return
        low, high = min(times), max(times)
        self.span(low, high)
        previous = times[0] if self._previous_ns is None else self._previous_ns
        for time_ns in times:
            if time_ns < previous:
                self.stepped_back(1, previous - time_ns)
            previous = time_ns
        self._previous_ns = previous

    def follow(self, time_ns: int) -> None:
        """Takes the time of the last packet so far, where clock() did not see it."""
        self._previous_ns = time_ns

    def span(self, low: int, high: int) -> None:
        """Widens first_ns…last_ns."""
        self.first_ns = low if self.first_ns is None else min(self.first_ns, low)
        self.last_ns = high if self.last_ns is None else max(self.last_ns, high)

    def stepped_back(self, count: int, largest_ns: int) -> None:
        """Counts backward steps."""
        self.backward_steps += count
        self.backward_max_ns = max(self.backward_max_ns, largest_ns)

    def absorb(self, other: CaptureInfo) -> None:
        """Adds what another reading found, except for its names and its deliveries."""
        for name in (
            "packets",
            "bytes",
            "tcp_packets",
            "backward_steps",
            "snaplen_cut",
            "options_cut",
            "length_zero",
            "untimed",
            "dropped",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.checksums.absorb(other.checksums)
        for reason, count in other.skipped.items():
            self.skip(reason, count)
        for linktype in other.linktypes:
            self.saw_link(linktype)
        for name in filter(None, other.format.split("+")):
            self.saw_format(name)
        if other.first_ns is not None and other.last_ns is not None:
            self.span(other.first_ns, other.last_ns)
        self.backward_max_ns = max(self.backward_max_ns, other.backward_max_ns)
        self.notes += other.notes
        self.problems += other.problems

    def finish(self) -> None:
        """Writes the notes that can only be written at the end, and puts the reasons in order."""
        self.skipped = dict(sorted(self.skipped.items()))
        for count, text in (
            (
                self.length_zero,
                "packets have IP length 0 (segmentation offload): the packet record gives theirs",
            ),
            (self.options_cut, "packets lost TCP options to the snap length: those options count as absent"),
            (self.untimed, "packets have no time of their own: they got the time of the packet before them"),
            (self.dropped, "packets were lost by the capturing host"),
        ):
            if count:
                self.notes.append(f"{count} {text}")
        if self.backward_steps:
            self.notes.append(
                f"{self.backward_steps} packets are earlier than their predecessor, "
                f"by up to {self.backward_max_ns} ns"
            )
