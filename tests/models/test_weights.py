"""Rules of `secondpass.models.weights`: weights of few bits on disk, float32 in memory."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.models.building import compressed, expanded, load_compact, read_weights, save_compact
from secondpass.models.loading import LoadRequest, load
from secondpass.models.weights import COMPACT, GROUP, SCALE, weight_files
from secondpass.serving.models import load_models
from secondpass.serving.settings import ModelSource, Settings
from tests.tiny_models import ARCHITECTURES, ROUNDING, make_folder
from tests.toy_task import same, state

PAIRS = [("how to reset the password", text) for text in ("the cat", "reset the password by email", "cold water")]


def half_steps(weight: torch.Tensor) -> torch.Tensor:
    """Give half a quantisation step of each row, with room for float32's rounding."""
    return weight.flatten(1).abs().amax(dim=1) / 127 / 2 * 1.0001 + 1e-12


@given(st.integers(1, 6), st.integers(1, 40), st.floats(-6, 3), st.integers(0, 1000))
def test_matrices_come_back_within_half_a_step(rows: int, columns: int, magnitude: float, seed: int) -> None:
    """Each row has its own scale, so a large row does not coarsen a small one."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=draw) * 10**magnitude
    weight[0] *= 1000
    back = expanded(compressed({"w": weight}))["w"]
    assert back.dtype == torch.float32
    assert ((back - weight).abs() <= half_steps(weight)[:, None]).all()


def test_vectors_are_kept_in_float16() -> None:
    """Biases and norms are small and matter: a thousandth of their value at most."""
    weight = torch.randn(100)
    made = compressed({"b": weight})
    assert {name: tensor.dtype for name, tensor in made.items()} == {"b": torch.float16}
    assert torch.allclose(expanded(made)["b"], weight, rtol=1e-3, atol=1e-6)


def test_zeros_stay_zeros() -> None:
    """A row of padding has no magnitude to scale by."""
    weight = torch.zeros(3, 4)
    weight[1] = 1.0
    assert torch.equal(expanded(compressed({"w": weight}))["w"], weight)


def test_what_int8_and_float16_cannot_hold() -> None:
    """Whole numbers stay as they are, large vectors float32; what is not finite, or named as a scale, is refused."""
    given = {"ids": torch.arange(600).reshape(1, 600), "large": torch.tensor([1e6, 1.0]), "norm.scale": torch.ones(2)}
    back = expanded(compressed(given | {"norm": torch.ones(2)}))
    assert all(torch.equal(back[name], value) and back[name].dtype == value.dtype for name, value in given.items())
    for bad in ({"w": torch.tensor([[float("nan"), 1.0]])}, {"b": torch.tensor([float("inf")])}):
        with pytest.raises(InvalidInput, match="is not finite"):
            compressed(bad)
    with pytest.raises(InvalidInput, match=r"w\.scale is a weight"):
        compressed({"w": torch.ones(2, 2), "w.scale": torch.ones(2)})


def test_the_largest_value_of_a_row_is_exact() -> None:
    """It is 127 steps, or minus 127."""
    back = expanded(compressed({"w": torch.tensor([[-8.0, 1.0], [0.5, 0.25]])}))["w"]
    assert back.abs().amax(1).tolist() == pytest.approx([8.0, 0.5], rel=1e-6)


@given(st.integers(2, 7), st.integers(1, 5), st.integers(1, 3), st.floats(-6, 3), st.integers(0, 1000))
def test_fewer_bits_come_back_within_half_a_step(
    bits: int, rows: int, groups: int, magnitude: float, seed: int
) -> None:
    """64 numbers share a scale, so large ones coarsen no others; only the largest may be cut for the others."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, groups * GROUP, generator=draw) * 10**magnitude
    weight[:, :GROUP] *= 1000
    made = compressed({"w": weight}, {"w": bits})
    assert (made["w"].dtype, [*made["w"].shape]) == (torch.uint8, [rows, groups * GROUP * bits // 8])
    steps = made[f"w{SCALE}"].float()
    assert [*steps.shape] == [rows, groups]
    back = expanded(made)["w"]
    limit = (steps * (2 ** (bits - 1) - 1)).repeat_interleave(GROUP, 1)
    wanted = weight.clamp(-limit, limit)
    assert ((back - wanted).abs() <= steps.repeat_interleave(GROUP, 1) * 0.5001).all()
    largest = weight.unflatten(1, (-1, GROUP)).abs().amax(2)
    assert (limit.unflatten(1, (-1, GROUP))[..., 0] >= largest * 0.69).all()


def test_bits_lie_in_their_order() -> None:
    """The first number has the lowest bits of the first byte: other programs may read the file."""
    levels = torch.arange(GROUP).reshape(1, GROUP) % 15 - 7.0
    four = compressed({"w": levels}, {"w": 4})["w"][0]
    assert four[:4].tolist() == [(1 + 2 * step) | (2 + 2 * step) << 4 for step in range(4)]
    three = compressed({"w": levels % 7 - 3}, {"w": 3})["w"][0, :3].tolist()
    number = int.from_bytes(bytes(three), "little")
    assert [number >> 3 * place & 7 for place in range(8)] == [int(level % 7 - 3) + 4 for level in levels[0, :8]]


def test_fewer_bits_are_for_matrices() -> None:
    """Whose width is divided by 64; nothing is cut or padded."""
    for shape in ((2, GROUP + 1), (GROUP,), (1, GROUP, 2)):
        with pytest.raises(InvalidInput, match=r"w has shape .*n \* 64"):
            compressed({"w": torch.ones(shape)}, {"w": 4})
    for bits in (1, 8):
        with pytest.raises(InvalidInput, match=f"w: {bits} bits"):
            compressed({"w": torch.ones(1, GROUP)}, {"w": bits})
    with pytest.raises(InvalidInput, match="v is no weight"):
        compressed({"w": torch.ones(1, GROUP)}, {"v": 4})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_compact_folder_is_a_model(tiny_model_folder: Callable[..., str], architecture: str, tmp_path: Path) -> None:
    """`CrossEncoder` reads it as any other folder; scores are near, and equal to the expanded weights' own."""
    full = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    folder = compact_copy(tiny_model_folder(architecture), full, tmp_path)
    small = CrossEncoder(str(folder), device="cpu")
    assert {parameter.dtype for parameter in small.model.parameters()} == {torch.float32}
    assert not small.model.training
    assert small.predict(PAIRS) == pytest.approx(full.predict(PAIRS), abs=0.1)
    full.model.load_state_dict(expanded(compressed(full.model.state_dict())))
    assert small.predict(PAIRS) == pytest.approx(full.predict(PAIRS), abs=1e-6)


def test_the_file_is_about_a_quarter(tiny_folder: str, tmp_path: Path) -> None:
    """One byte a weight instead of four, and the scales."""
    full = CrossEncoder(tiny_folder, device="cpu")
    folder = compact_copy(tiny_folder, full, tmp_path)
    matrices = sum(weight.numel() for weight in full.model.state_dict().values() if weight.ndim > 1)
    stored = load_file(folder / COMPACT)
    assert sum(tensor.numel() for tensor in stored.values() if tensor.dtype == torch.int8) == matrices


def test_a_compact_model_is_saved_as_an_ordinary_one(tiny_folder: str, tmp_path: Path) -> None:
    """After loading nothing is left of the storage: float32 weights that can be trained."""
    folder = compact_copy(tiny_folder, CrossEncoder(tiny_folder, device="cpu"), tmp_path / "compact")
    small = CrossEncoder(str(folder), device="cpu")
    small.save(str(tmp_path / "saved"))
    assert not (tmp_path / "saved" / COMPACT).exists()
    again = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    assert same(state(again), state(small))
    assert again.predict(PAIRS) == pytest.approx(small.predict(PAIRS), rel=0, abs=ROUNDING)
    assert all(parameter.requires_grad for parameter in again.model.parameters())


def compact_copy(source: str, full: CrossEncoder, target: Path) -> Path:
    """Copy a folder with compact weights in place of its own."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    (target / "model.safetensors").unlink()
    save_compact(target, full.model.state_dict())
    return target


def lacking(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drop the head."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")}


def foreign(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add a weight that the architecture does not have."""
    return weights | {"adapter.weight": torch.zeros(3)}


def wider(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the head another shape."""
    return weights | {"classifier.bias": torch.zeros(7)}


def unscaled(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drop a scale."""
    return {name: tensor for name, tensor in weights.items() if name != f"classifier.weight{SCALE}"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lacking, "lacks"),
        (foreign, "unknown"),
        (wider, "does not fit the architecture"),
        (unscaled, "cannot be read"),
    ],
)
def test_weights_of_another_model_are_refused(
    tiny_folder: str, tmp_path: Path, change: Callable[[Any], Any], reason: str
) -> None:
    """Nothing is left at random; the message has the path."""
    folder = compact_copy(tiny_folder, CrossEncoder(tiny_folder, device="cpu"), tmp_path)
    save_file(change(load_file(folder / COMPACT)), folder / COMPACT)
    with pytest.raises(ModelLoadError, match=f"{folder / COMPACT} .*{reason}"):
        CrossEncoder(str(folder), device="cpu")


@pytest.mark.parametrize("architecture", ["roberta", "modernbert"])
def test_another_architecture_is_refused(
    tiny_model_folder: Callable[..., str], tiny_folder: str, architecture: str, tmp_path: Path
) -> None:
    """The config decides what the weights must be."""
    folder = compact_copy(tiny_folder, CrossEncoder(tiny_folder, device="cpu"), tmp_path)
    with pytest.raises(ModelLoadError, match=r"lacks|fit"):
        load_compact(folder, AutoConfig.from_pretrained(tiny_model_folder(architecture)))


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, None])
def test_a_broken_file_is_refused_with_its_path(tiny_folder: str, tmp_path: Path, content: bytes | None) -> None:
    """Cut off, empty or no safetensors at all."""
    folder = compact_copy(tiny_folder, CrossEncoder(tiny_folder, device="cpu"), tmp_path)
    file = folder / COMPACT
    file.write_bytes(file.read_bytes()[:-50] if content is None else content)
    with pytest.raises(ModelLoadError, match=f"{file} is broken: "):
        CrossEncoder(str(folder), device="cpu")


