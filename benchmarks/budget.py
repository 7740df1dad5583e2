"""Calls with a budget: when they end under load, and how good an order is that had half the time.

    python -m benchmarks.budget --data ../shared/data --output-dir figures

Load: rounds of 1 to 16 callers at once, in threads, that rank directly, through one `SharedReranker`, or half of them
so and half so. Each call has a random number of random pieces of the collections' documents and a budget between 20 and
2,000 ms, both evenly on a logarithmic scale. A call is in time when it ends within its budget and one piece: the
longest batch that the model computed in that round, by the wall clock inside the model's lock. The overshoot itself is
told too, and how evenly the callers of a round were served.

Order: BM25's hundred candidates of test queries (trecqa: the judged ones, in BM25's order), once without a budget and
once with half of the time which that took. The gain is nDCG@10 above BM25's.
Needs the extra pocket.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
from rich.console import Console

from benchmarks.inference.judged import JUDGED_ONLY, Task, ndcg, tasks
from benchmarks.service import processor
from recipes.pocket.corpora import TEST_SETS, read_test
from recipes.pocket.evaluate import exam
from secondpass import CrossEncoder
from secondpass.forwards.contract import Computation, Compute, Forward, Logits
from secondpass.merging import SharedReranker
from secondpass.tokens import Tokens

Way = Literal["direct", "shared", "both"]
MOST_CALLERS = 16
BUDGETS_MS = 20.0, 2000.0
DOCUMENTS = 5, 1000
WORDS = 3, 400
# Bars: the share of calls in time, and of the whole gain at half of the time.
IN_TIME, GAIN = 0.99, 0.90

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Timed:
    """A forward that tells the longest batch since it was last asked."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self.longest_s = 0.0

    def ready(self) -> Computation:
        """As the forward says, each batch timed."""
        own = self._forward.ready()
        return replace(own, logits=self._timed(own, own.logits))

    def _timed(self, own: Computation, compute: Compute) -> Compute:
        def logits(inputs: Sequence[Tokens]) -> Logits:
            with own.turn(lambda: 1.0):
                began = time.perf_counter()
                made = compute(inputs)
                self.longest_s = max(self.longest_s, time.perf_counter() - began)
                return made

        return logits


@dataclass(frozen=True, slots=True)
class Ended:
    """One call: its round, its documents, how many were scored, budget, time and its round's longest batch in ms."""

    way: Way
    callers: int
    documents: int
    scored: int
    budget_ms: float
    ended_ms: float
    piece_ms: float = 0.0

    @property
    def late_ms(self) -> float:
        """Beyond the budget."""
        return self.ended_ms - self.budget_ms

    @property
    def in_time(self) -> bool:
        """Within the budget and one piece."""
        return self.late_ms <= self.piece_ms


def logarithmic(draw: random.Random, bounds: tuple[float, float]) -> float:
    """A number between the bounds, small ones as often as large ones."""
    low, high = bounds
    return float(low * (high / low) ** draw.random())


class Load:
    """Rounds of callers; `texts` are what documents are cut from, `queries` what is asked."""

    def __init__(self, encoder: CrossEncoder, queries: Sequence[str], texts: Sequence[str]) -> None:
        self._encoder = encoder
        self._queries = queries
        self._words = [text.split() for text in texts]
        self._forward = Timed(encoder.engine().forward)
        encoder.use_forward(self._forward)

    def round(self, way: Way, callers: int, calls: int, seed: int) -> list[Ended]:
        """So many calls of each caller, all at once."""
        self._forward.longest_s = 0.0
        together = threading.Barrier(callers)
        with ExitStack() as stack:
            shared = stack.enter_context(SharedReranker(self._encoder))
            pool = stack.enter_context(ThreadPoolExecutor(callers))

            def caller(number: int) -> list[Ended]:
                draw = random.Random(f"{seed} {number}")
                asked = [self._asked(draw) for _ in range(calls)]
                rank = self._through(shared) if way == "shared" or (way == "both" and number % 2) else self._directly
                together.wait()
                return [self._call(rank, way, callers, *one) for one in asked]

            made = [ended for part in pool.map(caller, range(callers)) for ended in part]
        return [replace(ended, piece_ms=1000 * self._forward.longest_s) for ended in made]

    def _asked(self, draw: random.Random) -> tuple[str, list[str], float]:
        documents = []
        for _ in range(int(logarithmic(draw, DOCUMENTS))):
            words = draw.choice(self._words)
            first = draw.randrange(len(words))
            documents.append(" ".join(words[first : first + int(logarithmic(draw, WORDS))]))
        return draw.choice(self._queries), documents, logarithmic(draw, BUDGETS_MS)

    def _call(
        self, rank: Callable[[str, list[str], float], int], way: Way, callers: int, query: str, documents: list[str],
        budget_ms: float,
    ) -> Ended:  # fmt: skip
        began = time.perf_counter()
        scored = rank(query, documents, budget_ms)
        return Ended(way, callers, len(documents), scored, budget_ms, 1000 * (time.perf_counter() - began))

    def _directly(self, query: str, documents: list[str], budget_ms: float) -> int:
        (ranking,) = self._encoder.rank_many([query], [documents], budget_ms=budget_ms)
        return len(documents) - ranking.unscored

    @staticmethod
    def _through(shared: SharedReranker) -> Callable[[str, list[str], float], int]:
        def rank(query: str, documents: list[str], budget_ms: float) -> int:
            scored = shared.submit(query, documents, budget_s=budget_ms / 1000).result()
            return len(documents) - scored.record.unscored

        return rank


