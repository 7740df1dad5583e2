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
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer

from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.text import checked, choice, is_blank, positive_int, repaired
from secondpass.windows import Windows

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
class Plain:
    """Part of a template that is text whatever it contains, as what a client wrote is."""

    text: str


class Mark(Enum):
    """Part of a template that is no text.

    BORDER: what stands before and behind is tokenised by itself, as if each were a text of its own.
    INSTRUCTION: where a call's instruction stands (in a `ModelTemplate`).
    """

    BORDER = auto()
    INSTRUCTION = auto()


Spans = str | tuple[str | Plain | Mark, ...]
OwnSpecials = Literal["pair", "text", "none"]
NAMES = ("query_prefix", "query_suffix", "document_prefix", "document_suffix")
LAYOUT = ("document_first", "own_specials", "stripped")


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """What an operator writes around every query and every document of a call.

    The texts are the operator's word: special tokens in them are special, and they are read whole in every input,
    however long the texts between them are. Never put there what a user wrote, unless as `Plain`.

    Args:
        query_prefix, query_suffix, document_prefix, document_suffix: texts, or tuples of texts, `Plain` and `Mark`.
        document_first: the document and what is around it come before the query.
        own_specials: the tokenizer's own special tokens stand around "pair", the two as two texts; around both as one
            "text"; or there are "none" of them.
        stripped: blanks at the ends of the users' texts are not read.

    Raises:
        InvalidInput: a part is no str and no tuple of such spans; the message names it.
    """

    query_prefix: Spans = ""
    query_suffix: Spans = ""
    document_prefix: Spans = ""
    document_suffix: Spans = ""
    document_first: bool = False
    own_specials: OwnSpecials = "pair"
    stripped: bool = False

    def __post_init__(self) -> None:
        for name in NAMES:
            spans = getattr(self, name)
            if not isinstance(spans, tuple):
                checked(spans, name)
            elif not all(isinstance(span, (str, Plain, Mark)) for span in spans):
                raise InvalidInput(f"{name} has a part that is no str, Plain or Mark")
        choice(self.own_specials, ("pair", "text", "none"), "own_specials")

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in NAMES) or self != PromptTemplate()

    def parted(self, change: Callable[[tuple[str | Plain | Mark, ...]], Spans]) -> PromptTemplate:
        """The template with each of its four parts, as a tuple, changed."""
        parts: dict[str, Any] = {name: change(_spans(getattr(self, name))) for name in NAMES}
        return replace(self, **parts)


def _spans(spans: Spans) -> tuple[str | Plain | Mark, ...]:
    return (spans,) * bool(spans) if isinstance(spans, str) else spans


@dataclass(frozen=True, slots=True)
class ModelTemplate:
    """What a model was trained to read around every query and document.

    Args:
        plain: the template of a call without an instruction; a default one of the model is written in it.
        instructed: that of a call with one, `Mark.INSTRUCTION` where it stands; None where there is no place for it.
        default_instruction: the one that is written in `plain`.
        window: the longest input in tokens that its publisher reads; None leaves it to model and tokenizer.
        truncation: what is cut where a call and the model's owner say nothing.
        query_share: numerator and denominator of the share that a long query may take of the window beside a document
            that is long too, the plain text around both included; None is half of what is left for both.
    """

    plain: PromptTemplate
    instructed: PromptTemplate | None = None
    default_instruction: str | None = None
    window: int | None = None
    truncation: Truncation = "only_document"
    query_share: tuple[int, int] | None = None

    def rendered(self, instruction: str | None = None, inside: PromptTemplate | None = None) -> PromptTemplate:
        """The template of a call; `instruction` is plain text, blank is none; `inside` stands next to the user's texts.

        Raises:
            InvalidInput: there is an instruction and no place for one, or `inside` has a rule of its own.
        """
        whole = self.plain
        if instruction and not is_blank(instruction):
            if self.instructed is None:
                raise InvalidInput(NO_PLACE)
            whole = self.instructed.parted(lambda spans: filled(spans, (Plain(instruction),), Mark.INSTRUCTION))
        if not inside:
            return whole
        for name in LAYOUT:
            if (wish := getattr(inside, name)) not in (getattr(PromptTemplate(), name), getattr(whole, name)):
                raise InvalidInput(f"template: {name}={wish!r}, where the model's own template rules")
        joined: dict[str, Any] = {name: _spans(getattr(whole, name)) for name in NAMES}
        for name in NAMES:
            own = _spans(getattr(inside, name))
            joined[name] = joined[name] + own if name.endswith("prefix") else own + joined[name]
        return replace(whole, **joined)