@pytest.fixture
def folder(tiny_folder: str, tmp_path: Path) -> Path:
    """Copy the tiny model for a test that changes it."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def _without(folder: Path, *starts: str) -> Path:
    path = folder / "model.safetensors"
    kept = {key: weight for key, weight in load_file(path).items() if not key.startswith(starts)}
    path.unlink()
    save_file(kept, path)
    return folder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("num_labels", [1, 3])
def test_logits_equal_transformers(tiny_model_folder: Any, architecture: str, num_labels: int) -> None:
    """The loaded model's weights are those of the model transformers loads itself, bit for bit, and so the logits."""
    path = tiny_model_folder(architecture, num_labels)
    tokenizer = AutoTokenizer.from_pretrained(path)
    inputs = tokenizer(["how do i pay"] * 2, ["by card", "the cat sat on the mat"], padding=True, return_tensors="pt")
    theirs = AutoModelForSequenceClassification.from_pretrained(path).eval()
    with torch.inference_mode():
        ours = load(LoadRequest(path)).model
        logits = ours(**inputs).logits
        assert torch.allclose(logits, theirs(**inputs).logits, rtol=0, atol=ROUNDING)
    weights = theirs.state_dict()
    assert ours.state_dict().keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in ours.state_dict().items())
    assert logits.shape == (2, num_labels)
    assert not torch.allclose(logits[0], logits[1], atol=1e-3)


