"""What a sentence-transformers folder says about its bi-encoder: how tokens become one vector, and how many fit."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from secondpass.errors import ModelLoadError

Pooling = Literal["mean", "first"]

FILE = "1_Pooling/config.json"
# What is done here of a folder's modules; anything else would change the vectors.
KNOWN_MODULES = {"Transformer", "Pooling", "Normalize"}
NO_LIMIT = 10**9


def pooling_of(folder: Path, source: str | os.PathLike[str], hub: Mapping[str, Any]) -> Pooling:
    """How a model is pooled; one that says nothing by the mean.

    Args:
        folder: the model's files.
        source: the name they came by; models are fetched without their subfolders, so its pooling may be elsewhere.
        hub: arguments of `hf_hub_download`.

    Raises:
        ModelLoadError: another pooling, a further module, or the settings cannot be had.
    """
    modules = _read(folder / "modules.json", [])
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    unknown = sorted(set(kinds) - KNOWN_MODULES)
    if unknown:
        raise ModelLoadError(f"{folder} has {', '.join(unknown)} after its transformer, which is not supported")
    if "Pooling" not in kinds:
        return "mean"
    file = folder / FILE if (folder / FILE).is_file() else _fetched(source, hub)
    settings = _read(file, {})
    chosen = settings.get("pooling_mode") or [
        name.removeprefix("pooling_mode_").removesuffix("_token").removesuffix("_tokens")
        for name, value in settings.items()
        if name.startswith("pooling_mode_") and value
    ]
    if chosen in ("mean", ["mean"]):
        return "mean"
    if chosen in ("cls", ["cls"]):
        return "first"
    raise ModelLoadError(f"{file}: pooling {chosen!r} is neither the mean nor the first token")


def longest_of(folder: Path) -> int:
    """Tokens that the folder lets the model read; 10^9 if it does not say."""
    return int(_read(folder / "sentence_bert_config.json", {}).get("max_seq_length") or NO_LIMIT)


def _fetched(source: str | os.PathLike[str], hub: Mapping[str, Any]) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(os.fspath(source), FILE, **hub))
    except Exception as error:  # the client lets errors of several HTTP libraries through
        name = os.fspath(source)
        raise ModelLoadError(f"{name!r}: no {FILE} can be had; say pooling='mean' or 'first'") from error


def _read(file: Path, default: Any) -> Any:
    """The JSON of a file, if it is there and of the kind of `default`."""
    if not file.is_file():
        return default
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelLoadError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, type(default)):
        raise ModelLoadError(f"{file} holds a {type(found).__name__}, not a {type(default).__name__}")
    return found
