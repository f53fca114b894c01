"""Several captures of one host as one, by time, as mergecap does it but for ties.

The next item is always the earliest of the captures' next items, the earlier capture's where they tie (where
mergecap takes the later one's); within a capture nothing changes places. A capture is opened when its first
item is due.
Knows nothing about what the items are.
"""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Item = TypeVar("Item")


def in_time_order(
    first_times: Sequence[int | None],
    open_items: Callable[[int], Iterator[Item]],
    time_of: Callable[[Item], int],
) -> Iterator[tuple[int, Item]]:
    """(capture, item), in merged order.

    `first_times[n]` is the time of the first item of capture n (ns), None when it has none; `open_items(n)`
    gives its items and is called when they are due; `time_of` gives the time of an item.
    """
    heads: list[tuple[int, int, Iterator[Item] | None, Item | None]] = [
        (first, number, None, None) for number, first in enumerate(first_times) if first is not None
    ]
    heapify(heads)
    while heads:
        _, number, items, item = heads[0]
        if items is None:
            items = open_items(number)
        else:
            assert item is not None
            yield number, item
        following = next(items, None)
        if following is None:
            heappop(heads)
        else:
            heapreplace(heads, (time_of(following), number, items, following))
