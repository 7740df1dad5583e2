"""The shapes of requests that order texts, and of answers: those of Cohere, Jina, vLLM, Voyage, Nvidia and TEI."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, RootModel

from secondpass.serving.fields import (
    SOME_EITHER,
    SOME_OBJECT,
    SOME_TEXT,
    SOMETHING,
    Count,
    CountOrZero,
    Instruction,
    ModelName,
    PairLimit,
    Query,
    Share,
    SomeOrOne,
    Text,
    TextObject,
    TextOrObject,
    WindowsAsked,
    WindowsWish,
)
from secondpass.serving.problems import invalid
from secondpass.serving.work import Answer, Work

FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


class Request(BaseModel):
    """A body; fields that it does not know are allowed, and the answer warns of them."""

    model_config = ConfigDict(extra="allow")

    windows: WindowsWish = None
    instruction: Instruction = None

    def pairs_of(self, model: str | None, queries: Sequence[str], documents: Sequence[str], **more: Any) -> Work:
        """Each query with the document at its place.

        Raises:
            Problem: the windows that are asked for cannot be.
        """
        windows = self.windows.windows() if isinstance(self.windows, WindowsAsked) else self.windows
        around = {"warnings": self.unknown(), "windows": windows, "instruction": self.instruction, **more}
        return Work(model, tuple(queries), tuple(documents), **around)

    @property
    def most(self) -> int | None:
        """How many results are wanted; None: all."""
        names = (name for name in ("top_n", "top_k") if name in type(self).model_fields)
        return next((getattr(self, name) for name in names), None) or None

    def unknown(self) -> tuple[str, ...]:
        """A warning for fields that have no effect here; a name that is no name is only counted."""
        given = [name for name, value in (self.__pydantic_extra__ or {}).items() if value is not None]
        if not given:
            return ()
        named = sorted(name for name in given if FIELD_NAME.fullmatch(name))[:10]
        return (f"unknown fields ignored: {', '.join(named) or len(given)}",)


class OrderRequest(Request):
    """A query with documents to order."""

    min_probability: Share = Field(
        default=None,
        description="Leave out documents that are less probably relevant; for models with a calibration.",
    )

    def paired(self, model: str | None, query: str, documents: Sequence[str], **more: Any) -> Work:
        """The query with each document; `more` are further fields of `Work`."""
        around = {"min_probability": self.min_probability, **more}
        return self.pairs_of(model, (query,) * len(documents), tuple(documents), **around)


class TokensRead(BaseModel):
    """What the model read."""

    input_tokens: int


VERDICT = "Whether, by the model's calibration, no document answers; absent where it has no rule for that."


class Meta(BaseModel):
    """Beside the answer: tokens, and what the client should know, such as cut documents."""

    tokens: TokensRead
    billed_units: dict[Literal["search_units"], int] | None = Field(
        default=None, description="What Cohere counts, beside `results`: a request is one search."
    )
    scored: int | None = Field(default=None, description="With a budget, documents that were scored or are blank.")
    complete: bool | None = Field(default=None, description="With a budget, whether all was scored.")
    nothing_relevant: bool | None = Field(default=None, description=VERDICT)
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
    if name == "results":
        # LangChain4j's Cohere client fails where it is not
        meta["billed_units"] = {"search_units": 1}
    if answer.scored is not None:
        meta |= {"scored": answer.scored, "complete": answer.complete}
    if answer.nothing_relevant is not None:
        meta["nothing_relevant"] = answer.nothing_relevant
    if answer.warnings:
        meta["warnings"] = list(answer.warnings)
    rest = {"usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}, "meta": meta}
    return f'{json_text(head)[:-1]},"{name}":[{",".join(items)}],{json_text(rest)[1:]}'


class PassageFound(BaseModel):
    """The best window of a document: its characters from `start` to `end`, and how many windows were read."""

    start: int
    end: int
    text: str
    score: float
    windows: int


def found(answer: Answer, index: int, document: str, passages: bool | None, logits: bool) -> str:
    """What stands beside a document's score: probability, passage if that is wanted, and that it was not scored."""
    made = ',"scored":false' if index in (answer.unscored or ()) else ""
    if index in answer.chances:
        value, low, high = map(json_number, answer.chances[index])
        made += f',"probability":{value},"probability_interval":[{low},{high}]'
    passage = answer.passages[index] if passages and answer.passages else None
    if passage is None:
        return made
    start, end, score = passage.start, passage.end, passage.logit if logits else passage.score
    told = f'"start":{start},"end":{end},"text":{json_text(document[start:end])},"score":{json_number(score)}'
    return f'{made},"passage":{{{told},"windows":{passage.windows}}}'


