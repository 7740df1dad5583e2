"""Text to token ids: a private tokenizer, the query encoded once, our own cut.

`transformers` writes truncation and padding onto the shared tokenizer at every call, so threads silently get
each other's settings. Here a private `tokenizers.Tokenizer` is configured once and never again: it encodes
without special tokens, truncation or padding; cutting and the template (`secondpass.inputs`) are done on plain
integers. Special tokens inside a user's text are text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tokenizers import AddedToken, Encoding, Tokenizer

from secondpass.errors import InvalidInput, TooLong
from secondpass.inputs import (
    WHITE,
    CutPolicy,
    Frame,
    Ids,
    PromptTemplate,
    Template,
    Truncation,
    frames_of,
    ids_of,
    policy_of,
    probe_template,
)
from secondpass.record import Cut
from secondpass.text import Text, places_of_repaired, prepared
from secondpass.token_cache import TokenCache, identity_of
from secondpass.windows import Located, Windows

# Encodings carry offsets and words: a hundred thousand documents at once would need gigabytes.
ENCODE_CHUNK = 1024
# Templates kept taken apart; an operator has one or two, a caller who writes one for each query has many.
MOST_FRAMES, MOST_TOKENS = 64, 2**16
SURROGATES = re.compile("[\ud800-\udfff]")
NO_IDS = ids_of([])
NO_FRAME = Frame(NO_IDS, "", "", NO_IDS)


@dataclass(frozen=True, slots=True)
class Tokens:
    """One model input: `ids` and `type_ids` int32 [length], special tokens included; `cut` if it lost any.

    `empty` tells of each of its texts whether the tokenizer makes no token of it. Of a document that is read in windows
    this is the first, `span` the characters of the document that it reads, and `others` are the rest.
    """

    ids: Ids
    type_ids: Ids
    cut: Cut | None = None
    empty: tuple[bool, ...] = (False, False)
    span: tuple[int, int] | None = None
    others: tuple[Tokens, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


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
    return {number: ids_of([piece.id for piece in pieces]) for number, pieces in letters.items()}


class TextTokenizer:
    """A private tokenizer of texts alone: no special tokens, nothing cut, nothing padded; for any number of threads.

    Args:
        rules: the tokenizer as JSON (`tokenizers.Tokenizer.to_str`, the content of a tokenizer.json), or one that
            nobody else has.
    """

    def __init__(self, rules: str | Tokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(rules) if isinstance(rules, str) else rules
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Special tokens in texts are text in a copy too: `tokenizers` leaves that switch behind."""
        self.__dict__.update(state, _behind_special=None)
        self._tokenizer.encode_special_tokens = True

    def encodings(self, texts: Sequence[Text]) -> Iterator[Encoding]:
        """One for each text, without offsets; encoded in parallel a bounded chunk at a time."""
        for start in range(0, len(texts), ENCODE_CHUNK):
            chunk = [text.value for text in texts[start : start + ENCODE_CHUNK]]
            yield from self._tokenizer.encode_batch_fast(chunk, add_special_tokens=False)

    def token_ends(self, text: str) -> list[int]:
        """The place in `text` where each of its tokens ends, never falling."""
        ends: list[int] = []
        (encoding,) = self._tokenizer.encode_batch([SURROGATES.sub("\ufffd", text)], add_special_tokens=False)
        for _, end in encoding.offsets:
            ends.append(max(end, ends[-1] if ends else 0))
        return ends


@dataclass(frozen=True, slots=True)
class FramedIds:
    """Token ids of a user's text, with `head` and `tail` tokens around it that are (partly) an operator's."""

    ids: Ids
    head: int = 0
    tail: int = 0

    def __len__(self) -> int:
        """How many are the user's."""
        return len(self.ids) - self.head - self.tail

    @property
    def own(self) -> Ids:
        """The user's tokens alone."""
        return self.ids[self.head : len(self.ids) - self.tail]

    def part(self, kept: slice) -> Ids:
        """`kept` of the user's tokens, with all of the operator's."""
        end = len(self.ids) - self.tail
        return np.concatenate([self.ids[: self.head], self.own[kept], self.ids[end:]])

    def window(self, kept: slice, head: Ids, tail: Ids) -> Ids:
        """`kept` of the user's tokens between the operator's; inside the text those are `head` and `tail`.

        Its own have characters of where the text begins and ends, which are not where the window does. They stay where
        they are fewer, so that a window is never longer than the text would be.
        """
        end = len(self.ids) - self.tail
        first, last = self.ids[: self.head], self.ids[end:]
        before = first if kept.start == 0 or len(head) > len(first) else head
        behind = last if kept.stop == len(self) or len(tail) > len(last) else tail
        return np.concatenate([before, self.own[kept], behind])


