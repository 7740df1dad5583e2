"""A tokenizer over a part of its vocabulary: the same normaliser, splitter and template, other ids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from secondpass.errors import InvalidInput
from secondpass.training.distillation.merges import Merges


def smaller_tokenizer(tokenizer: Tokenizer, ids: Sequence[int]) -> Tokenizer:
    """The tokenizer with the tokens of `ids` alone; the new id of ids[n] is n. Truncation and padding are off.

    Args:
        tokenizer: WordPiece, BPE or Unigram; not changed.
        ids: from `kept_pieces.kept_ids`, rising.

    Raises:
        InvalidInput: a token that the tokenizer itself needs is not among them, or its ids are laid out in a way that
            cannot be kept (two tokens with one id, an added token among the others).
    """
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    token_of = {number: token for token, number in vocabulary.items()}
    if len(token_of) < len(vocabulary):
        raise InvalidInput("the tokenizer has two tokens with one id")
    unknown = set(ids) - token_of.keys()
    if unknown or list(ids) != sorted(set(ids)):
        raise InvalidInput(f"ids: {'not rising' if not unknown else f'there is no token {min(unknown)}'}")
    tokens = [token_of[number] for number in ids]
    new = {token: number for number, token in enumerate(tokens)}
    state: dict[str, Any] = json.loads(tokenizer.to_str())
    state["truncation"] = state["padding"] = None
    try:
        _trim_model(state["model"], new)
        for added in state["added_tokens"]:
            added["id"] = new[added["content"]]
        if state["post_processor"] is not None:
            _trim_template(state["post_processor"], new)
    except KeyError as error:
        raise InvalidInput(f"ids: the tokenizer needs {error.args[0]!r}, which is not among them") from None
    made = Tokenizer.from_str(json.dumps(state))
    if made.get_vocab(with_added_tokens=True) != new:
        raise InvalidInput("the tokenizer's added tokens lie among its ids in a way that cannot be kept")
    return made


def _trim_model(model: dict[str, Any], new: Mapping[str, int]) -> None:
    if model["type"] == "Unigram":
        if model["unk_id"] is not None:
            model["unk_id"] = new[model["vocab"][model["unk_id"]][0]]
        model["vocab"] = [entry for entry in model["vocab"] if entry[0] in new]
        return
    if model["unk_token"] in model["vocab"]:
        new[model["unk_token"]]
    if model["type"] == "BPE":
        model["merges"] = Merges(model).kept(new.keys())
    model["vocab"] = {token: new[token] for token in model["vocab"] if token in new}


def _trim_template(processor: dict[str, Any], new: Mapping[str, int]) -> None:
    """Give the special tokens of a post-processor their new ids, in each of the forms that there are."""
    for part in processor.get("processors", ()):
        _trim_template(part, new)
    specials = processor.get("special_tokens", {})
    for special in specials.values():
        special["ids"] = [new[token] for token in special["tokens"]]
    for role in ("sep", "cls"):
        if role in processor:
            processor[role] = [processor[role][0], new[processor[role][0]]]
