"""The shapes of requests for scores without an order: our `pairs`, and vLLM's `text_1` and `text_2`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self

from pydantic import AliasChoices, BaseModel, BeforeValidator, FailFast, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from secondpass.serving.fields import NOT_BLANK, SOME_TEXT, TEXT, CountOrZero, ModelName, Text, listed
from secondpass.serving.problems import invalid
from secondpass.serving.shapes import NOT_SCORED, CuttingRequest, Envelope, Request, enveloped, json_number
from secondpass.serving.work import Answer, Work


# ---- Our own: `pairs` in, `scores` out.
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
    pairs: Annotated[list[Pair], FailFast()] = Field(
        min_length=1,
        description="[query, document]; no query is blank, not all documents are.",
        json_schema_extra=SOME_PAIR,
    )
    raw_scores: bool | None = Field(default=None, strict=True, description="Logits instead of the model's scores.")

    def work(self) -> Work:
        """The pairs to score."""
        queries, documents = zip(*self.pairs, strict=True)
        return self.pairs_of(self.model, queries, documents, field="pairs", query_field="pairs[{}][0]")

    def render(self, answer: Answer, request_id: str) -> str:
        """The answer as JSON."""
        scores = answer.logits if self.raw_scores else answer.scores
        values = [answer.chances[index][0] if index in answer.chances else None for index in range(len(scores))]
        more = {"probabilities": values} if answer.chances else {}
        return enveloped(answer, request_id, "scores", map(json_number, scores), **more)


class ScoreResponse(Envelope):
    """Scores in the order of the pairs."""

    scores: list[float]
    probabilities: list[float | None] | None = Field(
        default=None, description="Of being relevant, where the model has a calibration; null was not scored."
    )


# ---- vLLM's: `text_1` and `text_2` in, under any of its names for them, `data` out.
QUERIES = ("text_1", "queries", "data_1")
DOCUMENTS = ("text_2", "documents", "items", "data_2")


def _one_or_some(**items: Any) -> dict[str, Any]:
    return {"anyOf": [dict(NOT_BLANK), {"type": "array", "minItems": 1, **items}]}


Texts = Annotated[list[Text], FailFast(), Field(min_length=1), BeforeValidator(listed)]
Queries = Annotated[Texts, WithJsonSchema(_one_or_some(items=dict(NOT_BLANK)))]
Documents = Annotated[Texts, WithJsonSchema(_one_or_some(items=dict(TEXT), **SOME_TEXT))]


class TextPairsRequest(CuttingRequest):
    """Texts to score with one another: one with each of many, or each with the one at its place."""

    model: ModelName = None
    text_1: Queries = Field(validation_alias=AliasChoices(*QUERIES), description="None blank; or `queries`, `data_1`.")
    text_2: Documents = Field(
        validation_alias=AliasChoices(*DOCUMENTS), description="Not all blank; or `documents`, `items`, `data_2`."
    )
    max_tokens_per_doc: CountOrZero = Field(default=None, description="First tokens read of a document; 0 is all.")
    _names: tuple[str, ...] = "text_1", "text_2"

    @model_validator(mode="wrap")
    @classmethod
    def _named(cls, body: Any, read: Callable[[Any], Self]) -> Self:
        made = read(body)
        made._names = tuple(next(name for name in names if name in body) for names in (QUERIES, DOCUMENTS))
        return made

    def work(self) -> Work:
        """The pairs to score.

        Raises:
            Problem: there are several queries, and not as many documents.
        """
        queries, documents, (one, two) = self.text_1, self.text_2, self._names
        if len(queries) not in (1, len(documents)):
            raise invalid(f"{one}: {len(queries)} are neither one nor as many as {two}, which has {len(documents)}")
        queries = queries * len(documents) if len(queries) == 1 else queries
        cuts = self.cuts(self.max_tokens_per_doc)
        return self.pairs_of(self.model, queries, documents, field=two, query_field=f"{one}[{{}}]", **cuts)

    def render(self, answer: Answer, request_id: str) -> str:
        """The answer as JSON."""
        scores = enumerate(self.scores(answer))
        items = (
            f'{{"index":{index},"object":"score","score":{json_number(score)}'
            + (',"scored":false}' if index in (answer.unscored or ()) else "}")
            for index, score in scores
        )
        return enveloped(answer, request_id, "data", items, object="list", created=int(time.time()))


class PairScore(BaseModel):
    """A pair by its position in the request, and its score."""

    index: int
    object: str
    score: float
    scored: bool | None = Field(default=None, description=NOT_SCORED)


class PairScores(Envelope):
    """Scores in the order of the pairs."""

    object: str
    created: int
    data: list[PairScore]


def pairs_shape_of(body: Any) -> str:
    """Which of the two shapes a body of /score has."""
    is_ours = not isinstance(body, dict) or "pairs" in body or body.keys().isdisjoint(QUERIES + DOCUMENTS)
    return "pairs-shape" if is_ours else "text-pairs-shape"
