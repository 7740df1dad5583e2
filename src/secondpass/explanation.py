"""Why a document has its score: what becomes of the score when a sentence or a word is left out.

Leave-one-out (Li, Monroe and Jurafsky 2016, "Understanding Neural Networks through Representation Erasure"), not a
proof: what is said twice seems to count for nothing, of words that only count together each seems to count for all, and
a text with a hole is none that the model was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from itertools import pairwise, product
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from secondpass.activations import Activation
from secondpass.errors import InvalidInput
from secondpass.inputs import PromptTemplate, Truncation, policy_of
from secondpass.ranking import Ranked, Relevance, ranked
from secondpass.reranker import Call, Reranker
from secondpass.sentences import Span, sentences
from secondpass.text import (
    CHARACTERS_PER_TOKEN,
    UNSHOWABLE,
    checked,
    checked_query,
    positive_int,
    readable,
    whole_number,
)
from secondpass.tokens import Tokens
from secondpass.windows import Windows

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["Explanation", "TextPart", "explain", "left_out"]

Pair = tuple[str, str]

# The whole pair, an empty document, and one part of each text.
FEWEST = 4
# Han and kana are written without spaces: each is a word. A longer word than this is taken in pieces.
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\s{_IDEOGRAPHS}]{{1,40}}")
# A text cut inside a word may need some tokens more to be cut at the same place again.
_MORE = (0, 1, 2, 4, 8, 16)


def left_out(text: str, start: int, end: int) -> str:
    """The text without text[start:end]: of the white space on both sides the longer one stays, none at an end."""
    before, behind = text[:start], text[end:]
    left, right = before.rstrip(), behind.lstrip()
    if not left or not right:
        return left + right
    return left + max(before[len(left) :], behind[: len(behind) - len(right)], key=len) + right


@dataclass(frozen=True, slots=True)
class TextPart:
    """text[start:end] of a document or a query, which is `text`, and what the pair has without it.

    `contribution` is the logit of the pair minus `logit`, that of the pair in which `without` stands for the text;
    `score_contribution` is the same in scores. A part that is not `read` was not scored, and contributes 0.
    """

    start: int
    end: int
    text: str
    logit: float
    score: float
    contribution: float
    score_contribution: float
    read: bool = True
    without: str = field(default="", repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All fields but `without`, which `left_out` makes again."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "without"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What each part of a query and a document contributes to the logit, by leaving it out.

    Attributes:
        query, document: the texts as they were given.
        logit, score: of the pair.
        empty_logit, empty_score: of the query with an empty document.
        sentences: parts of the document which together hold each of its visible characters once; runs of sentences
            where there are more than the bound of passes allows. What lies outside the window is one part.
        words: parts of those sentences that the bound of passes was enough for, each wholly or not at all; runs of
            words in the last of them.
        query_words: parts of the query.
        query_read, document_read: what the model reads of the texts; `TextPart.without` is what is left of that.
        passes: how many different pairs were scored, the whole one included.
    """

    query: str
    document: str
    logit: float
    score: float
    empty_logit: float
    empty_score: float
    sentences: tuple[TextPart, ...]
    words: tuple[TextPart, ...]
    query_words: tuple[TextPart, ...]
    query_read: Span
    document_read: Span
    passes: int

    @property
    def parts(self) -> tuple[TextPart, ...]:
        """The finest parts of the document: words, or the whole sentence where it was not taken apart."""
        ends = np.array([sentence.end for sentence in self.sentences])
        inner: list[list[TextPart]] = [[] for _ in self.sentences]
        for word in self.words:
            inner[int(np.searchsorted(ends, word.end))].append(word)
        return tuple(part for own, whole in zip(inner, self.sentences, strict=True) for part in own or [whole])

    @property
    def told_apart(self) -> float:
        """Sum of the sentences' contributions."""
        return sum(sentence.contribution for sentence in self.sentences)

    @property
    def whole(self) -> float:
        """What the document adds to the logit of an empty one: the sum, if sentences did nothing but add up."""
        return self.logit - self.empty_logit

    @property
    def additive_check(self) -> str:
        """How far the sentences' contributions add up, in words."""
        rest = self.whole - self.told_apart
        said = f"The sentences add up to {self.told_apart:+.2f} of the {self.whole:+.2f} that the document adds"
        if abs(rest) <= 0.1 * abs(self.whole) or abs(rest) < 0.01:
            return f"{said}: nearly all is told apart."
        if rest * self.whole > 0:
            return f"{said}: the other {rest:+.2f} goes with no single one, as where several say the same."
        return f"{said}: {-rest:+.2f} is counted more than once, as where they need each other."

    def to_dict(self) -> dict[str, Any]:
        """All of it in JSON's types; offsets count characters (code points) of the given texts."""
        spans = {"query": self.query_read, "document": self.document_read}
        return {
            "method": "leave-one-out",
            **{name: getattr(self, name) for name in ("query", "document", "logit", "score")},
            "empty": {"logit": self.empty_logit, "score": self.empty_score},
            "additive": {"sentences": self.told_apart, "document": self.whole, "check": self.additive_check},
            "read": {name: [span.start, span.end] for name, span in spans.items()},
            "passes": self.passes,
            **{
                name: [part.to_dict() for part in getattr(self, name)] for name in ("sentences", "words", "query_words")
            },
        }

    def to_html(self) -> str:
        """A page of its own, without scripts, for dark and light."""
        head = '<meta charset="utf-8"><meta name="color-scheme" content="light dark"><title>Explanation</title>'
        return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{self._repr_html_()}</body></html>\n'

    def _repr_html_(self) -> str:
        """The texts with their parts coloured, in a notebook or a page; a part says its contribution when pointed at.

        What speaks against the document is underlined as well.
        """
        shown = "".join(
            f'<p style="white-space:pre-wrap;overflow-wrap:anywhere"><bdi>{"".join(map(_html, pieces))}</bdi></p>'
            for pieces in self._pieces()
        )
        said = "".join(f'<p style="font-size:0.85em;opacity:0.8">{escape(_sayable(line))}</p>' for line in self._said())
        return f"<div>{shown}{said}</div>"

    def __rich__(self) -> Text:
        """The same for a terminal, with the strongest parts in numbers below."""
        from rich.text import Text

        made = [Text.assemble(*map(_styled, pieces)) for pieces in self._pieces()]
        return Text("\n").join([*made, *(Text(_styled((line, None, 0.0))[0], style="dim") for line in self._said())])

    def _pieces(self) -> tuple[list[Piece], list[Piece]]:
        """Query and document as coloured pieces."""
        return list(_coloured(self.query, self.query_words)), list(_coloured(self.document, self.parts))

    def _said(self) -> Iterator[str]:
        yield f"Leave-one-out: logit {self.logit:.2f}, of an empty document {self.empty_logit:.2f}."
        for what, parts in (("Document", self.parts), ("Query", self.query_words)):
            strong = sorted((part for part in parts if part.contribution), key=lambda part: -abs(part.contribution))
            if strong:
                named = (f"“{_shortened(part.text)}” {part.contribution:+.2f}" for part in strong[:5])
                yield f"{what}: {', '.join(named)}."
        yield self.additive_check
        unread = sum(part.end - part.start for part in self.sentences if not part.read)
        if unread:
            yield f"Not read here: {unread:,} characters."


