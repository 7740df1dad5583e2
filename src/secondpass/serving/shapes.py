"""The shapes of requests and answers: Cohere's, Jina's and vLLM's, Nvidia's, text-embeddings-inference's and ours."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from secondpass.serving.problems import invalid
from secondpass.tokens import Cut

FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
# Something beside the usual characters that show nothing, in a pattern short enough for whoever makes texts by it and
# written so that every dialect of regular expressions reads it. `text.is_blank` and the tokenizer know more of them.
SILENT = "0-20 7f-a0 ad-ad 1680-1680 2000-200f 2028-202f 205f-2064 2066-206f 3000-3000 feff-feff fffc-fffd"
ENDS = [[chr(int(end, 16)) for end in silent.split("-")] for silent in SILENT.split()]
SOMETHING = f"[^{''.join(f'{start}-{end}' for start, end in ENDS)}]"


@dataclass(frozen=True, slots=True)
class Work:
    """Pairs to score for one request: queries[i] with documents[i].

    `max_document_tokens` and `keep_tail` are those of `CutPolicy`; None leaves that to the model. `refuse_cuts` makes
    any cut an error. `field` is what the client calls the documents.
    """

    model: str | None
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    field: str = "documents"
    max_document_tokens: int | None = None
    keep_tail: bool | None = None
    refuse_cuts: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """Scores of one request's pairs in the order they were given, and `order`, their positions best first.

    `scores` are the model's own (its activation applied), `probabilities` the sigmoid of `logits`.
    """

    model: str
    scores: tuple[float, ...]
    probabilities: tuple[float, ...]
    logits: tuple[float, ...]
    order: tuple[int, ...]
    tokens: int
    cuts: tuple[Cut, ...]
    warnings: tuple[str, ...]


class Request(BaseModel):
    """A body; fields that it does not know are allowed, and the answer warns of them."""

    model_config = ConfigDict(extra="allow")

    def paired(self, model: str | None, query: str, documents: Sequence[str], **more: Any) -> Work:
        """The query with each document; `more` are further fields of `Work`."""
        return Work(model, (query,) * len(documents), tuple(documents), **{"warnings": self.unknown(), **more})

    def unknown(self) -> tuple[str, ...]:
        """A warning for fields that have no effect here; a name that is no name is only counted."""
        given = [name for name, value in (self.__pydantic_extra__ or {}).items() if value is not None]
        if not given:
            return ()
        named = sorted(name for name in given if FIELD_NAME.fullmatch(name))[:10]
        return (f"unknown fields ignored: {', '.join(named) or len(given)}",)


def _whole(value: Any) -> Any:
    """JSON knows one kind of number: 3.0 is whole, and some clients write it so. True is none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("text"), str)):
        return value if isinstance(value, str) else value["text"]
    raise PydanticCustomError("document", "is neither a string nor an object with the string 'text'")


def _object_with(text: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"text": dict(text)}, "required": ["text"]}


TEXT: Mapping[str, Any] = {"type": "string"}
NOT_BLANK: Mapping[str, Any] = {"type": "string", "pattern": SOMETHING}
# What OpenAPI says of a list of documents: one of them at least is not blank.
SOME_TEXT: dict[str, Any] = {"contains": dict(NOT_BLANK)}
SOME_OBJECT: dict[str, Any] = {"contains": _object_with(NOT_BLANK)}
SOME_EITHER: dict[str, Any] = {"contains": {"anyOf": [dict(NOT_BLANK), _object_with(NOT_BLANK)]}}
TextOrObject = Annotated[str, BeforeValidator(_text), WithJsonSchema({"anyOf": [dict(TEXT), _object_with(TEXT)]})]
TextObject = Annotated[str, BeforeValidator(_text), WithJsonSchema(_object_with(TEXT))]
Count = Annotated[Annotated[int, Field(strict=True, ge=1)] | None, BeforeValidator(_whole)]
Query = Annotated[str, Field(description="What is asked; not blank.", json_schema_extra={"pattern": SOMETHING})]
ModelName = Annotated[
    str | None, Field(description="One of the names that /info lists; without it the first of them answers.")
]


class TokensRead(BaseModel):
    """What the model read."""

    input_tokens: int


class Meta(BaseModel):
    """Beside the answer: tokens, and what the client should know, such as cut documents."""

    tokens: TokensRead
    warnings: list[str] | None = None


class Usage(BaseModel):
    """Tokens that the model read; equal pairs are read once."""

    prompt_tokens: int
    total_tokens: int


class Envelope(BaseModel):
    """What stands around a list of scores."""

    id: str
    model: str
    usage: Usage
    meta: Meta


