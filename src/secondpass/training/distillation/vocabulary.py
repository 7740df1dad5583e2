"""A cross-encoder with a smaller vocabulary: fewer rows of embeddings, the same scores for the texts it is kept for."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from secondpass.cross_encoder import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.persistence.fast_tokenizer import POSITION_TABLES
from secondpass.persistence.saving import save
from secondpass.training.distillation.kept_pieces import kept_ids
from secondpass.training.distillation.smaller_tokenizer import smaller_tokenizer


def trim_vocabulary(
    encoder: CrossEncoder, texts: Iterable[str], size: int, *, always: Iterable[str] = (), characters: str | None = None
) -> CrossEncoder:
    """A new encoder that knows the tokens which `texts` use most; the given one stays as it is.

    Pairs whose pieces are all kept get the scores they had; other texts are cut into smaller pieces, and nothing that
    could be read before becomes unknown (unless `characters` says so). See `kept_pieces.kept_ids` for what is kept.
    The new encoder is loaded from a folder, which is then removed, so it is what saving and loading gives.

    Args:
        encoder: with a WordPiece, BPE or Unigram tokenizer; its settings are taken over.
        texts: queries and documents as they will come; any iterable, read once.
        size: tokens at most, special tokens included.
        always: tokens to keep in any case, as the vocabulary spells them ("##ing", "Ġthe").
        characters: the only ones to keep in any case; None keeps all.

    Raises:
        InvalidInput: an argument is refused, or `size` is less than what must be kept; the message says how much.
        CheckpointError: the disk is full.
    """
    backend = encoder.tokenizer.backend_tokenizer
    vocabulary = backend.get_vocab(with_added_tokens=True)
    wanted = list(always)
    unknown = [token for token in wanted if token not in vocabulary]
    if unknown:
        raise InvalidInput(f"always: the vocabulary has no token {unknown[0]!r}")
    needed = {vocabulary[token] for token in wanted} | _fixed(encoder.model, set(vocabulary.values()))
    ids = kept_ids(backend, texts, size, always=needed, characters=characters)
    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer._tokenizer = smaller_tokenizer(backend, ids)
    model = with_rows(encoder.model, ids)
    with tempfile.TemporaryDirectory(prefix="secondpass-") as folder:
        save(folder, model, tokenizer, nn.Identity())
        made = CrossEncoder(
            folder,
            max_length=encoder.max_length,
            device=encoder.device,
            automodel_args={"dtype": encoder.model.dtype},
            default_activation_function=encoder.default_activation_function,
            truncation=encoder.truncation,
            max_batch_tokens=encoder.max_batch_tokens,
            max_documents=encoder.max_documents,
            local_files_only=True,
        )
    made.config.name_or_path = encoder.config.name_or_path
    return made


def with_rows(model: Any, ids: Sequence[int]) -> Any:
    """A copy of a transformers model whose word embeddings are the rows `ids` of the given one's, in that order.

    Token ids in its configuration become the rows' new places; one that has no row is forgotten.
    """
    old = model.get_input_embeddings()
    places = {number: place for place, number in enumerate(ids)}
    made = copy.deepcopy(model)
    rows = torch.tensor(list(ids), device=old.weight.device)
    new = nn.Embedding(
        len(ids),
        old.embedding_dim,
        padding_idx=places.get(old.padding_idx),
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    with torch.no_grad():
        new.weight.copy_(old.weight[rows])
    new.weight.requires_grad_(old.weight.requires_grad)
    made.set_input_embeddings(new)
    made.config.vocab_size = len(ids)
    for name in _token_ids(model.config):
        given = getattr(model.config, name)
        listed = [places[number] for number in given if number in places] if isinstance(given, list) else None
        setattr(made.config, name, listed or None if isinstance(given, list) else places.get(given))
    return made


def _token_ids(config: Any) -> list[str]:
    return [name for name, value in vars(config).items() if name.endswith("_token_id") and value is not None]


def _fixed(model: Any, known: set[int]) -> set[int]:
    """Ids that the model itself means something by."""
    named: set[int] = set()
    for name in _token_ids(model.config):
        given = getattr(model.config, name)
        named |= set(given if isinstance(given, list) else [given])
    for name, part in model.named_modules():
        # RoBERTa and its kin count positions from the padding token's id on, so that id must stay what it is.
        if (
            isinstance(part, nn.Embedding)
            and name.rpartition(".")[2] in POSITION_TABLES
            and part.padding_idx is not None
        ):
            named |= set(range(part.padding_idx + 1))
    return named & known
