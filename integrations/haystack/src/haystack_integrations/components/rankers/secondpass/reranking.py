"""One ranking call: readable documents to the model, its order back to documents, and what was cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any

from haystack import Document, logging
from haystack_integrations.common.secondpass.documents import Readable, TextLayout
from torch.nn import Identity, Sigmoid

from secondpass import CrossEncoder
from secondpass.activations import Activation
from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.ranking import Ranking
from secondpass.relevance import Relevance
from secondpass.templates import PromptTemplate

logger = logging.getLogger(__name__)

Lend = Callable[[], AbstractContextManager[CrossEncoder]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call takes and keeps, and on which scale its scores are."""

    top_k: int
    scale_score: bool
    threshold: float | None
    max_documents: int | None
    batch_size: int
    relevance: Relevance | None = None


def answer(
    documents: Sequence[Document], truncated: Sequence[dict[str, Any]] = (), reranked: bool = False
) -> dict[str, Any]:
    """Make the outputs of a ranker; without further arguments, of one that ranked nothing."""
    return {"documents": list(documents), "truncated": list(truncated), "reranked": reranked}


def rerank(lend: Lend, query: str, documents: Sequence[Document], layout: TextLayout, limits: Limits) -> dict[str, Any]:
    """Rank unique documents for a query that is not blank; documents without text come last, without a score.

    The model is asked for only when there is something to read.

    Raises:
        InvalidInput: more documents than `limits.max_documents`, or a pair too long for `truncation="error"`.
        NonFiniteScore: the message names the ids of the documents without a finite score.
    """
    if limits.max_documents is not None and len(documents) > limits.max_documents:
        raise InvalidInput(
            f"documents has {len(documents)} different ids, more than max_documents={limits.max_documents}"
        )
    readable = layout.split(documents)
    if readable.blank:
        logger.warning(
            "{blank} of {count} documents have no text and are not ranked.",
            blank=len(readable.blank),
            count=len(documents),
        )
    if not readable.documents:
        return answer(_kept([], readable.blank, limits))
    ranking = _ranking(lend, query, readable, layout.template, limits)
    ranked = [replace(readable.documents[item.index], score=item.score) for item in ranking.documents]
    truncated = []
    for cut in ranking.truncated:
        lost = asdict(cut)
        truncated.append({"id": readable.documents[lost.pop("index")].id, **lost})
    return answer(_kept(ranked, readable.blank, limits), truncated, reranked=True)


def _ranking(lend: Lend, query: str, readable: Readable, template: PromptTemplate | None, limits: Limits) -> Ranking:
    try:
        with lend() as encoder:
            (ranking,) = encoder.rank_many(
                [query],
                [readable.texts],
                batch_size=limits.batch_size,
                show_progress_bar=False,
                activation_fct=_activation(encoder.num_labels, limits),
                relevance=limits.relevance,
                template=template,
            )
    except NonFiniteScore as error:
        ids = ", ".join(repr(readable.documents[index].id) for index in error.indices)
        raise NonFiniteScore(f"the model gave no finite score for the documents {ids}", error.indices) from error
    if sorted(item.index for item in ranking.documents) != list(range(len(readable.documents))):
        raise RuntimeError(f"{len(ranking.documents)} scores for {len(readable.documents)} documents")
    return ranking


def _activation(num_labels: int, limits: Limits) -> Activation:
    """What makes scores of the logits, or of the expected grades from 0 to the last label's."""
    if not limits.scale_score:
        return Identity()
    if limits.relevance == "expected" and num_labels > 1:
        return lambda grades: grades / (num_labels - 1)
    return Sigmoid()


def _kept(ranked: Sequence[Document], blank: Sequence[Document], limits: Limits) -> list[Document]:
    """Apply the threshold, then `top_k`; a document without a score reaches no threshold."""
    if limits.threshold is None:
        kept = [*ranked, *(replace(document, score=None) for document in blank)]
    else:
        kept = [document for document in ranked if document.score is not None and document.score >= limits.threshold]
    return kept[: limits.top_k]
