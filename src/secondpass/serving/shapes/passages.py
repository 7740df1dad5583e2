"""The shape of Nvidia's rerankers: `passages` in, `rankings` with `logit` out."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from secondpass.serving.numbers import json_number
from secondpass.serving.shapes.parts import SOME_OBJECT, SOMETHING, Answer, ModelName, Request, TextObject, Work


class QueryObject(BaseModel):
    """What is asked."""

    text: str = Field(description="Not blank.", json_schema_extra={"pattern": SOMETHING})


class RankingRequest(Request):
    """Passages to order for a query."""

    model: ModelName = None
    query: QueryObject
    passages: list[TextObject] = Field(min_length=1, description="Not all blank.", json_schema_extra=SOME_OBJECT)
    truncate: Literal["NONE", "END"] | None = Field(default=None, description="NONE refuses pairs that would be cut.")

    def work(self) -> Work:
        """The pairs to score."""
        return Work(
            model=self.model,
            queries=(self.query.text,) * len(self.passages),
            documents=tuple(self.passages),
            field="passages",
            refuse_cuts=self.truncate == "NONE",
            warnings=self.unknown(),
        )

    def render(self, answer: Answer, request_id: str) -> str:
        """The answer as JSON."""
        items = (f'{{"index":{index},"logit":{json_number(answer.logits[index])}}}' for index in answer.order)
        return f'{{"rankings":[{",".join(items)}]}}'


class PassageRank(BaseModel):
    """A passage by its position in the request, and its logit."""

    index: int
    logit: float


class RankingResponse(BaseModel):
    """Passages, best first."""

    rankings: list[PassageRank]