def test_the_model_is_in_evaluation_mode(tiny_folder: str) -> None:
    """Dropout is off: scores repeat."""
    assert not load(LoadRequest(tiny_folder)).model.training


def test_the_dtype_is_taken_from_the_argument(tiny_folder: str) -> None:
    """automodel_args reaches the model."""
    half = load(LoadRequest(tiny_folder, automodel_args={"dtype": torch.float16}))
    assert half.model.dtype == torch.float16


def test_shards_are_joined(tiny_folder: str, tmp_path: Path) -> None:
    """A checkpoint in several files is the same model."""
    whole = load(LoadRequest(tiny_folder))
    whole.model.save_pretrained(tmp_path, max_shard_size="40KB")
    whole.tokenizer.save_pretrained(tmp_path)
    parts = load(LoadRequest(tmp_path)).model.state_dict()
    assert len(weight_files(tmp_path)) > 1
    assert all(torch.equal(weight, parts[key]) for key, weight in whole.model.state_dict().items())


def test_a_variant_is_read_when_asked_for(folder: Path) -> None:
    """variant="fp16" reads model.fp16.safetensors, and nothing else is taken for it."""
    with pytest.raises(ModelLoadError, match=r"model\.fp16\.safetensors"):
        load(LoadRequest(folder, automodel_args={"variant": "fp16"}))
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    assert load(LoadRequest(folder, automodel_args={"variant": "fp16"})).config.num_labels == 1


