"""The tokenizer of a folder, checked against the model it feeds before the first text arrives."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from secondpass.errors import ModelLoadError

logger = logging.getLogger(__name__)

# transformers writes 1e30 for "no limit known".
NO_LIMIT = 10**9

# Without any of these transformers 5 makes a tokenizer of special tokens alone, which reads every text as unknown.
VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.spm", "*.tiktoken", "tekken.json")

POSITION_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "wpe")


def load_tokenizer(
    folder: Path, config: Any, tokenizer_args: Mapping[str, Any], trust_remote_code: bool = False
) -> Any:
    """Return the folder's fast tokenizer.

    Raises:
        ModelLoadError: it is absent, cannot be read, needs foreign code, has no fast backend or no padding token.
    """
    from transformers import AutoTokenizer

    if not trust_remote_code and not any(next(folder.glob(pattern), None) for pattern in VOCABULARIES):
        raise ModelLoadError(f"{folder} holds no tokenizer (tokenizer.json or a vocabulary)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, config=config, trust_remote_code=trust_remote_code, local_files_only=True, **tokenizer_args
        )
    except Exception as error:  # readers of half a dozen formats, with errors of their own kinds
        if "trust_remote_code" in str(error):
            reason = "it brings its own code, which runs only with trust_remote_code=True"
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelLoadError(f"{folder}: the tokenizer cannot be read: {reason}") from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelLoadError(
            f"{folder}: {type(tokenizer).__name__} is a slow tokenizer; one with a tokenizer.json is needed"
        )
    if tokenizer.pad_token_id is None:
        raise ModelLoadError(
            f"{folder}: the tokenizer has no padding token; name one it knows, e.g. "
            "tokenizer_args={'pad_token': '<pad>'}"
        )
    template = str(getattr(tokenizer, "chat_template", None))
    if "query" in template and "document" in template:
        # Templates of the chat alone are what any instruct model brings along; these two roles are a reranker's.
        logger.warning("%s: the chat template is not applied: query and document are read as a pair of texts", folder)
    return tokenizer


def check_vocabulary(folder: Path, tokenizer: Any, model: Any) -> None:
    """Raise ModelLoadError if ids lie beyond the model's embedding table: scoring would fail, or stop a GPU."""
    embeddings = model.get_input_embeddings()
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if isinstance(embeddings, nn.Embedding) and highest >= embeddings.num_embeddings:
        raise ModelLoadError(
            f"{folder}: the tokenizer has ids up to {highest}, the model's embedding table only "
            f"{embeddings.num_embeddings} rows; they do not belong together"
        )


def token_limit(tokenizer: Any, model: Any) -> int:
    """The longest input in tokens that tokenizer, position table and config allow; ModelLoadError if none knows."""
    limits = [_table_limit(model) or _config_limit(model.config), tokenizer.model_max_length]
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < NO_LIMIT]
    if not known:
        raise ModelLoadError(
            "neither the tokenizer nor the model says how long an input may be; give "
            "tokenizer_args={'model_max_length': 512} or what is right for it"
        )
    return min(known)


def _table_limit(model: Any) -> int | None:
    """Rows of the position table that texts can use; RoBERTa's first position is padding_idx + 1."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITION_TABLES:
            skipped = module.padding_idx + 1 if module.padding_idx is not None else getattr(module, "offset", 0)
            return module.num_embeddings - int(skipped)
    return None


def _config_limit(config: Any) -> int | None:
    limit = getattr(config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) else None
