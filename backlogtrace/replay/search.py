"""Which server explains a listener's packets: hypotheses tried one after another, ranked.

Starts from usual servers, varies one thing at a time from the best ones, and at last tries that
something was changed on the way. Keeps everything it tried, so that rivals can be named.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from backlogtrace.replay.hypothesis import KERNELS, SYSCTLS, UNLIMITED, Change, Hypothesis
from backlogtrace.replay.trial import Score, attempt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from backlogtrace.replay.evidence import Evidence
    from backlogtrace.replay.host import Host, HostListener
    from backlogtrace.replay.listening import Listening
    from backlogtrace.segment import Segment

_FIRST_KERNELS = ("6.12", "4.18-el8", "4.4.1", "3.10-el7")
"""One of each kind of queue rules."""
_MAX_SYN_BACKLOG = (2048, 4096, 1024, 512, 256, 128, 64, 32, 16, 8, 4)
_DEFER = (0, 1, 3, 7, 15, 31)
"""Seconds that give 0, 1 … 5 silent timer events (secs_to_retrans)."""
_FASTOPEN: tuple[tuple[int, int | None], ...] = (
    (1, None), (3, None), (3, 1), (3, 2), (3, 4), (3, 8), (3, 16), (515, None), (1027, None), (1539, None),
)  # fmt: skip
_BACKLOGS = (
    49,
    50,
    63,
    64,
    99,
    100,
    127,
    128,
    199,
    200,
    255,
    256,
    299,
    300,
    399,
    400,
    499,
    500,
    511,
    512,
    1023,
    1024,
    2047,
    2048,
)
_ALL_BACKLOGS = 64  # up to here every number is tried
_WIDTH = 4  # hypotheses varied at a time
_SLACK = 3  # a trial goes on for so many contradictions more than the best one has
CONTRADICTION = 6.0
"""-log of how rarely the wire contradicts the truth."""
_MANY = 20  # SYN-ACKs that a request would have repeated
_CHANGE_TIMES = 8
_FITTED = 2  # servers of a kernel that are given a second listen(), of how many backlogs
_NEAR_BACKLOGS = 5
_SWITCHES = {"syncookies": (0, 1, 2), "abort": (0, 1)}
"""Settings that are tried to have been changed on the way."""
_CHANGES = 3


class Found(NamedTuple):
    """A hypothesis that was tried to the end."""

    cost: float
    """Contradictions first, then implausibility; lower is better, and 2 more is much."""
    hypothesis: Hypothesis
    score: Score


class Search:
    """The hypotheses for one listener.

    `fixed` names the fields of Hypothesis that are known, with their values.
    """

    def __init__(
        self,
        segments: list[Segment],
        evidence: Evidence,
        listener: HostListener,
        base: Host,
        *,
        seen: Listening,
        fixed: dict[str, object],
        budget: int,
    ) -> None:
        self._segments = segments
        self._evidence = evidence
        self._listener = listener
        self._base = base
        self._seen = seen
        self._fixed = fixed
        self.completing: frozenset[int] = frozenset()
        """See attempt()."""
        self._left = budget
        """Packets that may still be replayed."""
        self._tried: dict[Hypothesis, Score] = {}
        self._least = 1 << 62
        self._backlogs = self._possible_backlogs()

    def run(self) -> list[Found]:
        """Search; everything that was tried to the end, the best first."""
        seen = self._seen
        start = Hypothesis()
        self._try(start)
        retries = {5, seen.repeats}
        fastopen = _FASTOPEN[:2] if seen.fastopen else _FASTOPEN[:1]
        kinds = [
            replace(
                start, kernel=kernel, syncookies=syncookies, abort=abort,
                fastopen=flags, fastopen_qlen=qlen, retries=repeats,
            )
            for kernel in _FIRST_KERNELS
            for syncookies in (1, 0, 2)
            for abort in ((0, 1) if seen.ack_resets else (0,))
            for flags, qlen in fastopen
            for repeats in retries
        ]  # fmt: skip
        deferring = [
            [
                replace(start, kernel=kernel, defer=defer, retries=repeats)
                for defer, repeats in product(_DEFER[1:5], retries)
            ]
            for kernel in _FIRST_KERNELS
        ]
        self._try_kinds(kinds + deferring[0])
        if self.ranked()[0].score.contradictions:
            self._try_kinds([kind for others in deferring[1:] for kind in others])
        for _ in range(_CHANGES):
            if not self._find_change():
                break
        if "kernel" not in self._fixed:
            self._fit_kernels()
        return self.ranked()

    def _try_kinds(self, kinds: list[Hypothesis]) -> None:
        """Try kinds of servers with all backlogs, the promising ones first: there may be no time for all."""
        for kind in kinds:
            self._try(kind)
        for kind in sorted(kinds, key=self._promise):
            self._try_backlogs(kind)
        self._climb()

    def _promise(self, hypothesis: Hypothesis) -> float:
        """Cost as far as a hypothesis was tried; one with any backlog stands for all of its kind."""
        score = self._tried.get(self._with_known(hypothesis))
        return math.inf if score is None else self.cost(hypothesis, score)

    def ranked(self) -> list[Found]:
        """Everything that was tried to the end, the best first."""
        tried = self._tried.items()
        found = (Found(self.cost(h, score), h, score) for h, score in tried if score.whole)
        return sorted(found, key=lambda one: (one.cost, one.hypothesis.kernel, one.hypothesis.backlog))

    def cost(self, hypothesis: Hypothesis, score: Score) -> float:
        """How badly a hypothesis explains what was seen; the unit is that of a negative log likelihood."""
        forgets = hypothesis.syncookies == 2 or hypothesis.retries == 0  # noqa: PLR2004 - always cookies
        unseen = self._seen.unrepeated >= _MANY and not self._seen.repeats and not forgets
        return _cost(hypothesis, score) + (_MANY if unseen else 0)

    def host(self, hypothesis: Hypothesis) -> Host:
        """The host file that says the same."""
        return hypothesis.host(self._listener, self._base, self._seen.doors)

    def _with_known(self, hypothesis: Hypothesis) -> Hypothesis:
        return replace(hypothesis, **self._fixed) if self._fixed else hypothesis  # type: ignore[arg-type]

    def _try(self, hypothesis: Hypothesis) -> None:
        hypothesis = self._with_known(hypothesis)
        if hypothesis in self._tried or self._left < 0:
            return
        largest = self._tried.get(replace(hypothesis, backlog=UNLIMITED))
        if largest and largest.whole and hypothesis.backlog > largest.reach and not hypothesis.changes:
            self._tried[hypothesis] = largest
            return
        score = attempt(
            self._segments, self._evidence, self.host(hypothesis),
            completing=self.completing, limit=self._least + _SLACK,
        )  # fmt: skip
        self._left -= score.packets
        self._tried[hypothesis] = score
        if score.whole:
            self._least = min(self._least, score.contradictions)

    def _try_backlogs(self, like: Hypothesis) -> None:
        for backlog in self._backlogs:
            self._try(replace(like, backlog=backlog))

    def _climb(self) -> None:
        """Vary the best ones until nothing better is found."""
        done: set[Hypothesis] = set()
        while todo := [f.hypothesis for f in self.ranked()[:_WIDTH] if f.hypothesis not in done]:
            for hypothesis in todo:
                done.add(hypothesis)
                for change in self._variations():
                    self._try(replace(hypothesis, **change))  # type: ignore[arg-type]

    def _find_change(self) -> bool:
        """Whether a change on the way, just before something contradicts, explains more."""
        best = self.ranked()[0]
        if not best.score.contradictions:
            return False
        changed = {found.hypothesis for found in self.ranked()[:3]} | set(self._longest_right(self._tried))
        for hypothesis in changed:
            score = self._tried[hypothesis]
            times = sorted({noted.time_ns - 1 for noted in score.noted})[:_CHANGE_TIMES]
            for when in (*times, *(relieved - 1 for relieved in score.relieved)):
                for backlog in self._backlogs:
                    self._try_change(hypothesis, Change(when, "listen", backlog))
            for when, (field, values) in product(times, _SWITCHES.items()):
                if field not in self._fixed:  # what is given is given for all of the capture
                    for value in values:
                        self._try_change(hypothesis, Change(when, SYSCTLS[field], value))
        if self.ranked()[0].cost >= best.cost:
            return False
        self._try_backlogs(self.ranked()[0].hypothesis)
        for kernel in KERNELS:
            self._try(replace(self.ranked()[0].hypothesis, kernel=kernel))
        return True

    def _fit_kernels(self) -> None:
        """Give every kernel that is still contradicted the settings that make it most like the best one.

        Kernels count and round differently: what one does with a backlog of 64 another does with 63, or
        with a small tcp_max_syn_backlog.
        """
        best = self.ranked()[0]
        for kernel in KERNELS:
            if self._fits(kernel, best):
                continue
            like = replace(best.hypothesis, kernel=kernel)
            near = {max(0, like.backlog + more) for more in (-1, 0, 1)}
            for syncookies in _SWITCHES["syncookies"]:
                for backlog in near:
                    self._try(replace(like, backlog=backlog, syncookies=syncookies))
                for most in _MAX_SYN_BACKLOG:
                    self._try(replace(like, backlog=UNLIMITED, syncookies=syncookies, max_syn_backlog=most))
            mine = next((one.hypothesis for one in self.ranked() if one.hypothesis.kernel == kernel), None)
            if mine is not None and not self._fits(kernel, best):
                for change in self._variations():
                    if "kernel" not in change:
                        self._try(replace(mine, **change))  # type: ignore[arg-type]
            if not (best.hypothesis.changes or self._fits(kernel, best)):
                self._fit_change(kernel)

    def _fit_change(self, kernel: str) -> None:
        """Try a second listen() with a kernel, just before what contradicts it."""
        own = [one for one in self._tried if one.kernel == kernel and not one.changes]
        for hypothesis in self._longest_right(own)[:_FITTED]:
            score = self._tried[hypothesis]
            length = min(hypothesis.backlog, score.reach)
            near = sorted(self._backlogs, key=lambda backlog: abs(backlog - length))[:_NEAR_BACKLOGS]
            for when in (score.noted[0].time_ns - 1, *(relieved - 1 for relieved in score.relieved)):
                for backlog in near:
                    self._try_change(hypothesis, Change(when, "listen", backlog))

    def _fits(self, kernel: str, best: Found) -> bool:
        """Whether some server with this kernel is as free of contradictions as the best one."""
        return any(
            h.kernel == kernel and score.whole and score.contradictions <= best.score.contradictions
            for h, score in self._tried.items()
        )

    def _longest_right(self, some: Iterable[Hypothesis]) -> list[Hypothesis]:
        """Those that nothing contradicts for the longest time: something may have been changed then."""

        def key(hypothesis: Hypothesis) -> tuple[int, float]:
            noted = self._tried[hypothesis].noted
            return -noted[0].time_ns, hypothesis.implausibility()

        return heapq.nsmallest(_WIDTH, (h for h in some if self._tried[h].noted), key=key)

    def _try_change(self, hypothesis: Hypothesis, change: Change) -> None:
        self._try(replace(hypothesis, changes=(*hypothesis.changes, change)))

    def _possible_backlogs(self) -> list[int]:
        most = self._seen.attempts
        few = list(range(min(most, _ALL_BACKLOGS) + 1))
        # the largest first: those that make no difference to it need not be tried
        return [UNLIMITED, *(n for n in _BACKLOGS if few[-1] < n <= most), *few]

    def _variations(self) -> Iterator[Mapping[str, object]]:
        yield from ({"kernel": kernel} for kernel in KERNELS)
        yield from ({"retries": n} for n in range(max(7, self._seen.repeats + 2)))
        yield from ({"syncookies": n} for n in (0, 1, 2))
        yield from ({"abort": n} for n in (0, 1))
        yield from ({"max_syn_backlog": n} for n in _MAX_SYN_BACKLOG)
        yield from ({"defer": n} for n in _DEFER)
        if self._seen.fastopen:
            yield from ({"fastopen": flags, "fastopen_qlen": qlen} for flags, qlen in _FASTOPEN)
        yield from ({"backlog": n} for n in self._backlogs)


def _cost(hypothesis: Hypothesis, score: Score) -> float:
    """How badly a hypothesis explains what was seen; the unit is that of a negative log likelihood.

    Contradictions do not come alone: a packet that the capture lost makes several, one after the other.
    """
    return (
        CONTRADICTION * math.sqrt(score.contradictions)
        + hypothesis.implausibility()
        + 0.5 * math.log2(1 + score.accepts)
        + 0.8 * score.weak
    )
