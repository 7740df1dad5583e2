"""A set of whole numbers that are mostly neighbours, held as ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class Places:
    """Places of a corpus (from 0) that are settled."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add `start` to `end` - 1; those that are in it already stay so."""
        if start >= end:
            return
        # Ranges that touch the new one: all that end at its start or later and start at its end or earlier.
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        if low < high:
            start, end = min(start, self._starts[low]), max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def __contains__(self, place: int) -> bool:
        at = bisect_right(self._starts, place) - 1
        return at >= 0 and place < self._ends[at]

    def __len__(self) -> int:
        return sum(end - start for start, end in zip(self._starts, self._ends, strict=True))
