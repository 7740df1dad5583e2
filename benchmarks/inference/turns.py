"""Rankers that take turns over the same queries, and what their times and logits say."""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from benchmarks.inference import contenders
from benchmarks.inference.loads import Asked
from benchmarks.inference.worker import Contender, Place, Scorer, Unavailable, Worker, timed

HERE = "benchmarks.inference.contenders"
THERE = "benchmarks.inference.backends"
TOP = 10

Ranked = tuple[float, list[float]]


@dataclass(slots=True)
class Measured:
    """What one contender did: seconds of each query, of each single pair, and its logits."""

    contender: Contender
    seconds: list[float] = field(default_factory=list)
    single: list[float] = field(default_factory=list)
    logits: list[list[float]] = field(default_factory=list)


class Lineup:
    """The contenders of one model, loaded when first asked: most in this process, the backends in one of their own.

    Args:
        place: where they run.
        backends_python: interpreter with the backends' libraries, or None.
        log: gets what the processes say on stderr.
    """

    def __init__(self, place: Place, backends_python: str | None, log: Path) -> None:
        self.place = place
        self._python = backends_python
        self._log = log
        self._stack = ExitStack()
        self._worker: Worker | None = None
        self._scorers: dict[str, Scorer] = {}

    def __enter__(self) -> Lineup:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()
        self._scorers.clear()
        contenders.forget()

    def load(self, contender: Contender) -> None:
        """Load a contender and warm it up.

        Raises:
            Unavailable: it cannot be had here.
        """
        if contender.way in contenders.BACKENDS:
            self._backends().make(contender, self.place)
            self._backends().rank(contender, *contenders.WARM)
        elif contender.name not in self._scorers:
            self._scorers[contender.name] = contenders.make(contender, self.place)

    def rank(self, contender: Contender, query: str, documents: Sequence[str]) -> Ranked:
        """Seconds and logits of a loaded contender."""
        if contender.way in contenders.BACKENDS:
            return self._backends().rank(contender, query, documents)
        return timed(self._scorers[contender.name], query, documents)

    def fresh(self, contender: Contender, asked: Sequence[Asked]) -> dict[str, float]:
        """What a process of its own takes: seconds from its start to the first ranking, and peak memory in MB."""
        there = contender.way in contenders.BACKENDS
        if there and self._python is None:
            raise Unavailable("no --backends-python")
        began = time.perf_counter()
        python, module = (self._python or "", THERE) if there else (sys.executable, HERE)
        with Worker(python, module, self.place.threads, self._log) as worker:
            worker.make(contender, self.place)
            worker.rank(contender, asked[0].query, asked[0].documents)
            cold = time.perf_counter() - began
            for one in asked[1:]:
                worker.rank(contender, one.query, one.documents)
            return {"cold_s": cold, **worker.ask(peak=True)}

    def _backends(self) -> Worker:
        if self._worker is None:
            if self._python is None:
                raise Unavailable("no --backends-python")
            self._worker = self._stack.enter_context(Worker(self._python, THERE, self.place.threads, self._log))
        return self._worker


def take_turns(
    lineup: Lineup,
    entered: Sequence[Contender],
    asked: Sequence[Asked],
    singles: Sequence[Asked] = (),
    say: Callable[[str], object] = lambda line: None,
) -> list[Measured]:
    """Every contender ranks every query, a query at a time, each time another one first."""
    measured = [Measured(contender) for contender in entered]
    for number, one in enumerate(asked):
        start = number % len(measured)
        for found in measured[start:] + measured[:start]:
            seconds, logits = lineup.rank(found.contender, one.query, one.documents)
            found.seconds.append(seconds)
            found.logits.append(logits)
            for single in singles:
                pair = single.documents[number]
                found.single.append(lineup.rank(found.contender, single.query, [pair])[0])
        say(f"query {number + 1} of {len(asked)}")
    return measured


def best_batch(lineup: Lineup, like: Contender, sizes: Sequence[int], asked: Sequence[Asked]) -> dict[int, float]:
    """Seconds at each batch size, the least over the queries after a first one that warms up."""
    entered = [Contender(f"{like.name} {size}", like.way, like.precision, size) for size in sizes]
    for contender in entered:
        lineup.load(contender)
    measured = take_turns(lineup, entered, asked)
    return {found.contender.batch: min(found.seconds[1:] or found.seconds) for found in measured}


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def ratio(slower: Measured, faster: Measured) -> float:
    """How many times as fast, the median over the queries: both had the same one within seconds."""
    return statistics.median(a / b for a, b in zip(slower.seconds, faster.seconds, strict=True))


def agreement(found: Measured, exact: Measured) -> dict[str, float]:
    """How far logits are from exact ones.

    Returns:
        The largest difference of a logit, of a score (its sigmoid) and of a logit as a share of their spread; means of
        Kendall's tau and of the overlap of the ten best.
    """
    import numpy as np
    from scipy.special import expit
    from scipy.stats import kendalltau

    differences, of_scores, spreads, taus, overlaps = [], [], [], [], []
    for ours, theirs in zip(found.logits, exact.logits, strict=True):
        a, b = np.array(ours), np.array(theirs)
        differences.append(float(np.abs(a - b).max()))
        of_scores.append(float(np.abs(expit(a) - expit(b)).max()))
        spreads.append(float(np.ptp(b)))
        taus.append(float(kendalltau(a, b).statistic))
        top = min(TOP, len(a))
        both = set(np.argsort(-a, kind="stable")[:top].tolist()) & set(np.argsort(-b, kind="stable")[:top].tolist())
        overlaps.append(len(both) / top)
    return {
        "difference": max(differences),
        "score_difference": max(of_scores),
        "difference_of_spread": max(differences) / max(*spreads, 1e-12),
        "tau": statistics.fmean(taus),
        "top10": statistics.fmean(overlaps),
    }


def scratch(parent: Path) -> str:
    """A folder for exports."""
    return tempfile.mkdtemp(dir=parent)
