"""What callers hand over, checked: texts, pairs of them, numbers and choices.

First stage of the data path (text -> tokens -> batches -> logits -> ranking): any value in; safe text out, with broken
Unicode repaired and enormous texts capped. What is refused raises InvalidInput, whose message names `argument`.
"""

from __future__ import annotations

import math
import operator
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Set, Sized
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeGuard, TypeVar

import numpy as np
import numpy.typing as npt

from secondpass.errors import InvalidInput

# A document is cut to its first tokens anyway; tokenising 20 MB of it first takes half a minute. No ordinary
# text has tokens of 250 characters on average, so the tokens that count are inside (text-embeddings-inference
# has the same ceiling).
CHARACTERS_PER_TOKEN = 250

# Unicode's general categories of marks (which say something only on a character), separators, control and format
# characters and surrogates. What is private or not assigned yet may be a letter to whoever wrote it.
SILENT_CATEGORIES = frozenset({"Mn", "Mc", "Me", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs"})
# Letters and symbols by category that show nothing: fillers, the empty Braille pattern, and what stands for a character
# that could not be read.
SILENT_CHARACTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0\ufffc\ufffd")
# What HTML does not allow: control characters, and halves of surrogate pairs.
UNSHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
# Where most texts have said something; every further look is at so many times as much.
BEGINNING = 32
LONGER = 8
FEW = 10_000

Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True, slots=True)
class Text:
    """A text that can be tokenised; `skipped` characters lay beyond the ceiling."""

    value: str
    skipped: int = 0


def is_blank(text: str) -> bool:
    """Whether a text says nothing: it has no letter, digit, punctuation mark or symbol.

    White space, control characters, zero-width and other format characters (U+200B, U+FEFF, U+00AD), lone surrogates
    and U+FFFD are nothing, whatever a tokenizer makes of them. Every door of the library asks this one question.
    """
    first = text[:1]
    if first.isascii() and first.isalnum():
        return False
    start, step = 0, BEGINNING
    while start < len(text):
        if any(map(_says, _characters(text[start : start + step]))):
            return False
        start, step = start + step, LONGER * step
    return True


def _characters(text: str) -> Iterable[str]:
    """The different characters of a text; a set of a megabyte of them takes long."""
    if len(text) < FEW:
        return set(text)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return map(chr, np.flatnonzero(np.bincount(codes, minlength=1)))


def _says(character: str) -> bool:
    return unicodedata.category(character) not in SILENT_CATEGORIES and character not in SILENT_CHARACTERS


def readable(text: str) -> str:
    """The text as a model should read it: a blank one is empty, so that a megabyte of line feeds costs nothing."""
    return "" if is_blank(text) else text


def checked(value: object, argument: str) -> str:
    """Return `value` if it is a str; refuses anything else."""
    if not isinstance(value, str):
        raise InvalidInput(f"{argument} is {type(value).__name__}, not str")
    return str(value)


def checked_query(value: object, argument: str = "query") -> str:
    """Return `value` if it is a str that says something: all documents would get the score of an empty question."""
    query = checked(value, argument)
    if is_blank(query):
        raise InvalidInput(f"{argument} is blank")
    return query


def materialised(values: object, argument: str, wanted: str) -> list[object]:
    """Read any ordered iterable once; the message says what is `wanted`.

    Refuses a plain str (its characters are no texts), a dict or a set (their elements have no index), and a table of
    pandas or polars, which gives its columns.
    """
    if hasattr(values, "columns"):
        raise InvalidInput(
            f"{argument} is {type(values).__name__}, a table, not {wanted}: give a column, or rows as lists"
        )
    if isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping, set, frozenset)):
        return list(values)
    raise InvalidInput(f"{argument} is {type(values).__name__}, not {wanted}")


def checked_documents(values: object, argument: str = "documents") -> list[str]:
    """Materialise any ordered iterable of str once; refuses anything else, and names an element that is no str."""
    items = materialised(values, argument, "a sequence of str")
    return [checked(item, f"{argument}[{index}]") for index, item in enumerate(items)]


def prepared(value: str, max_tokens: int, keep_tail: bool = False) -> Text:
    """Cap at the character ceiling of `max_tokens` tokens, then replace lone surrogates by U+FFFD."""
    ceiling = CHARACTERS_PER_TOKEN * max_tokens
    kept = value[-ceiling:] if keep_tail else value[:ceiling]
    return Text(repaired(kept), skipped=len(value) - len(kept))


