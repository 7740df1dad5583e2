"""Texts to vectors by a bi-encoder, queries and documents alike."""

from __future__ import annotations

from collections.abc import Sequence

from secondpass_indexing.entries import Embedding


def embedding_of(model: str, device: str | None = None) -> Embedding:
    """A bi-encoder (folder or hub name), loaded; its vectors have length 1.

    They point where those of Haystack's sentence-transformers embedders point, so pipelines read what is written here.

    Raises:
        ModelLoadError: the model cannot be had, is no bi-encoder, or does more than pooling.
        InvalidInput: the device is refused.
    """
    from secondpass.training.negatives.biencoder import BiEncoder

    encoder = BiEncoder(model, device=device)

    def embed(texts: Sequence[str]) -> list[list[float]]:
        vectors: list[list[float]] = encoder(texts).tolist()
        return vectors

    return Embedding(model, embed)


def length_of(embedding: Embedding) -> int:
    """How many numbers a vector has."""
    (vector,) = embedding.embed(["length"])
    return len(vector)
