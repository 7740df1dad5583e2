"""One order out of several scores: first passes, a reranker, fields of the documents.

Values and how they are applied, in numpy alone; `secondpass.tuning` chooses them on labels. Reciprocal rank fusion is
that of Cormack, Clarke and Buettcher 2009; weighted sums of scores that are stretched from 0 to 1 within a query are
the convex combinations of Bruch, Gai and Ingber 2023, "An Analysis of Fusion Functions for Hybrid Retrieval"
(https://arxiv.org/abs/2210.11934).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from secondpass.calibration import Calibration, Conditions
from secondpass.errors import InvalidInput
from secondpass.lazy import optional
from secondpass.text import finite_number, whole_number

__all__ = ["RERANKER", "Candidates", "Fused", "Fusion", "SkipRule", "Tuned", "overlap"]

Doubles = npt.NDArray[np.float64]
Method = Literal["rrf", "weighted", "lambdamart"]
METHODS: tuple[Method, ...] = ("rrf", "weighted", "lambdamart")
# The input that a reranker's logits are, beside the names of first passes and fields.
RERANKER = "reranker"
RRF_K = 60
VERSION = 1
# How many of a list's first documents two first passes are compared by.
COMPARED = 10
HALF = np.finfo(np.float64).max / 2


@dataclass(frozen=True, slots=True)
class Candidates:
    """One query's documents, by each input's score: float64 [documents], NaN where it has none.

    They are ordered by their best rank in any first pass, so that ties keep an order that says something.
    """

    ids: tuple[str, ...]
    scores: Mapping[str, Doubles]
    _stretched: dict[str, Doubles] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        runs: Mapping[str, Iterable[tuple[str, float | None]]],
        fields: Mapping[str, Mapping[str, float | None]] | None = None,
    ) -> Candidates:
        """Candidates of first passes, each a ranking with scores or None; `fields` give values by document.

        A list in which a score is missing counts by its order; a document that a field lacks, or has None, is unknown.

        Raises:
            InvalidInput: a document comes twice in a ranking, or a score or a field's value is no finite number.
        """
        lists = {name: list(ranking) for name, ranking in runs.items()}
        best: dict[str, tuple[int, int]] = {}
        for number, (name, ranking) in enumerate(lists.items()):
            if len({document for document, _ in ranking}) < len(ranking):
                raise InvalidInput(f"{name} has a document twice")
            for place, (document, _) in enumerate(ranking):
                best[document] = min(best.get(document, (place, number)), (place, number))
        ids = tuple(sorted(best, key=lambda document: best[document]))
        rows = {document: row for row, document in enumerate(ids)}
        scores = {name: _column(name, ranking, rows) for name, ranking in lists.items()}
        for name, values in (fields or {}).items():
            known = [(document, value) for document in ids if (value := values.get(document)) is not None]
            scores[name] = _column(name, known, rows)
        return cls(ids, scores)

    def with_logits(self, logits: Doubles) -> Candidates:
        """The same with a reranker's logits, NaN for documents that it has not read."""
        made = replace(self, scores={**self.scores, RERANKER: logits})
        made._stretched.update({name: values for name, values in self._stretched.items() if name != RERANKER})
        return made

    def stretched(self, name: str) -> Doubles:
        """An input's scores from 0 to 1, computed once."""
        if name not in self._stretched:
            self._stretched[name] = stretched(self.scores[name])
        return self._stretched[name]


def _column(name: str, ranking: Sequence[tuple[str, float | None]], rows: Mapping[str, int]) -> Doubles:
    made = np.full(len(rows), np.nan)
    given = [score for _, score in ranking]
    if any(score is None for score in given):
        given = [float(-place) for place in range(len(given))]
    plain = [score for score in given if type(score) is float]
    if len(plain) == len(given) and np.isfinite(plain).all():
        made[[rows[document] for document, _ in ranking]] = plain
        return made
    for (document, _), score in zip(ranking, given, strict=True):
        made[rows[document]] = finite_number(score, f"{name}: the score of {document!r}")
    return made


