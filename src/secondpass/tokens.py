"""Text to token ids: a private tokenizer, the query encoded once, our own cut.

`transformers` writes truncation and padding onto the shared tokenizer at every call, so threads silently get
each other's settings. Here a private `tokenizers.Tokenizer` is configured once and never again: it encodes
without special tokens, truncation or padding; cutting and the pair template are done on plain integers.
Special tokens inside a user's text are text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.record import Cut
from secondpass.text import Text, prepared
from secondpass.token_cache import TokenCache, identity_of

Ids = npt.NDArray[np.int32]
Truncation = Literal["longest_first", "only_document", "error"]
TRUNCATIONS: tuple[Truncation, ...] = ("longest_first", "only_document", "error")

# Encodings carry offsets and words: a hundred thousand documents at once would need gigabytes.
ENCODE_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Tokens:
    """One model input: `ids` and `type_ids` int32 [length], special tokens included; `cut` if it lost any.

    `empty` tells of each of its texts whether the tokenizer makes no token of it.
    """

    ids: Ids
    type_ids: Ids
    cut: Cut | None = None
    empty: tuple[bool, ...] = (False, False)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Template:
    """Special tokens around one or two texts, as ids, with the segment ids of every part."""

    parts: tuple[Ids, ...]
    special_types: tuple[Ids, ...]
    text_types: tuple[int, ...]

    @property
    def added(self) -> int:
        """How many special tokens there are."""
        return sum(map(len, self.parts))

    def fill(self, *texts: Ids) -> tuple[Ids, Ids]:
        """-> ids and type_ids of the whole input."""
        ids: list[Ids] = [self.parts[0]]
        types: list[Ids] = [self.special_types[0]]
        for number, text in enumerate(texts):
            ids += [text, self.parts[number + 1]]
            types += [np.full(len(text), self.text_types[number], np.int32), self.special_types[number + 1]]
        return np.concatenate(ids), np.concatenate(types)


def _ids(values: Sequence[int]) -> Ids:
    return np.asarray(values, dtype=np.int32)


def probe_template(tokenizer: Tokenizer, texts: int) -> Template:
    """Read the template of `texts` (1 or 2) texts off the tokenizer's own post-processor.

    Raises:
        ModelLoadError: the post-processor does more than put special tokens around the texts.
    """
    encodings = [tokenizer.encode(word, add_special_tokens=False) for word in ("a b", "c")[:texts]]
    merged = tokenizer.post_process(encodings[0], encodings[1] if texts == 2 else None, add_special_tokens=True)
    places = [place for place, special in enumerate(merged.special_tokens_mask) if not special]
    bounds = []
    for encoding in encodings:
        own, places = places[: len(encoding)], places[len(encoding) :]
        bounds.append((own[0], own[-1] + 1))
    edges = [0, *(edge for bound in bounds for edge in bound), len(merged)]
    gaps = list(zip(edges[::2], edges[1::2], strict=True))
    template = Template(
        tuple(_ids(merged.ids[start:end]) for start, end in gaps),
        tuple(_ids(merged.type_ids[start:end]) for start, end in gaps),
        tuple(merged.type_ids[start] for start, _ in bounds),
    )
    ids, types = template.fill(*(_ids(encoding.ids) for encoding in encodings))
    if ids.tolist() != merged.ids or types.tolist() != merged.type_ids:
        raise ModelLoadError("the tokenizer's post-processor is not a template of special tokens")
    return template


def spelled_specials(tokenizer: Tokenizer) -> dict[int, Ids]:
    """Ids of the special tokens, each with the ids of its characters.

    Unigram vocabularies list the special tokens as pieces (XLM-RoBERTa, DeBERTa-v3): a text that contains "</s>"
    matches the piece even where special tokens are text.
    """
    letters = {
        number: [piece for letter in token.content for piece in tokenizer.model.tokenize(letter)]
        for number, token in tokenizer.get_added_tokens_decoder().items()
        if token.special
    }
    return {number: _ids([piece.id for piece in pieces]) for number, pieces in letters.items()}


def cut_longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths kept of two texts: the longer one loses, then both share `room`, as `tokenizers` cuts."""
    if first + second <= room:
        return first, second
    short = min(first, second)
    long = max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if first > second else (short, long)


