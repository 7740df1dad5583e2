"""Embeddings that an index does not take are refused with what to do."""

from __future__ import annotations

import pytest

from secondpass.errors import InvalidInput
from secondpass_searching.vector_field import check_vector_field, mappings_of
from tests.searching.places import Place


def check(place: Place, name: str, field: str = "embedding", dims: int | None = None) -> None:
    """Ask the server and judge."""
    check_vector_field(place.engine, "NAME", mappings_of(place.opened(name), field), field, dims)


def test_what_fits(place: Place) -> None:
    """Of the length, or before a length is known; by an alias too."""
    place.create(dims=3)
    check(place, place.name)
    check(place, place.name, dims=3)
    place.client.indices.put_alias(index=place.name, name=f"{place.name}-alias")
    check(place, f"{place.name}-alias", dims=3)


def test_what_does_not_fit(place: Place) -> None:
    """No such field, another type, another length, each with what is there."""
    place.create(dims=3)
    with pytest.raises(InvalidInput, match=r"NAME: the field embedding takes embeddings of 3 numbers, and those .* 4"):
        check(place, place.name, dims=4)
    with pytest.raises(InvalidInput, match="NAME: the field content holds values of the type text, not embeddings"):
        check(place, place.name, "content")
    advice = f"`secondpass {place.engine.command} create NEW_INDEX --dims 4`"
    with pytest.raises(InvalidInput, match=f"NAME has no field vectors for embeddings: {advice}"):
        check(place, place.name, "vectors", 4)


def test_fields_inside_objects(place: Place) -> None:
    """By their dotted name; every index of an alias must fit."""
    vector = {"type": place.engine.vector_type, place.engine.length_key: 2}
    place.create(mappings={"meta": {"properties": {"vector": vector}}}, suffix="-1")
    check(place, f"{place.name}-1", "meta.vector", 2)
    place.create(mappings={"meta": {"properties": {"vector": {"type": "float"}}}}, suffix="-2")
    with pytest.raises(InvalidInput, match="type float"):
        check(place, f"{place.name}-*", "meta.vector", 2)
