"""What stands around the texts of an input, and what is read of them: templates and cut policies.

Around them are the tokenizer's special tokens, and what an operator writes.

An operator's text (an instruction, a chat template's turns) is part of the template: it is never cut, and special
tokens in it are special. A user's text is a text, whatever it contains.

The ids are those of `tokenizers` for prefix + text + suffix in one piece. A special token is a hard border there: what
stands before and behind it is normalised, split and encoded by itself. So an operator's text is taken apart at its
special tokens; those are ids, and only the pieces next to the user's text are encoded together with it. Which tokens of
that piece are the user's is told by their offsets; a token with characters of both belongs to the template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer

from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.text import checked, positive_int, repaired

Ids = npt.NDArray[np.int32]
# What a special token with `lstrip` or `rstrip` swallows: Unicode's White_Space, as Rust has it (Python's \s has more).
WHITE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"


def ids_of(values: Sequence[int]) -> Ids:
    """int32 [length]."""
    return np.asarray(values, dtype=np.int32)


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


def probe_template(tokenizer: Tokenizer, texts: int) -> Template:
    """Read the template of `texts` (1 or 2) texts off the tokenizer's own post-processor.

    Raises:
        ModelLoadError: plain words have no tokens, or the post-processor does more than put special ones around them.
    """
    encodings = [tokenizer.encode(word, add_special_tokens=False) for word in ("a b", "c")[:texts]]
    if not all(map(len, encodings)):
        raise ModelLoadError("the tokenizer makes no token of 'a b' or 'c': its rules and its vocabulary do not agree")
    merged = tokenizer.post_process(encodings[0], encodings[1] if texts == 2 else None, add_special_tokens=True)
    places = [place for place, special in enumerate(merged.special_tokens_mask) if not special]
    bounds = []
    for encoding in encodings:
        own, places = places[: len(encoding)], places[len(encoding) :]
        bounds.append((own[0], own[-1] + 1))
    edges = [0, *(edge for bound in bounds for edge in bound), len(merged)]
    gaps = list(zip(edges[::2], edges[1::2], strict=True))
    template = Template(
        tuple(ids_of(merged.ids[start:end]) for start, end in gaps),
        tuple(ids_of(merged.type_ids[start:end]) for start, end in gaps),
        tuple(merged.type_ids[start] for start, _ in bounds),
    )
    ids, types = template.fill(*(ids_of(encoding.ids) for encoding in encodings))
    if ids.tolist() != merged.ids or types.tolist() != merged.type_ids:
        raise ModelLoadError("the tokenizer's post-processor is not a template of special tokens")
    return template


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """What an operator writes around every query and every document of a call.

    The texts are the operator's word: special tokens in them are special, and they are read whole in every input,
    however long the texts between them are. Never put there what a user wrote.

    Raises:
        InvalidInput: a part is no str; the message names it.
    """

    query_prefix: str = ""
    query_suffix: str = ""
    document_prefix: str = ""
    document_suffix: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            checked(getattr(self, field.name), field.name)

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class Frame:
    """One side of a `PromptTemplate` for one tokenizer: [before] prefix + text + suffix [behind].

    `before` and `behind` are ids and end and begin with a special token, or are empty; `prefix` and `suffix` are plain
    text that is encoded in one piece with the user's. `strips_left` and `strips_right`: the special token next to the
    user's text swallows blanks, and there are none but the user's. `tokens` is the length of all around an empty text.
    """

    before: Ids
    prefix: str
    suffix: str
    behind: Ids
    strips_left: bool = False
    strips_right: bool = False
    tokens: int = 0

    @property
    def alone(self) -> bool:
        """Whether the user's text is encoded as if nothing stood around it."""
        return not (self.prefix or self.suffix or self.inner or self.strips_left or self.strips_right)

    @property
    def inner(self) -> bool:
        """Whether the piece with the user's text stands behind a special token, not at the beginning."""
        return len(self.before) > 0

    @property
    def fixed(self) -> int:
        """How many tokens are there whatever the text is."""
        return len(self.before) + len(self.behind)

    def around(self, text: str) -> tuple[str, int, int]:
        """-> the piece that is encoded, and where the user's text begins and ends in it."""
        before, behind = self.prefix, self.suffix
        if self.strips_left:
            text = text.lstrip(WHITE)
            behind = behind if text else behind.lstrip(WHITE)
        if self.strips_right:
            text = text.rstrip(WHITE)
            before = before if text else before.rstrip(WHITE)
        return f"{before}{text}{behind}", len(before), len(before) + len(text)


Encode = Callable[[str, bool], Ids]
"""A piece of text, and whether it stands behind a special token, to its ids; special tokens in it are text."""


