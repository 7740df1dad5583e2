"""What a logit means: the probability that a document is relevant, what a threshold promises, when nothing is.

Values and how they are applied, in numpy alone; `secondpass.tuning` fits them on labels. A threshold's promise is an
exact binomial bound (Clopper and Pearson 1934) along a sequence of thresholds that was fixed before a label was seen
and ends at the first failure (fixed-sequence testing, as in Angelopoulos et al. 2021, "Learn then Test",
https://arxiv.org/abs/2110.01052). Documents of one query are relevant or not together, so they do not count as so many
trials: the bound is taken on the effective number of them (Korn and Graubard 1998, "Confidence Intervals for
Proportions with Small Expected Number of Positive Counts Estimated from Survey Data"), as if those of a query were
copies of one (Kish 1965, "Survey Sampling"), which no label has a part in and which errs on the safe side.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from secondpass.errors import InvalidInput
from secondpass.inputs import CutPolicy, PromptTemplate
from secondpass.ranking import Ranked, Ranking, Relevance
from secondpass.text import finite_number, share, whole_number
from secondpass.windows import Windows

__all__ = ["AnswerRule", "Calibration", "Conditions", "Promise", "Step"]

Doubles = npt.NDArray[np.float64]
Method = Literal["logistic", "beta", "isotonic"]
METHODS: tuple[Method, ...] = ("logistic", "beta", "isotonic")
# In a model's folder, beside its weights.
FILE = "secondpass_calibration.json"
VERSION = 1
# What rows have of it: the number, and two more of its interval.
PROBABILITY = ("probability", "probability_interval")
# Of a file's names those without which its probabilities would be others.
SHAPE = ("method", "slope", "intercept", "beta", "knots", "edges", "low", "high")
# Independent trials at the first threshold that is tried, where fewer could carry the promise too: of so few one error
# ends the sequence. By simulation and on collections that nothing is reported on.
FEWEST_TRIALS = 12


@dataclass(frozen=True, slots=True)
class Step:
    """One threshold of the sequence that promises are made along: what the labelled queries have at or above it.

    `kept` documents are at `logit` or above, `relevant` of them are; `queries` keep one at least. `trials` is what they
    are worth as independent ones.
    """

    logit: float
    kept: int
    relevant: int
    queries: int
    trials: float

    def __post_init__(self) -> None:
        finite_number(self.logit, "logit")
        counts_of(self, "kept", "relevant", "queries")
        if max(self.relevant, self.queries, finite_number(self.trials, "trials"), 1) > self.kept or self.trials <= 0:
            raise InvalidInput(f"kept={self.kept!r} is less than relevant, queries or trials")

    def is_promised(self, precision: float, confidence: float) -> bool:
        """Whether a share of relevant documents below `precision` would have given so many with 1 - confidence."""
        trials = math.floor(self.trials + 1e-9)
        return at_least(math.floor(self.relevant / self.kept * trials + 1e-9), trials, precision) <= 1 - confidence


@dataclass(frozen=True, slots=True)
class Promise:
    """The lowest threshold whose documents are relevant to the share `precision`, with this `confidence`.

    Attributes:
        precision, confidence: what was asked for.
        threshold: as a probability of the calibration; None where nothing can be promised.
        logit: the same as a logit.
        kept: labelled documents at or above it.
        queries_kept: the share of the labelled queries that keep a document.
        reason: what was not enough, where there is none.
    """

    precision: float
    confidence: float
    threshold: float | None
    logit: float | None
    kept: int
    queries_kept: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AnswerRule:
    """A query whose best document has a logit below this has no answer among its documents.

    Attributes:
        logit: of the best document.
        queries: labelled queries with relevant documents that it was fitted on.
        answered: the share of them that it calls answered.
        refused: the share of queries without an answer that it calls so.
        unanswered: labelled queries none of whose documents is relevant; where they are fewer than ten, 0, and the
            others without their relevant documents stand for them: what is left is nearer to the query, so that the
            rule refuses too many.
    """

    logit: float
    queries: int
    answered: float
    refused: float
    unanswered: int = 0

    def __post_init__(self) -> None:
        for name in ("logit", "answered", "refused"):
            finite_number(getattr(self, name), name)
        counts_of(self, "queries", "unanswered")


@dataclass(frozen=True, slots=True)
class Conditions:
    """How pairs were read; logits of the same model under others are others.

    Attributes:
        window: tokens of a pair at most.
        truncation: what is cut, in words.
        prompt: in front of each query, or the instruction at its place in the model's template.
        template: digest of what a call's operator wrote around the texts; empty where that is nothing.
    """

    window: int
    truncation: str = "longest_first"
    prompt: str = ""
    template: str = ""

    @classmethod
    def of(cls, window: int, policy: CutPolicy, prompt: str, template: PromptTemplate | None = None) -> Conditions:
        """Those of a call."""
        wishes = asdict(policy) | (asdict(policy.windows) if policy.windows else {})
        usual = asdict(CutPolicy(policy.truncation)) | asdict(Windows())
        said = [f"{name}={wish}" for name, wish in wishes.items() if name != "windows" and wish != usual[name]]
        around = "" if template in (None, PromptTemplate()) else hashlib.sha256(repr(template).encode()).hexdigest()
        return cls(window, " ".join([policy.truncation, *said]), prompt, around)

    def differences(self, other: Conditions) -> dict[str, str]:
        """What is otherwise under `other`, by name, in words."""
        pairs = [(one.name, getattr(self, one.name), getattr(other, one.name)) for one in fields(self)]
        return {name: f"{name} {own!r} instead of {theirs!r}" for name, own, theirs in pairs if own != theirs}


@dataclass(frozen=True, slots=True)
class Calibration:
    """P(relevant | logit) of one model, and what follows from it.

    Attributes:
        method: "logistic" (Platt 1999) by `slope` and `intercept`, "beta" (Kull, Silva Filho and Flach 2017, "Beta
            calibration") by these and `beta`, or "isotonic" by `knots`.
        slope, intercept: the logistic probability is the sigmoid of slope * logit + intercept.
        beta: (a, b, c) make a * ln p - b * ln(1 - p) + c of such a p, the log-odds of the probability: a slope of its
            own at either end.
        knots: rising (logit, probability), joined by straight lines and level beyond the ends.
        edges, low, high: an interval around a probability (Venn-Abers; Vovk and Petej 2014,
            https://arxiv.org/abs/1211.0025): of logits from edges[i - 1] on and below edges[i] it is low[i] to high[i].
        sequence: thresholds for promises, the highest first.
        answers: when a query has no answer; None where that was not fitted.
        queries, rows, relevant, unjudged: labelled queries, their documents, how many of these are relevant, and how
            many nobody judged.
        unjudged_as: what the latter counted as: "other" (not relevant), or "absent" (left out).
        otherwise: slope and intercept of the logistic probability if they had counted as the other of these; None where
            all were judged, or all that were judged are relevant.
        relevance: by which number of several labels a document is ranked, as `rank(relevance=)`.
        origin: where labels come from that people did not give, to be read after "judgements".
        error: expected calibration error on held-out halves, over bins of equal count.
        model: its name, for messages.
        weights: digest of the weights that gave the logits; None where they lie in no file.
        marks: its logits for sample pairs, by which a model is known whose files were written anew.
        conditions: how the labelled pairs were read; None where scores of something else than pairs were calibrated.
    """

    method: Method
    slope: float = 1.0
    intercept: float = 0.0
    beta: tuple[float, float, float] = (1.0, 1.0, 0.0)
    knots: tuple[tuple[float, float], ...] = ()
    edges: tuple[float, ...] = ()
    low: tuple[float, ...] = (0.0,)
    high: tuple[float, ...] = (1.0,)
    sequence: tuple[Step, ...] = ()
    answers: AnswerRule | None = None
    queries: int = 0
    rows: int = 0
    relevant: int = 0
    unjudged: int = 0
    unjudged_as: Literal["other", "absent"] = "other"
    otherwise: tuple[float, float] | None = None
    relevance: Relevance | None = None
    origin: str = ""
    error: float | None = None
    model: str = ""
    weights: str | None = None
    marks: tuple[float, ...] | None = None
    conditions: Conditions | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidInput(f"method={self.method!r} is none of {', '.join(METHODS)}")
        if finite_number(self.slope, "slope") < 0:
            raise InvalidInput(f"slope={self.slope!r} is below 0: a higher logit would be less relevant")
        finite_number(self.intercept, "intercept")
        for name, size in (("beta", 3), ("otherwise", 2)):
            values = getattr(self, name)
            if values is not None and len([finite_number(one, name) for one in values]) != size:
                raise InvalidInput(f"{name} must have {size} numbers")
        if min(self.beta[:2]) < 0:
            raise InvalidInput(f"beta={self.beta!r} falls: a higher logit would be less relevant")
        rising(self.knots, "knots", pairs=True, needed=self.method == "isotonic")
        rising(self.edges, "edges")
        rising([-step.logit for step in self.sequence], "thresholds of sequence, the highest first,")
        for name in ("low", "high"):
            own = getattr(self, name)
            if len(own) != len(self.edges) + 1 or not all(0 <= value <= 1 for value in own):
                raise InvalidInput(f"{name} must have {len(self.edges) + 1} numbers from 0 to 1")
        self._check_origin()

    def _check_origin(self) -> None:
        counts_of(self, "queries", "rows", "relevant", "unjudged")
        if self.unjudged_as not in ("other", "absent"):
            raise InvalidInput(f"unjudged_as={self.unjudged_as!r} is neither 'other' nor 'absent'")
        if self.relevance not in (None, "expected"):
            whole_number(self.relevance, "relevance")
        if self.error is not None:
            finite_number(self.error, "error")
        for name in ("origin", "model"):
            if not isinstance(getattr(self, name), str):
                raise InvalidInput(f"{name} is no text")

    def probabilities(self, logits: npt.ArrayLike) -> Doubles:
        """Numbers [documents] -> P(relevant) float64 [documents], never falling with the logit."""
        given = np.asarray(logits, np.float64)
        if self.method == "isotonic":
            places, values = np.array(self.knots, np.float64).T
            made: Doubles = np.interp(given, places, values)
            return made
        odds = self.slope * given + self.intercept
        if self.method == "beta":
            low, high, shift = self.beta
            odds = high * np.logaddexp(0.0, odds) - low * np.logaddexp(0.0, -odds) + shift
        return sigmoid(odds)

    def bounds(self, logits: npt.ArrayLike) -> tuple[Doubles, Doubles]:
        """What P(relevant) is if all documents that nobody judged are other ones, and if they are as those judged.

        Each float64 [documents], the lower first; equal where all were judged.
        """
        own = self.probabilities(logits)
        if self.otherwise is not None:
            slope, intercept = self.otherwise
            against = sigmoid(slope * np.asarray(logits, np.float64) + intercept)
        else:
            against = np.ones_like(own) if self.unjudged and self.unjudged_as == "other" else own
        return np.minimum(own, against), np.maximum(own, against)

    def intervals(self, logits: npt.ArrayLike) -> tuple[Doubles, Doubles]:
        """The lower and upper ends of the intervals of P(relevant), each float64 [documents]."""
        cells = np.searchsorted(np.array(self.edges, np.float64), np.asarray(logits, np.float64), side="right")
        return np.array(self.low, np.float64)[cells], np.array(self.high, np.float64)[cells]

    def threshold_for(self, precision: float, confidence: float = 0.9) -> Promise:
        """The lowest threshold that keeps `precision`, as the labels allow to promise with this `confidence`.

        The thresholds of `sequence` are tried from the first on that has trials enough, until one fails. The promise is
        about other queries like those labelled: of what is kept of them at least that share is relevant. Where the
        probability is level around the last that holds, it is one above: documents that are as probable and have lower
        logits than were tried are not promised.

        Raises:
            InvalidInput: one of them is not between 0 and 1.
        """
        wanted, sure = share(precision, "precision"), share(confidence, "confidence")
        held: list[Step] = []
        needed = max(FEWEST_TRIALS, math.ceil(math.log(1 - sure) / math.log(wanted) - 1e-9))
        for step in self.sequence:
            if step.trials < needed:
                continue
            if not step.is_promised(wanted, sure):
                break
            held.append(step)
        last = self._told_apart(held)
        if last is None:
            reason = f"no threshold can be promised with {self.rows:,} rows of {self.queries:,} queries"
            return Promise(wanted, sure, None, None, 0, 0.0, reason)
        threshold = float(self.probabilities([last.logit])[0])
        return Promise(wanted, sure, threshold, last.logit, last.kept, last.queries / max(1, self.queries))

    def _told_apart(self, steps: Sequence[Step]) -> Step | None:
        """The last of the steps that is more probable than what is just below all of them."""
        if not steps:
            return None
        span = self.sequence[0].logit - self.sequence[-1].logit or 1.0
        *chances, below = self.probabilities([*(step.logit for step in steps), steps[-1].logit - 1e-6 * span])
        return next((step for step, own in zip(steps[::-1], chances[::-1], strict=True) if own > below), None)

    def ranking(self, ranking: Ranking, least: float | None = None, stage: int = 0) -> Ranking:
        """A ranking with probabilities and the verdict, less the documents whose probability is below `least`.

        Documents that were not scored have none, and stay. Of a cascade, whose last model is number `stage`, those have
        none either that a model before it ranked, and go where there is a `least`. That nothing is relevant is said
        where no document was left unscored.
        """
        own = [one for one in ranking.documents if one.scored and one.stage == stage]
        logits = [one.logit for one in own]
        low, high = self.intervals(logits)
        values = zip(self.probabilities(logits).tolist(), low.tolist(), high.tolist(), strict=True)
        told = {one.index: (value, (least, most)) for one, (value, least, most) in zip(own, values, strict=True)}
        none = None, None
        documents = []
        for one in ranking.documents:
            value, interval = told.get(one.index, none)
            if least is None or not one.scored or (value is not None and value >= least):
                documents.append(replace(one, probability=value, interval=interval))
        verdict = self.nothing_relevant(own)
        return replace(
            ranking,
            documents=tuple(documents),
            nothing_relevant=None if verdict and ranking.unscored else verdict,
        )

    def nothing_relevant(self, documents: Sequence[Ranked]) -> bool | None:
        """Whether no document answers, by the best one's logit; None where no rule was fitted or none is scored."""
        scored = [one.logit for one in documents if one.scored]
        if self.answers is None or not scored:
            return None
        return max(scored) < self.answers.logit

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads: numbers, strings and lists."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, page: Mapping[str, Any], place: str | Path = "calibration") -> Calibration:
        """Read what `to_dict` made.

        Raises:
            InvalidInput: it is none, or of another version; the message names `place`.
        """
        if not isinstance(page, Mapping):
            raise InvalidInput(f"{place} is no calibration: it holds no object")
        if page.get("version") != VERSION:
            raise InvalidInput(f"{place} has version {page.get('version')!r}, and this reads {VERSION}")
        known = {one.name for one in fields(cls)}
        missing = [name for name in SHAPE if name not in page]
        if missing:
            raise InvalidInput(f"{place} is no calibration: it has no {missing[0]}")
        try:
            given = {name: value for name, value in page.items() if name in known}
            lists = ("beta", "edges", "low", "high", "marks", "otherwise")
            given |= {name: tuple(map(float, given[name])) for name in lists if given.get(name) is not None}
            given["knots"] = tuple((float(logit), float(value)) for logit, value in given.get("knots", ()))
            given["sequence"] = tuple(Step(**step) for step in given.get("sequence", ()))
            for name, kind in (("answers", AnswerRule), ("conditions", Conditions)):
                given[name] = None if given.get(name) is None else kind(**given[name])
            return cls(**given)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidInput(f"{place} is no calibration: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write it to a JSON file, or to that of a model's folder, whole or not at all.

        Raises:
            InvalidInput: the file cannot be written.
        """
        file = file_of(path)
        lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in self.to_dict().items()]
        aside = file.with_name(f".{file.name}.{os.urandom(4).hex()}")
        try:
            aside.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
            os.replace(aside, file)
        except OSError as error:
            raise InvalidInput(f"{file} cannot be written: {error.strerror}") from error
        finally:
            with suppress(OSError):
                aside.unlink()

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            InvalidInput: there is no such file, or it is none of a calibration.
        """
        file = file_of(path)
        try:
            page = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidInput(f"{file} cannot be read: {error.strerror}") from error
        except (RecursionError, ValueError) as error:
            raise InvalidInput(f"{file} is no calibration: {error}") from error
        return cls.from_dict(page, file)


def file_of(path: str | Path, name: str = FILE) -> Path:
    """A calibration's file, or another's of that name: the path where it is one of JSON, else in that folder.

    A folder is one whatever it is called.
    """
    place = Path(path)
    return place if place.suffix == ".json" and not place.is_dir() else place / name


def least_of(calibration: Calibration | None, min_probability: float | None) -> float | None:
    """The lowest probability of a document that is kept; None keeps all.

    Raises:
        InvalidInput: it is not from 0 to 1, or there is no calibration.
    """
    if min_probability is None:
        return None
    if calibration is None:
        raise InvalidInput("min_probability needs a model with a calibration, and this one has none")
    least = finite_number(min_probability, "min_probability")
    if not 0 <= least <= 1:
        raise InvalidInput(f"min_probability={min_probability!r} is not from 0 to 1")
    return least


def with_probabilities(
    rankings: Sequence[Ranking],
    calibration: Calibration | None,
    rule: Relevance | None,
    least: float | None = None,
    stage: int = 0,
) -> list[Ranking]:
    """Rankings by `rule` as `Calibration.ranking` makes them; as they are where the calibration is of another rule.

    Raises:
        InvalidInput: it is, and a `least` probability is asked for.
    """
    if calibration is not None and calibration.relevance == rule:
        return [calibration.ranking(ranking, least, stage) for ranking in rankings]
    if least is not None:
        raise InvalidInput(f"min_probability: the model's calibration is none of relevance={rule!r}")
    return list(rankings)


def counts_of(value: Any, *names: str) -> None:
    """Refuse fields that are no whole numbers from 0 on."""
    for name in names:
        whole_number(getattr(value, name), name)


def rising(values: Sequence[Any], name: str, *, pairs: bool = False, needed: bool = False) -> None:
    """Refuse numbers that are not finite or do not rise; of `pairs` the seconds may stay level, within 0 and 1."""
    if needed and not values:
        raise InvalidInput(f"{name} is empty")
    table = np.array(values, np.float64).reshape(-1, 2 if pairs else 1)
    if not np.isfinite(table).all() or (np.diff(table[:, 0]) <= 0).any():
        raise InvalidInput(f"{name} must be finite numbers that rise")
    if pairs and ((np.diff(table[:, 1]) < 0).any() or (table[:, 1] < 0).any() or (table[:, 1] > 1).any()):
        raise InvalidInput(f"{name} must have probabilities that do not fall")


def sigmoid(odds: Doubles) -> Doubles:
    """Probabilities of log-odds."""
    made: Doubles = 1.0 / (1.0 + np.exp(-np.clip(odds, -700.0, 700.0)))
    return made


def at_least(successes: int, trials: int, probability: float) -> float:
    """P(X >= successes) of a binomial X with so many trials; 1 without a trial."""
    if successes <= 0:
        return 1.0
    log_odds = math.log(probability) - math.log1p(-probability)
    counts = np.arange(successes, trials + 1)
    choices = math.lgamma(trials + 1) - np.array([math.lgamma(k + 1) + math.lgamma(trials - k + 1) for k in counts])
    terms = choices + counts * log_odds + trials * math.log1p(-probability)
    top = terms.max()
    return min(1.0, float(np.exp(top) * np.exp(terms - top).sum()))
