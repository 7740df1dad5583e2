"""What both passes of a pipeline gave for each query: rankings, what a user must hear of, and nDCG@10 and MRR@10."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from secondpass.calibration import PROBABILITY
from secondpass.cli.output import note
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass_servers.two_pass import MAX_CLAUSES

CUTOFF = 10
NDCG = "nDCG@10"
MRR = "MRR@10"


def ndcg(order: Iterable[str], grades: Mapping[str, int]) -> float:
    """nDCG@10 of documents best first, as trec_eval has it: linear gains, over those of the best order there is."""

    def dcg(gains: Iterable[int]) -> float:
        return sum(max(gain, 0) / math.log2(place) for place, gain in zip(range(2, CUTOFF + 2), gains, strict=False))

    ideal = dcg(sorted(grades.values(), reverse=True))
    return dcg(grades.get(name, 0) for name in order) / ideal if ideal else 0.0


def reciprocal_rank(order: Iterable[str], grades: Mapping[str, int]) -> float:
    """RR@10 of documents best first: 1 / the place of the first of grade 1 or up, 0 where there is none."""
    ranks = zip(range(1, CUTOFF + 1), order, strict=False)
    return next((1 / rank for rank, name in ranks if grades.get(name, 0) > 0), 0.0)


# Computed here, so that a search tells its figures without the libraries of the extra `eval`.
MEASURES = {NDCG: ndcg, MRR: reciprocal_rank}


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """A document in a ranking; `text`, `meta` (in JSON's types) and `passage` are kept only for the last pass.

    A passage has its "text", "start", "end", "score" and "windows", as a SecondPassRanker gives them. `chance` has
    "probability" and "probability_interval" where the ranker's model has a calibration and scored the document.
    """

    id: str
    score: float | None
    text: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)
    passage: Mapping[str, Any] = field(default_factory=dict, hash=False)
    chance: Mapping[str, Any] = field(default_factory=dict, hash=False)


def chances_of(outputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How probably each document is relevant, by its id, as a ranker's outputs say and under the names JSON has."""
    return {
        one["id"]: dict(zip(PROBABILITY, (one["probability"], list(one["interval"])), strict=True))
        for one in outputs.get("probabilities", ())
        if isinstance(one, dict) and {"id", "probability", "interval"} <= one.keys()
    }


def verdict_of(outputs: Mapping[str, Any]) -> dict[str, bool]:
    """Whether no document answers, as a ranker's outputs say and under JSON's name; empty where it has no rule."""
    verdict = outputs.get("nothing_relevant")
    return {} if verdict is None else {"nothing_relevant": verdict}


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Rankings by component, `second` being the last one's, and milliseconds by component.

    `cut` counts documents that were too long to be read wholly; `reranked` is False if the ranker fell back to the
    order that it was given, `unscored` counts documents that its budget left. These are known of a SecondPassRanker
    only. `textless` counts documents without any text among those that the last component was given; `shortened` is
    True if the retriever was asked with the beginning of the query only, because it has more terms than a server takes.
    `nothing_relevant` is the ranker's verdict on the query; None where its model has no rule for that.
    """

    query_id: str
    query: str
    first: dict[str, tuple[RankedDocument, ...]]
    second: tuple[RankedDocument, ...]
    ms: dict[str, float]
    cut: int = 0
    reranked: bool = True
    textless: int = 0
    shortened: bool = False
    unscored: int = 0
    nothing_relevant: bool | None = None

    def given(self, names: tuple[str, ...]) -> tuple[RankedDocument, ...]:
        """What components of the first pass gave; several one after the other, each document once and unscored."""
        if len(names) == 1:
            return self.first[names[0]]
        ids = dict.fromkeys(document.id for name in names for document in self.first[name])
        return tuple(RankedDocument(name, None) for name in ids)

    def to_json(self, texts: bool) -> dict[str, Any]:
        """Plain values; without `texts` a document is only its id, its score and its probability."""
        return {
            "query_id": self.query_id,
            "query": self.query,
            "first": {name: _plain(ranking, texts=False) for name, ranking in self.first.items()},
            "second": _plain(self.second, texts),
            "ms": {name: round(value, 3) for name, value in self.ms.items()},
            "cut": self.cut,
            "reranked": self.reranked,
            **({"textless": self.textless} if self.textless else {}),
            **({"shortened": True} if self.shortened else {}),
            **({"unscored": self.unscored} if self.unscored else {}),
            **({} if self.nothing_relevant is None else {"nothing_relevant": self.nothing_relevant}),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> QueryResult:
        """Undo `to_json`; raises KeyError or TypeError if something is missing."""
        return cls(
            query_id=value["query_id"],
            query=value["query"],
            first={name: _ranking_of(ranking) for name, ranking in value["first"].items()},
            second=_ranking_of(value["second"]),
            ms=dict(value["ms"]),
            cut=value["cut"],
            reranked=value["reranked"],
            textless=value.get("textless", 0),
            shortened=value.get("shortened", False),
            unscored=value.get("unscored", 0),
            nothing_relevant=value.get("nothing_relevant"),
        )


def _plain(ranking: tuple[RankedDocument, ...], texts: bool) -> list[dict[str, Any]]:
    return [
        {
            "id": document.id,
            "score": document.score,
            **document.chance,
            **({"text": document.text} if texts and document.text is not None else {}),
            **({"meta": dict(document.meta)} if texts and document.meta else {}),
            **({"passage": dict(document.passage)} if texts and document.passage else {}),
        }
        for document in ranking
    ]


def _ranking_of(values: list[dict[str, Any]]) -> tuple[RankedDocument, ...]:
    return tuple(
        RankedDocument(value["id"], value["score"], value.get("text"), value.get("meta", {}), value.get("passage", {}),
                       {name: value[name] for name in PROBABILITY if name in value})
        for value in values
    )  # fmt: skip


@dataclass(slots=True)
class Notes:
    """Counts over the answers that went through `watch`."""

    answers: int = 0
    cut: int = 0
    given_back: int = 0
    textless: int = 0
    shortened: int = 0
    unscored: int = 0
    unanswered: int = 0

    def watch(self, answers: Iterable[QueryResult]) -> Iterator[QueryResult]:
        """Pass answers on and count."""
        for answer in answers:
            self.answers += 1
            self.cut += answer.cut
            self.given_back += not answer.reranked
            self.textless += answer.textless
            self.shortened += answer.shortened
            self.unscored += answer.unscored
            self.unanswered += answer.nothing_relevant is True
            yield answer

    def lines(self) -> list[str]:
        """A line for each count that is not zero."""
        said = {
            f"{self.cut} documents were cut to fit the model": self.cut,
            f"{self.given_back} of {self.answers} queries kept the order of the first pass": self.given_back,
            f"{self.textless} documents were ranked without any text: is it in another field than content?": (
                self.textless
            ),
            f"{self.shortened} queries were cut to {MAX_CLAUSES:,} words for retrieval; the ranker read them whole": (
                self.shortened
            ),
            f"{self.unscored} documents were not scored in time: they follow the others": self.unscored,
            f"{self.unanswered} of {self.answers} queries have nothing relevant, by the model's calibration": (
                self.unanswered
            ),
        }
        return [line for line, count in said.items() if count]

    def show(self) -> None:
        """Print them on stderr."""
        for line in self.lines():
            note(line)


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of one stage: by query and measure (0 for a query that it answered with nothing)."""

    stage: str
    values: dict[str, Mapping[str, float]]
    ms: float

    def mean(self, measure: str) -> float:
        """Mean over the judged queries, 0 if there is none."""
        values = self.values[measure].values()
        return fmean(values) if values else 0.0


class Judge:
    """Collects the first ten documents of every stage for the judged queries, and measures them at the end.

    A mean is taken over the queries that were asked and have at least one relevant document. nDCG has trec_eval's
    linear gain (Järvelin & Kekäläinen 2002); MRR@10 is the reciprocal rank of the first document of grade 1 or up.
    """

    def __init__(self, qrels: Qrels, ignore_identical_ids: bool = False) -> None:
        self._ignoring = ignore_identical_ids
        self._ignored = 0
        self._qrels = qrels.only(set(qrels.with_relevant))
        self._runs: dict[str, dict[str, list[str]]] = {}
        self._ms: dict[str, list[float]] = {}

    def add(self, answer: QueryResult, last: str) -> None:
        """Take an answer into account; `last` is the name of the last pass's component."""
        for stage, ranking in (*answer.first.items(), (last, answer.second)):
            self._ms.setdefault(stage, []).append(answer.ms[stage])
            top = self._runs.setdefault(stage, {})
            if answer.query_id in self._qrels:
                own = [answer.query_id] if self._ignoring else []
                kept = [document.id for document in ranking[: CUTOFF + len(own)]]
                self._ignored += answer.query_id in kept[:CUTOFF] and bool(own)
                top[answer.query_id] = [name for name in kept if name not in own][:CUTOFF]

    def watch(self, answers: Iterable[QueryResult], last: str) -> Iterator[QueryResult]:
        """Pass answers on and take each into account."""
        for answer in answers:
            self.add(answer, last)
            yield answer

    def qualities(self) -> list[Quality]:
        """Figures of every stage in order, the last pass last."""
        return [Quality(stage, self._values(run), fmean(self._ms[stage])) for stage, run in self._runs.items()]

    def figures(self) -> list[dict[str, Any]]:
        """Means of every stage, for JSON."""
        return [
            {"stage": quality.stage, NDCG: quality.mean(NDCG), MRR: quality.mean(MRR), "ms_per_query": quality.ms}
            for quality in self.qualities()
        ]

    @property
    def note(self) -> str:
        """What was left out of the rankings before they were measured; "" if nothing was."""
        what = "documents whose id is their query's are left out of the figures, as BEIR does (--keep-identical-ids)"
        return f"{self._ignored:,} {what}" if self._ignored else ""

    @property
    def judged(self) -> int:
        """How many of the queries asked count."""
        return max(map(len, self._runs.values()), default=0)

    def _values(self, run: Mapping[str, list[str]]) -> dict[str, Mapping[str, float]]:
        # which refuses a document that comes twice
        checked = Run("", {query: [(document, None) for document in order] for query, order in run.items()})
        return {
            name: {query: measure(order, self._qrels[query]) for query, order in checked.items()}
            for name, measure in MEASURES.items()
        }


def moved(before: Quality, after: Quality) -> tuple[int, int]:
    """How many queries the later stage helped, and how many it hurt, by nDCG@10."""
    pairs = [(value, after.values[NDCG][query]) for query, value in before.values[NDCG].items()]
    return sum(late > early for early, late in pairs), sum(late < early for early, late in pairs)