def explain(
    reranker: Reranker,
    query: str,
    document: str,
    *,
    max_passes: int = 60,
    batch_size: int = 32,
    activation_fct: Activation | None = None,
    relevance: Relevance | None = None,
    template: PromptTemplate | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    instruction: str | None = None,
    truncation: Truncation | Windows | None = None,
    passage: tuple[int, int] | None = None,
) -> Explanation:
    """Leave out each sentence and word of a document and each word of the query, and score what is left.

    All is scored in one call, or, where the bound of passes does not allow all words, in two: sentences and the words
    of the query first, then words of the sentences that contribute most. Texts are read without white space at their
    ends, as `CrossEncoder.rank` reads them. A text that is left without anything is scored as an empty one, with the
    logit that the model itself gives it. Of a text that is cut to fit the window only what is read is explained, and
    nothing moves up when a part of it is left out. A prompt or instruction is never left out.

    At most `max_passes` pairs are scored, whatever the length of the texts. `passage`, start and end in characters, is
    read and explained by itself, as if it were the document. None is the whole document, or where documents are read in
    windows and one is too short for it, its best passage, which a ranking finds first (one of the pairs). All other
    arguments are those of `rank_many`.

    Raises:
        InvalidInput: an argument is refused, such as a blank query; the message names it.
        NonFiniteScore: the model gave NaN or infinity.
        OutOfMemory: a pair alone does not fit.
    """
    asked, text = checked_query(query), checked(document, "document")
    if positive_int(max_passes, "max_passes") < FEWEST:
        raise InvalidInput(f"max_passes={max_passes} is less than {FEWEST}")
    start, end = (0, len(text)) if passage is None else _passage(passage, len(text))
    rule = reranker._rule(relevance)
    call = Call(batch_size, False, reranker._wish(prompt, prompt_name, instruction), template, truncation)
    model = _Model(reranker, call, reranker._activation(activation_fct, rule), rule)
    sides = _stripped(asked, 0, len(asked)), _stripped(text, start, end)
    spent = 0
    if policy_of(reranker.truncation if truncation is None else truncation).windows is not None:
        read = model.tokens(sides)
        if passage is None and (read.others or read.span):
            sides, spent = (sides[0], model.best_passage(*sides)), 1
        model = replace(model, call=replace(call, truncation="only_document"))
    return _Trial(model, model.read(*sides), max_passes, spent).explanation()


