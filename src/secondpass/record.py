"""What a call did: tokens, cuts, padding and milliseconds, for a caller who asks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cut:
    """Pair `index` lost this many tokens, and characters beyond the ceiling that were never tokenised."""

    index: int
    query_tokens: int
    document_tokens: int
    characters: int = 0


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call of `predict`, `rank` or `rank_many`.

    `tokens` counts what the model read, padding excluded and equal pairs once; `padding_share` is
    padding / (padding + tokens);
    times are milliseconds of wall clock; `retries` counts batches repeated after an out-of-memory error or
    a non-finite half-precision logit.
    """

    pairs: int
    tokens: int
    batches: int
    padding_share: float
    truncated: tuple[Cut, ...]
    tokenise_ms: float
    batch_ms: float
    score_ms: float
    rank_ms: float
    retries: int
    device: str
    dtype: str