def frame_of(prefix: str, suffix: str, specials: Mapping[str, tuple[int, AddedToken]], encode: Encode) -> Frame:
    """Take an operator's texts before and behind the user's apart at their special tokens.

    Whether one that must be a word by itself (`single_word`) is, goes by what the operator wrote alone. `specials` has
    every special token with its id, by what is written; `encode` is that of the tokenizer whose tokens these are.
    """
    pieces, marks = _at_specials(repaired(prefix), specials)
    before: list[Ids] = []
    for place, mark in enumerate(marks):
        before += [encode(pieces[place], place > 0), ids_of([specials[mark][0]])]
    strips_left = bool(marks) and specials[marks[-1]][1].rstrip and not pieces[-1]
    left = pieces[-1]
    pieces, marks = _at_specials(repaired(suffix), specials)
    behind: list[Ids] = []
    for place, mark in enumerate(marks):
        behind += [ids_of([specials[mark][0]]), encode(pieces[place + 1], True)]
    strips_right = bool(marks) and specials[marks[0]][1].lstrip and not pieces[0]
    fixed = _joined(before), _joined(behind)
    tokens = len(fixed[0]) + len(encode(left + pieces[0], bool(before))) + len(fixed[1])
    return Frame(fixed[0], left, pieces[0], fixed[1], strips_left, strips_right, tokens)


def _joined(parts: Sequence[Ids]) -> Ids:
    return np.concatenate([ids_of([]), *parts])


def _at_specials(text: str, specials: Mapping[str, tuple[int, AddedToken]]) -> tuple[list[str], list[str]]:
    """The pieces between special tokens, and those tokens: of overlapping ones the first, of these the longest."""
    if not specials:
        return [text], []
    longest_first = sorted(specials, key=len, reverse=True)
    split = re.split(f"({'|'.join(_pattern(specials[content][1]) for content in longest_first)})", text)
    pieces, marks = split[::2], split[1::2]
    for place, mark in enumerate(marks):
        token = specials[mark][1]
        if token.lstrip:
            pieces[place] = pieces[place].rstrip(WHITE)
        if token.rstrip:
            pieces[place + 1] = pieces[place + 1].lstrip(WHITE)
    return pieces, marks


def _pattern(token: AddedToken) -> str:
    return rf"(?<!\w){re.escape(token.content)}(?!\w)" if token.single_word else re.escape(token.content)


# ---- What is read of texts that are too long: which of the two loses, how much, and at which end.
#
# A policy sees numbers of tokens, never texts: `secondpass.tokens` applies it to what users bring. What an operator
# writes around their texts is not in these numbers, so it is never cut.
Truncation = Literal["longest_first", "only_document", "error"]
Sharing = Callable[[int, int, int], tuple[int, int]]
"""Tokens of a query and of a document, and the places for both together, to the tokens kept of each."""


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


# "error" needs to know what would be lost.
SHARINGS: Mapping[Truncation, Sharing] = {
    "longest_first": cut_longest_first,
    "only_document": cut_only_document,
    "error": cut_longest_first,
}
TRUNCATIONS: tuple[Truncation, ...] = tuple(SHARINGS)


@dataclass(frozen=True, slots=True)
class CutPolicy:
    """How the texts of one call are cut.

    Args:
        truncation: "longest_first" cuts the longer text, "only_document" spares the query, "error" refuses.
        keep_tail: which end stays of a text that is cut; None takes the tokenizer's own (`truncation_side`).
        max_document_tokens: of a document only so many first tokens are read, whatever the window has room for; a
            number as large as the window has no effect. This cut is a wish, which "error" does not refuse.
        max_query_tokens: the same of a query.
        max_tokens: of a pair, special tokens included, no more is read, whatever the window has room for.

    Raises:
        InvalidInput: an argument is refused; the message names it.
    """

    truncation: Truncation = "longest_first"
    keep_tail: bool | None = None
    max_document_tokens: int | None = None
    max_query_tokens: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.truncation not in TRUNCATIONS:
            raise InvalidInput(f"truncation={self.truncation!r} is none of {', '.join(TRUNCATIONS)}")
        for name in ("max_document_tokens", "max_query_tokens", "max_tokens"):
            if getattr(self, name) is not None:
                positive_int(getattr(self, name), name)

    def window(self, max_length: int) -> int:
        """How many tokens of an input are read where the model reads `max_length`."""
        return min(max_length, self.max_tokens or max_length)

    def head(self, max_length: int, is_document: bool = True) -> int | None:
        """How many first tokens of a text may be read where the window has `max_length`; None is all."""
        most = self.max_document_tokens if is_document else self.max_query_tokens
        return most if most is not None and most < max_length else None

    def parts(self, lengths: tuple[int, ...], room: int, keep_tail: bool) -> tuple[slice, ...]:
        """Which tokens an input reads of each text: of a query and a document, or of a document alone.

        `lengths` are what may be read, `keep_tail` is the end that stays where the policy names none. One tuple is one
        input: a policy that reads a long document in windows would give several.
        """
        if len(lengths) == 1:
            kept: tuple[int, ...] = (min(lengths[0], room),)
        else:
            query, document = lengths
            kept = SHARINGS[self.truncation](query, document, room)
        tail = keep_tail if self.keep_tail is None else self.keep_tail
        if tail:
            return tuple(slice(length - most, length) for length, most in zip(lengths, kept, strict=True))
        return tuple(slice(0, most) for most in kept)


def policy_of(truncation: Truncation | CutPolicy) -> CutPolicy:
    """A name stands for the policy that has no other wish; raises InvalidInput where it is none."""
    return truncation if isinstance(truncation, CutPolicy) else CutPolicy(truncation)
