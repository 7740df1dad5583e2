"""LangChain: a document compressor that reranks, for `ContextualCompressionRetriever` or a chain of your own.

Needs the extra `langchain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import Field

from secondpass.errors import InvalidInput
from secondpass.postprocessing import FACTS, RerankOptions

if TYPE_CHECKING:
    from langchain_core.callbacks import Callbacks

__all__ = ["SecondPassReranker"]

SCORE = "relevance_score"


class SecondPassReranker(RerankOptions, BaseDocumentCompressor):
    """Reranks LangChain's documents with a cross-encoder.

    Args:
        options: of `RerankOptions`.
        metadata_fields: metadata whose values are read in front of the content; None and missing ones are left out.
        metadata_separator: what stands between those values and the content.

    Documents come back as copies with the score in their metadata, under "relevance_score" as `CohereRerank` has it.
    Where there are such, it also has "probability" and "probability_interval", the best "passage", what was "truncated"
    (tokens of query and document that were not read, and characters), and "nothing_relevant", the calibration's verdict
    on all of them. One that a budget left unscored has no score. Metadata of these names that a document with a
    "relevance_score" comes with is an earlier reranker's, and goes; else it stays unless there is such a fact. Any
    number of threads and tasks may use one.
    """

    metadata_fields: list[str] = Field(default_factory=list)
    metadata_separator: str = "\n"

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Order documents by how well each one answers the query, best first; `top_n` of them come back.

        Those that say nothing come last. `callbacks` are without effect, as in every compressor: spans tell of it
        (`secondpass.tracing`).

        Raises:
            InvalidInput: the query is blank, or an element is no document.
            SecondPassError: what scoring raises.
        """
        given = list(documents)
        for index, document in enumerate(given):
            if not isinstance(document, Document):
                raise InvalidInput(f"documents[{index}] is {type(document).__name__}, not Document")
        fronts = [self._front(document) for document in given]
        texts = [front + document.page_content for front, document in zip(fronts, given, strict=True)]
        ids = [str(place) if document.id is None else document.id for place, document in enumerate(given)]
        found = self.reranked(query, texts, list(map(len, fronts)), ids)
        if found is None:
            return given
        return [
            _copy(given[one.index], {**({} if one.score is None else {SCORE: one.score}), **one.facts}) for one in found
        ]

    def _front(self, document: Document) -> str:
        values = (document.metadata.get(name) for name in self.metadata_fields)
        return "".join(f"{value}{self.metadata_separator}" for value in values if value is not None)


def _copy(document: Document, facts: dict[str, Any]) -> Document:
    old = (SCORE, *FACTS) if SCORE in document.metadata else ()
    kept = {name: value for name, value in document.metadata.items() if name not in old}
    return document.model_copy(update={"metadata": {**kept, **facts}})
