"""Rules of `secondpass.forwards.choosing`: the fastest forward that is right, for the model as it is now."""

from __future__ import annotations

import copy
import itertools
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.forwards import choosing, kernel, module
from secondpass.forwards.choosing import Settled
from secondpass.forwards.contract import Computation, Compute, Logits, Padding
from secondpass.forwards.description import mapped
from secondpass.forwards.families import describe
from secondpass.forwards.kernel import native
from secondpass.forwards.late import whole
from secondpass.forwards.module import Described, ModelForward, Watch, described
from secondpass.forwards.packed import PackedEncoder
from secondpass.forwards.precision import Precision
from secondpass.merging import SharedReranker
from secondpass.tokens import Tokens
from tests.forwards.models import ENCODERS, LENGTHS, inputs_of, model_of, reference
from tests.tiny_models import ROUNDING, make_folder

NAMES = ("input_ids", "token_type_ids", "attention_mask")


@pytest.fixture(autouse=True)
def _no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an installation without the compiled kernel, but where a test puts one in."""
    monkeypatch.setattr(native, "find", lambda precision: "the kernel was not compiled")
    monkeypatch.setattr(choosing, "_SAVES", {})


def _forward(model: Any, precision: Precision = "fp32", samples: Sequence[Tokens] = ()) -> ModelForward:
    return ModelForward(model, NAMES, Padding(0), precision, samples)


def _logits(forward: ModelForward, inputs: Sequence[Tokens]) -> torch.Tensor:
    return torch.from_numpy(forward.ready().logits(inputs))


def _repeated(forward: ModelForward, inputs: Sequence[Tokens]) -> torch.Tensor:
    full_precision = forward.ready().full_precision
    assert full_precision is not None
    return torch.from_numpy(full_precision(inputs))


@pytest.mark.parametrize("family", [*ENCODERS, "modernbert"])
def test_covered_families_are_computed_without_padding(family: str) -> None:
    """And equal transformers' own forward."""
    model = model_of(family)
    forward, inputs = _forward(model), inputs_of(LENGTHS, model)
    ready = forward.ready()
    assert (ready.device, ready.dtype, ready.pads, ready.full_precision) == ("cpu", "float32", False, None)
    assert torch.allclose(_logits(forward, inputs), reference(model, inputs), rtol=0, atol=1e-5)


def test_what_is_not_covered_is_computed_by_transformers(tmp_path: Path) -> None:
    """In rectangles under the same budget."""
    folder = make_folder(tmp_path / "model", "deberta-v2", conv_kernel_size=3)
    encoder = CrossEncoder(str(folder), device="cpu", precision="fp32")
    assert encoder._engine is not None
    assert encoder._engine.forward.ready().pads
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
    forward, inputs = _forward(model, precision), inputs_of(LENGTHS, model)
    before = _logits(forward, inputs)
    CHANGES[change](model)
    after = _logits(forward, inputs)
    assert (after - before).abs().max() > 1e-3 or change == "float64"
    assert torch.allclose(after, reference(model, inputs), rtol=0, atol=1e-5)
    assert forward.ready().pads is (change == "a head of its own")


def test_a_hook_is_called_and_its_end_brings_the_packed_forward_back() -> None:
    """Who registers a hook wants transformers' modules to run."""
    model = model_of("bert")
    forward, inputs = _forward(model), inputs_of(LENGTHS, model)
    packed = _logits(forward, inputs)
    heard: list[int] = []
    handle = model.bert.encoder.layer[1].register_forward_hook(lambda *given: heard.append(1))
    assert forward.ready().pads
    assert torch.allclose(_logits(forward, inputs), packed, rtol=0, atol=1e-5)
    assert heard
    handle.remove()
    assert not forward.ready().pads
    assert torch.equal(_logits(forward, inputs), packed)


def test_a_bad_pair_does_not_touch_its_neighbours() -> None:
    """A token whose embedding is no number spoils the pairs that have it, and no other."""
    model = model_of("bert")
    inputs = inputs_of((20, 20, 17, 9, 3), model)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[4] = torch.nan
    expected = reference(model, inputs)
    inputs[1].ids[3] = 4
    made = _logits(_forward(model), inputs)
    assert torch.isfinite(made[:, 0]).tolist() == [True, False, True, True, True]
    kept = [0, 2, 3, 4]
    assert torch.allclose(made[kept], expected[kept], rtol=0, atol=1e-5)