def rounds(load: Load, calls: int) -> list[Ended]:
    """So many calls in rounds of random numbers of callers, all ways in turns."""
    draw = random.Random(0)
    made: list[Ended] = []
    number = 0
    while len(made) < calls:
        way: Way = get_args(Way)[number % len(get_args(Way))]
        made += load.round(way, draw.randint(2 if way == "both" else 1, MOST_CALLERS), 4, number)
        number += 1
    return made


def punctual(ended: Sequence[Ended]) -> dict[str, Any]:
    """Figures of some calls."""
    late = sorted(one.late_ms for one in ended)
    stopped = [one for one in ended if one.scored < one.documents]
    return {
        "calls": len(ended),
        "in_time": round(sum(one.in_time for one in ended) / len(ended), 4),
        "stopped": len(stopped),
        "nothing_scored": sum(1 for one in ended if not one.scored),
        "used": round(statistics.median([one.ended_ms / one.budget_ms for one in stopped] or [0.0]), 3),
        "late_ms": {name: round(late[int(share * (len(late) - 1))], 1) for name, share in SHARES.items()},
        "piece_ms": round(statistics.median(one.piece_ms for one in ended), 1),
    }


SHARES = {"p50": 0.5, "p99": 0.99, "most": 1.0}


# ---- How good an order is that had half the time.
def candidates(data: Path, name: str, limit: int) -> list[Task]:
    """Test queries, their documents in the first pass's order."""
    asked = tasks(data, name, limit)
    if name != JUDGED_ONLY:
        return asked
    judged = exam(read_test(data, name), None)
    ids = judged.collection.corpus.ids
    order = {task.query_id: [ids[row] for row in task.rows] for task in judged.tasks}
    return [replace(one, documents={d: one.documents[d] for d in order[one.query_id]}) for one in asked]


def halved(encoder: CrossEncoder, asked: Sequence[Task]) -> dict[str, Any]:
    """nDCG@10 of the first pass, of the model, and of the model with half of its time."""
    runs: dict[str, dict[str, dict[str, float]]] = {"first": {}, "half": {}, "full": {}}
    shares, seconds = [], []
    for task in asked:
        names, texts = list(task.documents), list(task.documents.values())
        began = time.perf_counter()
        (full,) = encoder.rank_many([task.query], [texts])
        seconds.append(time.perf_counter() - began)
        (half,) = encoder.rank_many([task.query], [texts], budget_ms=500 * seconds[-1])
        shares.append(1 - half.unscored / len(texts))
        orders = {"first": range(len(texts)), "half": _order(half), "full": _order(full)}
        for run, order in orders.items():
            runs[run][task.query_id] = {names[index]: -float(place) for place, index in enumerate(order)}
    figures: dict[str, Any] = {run: round(ndcg(asked, found), 4) for run, found in runs.items()}
    Console(stderr=True).print(figures)
    return {
        "queries": len(asked), **figures, "scored": round(statistics.median(shares), 3),
        "full_ms": round(1000 * statistics.median(seconds), 1),
        "gain_kept": round((figures["half"] - figures["first"]) / (figures["full"] - figures["first"]), 3),
    }  # fmt: skip


def _order(ranking: Any) -> list[int]:
    return [document.index for document in ranking.documents]


@app.command()
def compare(
    data: Annotated[Path, typer.Option(help="Folder of labelled collections.")] = Path("../shared/data"),
    model: Annotated[str, typer.Option(help="Folder or name.")] = "secondpass/pocket",
    calls: Annotated[int, typer.Option(min=1)] = 1000,
    queries: Annotated[int, typer.Option(min=1, help="Test queries of each collection.")] = 12,
    output_dir: Annotated[Path | None, typer.Option(help="Where budget.json goes.")] = None,
) -> None:
    """Measure both and print them; ends with 1 where a bar is missed."""
    encoder = CrossEncoder(model, device="cpu")
    judged = {name: candidates(data, name, queries) for name in TEST_SETS if (data / name).is_dir()}
    every = [task for asked in judged.values() for task in asked]
    encoder.rank(every[0].query, list(every[0].documents.values()))
    texts = [text for task in every for text in list(task.documents.values())[:5]]
    ended = rounds(Load(encoder, [task.query for task in every], texts), calls)
    load = {way: punctual([one for one in ended if one.way == way]) for way in get_args(Way)}
    load["all"] = punctual(ended)
    Console(stderr=True).print_json(data=load)
    orders = {name: halved(encoder, asked) for name, asked in judged.items()}
    kept = {run: statistics.mean(found[run] for found in orders.values()) for run in ("first", "half", "full")}
    figures: dict[str, Any] = {
        "cpu": processor(), "threads": os.cpu_count(), "model": model, "load": load, "orders": orders,
        "gain_kept": round((kept["half"] - kept["first"]) / (kept["full"] - kept["first"]), 3),
    }  # fmt: skip
    Console().print_json(data=figures)
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "budget.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    raise typer.Exit(figures["load"]["all"]["in_time"] < IN_TIME or figures["gain_kept"] < GAIN)


if __name__ == "__main__":
    app()
