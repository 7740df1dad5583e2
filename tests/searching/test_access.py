"""What the commands open of each engine."""

from __future__ import annotations

import importlib

import pytest

from secondpass.errors import InvalidInput
from secondpass_searching.access import EngineAccess
from tests.searching.places import Place


def test_an_index_to_search_and_to_write(place: Place) -> None:
    """On the server that the environment names, or the one that is given, the names in messages the same."""
    access: EngineAccess = importlib.import_module(f"secondpass_{place.engine.command}.access").ACCESS
    place.create(dims=2)
    place.fill({"a": {"content": "cat"}})
    for url in (None, place.url):
        with access.searched(url, 30.0, place.name) as index, access.sink(url, 30.0, place.name) as sink:
            assert (len(index.hits({})), sink.count()) == (1, 1)
            assert index.name == sink.name == access.engine.at(f"{place.url}/{place.name}")
            assert sink.field_mapping("embedding") == index.field_mapping("embedding")
    with pytest.raises(InvalidInput, match="--url"), access.searched("nowhere", 30.0, place.name):
        pass