Interval = Annotated[list[float], Field(min_length=2, max_length=2)]
PROBABILITY = "That it is relevant, where the model has a calibration and has scored it."
INTERVAL = "Where that probability may lie."
RETURN_PASSAGES = "Tell the best window of each document that was read in windows."
NOT_SCORED = "False where the budget was spent before."

# What bodies of Voyage's clients have, and others have not.
VOYAGES: Mapping[str, Any] = {"anyOf": [{"required": ["top_k"]}, {"required": ["truncation"]}]}


# ---- The shape of Cohere, Jina and vLLM: `documents` in, `results` with `relevance_score` out.
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

    def cuts(self, per_document: int | None) -> dict[str, Any]:
        """The fields of `Work` that say what is read of a pair."""
        whole = self.truncate_prompt_tokens
        return {
            "max_document_tokens": per_document or None,
            "max_query_tokens": self.max_tokens_per_query or None,
            "max_tokens": None if whole == -1 else whole,
            "allow_cuts": whole is not None,
            "keep_tail": None if self.truncation_side is None else self.truncation_side == "left",
        }

    def scores(self, answer: Answer) -> tuple[float, ...]:
        """The model's own scores, or logits where they are asked for."""
        return answer.logits if self.use_activation is False else answer.scores


class RerankRequest(CuttingRequest, OrderRequest):
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
    max_chunks_per_doc: Count = Field(
        default=None, description="Windows read of a document that is too long; 1: it is read in one piece."
    )
    return_passages: bool | None = Field(default=None, strict=True, description=RETURN_PASSAGES)
    return_logits: bool | None = Field(default=None, strict=True, description="Tell each document's logit too.")
    rank_fields: list[str] | None = Field(
        default=None, description='Only ["text"] is understood.', json_schema_extra={"items": {"const": "text"}}
    )

    def work(self) -> Work:
        """The pairs to score.

        Raises:
            Problem: fields other than `text` should be read, or windows are asked for twice.
        """
        most = self.max_chunks_per_doc
        if most is not None and self.windows is not None:
            raise invalid("max_chunks_per_doc: windows.most says the same; give one of them")
        if any(name != "text" for name in self.rank_fields or ()):
            raise invalid("rank_fields: only 'text' can be ranked by; join the fields into it")
        more = self.cuts(self.max_tokens_per_doc) | {"passages": bool(self.return_passages)}
        if most is not None:
            more |= {"windows": most > 1, "most_windows": most}
        return self.paired(self.model, self.query, self.documents, **more)

    def render(self, answer: Answer, request_id: str) -> str:
        """The answer as JSON, written by hand where numbers need their own form."""
        told = self.tells_documents if self.return_documents is None else self.return_documents
        scores = self.scores(answer)
        results = (
            f'{{"index":{index},"relevance_score":{json_number(scores[index])}'
            + (f',"logit":{json_number(answer.logits[index])}' if self.return_logits else "")
            + (f',"document":{{"text":{json_text(self.documents[index])}}}' if told else "")
            + found(answer, index, self.documents[index], self.return_passages, self.use_activation is False)
            + "}"
            for index in answer.order[: self.most]
        )
        return enveloped(answer, request_id, "results", results, object="list")


