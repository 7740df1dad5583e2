"""The shape of Cohere, Jina and vLLM: `documents` in, `results` with `relevance_score` out."""

from __future__ import annotations

from pydantic import BaseModel, Field

from secondpass.serving.numbers import json_number, json_text
from secondpass.serving.problems import invalid
from secondpass.serving.shapes.parts import (
    SOME_EITHER,
    Answer,
    Count,
    Meta,
    ModelName,
    Query,
    Request,
    TextOrObject,
    Usage,
    Work,
    meta_of,
    usage_of,
)

WHOLE = "max_chunks_per_doc has no effect: documents are read in one piece"


class RerankRequest(Request):
    """Documents to order for a query."""

    model: ModelName = None
    query: Query
    documents: list[TextOrObject] = Field(
        min_length=1, description="Texts, or objects with `text`; not all blank.", json_schema_extra=SOME_EITHER
    )
    top_n: Count = Field(default=None, description="How many results; all when absent. All are scored anyway.")
    return_documents: bool | None = Field(default=None, strict=True, description="Repeat each document's text.")
    max_tokens_per_doc: Count = Field(default=None, description="Documents are cut to their first tokens.")
    max_chunks_per_doc: Count = Field(default=None, description="No effect: documents are read in one piece.")
    rank_fields: list[str] | None = Field(
        default=None, description='Only ["text"] is understood.', json_schema_extra={"items": {"const": "text"}}
    )

    def work(self) -> Work:
        """The pairs to score.

        Raises:
            Problem: fields other than `text` should be read.
        """
        if any(name != "text" for name in self.rank_fields or ()):
            raise invalid("rank_fields: only 'text' can be ranked by; join the fields into it")
        warnings = self.unknown()
        if self.max_chunks_per_doc not in (None, 1):
            warnings = (*warnings, WHOLE)
        return Work(
            model=self.model,
            queries=(self.query,) * len(self.documents),
            documents=tuple(self.documents),
            max_document_tokens=self.max_tokens_per_doc,
            warnings=warnings,
        )

    def render(self, answer: Answer, request_id: str) -> str:
        """The answer as JSON, written by hand where numbers need their own form."""
        texts = self.documents if self.return_documents else None
        results = ",".join(
            f'{{"index":{index},"relevance_score":{json_number(answer.scores[index])}'
            + (f',"document":{{"text":{json_text(texts[index])}}}' if texts else "")
            + "}"
            for index in answer.order[: self.top_n]
        )
        rest = {"usage": usage_of(answer), "meta": meta_of(answer)}
        head = {"id": request_id, "model": answer.model, "object": "list"}
        return f'{json_text(head)[:-1]},"results":[{results}],{json_text(rest)[1:]}'


class Document(BaseModel):
    """A document's text."""

    text: str


class RerankResult(BaseModel):
    """A document by its position in the request, and its score."""

    index: int
    relevance_score: float
    document: Document | None = None


class RerankResponse(BaseModel):
    """Results, best first."""

    id: str
    model: str
    object: str
    results: list[RerankResult]
    usage: Usage
    meta: Meta
