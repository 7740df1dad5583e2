"""Measures of a run against judgements, computed by ir_measures and named as it names them.

`nDCG@10`, `RR@10`, `AP`, `P(rel=2)@5`, `R@100`, `ERR@20`, `Judged@10`, `Success@1`, ...: whatever ir_measures parses
and has a provider for (MacAvaney et al. 2022, "Streamlining Evaluation with ir-measures"). A run reaches the
providers with scores that fall strictly by rank, so that all of them measure the order that the run has: left to
themselves one breaks ties by document id and another by what came first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from secondpass.errors import InvalidInput
from secondpass.evaluation.libraries import ir_measures
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.reports import Coverage, Report
from secondpass.evaluation.runs import Run

if TYPE_CHECKING:
    from ir_measures import Measure

DEFAULT_MEASURES = ("nDCG@10", "RR@10", "AP", "R@100")


def parsed(names: Iterable[str]) -> dict[str, Measure]:
    """Measures by their own names, in order, each once.

    Raises:
        InvalidInput: there is none, or one is unknown, incomplete or has no provider here; the message names it.
        MissingExtra: ir_measures is not installed.
    """
    library = ir_measures()
    made: dict[str, Measure] = {}
    for name in [names] if isinstance(names, str) else names:
        try:
            measure = library.parse_measure(_spelled(name, library.measures.registry))
            supported = library.DefaultPipeline.supports(measure)
        # ir_measures raises NameError, AssertionError, SyntaxError and more for what is no measure.
        except Exception as error:
            raise InvalidInput(f"measure {name!r} is unknown or incomplete: {error or 'see ir_measures'}") from None
        if not supported:
            raise InvalidInput(f"measure {name!r} needs a provider of ir_measures that is not installed")
        made[str(measure)] = measure
    if not made:
        raise InvalidInput("measures is empty")
    return made


def _spelled(name: str, registry: Iterable[str]) -> str:
    """`name` with the capitals that ir_measures wants: people write ndcg@10."""
    found = re.match(r"\w+", name)
    by_lower = {known.lower(): known for known in registry}
    if found is None or found.group() in registry or found.group().lower() not in by_lower:
        return name
    return by_lower[found.group().lower()] + name[found.end() :]


def evaluate(
    qrels: Qrels, run: Run, measures: Iterable[str] = DEFAULT_MEASURES, *, without_relevant: str = "leave out"
) -> Report:
    """Measure a run.

    Args:
        qrels: the judgements. They decide which queries count, so that every run is measured on the same ones.
        run: the rankings. A judged query that it lacks counts as an empty ranking.
        measures: names of measures.
        without_relevant: "leave out" the judged queries that have no relevant document, or "zero": let them
            count (nearly every measure is 0 there whatever the system does).

    Raises:
        InvalidInput: no query counts (none is judged, or none has a relevant document), a measure is unknown, or it
            cannot be computed for these judgements.
        MissingExtra: ir_measures is not installed.
    """
    if without_relevant not in ("leave out", "zero"):
        raise InvalidInput(f"without_relevant={without_relevant!r} is neither 'leave out' nor 'zero'")
    wanted = parsed(measures)
    relevant = qrels.with_relevant
    queries = relevant if without_relevant == "leave out" else list(qrels)
    if not queries:
        raise InvalidInput("no judged queries: none has a relevant document")
    empty = sorted(set(qrels) - set(relevant))
    coverage = Coverage(
        measured=len(queries),
        unanswered=tuple(query for query in queries if not run.get(query)),
        without_relevant=tuple(empty),
        unjudged=tuple(query for query in run if query not in qrels),
    )
    values = _values(wanted, qrels, run, queries)
    means = {name: _aggregate(measure, values[name]) for name, measure in wanted.items()}
    return Report(run.name, values, means, coverage)


def _values(measures: Mapping[str, Measure], qrels: Qrels, run: Run, queries: list[str]) -> dict[str, dict[str, float]]:
    # One of the providers (gdeval) takes numbers only for ids of queries.
    numbers = {str(number): query for number, query in enumerate(queries, start=1)}
    judged = {number: dict(qrels[query]) for number, query in numbers.items()}
    ranked = {number: falling(run[query]) for number, query in numbers.items() if run.get(query)}
    names = {measure: name for name, measure in measures.items()}
    # Every query has its place from the start, with what ir_measures gives for an empty ranking.
    values = {name: dict.fromkeys(queries, float(measure.DEFAULT)) for name, measure in measures.items()}
    try:
        for found in ir_measures().iter_calc(list(measures.values()), judged, ranked):
            values[names[found.measure]][numbers[found.query_id]] = float(found.value)
    # Providers have limits of their own (gdeval's ERR takes grades up to 4) and fail in their own ways.
    except Exception as error:
        raise InvalidInput(f"ir_measures cannot compute {', '.join(measures)} for this run: {error!r}") from error
    return values


def falling(ranking: Iterable[str]) -> dict[str, float]:
    """Documents with scores n, n-1, ... 1: the order and nothing else."""
    documents = list(ranking)
    return {document: float(len(documents) - place) for place, document in enumerate(documents)}


def _aggregate(measure: Measure, values: Mapping[str, float]) -> float:
    aggregator = measure.aggregator()
    for value in values.values():
        aggregator.add(value)
    return float(aggregator.result())
