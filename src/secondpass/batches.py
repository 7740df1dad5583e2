"""Tokens to batches under a token budget, with the way back to the caller's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secondpass.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward pass reads: `rows` are the positions of the `inputs` in the call's input."""

    rows: tuple[int, ...]
    inputs: tuple[Tokens, ...]

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return sum(map(len, self.inputs))

    @property
    def places(self) -> int:
        """Places of the rectangle that holds the inputs, padding included."""
        return len(self.inputs) * max(map(len, self.inputs))


def plan(lengths: Sequence[int], max_batch_tokens: int, max_pairs: int, padded: bool = True) -> list[tuple[int, ...]]:
    """Positions of each batch, longest first: tokens stay under the budget, pairs under `max_pairs`.

    Sorted by true length so that padding is small; longest first, so that a batch that does not fit into
    memory is met at the start. A pair longer than the budget gets a batch of its own. The queue rule is
    text-embeddings-inference's.

    Args:
        lengths: tokens of each pair.
        max_batch_tokens: of one batch.
        max_pairs: of one batch.
        padded: count the places of the rectangle that holds a batch; otherwise real tokens.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    made: list[tuple[int, ...]] = []
    start = 0
    while start < len(order):
        size, filled = 1, lengths[order[start]]
        for row in order[start + 1 : start + max_pairs]:
            filled += lengths[order[start]] if padded else lengths[row]
            if filled > max_batch_tokens:
                break
            size += 1
        made.append(tuple(order[start : start + size]))
        start += size
    return made


def batch_of(tokens: Sequence[Tokens], rows: Sequence[int]) -> Batch:
    """The batch of `tokens[row]` for every row."""
    return Batch(tuple(rows), tuple(tokens[row] for row in rows))