def _passage(given: Any, characters: int) -> tuple[int, int]:
    try:
        start, end = (whole_number(place, "passage") for place in given)
    except (TypeError, ValueError):
        start, end = 1, 0
    if not start <= end <= characters:
        raise InvalidInput(f"passage={given!r} is no part of the document, which has {characters} characters")
    return start, end


@dataclass(frozen=True, slots=True)
class _Side:
    """A text, and from where to where it is read."""

    whole: str
    start: int
    end: int

    @property
    def text(self) -> str:
        return readable(self.whole[self.start : self.end])

    def without(self, span: Span) -> str:
        return readable(left_out(self.whole[self.start : self.end], span.start - self.start, span.end - self.start))

    def sentences(self) -> list[Span]:
        found = sentences(self.whole[self.start : self.end])
        return [Span(self.start + span.start, self.start + span.end) for span in found]

    def words(self, within: Span | None = None) -> list[Span]:
        inside = within or Span(self.start, self.end)
        return [Span(*match.span()) for match in _WORD.finditer(self.whole, inside.start, inside.end)]

    def unread(self) -> list[Span]:
        """What lies before and behind."""
        outside = _stripped(self.whole, 0, self.start), _stripped(self.whole, self.end, len(self.whole))
        return [Span(side.start, side.end) for side in outside if side.start < side.end]


def _stripped(text: str, start: int, end: int) -> _Side:
    inside = text[start:end]
    start += len(inside) - len(inside.lstrip())
    return _Side(text, start, start + len(inside.strip()))