@pytest.mark.parametrize(
    "shard", ["pytorch_model.bin", "../model.safetensors", "/other/x.safetensors", 3, None, ["a"], {}, True]
)
def test_an_index_cannot_point_at_other_files(folder: Path, shard: Any) -> None:
    """An index that names a pickle or leaves the folder is refused: transformers would open what it says."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"classifier.bias": shard}}))
    with pytest.raises(ModelLoadError, match="no safetensors file of its folder"):
        weight_files(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_an_index_without_shards_is_refused(folder: Path, index: Any) -> None:
    """An empty index is broken, not an empty model."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match="no safetensors file"):
        weight_files(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    """A download that stopped half-way names the file that is not there."""
    (folder / "model.safetensors").unlink()
    shard = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"classifier.bias": shard}}))
    with pytest.raises(ModelLoadError, match=f"lacks {shard}"):
        weight_files(folder)


def test_an_adapter_is_not_half_loaded(folder: Path) -> None:
    """A folder with an adapter is refused: the base weights alone are another model."""
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="holds an adapter"):
        weight_files(folder)


def test_read_weights_gives_the_tensors(folder: Path) -> None:
    """All tensors come back under their names."""
    assert read_weights(weight_files(folder)).keys() == load_file(folder / "model.safetensors").keys()


def test_missing_encoder_weights_are_refused_even_for_a_new_head(folder: Path) -> None:
    """num_labels= allows a new head, never a random layer."""
    _without(folder, "bert.encoder.layer.1.")
    with pytest.raises(ModelLoadError, match=r"16 weights are missing.*bert\.encoder\.layer\.1"):
        load(LoadRequest(folder, num_labels=1))


