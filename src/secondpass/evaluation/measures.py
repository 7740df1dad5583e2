"""Measures of a run against judgements, computed by ir_measures and named as it names them.

`nDCG@10`, `RR@10`, `AP`, `P(rel=2)@5`, `R@100`, `ERR@20`, `Judged@10`, `Success@1`, ...: whatever ir_measures parses
and has a provider for (MacAvaney et al. 2022, "Streamlining Evaluation with ir-measures"). A run reaches the
providers with scores that fall strictly by rank, so that all of them measure the order that the run has: left to
themselves one breaks ties by document id and another by what came first.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any

from secondpass.display import html_table
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.lazy import optional

if TYPE_CHECKING:
    from ir_measures import Measure


# Libraries of the eval extra, imported when they are first called for: they take seconds.
ir_measures = partial(optional, "ir_measures", "ir_measures", "eval")
scikit_metrics = partial(optional, "sklearn.metrics", "scikit-learn", "eval")
scipy_stats = partial(optional, "scipy.stats", "scipy", "eval")
# trec_eval's measures share memory of the process. pytrec_eval holds Python's lock while it computes, but dictionaries
# that it makes may begin a collection of garbage, whose finalizers give that lock away: a second evaluation in the
# midst of one reads what it has freed, and the process ends.
_PROVIDERS = Lock()


# What parameters may be, ends included: some of what lies outside ends the process in trec_eval, is another measure
# there (a tiny beta) or no measure at all.
HIGHEST = 1_000_000
LIMITS: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("cutoff", "rel", "max_rel"), (1, HIGHEST)),
    **dict.fromkeys(("recall", "alpha", "p"), (0, 1)),
    **dict.fromkeys(("beta", "T"), (0.0001, HIGHEST)),
}
KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", dict: "a mapping"}
INSTALLED_BY = {
    "cwl_eval": 'cwl-eval: pip install "secondpass[eval]"',
    "pyndeval": 'pyndeval: pip install "secondpass[eval]"',
    "gdeval": "perl on the path",
}


@dataclass(frozen=True, slots=True)
class Coverage:
    """Queries by what they could contribute.

    `measured` queries make the means. Of them, `unanswered` are not in the run: they count as an empty ranking.
    `without_relevant` have judgements but no relevant document: no order of theirs is better than another, so they
    are left out unless asked for. `unjudged` queries of the run have no judgement and are left out.
    """

    measured: int
    unanswered: tuple[str, ...] = ()
    without_relevant: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """One run's figures.

    Attributes:
        system: the run's name.
        values: by measure (named as ir_measures names it) the value of each query, in the judgements' order; NaN where
            the measure has none.
        means: by measure its aggregate: the mean over the queries with a value, for counts such as NumRet the sum.
        coverage: which queries count.
        sums: the measures whose aggregate is a sum.
        undefined: by measure why it has no value for some queries, or for none.
    """

    system: str
    values: Mapping[str, Mapping[str, float]]
    means: Mapping[str, float]
    coverage: Coverage
    sums: tuple[str, ...] = ()
    undefined: Mapping[str, str] = field(default_factory=dict)

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures, in the order in which they were asked for."""
        return tuple(self.values)

    @property
    def queries(self) -> tuple[str, ...]:
        """Ids of the queries that count."""
        return tuple(next(iter(self.values.values()), {}))

    def _repr_html_(self) -> str:
        """A table for notebooks: each measure with its mean, or its sum where it counts."""
        rows = [(name, f"{value:.4f}" if math.isfinite(value) else "-") for name, value in self.means.items()]
        caption = f"{self.system}, over {self.coverage.measured:,} queries"
        return html_table((("measure", "name"), ("mean", "number")), rows, caption=caption)


DEFAULT_MEASURES = ("nDCG@10", "RR@10", "AP", "R@100")
GDEVAL_HIGHEST = 4
# The time of trec_eval's nDCG of whole lists grows with the square of the highest grade, and nothing interrupts it.
HIGHEST_WITHOUT_CUTOFF = 10_000


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
        InvalidInput: no query counts (none is judged, or none has a relevant document), a measure is unknown, or none
            of them can be computed for these judgements.
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
    lists = _Lists(qrels, run, queries)
    values, undefined = lists.values(wanted)
    means = {name: aggregate(measure, values[name].values()) for name, measure in wanted.items()}
    sums = tuple(name for name, measure in wanted.items() if aggregate(measure, [1.0, 1.0]) == 2.0)
    return Report(run.name, values, means, coverage, sums, undefined)


