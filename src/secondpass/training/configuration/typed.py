"""Plain values to frozen dataclasses, each by the type of its field; what does not fit is refused by key and line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from secondpass.errors import InvalidInput
from secondpass.training.configuration.yaml_document import KeyPath, YamlDocument

MadeT = TypeVar("MadeT")

# YAML 1.1, which PyYAML reads, takes 2e-5 for a text: its numbers need a point and a signed exponent.
EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
KINDS: dict[Any, str] = {list: "a list", dict: "a mapping"}


def made(kind: type[MadeT], document: YamlDocument, path: KeyPath = ()) -> MadeT:
    """Make the dataclass `kind` out of the mapping at `path` of a document.

    Fields are bool, int, float, str, Literal, None, Mapping[str, Any], dataclasses and tuples of these. One value may
    stand for a tuple of it.

    Raises:
        InvalidInput: a key is unknown (with the nearest that is known), missing, or its value has another type; or
            the dataclass refuses the values. The message begins with file and line.
    """
    values: Any = document.values
    for key in path:
        values = values[key]
    found: MadeT = _dataclass(kind, values, document, path)
    return found


def _dataclass(kind: Any, values: object, document: YamlDocument, path: KeyPath) -> Any:
    if not isinstance(values, Mapping):
        raise document.refuse(path, f"{dotted(path)} is {_named(values)}, not keys with values")
    known = {entry.name: entry for entry in fields(kind)}
    for key in values:
        if key not in known:
            raise document.refuse((*path, key), f"{dotted((*path, key))} is unknown{_hint(key, known, path)}")
    for name, entry in known.items():
        if name not in values and entry.default is MISSING and entry.default_factory is MISSING:
            raise document.refuse(path, f"{dotted((*path, name))} is missing")
    types = get_type_hints(kind)
    given = {key: _value(types[key], value, document, (*path, key)) for key, value in values.items()}
    try:
        return kind(**given)
    except InvalidInput as error:
        # Messages of settings begin with the name of the one that is refused.
        named = re.match(r"\w+", str(error))
        place = (*path, named.group()) if named and named.group() in known else path
        raise document.refuse(place, f"{dotted(path)}: {error}" if path else str(error)) from None


def _value(kind: Any, value: object, document: YamlDocument, path: KeyPath) -> Any:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _optional(kind, value, document, path)
    if is_dataclass(kind):
        return _dataclass(kind, value, document, path)
    if origin is tuple:
        (item, _) = get_args(kind)
        listed = value if isinstance(value, list) else [value]
        placed = [(path if listed is not value else (*path, index)) for index in range(len(listed))]
        return tuple(_value(item, each, document, place) for each, place in zip(listed, placed, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(value, document, path)
    if origin is Literal:
        return _choice(get_args(kind), value, document, path)
    return _scalar(kind, value, document, path)


def _optional(kind: Any, value: object, document: YamlDocument, path: KeyPath) -> Any:
    choices = [choice for choice in get_args(kind) if choice is not NoneType]
    if value is None:
        return None
    # A text that stands for a dataclass is read by the plain type beside it, where there is one.
    fitting = [choice for choice in choices if is_dataclass(choice) == isinstance(value, Mapping)]
    return _value((fitting or choices)[0], value, document, path)


def _scalar(kind: Any, value: object, document: YamlDocument, path: KeyPath) -> Any:
    if kind is float:
        number = float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            try:
                return float(number)
            except OverflowError:
                pass
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    quotes = " (in quotation marks it is a text)" if kind is str and not isinstance(value, (list, dict)) else ""
    raise document.refuse(path, f"{dotted(path)} is {_named(value)}, not {WORDS[kind]}{quotes}")


def _choice(choices: tuple[Any, ...], value: object, document: YamlDocument, path: KeyPath) -> Any:
    if value in choices:
        return value
    listed = ", ".join(map(str, choices))
    raise document.refuse(path, f"{dotted(path)} is {_named(value)}, none of {listed}{_nearest(value, choices)}")


def _mapping(value: object, document: YamlDocument, path: KeyPath) -> dict[str, Any]:
    """Plain values by name; their own types are the matter of whoever reads them."""
    if not isinstance(value, Mapping):
        raise document.refuse(path, f"{dotted(path)} is {_named(value)}, not keys with values")
    return {key: _plain(item, document, (*path, key)) for key, item in value.items()}


def _plain(value: object, document: YamlDocument, path: KeyPath) -> Any:
    if isinstance(value, list) and not any(isinstance(item, (list, dict)) for item in value):
        return [_plain(item, document, path) for item in value]
    if isinstance(value, str) and EXPONENT.fullmatch(value):
        return float(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    wanted = "a text, a number, true, false or a list of such"
    raise document.refuse(path, f"{dotted(path)} is {_named(value)}, not {wanted}")


def dotted(path: KeyPath) -> str:
    """A path as `--set` takes it: data.train.0.path."""
    return ".".join(map(str, path)) or "the file"


def _hint(key: str, known: Mapping[str, Any], path: KeyPath) -> str:
    near = get_close_matches(str(key), known, n=1)
    if near:
        return f"; did you mean {dotted((*path, near[0]))}?"
    return f"; known are {', '.join(known)}"


def _nearest(value: object, choices: tuple[Any, ...]) -> str:
    near = get_close_matches(str(value), [str(choice) for choice in choices], n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _named(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, (str, int, float)):
        return KINDS.get(type(value), f"a {type(value).__name__}")
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"
