"""Answers in the words of the documents: every sentence of the given documents is scored against the query.

The extractive counterpart of generating an answer, as in DrQA (Chen et al. 2017) but with a cross-encoder and whole
sentences: nothing can be made up, and no other model is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from secondpass.activations import Activation
from secondpass.errors import InvalidInput
from secondpass.ranking import ranked
from secondpass.reranker import Reranker
from secondpass.text import checked_documents, is_blank, positive_int
from secondpass.tokens import CallRecord

__all__ = ["Extract", "Extraction", "Span", "extract", "sentences"]

# ---- Text to sentences as places in it: cautious, so that a sentence is rather too long than broken in two.
# Where a sentence may end: closing marks after . ! ? … and white space behind them; CJK full stops need no space.
_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？｡]+[”’」』）]*")
# A blank line, or a line that begins like a list's, ends a sentence whatever stands before it.
_BREAK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*•‣·]|\d{1,3}[.)])\s)")
# What stands before a full stop that is no end: titles, initials, months, "e.g.", "U.S.", "No.".
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"'“‘])(?:(?i:mr|mrs|ms|dr|prof|sr|jr|st|rev|gen|col|capt|lt|sgt|gov|sen|rep|pres|hon|vs|cf|approx|"
    r"ca|fig|figs|eq|eqs|sec|ch|vol|pp|ed|eds|inc|ltd|co|corp|est|dept|univ|etc|al|viz|resp)|No|Nos|no|Jan|Feb|Mar|"
    r"Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|[A-Za-z]|(?:[A-Za-z]\.)+[A-Za-z])\.$"
)
_VISIBLE = re.compile(r"\S")
_LIST_NUMBER = re.compile(r"(?:^|\n)\s*\d{1,3}\.$")
# The longest abbreviation and the mark before it.
_LOOK_BACK = 24


@dataclass(frozen=True, slots=True)
class Span:
    """text[start:end], without white space at its ends."""

    start: int
    end: int


def sentences(text: str, longest: int = 1000) -> list[Span]:
    """Split a text.

    Args:
        text: any string; what is only white space has no sentence.
        longest: characters; a longer sentence is split at white space, so that running text without a full stop
            (tables, logs) still comes in pieces.

    Returns:
        Places of the sentences in order; together they hold every visible character once.

    Raises:
        InvalidInput: `longest` is below 1.
    """
    if longest < 1:
        raise InvalidInput(f"longest={longest} is below 1")
    breaks = {match.start() for match in _BREAK.finditer(text)}
    ends = {match.end() for match in _END.finditer(text) if _is_end(text, match)}
    made: list[Span] = []
    start = 0
    for end in [*sorted(breaks | ends), len(text)]:
        made += _pieces(text, start, end, longest)
        start = end
    return made


def _is_end(text: str, match: re.Match[str]) -> bool:
    mark = match.group()
    if mark[0] in "。！？｡":
        return True
    next_character = _VISIBLE.search(text, match.end())
    follows = next_character.group() if next_character else ""
    # "approx. 5", "said Dr. Smith", "... and so on": a small letter goes on with the sentence.
    if follows.islower():
        return False
    if mark[0] != "." or mark.startswith(".."):
        return True
    before = text[max(0, match.start() - _LOOK_BACK) : match.start() + 1]
    if _LIST_NUMBER.search(before):
        return False
    return not _ABBREVIATION.search(before) or not follows


def _pieces(text: str, start: int, end: int, longest: int) -> Iterator[Span]:
    while True:
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if start == end:
            return
        if end - start <= longest:
            yield Span(start, end)
            return
        cut = next((at for at in range(start + longest, start, -1) if text[at].isspace()), start + longest)
        stop = cut
        while text[stop - 1].isspace():
            stop -= 1
        yield Span(start, stop)
        start = cut


@dataclass(frozen=True, slots=True)
class Extract:
    """documents[document][span.start:span.end], which the model gave `score` (activated) and `logit`."""

    document: int
    span: Span
    score: float
    logit: float


@dataclass(frozen=True, slots=True)
class Extraction:
    """The best sentences, best first, and what the call did (a pair for every text read); None if none was read."""

    extracts: tuple[Extract, ...]
    record: CallRecord | None


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A sentence by itself, and behind the one before it: "It has 3.7 million inhabitants" needs to know of what."""

    document: int
    span: Span
    alone: str
    in_context: str


def extract(
    reranker: Reranker,
    query: str,
    documents: Iterable[str],
    *,
    top_k: int = 3,
    per_document: int | None = None,
    max_sentences: int = 2000,
    activation_fct: Activation | None = None,
) -> Extraction:
    """Find the sentences that answer best.

    A sentence's logit is the mean of two: read alone, and read behind the sentence before it. On 246 questions of SQuAD
    that found the answering sentence of a paragraph 211 times, sentences alone 206 times.

    Args:
        reranker: a model with one label.
        query: what is asked.
        documents: searched for sentences, best first: of equal sentences the first one stands.
        top_k: at most so many sentences.
        per_document: at most so many of one document; None has no limit.
        max_sentences: refuse more than these, rather than compute for minutes.
        activation_fct: of scores; None takes the model's own.

    Raises:
        InvalidInput: an argument is refused; the message names it.
        NonFiniteScore: the model gave NaN or infinity.
        OutOfMemory: a sentence alone does not fit.
    """
    texts = checked_documents(documents, "documents")
    positive_int(top_k, "top_k")
    limit = top_k if per_document is None else positive_int(per_document, "per_document")
    candidates = list(_candidates(texts))
    if len(candidates) > max_sentences:
        raise InvalidInput(f"documents have {len(candidates)} sentences, more than max_sentences={max_sentences}")
    if not candidates:
        return Extraction((), None)
    read = [candidate.alone for candidate in candidates] + [candidate.in_context for candidate in candidates]
    (ranking,) = reranker.rank_many([query], [read], show_progress_bar=False)
    logits = np.empty(len(read), np.float32)
    for read_one in ranking.documents:
        logits[read_one.index] = read_one.logit
    means = logits.reshape(2, -1).mean(axis=0)
    activation = reranker.own_activation if activation_fct is None else activation_fct
    (best,) = ranked(means[:, None], activation)
    kept: list[Extract] = []
    taken = [0] * len(texts)
    for sentence in best:
        found = candidates[sentence.index]
        if len(kept) < top_k and taken[found.document] < limit:
            taken[found.document] += 1
            kept.append(Extract(found.document, found.span, sentence.score, sentence.logit))
    return Extraction(tuple(kept), ranking.record)


def _candidates(texts: list[str]) -> Iterator[_Candidate]:
    """Every different sentence that says something, where it stands first."""
    seen: set[str] = set()
    for document, text in enumerate(texts):
        before: int | None = None
        for span in sentences(text):
            alone = text[span.start : span.end]
            if is_blank(alone):
                continue
            if alone not in seen:
                seen.add(alone)
                start = span.start if before is None else before
                yield _Candidate(document, span, alone, text[start : span.end])
            before = span.start
