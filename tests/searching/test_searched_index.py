"""What both engines' indexes tell of their fields."""

from __future__ import annotations

import pytest

from secondpass.errors import InvalidInput
from secondpass_searching.searched_index import require_fields
from tests.searching.places import Place


def test_fields_that_are_not_there(place: Place) -> None:
    """They would find nothing, silently."""
    index = place.create(dims=2)
    require_fields(index, ["content", "embedding"])
    where = f"{place.engine.title} {place.url}/{place.name}"
    with pytest.raises(InvalidInput, match=f"^{where} has no field body, vector: name the field"):
        require_fields(index, ["content", "body", "vector"])
    assert dict(index.known_fields(["embedding", "none"])) == {"embedding": [place.engine.vector_type]}


def test_an_index_that_is_not_there(place: Place) -> None:
    """Is told as such."""
    index = place.opened(f"{place.name}-missing")
    with pytest.raises(InvalidInput, match="no such index"):
        require_fields(index, ["content"])
    with pytest.raises(InvalidInput, match="no such index"):
        index.field_mapping("content")


def test_a_shard_that_fails_fails_the_search(place: Place) -> None:
    """Half an answer would look like a whole one: an alias over two indexes, one of which cannot run the query."""
    index = place.create(dims=2)
    place.fill({"a": {"content": "cat", "embedding": [1, 0]}})
    place.create(mappings={"embedding": {"type": "keyword"}}, suffix="-2")
    both = place.opened(f"{place.name}*")
    body = index.nearest([1.0, 0.0], "embedding", 5)
    assert len(index.hits(body)) == 1
    with pytest.raises(InvalidInput):
        both.hits(body)
