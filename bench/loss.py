"""How many decisions change where a capture has lost packets.

    python bench/loss.py DIRECTORY [--recordings N] [--seeds N ...]

Recordings as `backlogtrace check` reads them are drawn from DIRECTORY and its subfolders, and analysed with
nothing but the capture and the port: whole, and with one packet in a hundred taken out at random. A firm
decision may become undecided, but should not become another one.

Knows how to take packets out and compare; refuses to know what a decision means.
"""

from __future__ import annotations

import argparse
import random
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from backlogtrace.capture import open_capture
from backlogtrace.capture.info import CaptureInfo
from backlogtrace.replay import Options, analyze
from backlogtrace.replay.host import Host, HostListener, load_host
from backlogtrace.replay.rows import PacketRow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from backlogtrace.segment import Segment

LOST = 0.01


class Result(NamedTuple):
    """One recording."""

    folder: str
    firm: int
    """Firm decisions, once for each seed."""
    undecided: int
    """Those that became undecided."""
    flips: list[str]
    """Those that became another firm one, in words."""


class Kept:
    """A capture of some segments."""

    rereadable = True

    def __init__(self, segments: list[Segment]) -> None:
        self.info = CaptureInfo(names=["kept"])
        self._segments = [one._replace(frame=number) for number, one in enumerate(segments, 1)]

    def chunks(self) -> Iterator[list[Segment]]:
        """All of them."""
        yield list(self._segments)

    def again(self, *, bundle: bool = True) -> Kept:
        """From the beginning."""
        del bundle
        return self


def decided(segments: list[Segment], ports: tuple[HostListener, ...]) -> dict[tuple[object, ...], str]:
    """The decisions, by what identifies a packet, and how firm they are."""
    capture: Any = Kept(segments)
    rows = analyze(capture, Host(), Options(all_packets=True, listeners=ports))
    return {
        row.segment[1:]: f"{row.outcome.decision} ({row.certainty})" for row in rows if type(row) is PacketRow
    }


def compare(folder: Path, seeds: tuple[int, ...]) -> Result:
    """One recording, whole and with losses."""
    ports = tuple(HostListener(one.address, one.port) for one in load_host(folder / "host.json").listeners)
    (path,) = folder.glob("capture.*")
    with open_capture([str(path)], keep_small=True) as capture:
        segments: list[Any] = [segment for chunk in capture.chunks() for segment in chunk]
    whole = {packet: words for packet, words in decided(segments, ports).items() if "undecided" not in words}
    undecided, flips = 0, []
    for seed in seeds:
        chance = random.Random(seed)  # noqa: S311 - reproducible
        kept = [one for one in segments if chance.random() >= LOST]
        if len(kept) == len(segments):
            del kept[chance.randrange(len(kept))]
        found = decided(kept, ports)
        for packet in whole.keys() & found.keys():
            if "undecided" in found[packet]:
                undecided += 1
            elif whole[packet].split()[0] != found[packet].split()[0]:
                flips.append(f"{whole[packet]} -> {found[packet]}")
    return Result(f"{folder.parent.name}/{folder.name}", len(seeds) * len(whole), undecided, flips)


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Measure what lost packets change.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--recordings", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of the losses, one each")
    arguments = parser.parse_args()
    folders = sorted(path.parent for path in arguments.directory.rglob("host.json"))
    chosen = random.Random(7).sample(folders, min(arguments.recordings, len(folders)))  # noqa: S311
    with ProcessPoolExecutor() as pool:
        results = list(pool.map(compare, chosen, repeat(tuple(arguments.seeds))))
    for result in results:
        if result.flips:
            print(f"{result.folder}: {len(result.flips)}, e.g. {result.flips[0]}")
    flips = sum(len(result.flips) for result in results)
    firm, undecided = sum(one.firm for one in results), sum(one.undecided for one in results)
    print(
        f"{flips} of {firm:,} firm decisions of {len(results)} recordings changed, "
        f"{undecided:,} became undecided"
    )


if __name__ == "__main__":
    main()
