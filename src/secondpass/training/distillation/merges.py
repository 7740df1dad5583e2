"""The merges of a BPE vocabulary: which pieces a piece is put together from, and which merges a part of it keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

Pair = tuple[str, str]


def pairs_of(model: Mapping[str, Any]) -> list[Pair]:
    """The merges of a tokenizer.json, in order; older files join the two parts by a space."""
    split = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return [(first, second) for first, second in split]


class Merges:
    """Merges by what they make.

    Args:
        model: the "model" of a tokenizer.json of the kind BPE.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        self._prefix: str = model.get("continuing_subword_prefix") or ""
        self._pairs = pairs_of(model)
        self._rank = {pair: rank for rank, pair in reversed(list(enumerate(self._pairs)))}
        self._makers: dict[str, list[Pair]] = defaultdict(list)
        for pair in self._rank:
            self._makers[self._made(pair)].append(pair)

    def makes(self, piece: str) -> bool:
        """Tell whether a merge makes this piece; the others are what texts are split into first."""
        return piece in self._makers

    def parts(self, piece: str) -> set[str]:
        """The piece and all that its merges go through, down to single symbols."""
        found: set[str] = set()
        waiting = [piece]
        while waiting:
            part = waiting.pop()
            if part not in found:
                found.add(part)
                waiting += self._last_merge(part)
        return found

    def kept(self, pieces: Collection[str]) -> list[list[str]]:
        """The merges, in order, whose parts and result are all among `pieces`."""
        known = set(pieces)
        return [list(pair) for pair in self._pairs if known.issuperset((*pair, self._made(pair)))]

    def _made(self, pair: Pair) -> str:
        return pair[0] + pair[1].removeprefix(self._prefix)

    def _last_merge(self, piece: str) -> Pair | tuple[()]:
        """The merge that makes a piece when it is read; () for a symbol.

        Vocabularies that come from SentencePiece list every way to split a piece, and only one of them happens: the
        one that always applying the first merge of the list ends in.
        """
        makers = self._makers.get(piece, [])
        if len(makers) <= 1:
            return makers[0] if makers else ()
        symbols, last = list(piece), makers[0]
        while len(symbols) > 1:
            ranks = [self._rank.get(pair, len(self._pairs)) for pair in pairwise(symbols)]
            place = ranks.index(min(ranks))
            if ranks[place] == len(self._pairs):
                return makers[0]
            last = (symbols[place], symbols[place + 1])
            symbols[place : place + 2] = [self._made(last)]
        return last
