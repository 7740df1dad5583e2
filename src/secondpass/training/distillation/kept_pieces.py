"""Which pieces of a vocabulary to keep: those that texts use most, and all that others are spelled with.

Abdaoui et al. 2020, "Load What You Need" (https://arxiv.org/abs/2010.05609), which trims multilingual models so.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from tokenizers import Tokenizer

from secondpass.errors import InvalidInput
from secondpass.limits import positive_int
from secondpass.text import checked, prepared
from secondpass.tokens import TextTokenizer
from secondpass.training.distillation.merges import Merges

UNUSED = re.compile(r"[\[<|]*unused_?\d+[\]>|]*")
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# SentencePiece's sign for a space.
WORD_START = "▁"
CHUNK = 1024
# Of a text that is counted; the rest of a longer one would change no order.
LONGEST = 4096


def kept_ids(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    size: int,
    *,
    always: Collection[int] = (),
    characters: str | None = None,
) -> list[int]:
    """Ids of the tokens to keep, rising: at most `size`.

    Kept in any case are added and special tokens, `always`, and what others are spelled with: single characters (and
    every piece with a character that has no piece of its own) for WordPiece and Unigram, the symbols that merges start
    from for BPE. Then come the pieces that the texts use most, each with the pieces that its merges go through; the
    rest is filled with unused ones in the order of their ids, which is that of frequency in all common vocabularies.

    So a text whose pieces are all kept is cut into the same pieces as before, and another one into smaller pieces.

    Args:
        tokenizer: WordPiece, BPE or Unigram; not changed.
        texts: what will be read; any iterable.
        size: tokens at most.
        always: ids to keep in any case.
        characters: the only ones, for WordPiece and Unigram: a piece with another is kept only if the texts use it,
            and what cannot be spelled becomes unknown. None keeps all.

    Raises:
        InvalidInput: an argument is refused, or `size` is less than what must be kept; the message says how much.
    """
    model = json.loads(tokenizer.to_str())["model"]
    spelled = _SPELLED.get(model["type"])
    if spelled is None:
        raise InvalidInput(f"the tokenizer is {model['type']}, none of {', '.join(_SPELLED)}")
    if characters is not None and model["type"] == "BPE":
        raise InvalidInput("characters: BPE starts from the same symbols for all texts; they are all kept")
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    needed = set(tokenizer.get_added_tokens_decoder()) | set(always)
    pieces = (piece for piece in spelled(model, characters) if piece in vocabulary and not UNUSED.fullmatch(piece))
    needed |= {vocabulary[piece] for piece in pieces}
    unknown = needed - set(vocabulary.values())
    if unknown:
        raise InvalidInput(f"always: the tokenizer has no id {min(unknown)}")
    counts = _counted(tokenizer, texts)
    if len(needed) > positive_int(size, "size"):
        raise InvalidInput(f"size={size}: special tokens and characters alone are {len(needed)}")
    token_of = {number: token for token, number in vocabulary.items()}
    order = sorted(token_of, key=lambda number: (-counts[number], number))
    merges = Merges(model) if model["type"] == "BPE" else None
    for number in order:
        if len(needed) >= size:
            break
        if counts[number] == 0 and not _is_spare(token_of[number], model, characters):
            continue
        parts = {number} if merges is None else {vocabulary[part] for part in merges.parts(token_of[number])}
        if len(needed) + len(parts - needed) <= size:
            needed |= parts
    return sorted(needed)


def _counted(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[int]:
    """How often the texts use each id, special tokens in them read as text."""
    reading = TextTokenizer(tokenizer.to_str())
    counts: Counter[int] = Counter()
    stream: Iterator[tuple[int, str]] = enumerate(texts)
    while part := list(islice(stream, CHUNK)):
        chunk = [prepared(checked(text, f"texts[{place}]"), LONGEST) for place, text in part]
        for encoding in reading.encodings(chunk):
            counts.update(encoding.ids)
    return counts


def _wordpiece(model: Mapping[str, Any], characters: str | None) -> Iterator[str]:
    """The unknown token, every first or further character, and pieces with one that stands nowhere alone."""
    prefix, vocabulary = model["continuing_subword_prefix"], model["vocab"]
    yield model["unk_token"]
    for piece in vocabulary:
        inner = piece.startswith(prefix) and piece != prefix
        body = piece.removeprefix(prefix) if inner else piece
        alone = [letter if place == 0 and not inner else prefix + letter for place, letter in enumerate(body)]
        if _is_needed(body, alone, vocabulary, characters):
            yield piece


def _unigram(model: Mapping[str, Any], characters: str | None) -> Iterator[str]:
    """The same; and the piece with the lowest score, which unknown characters are scored by."""
    scores = {piece: score for piece, score in model["vocab"]}
    if model["unk_id"] is not None:
        yield model["vocab"][model["unk_id"]][0]
    yield min(scores, key=lambda piece: scores[piece])
    for piece in scores:
        if _is_needed(piece, list(piece), scores, characters) or (model["byte_fallback"] and BYTE.fullmatch(piece)):
            yield piece


def _bpe(model: Mapping[str, Any], characters: str | None) -> Iterator[str]:
    """The unknown token, and the symbols that no merge makes."""
    if model["unk_token"] is not None:
        yield model["unk_token"]
    merges = Merges(model)
    yield from (piece for piece in model["vocab"] if not merges.makes(piece))


def _is_spare(piece: str, model: Mapping[str, Any], characters: str | None) -> bool:
    """Tell whether a piece that no text uses may fill a place that is left."""
    if UNUSED.fullmatch(piece):
        return False
    marks = {WORD_START, *(model.get("continuing_subword_prefix") or "")}
    return characters is None or set(piece) <= marks | set(characters)


def _is_needed(body: str, alone: list[str], vocabulary: Collection[str], characters: str | None) -> bool:
    wanted = [characters is None or letter == WORD_START or letter in characters for letter in body]
    if len(body) == 1:
        return wanted[0]
    return any(one and piece not in vocabulary for one, piece in zip(wanted, alone, strict=True))


_SPELLED: dict[str, Callable[[Mapping[str, Any], str | None], Iterator[str]]] = {
    "WordPiece": _wordpiece,
    "BPE": _bpe,
    "Unigram": _unigram,
}