def stretched(scores: Doubles) -> Doubles:
    """From 0, the lowest of those that are there, to 1; what is not there gets 0, and equal ones all 1.

    A list of one document has found it: with ranx's 0 it would count as little as one that was not found.
    """
    there = ~np.isnan(scores)
    if not there.any():
        return np.zeros_like(scores)
    low, high = scores[there].min(), scores[there].max()
    if max(abs(low), abs(high)) > HALF:  # their difference may be beyond float64
        scores, low, high = scores / 2, low / 2, high / 2
    made: Doubles = np.where(there, (scores - low) / (high - low) if high > low else 1.0, 0.0)
    return made


def by_rank(scores: Doubles) -> Doubles:
    """1 / (60 + rank), ranks from 1; what is not there gets 0."""
    there = ~np.isnan(scores)
    order = np.argsort(np.where(there, -scores, np.inf), kind="stable")
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    made: Doubles = np.where(there, 1.0 / (RRF_K + ranks), 0.0)
    return made


@dataclass(frozen=True, slots=True)
class Fusion:
    """How several scores of a document become one; a higher one is better.

    Attributes:
        method: "rrf" sums 1 / (60 + rank) over the inputs, "weighted" sums their stretched scores, "lambdamart" is a
            model of LightGBM over these and the bare ones.
        weights: of each input of a sum, by its name.
        trees: the model as LightGBM writes it, over the inputs in the order of `weights`.
    """

    method: Method
    weights: Mapping[str, float]
    trees: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidInput(f"method={self.method!r} is none of {', '.join(METHODS)}")
        if not self.weights:
            raise InvalidInput("weights is empty")
        for name, weight in self.weights.items():
            finite_number(weight, f"weights[{name!r}]")
        if (self.method == "lambdamart") != bool(self.trees):
            raise InvalidInput("trees go with method='lambdamart'")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs that count."""
        return tuple(name for name, weight in self.weights.items() if weight or self.trees)

    @property
    def label(self) -> str:
        """In words: "rrf of bm25, dense" or "0.6 bm25 + 0.4 reranker"."""
        if self.method != "weighted":
            return f"{self.method} of {', '.join(self.inputs)}"
        if len(self.inputs) == 1:
            return f"{self.inputs[0]} alone"
        return " + ".join(f"{self.weights[name]:.3g} {name}" for name in self.inputs).replace("+ -", "- ")

    def scores(self, candidates: Candidates) -> Doubles:
        """Float64 [documents].

        Raises:
            InvalidInput: an input is missing.
            MissingExtra: LightGBM, which "lambdamart" needs, is not installed.
        """
        missing = [name for name in self.inputs if name not in candidates.scores]
        if missing:
            raise InvalidInput(
                f"the fusion needs {missing[0]!r}, and the candidates have {', '.join(candidates.scores)}"
            )
        if self.method == "lambdamart":
            made: Doubles = _booster(self.trees).predict(features(candidates, self.inputs), num_threads=1)
            return made
        total = np.zeros(len(candidates.ids))
        for name in self.inputs:
            part = by_rank(candidates.scores[name]) if self.method == "rrf" else candidates.stretched(name)
            total += self.weights[name] * part
        if len(self.inputs) == 1:  # what the only input has stands before all that it has not
            total += ~np.isnan(candidates.scores[self.inputs[0]])
        return total


def features(candidates: Candidates, inputs: Sequence[str]) -> Doubles:
    """Float64 [documents, 2 x inputs]: stretched, and as they are; what is not there is 0 and NaN."""
    return np.stack([*map(candidates.stretched, inputs), *(candidates.scores[name] for name in inputs)], axis=1)


@lru_cache(maxsize=8)
def _booster(trees: str) -> Any:
    library = optional("lightgbm", "LightGBM", "tune")
    try:
        return library.Booster(model_str=trees)
    except library.basic.LightGBMError as error:
        raise InvalidInput(f"trees are no model of LightGBM: {error}") from error


def overlap(candidates: Candidates, first: Sequence[str]) -> float:
    """How sure a first pass is, from 0 to 1, by the scores of its lists alone.

    Of several lists the share of their ten best that all have; of one the distance of the best from the second,
    stretched.
    """
    columns = [candidates.scores[name] for name in first]
    if len(columns) == 1:
        best = np.sort(candidates.stretched(first[0]))[::-1]
        return float(best[0] - best[1]) if len(best) > 1 else 1.0
    # NaN, which a list has not found, stands last
    tops = [set(np.argsort(-one, kind="stable")[: min(COMPARED, (~np.isnan(one)).sum())].tolist()) for one in columns]
    return len(set.intersection(*tops)) / max(1, min(COMPARED, len(candidates.ids)))


@dataclass(frozen=True, slots=True)
class SkipRule:
    """Queries of which the first passes are so sure (`overlap` of at least `least`) are not reranked.

    `saved` is the share of the labelled queries, `lost` what the measure loses on those, both on held-out halves.
    """

    least: float
    saved: float
    lost: float

    def __post_init__(self) -> None:
        finite_number(self.least, "least")


@dataclass(frozen=True, slots=True)
class Fused:
    """Document `index` of the candidates with its fused `score`; the reranker's `logit` where it was read."""

    index: int
    id: str
    score: float
    logit: float | None = None
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Tuned:
    """How a query's candidates are ordered, as it was chosen on labels.

    Attributes:
        first: names of the first passes, the main one first.
        before: orders all candidates without a reranker.
        after: orders those that it has read; None: nothing is reranked.
        depth: how many of the best by `before` are reranked.
        skip: which queries are not.
        model: name of the reranker, for messages.
        marks: its logits for sample pairs, by which it is known.
        fields: names of the documents' fields that count.
        calibration: probabilities of documents that were reranked.
        calibrated_by: it is one of `calibrated_by[0]` times the fused score and `calibrated_by[1]` times the logit.
        conditions: how the reranker read the pairs; None where that is not known.
        figures: what it was chosen by, for people: the contenders' held-out means and the like.
    """

    first: tuple[str, ...]
    before: Fusion
    after: Fusion | None = None
    depth: int = 0
    skip: SkipRule | None = None
    model: str | None = None
    marks: tuple[float, ...] | None = None
    fields: tuple[str, ...] = ()
    calibration: Calibration | None = None
    calibrated_by: tuple[float, float] = (1.0, 0.0)
    conditions: Conditions | None = None
    figures: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.first:
            raise InvalidInput("first is empty")
        if RERANKER in self.before.inputs:
            raise InvalidInput("before has the reranker among its inputs")
        whole_number(self.depth, "depth")
        known = {*self.first, *self.fields, RERANKER}
        for fusion in filter(None, (self.before, self.after)):
            for name in fusion.inputs:
                if name not in known:
                    raise InvalidInput(f"{name!r} is no first pass, no field and not the reranker")

    def to_read(self, candidates: Candidates) -> list[int]:
        """Rows of the candidates that the reranker is to read, the best first; none where nothing is reranked."""
        if self.after is None or not candidates.ids:
            return []
        if self.skip is not None and overlap(candidates, self.first) >= self.skip.least:
            return []
        best: list[int] = np.argsort(-self.before.scores(candidates), kind="stable")[: self.depth].tolist()
        return best

    def order(self, candidates: Candidates, read: Sequence[int] = (), logits: npt.ArrayLike = ()) -> list[Fused]:
        """All candidates, best first: those that were `read` by their fused scores, then the others as before.

        Args:
            candidates: of one query.
            read: rows, as `to_read` gives them, or some of them.
            logits: the reranker's, one for each.

        Raises:
            InvalidInput: logits are not as many, or one is not finite.
        """
        rows, scores = self.ranked(candidates, read, logits)
        known = {} if self.after is None else dict(zip(map(int, read), np.asarray(logits, np.float64), strict=True))
        given = [float(known[row]) for row in rows.tolist() if row in known]
        chances = self._chances(scores[: len(given)], np.array(given))
        names = [candidates.ids[row] for row in rows.tolist()]
        best = [*map(Fused, rows.tolist(), names, scores.tolist(), given, chances)]
        return [*best, *map(Fused, rows[len(best) :].tolist(), names[len(best) :], scores[len(best) :].tolist())]

    def ranked(
        self, candidates: Candidates, read: Sequence[int] = (), logits: npt.ArrayLike = ()
    ) -> tuple[npt.NDArray[np.intp], Doubles]:
        """The same as arrays: rows, best first, and their scores, float64 [documents] that do not rise."""
        before = self.before.scores(candidates)
        rows, given = np.asarray(read, np.intp).reshape(-1), np.asarray(logits, np.float64).reshape(-1)
        if len(rows) != len(given):
            raise InvalidInput(f"logits has {len(given)} numbers for {len(rows)} documents")
        if not np.isfinite(given).all():
            raise InvalidInput(f"logits[{int((~np.isfinite(given)).argmax())}] is not finite")
        placed = np.argsort(-before, kind="stable")
        if self.after is None or not len(rows):
            return placed, before[placed]
        whole = np.full(len(candidates.ids), np.nan)
        whole[rows] = given
        scores = self.after.scores(candidates.with_logits(whole))[rows]
        best = np.argsort(-scores, kind="stable")
        behind = placed[np.isnan(whole[placed])]
        # never above what was read, whatever scale the first passes have
        above = max(0.0, float(before[behind].max(initial=-np.inf) - scores[best[-1]]))
        return np.concatenate([rows[best], behind]), np.concatenate([scores[best], before[behind] - above])

    def calibrated(self, scores: Doubles, logits: Doubles) -> Doubles:
        """The number that the calibration is of: what is stretched within a query says nothing across queries alone."""
        score, logit = self.calibrated_by
        made: Doubles = score * scores + logit * logits
        return made

    def nothing_relevant(self, fused: Sequence[Fused]) -> bool | None:
        """Whether no document that was reranked answers; None without a rule for that, or where none was."""
        read = [one for one in fused if one.logit is not None]
        if self.calibration is None or self.calibration.answers is None or not read:
            return None
        numbers = self.calibrated(np.array([one.score for one in read]), np.array([one.logit for one in read]))
        return bool(numbers.max() < self.calibration.answers.logit)

    def _chances(self, scores: Doubles, logits: Doubles) -> Sequence[float | None]:
        if self.calibration is None:
            return [None] * len(scores)
        chances: list[float | None] = self.calibration.probabilities(self.calibrated(scores, logits)).tolist()
        return chances

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads: numbers, strings and lists."""
        calibration = None if self.calibration is None else self.calibration.to_dict()
        return {"version": VERSION, **asdict(replace(self, calibration=None)), "calibration": calibration}

    @classmethod
    def from_dict(cls, page: Mapping[str, Any], place: str | Path = "tuned") -> Tuned:
        """Read what `to_dict` made.

        Raises:
            InvalidInput: it is none, or of another version; the message names `place`.
        """
        version = page.get("version") if isinstance(page, Mapping) else None
        if version != VERSION:
            raise InvalidInput(f"{place} has version {version!r}, and this reads {VERSION}")
        given = {name: value for name, value in page.items() if name in cls.__dataclass_fields__}
        try:
            for name in ("first", "fields"):
                if isinstance(given.get(name), str):
                    raise TypeError(f"{name} is a text, not a list of them")
                given |= {name: tuple(map(str, given[name]))} if name in given else {}
            given["marks"] = None if given.get("marks") is None else tuple(map(float, given["marks"]))
            score, logit = given.get("calibrated_by", (1.0, 0.0))
            given["calibrated_by"] = (
                finite_number(score, "calibrated_by[0]"),
                finite_number(logit, "calibrated_by[1]"),
            )
            given["before"] = Fusion(**given["before"])
            given["after"] = None if given.get("after") is None else Fusion(**given["after"])
            given["skip"] = None if given.get("skip") is None else SkipRule(**given["skip"])
            read = given.get("conditions")
            given["conditions"] = None if read is None else Conditions(**read)
            own = given.get("calibration")
            given["calibration"] = None if own is None else Calibration.from_dict(own, place)
            return cls(**given)
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            raise InvalidInput(f"{place} is no tuned ranking: {error}") from error
