"""Texts to vectors with a sentence-transformers model, for documents and queries alike."""

from __future__ import annotations

from collections.abc import Sequence

from secondpass_indexing.entries import Embedding


def embedding_of(model: str) -> Embedding:
    """A bi-encoder (folder or hub name), loaded; its vectors have length 1.

    Raises:
        ModelLoadError: the model cannot be had, or is no bi-encoder.
    """
    from secondpass.training.negatives.biencoder import BiEncoder

    encoder = BiEncoder(model)

    def embed(texts: Sequence[str]) -> list[list[float]]:
        vectors: list[list[float]] = encoder(texts).tolist()
        return vectors

    return Embedding(model, embed)
