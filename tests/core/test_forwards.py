"""Rules of `secondpass.forwards`: the fastest forward that is right, for the model as it is now."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secondpass import CrossEncoder, forwards
from secondpass.batches import Batch, Padding, batch_of
from secondpass.errors import InvalidInput
from secondpass.forwards import ModelForward, computation_of
from secondpass.packed.computing import EncoderComputation
from secondpass.packed.describing import describe
from secondpass.precision import Precision
from secondpass.tokens import Tokens
from tests.packed.models import ENCODERS, LENGTHS, inputs_of, model_of, reference
from tests.tiny_models import ROUNDING, make_folder

NAMES = ("input_ids", "token_type_ids", "attention_mask")


@pytest.fixture(autouse=True)
def _no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an installation without the compiled kernel, but where a test puts one in."""
    monkeypatch.setattr(forwards, "_kernel_of", lambda encoder, precision: None)
    monkeypatch.setattr(forwards, "_SAVES", {})


def _forward(model: Any, precision: Precision = "fp32", samples: Sequence[Tokens] = ()) -> ModelForward:
    return ModelForward(model, NAMES, Padding(0), precision, samples)


def _batch(model: Any, lengths: Sequence[int] = LENGTHS) -> Batch:
    return batch_of(inputs_of(lengths, model), range(len(lengths)))


@pytest.mark.parametrize("family", [*ENCODERS, "modernbert"])
def test_covered_families_are_computed_without_padding(family: str) -> None:
    """And equal transformers' own forward."""
    model = model_of(family)
    forward, batch = _forward(model), _batch(model)
    assert not forward.pads
    assert forward.dtype == torch.float32
    assert forward.device == torch.device("cpu")
    assert torch.allclose(forward(batch), reference(model, batch.inputs), rtol=0, atol=1e-5)


def test_what_is_not_covered_is_computed_by_transformers(tmp_path: Path) -> None:
    """In rectangles under the same budget."""
    folder = make_folder(tmp_path / "model", "deberta-v2", conv_kernel_size=3)
    encoder = CrossEncoder(str(folder), device="cpu", precision="fp32")
    assert encoder._engine is not None
    assert encoder._engine.forward.pads
    assert np.isfinite(encoder.predict([("cat", "mat"), ("cat", "a long house " * 9)])).all()


