"""The packets of a capture as its server can have got them, read as often as what is learnt of it asks for.

Second copies are left out, packets that no socket can have seen are marked, and steps of the capture's clock
are taken out of the times. Refuses to know queues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from backlogtrace.collector import without_collector
from backlogtrace.replay.calibration import Copies
from backlogtrace.replay.checksums import Damage
from backlogtrace.replay.clocksteps import ClockWatch, Steps
from backlogtrace.replay.inference import singles
from backlogtrace.segment import DAMAGED, undamaged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

    from backlogtrace.capture import Capture
    from backlogtrace.capture.info import CaptureInfo
    from backlogtrace.replay.inference import Reader, Recording
    from backlogtrace.replay.route import Route
    from backlogtrace.segment import Segment


class Intake:
    """One capture."""

    def __init__(self, capture: Capture) -> None:
        self.steps: Steps | None = None
        """Steps of the capture's clock that are taken out of all times."""
        self._capture = capture
        self._copies = Copies()
        self._damage = Damage()
        self._clock = ""
        """What is wrong with the capture's clock, in words, where it could not be put right."""
        self._backward_ns: int | None = None
        """By how much packets go back in time, but for steps of the clock; None: not looked at."""
        self._studied = False

    @property
    def info(self) -> CaptureInfo:
        """What the reader noticed."""
        return self._capture.info

    @property
    def rereadable(self) -> bool:
        """Whether the capture can be read more than once."""
        return self._capture.rereadable

    def chunks(self, route: Route) -> Iterator[list[Segment]]:
        """All packets; `route` knows the listeners."""
        # a Handshake begins with a Segment's fields; whoever reads more asks its flags first
        chunks = cast("Iterator[list[Segment]]", self._capture.chunks())
        if not self._studied or self._copies.dropped:  # else read before: there are none
            self._copies = Copies()
            chunks = self._copies.without(chunks)
        chunks = self._damage.marked(chunks, self.info, route)
        return chunks if self.steps is None else self.steps.corrected(chunks)

    def study(self, new_reader: Callable[[], Reader], *, timed_events: bool) -> Reader:
        """Read the capture, again where its clock or its checksums turn out to be wrong.

        With `timed_events` the host file has times by the capture's clock, which is left as it is. The
        result is the reader, made by `new_reader`, that read it last.
        """
        reader, watch = new_reader(), ClockWatch()
        with without_collector():
            reader.read(watch.watched(self.chunks(reader.route)))
        self._damage.settle(self.info)
        steps = watch.steps()
        if watch.suspicious:
            watch = ClockWatch()
            reader = self._read_again(reader.recording, new_reader(), watch)
            steps = watch.steps()
        if steps:
            self._backward_ns = watch.backward_ns
            self.steps = Steps(steps)
            if timed_events:
                self._clock, self.steps = self.steps.reason(), None
        if self._damage.mistaken or self.steps is not None:
            reader = self._read_again(reader.recording, new_reader())
        self._studied = True
        return reader

    def _read_again(self, recording: Recording, reader: Reader, watch: ClockWatch | None = None) -> Reader:
        """The capture once more, now that more is known of it; packet by packet where the clock matters."""
        single = watch is not None or self.steps is not None
        if recording.items is None:
            self._capture = self._capture.again(bundle=not single)
            chunks = self.chunks(reader.route)
        else:
            items = singles(recording.items) if single else recording.items
            if self._damage.mistaken:
                items = [undamaged(item) if item.flags & DAMAGED else item for item in items]
            chunks = iter([items]) if self.steps is None else self.steps.corrected([items])
        reader.read(chunks if watch is None else watch.watched(chunks))
        return reader

    def studied(self, recording: Recording, route: Route) -> Iterator[list[Segment]]:
        """All packets once more after study(), from its recording as far as they are in it."""
        if recording.items is not None:
            return iter([recording.items])
        self._capture = self._capture.again()
        return self.chunks(route)

    def note(self) -> str:
        """Which packets no socket can have seen, in words; empty: none."""
        return self._damage.note()

    def blemishes(self) -> Iterator[tuple[str, Literal["B", "C"]]]:
        """What is wrong with the capture, and the best grade it can have for that."""
        info = self.info
        copies = self._copies.dropped
        back_ns = info.backward_max_ns if self._backward_ns is None else self._backward_ns
        if info.problems:
            yield "the capture could not be read to its end", "C"
        if info.dropped:
            yield f"{info.dropped} packets were lost by the capture itself", "C"
        if back_ns >= 1_000_000:  # noqa: PLR2004 - 1 ms
            yield f"packets go back in time by up to {back_ns / 1e6:.1f} ms", "B"
        if self.steps is not None:
            yield f"{self.steps.reason()}; no timer counts that time", "B"
        if self._clock:
            yield f"{self._clock}; times of the host file stand, and what lies across it is misjudged", "C"
        if doubt := self._damage.doubt(info.checksums):
            yield doubt, "B"
        if copies:
            yield f"{copies} packets were captured more than once; the first copy counts", "B"