def repaired(value: str) -> str:
    """Replace lone surrogates by U+FFFD, for tokenizers take UTF-8, and join split pairs to the character they are.

    In whole arrays: Python's codecs call a function for each surrogate, and a text may have millions.
    """
    if value.isascii():
        return value
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        pass
    else:
        return value
    codes = np.array([value]).view(np.uint32)
    high, low = codes >> 10 == 0xD800 >> 10, codes >> 10 == 0xDC00 >> 10
    (first,) = np.nonzero(high[:-1] & low[1:])
    joined = 0x10000 + ((codes[first] & 0x3FF) << 10) + (codes[first + 1] & 0x3FF)
    codes[high | low] = 0xFFFD
    codes[first] = joined
    return np.delete(codes, first + 1).astype("<u4").tobytes().decode("utf-32-le")


def places_of_repaired(value: str) -> npt.NDArray[np.intp]:
    """Where each character of `repaired(value)` stands in `value`, [characters + 1] with the end."""
    codes = np.array([value]).view(np.uint32)
    high, low = codes >> 10 == 0xD800 >> 10, codes >> 10 == 0xDC00 >> 10
    (first,) = np.nonzero(high[:-1] & low[1:])
    return np.delete(np.arange(len(value) + 1), first + 1)


def columns_of(sentences: object) -> tuple[list[list[str]], bool]:
    """Stripped texts by column ([queries, documents], or one column of single texts), and if it was one pair.

    The seed's rules: a first element that is a str makes the whole input one pair; the first pair decides how
    many texts each has; every text is stripped. Refuses, with the index, uneven pairs and a text that is no str.
    """
    rows: list[Any] = materialised(sentences, "sentences", "a pair or a sequence of pairs")
    if not rows:
        return [[], []], False
    single = isinstance(rows[0], str)
    if single:
        rows = [rows]
    width = width_of(rows[0], "sentences", 0)
    columns: list[list[str]] = [[] for _ in range(width)]
    for index, row in enumerate(rows):
        if width_of(row, "sentences", index) != width:
            raise InvalidInput(f"sentences[{index}] has {len(row)} texts where sentences[0] has {width}")
        for column, value in enumerate(row):
            name = f"sentences[{column}]" if single else f"sentences[{index}][{column}]"
            columns[column].append(checked(value, name).strip())
    return columns, single


def width_of(row: object, argument: str, index: int) -> int:
    """How many texts a row has: two, or one for a model that takes one.

    Raises:
        InvalidInput: it is no list, tuple, array or the like of so many; the message names `argument` and `index`.
    """
    if not is_row(row):
        raise InvalidInput(f"{argument}[{index}] is {type(row).__name__}, not a pair of texts")
    if len(row) not in (1, 2):
        raise InvalidInput(f"{argument}[{index}] has {len(row)} texts, not one or two")
    return len(row)


def is_row(value: object) -> TypeGuard[Collection[Any]]:
    """Whether something has texts in an order: a list, tuple or array, a column or row of a table."""
    if isinstance(value, (list, tuple)):
        return True
    if isinstance(value, (str, bytes, Mapping, Set)) or hasattr(value, "columns") or getattr(value, "shape", 0) == ():
        return False
    return isinstance(value, Sized) and isinstance(value, Iterable)


def positive_int(value: Any, argument: str) -> int:
    """Return `value` as an int if it is a whole number above zero, numpy's included; refuses all else, bool too."""
    number = _index(value)
    if number < 1:
        raise InvalidInput(f"{argument}={value!r} is not a positive int")
    return number


def whole_number(value: Any, argument: str) -> int:
    """The same from 0 on."""
    number = _index(value)
    if number < 0:
        raise InvalidInput(f"{argument}={value!r} is not a whole number from 0 on")
    return number


def _index(value: Any) -> int:
    """A whole number as an int; -1 for anything else, bool too."""
    try:
        return -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return -1


def positive_number(value: Any, argument: str) -> float:
    """Return `value` as a float if it is a finite number above zero, numpy's included; refuses all else, bool too."""
    number = finite_number(value, argument)
    if number <= 0:
        raise InvalidInput(f"{argument}={value!r} is not above 0")
    return number


def finite_number(value: Any, argument: str) -> float:
    """Return `value` as a float if it is a finite number, numpy's included; refuses all else, bool too."""
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an int beyond float64
            pass
    if not math.isfinite(number):
        raise InvalidInput(f"{argument}={value!r} is not a finite number")
    return number


def share(value: Any, argument: str) -> float:
    """Return `value` as a float if it is a number between 0 and 1, both excluded."""
    number = finite_number(value, argument)
    if not 0 < number < 1:
        raise InvalidInput(f"{argument}={value!r} is not between 0 and 1")
    return number


def choice(value: object, choices: Collection[Choice], argument: str) -> Choice:
    """Return the one of `choices` that `value` is; refuses all else, with a list of them."""
    for known in choices:
        if isinstance(value, str) and known == value:
            return known
    raise InvalidInput(f"{argument}={value!r} is none of {', '.join(choices)}")