def _cut(index: int, lost: Sequence[int], skipped: Sequence[int]) -> Cut | None:
    gone = any(lost) or any(skipped)
    return Cut(index, lost[0] if len(lost) == 2 else 0, lost[-1], sum(skipped)) if gone else None


@dataclass(frozen=True, slots=True)
class _Fitting:
    """What is the same for all inputs of a call: templates, policy, and the room for texts in tokens."""

    template: Template
    frames: tuple[Frame, ...]
    policy: CutPolicy
    keep_tail: bool
    max_length: int
    room: int
    document_first: bool = False

    def prepared(self, text: str, is_document: bool) -> Text:
        """Cap at the ceiling, at the end that loses anyway."""
        windows = self.policy.windows
        if is_document and windows is not None:
            most = None if windows.most is None or windows.select != "first" else windows.most * self.max_length
            heads = [tokens for tokens in (most, self.policy.max_document_tokens) if tokens is not None]
            return prepared(text, min(heads, default=len(text) + 1))
        from_head = self.policy.head(self.max_length, is_document) is not None
        return prepared(text, self.max_length, self.keep_tail and not from_head)

    def tokens(
        self, index: int, texts: tuple[FramedIds, ...], skipped: tuple[int, ...], located: Callable[[int], Located]
    ) -> Tokens:
        """The input of pair `index`, cut where it must be; `skipped` characters of each text are not in `texts`.

        `located` tells where the tokens of a document stand, asked only where it is read in several windows.
        """
        room = self.room - sum(text.head + text.tail for text in texts)
        # beside a template a short text may be part of a token that is the operator's too
        empty = tuple(frame.alone and not len(text) for frame, text in zip(self.frames, texts, strict=True))
        # A single text is a document: nothing else is in the window.
        heads = [self.policy.head(self.max_length, place == len(texts) - 1) for place in range(len(texts))]
        windows = self.policy.windows
        one = windows is None or len(texts[-1]) <= (windows.tokens or room)
        if one and sum(map(len, texts)) <= room and not any(skipped) and not any(heads):
            return Tokens(*self._filled([text.ids for text in texts]), None, empty)
        usable = [min(len(text), head or len(text)) for text, head in zip(texts, heads, strict=True)]
        if sum(usable) > room and room < len(texts):
            raise InvalidInput(
                f"a window of {self.max_length} tokens (max_length) leaves no room for the texts of pair {index} "
                f"{self._beside()}"
            )
        beside = self.room - room + len(self.frames[0].behind) + len(self.frames[-1].before)
        parts = self.policy.parts(tuple(usable), room, self.keep_tail, (beside, texts[0].head + texts[0].tail))
        if windows is not None:
            return self._in_windows(windows, index, texts, parts, usable[-1], skipped, empty, located)
        lost = [len(text) - (part.stop - part.start) for text, part in zip(texts, parts, strict=True)]
        if self.policy.truncation == "error":
            # A head that was asked for is no loss.
            unread = sum(count for count, head in zip(skipped, heads, strict=True) if head is None)
            if sum(usable) > room or unread:
                total = sum(usable) + self.max_length - room
                beyond = f" and {unread} characters more" if unread else ""
                over = max(0, sum(usable) - room)
                raise TooLong(f"pair {index} has {total} tokens{beyond}, {over} more than fit", (index,))
        kept = [text.part(part) for text, part in zip(texts, parts, strict=True)]
        return Tokens(*self._filled(kept), _cut(index, lost, skipped), empty)

    def _in_windows(
        self,
        windows: Windows,
        index: int,
        texts: tuple[FramedIds, ...],
        parts: tuple[slice, ...],
        count: int,
        skipped: tuple[int, ...],
        empty: tuple[bool, ...],
        located: Callable[[int], Located],
    ) -> Tokens:
        """The same, with the first `count` tokens of the document in as many inputs as it takes."""
        beside, document = parts[:-1], texts[-1]
        size = parts[-1].stop - parts[-1].start
        size = min(size, windows.tokens or size)
        read, inputs = [slice(0, count)], [document.part(slice(0, count))]
        spans: list[tuple[int, int] | None] = [None]
        if count > size or count < len(document) or skipped[-1]:
            place = located(index)
            if count:
                read = windows.parts(place.text, place.starts[:count], place.ends[:count], size)
            asked = texts[0].own[beside[0]] if beside else NO_IDS
            read = [read[number] for number in windows.chosen(asked, [document.own[part] for part in read])]
            spans = [place.span(part) for part in read]
            inputs = [document.window(part, place.head, place.tail) for part in read]
        seen = np.zeros(len(document), bool)
        for part in read:
            seen[part] = True
        lost = [len(text) - (part.stop - part.start) for text, part in zip(texts, beside, strict=False)]
        cut = _cut(index, [*lost, len(document) - int(seen.sum())], skipped)
        query = [text.part(part) for text, part in zip(texts, beside, strict=False)]
        first, *others = (
            Tokens(*self._filled([*query, ids]), cut, empty, span) for ids, span in zip(inputs, spans, strict=True)
        )
        return replace(first, others=tuple(others)) if others else first

    def _filled(self, texts: Sequence[Ids]) -> tuple[Ids, Ids]:
        whole = [
            np.concatenate([frame.before, ids, frame.behind]) if frame.fixed else ids
            for frame, ids in zip(self.frames, texts, strict=True)
        ]
        return self.template.fill(*(reversed(whole) if self.document_first else whole))

    def check_room(self) -> None:
        """Refuse a window that has no room for a token of each text."""
        if self.max_length - self.template.added - sum(frame.tokens for frame in self.frames) < len(self.frames):
            raise InvalidInput(
                f"a window of {self.max_length} tokens (max_length) leaves no room for text {self._beside()}"
            )

    def _beside(self) -> str:
        own = sum(frame.tokens for frame in self.frames)
        template = f" and the {own} tokens of the prompt template, an instruction included" if own else ""
        return f"beside the special tokens{template}"


