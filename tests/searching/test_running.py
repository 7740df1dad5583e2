"""`index` and `search` behind their command lines, on real servers."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass_indexing.errors import TooBusy
from secondpass_indexing.indexing import IndexingRequest
from secondpass_indexing.run_files import RunFiles
from secondpass_indexing.settings import IndexingSettings
from secondpass_searching.candidates import FirstPass
from secondpass_searching.running import SearchRequest, run_index, run_search
from tests.searching.places import Place


def never() -> NoReturn:
    """A model that must not be loaded."""
    raise AssertionError("loaded")


def test_a_busy_server_is_waited_for_before_the_model_is_loaded(
    place: Place, beir: Path, minilm: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with every later request; then the corpus goes in with embeddings."""
    place.create(dims=384)
    access = importlib.import_module(f"secondpass_{place.engine.command}.access").ACCESS
    with access.sink(None, 30.0, place.name) as sink:
        ask, tries = sink.field_mapping, []

        def busy_once(field: str) -> Mapping[str, Any]:
            tries.append(field)
            if len(tries) == 1:
                raise TooBusy("full")
            return dict(ask(field))

        monkeypatch.setattr(sink, "field_mapping", busy_once)
        settings = IndexingSettings(first_wait=0.01)
        request = IndexingRequest(beir, sink, RunFiles.of_index(place.name, beir.parent), settings)
        run_index(place.engine, sink, request, minilm)
    assert len(tries) == 2
    told = capsys.readouterr()
    assert "full; next try" in told.err
    assert told.out.startswith("5 of 5 documents indexed")
    (hit, *_) = place.opened().hits({"query": {"exists": {"field": "embedding"}}})
    assert len(hit["_source"]["embedding"]) == 384


def test_a_search_by_words_loads_no_embedder(place: Place, tiny: CrossEncoder) -> None:
    """And one by embeddings refuses an index without them before any model is loaded."""
    index = place.create()
    place.fill({"a": {"content": "a cat"}})
    answer = run_search(index, SearchRequest(FirstPass("cat"), None, lambda: tiny, 5, 32, passages=True))
    assert [(hit.candidate.id, hit.passage) for hit in answer.hits] == [("a", "a cat")]
    with pytest.raises(InvalidInput, match="has no field embedding"):
        run_search(index, SearchRequest(FirstPass("cat", bm25=False), "no/model", never, 5, 32, passages=False))
