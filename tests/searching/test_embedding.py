"""The bi-encoder of dense search is the one that sentence-transformers makes of the same folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from secondpass.errors import ModelLoadError
from secondpass_searching.embedding import embedding_of, length_of


@pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning")
def test_the_vectors_are_those_of_haystacks_embedder(minilm: str, capfd: pytest.CaptureFixture[str]) -> None:
    """So that the pipelines can read what the command wrote; nothing is drawn or said."""
    pytest.importorskip("haystack_integrations.components.embedders.sentence_transformers")
    from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersTextEmbedder

    texts = ["how do I reset my password", "a much longer text about cats " * 200, "é 🙂", ""]
    embedding = embedding_of(minilm, "cpu")
    made = np.asarray(embedding.embed(texts))
    assert capfd.readouterr() == ("", "")
    assert (embedding.name, length_of(embedding)) == (minilm, 384)
    assert np.linalg.norm(made, axis=1) == pytest.approx([1.0] * 4)
    embedder = SentenceTransformersTextEmbedder(model=minilm, progress_bar=False)
    embedder.warm_up()
    theirs = np.asarray([embedder.run(text=text)["embedding"] for text in texts])
    cosines = (made * theirs).sum(axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosines == pytest.approx([1.0] * 4, abs=1e-5)


def test_a_model_that_is_none(tmp_path: Path, tiny_folder: str) -> None:
    """An empty folder, or a cross-encoder: a line that names it."""
    for folder in (str(tmp_path), tiny_folder):
        with pytest.raises(ModelLoadError, match=folder):
            embedding_of(folder)
