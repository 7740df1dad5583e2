"""Checks of component parameters: a YAML file may put any object anywhere, so every value's type is proved.

Messages name the parameter and the type that came, never the value of something that could be secret.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real
from pathlib import Path
from typing import TypeVar

from haystack.utils import ComponentDevice, Secret

from secondpass.errors import InvalidInput
from secondpass.relevance import Relevance

ChoiceT = TypeVar("ChoiceT", bound=str)


def _refuse(name: str, value: object, wanted: str) -> InvalidInput:
    return InvalidInput(f"{name} is {type(value).__name__}, not {wanted}")


def text(name: str, value: object) -> str:
    """Return `value` if it is a str.

    Raises:
        InvalidInput: it is not, as with a nested `{type: ...}` object of a YAML file.
    """
    if not isinstance(value, str):
        raise _refuse(name, value, "str")
    return value


def model_name(name: str, value: object) -> str:
    """Return a model's name or path as a str."""
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str):
        raise _refuse(name, value, "str or Path")
    if not value.strip():
        raise InvalidInput(f"{name} is blank")
    return value


def optional_path(name: str, value: object) -> str | None:
    """Return None, or a path as a str; whether it exists is asked when it is read."""
    return None if value is None else model_name(name, value)


def flag(name: str, value: object) -> bool:
    """Return `value` if it is a bool; 0, 1 and "false" are not."""
    if not isinstance(value, bool):
        raise _refuse(name, value, "bool")
    return value


def positive(name: str, value: object) -> int:
    """Return `value` as an int above 0."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise _refuse(name, value, "int")
    if value <= 0:
        raise InvalidInput(f"{name} must be > 0, but got {value}")
    return int(value)


def not_negative(name: str, value: object) -> int:
    """Return `value` as an int of at least 0."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise _refuse(name, value, "int")
    if value < 0:
        raise InvalidInput(f"{name} must be >= 0, but got {value}")
    return int(value)


def optional_positive(name: str, value: object) -> int | None:
    """Return None, or `value` as an int above 0."""
    return None if value is None else positive(name, value)


def optional_number(name: str, value: object) -> float | None:
    """Return None, or `value` as a float that is not NaN: no score would ever reach NaN."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _refuse(name, value, "float")
    if math.isnan(value):
        raise InvalidInput(f"{name} is NaN")
    return float(value)


def choice(name: str, value: object, choices: Collection[ChoiceT]) -> ChoiceT:
    """Return the one of `choices` that `value` is."""
    wanted = text(name, value)
    for known in choices:
        if known == wanted:
            return known
    raise InvalidInput(f"{name}={wanted!r} is not one of {', '.join(map(repr, choices))}")


def optional_choice(name: str, value: object, choices: Collection[ChoiceT]) -> ChoiceT | None:
    """Return None, or the one of `choices` that `value` is."""
    return None if value is None else choice(name, value, choices)


def relevance(name: str, value: object) -> Relevance | None:
    """Return None, "expected" or the index of a label; whether the model has that label is asked when it is loaded."""
    if value is None or value == "expected":
        return None if value is None else "expected"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidInput(f"{name}={value!r} is neither 'expected' nor the index of a label")
    return not_negative(name, value)


def field_names(name: str, value: object) -> list[str]:
    """Return a list of str; None is the empty list, a plain str is refused."""
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise _refuse(name, value, "a list of str")
    return [text(f"{name}[{index}]", item) for index, item in enumerate(value)]


def secret(name: str, value: object) -> Secret | None:
    """Return None or a Secret; a plain token is refused without being shown."""
    if value is not None and not isinstance(value, Secret):
        raise _refuse(name, value, "a Secret such as {type: env_var, env_vars: [HF_TOKEN], strict: false}")
    return value


def device(name: str, value: object) -> ComponentDevice | str | None:
    """Return a request for one device as it was made: None, a ComponentDevice or a name like "cuda:0"."""
    if value is None:
        return None
    try:
        if isinstance(value, str):
            ComponentDevice.from_str(value)
            return value
        if isinstance(value, ComponentDevice):
            value.to_torch_str()
            return value
    except ValueError as error:
        raise InvalidInput(f"{name}: {error}") from error
    raise _refuse(name, value, "ComponentDevice or str")
