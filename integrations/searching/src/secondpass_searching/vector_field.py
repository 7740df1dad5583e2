"""Whether a field of an index takes the embeddings of a model, before one is made or searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secondpass.errors import InvalidInput
from secondpass_searching.engine import Engine
from secondpass_searching.searched_index import SearchedIndex


def check_vector_field(
    engine: Engine, name: str, mappings: Sequence[Mapping[str, Any]], field: str, dims: int | None = None
) -> None:
    """Refuse embeddings that the index would not take, or would take for something else.

    Args:
        engine: what the type of such a field is called.
        name: the index in messages.
        mappings: the field's mapping in each index that has it.
        field: where the embeddings are.
        dims: how long the model's embeddings are; None: not known yet.

    Raises:
        InvalidInput: no index has the field, or it holds something else, or embeddings of another length.
    """
    if not mappings:
        advice = f"`secondpass {engine.command} create NEW_INDEX --dims {dims or 'LENGTH'}` makes an index with one"
        raise InvalidInput(f"{name} has no field {field} for embeddings: {advice}")
    for mapping in mappings:
        kind, length = mapping.get("type"), mapping.get(engine.length_key)
        if kind != engine.vector_type:
            raise InvalidInput(f"{name}: the field {field} holds values of the type {kind}, not embeddings")
        if dims is not None and length is not None and length != dims:
            raise InvalidInput(
                f"{name}: the field {field} takes embeddings of {length} numbers, and those of --embedder have {dims}"
            )


def mappings_in(answer: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
    """The field's mapping in each index that has it, out of the answer to GET /INDEX/_mapping/field/FIELD."""
    described = [found["mappings"][field] for found in answer.values() if field in found.get("mappings", {})]
    # Inside, it stands under the last part of the field's name.
    return [next(iter(found["mapping"].values()), {}) for found in described]


def mappings_of(index: SearchedIndex, field: str) -> list[Mapping[str, Any]]:
    """The same, asked of an index; who may search but not look at mappings gets types without lengths.

    Raises:
        InvalidInput, SecondPassError: as `SearchedIndex.hits`.
    """
    answer = index.field_mapping(field)
    if answer is not None:
        return mappings_in(answer, field)
    return [{"type": kind} for kind in index.known_fields([field]).get(field, ())]
