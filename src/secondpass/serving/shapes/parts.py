"""Parts of requests and answers that several APIs share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from secondpass.record import Cut

FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
# What is not blank to `text.is_blank`, as far as a pattern can say it that every dialect of regular expressions reads:
# controls, spaces, formats, marks, private use, and planes without characters. Scattered marks and gaps are left out.
SILENT = (
    "0-20 7f-a0 ad-ad 300-36f 483-489 1ab0-1aff 1dc0-1dff 2000-200f 2028-202f 205f-206f 20d0-20ff e000-f8ff fdd0-fdef "
    "fe00-fe0f fe20-fe2f feff-feff ffa0-ffa0 fff0-fffd 14647-167ff 16b90-16e3f 18d09-1afef 1b2fc-1bbff 1bca0-1cf4f "
    "1da8c-1deff 1e300-1e4cf 1e500-1e7df 1e960-1ec70 1fbfa-1ffff 2ebf0-2f7ff 2fa1e-2ffff 323b0-10ffff"
)
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


class Tokens(BaseModel):
    """What the model read."""

    input_tokens: int


class Meta(BaseModel):
    """Beside the answer: tokens, and what the client should know, such as cut documents."""

    tokens: Tokens
    warnings: list[str] | None = None


class Usage(BaseModel):
    """Tokens that the model read; equal pairs are read once."""

    prompt_tokens: int
    total_tokens: int


class ErrorBody(BaseModel):
    """Why there is no answer: the same sentence under the names that clients of each API read."""

    message: str = Field(description="As Cohere's clients read it.")
    detail: str = Field(description="As Jina's and vLLM's clients read it.")
    error: str = Field(description="As text-embeddings-inference's clients read it.")
    error_type: str = Field(description="One word for programs.")
    request_id: str


def meta_of(answer: Answer) -> dict[str, Any]:
    """`Meta` as a dict; without warnings the key is absent."""
    meta: dict[str, Any] = {"tokens": {"input_tokens": answer.tokens}}
    return meta | ({"warnings": list(answer.warnings)} if answer.warnings else {})


def usage_of(answer: Answer) -> dict[str, int]:
    """`Usage` as a dict."""
    return {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}


def indices(numbers: Sequence[int], most: int = 20) -> str:
    """Numbers for a sentence, the first `most` of them."""
    shown = ", ".join(map(str, numbers[:most]))
    return f"{shown} and {len(numbers) - most} more" if len(numbers) > most else shown
