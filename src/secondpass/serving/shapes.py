"""The shapes of requests that order texts, and of answers: those of Cohere, Jina, vLLM, Voyage, Nvidia and TEI."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    RootModel,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from secondpass.record import Cut
from secondpass.serving.problems import invalid

FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
# Something beside the usual characters that show nothing, in a pattern short enough for whoever makes texts by it and
# written so that every dialect of regular expressions reads it. `text.is_blank` and the tokenizer know more of them.
SILENT = "0-20 7f-a0 ad-ad 1680-1680 2000-200f 2028-202f 205f-2064 2066-206f 3000-3000 feff-feff fffc-fffd"
ENDS = [[chr(int(end, 16)) for end in silent.split("-")] for silent in SILENT.split()]
SOMETHING = f"[^{''.join(f'{start}-{end}' for start, end in ENDS)}]"


@dataclass(frozen=True, slots=True)
class Work:
    """Pairs to score for one request: queries[i] with documents[i].

    `max_document_tokens`, `max_query_tokens`, `max_tokens` and `keep_tail` are those of `CutPolicy`; None leaves that
    and the `instruction` to the model. `refuse_cuts` makes any cut an error. `field`: the client's word for documents.
    """

    model: str | None
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    field: str = "documents"
    max_document_tokens: int | None = None
    max_query_tokens: int | None = None
    max_tokens: int | None = None
    keep_tail: bool | None = None
    refuse_cuts: bool = False
    warnings: tuple[str, ...] = ()
    instruction: str | None = None

    def asked(self, index: int) -> str:
        """What the client calls the query of pair `index`."""
        return {"pairs": f"pairs[{index}][0]", "text_2": f"text_1[{index}]"}.get(self.field, "query")


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


def _limit(value: Any) -> Any:
    number = _whole(value)
    if number is None or (type(number) is int and (number == -1 or number in LIMITS)):
        return number
    raise PydanticCustomError("limit", f"is neither -1 nor a whole number from {LIMITS.start} up")


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
CountOrZero = Annotated[Annotated[int, Field(strict=True, ge=0)] | None, BeforeValidator(_whole)]
# Fewer tokens than special tokens and a word or two of each text take are no pair.
LIMITS = range(8, 2**31)
PairLimit = Annotated[
    int | None,
    BeforeValidator(_limit),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": LIMITS.start, "maximum": LIMITS.stop - 1},
                {"const": -1},
                {"type": "null"},
            ]
        }
    ),
]
Query = Annotated[str, Field(description="What is asked; not blank.", json_schema_extra={"pattern": SOMETHING})]
ModelName = Annotated[
    str | None, Field(description="One of the names that /info lists; without it the first of them answers.")
]
Instruction = Annotated[str | None, Field(description="What the model is told to look for; else its own setting.")]


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
    """Indices for a sentence, called so, the first `most` of them: a bare 0 would read as none."""
    shown = f"{'index' if len(numbers) == 1 else 'indices'} {', '.join(map(str, numbers[:most]))}"
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


def enveloped(answer: Answer, request_id: str, name: str, items: Iterable[str], **more: Any) -> str:
    """An `Envelope` as JSON with `items`, JSON themselves, under `name`; without warnings that key is absent."""
    head = {"id": request_id, "model": answer.model, **more}
    meta: dict[str, Any] = {"tokens": {"input_tokens": answer.tokens}}
    if answer.warnings:
        meta["warnings"] = list(answer.warnings)
    rest = {"usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}, "meta": meta}
    return f'{json_text(head)[:-1]},"{name}":[{",".join(items)}],{json_text(rest)[1:]}'


# What bodies of Voyage's clients have, and others have not.
VOYAGES: Mapping[str, Any] = {"anyOf": [{"required": ["top_k"]}, {"required": ["truncation"]}]}

# ---- The shape of Cohere, Jina and vLLM: `documents` in, `results` with `relevance_score` out.
WHOLE = "max_chunks_per_doc has no effect: documents are read in one piece"


class CuttingRequest(Request):
    """What vLLM's clients say of long texts and of scores."""

    truncate_prompt_tokens: PairLimit = Field(
        default=None, description="Tokens read of a pair, special ones included; -1 as many as the window has."
    )
    truncation_side: Literal["left", "right"] | None = Field(
        default=None, description="Which end of a text that is too long goes; the model's own habit when absent."
    )
    max_tokens_per_query: CountOrZero = Field(default=None, description="First tokens read of a query; 0 is all.")
    use_activation: bool | None = Field(default=None, strict=True, description="False gives logits.")
    instruction: Instruction = None

    def cuts(self, per_document: int | None) -> dict[str, Any]:
        """The fields of `Work` that say what is read, and how."""
        whole = self.truncate_prompt_tokens
        return {
            "max_document_tokens": per_document or None,
            "max_query_tokens": self.max_tokens_per_query or None,
            "max_tokens": None if whole == -1 else whole,
            "keep_tail": None if self.truncation_side is None else self.truncation_side == "left",
            "instruction": self.instruction,
        }

    def scores(self, answer: Answer) -> tuple[float, ...]:
        """The model's own scores, or logits where they are asked for."""
        return answer.logits if self.use_activation is False else answer.scores


