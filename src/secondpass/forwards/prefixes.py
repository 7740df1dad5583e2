"""Beginnings that model inputs share: where they end, and their keys and values, which are computed once.

Under causal attention what a token becomes depends on nothing behind it. So the keys and values of a beginning are the
same in every input that has it, and those of a part of it are the first of them (the radix tree of SGLang, Zheng et al.
2024, without the tree).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from secondpass.forwards.contract import ForwardLock
from secondpass.inputs import Ids

if TYPE_CHECKING:
    import torch

# Tokens that a beginning must spare: a run of its own takes as long as some rows more in the run of the others.
SPARES = 64
# Inputs of earlier batches whose beginnings are looked for in the next.
RECENT = 16


def side_by_side(inputs: Sequence[Ids]) -> list[int]:
    """The places of inputs in an order in which those that begin alike are neighbours."""
    return sorted(range(len(inputs)), key=lambda place: inputs[place].tobytes())


def shared_beginnings(inputs: Sequence[Ids], longest: int, spares: int = SPARES) -> list[tuple[int, ...]]:
    """The lengths of the beginnings of each input that it shares with others, rising.

    A beginning is told where computing it once spares `spares` tokens, above those that are told already. It leaves the
    last token of every input out, and has at most `longest` tokens.
    """
    order = side_by_side(inputs)
    common = [min(_common(inputs[a], inputs[b]), longest) for a, b in itertools.pairwise(order)]
    found: list[tuple[int, ...]] = [()] * len(inputs)
    todo = [(0, len(order))]
    while todo:
        begin, end = todo.pop()
        if end - begin < 2:
            continue
        # inputs are sorted, so what all have in common is the least that two neighbours have
        least = min(common[begin : end - 1])
        told = found[order[begin]]
        if (end - begin - 1) * (least - (told[-1] if told else 0)) >= spares:
            for place in order[begin:end]:
                found[place] = (*told, least)
        edges = [begin, *(place + 1 for place in range(begin, end - 1) if common[place] == least), end]
        todo += itertools.pairwise(edges)
    return found


def _common(left: Ids, right: Ids) -> int:
    """How many tokens two inputs begin with, without the last one of either."""
    count = min(len(left), len(right)) - 1
    differ = np.flatnonzero(left[:count] != right[:count])
    return int(differ[0]) if len(differ) else count


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A beginning of inputs: its ids and for every layer keys and values [2, tokens, key heads, head size]."""

    ids: Ids
    states: tuple[torch.Tensor, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def bytes(self) -> int:
        """Of all layers."""
        return sum(part.nbytes for part in self.states)

    def first(self, count: int) -> Prefix:
        """The first tokens of it; memory is shared."""
        return Prefix(self.ids[:count], tuple(part[:, :count] for part in self.states))


class PrefixCache(ForwardLock):
    """The beginnings used last, of one model as it is; any number of threads may ask.

    A copy and a forked child start empty. `max_bytes` bounds the keys and values.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        super().__init__()

    def renew(self) -> None:
        """Be open, and empty."""
        super().renew()
        self._entries: OrderedDict[bytes, Prefix] = OrderedDict()
        self._recent: deque[Ids] = deque(maxlen=RECENT)
        self.bytes_held = 0

    def __reduce__(self) -> tuple[type[PrefixCache], tuple[int]]:  # type: ignore[override]
        return type(self), (self.max_bytes,)

    def __len__(self) -> int:
        return len(self._entries)

    def recent(self, ids: Ids) -> list[Ids]:
        """Inputs told earlier; this one is told now, for its whole batch."""
        with self:
            known = list(self._recent)
            self._recent.append(ids)
        return known

    def whole(self, ids: Ids) -> Prefix | None:
        """The longest one that inputs with these ids begin with and that does not reach their last token."""
        with self:
            for length in sorted({len(entry) for entry in self._entries.values()}, reverse=True):
                entry = self._entries.get(ids[:length].tobytes()) if length < len(ids) else None
                if entry is not None:
                    self._entries.move_to_end(entry.ids.tobytes())
                    return entry
        return None

    def nearest(self, ids: Ids) -> Prefix | None:
        """As many of the first of these ids as one of the beginnings has; None if not even the first."""
        with self:
            best, most = None, 0
            for entry in self._entries.values():
                count = min(len(entry), len(ids))
                differ = np.flatnonzero(entry.ids[:count] != ids[:count])
                count = int(differ[0]) if len(differ) else count
                if count > most:
                    best, most = entry, count
            if best is not None:
                self._entries.move_to_end(best.ids.tobytes())
        return best if best is None or most == len(best) else best.first(most)

    def keep(self, prefix: Prefix) -> None:
        """Remember one; those used longest ago make room."""
        key, size = prefix.ids.tobytes(), prefix.bytes
        with self:
            if key in self._entries or size > self.max_bytes:
                return
            self._entries[key] = prefix
            self.bytes_held += size
            while self.bytes_held > self.max_bytes:
                self.bytes_held -= self._entries.popitem(last=False)[1].bytes