def cut_only_document(query: int, document: int, room: int) -> tuple[int, int]:
    """Lengths kept when only the document is cut; a query beyond half the window is cut to that half."""
    if query + document <= room:
        return query, document
    kept = min(query, max(room // 2, room - document))
    return kept, min(document, room - kept)


class PairTokenizer:
    """Turns pairs of texts into `Tokens`; one object serves any number of threads.

    Args:
        fast: a transformers fast tokenizer; only its rules are read, the object is left alone.
        cache: of the ids of documents and single texts; None encodes every text anew.
    """

    def __init__(self, fast: Any, cache: TokenCache | None = None) -> None:
        rules = fast.backend_tokenizer.to_str()
        self.cache = cache
        self._identity = identity_of(f"{fast.unk_token_id} {rules}")
        self._tokenizer = Tokenizer.from_str(rules)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self._templates = {count: probe_template(self._tokenizer, count) for count in (1, 2)}
        self._keep_tail = fast.truncation_side == "left"
        # Unknown characters are honest: their token is no forgery.
        self._spelled = spelled_specials(self._tokenizer)
        self._spelled.pop(fast.unk_token_id, None)
        self._is_special = np.zeros(max(self._tokenizer.get_vocab(True).values()) + 1, bool)
        self._is_special[list(self._spelled)] = True

    def encode(self, texts: Sequence[Text]) -> Iterator[Ids]:
        """Token ids of each text without special tokens, encoded in parallel a bounded chunk at a time."""
        for start in range(0, len(texts), ENCODE_CHUNK):
            chunk = [text.value for text in texts[start : start + ENCODE_CHUNK]]
            for encoding in self._tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
                yield self._as_text(_ids(encoding.ids))

    def encode_documents(self, texts: Sequence[Text]) -> Iterator[Ids]:
        """The same, where texts that the cache knows cost nothing."""
        cache = self.cache
        if cache is None:
            yield from self.encode(texts)
            return
        for start in range(0, len(texts), ENCODE_CHUNK):
            chunk = texts[start : start + ENCODE_CHUNK]
            keys = cache.keys(self._identity, (text.value for text in chunk))
            found = cache.find(keys)
            new = {key: text for key, text, ids in zip(keys, chunk, found, strict=True) if ids is None}
            encoded = dict(zip(new, self.encode(list(new.values())), strict=True))
            for key, ids in encoded.items():
                cache.keep(key, ids)
            yield from (encoded[key] if ids is None else ids for key, ids in zip(keys, found, strict=True))

    def _as_text(self, ids: Ids) -> Ids:
        """Spell out special tokens: whatever a user wrote is text."""
        if not self._is_special[ids].any():
            return ids
        return np.concatenate([self._spelled.get(int(number), _ids([number])) for number in ids])

    def pairs(
        self, queries: Sequence[str], documents: Sequence[str], max_length: int, truncation: Truncation
    ) -> list[Tokens]:
        """Tokens of (queries[i], documents[i]); a query that repeats is encoded once.

        Raises:
            InvalidInput: `truncation="error"` and a pair is longer than `max_length`, or no room for any text.
        """
        room = self._room(2, max_length)
        unique = {query: prepared(query, max_length, self._keep_tail) for query in queries}
        encoded = dict(zip(unique, self.encode(list(unique.values())), strict=True))
        texts = [prepared(document, max_length, self._keep_tail) for document in documents]
        cut = cut_only_document if truncation == "only_document" else cut_longest_first
        made = []
        for index, (query, ids) in enumerate(zip(queries, self.encode_documents(texts), strict=True)):
            lengths = cut(len(encoded[query]), len(ids), room)
            skipped = unique[query].skipped + texts[index].skipped
            made.append(self._fill(index, (encoded[query], ids), lengths, skipped, truncation == "error"))
        return made

    def singles(self, texts: Sequence[str], max_length: int, truncation: Truncation) -> list[Tokens]:
        """Tokens of inputs with one text each (the seed takes those too)."""
        room = self._room(1, max_length)
        ready = [prepared(text, max_length, self._keep_tail) for text in texts]
        return [
            self._fill(index, (ids,), (min(len(ids), room),), ready[index].skipped, truncation == "error")
            for index, ids in enumerate(self.encode_documents(ready))
        ]

    def _room(self, texts: int, max_length: int) -> int:
        room = max_length - self._templates[texts].added
        if room < texts:
            raise InvalidInput(f"max_length={max_length} leaves no room for text beside the special tokens")
        return room

    def _fill(self, index: int, texts: tuple[Ids, ...], lengths: tuple[int, ...], skipped: int, strict: bool) -> Tokens:
        lost = [len(text) - length for text, length in zip(texts, lengths, strict=True)]
        cut = None
        if any(lost) or skipped:
            if strict:
                total = sum(map(len, texts)) + self._templates[len(texts)].added
                beyond = f" and {skipped} characters more" if skipped else ""
                raise InvalidInput(f"pair {index} has {total} tokens{beyond}, {sum(lost)} more than fit")
            # A single text is a document: nothing else is in the window.
            cut = Cut(index, lost[0] if len(lost) == 2 else 0, lost[-1], skipped)
        kept = (
            text[len(text) - length :] if self._keep_tail else text[:length]
            for text, length in zip(texts, lengths, strict=True)
        )
        ids, types = self._templates[len(texts)].fill(*kept)
        return Tokens(ids, types, cut, tuple(not len(text) for text in texts))