def test_types_are_zero_for_a_tokenizer_that_has_none() -> None:
    """transformers then gives the model none, and the model takes zeros."""
    model = model_of("bert")
    inputs = inputs_of(LENGTHS, model)
    untyped = tuple(Tokens(item.ids, np.zeros_like(item.type_ids)) for item in inputs)
    made = _logits(ModelForward(model, ("input_ids", "attention_mask"), Padding(0), "fp32"), inputs)
    assert torch.allclose(made, reference(model, untyped), rtol=0, atol=1e-5)


def test_bf16_computes_layers_in_bfloat16_and_leaves_the_model() -> None:
    """Near float32, and exact when a batch is repeated in full precision."""
    model = model_of("bert")
    forward, inputs = _forward(model, "bf16"), inputs_of(LENGTHS, model)
    exact = reference(model, inputs)
    assert forward.ready().dtype == "bfloat16"
    assert model.dtype == torch.float32
    assert 1e-5 < (_logits(forward, inputs) - exact).abs().max() < 0.1
    assert torch.allclose(_repeated(forward, inputs), exact, rtol=0, atol=1e-5)


def test_bf16_of_a_model_that_is_not_covered_is_autocast() -> None:
    """transformers' own modules, their products in bfloat16."""
    model = model_of("deberta-v2", conv_kernel_size=3)
    inputs = inputs_of(LENGTHS, model)
    rounded, exact = _forward(model, "bf16"), _forward(model, "fp32")
    assert (rounded.ready().dtype, rounded.ready().pads) == ("bfloat16", True)
    assert 1e-5 < (_logits(rounded, inputs) - _logits(exact, inputs)).abs().max() < 0.2


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_stay_so_unless_float32_is_asked_for(family: str, dtype: torch.dtype) -> None:
    """With "auto" in their type; "fp32" computes the rounded weights exactly."""
    model = model_of(family).to(dtype)
    inputs = inputs_of((5, 9, 30), model)
    exact = reference(copy.deepcopy(model).float(), inputs)
    auto, full = _forward(model, "auto", inputs), _forward(model, "fp32")
    assert (auto.ready().dtype, full.ready().dtype) == (str(dtype).removeprefix("torch."), "float32")
    assert (_logits(auto, inputs) - exact).abs().max() > 1e-5
    assert torch.allclose(_logits(full, inputs), exact, rtol=0, atol=1e-5)
    assert model.dtype == dtype


class _Kernel:
    """A computation that is told what to give: float32's logits and an error."""

    def __init__(self, encoder: Any, error: float, seconds: float) -> None:
        self._own = PackedEncoder(encoder)
        self._error, self._seconds = error, seconds

    def __call__(self, inputs: Sequence[Tokens]) -> Logits:
        time.sleep(self._seconds)
        made = self._own(inputs)
        return made + self._error * (made.max() - made.min())


# Seconds of turns of which each is 4 % shorter than the one before, so that no two of the best are alike: to 1.2.
FALLING = tuple(1.2 * 1.04**turn for turn in range(17, -1, -1))
GOOD, WRONG, NONE, SLOW = (0.005, 0.0), (0.02, 0.0), (float("nan"), 0.0), (0.005, 0.3)


@pytest.mark.parametrize(
    ("halves", "words", "settled"),
    [
        (GOOD, GOOD, "bfloat16"),
        (WRONG, GOOD, "int16"),
        (NONE, GOOD, "int16"),
        (SLOW, GOOD, "int16"),
        (WRONG, None, "float32"),
        (NONE, WRONG, "float32"),
        (SLOW, SLOW, "float32"),
    ],
)
def test_auto_takes_what_is_rounded_only_where_it_is_faster_and_agrees(
    monkeypatch: pytest.MonkeyPatch, halves: tuple[float, float], words: tuple[float, float] | None, settled: str
) -> None:
    """The model's own scores decide, of bfloat16 before words of 16 bits; float32 otherwise."""
    model = model_of("bert", hidden_size=128)
    speeds = {"bf16": halves, "fp32": (0.0, 0.1)} | ({} if words is None else {"int16": words})

    def kernel_forward(_: Any, precision: Settled) -> Compute | str:
        told = speeds.get(precision)
        return "none for this processor" if told is None else _Kernel(describe(model), *told)

    monkeypatch.setattr(kernel, "kernel_forward", kernel_forward)
    inputs = inputs_of((9, 20, 30), model)
    forward = _forward(model, "auto", inputs)
    assert forward.ready().dtype == settled
    forward.exact = True
    assert forward.ready().dtype == "float32"
    assert torch.allclose(_logits(forward, inputs), reference(model, inputs), rtol=1e-5, atol=1e-5)
    forward.exact = False
    assert forward.ready().dtype == settled


