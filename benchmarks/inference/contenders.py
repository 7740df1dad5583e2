"""The ways to rank that run in this interpreter: secondpass, sentence-transformers, and both behind Haystack's rankers.

Everything gives logits: they are what is ranked, and what differs between precisions.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.inference.worker import Contender, Place, Scorer, Unavailable, answer_forever

WARM = ("what is warm", ["warm water", "a cold lake in winter, where nobody swims"])
# An instruction set that no processor has: nothing of the compiled kernel is left.
NO_KERNEL = "none"
BACKENDS = ("onnx", "openvino", "flashrank", "fastembed")

_LOADED: dict[tuple[str, str, str, str], Any] = {}


def unchanged(logits: Any) -> Any:
    """Logits as they are."""
    return logits


@contextmanager
def kernel(used: bool) -> Iterator[None]:
    """Forwards that are chosen here use the compiled kernel or not."""
    from secondpass.forwards.kernel.native import CHOSEN

    before = os.environ.get(CHOSEN)
    if not used:
        os.environ[CHOSEN] = NO_KERNEL
    try:
        yield
    finally:
        os.environ.pop(CHOSEN, None)
        if before is not None:
            os.environ[CHOSEN] = before


def make(contender: Contender, place: Place) -> Scorer:
    """Load a contender, or give a further one on the same loaded model.

    Raises:
        Unavailable: it cannot be had here.
    """
    import torch

    if contender.way in BACKENDS:
        raise Unavailable("runs in the interpreter of --backends-python")
    torch.set_num_threads(place.threads)
    key = (contender.way, contender.precision, place.folder, place.device)
    if key not in _LOADED:
        _LOADED[key] = WAYS[contender.way][0](contender.precision, place)
    scorer = WAYS[contender.way][1](_LOADED[key], contender.batch)
    with kernel(contender.way != "packed torch"):
        scorer(*WARM)  # chooses what computes
    return scorer


def forget() -> None:
    """Let go of all models."""
    _LOADED.clear()


def _secondpass(precision: str, place: Place) -> Any:
    from secondpass import CrossEncoder
    from secondpass.forwards.precision import checked_precision

    try:
        return CrossEncoder(place.folder, device=place.device, precision=checked_precision(precision))
    except ValueError as error:
        raise Unavailable(str(error)) from None


def _packed_torch(precision: str, place: Place) -> Any:
    with kernel(False):
        return _secondpass(precision, place)


def _predict_secondpass(model: Any, batch: int) -> Scorer:
    def score(query: str, documents: Sequence[str]) -> list[float]:
        pairs = [(query, document) for document in documents]
        logits = model.predict(pairs, show_progress_bar=False, activation_fct=unchanged)
        return [float(value) for value in logits]

    return score


def _predict_in_budget(model: Any, batch: int) -> Scorer:
    """`batch` is the tokens of a batch, not its pairs."""

    def score(query: str, documents: Sequence[str]) -> list[float]:
        model.max_batch_tokens = batch
        pairs = [(query, document) for document in documents]
        logits = model.predict(pairs, len(pairs), show_progress_bar=False, activation_fct=unchanged)
        return [float(value) for value in logits]

    return score


def _sentence_transformers(precision: str, place: Place) -> Any:
    import torch
    from sentence_transformers import CrossEncoder

    return CrossEncoder(place.folder, device=place.device, model_kwargs=_dtype(precision, torch))


def _dtype(precision: str, torch: Any) -> dict[str, Any] | None:
    return {"dtype": torch.bfloat16} if precision == "bf16" else None


def _predict_sentence_transformers(model: Any, batch: int) -> Scorer:
    import torch

    def score(query: str, documents: Sequence[str]) -> list[float]:
        pairs = [(query, document) for document in documents]
        logits = model.predict(pairs, batch_size=batch, activation_fn=torch.nn.Identity(), show_progress_bar=False)
        return [float(value) for value in logits]

    return score


def _haystack_secondpass(precision: str, place: Place) -> Any:
    from haystack_integrations.components.rankers.secondpass import SecondPassRanker

    settings: dict[str, Any] = {"model": place.folder, "device": place.device, "scale_score": False}
    if "precision" in inspect.signature(SecondPassRanker.__init__).parameters:
        settings["precision"] = precision
    elif precision != "auto":
        raise Unavailable("the ranker has no argument precision")
    ranker = SecondPassRanker(**settings)
    ranker.warm_up()
    return ranker


def _haystack_sentence_transformers(precision: str, place: Place) -> Any:
    import torch
    from haystack.utils import ComponentDevice
    from haystack_integrations.components.rankers.sentence_transformers import SentenceTransformersSimilarityRanker

    ranker = SentenceTransformersSimilarityRanker(
        model=place.folder,
        device=ComponentDevice.from_str(place.device),
        token=None,
        scale_score=False,
        model_kwargs=_dtype(precision, torch),
    )
    ranker.warm_up()
    return ranker


def _run_ranker(ranker: Any, batch: int) -> Scorer:
    """The whole of a ranker's `run`; making its `Document`s is a price both pay."""
    from haystack import Document

    ranker.batch_size = batch

    def score(query: str, documents: Sequence[str]) -> list[float]:
        given = [Document(id=str(number), content=text) for number, text in enumerate(documents)]
        found = ranker.run(query=query, documents=given, top_k=len(given))["documents"]
        logits = {document.id: float(document.score) for document in found}
        return [logits[document.id] for document in given]

    return score


WAYS: dict[str, tuple[Callable[[str, Place], Any], Callable[[Any, int], Scorer]]] = {
    "secondpass": (_secondpass, _predict_secondpass),
    "packed torch": (_packed_torch, _predict_secondpass),
    "secondpass in budget": (_secondpass, _predict_in_budget),
    "sentence-transformers": (_sentence_transformers, _predict_sentence_transformers),
    "haystack secondpass": (_haystack_secondpass, _run_ranker),
    "haystack sentence-transformers": (_haystack_sentence_transformers, _run_ranker),
}


if __name__ == "__main__":
    os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "false")
    answer_forever(make)