class _Lists:
    """Judgements and rankings of the queries that count, by their numbers.

    One of the providers (gdeval) takes numbers only for ids of queries, and has columns for those of documents.
    """

    def __init__(self, qrels: Qrels, run: Run, queries: Sequence[str]) -> None:
        self._qrels, self._queries = qrels, queries
        self._numbers = {str(number): query for number, query in enumerate(queries, start=1)}
        self._judged = {number: dict(qrels[query]) for number, query in self._numbers.items()}
        self._ranked = {number: falling(run[query]) for number, query in self._numbers.items() if run.get(query)}

    def values(self, wanted: Mapping[str, Measure]) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
        """By measure the value of each query, NaN where it has none, and why it has none.

        Raises:
            InvalidInput: none of the measures can be computed.
        """
        values = {name: dict.fromkeys(self._queries, math.nan) for name in wanted}
        failed: dict[str, str] = {}
        groups: dict[str, dict[str, Measure]] = {}
        for name, measure in wanted.items():
            groups.setdefault(_company(name, measure), {})[name] = measure
        for group in groups.values():
            try:
                values |= self._computed(group)
            # Providers have limits of their own and fail in their own ways; one must not take the others with it.
            except Exception:
                for name, measure in group.items():
                    try:
                        values |= self._computed({name: measure})
                    except Exception as error:
                        reason = str(error) if isinstance(error, InvalidInput) else f"ir_measures fails with {error!r}"
                        failed[name] = f"cannot be computed: {reason}"
        if len(failed) == len(wanted):
            raise InvalidInput("; ".join(f"measure {name!r} {why}" for name, why in failed.items()))
        return values, failed | _without_value({name: values[name] for name in wanted if name not in failed})

    def _computed(self, group: Mapping[str, Measure]) -> dict[str, dict[str, float]]:
        names = {measure: name for name, measure in group.items()}
        measure = next(iter(names))
        judged: Any = self._judged
        ranked: Mapping[str, Mapping[str, float]] = self._ranked
        fill = float(measure.DEFAULT)
        if measure.NAME in ("NumQ", "NumRel"):
            # They are about the judgements; providers ask for a ranking all the same.
            ranked = {number: {document: 1.0 for document in grades} for number, grades in judged.items()}
        elif measure.NAME == "Accuracy":
            # The share of pairs in order is of nothing where all documents are alike, and its provider divides by it.
            ranked, fill = {key: found for key, found in ranked.items() if self._mixed(key, measure)}, math.nan
        elif over_subtopics(measure):
            judged = self._by_subtopic()
        elif _of_gdeval(measure):
            judged, ranked = self._for_gdeval()
        else:
            self._refuse_endless(group)
        # Every query has its place from the start, with what ir_measures gives for an empty ranking.
        values = {name: dict.fromkeys(self._queries, fill) for name in group}
        with _PROVIDERS:
            made = list(ir_measures().iter_calc(list(group.values()), judged, ranked))
        for found in made:
            values[names[found.measure]][self._numbers[found.query_id]] = float(found.value)
        return values

    def _refuse_endless(self, group: Mapping[str, Measure]) -> None:
        for measure in group.values():
            if measure.NAME == "nDCG" and "cutoff" not in measure.params:
                gains = measure.params.get("gains") or {}
                found = (gains.get(grade, grade) for grades in self._judged.values() for grade in grades.values())
                if (highest := max(found, default=0)) > HIGHEST_WITHOUT_CUTOFF:
                    limit = f"without a cutoff its grades and gains are at most {HIGHEST_WITHOUT_CUTOFF:,}"
                    raise InvalidInput(f"{limit}, and one is {highest:,}; with one, as in nDCG@1000, it is computed")

    def _mixed(self, number: str, measure: Measure) -> bool:
        grades, lowest = self._judged[number], measure["rel"]
        counted = islice(self._ranked[number], measure.params.get("cutoff"))
        return len({grades.get(document, 0) >= lowest for document in counted}) == 2

    def _by_subtopic(self) -> list[Any]:
        several = self._qrels.subtopics
        if not several.keys() & set(self._queries):
            raise InvalidInput("no query is judged by several subtopics (the second column of TREC's judgements)")
        qrel = ir_measures().Qrel
        return [
            qrel(number, document, grade, subtopic)
            for number, query in self._numbers.items()
            for document, flat in self._judged[number].items()
            for subtopic, grade in several.get(query, {}).get(document, {"0": flat}).items()
        ]

    def _for_gdeval(self) -> tuple[Any, Any]:
        ids: dict[str, str] = {}
        for number, grades in self._judged.items():
            for document, grade in grades.items():
                if grade > GDEVAL_HIGHEST:
                    where = f"{document!r} of query {self._numbers[number]!r} has {grade}"
                    raise InvalidInput(f"its grades are at most {GDEVAL_HIGHEST}, and document {where}")

        def numbered(lists: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
            return {
                number: {ids.setdefault(document, str(len(ids))): value for document, value in found.items()}
                for number, found in lists.items()
            }

        return numbered(self._judged), numbered(self._ranked)


def _company(name: str, measure: Measure) -> str:
    """Measures that may be computed in one call have the same; ir_measures 0.4 mixes the others up.

    NumRet takes over `judged_only` of what is asked with it, Accuracy gets values for lists that it has none for, and
    of several measures over subtopics only the first sees the run.
    """
    alone = over_subtopics(measure) or measure.params.get("judged_only")
    if alone or measure.NAME in ("Accuracy", "NumRet", "NumRel", "NumQ"):
        return name
    return "gdeval" if _of_gdeval(measure) else ""


def _of_gdeval(measure: Measure) -> bool:
    return measure.NAME == "ERR" or measure.params.get("dcg") == "exp-log2"


def _without_value(values: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """By measure which queries it has no value for, if there are any."""
    said = {}
    for name, found in values.items():
        if lacking := [query for query, value in found.items() if math.isnan(value)]:
            few = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
            share = f"{len(lacking):,} of {len(found):,} queries"
            said[name] = f"has no value for {share}, which its mean leaves out ({few})"
    return said


def falling(ranking: Iterable[str]) -> dict[str, float]:
    """Documents with scores n, n-1, ... 1: the order and nothing else."""
    documents = list(ranking)
    return {document: float(len(documents) - place) for place, document in enumerate(documents)}


def aggregate(measure: Measure, values: Iterable[float]) -> float:
    """A measure's own aggregate of its values but NaN: the mean, for counts such as NumRet the sum."""
    aggregator = measure.aggregator()
    for value in values:
        if not math.isnan(value):
            aggregator.add(value)
    return float(aggregator.result())


# ---- Names: measures as ir_measures writes them, and what each of them needs.
def parsed(names: Iterable[str]) -> dict[str, Measure]:
    """Measures by their own names, in order, each once.

    Raises:
        InvalidInput: there is none, or one is unknown, lacks a parameter or has a wrong one, or needs a package that
            is not installed; the message names it.
        MissingExtra: ir_measures is not installed.
    """
    library = ir_measures()
    made: dict[str, Measure] = {}
    for name in [names] if isinstance(names, str) else names:
        if not isinstance(name, str):
            raise InvalidInput(f"measure {name!r} is {type(name).__name__}, not str")
        measure = _measure(name, library.measures.registry)
        if fault := _fault(measure, library):
            raise InvalidInput(f"measure {name!r} {fault}")
        made[str(measure)] = measure
    if not made:
        raise InvalidInput("measures is empty")
    return made


def _measure(name: str, registry: Mapping[str, Measure]) -> Measure:
    """`NAME(parameter=value, ...)@cutoff` as ir_measures writes it, with any capitals: people write ndcg@10.

    Read here, since ir_measures 0.4 reads numbers by a part of `ast` that Python 3.14 no longer has.
    """
    by_lower = {known.lower(): known for known in registry}
    try:
        node: Any = ast.parse(name.strip(), mode="eval").body
        at = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            at, node = [ast.literal_eval(node.right)], node.left
        given = {}
        if isinstance(node, ast.Call) and not node.args:
            given = {str(part.arg): ast.literal_eval(part.value) for part in node.keywords}
            node = node.func
        known = registry[node.id if node.id in registry else by_lower[node.id.lower()]]
    except (SyntaxError, ValueError, TypeError, LookupError, AttributeError, MemoryError, RecursionError):
        form = "NAME, NAME@10 or NAME(rel=2)@10, with a name of ir_measures"
        raise InvalidInput(f"measure {name!r} is unknown; a measure is {form}") from None
    given |= dict.fromkeys([known.AT_PARAM] * len(at), *at)
    floats = {key for key, info in known.SUPPORTED_PARAMS.items() if info.dtype is float}
    whole = {key: float(value) for key, value in given.items() if key in floats and type(value) is int}
    made: Measure = known(**given | whole)
    return made


def _fault(measure: Measure, library: Any) -> str:
    """What is wrong with a measure's parameters, or what it lacks here; "" if it can be computed."""
    known = measure.SUPPORTED_PARAMS
    for name in measure.params:
        if name not in known:
            return f"has no parameter {name}; its parameters are {', '.join(known) or 'none'}"
    required = {name for name, info in known.items() if info.required}
    if measure.NAME in _over_subtopics() or measure.NAME == "ERR":
        required |= {"cutoff"} & known.keys()
    missing = [name for name in known if name in required and name not in measure.params]
    if missing:
        return _lacks(measure, missing)
    for name, value in measure.params.items():
        if why := _out_of_range(name, value, known[name]):
            return f"has {name}={value!r}: {why}"
    if known.keys() >= {"min_rel", "max_rel"} and measure["min_rel"] >= measure["max_rel"]:
        return f"has max_rel={measure['max_rel']}, which is not above min_rel={measure['min_rel']}"
    return "" if library.DefaultPipeline.supports(measure) else _unprovided(measure, library)


def _out_of_range(name: str, value: Any, info: Any) -> str:
    if isinstance(value, bool) is not (info.dtype is bool) or not info.validate(value):
        choices = info.choices if isinstance(info.choices, (list, tuple)) else ()
        return f"it is one of {', '.join(map(repr, choices))}" if choices else f"it is {KINDS[info.dtype]}"
    if name == "recall" and round(value, 2) != value:
        return "trec_eval knows hundredths only"
    if isinstance(value, dict):
        whole = all(type(part) is int and abs(part) <= HIGHEST for item in value.items() for part in item)
        # trec_eval is not made for negative ones.
        fit = whole and min(value.values(), default=0) >= 0
        return "" if fit else f"gains are whole numbers from 0 to {HIGHEST:,}"
    low, high = LIMITS.get(name, (-math.inf, math.inf))
    return "" if isinstance(value, (str, bool)) or low <= value <= high else f"it is from {low:g} to {high:,}"


def _lacks(measure: Measure, names: Sequence[str]) -> str:
    inside = ", ".join(f"{name}={3 if name == 'max_rel' else 1}" for name in names if name != measure.AT_PARAM)
    at = {"cutoff": "@10", "recall": "@0.1"}[measure.AT_PARAM] if measure.AT_PARAM in names else ""
    example = f"{measure.NAME}({inside}){at}" if inside else f"{measure.NAME}{at}"
    return f"needs the parameter{'s' * (len(names) > 1)} {' and '.join(names)}, as in {example}"


def _unprovided(measure: Measure, library: Any) -> str:
    """Which package or parameter would make a provider of ir_measures compute it."""
    faults: list[tuple[int, str]] = []
    for provider in library.DefaultPipeline.providers:
        for known in provider.SUPPORTED_MEASURES:
            if known.NAME != measure.NAME:
                continue
            other = {name: spec for name, spec in known.params.items() if not spec.validate(measure[name])}
            if not other:
                needed = INSTALLED_BY.get(provider.NAME) or f"{provider.NAME}: {provider.install_instructions()}"
                faults.append((0 if provider.NAME in INSTALLED_BY else 3, f"needs {needed}"))
            elif required := [name for name, spec in other.items() if "REQUIRED" in repr(spec)]:
                faults.append((1, _lacks(measure, required)))
            else:
                said = ("no {}" if "NOT_PROVIDED" in repr(spec) else f"{{}}={spec} only" for spec in other.values())
                faults.append((2, "takes " + " and ".join(map(str.format, said, other))))
    return min(faults)[1] if faults else "has no provider in this version of ir_measures"


@cache
def _over_subtopics() -> frozenset[str]:
    """Names of the measures that judge a list by the subtopics that it covers: those of pyndeval."""
    return frozenset(measure.NAME for measure in ir_measures().providers.registry["pyndeval"].SUPPORTED_MEASURES)


def over_subtopics(measure: Measure) -> bool:
    """Whether a measure judges a list by the subtopics that it covers, so that grades alone do not order documents."""
    return measure.NAME in _over_subtopics()