@pytest.mark.parametrize(
    ("rounded", "exact", "choice", "kept"),
    [
        ((0.5,), (1.0,), "bf16", {"bf16"}),
        ((1.0,), (1.0,), "fp32", {"fp32"}),
        ((0.50, 0.51), (1.0, 1.02), "bf16", {"bf16"}),
        (tuple(seconds / 2 for seconds in FALLING), (1.0,), "bf16", set()),
        (FALLING, (1.0,), "fp32", set()),
        ((0.5,), FALLING, "bf16", set()),
        # a machine that becomes quiet at last
        ((*FALLING[:8], 0.5, 0.5), (1.0,), "bf16", {"bf16"}),
    ],
)
def test_what_was_measured_beside_others_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch, rounded: tuple[float, ...], exact: tuple[float, ...], choice: str, kept: set[str]
) -> None:
    """A busy machine decides for this process alone: times that come again are taken for those of a quiet one."""
    now, known = [0.0], dict[str, Any]()
    samples = inputs_of((9, 20), model_of("bert"))

    def taking(seconds: tuple[float, ...]) -> Compute:
        times = itertools.cycle(seconds)

        def compute(inputs: Sequence[Tokens]) -> np.ndarray:
            now[0] += next(times)
            return np.arange(len(inputs), dtype=np.float32)[:, None]

        return compute

    ways = {"bf16": taking(rounded), "fp32": taking(exact)}
    monkeypatch.setattr(choosing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(native, "find", lambda precision: SimpleNamespace(instructions=precision))
    monkeypatch.setattr(choosing, "digest_of", lambda paths: "of the library")
    monkeypatch.setattr(choosing, "remembered", known.get)
    monkeypatch.setattr(choosing, "remember", known.__setitem__)
    for _ in range(2):
        assert choosing._remembered(ways.get, 128, "a model", lambda: samples) == choice
    assert set(known.values()) == kept


def test_auto_is_exact_without_samples_and_for_small_models() -> None:
    """Nothing is won there."""
    large, small = model_of("bert", hidden_size=128), model_of("bert")
    assert _forward(large, "auto").ready().dtype == "float32"
    assert _forward(small, "auto", inputs_of((5, 9), small)).ready().dtype == "float32"
    assert choosing._SAVES == {}


@pytest.mark.parametrize("fast", [True, False])
def test_auto_does_not_measure_torchs_bfloat16_where_the_processor_has_none(
    monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    """It would take seconds at loading; whoever asks for it by name still gets it."""
    model = model_of("deberta-v2", hidden_size=128)
    monkeypatch.setattr(module, "has_fast_bf16", lambda: fast)
    own = described(model)
    assert own is not None
    assert isinstance(own.worth_trying("bf16"), str) != fast
    assert not isinstance(own.worth_trying("fp32"), str)
    forward = _forward(model, "auto", inputs_of((9, 20, 30), model))
    dtype = forward.ready().dtype
    assert fast or dtype == "float32"
    assert (choosing._SAVES == {}) != fast
    assert _forward(model, "bf16").ready().dtype == "bfloat16"


@pytest.mark.parametrize("precision", ["int16", "int8"])
def test_whole_numbers_without_the_kernel_are_refused_and_it_is_said_what_is_missing(precision: Settled) -> None:
    """At once, not at the first call."""
    missing = {
        "bert": "BertForSequenceClassification: the kernel was not compiled;",
        "modernbert": "ModernBertForSequenceClassification: the kernel was not compiled;",
        "deberta-v2": "DebertaV2ForSequenceClassification: the kernel has no relative positions;",
    }
    for family, reason in missing.items():
        with pytest.raises(InvalidInput, match=f"precision='{precision}' for {reason}"):
            _forward(model_of(family), precision)
    changed = model_of("bert")
    changed.classifier.register_forward_hook(lambda *given: None)
    with pytest.raises(InvalidInput, match="the kernel does not know it, or it was changed"):
        _forward(changed, precision)


def test_a_model_elsewhere_is_not_for_the_kernel() -> None:
    """The library reads memory of the processor."""
    own = described(model_of("bert"))
    assert own is not None
    moved = Described(own.family, mapped(own.weights, lambda tensor: tensor.to("meta")))
    assert moved.by_kernel("fp32") == "the kernel computes on the CPU"


def test_int8_by_the_kernel_and_exact_where_the_model_turns_into_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record says int8; a batch repeated in full precision is float32."""
    model = model_of("bert")
    monkeypatch.setattr(kernel, "kernel_forward", lambda *asked: _Kernel(describe(model), 0.1, 0.0))
    forward, inputs = _forward(model, "int8"), inputs_of(LENGTHS, model)
    exact = reference(model, inputs)
    assert forward.ready().dtype == "int8"
    assert (_logits(forward, inputs) - exact).abs().max() > 1e-3
    assert torch.allclose(_repeated(forward, inputs), exact, rtol=0, atol=1e-5)
    model.register_forward_hook(lambda *given: None)
    assert (forward.ready().dtype, forward.ready().pads) == ("float32", True)
    assert torch.allclose(_logits(forward, inputs), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda forward: pickle.loads(pickle.dumps(forward))])  # noqa: S301
def test_a_copy_computes_its_own_model(way: Callable[[ModelForward], ModelForward]) -> None:
    """Nothing prepared travels, and what happens to the original does not happen to the copy."""
    model = model_of("bert")
    forward, inputs = _forward(model), inputs_of(LENGTHS, model)
    before = _logits(forward, inputs)
    with forward._lock:
        twin = way(forward)
        assert torch.allclose(_logits(twin, inputs), before, rtol=0, atol=ROUNDING)
    _changed(model)
    assert torch.allclose(_logits(twin, inputs), before, rtol=0, atol=ROUNDING)
    assert not torch.allclose(_logits(forward, inputs), before, rtol=0, atol=100 * ROUNDING)


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
        compute = whole(PackedEncoder(encoder, dtype), encoder)
        assert np.allclose(compute(inputs), exact.numpy(), rtol=0, atol=tolerance)


def test_the_fastest_is_torch_where_there_is_no_kernel() -> None:
    """But for whole numbers, which torch alone does not have."""
    found = described(model_of("bert"))
    assert found is not None
    assert isinstance(found.fastest("fp32"), PackedEncoder)
    assert isinstance(found.fastest("bf16"), PackedEncoder)
    assert found.fastest("int16") is found.fastest("int8") is None


class _Half:
    """A forward that asks transformers' model and halves what it says."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def ready(self) -> Computation:
        return Computation("cpu", "float32", True, self._logits)

    def _logits(self, inputs: Sequence[Tokens]) -> Logits:
        made: Logits = (reference(self._model, inputs) / 2).numpy()
        return made


def test_another_forward_can_stand_behind_the_stages(own_tiny: CrossEncoder) -> None:
    """The engine asks nothing of a forward but what it says of itself, and logits for a batch."""
    pairs = [("the cat", "the mat"), ("water", "a river is long and cold")]
    before = own_tiny.predict(pairs, activation_fct=torch.nn.Identity())
    own_tiny.use_forward(_Half(own_tiny.model))
    made = own_tiny.predict(pairs, activation_fct=torch.nn.Identity())
    assert made == pytest.approx(before / 2, abs=1e-5)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What was found each time that somebody asked whether weights changed."""
    found: list[bool] = []
    own = Watch.unchanged

    def counted(watch: Watch) -> bool:
        found.append(own(watch))
        return found[-1]

    monkeypatch.setattr(Watch, "unchanged", counted)
    return found


def test_a_call_looks_once_whether_the_weights_changed(own_tiny: CrossEncoder, looks: list[bool]) -> None:
    """One document or several batches: it takes a quarter of a millisecond each time."""
    own_tiny.max_batch_tokens = 200
    for documents, batches in ((["a mat"], 1), ([f"mat {'cat ' * row}" for row in range(40)], 2)):
        own_tiny.rank("cat", documents)  # the first look finds nothing prepared
        looks.clear()
        records: list[Any] = []
        own_tiny.rank("cat", documents, records=records)
        assert records[0].batches >= batches
        assert looks == [True]
        own_tiny.predict([("cat", document) for document in documents])
        own_tiny.rank_many(["cat", "dog"], [documents, documents])
        assert looks == [True] * 3


def test_a_shared_call_looks_once_a_round(own_tiny: CrossEncoder, looks: list[bool]) -> None:
    """The same value plans the round, computes it and stands in the record."""
    with SharedReranker(own_tiny) as shared:
        shared.submit("cat", ["a mat"]).result()
        looks.clear()
        assert shared.submit("cat", ["a mat"]).result().record.dtype == "float32"
        assert looks == [True]
        _changed(own_tiny.model)
        before = own_tiny.predict(("cat", "a mat"), activation_fct=torch.nn.Identity())
        assert shared.submit("cat", ["a mat"]).result().logits.item() == pytest.approx(before, abs=1e-6)
