"""The shape of text-embeddings-inference: `texts` in, a bare list with `score` out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, RootModel, StringConstraints

from secondpass.serving.numbers import json_number, json_text
from secondpass.serving.problems import invalid
from secondpass.serving.shapes.parts import SOME_TEXT, Answer, Count, Query, Request, Work

Text = Annotated[str, StringConstraints(strict=True)]


class TextsRequest(Request):
    """Texts to order for a query."""

    query: Query
    texts: list[Text] = Field(min_length=1, description="Not all blank.", json_schema_extra=SOME_TEXT)
    raw_scores: bool | None = Field(default=None, strict=True, description="Logits instead of their sigmoid.")
    truncate: bool | None = Field(default=None, strict=True, description="False refuses pairs that would be cut.")
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = Field(
        default=None, description="Which end of a text that is too long goes; the model's own habit when absent."
    )
    return_text: bool | None = Field(default=None, strict=True, description="Repeat each text.")
    top_n: Count = Field(default=None, description="How many; all when absent. Every text is scored anyway.")

    def work(self) -> Work:
        """The pairs to score.

        Raises:
            Problem: the body has the other shape's `documents` too.
        """
        if "documents" in (self.__pydantic_extra__ or {}):
            raise invalid("give either texts or documents, not both")
        side = self.truncation_direction
        return Work(
            model=None,
            queries=(self.query,) * len(self.texts),
            documents=tuple(self.texts),
            field="texts",
            keep_tail=None if side is None else side.lower() == "left",
            refuse_cuts=self.truncate is False,
            warnings=self.unknown(),
        )

    def render(self, answer: Answer, request_id: str) -> str:
        """A bare list; readers such as Elasticsearch refuse any other field."""
        scores = answer.logits if self.raw_scores else answer.probabilities
        items = (
            f'{{"index":{index},"score":{json_number(scores[index])}'
            + (f',"text":{json_text(self.texts[index])}' if self.return_text else "")
            + "}"
            for index in answer.order[: self.top_n]
        )
        return f"[{','.join(items)}]"


class TextRank(BaseModel):
    """A text by its position in the request, and its score."""

    index: int
    score: float
    text: str | None = None


class TextsResponse(RootModel[list[TextRank]]):
    """Texts, best first."""


def shape_of(body: Any) -> str:
    """Which of the two shapes a body of /rerank has."""
    return "texts-shape" if isinstance(body, dict) and "texts" in body else "documents-shape"