# In words that are true at every door.
NO_PLACE = "instruction: this model's input has no place for one; put the text in front of the query instead"


def filled(
    spans: tuple[str | Plain | Mark, ...], given: tuple[str | Plain | Mark, ...], slot: str | Mark = "{instruction}"
) -> tuple[str | Plain | Mark, ...]:
    """`given` in place of every `slot`; texts that stand side by side are one."""
    filled: list[str | Plain | Mark] = []
    for span in spans:
        if span is slot:
            filled += given
        elif isinstance(span, str) and isinstance(slot, str):
            first, *rest = span.split(slot)
            filled += [first, *(piece for text in rest for piece in (*given, text))]
        else:
            filled.append(span)
    made: list[str | Plain | Mark] = []
    for span in filled:
        if isinstance(span, str) and made and isinstance(made[-1], str):
            made[-1] += span
        elif span != "":
            made.append(span)
    return tuple(made)


@dataclass(frozen=True, slots=True)
class Frame:
    """One side of a `PromptTemplate` for one tokenizer: [before] prefix + text + suffix [behind].

    `before` and `behind` are ids and end and begin with a special token, or are empty; `prefix` and `suffix` are plain
    text that is encoded in one piece with the user's. `strips_left` and `strips_right`: the special token next to the
    user's text swallows blanks, and there are none but the user's. `inner`: the piece with the user's text stands not
    at the beginning of a text. `tokens` is the length of all around an empty text.
    """

    before: Ids
    prefix: str
    suffix: str
    behind: Ids
    strips_left: bool = False
    strips_right: bool = False
    tokens: int = 0
    inner: bool = False
    stripped: bool = False

    @property
    def alone(self) -> bool:
        """Whether the user's text is encoded as if nothing stood around it."""
        return not any(self.around_user)

    @property
    def around_user(self) -> tuple[str | bool, ...]:
        """All that the ids of the user's text and of the plain text next to it depend on."""
        return (self.prefix, self.suffix, self.inner, self.strips_left, self.strips_right, self.stripped)

    @property
    def fixed(self) -> int:
        """How many tokens are there whatever the text is."""
        return len(self.before) + len(self.behind)

    def around(self, text: str) -> tuple[str, int, int]:
        """-> the piece that is encoded, and where the user's text begins and ends in it."""
        before, behind = self.prefix, self.suffix
        text = text.strip() if self.stripped else text
        if self.strips_left:
            text = text.lstrip(WHITE)
            behind = behind if text else behind.lstrip(WHITE)
        if self.strips_right:
            text = text.rstrip(WHITE)
            before = before if text else before.rstrip(WHITE)
        return f"{before}{text}{behind}", len(before), len(before) + len(text)


Encode = Callable[[str, bool], Ids]
"""A piece of text, and whether it stands behind a special token, to its ids; special tokens in it are text."""


Specials = Mapping[str, tuple[int, AddedToken]]
"""Every special token with its id, by what is written."""
_Border = tuple[int, AddedToken] | None
"""A special token, or what only keeps apart."""