@dataclass(frozen=True, slots=True)
class _Model:
    """A model, and how one call asks it."""

    reranker: Reranker
    call: Call
    activation: Activation
    rule: Relevance | None

    def columns(self, pairs: Iterable[Pair]) -> list[list[str]]:
        return [
            list(texts) for texts in zip(*((self.call.wish[0] + query, text) for query, text in pairs), strict=True)
        ]

    def score(self, pairs: Sequence[Pair]) -> dict[Pair, Ranked]:
        """Logits and scores as the model gives them, of blank texts too."""
        scored = self.reranker._score(self.columns(pairs), self.call, self.rule)
        (made,) = ranked(scored.logits, self.activation, rule=self.rule)
        return {pairs[one.index]: one for one in made}

    def best_passage(self, query: _Side, document: _Side) -> _Side:
        """Of a document that is read in several windows."""
        scored = self.reranker._score(self.columns([(query.text, document.text)]), self.call, self.rule)
        found = next(passage for passage in scored.passages or () if passage is not None)
        return _Side(document.whole, document.start + found.start, document.start + found.end)

    def read(self, *sides: _Side) -> tuple[_Side, ...]:
        """Query and document without what the window has no room for: what is left makes the same input.

        Where nothing does, as a word may have other tokens where a text begins, it is the nearest to that.
        """
        whole = self.tokens(sides)
        if whole.cut is None:
            return sides
        lost = whole.cut.query_tokens, whole.cut.document_tokens
        tried = list(product(*map(self.left_of, sides, lost)))
        inputs = ((made, self.tokens(made)) for made in tried)
        same = (made for made, found in inputs if found.ids.tobytes() == whole.ids.tobytes())
        return next(same, tried[0])

    def tokens(self, sides: Sequence[_Side]) -> Tokens:
        call = self.call
        window = self.reranker._window(call.batch_size, call.template, call.truncation, call.wish[1])
        return self.reranker.engine().tokens(self.columns([(sides[0].text, sides[1].text)]), window)[0]

    def left_of(self, side: _Side, lost: int) -> list[_Side]:
        """What may be left of a text that lost so many tokens, and the characters beyond the tokenizer's ceiling."""
        most, tokenizer = CHARACTERS_PER_TOKEN * self.reranker.window, self.reranker.engine().tokenizer
        if not lost and len(side.text) <= most:
            return [side]
        tail = tokenizer.keep_tail
        read = side.text[-most:] if tail else side.text[:most]
        ends = [0, *tokenizer.token_ends(read)]
        if tail:
            start = side.end - len(read)
            return [
                _Side(side.whole, start + ends[min(max(0, lost - more), len(ends) - 1)], side.end) for more in _MORE
            ]
        kept = [min(max(0, len(ends) - 1 - lost + more), len(ends) - 1) for more in _MORE]
        return [_Side(side.whole, side.start, side.start + ends[place]) for place in kept]


