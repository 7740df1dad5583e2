"""How long an input a model can read, and which token ids: what its tables, config and tokenizer say together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers.models import Unigram

from secondpass.errors import ModelLoadError

# transformers writes 1e30 for "no limit known".
NO_LIMIT = 10**9
POSITION_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "wpe")


def check_vocabulary(folder: Path, tokenizer: Any, model: Any) -> None:
    """`check_ids` for a torch model."""
    from torch import nn

    embeddings = model.get_input_embeddings()
    if isinstance(embeddings, nn.Embedding):
        check_ids(folder, tokenizer, embeddings.num_embeddings)


def check_ids(folder: Path, tokenizer: Any, rows: int) -> None:
    """Raise ModelLoadError if ids lie beyond the model's embedding table: scoring would fail, or stop a GPU."""
    backend = tokenizer.backend_tokenizer
    if isinstance(backend.model, Unigram):
        # ids are places in a list; the vocabulary as a dict of 250,000 pieces takes half a second
        ids: Iterable[int] = (backend.get_vocab_size(False) - 1, *backend.get_added_tokens_decoder())
    else:
        ids = tokenizer.get_vocab().values()
    highest = max(ids, default=-1)
    if highest >= rows:
        raise ModelLoadError(
            f"{folder}: the tokenizer has ids up to {highest}, the model's embedding table only "
            f"{rows} rows; they do not belong together"
        )


def token_limit(tokenizer: Any, model: Any) -> int:
    """`limit_of` for a torch model."""
    return limit_of(tokenizer, _table_limit(model) or _config_limit(model.config))


def limit_of(tokenizer: Any, positions: int | None) -> int:
    """The longest input in tokens that tokenizer and model allow; ModelLoadError if neither knows.

    Args:
        tokenizer: only its `model_max_length` is read.
        positions: what texts can use of the model's position table (`usable`), else `max_position_embeddings` of its
            config.
    """
    known = [int(limit) for limit in (positions, tokenizer.model_max_length) if limit and 0 < limit < NO_LIMIT]
    if not known:
        raise ModelLoadError(
            "neither the tokenizer nor the model says how long an input may be; give "
            "tokenizer_args={'model_max_length': 512} or what is right for it"
        )
    return min(known)


def usable(rows: int, padding: int | None) -> int:
    """How many rows of a position table texts can use: the first position of RoBERTa's is `padding` + 1."""
    return rows if padding is None else rows - padding - 1


def _table_limit(model: Any) -> int | None:
    """What texts can use of a torch model's position table."""
    from torch import nn

    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITION_TABLES:
            offset = int(getattr(module, "offset", 0)) if module.padding_idx is None else 0
            return usable(module.num_embeddings - offset, module.padding_idx)
    return None


def _config_limit(config: Any) -> int | None:
    limit = getattr(config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) else None
