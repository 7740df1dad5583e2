"""Rules of `secondpass.packed.encoder`."""

from __future__ import annotations

import torch

from secondpass.packed.encoder import mapped
from secondpass.packed.families import describe
from tests.packed.models import model_of


def test_mapped_changes_every_tensor_and_nothing_else() -> None:
    """Nested parts, tuples and None included; the original is left alone."""
    encoder = describe(model_of("bert"))
    assert encoder is not None
    half = mapped(encoder, torch.Tensor.half)
    assert half.layers[1].qkv.weight.dtype == half.embeddings.words.dtype == half.head.out.bias.dtype == torch.float16
    assert half.embeddings.projection is None
    assert (half.heads, half.activation, half.hidden) == (encoder.heads, encoder.activation, encoder.hidden)
    assert half.layers[0].output_norm.eps == encoder.layers[0].output_norm.eps
    assert encoder.layers[0].qkv.weight.dtype == torch.float32
