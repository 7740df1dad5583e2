"""Other rerankers on the same weights, for `secondpass bench`: each by its own public way, with its defaults."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from secondpass.calibration import sigmoid

if TYPE_CHECKING:
    from secondpass.cross_encoder import CrossEncoder

# By their names on the package index, what is imported of them.
COMPETITORS = {"sentence-transformers": "sentence_transformers", "FlashRank": "flashrank", "fastembed": "fastembed"}
Scorer = Callable[[str, Sequence[str]], list[float]]
"""A query and its documents to scores from 0 to 1, in the order of the documents."""


@dataclass(slots=True)
class BenchContender:
    """One way to rank, and what it did: seconds of each query and of each single pair, and the scores."""

    name: str
    library: str
    precision: str
    batch: int | None
    settings: dict[str, Any]
    score: Scorer
    load_s: float
    version: str = ""
    first_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    single: list[float] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)


@dataclass(slots=True)
class Weights:
    """The model that all contenders compute, and folders with it for those who read another form."""

    name: str
    scratch: Path
    threads: int
    encoder: CrossEncoder

    def folder(self) -> Path:
        """As sentence-transformers reads it, in float32."""
        place = self.scratch / "folder"
        if not place.exists():
            self.encoder.save(str(place))
        return place

    def onnx(self) -> Path:
        """One float32 ONNX file beside its tokenizer."""
        place = self.scratch / "onnx"
        if not place.exists():
            with quiet():
                self.encoder.export_onnx(str(place))
        return place


def sentence_transformers(weights: Weights, batch: int) -> BenchContender:
    """sentence-transformers' CrossEncoder in float32, torch."""
    folder = str(weights.folder())
    began = time.perf_counter()
    import torch

    torch.set_num_threads(weights.threads)
    theirs: Any = import_module("sentence_transformers").CrossEncoder(folder, device="cpu")
    named = "activation_fn" if int(version("sentence-transformers").partition(".")[0]) >= 4 else "activation_fct"
    options = {named: torch.nn.Identity(), "batch_size": batch, "show_progress_bar": False}

    def score(query: str, passages: Sequence[str]) -> list[float]:
        return scores_of(theirs.predict([(query, passage) for passage in passages], **options).tolist())

    return BenchContender("sentence-transformers", "sentence-transformers", "fp32", batch,
                          {"threads": torch.get_num_threads()}, score, since(began))  # fmt: skip


def flashrank(weights: Weights) -> BenchContender:
    """FlashRank's Ranker on an export of the weights, put where it looks for one of its own models."""
    library, known = import_module("flashrank"), import_module("flashrank.Config")
    name, files = known.default_model, known.model_file_map
    place = weights.scratch / "flashrank" / name
    place.mkdir(parents=True)
    for file in weights.onnx().iterdir():
        (place / (files[name] if file.suffix == ".onnx" else file.name)).symlink_to(file)
    _complete(place, weights)
    began = time.perf_counter()
    ranker = library.Ranker(model_name=name, cache_dir=str(place.parent), log_level="WARNING")

    def score(query: str, passages: Sequence[str]) -> list[float]:
        given = [{"id": place, "text": passage} for place, passage in enumerate(passages)]
        found = {
            one["id"]: float(one["score"]) for one in ranker.rerank(library.RerankRequest(query=query, passages=given))
        }
        return [found[place] for place in range(len(passages))]

    return BenchContender("FlashRank", "FlashRank", "fp32", None, {"batch": "all at once"}, score, since(began))


def fastembed(weights: Weights, batch: int) -> BenchContender:
    """Fastembed's TextCrossEncoder on an export of the weights, as a model of one's own."""
    library = import_module("fastembed.rerank.cross_encoder")
    sources = import_module("fastembed.common.model_description").ModelSource
    _complete(weights.onnx(), weights)
    name = f"secondpass/bench-{hashlib.sha256(str(weights.scratch).encode()).hexdigest()[:12]}"
    library.TextCrossEncoder.add_custom_model(name, sources(hf=name), model_file="model.onnx")
    began = time.perf_counter()
    encoder = library.TextCrossEncoder(
        name, threads=weights.threads, specific_model_path=str(weights.onnx()), providers=["CPUExecutionProvider"]
    )

    def score(query: str, passages: Sequence[str]) -> list[float]:
        return scores_of([float(one) for one in encoder.rerank(query, passages, batch_size=batch)])

    return BenchContender("fastembed", "fastembed", "fp32", batch, {"threads": weights.threads}, score, since(began))


def _complete(place: Path, weights: Weights) -> None:
    """The small files that onnxruntime's wrappers read beside a tokenizer, where an export has none."""
    tokenizer: Any = weights.encoder.tokenizer
    named = {key: str(token) for key, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    told = {"model_max_length": weights.encoder.max_length or 512, **named}
    for file, value in (("tokenizer_config.json", told), ("special_tokens_map.json", named)):
        known = json.loads((place / file).read_text(encoding="utf-8")) if (place / file).exists() else {}
        (place / file).unlink(missing_ok=True)
        (place / file).write_text(json.dumps(known | value), encoding="utf-8")
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    (place / "config.json").unlink()
    (place / "config.json").write_text(json.dumps({"pad_token_id": tokenizer.pad_token_id, **config}), encoding="utf-8")


def scores_of(logits: Sequence[float]) -> list[float]:
    """Logits [passages] as scores from 0 to 1."""
    return [float(value) for value in sigmoid(np.asarray(logits, np.float64).reshape(-1))]


def since(began: float) -> float:
    """Seconds."""
    return time.perf_counter() - began


@contextmanager
def quiet() -> Iterator[None]:
    """Libraries that talk while they export or load shall not talk into our output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
