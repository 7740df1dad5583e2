"""A YAML file as plain values that know on which line they stand, so that a refusal can say where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from secondpass.errors import InvalidInput

KeyPath = tuple[str | int, ...]
"""Keys and positions from the top: ("data", "train", 0, "path")."""
LONGEST = 1_000_000


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """Values of a file, and where they come from.

    Attributes:
        values: what the file holds: a mapping.
        source: what messages call the file.
        places: where each value stands, "train.yaml:12" or "--set epochs=3".
    """

    values: dict[str, Any]
    source: str
    places: Mapping[KeyPath, str] = field(default_factory=dict)

    def refuse(self, path: KeyPath, reason: str) -> InvalidInput:
        """The error for the value at `path`, or for what it is missing from; to be raised."""
        known = next((path[:size] for size in range(len(path), 0, -1) if path[:size] in self.places), ())
        return InvalidInput(f"{self.places.get(known, self.source)}: {reason}")


def read_document(text: str, source: str) -> YamlDocument:
    """Read one mapping out of YAML; no tag makes an object.

    Raises:
        InvalidInput: it is no YAML, no mapping, longer than a million characters, or a key comes twice or is no text.
    """
    if len(text) > LONGEST:
        raise InvalidInput(f"{source}: {len(text):,} characters are no configuration")
    try:
        values = yaml.safe_load(text)
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InvalidInput(f"{source}{line}: not YAML: {reason}") from None
    # A date that is none ("2024-99-99") and nesting without end raise errors of their own.
    except (ValueError, RecursionError, TypeError) as error:
        raise InvalidInput(f"{source}: not YAML that can be read: {error}") from None
    if not isinstance(values, dict) or node is None:
        raise InvalidInput(f"{source}: {'empty' if values is None else type(values).__name__}, not a mapping of keys")
    places: dict[KeyPath, str] = {}
    _walk(node, (), source, places, set())
    return YamlDocument(values, source, places)


def _walk(node: yaml.Node, path: KeyPath, source: str, places: dict[KeyPath, str], seen: set[int]) -> None:
    """Note the line of every value; one that an alias repeats is looked into once, so none can grow without end."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            place = f"{source}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith((":str", ":merge")):
                raise InvalidInput(f"{place}: a key is no text (on, off, yes, no and numbers need quotation marks)")
            if key.value in keys:
                raise InvalidInput(f"{place}: {key.value!r} was given before")
            keys.add(key.value)
            places[(*path, key.value)] = place
            _walk(value, (*path, key.value), source, places, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            places[(*path, index)] = f"{source}:{value.start_mark.line + 1}"
            _walk(value, (*path, index), source, places, seen)
