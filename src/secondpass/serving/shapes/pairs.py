"""Our own shape for scores without an order: `pairs` in, `scores` out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from secondpass.serving.numbers import json_number, json_text
from secondpass.serving.shapes.parts import (
    NOT_BLANK,
    TEXT,
    Answer,
    Meta,
    ModelName,
    Request,
    Usage,
    Work,
    meta_of,
    usage_of,
)


def _pair(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value):
        return tuple(value)
    raise PydanticCustomError("pair", "is not a list of two strings, query and document")


def _pair_with(document: Mapping[str, Any]) -> dict[str, Any]:
    two = [dict(NOT_BLANK), dict(document)]
    return {"type": "array", "prefixItems": two, "items": dict(TEXT), "minItems": 2, "maxItems": 2}


SOME_PAIR: dict[str, Any] = {"contains": _pair_with(NOT_BLANK)}
Pair = Annotated[tuple[str, str], BeforeValidator(_pair), WithJsonSchema(_pair_with(TEXT))]


class ScoreRequest(Request):
    """Pairs of query and document to score."""

    model: ModelName = None
    pairs: list[Pair] = Field(
        min_length=1,
        description="[query, document]; no query is blank, not all documents are.",
        json_schema_extra=SOME_PAIR,
    )
    raw_scores: bool | None = Field(default=None, strict=True, description="Logits instead of the model's scores.")

    def work(self) -> Work:
        """The pairs to score."""
        queries, documents = zip(*self.pairs, strict=True)
        return Work(self.model, queries, documents, field="pairs", warnings=self.unknown())

    def render(self, answer: Answer, request_id: str) -> str:
        """The answer as JSON."""
        scores = ",".join(map(json_number, answer.logits if self.raw_scores else answer.scores))
        rest = {"usage": usage_of(answer), "meta": meta_of(answer)}
        head = {"id": request_id, "model": answer.model}
        return f'{json_text(head)[:-1]},"scores":[{scores}],{json_text(rest)[1:]}'


class ScoreResponse(BaseModel):
    """Scores in the order of the pairs."""

    id: str
    model: str
    scores: list[float]
    usage: Usage
    meta: Meta
