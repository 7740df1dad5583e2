"""The kinds of fields that bodies of several shapes have: what is taken, and what OpenAPI says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    FailFast,
    Field,
    StringConstraints,
    Tag,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from secondpass.errors import InvalidInput
from secondpass.serving.problems import invalid
from secondpass.windows import Borders, Select, Windows

# Something beside the usual characters that show nothing, in a pattern short enough for whoever makes texts by it and
# written so that every dialect of regular expressions reads it. `text.is_blank` and the tokenizer know more of them.
SILENT = "0-20 7f-a0 ad-ad 1680-1680 2000-200f 2028-202f 205f-2064 2066-206f 3000-3000 feff-feff fffc-fffd"
ENDS = [[chr(int(end, 16)) for end in silent.split("-")] for silent in SILENT.split()]
SOMETHING = f"[^{''.join(f'{start}-{end}' for start, end in ENDS)}]"


def _whole(value: Any) -> Any:
    """JSON knows one kind of number: 3.0 is whole, and some clients write it so. True is none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(value: Any) -> Any:
    """JSON knows one kind of number: 1 is 1.0. True is none."""
    return float(value) if type(value) is int else value


def _limit(value: Any) -> Any:
    number = _whole(value)
    if number is None or (type(number) is int and (number == -1 or number in LIMITS)):
        return number
    raise PydanticCustomError("limit", f"is neither -1 nor a whole number from {LIMITS.start} up")


def _text(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("text"), str)):
        return value if isinstance(value, str) else value["text"]
    raise PydanticCustomError("document", "is neither a string nor an object with the string 'text'")


def listed(value: Any) -> Any:
    """One text is a list of it."""
    return [value] if isinstance(value, str) else value


def _object_with(text: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"text": dict(text)}, "required": ["text"]}


TEXT: Mapping[str, Any] = {"type": "string"}
NOT_BLANK: Mapping[str, Any] = {"type": "string", "pattern": SOMETHING}
# What OpenAPI says of a list of documents: one of them at least is not blank.
SOME_TEXT: dict[str, Any] = {"contains": dict(NOT_BLANK)}
SOME_OBJECT: dict[str, Any] = {"contains": _object_with(NOT_BLANK)}
SOME_EITHER: dict[str, Any] = {"contains": {"anyOf": [dict(NOT_BLANK), _object_with(NOT_BLANK)]}}
Text = Annotated[str, StringConstraints(strict=True)]
EITHER: Mapping[str, Any] = {"anyOf": [dict(TEXT), _object_with(TEXT)]}
TextOrObject = Annotated[str, BeforeValidator(_text), WithJsonSchema(dict(EITHER))]
SomeOrOne = Annotated[
    list[TextOrObject],
    FailFast(),
    Field(min_length=1),
    BeforeValidator(listed),
    WithJsonSchema(
        {"anyOf": [dict(NOT_BLANK), {"type": "array", "minItems": 1, "items": dict(EITHER), **SOME_EITHER}]}
    ),
]
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
Share = Annotated[Annotated[float, Field(strict=True, ge=0, le=1)] | None, BeforeValidator(_number)]
Query = Annotated[str, Field(description="What is asked; not blank.", json_schema_extra={"pattern": SOMETHING})]
ModelName = Annotated[
    str | None, Field(description="One of the names that /info lists; without it the first of them answers.")
]
Instruction = Annotated[str | None, Field(description="What the model is told to look for; else its own setting.")]


# A window of fewer tokens is no passage, and a request would be more windows than words.
SMALLEST_WINDOW = 32


class WindowsAsked(BaseModel):
    """How documents that are too long are read in windows; what is not said is as in `secondpass.windows.Windows`."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": False})

    tokens: Annotated[Annotated[int, Field(strict=True, ge=SMALLEST_WINDOW)] | None, BeforeValidator(_whole)] = Field(
        default=None, description="Of the document in a window; all that the query leaves when absent."
    )
    overlap: CountOrZero = Field(
        default=None, description="Tokens shared with the window before, half of them at most."
    )
    most: Count = Field(default=None, description="Windows read of a document; all when absent.")
    aggregate: Annotated[Literal["max"] | Annotated[int, Field(strict=True, ge=1)], BeforeValidator(_whole)] = Field(
        default="max", description="A document's logit: that of its best window, or the mean of so many."
    )
    borders: Borders = "sentences"
    select: Select = Field(default="first", description="Which windows are read where there are more than `most`.")

    def windows(self) -> Windows:
        """The engine's own word for it.

        Raises:
            Problem: 422, a field is none, or two do not go together.
        """
        if self.__pydantic_extra__:
            raise invalid(f"windows: has fields other than {', '.join(type(self).model_fields)}")
        try:
            return Windows(**self.model_dump())
        except InvalidInput as error:
            raise invalid(str(error)) from None


def _windows_shape(value: Any) -> str:
    return "flag-shape" if isinstance(value, bool) else "windows-shape"


WindowsWish = Annotated[
    Annotated[Annotated[bool, Tag("flag-shape")] | Annotated[WindowsAsked, Tag("windows-shape")],
              Discriminator(_windows_shape)]
    | None,
    Field(description="Read documents that are too long whole, in several windows; false: in one piece."),
]  # fmt: skip