class PairTokenizer(TextTokenizer):
    """Turns pairs of texts into `Tokens`; one object serves any number of threads.

    Only the rules of `fast`, a transformers fast tokenizer, are read; one with an `identity` is nobody else's and is
    used as it is. `cache` keeps the ids of documents and single texts; None encodes every text anew. It may be
    replaced: calls under way keep the one they began with.
    """

    def __init__(self, fast: Any, cache: TokenCache | None = None) -> None:
        identity: bytes | None = getattr(fast, "identity", None)
        rules = fast.backend_tokenizer if identity else fast.backend_tokenizer.to_str()
        super().__init__(rules)
        self.cache = cache
        self.identity = identity or identity_of(f"{fast.unk_token_id} {rules}")
        self._templates = {count: probe_template(self._tokenizer, count) for count in (1, 2)}
        self.keep_tail = fast.truncation_side == "left"
        # Unknown characters are honest: their token is no forgery.
        self._spelled = spelled_specials(self._tokenizer)
        self._spelled.pop(fast.unk_token_id, None)
        # no place for the ids above: the vocabulary as a dict of 250,000 pieces takes half a second
        self._is_special = np.zeros(max(self._spelled, default=-1) + 2, bool)
        self._is_special[list(self._spelled)] = True
        self._frames: dict[PromptTemplate, tuple[Frame, Frame]] = {}
        self._behind_special: Tokenizer | None = None

    def encode(self, texts: Sequence[Text]) -> Iterator[Ids]:
        """Token ids of each text without special tokens, encoded in parallel a bounded chunk at a time."""
        for encoding in self.encodings(texts):
            yield self._as_text(ids_of(encoding.ids))

    def pairs(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        max_length: int,
        truncation: Truncation | CutPolicy,
        template: PromptTemplate | None = None,
    ) -> list[Tokens]:
        """Tokens of (queries[i], documents[i]); a query that repeats is encoded once.

        Raises:
            TooLong: a pair is longer than `max_length` and may not be cut.
            InvalidInput: no room for any text.
        """
        fitting = self._fitting(2, max_length, truncation, template)
        unique = {query: fitting.prepared(query, False) for query in queries}
        read = dict(zip(unique, self._read(list(unique.values()), fitting.frames[0]), strict=True))
        texts = [fitting.prepared(document, True) for document in documents]
        found = self._read_documents(texts, fitting.frames[1])
        skipped = [(unique[query].skipped, text.skipped) for query, text in zip(queries, texts, strict=True)]
        located = self._locating(documents, texts, fitting.frames[1])
        inputs = ((read[query], ids) for query, ids in zip(queries, found, strict=True))
        return _inputs(fitting, inputs, skipped, located)

    def singles(self, texts: Sequence[str], max_length: int, truncation: Truncation | CutPolicy) -> list[Tokens]:
        """Tokens of inputs with one text each (the seed takes those too); raises as `pairs`."""
        fitting = self._fitting(1, max_length, truncation)
        ready = [fitting.prepared(text, True) for text in texts]
        found = self._read_documents(ready, NO_FRAME)
        located = self._locating(texts, ready, NO_FRAME)
        return _inputs(fitting, ((ids,) for ids in found), [(text.skipped,) for text in ready], located)

    def _fitting(
        self,
        texts: int,
        max_length: int,
        truncation: Truncation | CutPolicy,
        around: PromptTemplate | None = None,
    ) -> _Fitting:
        policy = policy_of(truncation)
        template, frames, document_first = self._templates[texts], (NO_FRAME,) * texts, False
        if around:
            template, frames, document_first = self._around(around), self.framed(around), around.document_first
        max_length = policy.window(max_length)
        keep_tail = self.keep_tail if policy.keep_tail is None else policy.keep_tail
        room = max_length - template.added - sum(frame.fixed for frame in frames)
        fitting = _Fitting(template, frames, policy, keep_tail, max_length, room, document_first)
        fitting.check_room()
        return fitting

    def _read(self, texts: Sequence[Text], frame: Frame) -> Iterator[FramedIds]:
        """Token ids of each text and of the plain text that the operator wrote next to it."""
        if frame.alone:
            yield from map(FramedIds, self.encode(texts))
            return
        tokenizer = self._inner() if frame.inner else self._tokenizer
        for start in range(0, len(texts), ENCODE_CHUNK):
            pieces = [frame.around(text.value) for text in texts[start : start + ENCODE_CHUNK]]
            encodings = tokenizer.encode_batch([piece for piece, _, _ in pieces], add_special_tokens=False)
            for (_, begin, end), encoding in zip(pieces, encodings, strict=True):
                yield self._parted(encoding, begin, end)

    def _locating(self, given: Sequence[str], texts: Sequence[Text], frame: Frame) -> Callable[[int], Located]:
        """Tells where the tokens of texts[index] stand in given[index]; each text is encoded once."""
        known: dict[str, Located] = {}

        def located(index: int) -> Located:
            text = given[index]
            if text not in known:
                known[text] = self._located(text[: len(text) - texts[index].skipped], texts[index].value, frame)
            return known[text]

        return located

    def _located(self, given: str, value: str, frame: Frame) -> Located:
        tokenizer = self._inner() if frame.inner else self._tokenizer
        piece, begin, end = (value, 0, len(value)) if frame.alone else frame.around(value)
        # `encode` lets no other thread run, for seconds where the text is long
        (encoding,) = tokenizer.encode_batch([piece], add_special_tokens=False)
        first, last = (0, len(encoding)) if frame.alone else _bounds(encoding, begin, end)
        counts = [len(self._spelled.get(number, (number,))) for number in encoding.ids[first:last]]
        # blanks at the ends may not be in the piece
        shift = value.find(piece[begin:end]) - begin
        offsets = np.array(encoding.offsets[first:last], np.intp).reshape(-1, 2).repeat(counts, axis=0) + shift
        starts, ends = np.maximum.accumulate(offsets, axis=0).T
        places = None if len(given) == len(value) else places_of_repaired(given)
        # a token with the last character of the prefix may have the blank before the text's own word
        around = self._piece(frame.prefix.rstrip(WHITE), frame.inner), self._piece(frame.suffix, True)
        return Located(value, starts, ends, places, *around)

    def _parted(self, encoding: Encoding, begin: int, end: int) -> FramedIds:
        """Tell the tokens of piece[begin:end] from those that have a character before or behind it."""
        ids = ids_of(encoding.ids)
        first, last = _bounds(encoding, begin, end)
        head, own, tail = (self._as_text(part) for part in (ids[:first], ids[first:last], ids[last:]))
        return FramedIds(np.concatenate([head, own, tail]), len(head), len(tail))

    def _read_documents(self, texts: Sequence[Text], frame: Frame) -> Iterator[FramedIds]:
        """The same, where texts that the cache knows cost nothing."""
        cache = self.cache
        if cache is None:
            yield from self._read(texts, frame)
            return
        identity = self.identity if frame.alone else identity_of(f"{self.identity.hex()} {frame.around_user!r}")
        for start in range(0, len(texts), ENCODE_CHUNK):
            chunk = texts[start : start + ENCODE_CHUNK]
            keys = cache.keys(identity, (text.value for text in chunk))
            found = [None if entry is None else _unpacked(entry, frame) for entry in cache.find(keys)]
            new = {key: text for key, text, ids in zip(keys, chunk, found, strict=True) if ids is None}
            read = dict(zip(new, self._read(list(new.values()), frame), strict=True))
            for key, ids in read.items():
                cache.keep(key, _packed(ids, frame))
            yield from (read[key] if ids is None else ids for key, ids in zip(keys, found, strict=True))

    def _around(self, template: PromptTemplate) -> Template:
        """The tokenizer's own special tokens around the two sides."""
        if template.own_specials == "pair":
            return self._templates[2]
        if template.own_specials == "none":
            return Template((NO_IDS,) * 3, (NO_IDS,) * 3, (0, 0))
        one = self._templates[1]
        (first, last), (begins, ends) = one.parts, one.special_types
        return Template((first, NO_IDS, last), (begins, NO_IDS, ends), one.text_types * 2)

    def framed(self, template: PromptTemplate) -> tuple[Frame, Frame]:
        """The template taken apart for queries and for documents."""
        found = self._frames.get(template)
        if found is None:
            decoder: Mapping[int, AddedToken] = self._tokenizer.get_added_tokens_decoder()
            specials = {token.content: (number, token) for number, token in decoder.items() if token.special}
            found = frames_of(template, specials, self._piece)
            if len(self._frames) >= MOST_FRAMES:
                self._frames.clear()
            # one that no window has room for is refused, not kept
            if sum(frame.tokens for frame in found) < MOST_TOKENS:
                self._frames[template] = found
        return found

    def _piece(self, text: str, inner: bool) -> Ids:
        tokenizer = self._inner() if inner else self._tokenizer
        return self._as_text(ids_of(tokenizer.encode(text, add_special_tokens=False).ids))

    def _inner(self) -> Tokenizer:
        """For what stands behind a special token: Metaspace's "first" puts its sign at the very beginning only."""
        if self._behind_special is None:
            rules = self._tokenizer.to_str()
            made = self._tokenizer
            if '"first"' in rules:
                made = TextTokenizer(json.dumps(json.loads(rules, object_hook=_never_first)))._tokenizer
            self._behind_special = made
        return self._behind_special

    def _as_text(self, ids: Ids) -> Ids:
        """Spell out special tokens: whatever a user wrote is text."""
        if not self._is_special.take(ids, mode="clip").any():
            return ids
        return np.concatenate([self._spelled.get(int(number), ids_of([number])) for number in ids])


