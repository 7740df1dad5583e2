"""What a call did: how much it read, what it cut, how long each stage took."""

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
    padding / (padding + tokens); times are milliseconds of wall clock; `retries` counts batches repeated after an
    out-of-memory error or a non-finite half-precision logit. `batching` tells which inputs shared a batch: of "any"
    lengths, of "equal" length because this model reads padding, or "single" ones. `unscored` pairs were left when the
    budget was spent, `cache_hits` came from a cache of scores; `windows` counts the inputs of documents that were read
    in several, equal ones of one call each time.
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
    batching: str = "any"
    unscored: int = 0
    cache_hits: int = 0
    windows: int = 0