class ErrorBody(BaseModel):
    """Why there is no answer: the same sentence under the names that clients of each API read."""

    message: str = Field(description="As Cohere's clients read it.")
    detail: str = Field(description="As Jina's and vLLM's clients read it.")
    error: str = Field(description="As text-embeddings-inference's clients read it.")
    error_type: str = Field(description="One word for programs.")
    request_id: str


def indices(numbers: Sequence[int], most: int = 20) -> str:
    """Numbers for a sentence, the first `most` of them."""
    shown = ", ".join(map(str, numbers[:most]))
    return f"{shown} and {len(numbers) - most} more" if len(numbers) > most else shown


# ---- Scores as JSON numbers that every known reader takes.
#
# OpenSearch's processor of Cohere-like answers casts each score to Java's Double. Its JSON reader makes an Integer of a
# number without a point and a BigDecimal of one longer than 18 characters, and either ends the search. So a score has
# a point, at most seven decimals and at most 18 characters.
DECIMALS = 7
LONGEST = 18
# From here on a plain number of seven decimals would be longer than 18 characters.
HUGE = 1e9


def json_number(value: float) -> str:
    """A finite number as a JSON literal with a decimal point: 0.93, 1.0, 0.0000042.

    Raises:
        ValueError: NaN or infinity, which JSON has not.
    """
    if not math.isfinite(value):
        raise ValueError("a score is not finite")
    if abs(value) >= HUGE:
        return f"{value:.8e}"
    plain = f"{value:.{DECIMALS}f}".rstrip("0")
    if plain.endswith("."):
        plain += "0"
    return "0.0" if plain == "-0.0" else plain


def json_text(value: Any) -> str:
    """Everything else as compact ASCII JSON."""
    return json.dumps(value, separators=(",", ":"))


def enveloped(answer: Answer, request_id: str, name: str, items: Iterable[str], **more: str) -> str:
    """An `Envelope` as JSON with `items`, JSON themselves, under `name`; without warnings that key is absent."""
    head = {"id": request_id, "model": answer.model, **more}
    meta: dict[str, Any] = {"tokens": {"input_tokens": answer.tokens}}
    if answer.warnings:
        meta["warnings"] = list(answer.warnings)
    rest = {"usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}, "meta": meta}
    return f'{json_text(head)[:-1]},"{name}":[{",".join(items)}],{json_text(rest)[1:]}'


# ---- The shape of Cohere, Jina and vLLM: `documents` in, `results` with `relevance_score` out.
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
        cut = self.max_tokens_per_doc
        return self.paired(self.model, self.query, self.documents, max_document_tokens=cut, warnings=warnings)

    def render(self, answer: Answer, request_id: str) -> str:
        """The answer as JSON, written by hand where numbers need their own form."""
        texts = self.documents if self.return_documents else None
        results = (
            f'{{"index":{index},"relevance_score":{json_number(answer.scores[index])}'
            + (f',"document":{{"text":{json_text(texts[index])}}}' if texts else "")
            + "}"
            for index in answer.order[: self.top_n]
        )
        return enveloped(answer, request_id, "results", results, object="list")


class Document(BaseModel):
    """A document's text."""

    text: str


class RerankResult(BaseModel):
    """A document by its position in the request, and its score."""

    index: int
    relevance_score: float
    document: Document | None = None


class RerankResponse(Envelope):
    """Results, best first."""

    object: str
    results: list[RerankResult]


# ---- Our own shape for scores without an order: `pairs` in, `scores` out.
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
        scores = answer.logits if self.raw_scores else answer.scores
        return enveloped(answer, request_id, "scores", map(json_number, scores))


class ScoreResponse(Envelope):
    """Scores in the order of the pairs."""

    scores: list[float]


# ---- The shape of Nvidia's rerankers: `passages` in, `rankings` with `logit` out.
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
        whole = self.truncate == "NONE"
        return self.paired(self.model, self.query.text, self.passages, field="passages", refuse_cuts=whole)

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


# ---- The shape of text-embeddings-inference: `texts` in, a bare list with `score` out.
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
        tail = None if side is None else side.lower() == "left"
        return self.paired(
            None, self.query, self.texts, field="texts", keep_tail=tail, refuse_cuts=self.truncate is False
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


Shape = RerankRequest | ScoreRequest | RankingRequest | TextsRequest


def shape_of(body: Any) -> str:
    """Which of the two shapes a body of /rerank has."""
    return "texts-shape" if isinstance(body, dict) and "texts" in body else "documents-shape"