def _changed(model: Any) -> None:
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.self.value.weight.mul_(1.5)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "in place": _changed,
    "other weights": lambda model: model.load_state_dict(model_of("bert", seed=1).state_dict()),
    "float64": lambda model: model.double(),
    "a head of its own": lambda model: setattr(
        model, "classifier", torch.nn.Sequential(torch.nn.Linear(32, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    ),
}


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_computed_as_it_is_now(change: str, precision: Precision) -> None:
    """Whatever was prepared from the old weights is left behind."""
    model = model_of("bert")
    forward, batch = _forward(model, precision), _batch(model)
    before = forward(batch)
    CHANGES[change](model)
    after = forward(batch)
    assert (after - before).abs().max() > 1e-3 or change == "float64"
    assert torch.allclose(after, reference(model, batch.inputs), rtol=0, atol=1e-5)
    assert forward.pads is (change == "a head of its own")


def test_a_hook_is_called_and_its_end_brings_the_packed_forward_back() -> None:
    """Who registers a hook wants transformers' modules to run."""
    model = model_of("bert")
    forward, batch = _forward(model), _batch(model)
    packed = forward(batch)
    heard: list[int] = []
    handle = model.bert.encoder.layer[1].register_forward_hook(lambda *given: heard.append(1))
    assert forward.pads
    assert torch.allclose(forward(batch), packed, rtol=0, atol=1e-5)
    assert heard
    handle.remove()
    assert not forward.pads
    assert torch.equal(forward(batch), packed)


def test_a_bad_pair_does_not_touch_its_neighbours() -> None:
    """A token whose embedding is no number spoils the pairs that have it, and no other."""
    model = model_of("bert")
    batch = _batch(model, (20, 20, 17, 9, 3))
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[4] = torch.nan
    expected = reference(model, batch.inputs)
    batch.inputs[1].ids[3] = 4
    made = _forward(model)(batch)
    assert torch.isfinite(made[:, 0]).tolist() == [True, False, True, True, True]
    kept = [0, 2, 3, 4]
    assert torch.allclose(made[kept], expected[kept], rtol=0, atol=1e-5)


def test_types_are_zero_for_a_tokenizer_that_has_none() -> None:
    """transformers then gives the model none, and the model takes zeros."""
    model = model_of("bert")
    batch = _batch(model)
    untyped = tuple(Tokens(item.ids, np.zeros_like(item.type_ids)) for item in batch.inputs)
    made = ModelForward(model, ("input_ids", "attention_mask"), Padding(0), "fp32")(batch)
    assert torch.allclose(made, reference(model, untyped), rtol=0, atol=1e-5)


def test_bf16_computes_layers_in_bfloat16_and_leaves_the_model() -> None:
    """Near float32, and exact when a batch is repeated in full precision."""
    model = model_of("bert")
    forward, batch = _forward(model, "bf16"), _batch(model)
    exact = reference(model, batch.inputs)
    assert forward.dtype == torch.bfloat16
    assert model.dtype == torch.float32
    assert 1e-5 < (forward(batch) - exact).abs().max() < 0.1
    assert torch.allclose(forward(batch, full_precision=True), exact, rtol=0, atol=1e-5)


def test_bf16_of_a_model_that_is_not_covered_is_autocast() -> None:
    """transformers' own modules, their products in bfloat16."""
    model = model_of("deberta-v2", conv_kernel_size=3)
    batch = _batch(model)
    rounded, exact = _forward(model, "bf16"), _forward(model, "fp32")
    assert (rounded.dtype, rounded.pads) == (torch.bfloat16, True)
    assert 1e-5 < (rounded(batch) - exact(batch)).abs().max() < 0.2


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_stay_so_unless_float32_is_asked_for(family: str, dtype: torch.dtype) -> None:
    """With "auto" in their type; "fp32" computes the rounded weights exactly."""
    model = model_of(family).to(dtype)
    batch = _batch(model, (5, 9, 30))
    exact = reference(copy.deepcopy(model).float(), batch.inputs)
    auto, full = _forward(model, "auto", batch.inputs), _forward(model, "fp32")
    assert (auto.dtype, full.dtype) == (dtype, torch.float32)
    assert (auto(batch) - exact).abs().max() > 1e-5
    assert torch.allclose(full(batch), exact, rtol=0, atol=1e-5)
    assert model.dtype == dtype


class _Kernel:
    """A computation that is told what to give: float32's logits and an error."""

    def __init__(self, encoder: Any, error: float, seconds: float) -> None:
        self._own = EncoderComputation(encoder)
        self._error, self._seconds = error, seconds

    def __call__(self, inputs: Sequence[Tokens]) -> torch.Tensor:
        time.sleep(self._seconds)
        made = self._own(inputs)
        return made + self._error * (made.max() - made.min())


@pytest.mark.parametrize(
    ("error", "seconds", "settled"),
    [
        (0.005, 0.0, torch.bfloat16),
        (0.02, 0.0, torch.float32),
        (float("nan"), 0.0, torch.float32),
        (0.005, 0.3, torch.float32),
    ],
)
def test_auto_takes_bfloat16_only_where_it_is_faster_and_agrees(
    monkeypatch: pytest.MonkeyPatch, error: float, seconds: float, settled: torch.dtype
) -> None:
    """The model's own scores decide; float32 otherwise."""
    model = model_of("bert", hidden_size=128)
    speeds = {"bf16": (error, seconds), "fp32": (0.0, 0.1)}
    monkeypatch.setattr(forwards, "_kernel_of", lambda encoder, precision: _Kernel(encoder, *speeds[precision]))
    batch = _batch(model, (9, 20, 30))
    forward = _forward(model, "auto", batch.inputs)
    assert forward.dtype == settled
    forward.exact = True
    assert forward.dtype == torch.float32
    assert torch.allclose(forward(batch), reference(model, batch.inputs), rtol=1e-5, atol=1e-5)
    forward.exact = False
    assert forward.dtype == settled


def test_auto_is_exact_without_samples_and_for_small_models() -> None:
    """Nothing is won there."""
    large, small = model_of("bert", hidden_size=128), model_of("bert")
    assert _forward(large, "auto").dtype == torch.float32
    assert _forward(small, "auto", inputs_of((5, 9), small)).dtype == torch.float32
    assert forwards._SAVES == {}


def test_int8_without_the_kernel_is_refused_and_says_what_is_missing() -> None:
    """At once, not at the first call."""
    with pytest.raises(InvalidInput, match="precision='int8': the compiled kernel is not in this installation"):
        _forward(model_of("bert"), "int8")
    for family, kind in (("modernbert", "ModernBert"), ("deberta-v2", "DebertaV2")):
        with pytest.raises(InvalidInput, match=f"{kind}ForSequenceClassification is not covered"):
            _forward(model_of(family), "int8")


def test_int8_by_the_kernel_and_exact_where_the_model_turns_into_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record says int8; a batch repeated in full precision is float32."""
    model = model_of("bert")
    monkeypatch.setattr(forwards, "_kernel_of", lambda encoder, precision: _Kernel(encoder, 0.1, 0.0))
    forward, batch = _forward(model, "int8"), _batch(model)
    exact = reference(model, batch.inputs)
    assert forward.dtype == torch.int8
    assert (forward(batch) - exact).abs().max() > 1e-3
    assert torch.allclose(forward(batch, full_precision=True), exact, rtol=0, atol=1e-5)
    model.register_forward_hook(lambda *given: None)
    assert (forward.dtype, forward.pads) == (torch.float32, True)
    assert torch.allclose(forward(batch), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda forward: pickle.loads(pickle.dumps(forward))])  # noqa: S301
def test_a_copy_computes_its_own_model(way: Callable[[ModelForward], ModelForward]) -> None:
    """Nothing prepared travels, and what happens to the original does not happen to the copy."""
    model = model_of("bert")
    forward, batch = _forward(model), _batch(model)
    before = forward(batch)
    with forward._lock:
        twin = way(forward)
        assert torch.allclose(twin(batch), before, rtol=0, atol=ROUNDING)
    _changed(model)
    assert torch.allclose(twin(batch), before, rtol=0, atol=ROUNDING)
    assert not torch.allclose(forward(batch), before, rtol=0, atol=100 * ROUNDING)


@pytest.fixture
def pocket() -> Iterator[CrossEncoder]:
    """The embedded model."""
    return CrossEncoder("secondpass/pocket", device="cpu", precision="fp32")


def test_real_weights_equal_transformers_and_agree_in_bfloat16(pocket: CrossEncoder) -> None:
    """The embedded model, on pairs that answer and pairs that do not."""
    queries = ["how long to boil an egg", "who wrote the play"] * 4
    documents = [f"an egg takes {n} minutes in boiling water " * n for n in range(1, 9)]
    inputs = pocket.tokens(queries, documents)
    exact = reference(pocket.model, inputs)
    encoder = describe(pocket.model)
    assert encoder is not None
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        assert torch.allclose(EncoderComputation(encoder, dtype)(inputs), exact, rtol=0, atol=tolerance)


def test_the_fastest_is_torch_where_there_is_no_kernel() -> None:
    """But for int8, which torch alone does not have."""
    encoder = describe(model_of("bert"))
    assert encoder is not None
    assert isinstance(computation_of(encoder, "fp32"), EncoderComputation)
    assert isinstance(computation_of(encoder, "bf16"), EncoderComputation)
    assert computation_of(encoder, "int8") is None


class _Half:
    """A forward that asks transformers' model and halves what it says."""

    device, dtype, pads = torch.device("cpu"), torch.float32, True

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, batch: Batch, *, full_precision: bool = False) -> torch.Tensor:
        return reference(self._model, batch.inputs) / 2


def test_another_forward_can_stand_behind_the_stages(own_tiny: CrossEncoder) -> None:
    """The engine asks nothing of a forward but logits for a batch, and whether it pads."""
    pairs = [("the cat", "the mat"), ("water", "a river is long and cold")]
    before = own_tiny.predict(pairs, activation_fct=torch.nn.Identity())
    own_tiny.use_forward(_Half(own_tiny.model))
    made = own_tiny.predict(pairs, activation_fct=torch.nn.Identity())
    assert made == pytest.approx(before / 2, abs=1e-5)
