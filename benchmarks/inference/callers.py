"""Many threads that share one model beside one thread that has all cores."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.inference.contenders import unchanged
from benchmarks.inference.loads import Asked
from benchmarks.inference.worker import Place

Rank = Callable[[Asked], list[float]]


def seconds_of(rank: Rank, asked: Sequence[Asked], threads: int) -> tuple[float, list[list[float]]]:
    """Wall clock of ranking all queries in so many threads, and all logits in order."""
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        logits = list(pool.map(rank, asked))
        return time.perf_counter() - began, logits


def callers(place: Place, precision: str, asked: Sequence[Asked], threads: int, repeats: int) -> dict[str, Any]:
    """Throughput of one thread, of `threads` sharing the model, and of as many through `SharedReranker`.

    All three rank the same queries in turns. `differences` are the largest of a logit, to one thread's.
    """
    import torch

    from secondpass import CrossEncoder
    from secondpass.forwards.precision import checked_precision
    from secondpass.merging import SharedReranker

    torch.set_num_threads(place.threads)
    model = CrossEncoder(place.folder, device=place.device, precision=checked_precision(precision))

    def direct(one: Asked) -> list[float]:
        pairs = [(one.query, document) for document in one.documents]
        found = model.predict(pairs, show_progress_bar=False, activation_fct=unchanged)
        return [float(value) for value in found]

    with SharedReranker(model) as shared:

        def merged(one: Asked) -> list[float]:
            found: list[float] = shared.submit(one.query, one.documents).result().logits[:, 0].tolist()
            return found

        ways: dict[str, tuple[Rank, int]] = {
            "one thread": (direct, 1),
            "threads": (direct, threads),
            "merged": (merged, threads),
        }
        _, exact = seconds_of(direct, asked, 1)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        worst = dict.fromkeys(ways, 0.0)
        for _ in range(repeats):
            for name, (rank, count) in ways.items():
                seconds, logits = seconds_of(rank, asked, count)
                taken[name].append(seconds)
                worst[name] = max(worst[name], _difference(logits, exact))
    pairs = sum(len(one.documents) for one in asked)
    return {
        "precision": precision,
        "threads": threads,
        "pairs_per_second": {name: pairs / statistics.median(seconds) for name, seconds in taken.items()},
        "ratio": {
            name: statistics.median(a / b for a, b in zip(taken["one thread"], seconds, strict=True))
            for name, seconds in taken.items()
        },
        "differences": worst,
    }


def _difference(logits: Sequence[Sequence[float]], exact: Sequence[Sequence[float]]) -> float:
    return max(
        abs(a - b) for ours, theirs in zip(logits, exact, strict=True) for a, b in zip(ours, theirs, strict=True)
    )
