"""Rows out of Python objects: datasets of Hugging Face (streamed too), any mappings, InputExamples, groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from secondpass.errors import InvalidInput
from secondpass.training.data.groups import Group
from secondpass.training.data.rows import Row
from secondpass.training.data.streams import Item


def items_of(source: object) -> Iterator[Item]:
    """What an iterable holds, each element by its kind; a row's source is its index from 0, "rows[7]".

    Taken are mappings of columns (what a `datasets.Dataset` or `IterableDataset` gives), examples (any object with
    `texts` and `label`, as `InputExample`), which become groups of one document, and groups.

    Raises:
        InvalidInput: `source` is no iterable of such things. An element of another kind is given back as the error,
            in its place.
    """
    if isinstance(source, (str, bytes, Mapping, set, frozenset)) or not isinstance(source, Iterable):
        raise InvalidInput(f"source is {type(source).__name__}, neither a file, a folder, a dataset nor a list of rows")
    return (_item(element, f"rows[{index}]") for index, element in enumerate(source))


def _item(element: Any, name: str) -> Item:
    if isinstance(element, Group):
        return element
    if isinstance(element, Mapping):
        return Row(name, element)
    if hasattr(element, "texts") and hasattr(element, "label"):
        try:
            return _pair(element, name)
        except InvalidInput as error:
            return error
    return InvalidInput(f"{name} is {type(element).__name__}, neither a mapping of columns nor an InputExample")


def _pair(example: Any, name: str) -> Group:
    guid = getattr(example, "guid", "")
    named = f"{name} (guid {guid!r})" if guid else name
    texts, label = example.texts, example.label
    if not isinstance(texts, (list, tuple)) or len(texts) != 2 or not all(isinstance(text, str) for text in texts):
        raise InvalidInput(f"{named}: texts is no list of two str, the query and the document")
    if hasattr(label, "item"):
        label = label.item()
    if not isinstance(label, (int, float)):
        raise InvalidInput(f"{named} has a label of type {type(label).__name__}, not a number")
    return Group(texts[0], (texts[1],), (float(label),), named)
