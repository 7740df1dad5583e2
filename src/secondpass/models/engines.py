"""A loaded model to its stages: the tokenizer and the fastest forward, in the precision asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secondpass.errors import InvalidInput
from secondpass.forwards.choosing import has_torch, stored_forward
from secondpass.forwards.contract import Computation, padding_of
from secondpass.forwards.families import family_of
from secondpass.forwards.precision import SAMPLE_DOCUMENTS, SAMPLE_QUERIES, Precision
from secondpass.models.loading import Loaded
from secondpass.models.stored import StoredModel
from secondpass.scoring import Engine, Window
from secondpass.tokens import Tokens

SAMPLE_TOKENS = 64
PROBE_TOKENS = (11, 14)


def stored_engine(stored: StoredModel, precision: Precision | None) -> Engine | str:
    """The stages of a folder's model, or a sentence that says why torch has to compute it.

    Raises:
        InvalidInput: "int8", where neither the kernel nor torch computes that.
    """
    engine = Engine(stored.tokenizer, _NotYet())
    types = "token_type_ids" in stored.tokenizer.model_input_names
    wanted: Precision = precision or "fp32"
    forward = stored_forward(
        stored.encoder, stored.identity, wanted, lambda: _samples(engine, stored.token_limit), types
    )
    if not isinstance(forward, str):
        engine.forward = forward
        return engine
    if wanted == "int8" and not has_torch():
        raise InvalidInput(f"precision='int8': {forward}; choose 'auto' or 'fp32'")
    return forward


class _NotYet:
    """The place of a forward that is about to be chosen."""

    def ready(self) -> Computation:
        raise RuntimeError("there is no forward yet")


def torch_engine(loaded: Loaded, precision: Precision | None, known: Computation | None = None) -> Engine:
    """The stages of a model of torch; `known` computes it as it is now, where that is known."""
    from secondpass.forwards.module import ModelForward
    from secondpass.forwards.padded import TransformersForward

    names, padding = loaded.tokenizer.model_input_names, padding_of(loaded.tokenizer)
    engine = Engine(loaded.tokenizer, TransformersForward(loaded.model, names, padding))
    samples = _samples(engine, loaded.token_limit) if precision == "auto" else ()
    # our own families are known to mask what they must, and mostly computed without padding
    own = family_of(loaded.model) is not None
    probes = () if own and not padding.left else _probes(engine, loaded.token_limit)
    engine.forward = ModelForward(loaded.model, names, padding, precision, samples, probes, known)
    if not own:
        engine.forward.ready()
    return engine


def _samples(engine: Engine, limit: int) -> Sequence[Tokens]:
    """What "auto" judges by; nothing for a model that cannot read so much."""
    if limit <= SAMPLE_TOKENS:
        return ()
    return engine.tokens([SAMPLE_QUERIES, SAMPLE_DOCUMENTS], Window(SAMPLE_TOKENS, "longest_first", SAMPLE_TOKENS, 1))


def _probes(engine: Engine, limit: int) -> list[Any]:
    """Inputs of about a dozen tokens, and of 1 and 17 more or what a window of `limit` has room for.

    Of two lengths: models that pool neighbouring tokens hide at some what padding does to them.
    """
    from secondpass.forwards.padded import BatchProbe

    queries, documents = list(SAMPLE_QUERIES[::2]), [" ".join(SAMPLE_DOCUMENTS[row:]) for row in range(0, 12, 2)]

    def tokens(length: int, count: int = 1) -> list[Tokens]:
        window = Window(min(length, limit), "only_document", None, 1)
        return engine.tokens([queries[:count], documents[:count]], window)

    lengths = [min(length, max(limit - 17, limit // 2)) for length in PROBE_TOKENS]
    try:
        made = [
            BatchProbe(tuple(tokens(length, len(queries))), (*tokens(length + 1), *tokens(length + 17)))
            for length in lengths
        ]
    except InvalidInput:
        return []
    return [item for item in made if len({*map(len, item.pairs)}) == 1]
