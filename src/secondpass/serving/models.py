"""The models that one service answers with, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from secondpass.errors import InvalidInput
from secondpass.merging.scoring_thread import MergedBatch
from secondpass.merging.shared import SharedReranker
from secondpass.reranker import Reranker
from secondpass.serving.problems import Problem
from secondpass.serving.settings import Settings
from secondpass.tokens import TokenCache

Watch = Callable[[str, MergedBatch], object]


@dataclass(frozen=True, slots=True)
class Served:
    """One model: its name, the engine, the queue in front of it, its window in tokens, and the type it computes in."""

    name: str
    reranker: Reranker
    shared: SharedReranker
    window: int
    dtype: str


class Models:
    """Every served model; the first is the default."""

    def __init__(self, rerankers: Mapping[str, Reranker], settings: Settings, watch: Watch) -> None:
        """Put a queue in front of each model, and give a token cache to each that has none of its own.

        Raises:
            InvalidInput: there is no model, or one has several labels, of which none is the relevance.
        """
        if not rerankers:
            raise InvalidInput("no model is given")
        for name, reranker in rerankers.items():
            labels = reranker.config.num_labels
            if labels != 1:
                raise InvalidInput(f"model {name!r} has {labels} labels: only models with one can be served")
        self._served = {name: _served(name, reranker, settings, watch) for name, reranker in rerankers.items()}
        size = settings.token_cache_mb * 2**20
        self.token_cache = TokenCache(size) if size else None
        for reranker in rerankers.values():
            if reranker.token_cache is None:
                reranker.use_token_cache(self.token_cache)

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    def get(self, name: str | None) -> Served:
        """The model of a request.

        Raises:
            Problem: 404, there is none of this name; the message names those there are.
        """
        if name is None:
            return next(iter(self))
        if name not in self._served:
            there = ", ".join(self._served)
            raise Problem(404, "unknown_model", f"model: there is none of this name; there is {there}")
        return self._served[name]

    def close(self) -> None:
        """Finish what was accepted and end the scoring threads."""
        for served in self:
            served.shared.close(drain=True)


def load_models(settings: Settings) -> dict[str, Reranker]:
    """Load every model of the settings, each source once.

    Raises:
        ModelLoadError: one cannot be had.
        InvalidInput: the length, the device or the precision is refused.
    """
    from secondpass.cross_encoder import CrossEncoder

    loaded: dict[str, Reranker] = {}
    for source in dict.fromkeys(model.source for model in settings.models):
        loaded[source] = CrossEncoder(
            source, max_length=settings.max_length, device=settings.device, precision=settings.precision
        )
        # What happens once a model, such as choosing its forward, happens before anybody waits for it.
        loaded[source].rank_many(["ready?"], [["yes"]], relevance=0, show_progress_bar=False)
    return {model.name: loaded[model.source] for model in settings.models}


def _served(name: str, reranker: Reranker, settings: Settings, watch: Watch) -> Served:
    shared = SharedReranker(
        reranker,
        max_waiting_pairs=settings.max_waiting_pairs,
        max_waiting_tokens=settings.max_waiting_tokens,
        max_wait_ms=settings.max_wait_ms,
        watch=lambda batch: watch(name, batch),
    )
    # Read once: while a batch runs, the forward has no time for questions.
    dtype = str(reranker.dtype).removeprefix("torch.")
    return Served(name, reranker, shared, reranker.window, dtype)
