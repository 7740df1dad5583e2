"""A smaller WordPiece vocabulary: general English first, then what the training texts use."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PLAIN = re.compile(r"(##)?[ -~]+")
# BERT's vocabulary is sorted by frequency: its first part is general English.
GENERAL = 7000


def kept_tokens(tokenizer: Tokenizer, texts: Iterable[str], size: int, general: int = GENERAL) -> list[str]:
    """The `size` tokens to keep, in their old order: specials, characters, general English, most used."""
    order = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.encode(text, add_special_tokens=False).tokens)
    plain = [token for token in order if PLAIN.fullmatch(token) and token not in SPECIAL and "unused" not in token]
    chosen = dict.fromkeys(SPECIAL)
    chosen.update(dict.fromkeys(token for token in plain if len(token.removeprefix("##")) == 1))
    chosen.update(dict.fromkeys(token for token in plain[:general]))
    for token in sorted(order, key=lambda token: -counts[token]):
        if len(chosen) >= size:
            break
        chosen[token] = None
    return [token for token in order if token in chosen]


def trimmed_tokenizer(tokenizer: Tokenizer, tokens: list[str]) -> Tokenizer:
    """The same normaliser, splitter and template over the smaller vocabulary."""
    ids = {token: number for number, token in enumerate(tokens)}
    state: dict[str, Any] = json.loads(tokenizer.to_str())
    state["model"]["vocab"] = ids
    state["truncation"] = state["padding"] = None
    for added in state["added_tokens"]:
        added["id"] = ids[added["content"]]
    for special in state["post_processor"]["special_tokens"].values():
        special["ids"] = [ids[token] for token in special["tokens"]]
    return Tokenizer.from_str(json.dumps(state))


def trim_embeddings(model: Any, tokenizer: Tokenizer, tokens: list[str]) -> None:
    """Keep only the rows of `tokens` in the model's word embeddings, in place."""
    vocabulary = tokenizer.get_vocab()
    rows = torch.tensor([vocabulary[token] for token in tokens])
    old = model.get_input_embeddings()
    new = torch.nn.Embedding(len(tokens), old.embedding_dim, padding_idx=tokens.index("[PAD]"))
    new.weight.data.copy_(old.weight.data[rows])
    model.set_input_embeddings(new)
    model.config.vocab_size = len(tokens)
    model.config.pad_token_id = tokens.index("[PAD]")
