"""What a first pass finds: by words over a corpus, and by the vectors of a bi-encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recipes.pocket.teachers import Vectors
from secondpass.training.negatives.candidates import BM25, best, nearest

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

DEPTH = 100
# Documents whose vectors are float32 at once.
BLOCK = 32768


class FirstPass:
    """BM25 as in the test tables: k1 0.9, b 0.4, English stop words and stemmer."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._index = BM25(texts)
        self._size = len(texts)

    def search(self, queries: Sequence[str], depth: int = DEPTH) -> tuple[Rows, Floats]:
        """-> rows [queries, depth] best first, scores alike; a score of 0 means no word in common."""
        depth = min(depth, self._size)
        rows, scores = np.empty((len(queries), depth), np.int64), np.empty((len(queries), depth), np.float32)
        for number, found in enumerate(self._index.scores(queries)):
            rows[number] = best(found[None], depth)[0]
            scores[number] = found[rows[number]]
        return rows, scores


def nearest_rows(queries: Vectors, documents: Vectors, depth: int = DEPTH) -> Rows:
    """-> rows [queries, depth] of the highest cosine, best first."""
    blocks = (documents[start : start + BLOCK].astype(np.float32) for start in range(0, len(documents), BLOCK))
    return nearest(queries.astype(np.float32), blocks, depth).positions