class RerankRequest(CuttingRequest):
    """Documents to order for a query."""

    tells_documents: ClassVar[bool] = False

    model: ModelName = None
    query: Query
    documents: Annotated[list[TextOrObject], FailFast()] = Field(
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
        cuts = self.cuts(self.max_tokens_per_doc)
        return self.paired(self.model, self.query, self.documents, warnings=warnings, **cuts)

    def render(self, answer: Answer, request_id: str) -> str:
        """The answer as JSON, written by hand where numbers need their own form."""
        told = self.tells_documents if self.return_documents is None else self.return_documents
        scores = self.scores(answer)
        results = (
            f'{{"index":{index},"relevance_score":{json_number(scores[index])}'
            + (f',"document":{{"text":{json_text(self.documents[index])}}}' if told else "")
            + "}"
            for index in answer.order[: self.top_n or None]
        )
        return enveloped(answer, request_id, "results", results, object="list")


class OpenRerankRequest(RerankRequest):
    """The same as vLLM and Jina mean it: documents are repeated unless that is refused, and 0 sets no limit."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["top_n"]}, {"not": dict(VOYAGES)}]})
    tells_documents = True

    top_n: CountOrZero = Field(default=None, description="How many results; all when absent or 0.")
    return_documents: bool | None = Field(default=None, strict=True, description="False leaves the texts out.")
    max_tokens_per_doc: CountOrZero = Field(default=None, description="First tokens read of a document; 0 is all.")


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


# ---- The shape of Voyage: the same texts in, `data` out.
class VoyageRequest(Request):
    """Documents to order for a query; told from the shape above by `top_k` or `truncation`, without `top_n`."""

    model_config = ConfigDict(json_schema_extra={**VOYAGES, "not": {"required": ["top_n"]}})

    model: ModelName = None
    query: Query
    documents: Annotated[list[TextOrObject], FailFast()] = Field(
        min_length=1, description="Texts, or objects with `text`; not all blank.", json_schema_extra=SOME_EITHER
    )
    top_k: Count = Field(default=None, description="How many; all when absent. Every document is scored anyway.")
    return_documents: bool | None = Field(default=None, strict=True, description="Repeat each document's text.")
    truncation: bool | None = Field(default=None, strict=True, description="False refuses pairs that would be cut.")

    def work(self) -> Work:
        """The pairs to score."""
        return self.paired(self.model, self.query, self.documents, refuse_cuts=self.truncation is False)

    def render(self, answer: Answer, request_id: str) -> str:
        """The answer as JSON."""
        items = (
            f'{{"index":{index},"relevance_score":{json_number(answer.scores[index])}'
            + (f',"document":{json_text(self.documents[index])}' if self.return_documents else "")
            + "}"
            for index in answer.order[: self.top_k]
        )
        return enveloped(answer, request_id, "data", items, object="list")


class VoyageRank(BaseModel):
    """A document by its position in the request, and its score."""

    index: int
    relevance_score: float
    document: str | None = None


class VoyageResponse(Envelope):
    """Documents, best first."""

    object: str
    data: list[VoyageRank]


# ---- The shape of Nvidia's rerankers: `passages` in, `rankings` with `logit` out.
class QueryObject(BaseModel):
    """What is asked."""

    text: str = Field(description="Not blank.", json_schema_extra={"pattern": SOMETHING})


class RankingRequest(Request):
    """Passages to order for a query."""

    model: ModelName = None
    query: QueryObject
    passages: Annotated[list[TextObject], FailFast()] = Field(
        min_length=1, description="Not all blank.", json_schema_extra=SOME_OBJECT
    )
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
    texts: Annotated[list[Text], FailFast()] = Field(
        min_length=1, description="Not all blank.", json_schema_extra=SOME_TEXT
    )
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


def documents_shape_of(body: Any) -> str:
    """Which of the two shapes with documents a body has."""
    is_voyage = isinstance(body, dict) and ("top_k" in body or "truncation" in body) and "top_n" not in body
    return "voyage-shape" if is_voyage else "documents-shape"


def shape_of(body: Any) -> str:
    """Which of the three shapes a body of /rerank has."""
    return "texts-shape" if isinstance(body, dict) and "texts" in body else documents_shape_of(body)
