"""Weights kept as int8 with one scale per row: a quarter of the size, for models that travel in a package.

Each matrix row is stored as round(row / scale) with scale = max|row| / 127 in float32; everything that is no
matrix stays float16. Storage only: loading gives an ordinary float32 model. A symmetric per-channel scheme, as in
Jacob et al. 2018 (https://arxiv.org/abs/1712.05877).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from secondpass.errors import ModelLoadError

FILE = "model.int8.safetensors"
SCALE = ".scale"


def compressed(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """float32 weights by name -> int8 matrices with "<name>.scale" [rows] beside them, float16 vectors."""
    made = {}
    for name, weight in weights.items():
        if weight.ndim < 2:
            made[name] = weight.half()
            continue
        scale = weight.float().abs().amax(dim=1).clamp_min(1e-12) / 127
        made[name] = torch.round(weight.float() / scale[:, None]).to(torch.int8)
        made[name + SCALE] = scale
    return made


def expanded(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `compressed`: float32 weights by name, within half a step of the originals."""
    made = {}
    for name, tensor in stored.items():
        if tensor.dtype == torch.int8:
            made[name] = tensor.float() * stored[name + SCALE][:, None]
        elif not name.endswith(SCALE):
            made[name] = tensor.float()
    return made


def save_compact(folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write the weights alone; config and tokenizer are the caller's."""
    save_file({name: tensor.contiguous() for name, tensor in compressed(weights).items()}, folder / FILE)


def load_compact(folder: Path, config: Any) -> Any:
    """A transformers model of `config` with the weights of `folder`, float32, in eval mode.

    Raises:
        ModelLoadError: the file is broken, or its weights are not those of the architecture.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.initialization import no_init_weights

    path = folder / FILE
    try:
        weights = expanded(load_file(path))
    except Exception as error:  # safetensors raises its own type, KeyError or OSError: all mean a broken file
        raise ModelLoadError(f"{path} cannot be read: {error}") from error
    with no_init_weights():
        model = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ModelLoadError(f"{path} does not fit the architecture: {str(error).splitlines()[-1].strip()}") from error
    missing = [name for name in missing if not name.endswith("position_ids")]
    if missing or unexpected:
        raise ModelLoadError(f"{path} lacks {missing[:3]} or has unknown {list(unexpected)[:3]}")
    return model.eval()
