"""Which documents were acknowledged and are not there: a server that crashed may have forgotten some."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from secondpass_indexing.work import Placed

ASKED_AT_ONCE = 1_000


def lost(
    placed: Iterable[Placed], dead: set[str], present: Callable[[Sequence[str]], set[str]]
) -> Iterator[list[Placed]]:
    """Documents of a corpus that the index has not got, refused ones left aside, in the order of the corpus.

    `present` is asked for at most 1,000 ids at once; a list comes for each such question that found some missing.
    """
    expected = ((place, document) for place, document in placed if document.id not in dead)
    while chunk := list(islice(expected, ASKED_AT_ONCE)):
        there = present([document.id for _, document in chunk])
        missing = [(place, document) for place, document in chunk if document.id not in there]
        if missing:
            yield missing
