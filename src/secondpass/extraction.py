"""Answers in the words of the documents: every sentence of the given documents is scored against the query.

The extractive counterpart of generating an answer, as in DrQA (Chen et al. 2017) but with a cross-encoder and whole
sentences: nothing can be made up, and no other model is needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from secondpass.activations import Activation
from secondpass.errors import InvalidInput
from secondpass.inputs import CutPolicy
from secondpass.ranking import ranked
from secondpass.record import CallRecord, added
from secondpass.reranker import Reranker
from secondpass.sentences import Span, sentences
from secondpass.text import checked_documents, checked_query, is_blank, positive_int
from secondpass.windows import Windows

# Windows read for each sentence that is wanted: one that stands in two is the best sentence of both.
WINDOWS_A_SENTENCE = 2

__all__ = ["Extract", "Extraction", "Span", "extract", "sentences"]


@dataclass(frozen=True, slots=True)
class Extract:
    """`documents[document][span.start:span.end]`, which the model gave `score` (activated) and `logit`."""

    document: int
    span: Span
    score: float
    logit: float


@dataclass(frozen=True, slots=True)
class Extraction:
    """The best sentences, best first, and what the call did (a pair for every text read); None if none was read.

    Of windows the record counts with them; what was cut is told of the sentences, as they were read.
    """

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
    windows: Windows | None = None,
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
        windows: of long documents the windows are scored first, and sentences are read in the best of them alone:
            two windows for each sentence that is wanted. None reads all sentences.

    Raises:
        InvalidInput: an argument is refused; the message names it.
        NonFiniteScore: the model gave NaN or infinity.
        OutOfMemory: a sentence alone does not fit.
    """
    asked, texts = checked_query(query), checked_documents(documents, "documents")
    activation = reranker._activation(activation_fct, None)
    positive_int(top_k, "top_k")
    if not isinstance(windows, Windows | None):
        raise InvalidInput(f"windows={windows!r} is not a Windows")
    limit = top_k if per_document is None else positive_int(per_document, "per_document")
    read_before: list[CallRecord] = []
    places = None
    if windows is not None and not all(map(is_blank, texts)):
        places, record = _best_windows(reranker, asked, texts, windows, top_k, limit)
        read_before.append(record)
    candidates = list(_candidates(texts, places))
    if len(candidates) > max_sentences:
        raise InvalidInput(f"documents have {len(candidates)} sentences, more than max_sentences={max_sentences}")
    if not candidates:
        return Extraction((), None)
    read = [candidate.alone for candidate in candidates] + [candidate.in_context for candidate in candidates]
    (ranking,) = reranker.rank_many([asked], [read], show_progress_bar=False)
    logits = np.empty(len(read), np.float32)
    for read_one in ranking.documents:
        logits[read_one.index] = read_one.logit
    means = logits.reshape(2, -1).mean(axis=0)
    (best,) = ranked(means[:, None], activation)
    kept: list[Extract] = []
    taken = [0] * len(texts)
    for sentence in best:
        found = candidates[sentence.index]
        if len(kept) < top_k and taken[found.document] < limit:
            taken[found.document] += 1
            kept.append(Extract(found.document, found.span, sentence.score, sentence.logit))
    return Extraction(tuple(kept), added([*read_before, ranking.record]))


def _best_windows(
    reranker: Reranker, query: str, texts: Sequence[str], windows: Windows, top_k: int, limit: int
) -> tuple[Mapping[int, Sequence[Span]], CallRecord]:
    """Places of the best windows by document, and what finding them took."""
    said = [document for document, text in enumerate(texts) if not is_blank(text)]
    cut = CutPolicy("windows", windows=windows)
    inputs = reranker.tokens([query] * len(said), [texts[document] for document in said], cut=cut)
    places = [
        (document, Span(*(item.span or (0, len(texts[document])))))
        for document, first in zip(said, inputs, strict=True)
        for item in (first, *first.others)
    ]
    passages = [texts[document][span.start : span.end] for document, span in places]
    # by itself a passage may have a token more than it had in the document
    (ranking,) = reranker.rank_many([query], [passages], show_progress_bar=False, truncation="only_document")
    kept: dict[int, list[Span]] = defaultdict(list)
    left = WINDOWS_A_SENTENCE * top_k
    for one in ranking.documents:
        document, span = places[one.index]
        if left and len(kept[document]) < WINDOWS_A_SENTENCE * limit:
            kept[document].append(span)
            left -= 1
    return kept, ranking.record


def _candidates(texts: list[str], read: Mapping[int, Sequence[Span]] | None) -> Iterator[_Candidate]:
    """Every different sentence that says something, where it stands first; only those that are in a place to `read`."""
    seen: set[str] = set()
    for document, text in enumerate(texts):
        before: int | None = None
        for span in sentences(text):
            alone = text[span.start : span.end]
            if is_blank(alone):
                continue
            places = [span] if read is None else read.get(document, ())
            if alone not in seen and any(span.start < place.end and place.start < span.end for place in places):
                seen.add(alone)
                start = span.start if before is None else before
                yield _Candidate(document, span, alone, text[start : span.end])
            before = span.start
