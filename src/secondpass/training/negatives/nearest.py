"""The best of many scores, exactly: a block of documents at a time, ties in the order of the corpus."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secondpass.errors import InvalidInput

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

# Scores that are held at once: so many queries against one block of documents.
QUERIES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Neighbours:
    """For each query the documents' positions, int64 [queries, depth], and scores, float32, best first."""

    positions: Places
    scores: Floats


def best(scores: Floats, depth: int) -> Places:
    """Columns of the `depth` highest scores of each row, best first; equal scores in the order of the columns.

    Args:
        scores: float32 [rows, columns], no NaN among them.
        depth: cut to the columns that there are.

    Returns:
        int64 [rows, depth].
    """
    depth = min(depth, scores.shape[1])
    if depth == 0 or not len(scores):
        return np.empty((len(scores), depth), np.int64)
    lowest = np.partition(scores, -depth, axis=1)[:, -depth, None]
    above, equal = scores > lowest, scores == lowest
    room = depth - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1) <= room))
    columns = np.nonzero(chosen)[1].reshape(len(scores), depth)
    order = np.argsort(-np.take_along_axis(scores, columns, 1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1).astype(np.int64)


def nearest(queries: Floats, blocks: Iterable[Floats], depth: int) -> Neighbours:
    """The `depth` documents of the highest dot product with each query.

    Args:
        queries: float32 [queries, dim].
        blocks: the documents in order, float32 [any, dim] each; only one is held at a time.
        depth: how many; cut to the documents that there are.
    """
    positions = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    start = 0
    for block in blocks:
        found = [
            _joined(queries[rows], positions[rows], scores[rows], block, start, depth)
            for rows in (slice(row, row + QUERIES_AT_ONCE) for row in range(0, len(queries), QUERIES_AT_ONCE))
        ]
        if found:
            positions = np.concatenate([part.positions for part in found])
            scores = np.concatenate([part.scores for part in found])
        start += len(block)
    return Neighbours(positions, scores)


def _joined(queries: Floats, positions: Places, scores: Floats, block: Floats, start: int, depth: int) -> Neighbours:
    """What was found so far and the next block; what stands before has the lower positions, so ties keep order."""
    new = np.arange(start, start + len(block), dtype=np.int64)
    all_scores = np.concatenate([scores, queries @ block.T], axis=1)
    all_positions = np.concatenate([positions, np.broadcast_to(new, (len(queries), len(block)))], axis=1)
    columns = best(all_scores, depth)
    return Neighbours(np.take_along_axis(all_positions, columns, 1), np.take_along_axis(all_scores, columns, 1))


def unit(vectors: object, texts: int, dim: int | None = None) -> Floats:
    """Vectors of length 1, float32 [texts, dim], so that a dot product is a cosine; a vector of zeros stays one.

    Raises:
        InvalidInput: they have another shape, or a number is not finite; the message names the text.
    """
    given = np.asarray(vectors, np.float32)
    if given.ndim != 2 or len(given) != texts or (dim is not None and given.shape[1] != dim):
        wanted = f"[{texts}, {'any' if dim is None else dim}]"
        raise InvalidInput(f"encode gave an array of shape {list(given.shape)} for {texts} texts, not {wanted}")
    wrong = ~np.isfinite(given).all(axis=1)
    if wrong.any():
        raise InvalidInput(f"encode gave a number that is not finite for text {int(wrong.argmax())}")
    lengths = np.linalg.norm(given, axis=1, keepdims=True)
    return np.asarray(given / np.where(lengths > 0, lengths, 1), np.float32)