class _Trial:
    """One explanation on its way: every different pair is scored once."""

    def __init__(self, model: _Model, sides: tuple[_Side, ...], most: int, spent: int) -> None:
        self.model, self.sides, self.most, self.spent = model, sides, most - spent, spent
        self.whole: Pair = (sides[0].text, sides[1].text)
        self.known: dict[Pair, Ranked] = {}

    def explanation(self) -> Explanation:
        query, document = self.sides
        empty = (self.whole[0], "")
        spans, asked = document.sentences(), query.words()
        words = [word for span in spans for word in document.words(span)]
        fits = 2 + len(spans) + len(asked) + len(words) <= self.most
        if not fits:
            spans = _runs(spans, max(1, (self.most - 2) // 2))
            asked = _runs(asked, max(1, (self.most - 2 - len(spans)) // 2))
        parts = [(1, span) for span in (*spans, *(words if fits else ()))] + [(0, span) for span in asked]
        self.score([self.whole, empty, *(self.without(*part) for part in parts)])
        if not fits:
            words = self.inside(spans)
            self.score([self.without(1, word) for word in words])
        whole, nothing = self.known[self.whole], self.known[empty]
        return Explanation(
            query=query.whole,
            document=document.whole,
            logit=whole.logit,
            score=whole.score,
            empty_logit=nothing.logit,
            empty_score=nothing.score,
            sentences=self.parts(1, [*spans, *document.unread()]),
            words=self.parts(1, words),
            query_words=self.parts(0, [*asked, *query.unread()]),
            query_read=Span(query.start, query.end),
            document_read=Span(document.start, document.end),
            passes=self.spent + len(self.known),
        )

    def inside(self, spans: Sequence[Span]) -> list[Span]:
        """Words of the sentences that contribute most, as many as may still be scored; runs of them in the last."""
        logit, left = self.known[self.whole].logit, self.most - len(self.known)
        chosen: list[Span] = []
        for span in sorted(spans, key=lambda span: -abs(logit - self.known[self.without(1, span)].logit)):
            words = self.sides[1].words(span)
            # a single word is its sentence, and known
            if len(words) > 1:
                words = _runs(words, left) if left > 1 else []
                left -= len(words)
            chosen += words
        return chosen

    def without(self, side: int, span: Span) -> Pair:
        left = self.sides[side].without(span)
        return (self.whole[0], left) if side else (left, self.whole[1])

    def score(self, pairs: Iterable[Pair]) -> None:
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self.known]
        self.known |= self.model.score(new) if new else {}

    def parts(self, side: int, spans: Iterable[Span]) -> tuple[TextPart, ...]:
        own, whole = self.sides[side], self.known[self.whole]
        made = []
        for span in sorted(spans, key=attrgetter("start")):
            read = own.start <= span.start < own.end
            pair = self.without(side, span) if read else self.whole
            left = self.known[pair]
            change, rise = whole.logit - left.logit, whole.score - left.score
            text = own.whole[span.start : span.end]
            made.append(TextPart(span.start, span.end, text, left.logit, left.score, change, rise, read, pair[side]))
        return tuple(made)


def _runs(spans: Sequence[Span], most: int) -> list[Span]:
    """Spans of neighbours joined, of as equal numbers as can be, to at most so many."""
    count = min(len(spans), most)
    edges = [place * len(spans) // count for place in range(count + 1)] if count else []
    return [Span(spans[first].start, spans[last - 1].end) for first, last in pairwise(edges)]


# ---- Texts with their parts coloured.
Piece = tuple[str, TextPart | None, float]
"""A piece of a text, the part that it is, and its contribution as a share of the largest one of the text."""
# An unread text may be a book.
_SHOWN = 400
# Shares of the largest contribution: below is no colour, above is bold.
FAINT, STRONG = 0.1, 0.5


def _coloured(text: str, parts: Sequence[TextPart]) -> Iterator[Piece]:
    largest = max((abs(part.contribution) for part in parts), default=0.0) or 1.0
    place = 0
    for part in parts:
        yield text[place : part.start], None, 0.0
        yield part.text if part.read else _shortened(part.text, _SHOWN), part, part.contribution / largest
        place = part.end
    yield text[place:], None, 0.0


def _html(piece: Piece) -> str:
    text, part, weight = piece
    said = escape(_sayable(text))
    if part is None:
        return said
    if not part.read:
        return f'<span style="opacity:0.5" title="not read">{said}</span>'
    colour = "31,140,120" if weight > 0 else "214,80,50"
    line = ";text-decoration:underline" if weight < -FAINT else ""
    style = f"background:rgba({colour},{0.6 * abs(weight):.2f}){line}"
    return f'<span style="{style}" title="{part.contribution:+.3f}">{said}</span>'


def _styled(piece: Piece) -> tuple[str, str]:
    """What rich makes a text of: green speaks for the document, red and underlined against it."""
    text, part, weight = piece
    # a text may hold a terminal's commands
    said = "".join(character if character.isprintable() else " " for character in text)
    if part is None or abs(weight) < FAINT:
        return said, "" if part is None or part.read else "dim"
    return said, f"{'bold ' if abs(weight) > STRONG else ''}{'green' if weight > 0 else 'red underline'}"


def _sayable(text: str) -> str:
    return UNSHOWABLE.sub("\ufffd", text)


def _shortened(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
