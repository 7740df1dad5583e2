"""Rules of `secondpass.forwards.packed`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from secondpass.forwards.attention import Rectangles, RelativeAttention, Views
from secondpass.forwards.description import Encoder
from secondpass.forwards.families import describe
from secondpass.forwards.packed import PackedEncoder, attention_for, rows_behind
from secondpass.tokens import Tokens
from tests.forwards.attending import packed_of
from tests.forwards.models import ENCODERS, LENGTHS, inputs_of, model_of, reference, tensors


def test_the_way_suits_the_device() -> None:
    """Views of the matrix on a CPU, with rows behind it; rectangles where nothing better is known."""
    packed = packed_of((20, 3))
    assert isinstance(attention_for(packed, torch.device("cpu"), torch.float32, 32), Views)
    assert isinstance(attention_for(packed, torch.device("mps"), torch.float32, 32), Rectangles)
    assert isinstance(attention_for(packed, torch.device("cuda"), torch.float32, 32), Rectangles)
    assert attention_for(packed, torch.device("cpu"), torch.float32, 32).spare == 13
    assert attention_for(packed, torch.device("cuda"), torch.float32, 32).spare == 0


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_relative_positions_have_a_way_of_their_own(device: str) -> None:
    """On every device."""
    made = attention_for(packed_of((20, 3)), torch.device(device), torch.float32, 32, np.arange(64))
    assert isinstance(made, RelativeAttention)
    assert made.spare == 0


@pytest.mark.parametrize(
    ("tokens", "wanted"), [(1, 16), (16, 16), (110, 112), (1100, 1120), (5500, 5504), (8190, 8192)]
)
def test_few_numbers_of_rows_come_again_in_half_precision(tokens: int, wanted: int) -> None:
    """At most a thirty-second more; float32 and other devices take the rows as they are."""
    packed = packed_of((1,) * tokens)
    attention = Rectangles(packed)
    assert tokens + rows_behind(packed, attention, torch.bfloat16) == wanted
    assert tokens + rows_behind(packed, attention, torch.float16) == wanted
    assert rows_behind(packed, attention, torch.float32) == 0


def test_what_attention_wants_is_among_the_rows_behind() -> None:
    """Seventeen keys are seen in 32 rows."""
    packed = packed_of((17,))
    assert rows_behind(packed, Views(packed), torch.float32) == 15
    packed = packed_of((200, 17))
    assert rows_behind(packed, Views(packed), torch.bfloat16) == 240 - 217


def _computation(model: Any, dtype: torch.dtype | None = None) -> Callable[[Sequence[Tokens]], torch.Tensor]:
    encoder = describe(model)
    assert isinstance(encoder, Encoder)
    return tensors(PackedEncoder(encoder, dtype))


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("family", ENCODERS)
def test_float32_equals_transformers(family: str, labels: int) -> None:
    """Every length from one token to the longest, in one batch, types and positions as each family has them."""
    model = model_of(family, labels)
    inputs = inputs_of(LENGTHS, model)
    made = _computation(model)(inputs)
    assert made.dtype == torch.float32
    assert made.shape == (len(LENGTHS), labels)
    assert torch.allclose(made, reference(model, inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("seed", range(3))
def test_scores_do_not_depend_on_batch_mates(family: str, seed: int) -> None:
    """Alone, in pairs or all together: only the order of summation in matrix products differs."""
    model = model_of(family, 3)
    compute = _computation(model)
    inputs = inputs_of(torch.randperm(128, generator=torch.Generator().manual_seed(seed))[:24].add(1).tolist(), model)
    together = compute(inputs)
    alone = torch.cat([compute([item]) for item in inputs])
    some = torch.cat([compute(inputs[place : place + 5]) for place in range(0, len(inputs), 5)])
    assert torch.allclose(alone, together, rtol=0, atol=5e-6)
    assert torch.allclose(some, together, rtol=0, atol=5e-6)
    assert torch.equal(compute(inputs), together)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.08), (torch.float16, 0.02)])
@pytest.mark.parametrize("family", ENCODERS)
def test_half_precision_is_near_float32(family: str, dtype: torch.dtype, tolerance: float) -> None:
    """Weights loaded in a half type, or layers alone computed in it; logits are float32 and finely graded."""
    model = model_of(family)
    inputs = inputs_of(LENGTHS, model)
    exact = reference(model, inputs)
    for made in (_computation(model, dtype)(inputs), _computation(copy.deepcopy(model).to(dtype))(inputs)):
        assert made.dtype == torch.float32
        assert torch.allclose(made, exact, rtol=0, atol=tolerance)
        assert not torch.equal(made, made.to(dtype).float())


def test_float64_stays_float64() -> None:
    """The layers are computed in the type of the weights."""
    model = model_of("bert").double()
    inputs = inputs_of(LENGTHS, model)
    encoder = describe(model)
    assert isinstance(encoder, Encoder)
    assert PackedEncoder(encoder).dtype == torch.float64
    assert torch.allclose(_computation(model)(inputs), reference(model, inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"])
def test_every_activation_is_the_one_of_transformers(activation: str) -> None:
    """Both kinds of GELU, and the others that are described."""
    model = model_of("bert", hidden_act=activation)
    inputs = inputs_of(LENGTHS, model)
    assert torch.allclose(_computation(model)(inputs), reference(model, inputs), rtol=0, atol=1e-5)


def test_a_single_layer_is_first_and_last_at_once() -> None:
    """Then only first tokens ask, and all are asked."""
    model = model_of("bert", num_hidden_layers=1)
    inputs = inputs_of(LENGTHS, model)
    assert torch.allclose(_computation(model)(inputs), reference(model, inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("hidden", "heads"), [(48, 1), (40, 5), (96, 3)])
def test_heads_of_any_size(hidden: int, heads: int) -> None:
    """Also those that no vector instruction likes. With AVX2 alone both are 9e-6 off float64, one above, one below."""
    model = model_of("bert", hidden_size=hidden, num_attention_heads=heads)
    inputs = inputs_of(LENGTHS, model)
    assert torch.allclose(_computation(model)(inputs), reference(model, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.08), (torch.float16, 0.02)])
@pytest.mark.parametrize("family", ENCODERS)
def test_cuda_equals_the_cpu(family: str, dtype: torch.dtype, tolerance: float) -> None:
    """Rectangles in float32, the flash kernel in half types."""
    model = model_of(family, 3)
    inputs = inputs_of(LENGTHS, model)
    exact = reference(model, inputs)
    made = _computation(model.to("cuda"), dtype)(inputs)
    assert torch.allclose(made, exact, rtol=0, atol=tolerance)
