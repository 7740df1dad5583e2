"""Rules of `secondpass.persistence.compact`: int8 weights on disk, float32 in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from secondpass import CrossEncoder
from secondpass.errors import ModelLoadError
from secondpass.persistence.compact import FILE, SCALE, compressed, expanded, load_compact, save_compact
from tests.tiny_models import ARCHITECTURES, ROUNDING
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


def test_the_largest_value_of_a_row_is_exact() -> None:
    """It is 127 steps, or minus 127."""
    back = expanded(compressed({"w": torch.tensor([[-8.0, 1.0], [0.5, 0.25]])}))["w"]
    assert back.abs().amax(1).tolist() == pytest.approx([8.0, 0.5], rel=1e-6)


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
    stored = load_file(folder / FILE)
    assert sum(tensor.numel() for tensor in stored.values() if tensor.dtype == torch.int8) == matrices


def test_a_compact_model_is_saved_as_an_ordinary_one(tiny_folder: str, tmp_path: Path) -> None:
    """After loading nothing is left of the storage: float32 weights that can be trained."""
    folder = compact_copy(tiny_folder, CrossEncoder(tiny_folder, device="cpu"), tmp_path / "compact")
    small = CrossEncoder(str(folder), device="cpu")
    small.save(str(tmp_path / "saved"))
    assert not (tmp_path / "saved" / FILE).exists()
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
    save_file(change(load_file(folder / FILE)), folder / FILE)
    with pytest.raises(ModelLoadError, match=f"{folder / FILE} .*{reason}"):
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
    file = folder / FILE
    file.write_bytes(file.read_bytes()[:-50] if content is None else content)
    with pytest.raises(ModelLoadError, match=f"{file} cannot be read"):
        CrossEncoder(str(folder), device="cpu")
