"""The bi-encoder of dense search is the one that sentence-transformers makes of the same folder."""

from __future__ import annotations

import numpy as np
import pytest

from secondpass_opensearch.embedding import embedding_of


@pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning")
def test_the_vectors_are_those_of_haystacks_embedder(minilm: str) -> None:
    """So that the pipelines can read what the command wrote."""
    pytest.importorskip("haystack_integrations.components.embedders.sentence_transformers")
    from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersTextEmbedder

    texts = ["how do I reset my password", "a much longer text about cats " * 200, "é 🙂"]
    embedding = embedding_of(minilm)
    made = np.asarray(embedding.embed(texts))
    assert embedding.name == minilm
    assert np.linalg.norm(made, axis=1) == pytest.approx([1.0] * 3)
    embedder = SentenceTransformersTextEmbedder(model=minilm, progress_bar=False)
    embedder.warm_up()
    theirs = np.asarray([embedder.run(text=text)["embedding"] for text in texts])
    cosines = (made * theirs).sum(axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosines == pytest.approx([1.0] * 3, abs=1e-5)
