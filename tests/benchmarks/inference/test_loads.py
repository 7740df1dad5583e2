"""Rules of `benchmarks.inference.loads`: texts of the wanted length, and none of them twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.inference.loads import LENGTHS, Loads, source
from benchmarks.inference.models import write_model


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> Loads:
    """Of the demo's texts, with the embedded model's tokens."""
    folder = tmp_path_factory.mktemp("models") / "pocket"
    write_model("pocket", folder)
    return Loads(source(Path("no such folder")), folder)


@pytest.mark.parametrize("kind", LENGTHS)
def test_pairs_have_the_wanted_length(loads: Loads, kind: str) -> None:
    """On average within a third: BM25 prefers long passages to short ones."""
    mean, _ = loads.tokens(loads.make(kind, 3, 30))
    assert abs(mean - LENGTHS[kind][0]) < LENGTHS[kind][0] / 3


@pytest.mark.parametrize("tokens", [32, 64, 128, 256])
def test_pairs_of_one_length_have_it(loads: Loads, tokens: int) -> None:
    """Short ones get a short query."""
    mean, spread = loads.tokens(loads.of_length(tokens, 2, 20))
    assert abs(mean - tokens) < tokens / 5
    assert spread < tokens / 5


def test_no_document_comes_twice(loads: Loads) -> None:
    """Neither within a query nor in later ones: no cache can answer."""
    asked = [*loads.make("passage", 4, 40), *loads.make("passage", 4, 40)]
    documents = [document for one in asked for document in one.documents]
    assert len(documents) == 8 * 40
    assert len(set(documents)) == len(documents)
