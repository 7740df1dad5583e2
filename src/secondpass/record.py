"""What a call did: how much it read, what it cut, how long each stage took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace


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


@dataclass(frozen=True, slots=True)
class CascadeRecord(CallRecord):
    """What a cascade's call took, all models together; `stages` has each model's own part, the first model's first.

    `pairs` and `tokens` count what every model read, `truncated` the documents that were cut for the model whose score
    they have. Device, dtype and batching are the last model's.
    """

    stages: tuple[CallRecord, ...] = ()


def added(records: Sequence[CallRecord]) -> CallRecord:
    """Numbers added up, all else as the last one has it; where nothing was scored, a record of that."""
    if not records:
        return CallRecord(0, 0, 0, 0.0, (), 0.0, 0.0, 0.0, 0.0, 0, "", "")
    names = [one.name for one in fields(CallRecord) if type(getattr(records[-1], one.name)) in (int, float)]
    added = {name: sum(getattr(record, name) for record in records) for name in names}
    places = sum(record.tokens / (1 - record.padding_share) for record in records)
    return replace(records[-1], **added | {"padding_share": 1 - added["tokens"] / places if places else 0.0})
