"""A bi-encoder: each text by itself to a unit vector, for finding what a dense first pass would get wrong."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from secondpass.errors import InvalidInput, MissingExtra, ModelLoadError, NonFiniteScore, OutOfMemory
from secondpass.forwards.contract import Forward, Progress, no_room, padding_of, plan, score
from secondpass.forwards.precision import Precision, checked_precision
from secondpass.lazy import lacking_torch, needs_torch
from secondpass.models.folders import folder_of
from secondpass.models.limits import token_limit
from secondpass.models.loading import pick_device, quiet_transformers
from secondpass.models.tokenizer import load_tokenizer
from secondpass.models.weights import check_counts, stored_sizes, weight_files
from secondpass.scoring import batch_tokens
from secondpass.text import checked_documents, positive_int
from secondpass.tokens import PairTokenizer, Tokens

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Pooling = Literal["mean", "first"]
# What the modules of `forwards.readout` call them.
MODES = {"mean": "mean", "first": "cls"}

FILE = "1_Pooling/config.json"
# What is done here of a folder's modules; anything else would change the vectors.
KNOWN_MODULES = {"Transformer", "Pooling", "Normalize"}
NO_LIMIT = 10**9
# Texts that are tokenised together.
CHUNK = 1024


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


class BiEncoder:
    """Mean (or first) token of a transformer, normalised, as sentence-transformers folders describe it.

    Reimers and Gurevych 2019, "Sentence-BERT" (https://arxiv.org/abs/1908.10084). Prefixes are the caller's: see
    `training.negatives.candidates.encoder_candidates`. Texts longer than the model reads are cut, which is logged.

    Args:
        source: folder or hub name of an encoder.
        pooling: "mean" over the tokens or the "first" one; None takes what the folder says, else the mean.
        max_length: longest text in tokens; None takes what the folder says.
        device: torch device or its name; None takes the best there is.
        precision: of the computation, as of `CrossEncoder`.
        hub: cache_dir, revision, local_files_only and token, for a hub name.

    Raises:
        InvalidInput: an argument is refused.
        ModelLoadError: the model cannot be had, is no bi-encoder, or does more than pooling.
        MissingExtra: torch or transformers is not installed, or too old.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        pooling: Pooling | None = None,
        max_length: int | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
        **hub: Any,
    ) -> None:
        if lacking_torch() is not None:
            raise MissingExtra(f"a bi-encoder {needs_torch()}")
        folder = folder_of(source, **hub)
        self.pooling = pooling_of(folder, source, hub) if pooling is None else pooling
        if self.pooling not in MODES:
            raise InvalidInput(f"pooling={pooling!r} is neither 'mean' nor 'first'")
        model = _model(folder)
        fast = load_tokenizer(folder, model, {})
        self._tokenizer = PairTokenizer(fast)
        limit = min(token_limit(fast, model), longest_of(folder))
        self.max_length = limit if max_length is None else min(limit, positive_int(max_length, "max_length"))
        self._dimension: int = model.config.hidden_size
        self._forward = _pooled(model, MODES[self.pooling], fast, pick_device(device), checked_precision(precision))

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """-> float32 [texts, dim], each of length 1.

        Raises:
            InvalidInput: `texts` is one text, or one of them is none; the message has its index.
            NonFiniteScore: a vector has NaN or infinity; `indices` are its places in `texts`.
            OutOfMemory: a single text does not fit.
        """
        texts = checked_documents(texts, "texts")
        made = np.zeros((len(texts), self._dimension), np.float32)
        cut = 0
        for start in range(0, len(texts), CHUNK):
            tokens = self._tokenizer.singles(texts[start : start + CHUNK], self.max_length, "longest_first")
            cut += sum(item.cut is not None for item in tokens)
            made[start : start + CHUNK] = self._vectors(tokens, start)
        if cut:
            logger.warning("%d of %d texts were cut to %d tokens for the bi-encoder", cut, len(texts), self.max_length)
        return made

    def _vectors(self, tokens: Sequence[Tokens], start: int) -> npt.NDArray[np.float32]:
        """Vectors of texts of which the first is number `start`."""
        computation = self._forward.ready()
        batches = plan([len(item) for item in tokens], batch_tokens(computation.device), CHUNK, computation.pads)
        try:
            pooled = score(computation, tokens, batches, Progress())
        except NonFiniteScore as error:
            wrong = tuple(start + row for row in error.indices)
            raise NonFiniteScore(f"the bi-encoder gave NaN or infinity for texts {list(wrong)}", wrong) from None
        except OutOfMemory as error:
            raise no_room(start + error.indices[0], len(tokens[error.indices[0]])) from None
        lengths = np.linalg.norm(pooled, axis=1, keepdims=True)
        return np.asarray(pooled / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def _pooled(model: Any, mode: str, fast: Any, device: torch.device, precision: Precision) -> Forward:
    """What gives a transformer's pooled states as logits: all that a cross-encoder's forward does serves vectors too.

    The last step is a linear layer that changes nothing, because the kernel reads out through one.
    """
    import torch

    from secondpass.forwards.description import POOLED, SCORES
    from secondpass.forwards.module import ModelForward
    from secondpass.forwards.readout import Dense, ModuleChain, Pooling, ReadoutModel

    width = model.config.hidden_size
    same = Dense((width, width), False, torch.nn.Identity(), reads=POOLED, writes=SCORES)
    with torch.no_grad():
        torch.nn.init.eye_(same.linear.weight)
    whole = ReadoutModel(model, ModuleChain([Pooling(width, (mode,)), same])).to(device).eval()
    return ModelForward(whole, fast.model_input_names, padding_of(fast), precision)


def _model(folder: Path) -> Any:
    import torch
    from transformers import MODEL_MAPPING, AutoConfig

    from secondpass.models.building import bounded, read_weights

    try:
        with quiet_transformers():
            sizes = stored_sizes(weight_files(folder))
            check_counts(folder / "config.json", sizes)
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            made: Any = MODEL_MAPPING[type(config)]
            kind = made[0] if isinstance(made, (list, tuple)) else made
            with bounded(folder, sizes, only_meta=True):
                model, report = kind.from_pretrained(
                    None,
                    config=config,
                    state_dict=read_weights(weight_files(folder)),
                    dtype=torch.float32,
                    output_loading_info=True,
                )
    except Exception as error:  # broken files raise errors of half a dozen kinds
        raise ModelLoadError(f"{folder}: the bi-encoder cannot be read: {' '.join(str(error).split())}") from error
    if any("ForSequenceClassification" in name for name in model.config.architectures or ()):
        raise ModelLoadError(f"{folder} is a cross-encoder: it reads pairs and has no vectors of texts")
    # A pooler is not used here, and many bi-encoders are saved without one.
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise ModelLoadError(f"{folder} lacks weights: {', '.join(missing[:3])}")
    return model