class OpenRerankRequest(RerankRequest):
    """The same as vLLM and Jina mean it: documents are repeated unless that is refused, and 0 sets no limit."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["top_n"]}, {"not": dict(VOYAGES)}]})
    tells_documents = True

    documents: SomeOrOne = Field(description="Texts, or objects with `text`, or one text; not all blank.")
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
    logit: float | None = None
    document: Document | None = None
    scored: bool | None = Field(default=None, description=NOT_SCORED)
    probability: float | None = Field(default=None, description=PROBABILITY)
    probability_interval: Interval | None = Field(default=None, description=INTERVAL)
    passage: PassageFound | None = None


class RerankResponse(Envelope):
    """Results, best first."""

    object: str
    results: list[RerankResult]


# ---- The shape of Voyage: the same texts in, `data` out.
class VoyageRequest(OrderRequest):
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
    return_passages: bool | None = Field(default=None, strict=True, description=RETURN_PASSAGES)

    def work(self) -> Work:
        """The pairs to score."""
        cuts = {"refuse_cuts": self.truncation is False, "allow_cuts": self.truncation is True}
        return self.paired(self.model, self.query, self.documents, **cuts, passages=bool(self.return_passages))

    def render(self, answer: Answer, request_id: str) -> str:
        """The answer as JSON."""
        items = (
            f'{{"index":{index},"relevance_score":{json_number(answer.scores[index])}'
            + (f',"document":{json_text(self.documents[index])}' if self.return_documents else "")
            + found(answer, index, self.documents[index], self.return_passages, False)
            + "}"
            for index in answer.order[: self.most]
        )
        return enveloped(answer, request_id, "data", items, object="list")


class VoyagesOwnRequest(VoyageRequest):
    """Documents to order for a query, on a path where no field needs to tell the shape."""

    model_config = ConfigDict(json_schema_extra={})


class VoyageRank(BaseModel):
    """A document by its position in the request, and its score."""

    index: int
    relevance_score: float
    document: str | None = None
    scored: bool | None = Field(default=None, description=NOT_SCORED)
    probability: float | None = Field(default=None, description=PROBABILITY)
    probability_interval: Interval | None = Field(default=None, description=INTERVAL)
    passage: PassageFound | None = None


class VoyageResponse(Envelope):
    """Documents, best first."""

    object: str
    data: list[VoyageRank]


# ---- The shape of Nvidia's rerankers: `passages` in, `rankings` with `logit` out.
class QueryObject(BaseModel):
    """What is asked."""

    text: str = Field(description="Not blank.", json_schema_extra={"pattern": SOMETHING})


class RankingRequest(OrderRequest):
    """Passages to order for a query."""

    model: ModelName = None
    query: QueryObject
    passages: Annotated[list[TextObject], FailFast()] = Field(
        min_length=1, description="Not all blank.", json_schema_extra=SOME_OBJECT
    )
    truncate: Literal["NONE", "END"] | None = Field(default=None, description="NONE refuses pairs that would be cut.")
    top_k: Count = Field(default=None, description="How many; all when absent. Every passage is scored anyway.")

    def work(self) -> Work:
        """The pairs to score."""
        cuts = {"refuse_cuts": self.truncate == "NONE", "allow_cuts": self.truncate == "END"}
        return self.paired(self.model, self.query.text, self.passages, field="passages", **cuts)

    def render(self, answer: Answer, request_id: str) -> str:
        """The answer as JSON."""
        told = answer.order[: self.most]
        items = (f'{{"index":{index},"logit":{json_number(answer.logits[index])}}}' for index in told)
        return f'{{"rankings":[{",".join(items)}]}}'


class PassageRank(BaseModel):
    """A passage by its position in the request, and its logit."""

    index: int
    logit: float


class RankingResponse(BaseModel):
    """Passages, best first."""

    rankings: list[PassageRank]


# ---- The shape of text-embeddings-inference: `texts` in, a bare list with `score` out.
class TextsRequest(OrderRequest):
    """Texts to order for a query."""

    query: Query
    texts: Annotated[list[Text], FailFast()] = Field(
        min_length=1, description="Not all blank.", json_schema_extra=SOME_TEXT
    )
    raw_scores: bool | None = Field(default=None, strict=True, description="Logits instead of scores from 0 to 1.")
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
        cuts = {"refuse_cuts": self.truncate is False, "allow_cuts": self.truncate is True}
        return self.paired(None, self.query, self.texts, field="texts", keep_tail=tail, **cuts)

    def render(self, answer: Answer, request_id: str) -> str:
        """A bare list; readers such as Elasticsearch refuse any other field."""
        scores = answer.logits if self.raw_scores else answer.scaled
        items = (
            f'{{"index":{index},"score":{json_number(scores[index])}'
            + (f',"text":{json_text(self.texts[index])}' if self.return_text else "")
            + "}"
            for index in answer.order[: self.most]
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
