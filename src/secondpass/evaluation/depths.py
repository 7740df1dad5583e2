"""Quality against depth: how many candidates are worth re-ranking, and how many a latency budget allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InvalidInput
from secondpass.evaluation.findings import DepthCurve, DepthPoint
from secondpass.evaluation.measures import evaluate, parsed
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Ranking, Run

if TYPE_CHECKING:
    from ir_measures import Measure

LADDER = (1, 2, 3, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000)
MOST_STEPS = 11


def depth_curve(
    qrels: Qrels,
    first: Run,
    second: Run,
    measure: str,
    depths: Iterable[int] | None = None,
    ms_at: Mapping[int, float] | None = None,
) -> DepthCurve:
    """Measure the first pass with only its first d candidates in the second pass's order, the others after them.

    Candidates that the second pass did not return follow those that it did; documents that the first pass lacks, and
    queries that the second pass did not answer, change nothing. The milliseconds are a straight line, fitted by least
    squares, over the documents re-ranked for a query (d, or all its candidates if it has fewer, averaged).

    Args:
        qrels: the judgements.
        first: the candidates, as the first pass ranked them.
        second: the same candidates, re-ranked.
        measure: name of the measure.
        depths: the depths to try, in any order; by default 0, 1, 2, 3, 5, 10, 20, 30, 50, 75, 100, ... and the
            greatest number of candidates, twelve at most.
        ms_at: known milliseconds a query at two depths or more; 0 is the first pass alone.

    Raises:
        InvalidInput: a depth is negative, there is none, the measure is unknown, or the milliseconds are too few, no
            positive numbers or fall with depth.
        MissingExtra: ir_measures is not installed.
    """
    relevant = qrels.with_relevant
    sizes = np.array([len(first.get(query, {})) for query in relevant])
    chosen = _ladder(int(sizes.max(initial=0))) if depths is None else sorted(set(depths))
    if not chosen or chosen[0] < 0:
        raise InvalidInput(f"depths has {chosen[0]}, which is negative" if chosen else "depths is empty")
    ((name, wanted),) = parsed([measure]).items()
    counted = _counted(wanted)
    judged, line = qrels.only(set(relevant)), _line(sizes, ms_at)
    candidates = {query: _places(first[query], second.get(query, {})) for query in relevant if query in first}
    points = []
    for depth in chosen:
        run = Run(second.name, {query: islice(_reordered(ranking, depth), counted)
                                for query, ranking in candidates.items()})  # fmt: skip
        ms = None if line is None else line[0] + line[1] * _work(sizes, depth)
        points.append(DepthPoint(depth, evaluate(judged, run, [name]).means[name], ms))
    return DepthCurve(name, tuple(points))


def depth_for(curve: DepthCurve, budget_ms: float) -> DepthPoint:
    """The best point of a curve within a budget; of equal ones the shallowest.

    Raises:
        InvalidInput: the curve has no milliseconds, or none of its points is within the budget.
    """
    timed = [(point.ms, point) for point in curve.points if point.ms is not None]
    if not timed:
        raise InvalidInput("the milliseconds of this curve are not known: give depth_curve ms_at=...")
    within = [point for ms, point in timed if ms <= budget_ms]
    if not within:
        least = min(ms for ms, _ in timed)
        raise InvalidInput(f"budget_ms={budget_ms!r} is less than any depth takes: {least:.3g} ms at the least")
    return max(within, key=lambda point: (point.value, -point.depth))


def _ladder(most: int) -> list[int]:
    steps = [step for step in LADDER if step < most] + [most] * (most > 0)
    return [0, *steps[-MOST_STEPS:]]


def _counted(measure: Measure) -> int | None:
    """How many documents a measure looks at: ten times less work for nDCG@10 of a hundred candidates."""
    cutoff = measure.params.get("cutoff")
    return cutoff if isinstance(cutoff, int) and not measure.params.get("judged_only") else None


def _places(candidates: Ranking, ranking: Ranking) -> list[tuple[int, str]]:
    """Candidates in the first pass's order, with their places in the second's; those that it lacks come last."""
    places = dict(zip(ranking, range(len(ranking)), strict=True))
    return [(places.get(document, len(places)), document) for document in candidates]


def _reordered(candidates: list[tuple[int, str]], depth: int) -> Iterator[tuple[str, None]]:
    for _, document in sorted(candidates[:depth], key=itemgetter(0)):
        yield document, None
    for _, document in candidates[depth:]:
        yield document, None


def _work(sizes: NDArray[np.int_], depth: int) -> float:
    """Documents that a query has re-ranked at a depth, on average."""
    return float(np.minimum(sizes, depth).mean())


def _line(sizes: NDArray[np.int_], ms_at: Mapping[int, float] | None) -> tuple[float, float] | None:
    """Milliseconds of the first pass and of each document."""
    if ms_at is None:
        return None
    if any(depth < 0 or not 0 <= ms < np.inf for depth, ms in ms_at.items()):
        raise InvalidInput(f"ms_at={dict(ms_at)!r} has a negative depth, or milliseconds that are no positive number")
    work = [_work(sizes, depth) for depth in ms_at]
    if len(set(work)) < 2:
        raise InvalidInput(f"ms_at={dict(ms_at)!r} has one amount of work; a line needs two")
    slope, start = np.polyfit(work, list(ms_at.values()), 1)
    if slope < 0:
        raise InvalidInput(f"ms_at={dict(ms_at)!r} falls with depth")
    return float(start), float(slope)