def test_a_new_head_is_announced(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With num_labels= an encoder gets a new head (and pooler) of that size, and a warning says it is untrained."""
    _without(folder, "classifier.", "bert.pooler.")
    with caplog.at_level(logging.WARNING, logger="secondpass"):
        loaded = load(LoadRequest(folder, num_labels=3))
    assert loaded.model.classifier.weight.shape == (3, 32)
    assert "untrained head" in caplog.text


def test_a_trained_head_is_quiet(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """num_labels= on a checkpoint that has that head keeps the trained one."""
    loaded = load(LoadRequest(folder, num_labels=1))
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(loaded.model.classifier.weight, stored["classifier.weight"])
    assert caplog.messages == []


def test_another_head_size_is_refused_unless_asked_for(folder: Path) -> None:
    """A head of another size names both shapes; ignore_mismatched_sizes with num_labels makes a new one."""
    with pytest.raises(ModelLoadError, match=r"classifier\.\w+ has shape \[1.*\[3"):
        load(LoadRequest(folder, num_labels=3))
    asked = {"ignore_mismatched_sizes": True}
    assert load(LoadRequest(folder, num_labels=3, automodel_args=asked)).config.num_labels == 3


def test_another_encoder_size_is_always_refused(folder: Path) -> None:
    """Weights that do not fit the encoder are an error, whatever is asked."""
    asked = {"ignore_mismatched_sizes": True}
    with pytest.raises(ModelLoadError, match="has shape"):
        load(LoadRequest(folder, num_labels=1, automodel_args=asked, config_args={"intermediate_size": 48}))


def test_an_unknown_argument_is_named(folder: Path) -> None:
    """A misspelt keyword is the caller's error."""
    with pytest.raises(InvalidInput, match=r"automodel_args.*no_such_argument"):
        load(LoadRequest(folder, automodel_args={"no_such_argument": 1}))


def test_weights_without_a_place_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A config with fewer layers than the file leaves weights unused; a warning counts and names them."""
    load(LoadRequest(folder, config_args={"num_hidden_layers": 1}))
    assert "16 stored weights have no place in the model: bert.encoder.layer.1" in caplog.text


def test_a_model_that_cannot_be_built_is_one_line(folder: Path) -> None:
    """What transformers refuses is a ModelLoadError with its reason, in one line."""
    with pytest.raises(ModelLoadError, match=r"cannot be built: .*no_such_attention") as caught:
        load(LoadRequest(folder, automodel_args={"attn_implementation": "no_such_attention"}))
    assert "\n" not in str(caught.value)


def test_a_plain_encoder_of_another_class_trains_a_new_head(tmp_path: Path) -> None:
    """A masked-language model is a base for training when num_labels is given, and refused when it is not."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    path = make_folder(tmp_path / "base", "roberta")
    config = RobertaConfig.from_pretrained(path)
    RobertaForMaskedLM(config).save_pretrained(path)
    with pytest.raises(ModelLoadError, match="no classification head"):
        load(LoadRequest(path))
    assert load(LoadRequest(path, num_labels=2)).config.num_labels == 2


def test_an_index_of_mixed_types_is_refused(folder: Path) -> None:
    """Names beside other types cannot be sorted, lists not be counted: a ModelLoadError all the same."""
    whole = folder / "model.safetensors"
    whole.rename(folder / "model-00001-of-00001.safetensors")
    named = {"a": "model-00001-of-00001.safetensors", "b": 3, "c": ["d"]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    with pytest.raises(ModelLoadError, match="names 3, which is no safetensors file"):
        load(LoadRequest(folder))


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("change", ["overwritten", "cut", "empty"])
def test_a_loaded_model_does_not_depend_on_its_file(
    tiny_folder: str, tmp_path: Path, change: str, compact: bool
) -> None:
    """Weights are read into memory: mapped ones would change in silence, or end the process (SIGBUS)."""
    full = CrossEncoder(tiny_folder, device="cpu")
    folder = (
        compact_copy(tiny_folder, full, tmp_path) if compact else Path(shutil.copytree(tiny_folder, tmp_path / "m"))
    )
    file = folder / (COMPACT if compact else "model.safetensors")
    encoder = CrossEncoder(str(folder), device="cpu", max_length=64)
    before, size = {name: weight.clone() for name, weight in state(encoder).items()}, file.stat().st_size
    with file.open("r+b") as opened:
        if change == "overwritten":
            opened.seek(size // 4)
            opened.write(b"\x3f" * (size // 2))
        else:
            opened.truncate(0 if change == "empty" else size // 2)
    assert same(state(encoder), before)
    assert encoder.predict(PAIRS).shape == (len(PAIRS),)


@pytest.mark.parametrize(("architecture", "key"), [("bert", "num_hidden_layers"), ("distilbert", "n_layers")])
@pytest.mark.parametrize("layers", [0, -1])
def test_a_config_without_layers_is_refused(tmp_path: Path, architecture: str, key: str, layers: int) -> None:
    """What is left of the model gives every pair the same score."""
    folder = make_folder(tmp_path, architecture)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: layers}))
    with pytest.raises(ModelLoadError, match=r"none of the stored layers"):
        load(LoadRequest(folder))


@pytest.mark.parametrize(
    ("place", "file", "original"),
    [
        ("ms-marco-MiniLM-L-12-v2", "flashrank-MiniLM-L-12-v2_Q.onnx", "'cross-encoder/ms-marco-MiniLM-L12-v2'"),
        (
            "models--Xenova--ms-marco-MiniLM-L-6-v2/snapshots/09a2/",
            "onnx/model.onnx",
            "'cross-encoder/ms-marco-MiniLM-L6-v2'",
        ),
        ("models--BAAI--bge-reranker-base/snapshots/2cfc/onnx", "model.onnx", "'BAAI/bge-reranker-base'"),
        ("ms-marco-MultiBERT-L-12", "flashrank-MultiBERT-L12_Q.onnx", "with model.safetensors and config.json"),
    ],
)
def test_an_onnx_folder_names_its_original(place: str, file: str, original: str, tmp_path: Path) -> None:
    """FlashRank's and fastembed's folders are refused by every door with what to load instead, where that is known."""
    folder = tmp_path / place
    (folder / file).parent.mkdir(parents=True)
    (folder / file).write_bytes(b"any")
    (folder / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    doors: list[Callable[[], object]] = [
        lambda: CrossEncoder(str(folder), device="cpu"),
        lambda: load_models(Settings(models=(ModelSource("onnx", str(folder)),))),
    ]
    for door in doors:
        with pytest.raises(
            ModelLoadError, match=r"holds an ONNX model, and only safetensors are read: load "
        ) as caught:
            door()
        assert original in str(caught.value)
        assert "\n" not in str(caught.value)
