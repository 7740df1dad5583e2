"""The trips through the house stay short: how many files of ours one warm call goes through (`benchmarks/trips.py`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import trips

MODEL = "secondpass/pocket"
CALLS: dict[str, Callable[..., Callable[[], object]]] = {
    "rank": trips.rank,
    "haystack ranker": trips.haystack_ranker,
    "POST /v1/rerank": trips.rerank_request,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_ranking_is_a_short_trip(name: str) -> None:
    """From Python, in a pipeline and over HTTP."""
    files = trips.files_of(CALLS[name], MODEL)
    assert "src/secondpass/scoring.py" in files
    assert len(files) <= trips.LIMITS[name], files


def test_training_is_a_short_trip(tiny_folder: str, tmp_path: Path) -> None:
    """From a file of groups to a saved model, measured on dev queries on the way."""
    files = trips.files_of(trips.train, tiny_folder, tmp_path)
    assert "src/secondpass/training/trainer.py" in files
    assert len(files) <= trips.LIMITS["train"], files


def test_a_search_in_two_passes_is_a_short_trip(elasticsearch_url: str) -> None:
    """From the command line to a real server and back, with the model in between."""
    with trips.indexed(elasticsearch_url) as index:
        files = trips.files_of(trips.elasticsearch_search, MODEL, index)
    assert "src/secondpass/scoring.py" in files
    assert len(files) <= trips.LIMITS["elasticsearch search"], files


def test_a_module_that_is_imported_is_no_part_of_a_trip() -> None:
    """What was loaded for the first call is not counted, and nothing outside of this repository is."""

    def make() -> Callable[[], object]:
        from secondpass.text import is_blank

        return lambda: is_blank("")

    assert trips.files_of(make) == ["src/secondpass/text.py"]