def _bounds(encoding: Encoding, begin: int, end: int) -> tuple[int, int]:
    """Which tokens have characters of piece[begin:end] alone."""
    offsets = encoding.offsets
    first = next((place for place, (start, _) in enumerate(offsets) if start >= begin), len(offsets)) if begin else 0
    return first, next((place for place in range(first, len(offsets)) if offsets[place][1] > end), len(offsets))


def _inputs(
    fitting: _Fitting,
    texts: Iterator[tuple[FramedIds, ...]],
    skipped: Sequence[tuple[int, ...]],
    located: Callable[[int], Located],
) -> list[Tokens]:
    """The inputs; where cutting is refused the error names all pairs that are too long."""
    made: list[Tokens] = []
    refused: list[TooLong] = []
    for index, (one, lost) in enumerate(zip(texts, skipped, strict=True)):
        try:
            made.append(fitting.tokens(index, one, lost, located))
        except TooLong as error:
            refused.append(error)
    if refused:
        raise TooLong(str(refused[0]), tuple(index for error in refused for index in error.indices))
    return made


def _packed(text: FramedIds, frame: Frame) -> Ids:
    return text.ids if frame.alone else np.concatenate([ids_of([text.head, text.tail]), text.ids])


def _unpacked(entry: Ids, frame: Frame) -> FramedIds:
    return FramedIds(entry) if frame.alone else FramedIds(entry[2:], int(entry[0]), int(entry[1]))


def _never_first(rules: dict[str, Any]) -> dict[str, Any]:
    return rules | {"prepend_scheme": "never"} if rules.get("prepend_scheme") == "first" else rules