def frames_of(template: PromptTemplate, specials: Specials, encode: Encode) -> tuple[Frame, Frame]:
    """Take an operator's texts around the query and around the document apart at their special tokens.

    Whether one that must be a word by itself (`single_word`) is, goes by what the operator wrote alone. `encode` is
    that of the tokenizer whose tokens these are.
    """
    parts = [_pieces(getattr(template, name), specials) for name in NAMES]
    before, between, start, behind = parts[2:] + parts[:2] if template.document_first else parts
    apart = template.own_specials == "pair"
    if start.marks and not apart:
        # up to its last mark the second side's beginning is the end of the first's
        pieces = [*between.pieces[:-1], between.pieces[-1] + start.pieces[0], *start.pieces[1:-1], ""]
        between, start = _Pieces(pieces, between.marks + start.marks), _Pieces(start.pieces[-1:], [])
    first, border, touching = _frame(before, between, encode, None, False)
    second, _, _ = _frame(start, behind, encode, None if apart else border, touching and not apart)
    first, second = (replace(frame, stripped=template.stripped) for frame in (first, second))
    return (second, first) if template.document_first else (first, second)


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Texts, and the borders and special tokens between them."""

    pieces: list[str]
    marks: list[_Border]

    def __post_init__(self) -> None:
        """Take off the blanks that special tokens swallow."""
        for place, mark in enumerate(self.marks):
            if mark is not None and mark[1].lstrip:
                self.pieces[place] = self.pieces[place].rstrip(WHITE)
            if mark is not None and mark[1].rstrip:
                self.pieces[place + 1] = self.pieces[place + 1].lstrip(WHITE)


def _pieces(spans: Spans, specials: Specials) -> _Pieces:
    pieces: list[str] = [""]
    marks: list[_Border] = []
    for span in _spans(spans):
        if isinstance(span, Mark):
            marks.append(None)
            pieces.append("")
            continue
        texts, found = ([span.text], []) if isinstance(span, Plain) else _at_specials(repaired(span), specials)
        pieces[-1] += repaired(texts[0])
        pieces += texts[1:]
        marks += [specials[content] for content in found]
    return _Pieces(pieces, marks)


def _frame(
    prefix: _Pieces, suffix: _Pieces, encode: Encode, border: _Border, inner: bool
) -> tuple[Frame, _Border, bool]:
    """One side behind `border`, which is the last thing before it, or behind text (`inner`); and the same behind it."""
    before: list[Ids] = []
    if border is not None and border[1].rstrip:
        prefix.pieces[0] = prefix.pieces[0].lstrip(WHITE)
    for piece, mark in zip(prefix.pieces, prefix.marks, strict=False):
        before += [encode(piece, inner), ids_of(() if mark is None else (mark[0],))]
        border, inner = mark, mark is not None
    left, right, begins_inner = prefix.pieces[-1], suffix.pieces[0], inner
    strips_left = border is not None and border[1].rstrip and not left
    strips_right = bool(suffix.marks) and suffix.marks[0] is not None and suffix.marks[0][1].lstrip and not right
    tokens = len(encode(left + right, inner))
    behind: list[Ids] = []
    border, inner = None, True
    for mark, piece in zip(suffix.marks, suffix.pieces[1:], strict=True):
        border, inner = mark, mark is not None
        behind += [ids_of(() if mark is None else (mark[0],)), encode(piece, inner)]
    if suffix.pieces[-1]:
        border, inner = None, True
    fixed = [np.concatenate([ids_of([]), *parts]) for parts in (before, behind)]
    tokens += len(fixed[0]) + len(fixed[1])
    return Frame(fixed[0], left, right, fixed[1], strips_left, strips_right, tokens, begins_inner), border, inner


def _at_specials(text: str, specials: Specials) -> tuple[list[str], list[str]]:
    """The texts between special tokens, and those tokens: of overlapping ones the first, of these the longest."""
    if not specials:
        return [text], []
    longest_first = sorted(specials, key=len, reverse=True)
    split = re.split(f"({'|'.join(_pattern(specials[content][1]) for content in longest_first)})", text)
    return split[::2], split[1::2]


def _pattern(token: AddedToken) -> str:
    return rf"(?<!\w){re.escape(token.content)}(?!\w)" if token.single_word else re.escape(token.content)


# ---- What is read of texts that are too long: which of the two loses, how much, and at which end.
#
# A policy sees numbers of tokens, never texts: `secondpass.tokens` applies it to what users bring. What an operator
# writes around their texts is not in these numbers, so it is never cut.
Truncation = Literal["longest_first", "only_document", "error", "windows"]
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


def cut_only_document(query: int, document: int, room: int, most: int | None = None) -> tuple[int, int]:
    """Lengths kept when only the document is cut; a query beyond `most`, else half the window, is cut to that."""
    if query + document <= room:
        return query, document
    kept = min(query, max(room // 2 if most is None else most, room - document))
    return kept, min(document, room - kept)


# "error" needs to know what would be lost.
SHARINGS: Mapping[Truncation, Sharing] = {
    "longest_first": cut_longest_first,
    "only_document": cut_only_document,
    "error": cut_longest_first,
    "windows": cut_only_document,
}
TRUNCATIONS: tuple[Truncation, ...] = tuple(SHARINGS)


@dataclass(frozen=True, slots=True)
class CutPolicy:
    """How the texts of one call are cut.

    Args:
        truncation: "longest_first" cuts the longer text, "only_document" spares the query, "error" refuses, "windows"
            spares the query and reads the document in several inputs.
        keep_tail: which end stays of a text that is cut; None takes the tokenizer's own (`truncation_side`).
        max_document_tokens: of a document only so many first tokens are read, whatever the window has room for; a
            number as large as the window has no effect. This cut is a wish, which "error" does not refuse.
        max_query_tokens: the same of a query.
        max_tokens: of a pair, special tokens included, no more is read, whatever the window has room for.
        query_share: what a long query may take under "only_document", as `ModelTemplate` says; None is its model's.
        windows: how documents are read under "windows"; None is `Windows()` there.

    Raises:
        InvalidInput: an argument is refused; the message names it.
    """

    truncation: Truncation = "longest_first"
    keep_tail: bool | None = None
    max_document_tokens: int | None = None
    max_query_tokens: int | None = None
    max_tokens: int | None = None
    query_share: tuple[int, int] | None = None
    windows: Windows | None = None

    def __post_init__(self) -> None:
        if self.truncation == "windows" and self.windows is None:
            object.__setattr__(self, "windows", Windows())
        if self.windows is not None and self.truncation != "windows":
            raise InvalidInput(f"windows= is given, and truncation={self.truncation!r} reads none")
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
        if is_document and self.windows is not None:
            return most
        return most if most is not None and most < max_length else None

    def parts(
        self, lengths: tuple[int, ...], room: int, keep_tail: bool, beside: tuple[int, int] = (0, 0)
    ) -> tuple[slice, ...]:
        """Which tokens an input reads of each text: of a query and a document, or of a document alone.

        `lengths` are what may be read, `keep_tail` is the end that stays where the policy names none, `beside` are the
        tokens of a template that count for the query's share, all of them and those next to the query. Under "windows"
        they are those of the first input, as long as it may be.
        """
        if len(lengths) == 1:
            kept: tuple[int, ...] = (min(lengths[0], room),)
        else:
            query, document = lengths
            if self.windows is not None:
                document = min(document, self.windows.tokens or document)
            kept = SHARINGS[self.truncation](query, document, room)
            if self.truncation in ("only_document", "windows") and self.query_share is not None:
                share, of = self.query_share
                # without a token of the document in each window there would be no end of them
                most = min(room - bool(self.windows), max(1, -(-share * (room + beside[0]) // of) - beside[1]))
                kept = cut_only_document(query, document, room, most)
        tail = keep_tail if self.keep_tail is None else self.keep_tail
        if tail:
            return tuple(slice(length - most, length) for length, most in zip(lengths, kept, strict=True))
        return tuple(slice(0, most) for most in kept)


def policy_of(truncation: Truncation | Windows | CutPolicy) -> CutPolicy:
    """A name stands for the policy that has no other wish; raises InvalidInput where it is none."""
    if isinstance(truncation, Windows):
        return CutPolicy("windows", windows=truncation)
    return truncation if isinstance(truncation, CutPolicy) else CutPolicy(truncation)
