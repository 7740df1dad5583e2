"""Several models one after the other: a small one ranks all documents, each larger one the best of those before it.

How many go on is a number, or a rule that stops when the larger model's first so many can hardly change any more. Its
margin is calibrated on queries, as conformal risk control does (Angelopoulos et al. 2022; for first stages of rankers
Xu et al. 2024, https://arxiv.org/abs/2404.17769), with an exact promise instead of one about the mean; that a list is
cut where no later document can be among the best is certified pruning's idea (https://arxiv.org/abs/2205.09638).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from secondpass.activations import Activation
from secondpass.cross_encoder import CrossEncoder
from secondpass.errors import InvalidInput, NonFiniteScore, TooLong
from secondpass.forwards.contract import non_finite
from secondpass.forwards.precision import SAMPLE_DOCUMENTS, SAMPLE_QUERIES
from secondpass.models.config import read_json, write_json
from secondpass.ranking import Ranked, Ranking, Relevance, checked_top_k
from secondpass.reranker import Reranker
from secondpass.text import (
    checked_documents,
    checked_query,
    finite_number,
    is_blank,
    materialised,
    positive_int,
)
from secondpass.tokens import CallRecord, Cut, TokenCache

__all__ = ["Cascade", "CascadeRecord", "StoppingRule"]

Doubles = npt.NDArray[np.float64]

FILE, VERSION = "cascade.json", 1
# Documents that a rule lets the larger model score at a time.
PIECE = 32
# Logits of one model by another routine, precision or machine differ by less than this share of their spread.
SAME = 0.05
# Every so many calibration queries decide how the two models' logits go together, the others what is promised.
FITTED = 4
SLOPES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


@dataclass(frozen=True, slots=True)
class CascadeRecord(CallRecord):
    """What a cascade's call took, all models together; `stages` has each model's own part, the first model's first.

    `pairs` and `tokens` count what every model read, `truncated` the documents that were cut for the model whose score
    they have. Device, dtype and batching are the last model's.
    """

    stages: tuple[CallRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """Score in the smaller model's order, `piece` documents at a time, until the first `top_k` will stay as they are.

    That is when the larger model's logit of place `top_k` is more than `margin` above `slope` times the highest logit
    that the smaller model gave to a document that is left. Documents with equal logits are in one piece. A margin of
    infinity scores all.

    Attributes:
        top_k: how many places it is about.
        margin: in logits of the larger model.
        slope: how much of the smaller model's logit counts, not negative.
        piece: documents scored at a time, `top_k` at least.
        risk, confidence: what `Cascade.calibrate` promises: among as many further queries as it was given, all drawn
            alike, the share of those whose first `top_k` are other than the larger model's is not above `risk`, with
            this probability. None: nobody measured.
        queries: how many it was given.
        missed: the share of these that the rule gets wrong.
        read: the mean share of a query's documents that the larger model scores.
        by_labels: the promise is about queries whose DCG at `top_k` is lower, by the labels that were given.
    """

    top_k: int
    margin: float
    slope: float = 1.0
    piece: int = PIECE
    risk: float | None = None
    confidence: float | None = None
    queries: int = 0
    missed: float | None = None
    read: float | None = None
    by_labels: bool = False

    def __post_init__(self) -> None:
        positive_int(self.top_k, "top_k")
        positive_int(self.piece, "piece")
        if self.margin != math.inf:
            finite_number(self.margin, "margin")
        if finite_number(self.slope, "slope") < 0:
            raise InvalidInput(f"slope={self.slope!r} is below 0")

    def ends(self, logits: Sequence[float]) -> list[int]:
        """Where pieces end in documents with these logits of the smaller model, in its order."""
        if self.margin == math.inf:
            return [len(logits)]
        made, end = [], 0
        while end < len(logits):
            end = min(len(logits), max(end + self.piece, self.top_k))
            while end < len(logits) and logits[end] == logits[end - 1]:
                end += 1
            made.append(end)
        return made

    def slack(self, scored: Sequence[float], left: Sequence[float]) -> float:
        """How far place `top_k` of the larger model's logits is above what may come; some documents are left."""
        if len(scored) < self.top_k:
            return -math.inf
        place = np.partition(np.asarray(scored, np.float64), -self.top_k)[-self.top_k]
        return float(place) - self.slope * max(left)


Keep = int | StoppingRule


@dataclass(slots=True)
class _Asked:
    """One query on its way: `blocks` are its documents by the model that scored them, the last model's first."""

    query: str
    documents: list[str]
    blocks: list[list[Ranked]] = field(default_factory=list)
    cuts: dict[int, Cut] = field(default_factory=dict)

    def put(self, scored: Sequence[Ranked], cuts: Iterable[Cut]) -> None:
        """Take the scores of a new model as the first block, out of the block before."""
        taken = {one.index for one in scored}
        rest = [one for one in self.blocks[0] if one.index not in taken] if self.blocks else []
        self.blocks[:1] = [list(scored), rest] if self.blocks else [list(scored)]
        self.cuts = {index: cut for index, cut in self.cuts.items() if index not in taken}
        self.cuts |= {cut.index: cut for cut in cuts}

    def ranking(self, record: CallRecord, top_k: int | None) -> Ranking:
        """All documents, a score never above those before it."""
        made: list[Ranked] = []
        score = logit = math.inf
        for block in self.blocks:
            made += [replace(one, score=min(score, one.score), logit=min(logit, one.logit)) for one in block]
            score = min([score, *(one.score for one in block)])
            logit = min([logit, *(one.logit for one in block)])
        return Ranking(tuple(made[:top_k]), tuple(self.cuts[index] for index in sorted(self.cuts)), record)


class Cascade:
    """Models of which each ranks what the one before it found best; any number of threads may use one.

    Args:
        models: two at least, the cheapest first: loaded `CrossEncoder`s, or names, which are loaded. One model twice,
            with a short `max_length` first, is a cascade too.
        keep: one for each step from a model to the next, or one for all: how many of the documents that the model
            before has scored go on, or a `StoppingRule`.
        options: of `CrossEncoder`, for the models that are loaded here.

    Raises:
        InvalidInput: an argument is refused.
        ModelLoadError: a model cannot be had.
    """

    def __init__(self, models: Iterable[str | Reranker], keep: Keep | Iterable[Keep] = 100, **options: Any) -> None:
        given = materialised(models, "models", "a sequence of CrossEncoders or names")
        if len(given) < 2:
            raise InvalidInput(f"models has {len(given)}: a cascade has at least two")
        for number, model in enumerate(given):
            if not isinstance(model, (str, Reranker)):
                raise InvalidInput(f"models[{number}] is {type(model).__name__}, not a CrossEncoder or a name")
        kept = _checked_keep(keep, len(given) - 1)
        self.models: tuple[Reranker, ...] = tuple(
            model if isinstance(model, Reranker) else CrossEncoder(str(model), **options) for model in given
        )
        self.keep = kept

    def __repr__(self) -> str:
        """Say which models there are and how many documents each gets."""
        return f"Cascade([{', '.join(map(repr, self.models))}], keep={list(self.keep)})"

    @property
    def num_labels(self) -> int:
        """Of the last model."""
        return self.models[-1].num_labels

    @property
    def own_activation(self) -> Activation:
        """Of the last model; where no other is given each model's own makes its scores."""
        return self.models[-1].own_activation

    @property
    def window(self) -> int:
        """Of the last model, in tokens."""
        return self.models[-1].window

    def use_token_cache(self, cache: TokenCache | None) -> None:
        """Keep the ids of documents for all models: those with equal tokenizers share them."""
        for model in self.models:
            model.use_token_cache(cache)

    def close(self) -> None:
        """Let go of all models' weights."""
        for model in self.models:
            model.close()

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        records: list[CallRecord] | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Order documents as `CrossEncoder.rank` does, in dicts that also have the "stage" of the score.

        `options` are keywords of `rank_many`. Texts are stripped.
        """
        texts = checked_documents(documents)
        stripped = [text.strip() for text in texts]
        (ranking,) = self.rank_many([checked_query(query).strip()], [stripped], top_k=top_k, **options)
        if records is not None and texts:
            records.append(ranking.record)
        hits = [{"corpus_id": one.index, "score": one.score, "stage": one.stage} for one in ranking.documents]
        return [{**hit, "text": texts[hit["corpus_id"]]} for hit in hits] if return_documents else hits

    def rank_many(
        self,
        queries: Iterable[str],
        documents_per_query: Iterable[Iterable[str]],
        *,
        top_k: int | None = None,
        relevance: Relevance | None = None,
        **options: Any,
    ) -> list[Ranking]:
        """Order several queries' documents, in batches that the queries share.

        First come the documents that the last model scored, by its scores, then those of the model before, in its
        order. `Ranked.stage` is the number of the model that gave score and logit, from 0; both are lowered to the
        lowest of the documents before, where they are higher. Blank documents are last.

        Args:
            queries: as in `Reranker.rank_many`, and so are the errors.
            documents_per_query: likewise.
            top_k: how many of each query's documents come back; None: all.
            relevance: for the models with several labels.
            options: other keywords of `Reranker.rank_many`, for every model; `instruction` for those with a place.

        Returns:
            One `Ranking` per query, in order; its record is a `CascadeRecord`.
        """
        checked_top_k(top_k)
        texts = [list(checked_documents(queries, "queries"))]
        lists = materialised(documents_per_query, "documents_per_query", "a sequence of sequences of str")
        given = [checked_documents(one, f"documents_per_query[{number}]") for number, one in enumerate(lists)]
        if len(given) != len(texts[0]):
            raise InvalidInput(f"documents_per_query has {len(given)} lists for {len(texts[0])} queries")
        asked = [_Asked(query, documents) for query, documents in zip(texts[0], given, strict=True)]
        records = self._run(asked, len(self.models), relevance, options)
        record = _summed(records, asked)
        return [one.ranking(record, top_k) for one in asked]

    def _run(
        self, asked: Sequence[_Asked], models: int, relevance: Relevance | None, options: dict[str, Any]
    ) -> list[CallRecord]:
        """Let the first so many models score; gives the record of each."""
        records = []
        for stage in range(models):
            scorer = _Scorer(self.models[stage], stage, asked, self._options(stage, relevance, options))
            keep = None if stage == 0 else self.keep[stage - 1]
            if isinstance(keep, StoppingRule):
                scorer.by_rule(keep)
            else:
                scorer.best(keep)
            records.append(_added(scorer.records))
        return records

    def _options(self, stage: int, relevance: Relevance | None, options: dict[str, Any]) -> dict[str, Any]:
        model, is_last = self.models[stage], stage == len(self.models) - 1
        own = {**options, "relevance": relevance if is_last or model.num_labels > 1 else None}
        if any(map(_takes_instruction, self.models)) and not _takes_instruction(model):
            own.pop("instruction", None)
        return own

    def calibrate(
        self,
        queries: Iterable[str],
        documents_per_query: Iterable[Iterable[str]],
        labels: Iterable[Sequence[float]] | None = None,
        *,
        top_k: int = 10,
        risk: float = 0.1,
        confidence: float = 0.99,
        piece: int = PIECE,
        relevance: Relevance | None = None,
        **options: Any,
    ) -> StoppingRule:
        """Measure when the last model may stop, and keep that as the rule of the last step.

        The last model scores all documents. A part of the queries decides the slope; of the others the margin is the
        smallest that keeps the promise whatever queries come, as long as all are drawn alike: which of such queries
        are the hard ones is a draw without replacement.

        Args:
            queries: such as will be asked, each once.
            documents_per_query: the candidates of each, as many as there will be.
            labels: a grade for each document of each query. With them a query is missed where the DCG of its first
                `top_k` is lower than the last model's; without, where these documents are others.
            top_k: of `StoppingRule`, like `piece`.
            risk: the share of queries that may be missed, from 0.001 to 1.
            confidence: the probability that no more are, among as many further queries as these; below 1.
            relevance: as in `rank_many`, and so are the `options`.

        Raises:
            InvalidInput: there are too few queries to promise that (the message says how many it takes), or the models
                before the last lose too much already.
        """
        for name, share, least in (("risk", risk, 0.001), ("confidence", confidence, 0.0)):
            if not least <= finite_number(share, name) < 1:
                raise InvalidInput(f"{name}={share!r} is not from {least:g} to below 1")
        texts, lists, grades = _checked_calibration(queries, documents_per_query, labels)
        fitted = range(0, len(texts), FITTED)
        allowed = allowed_misses(len(texts) - len(fitted), len(texts), risk, confidence)
        if allowed < 0:
            raise InvalidInput(
                f"queries has {len(texts)}: to promise risk={risk:g} with confidence={confidence:g} it takes "
                f"{queries_needed(risk, confidence)}"
            )
        asked = [_Asked(query, documents) for query, documents in zip(texts, lists, strict=True)]
        self._run(asked, len(self.models) - 1, relevance, options)
        full = self.models[-1].rank_many(texts, lists, **self._options(len(self.models) - 1, relevance, options))
        rule = StoppingRule(top_k, 0.0, 1.0, piece)
        traces = [
            _Trace(rule, one.blocks[0], ranking.documents, own)
            for one, ranking, own in zip(asked, full, grades, strict=True)
        ]
        measured = [trace for number, trace in enumerate(traces) if number not in fitted]
        slope = _fitted([traces[number] for number in fitted], allowed / len(measured))
        margin = _margin(measured, slope, allowed)
        if margin == math.inf:
            raise InvalidInput(f"the models before the last lose more than risk={risk:g} allows: keep more")
        stops = [trace.stop(slope, margin) for trace in measured]
        made = replace(
            rule, margin=margin, slope=slope, risk=risk, confidence=confidence, queries=len(texts),
            missed=float(np.mean([trace.wrong[at] for trace, at in zip(measured, stops, strict=True)])),
            read=float(np.mean([trace.ends[at] / trace.documents for trace, at in zip(measured, stops, strict=True)])),
            by_labels=labels is not None,
        )  # fmt: skip
        self.keep = (*self.keep[:-1], made)
        return made

    def save(self, path: str | Path) -> None:
        """Write names and marks of the models and the steps to a JSON file, or to cascade.json in a folder.

        A mark is what a model is known by again: its window, and its logits for a few pairs of texts.

        Raises:
            InvalidInput: a model has no name, or the file cannot be written.
        """
        steps = [asdict(keep) if isinstance(keep, StoppingRule) else keep for keep in self.keep]
        for step in steps:
            if isinstance(step, dict) and step["margin"] == math.inf:
                step["margin"] = None
        models = [{"name": model.name, **_mark(model)} for model in self.models]
        try:
            write_json(_file(path), {"version": VERSION, "models": models, "keep": steps})
        except OSError as error:
            raise InvalidInput(f"{path}: cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | Path, models: Iterable[str | Reranker] | None = None, **options: Any) -> Cascade:
        """Read what `save` wrote.

        Args:
            path: the file, or its folder.
            models: as in the constructor; None loads those that are named in the file.
            options: of `CrossEncoder`, for models that are loaded here.

        Raises:
            InvalidInput: a rule was measured on other models, or the file is none of a cascade.
            ModelLoadError: the file or a model cannot be had.
        """
        file = _file(path)
        page = read_json(file)
        try:
            if page["version"] != VERSION:
                raise InvalidInput(f"{file}: version {page['version']!r}, and this reads {VERSION}")
            stored = [(str(one["name"]), one) for one in page["models"]]
            keep = [_read_step(step) for step in page["keep"]]
        except (KeyError, TypeError) as error:
            raise InvalidInput(f"{file} is no cascade: {type(error).__name__}: {error}") from error
        made = cls([name for name, _ in stored] if models is None else models, keep, **options)
        if len(made.models) != len(stored):
            raise InvalidInput(f"models has {len(made.models)}, and {file} was written for {len(stored)}")
        if any(isinstance(step, StoppingRule) for step in keep):
            for number, (model, (name, mark)) in enumerate(zip(made.models, stored, strict=True)):
                if not _same(_mark(model), mark):
                    raise InvalidInput(f"models[{number}] is not what the rules of {file} were measured on, {name!r}")
        return made


class _Scorer:
    """One model's part of a call."""

    def __init__(self, model: Reranker, stage: int, asked: Sequence[_Asked], options: dict[str, Any]) -> None:
        self._model, self._stage, self._asked, self._options = model, stage, asked, options
        self.records: list[CallRecord] = []

    def best(self, keep: int | None) -> None:
        """Score so many documents of the block before; all documents for None."""
        wanted = [
            list(range(len(one.documents))) if keep is None else sorted(found.index for found in one.blocks[0][:keep])
            for one in self._asked
        ]
        for one, (scored, cuts) in zip(self._asked, self._scored(wanted), strict=True):
            one.put(scored, cuts)

    def by_rule(self, rule: StoppingRule) -> None:
        """Score pieces of all queries together, until every query has had enough."""
        left = [list(one.blocks[0]) for one in self._asked]
        ends = [rule.ends([found.logit for found in block]) for block in left]
        done: list[list[Ranked]] = [[] for _ in self._asked]
        lost: list[list[Cut]] = [[] for _ in self._asked]
        open_ones = {row for row, block in enumerate(left) if block}
        while open_ones:
            wanted: list[list[int]] = [[] for _ in self._asked]
            for row in open_ones:
                size = ends[row].pop(0) - len(done[row])
                wanted[row], left[row] = sorted(found.index for found in left[row][:size]), left[row][size:]
            for row, (scored, cuts) in enumerate(self._scored(wanted)):
                done[row] += scored
                lost[row] += cuts
            open_ones = {
                row
                for row in open_ones
                if left[row]
                and rule.slack([one.logit for one in done[row]], [one.logit for one in left[row]]) <= rule.margin
            }
        for row, one in enumerate(self._asked):
            one.put(_in_order(done[row], one.documents), lost[row])

    def _scored(self, wanted: Sequence[Sequence[int]]) -> list[tuple[list[Ranked], list[Cut]]]:
        """For each query the scores and cuts of the documents wanted of it, best first, in one call."""
        rows = [row for row, indices in enumerate(wanted) if indices or self._stage == 0]
        try:
            rankings = self._model.rank_many(
                [self._asked[row].query for row in rows],
                [[self._asked[row].documents[index] for index in wanted[row]] for row in rows],
                **self._options,
            )
        except (NonFiniteScore, TooLong) as error:
            starts = np.cumsum([0, *(len(one.documents) for one in self._asked)])
            pairs = [int(starts[row]) + index for row in rows for index in wanted[row]]
            own = tuple(pairs[number] for number in error.indices)
            if isinstance(error, NonFiniteScore):
                raise non_finite(own) from error
            raise TooLong(f"pairs {list(own)} are too long for {self._model!r}: {error}", own) from error
        made: list[tuple[list[Ranked], list[Cut]]] = [([], []) for _ in wanted]
        for row, ranking in zip(rows, rankings, strict=True):
            own_indices = wanted[row]
            made[row] = (
                [replace(one, index=own_indices[one.index], stage=self._stage) for one in ranking.documents],
                [replace(cut, index=own_indices[cut.index]) for cut in ranking.truncated],
            )
        self.records += [ranking.record for ranking in rankings[:1]]
        return made


def _in_order(scored: Iterable[Ranked], documents: Sequence[str]) -> list[Ranked]:
    """By the rule of `ranking.order`."""
    return sorted(scored, key=lambda one: (is_blank(documents[one.index]), -one.score, -one.logit, one.index))


def _takes_instruction(model: Reranker) -> bool:
    return model.template is not None and model.template.instructed is not None


def _checked_keep(keep: object, steps: int) -> tuple[Keep, ...]:
    given = list(keep) if isinstance(keep, Iterable) else [keep] * steps
    if len(given) != steps:
        raise InvalidInput(f"keep has {len(given)}, and there are {steps} steps from a model to the next")
    return tuple(
        one if isinstance(one, StoppingRule) else positive_int(one, f"keep[{number}]")
        for number, one in enumerate(given)
    )


# ---- One record of many calls.
def _added(records: Sequence[CallRecord]) -> CallRecord:
    """Numbers added up, all else as the last one has it; where nothing was scored, a record of that."""
    if not records:
        return CallRecord(0, 0, 0, 0.0, (), 0.0, 0.0, 0.0, 0.0, 0, "", "")
    last = records[-1]
    numbers = [one.name for one in fields(CallRecord) if type(getattr(last, one.name)) in (int, float)]
    added = {name: sum(getattr(record, name) for record in records) for name in numbers}
    places = sum(record.tokens / (1 - record.padding_share) for record in records)
    added["padding_share"] = 1 - added["tokens"] / places if places else 0.0
    return replace(last, **added)


def _summed(stages: Sequence[CallRecord], asked: Sequence[_Asked]) -> CascadeRecord:
    """The record of a call, with the cuts of the models whose scores the documents have."""
    starts = np.cumsum([0, *(len(one.documents) for one in asked)]).tolist()
    cuts = [
        replace(one.cuts[index], index=start + index)
        for start, one in zip(starts[:-1], asked, strict=True)
        for index in sorted(one.cuts)
    ]
    whole = replace(_added(stages), truncated=tuple(cuts))
    return CascadeRecord(**{one.name: getattr(whole, one.name) for one in fields(whole)}, stages=tuple(stages))


# ---- Calibration: when could the larger model have stopped?
def allowed_misses(measured: int, further: int, risk: float, confidence: float) -> int:
    """How many of the `measured` queries may be missed; -1: not even none is enough.

    With a margin that so many k of them lie above, more than `risk` of the `further` ones are missed only where of the
    k + h hardest of all, h of the further ones being too many, at most k are among the measured: a hypergeometric
    probability, whatever the queries are, which is at most 1 - `confidence`.
    """
    too_many = math.floor(risk * further) + 1
    allowed = -1
    while allowed + 1 < measured and _few_above(allowed + 1, too_many, measured, further) <= 1 - confidence:
        allowed += 1
    return allowed


def _few_above(few: int, too_many: int, measured: int, further: int) -> float:
    hardest = few + too_many

    def ways(total: int, chosen: int) -> float:
        if chosen > total:
            return -math.inf
        return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)

    whole = ways(measured + further, hardest)
    return sum(math.exp(ways(measured, n) + ways(further, hardest - n) - whole) for n in range(few + 1))


def queries_needed(risk: float, confidence: float) -> int:
    """The fewest queries that `Cascade.calibrate` can promise this with."""
    count = FITTED
    while allowed_misses(count - len(range(0, count, FITTED)), count, risk, confidence) < 0:
        count += 1
    return count


class _Trace:
    """What the rule would see of one query if it never stopped.

    Attributes:
        ends: documents scored after each piece.
        places: the larger model's logit of place `top_k` then, minus infinity where there is none.
        left: the smaller model's highest logit of the documents that are left, none after the last piece.
        wrong: whether stopping there misses.
    """

    def __init__(
        self, rule: StoppingRule, small: Sequence[Ranked], large: Sequence[Ranked], grades: Sequence[float] | None
    ) -> None:
        self.documents = max(1, len(large))
        order = [one.index for one in small]
        logits = {one.index: one.logit for one in large}
        by_small = np.array([one.logit for one in small], np.float64)
        self.ends = rule.ends(by_small.tolist()) or [0]
        place_of = {one.index: place for place, one in enumerate(large)}
        gains = np.zeros(len(large)) if grades is None else np.asarray(grades, np.float64)
        wanted = [one.index for one in large[: rule.top_k]]
        large_logits = np.array([logits[index] for index in order], np.float64)
        middle = by_small - by_small.mean() if order else by_small
        self.products = float(middle @ large_logits), float(middle @ middle)
        self.places: list[float] = []
        self.left: list[float] = []
        self.wrong: list[bool] = []
        for end in self.ends:
            best = sorted(order[:end], key=place_of.__getitem__)[: rule.top_k]
            self.places.append(logits[best[-1]] if len(best) == rule.top_k else -math.inf)
            self.left.append(float(by_small[end:].max(initial=-math.inf)))
            self.wrong.append(best != wanted if grades is None else _dcg(gains[best]) < _dcg(gains[wanted]) - 1e-12)

    def slacks(self, slope: float) -> Doubles:
        """After each piece but the last."""
        made: Doubles = np.array(self.places[:-1]) - slope * np.array(self.left[:-1])
        return made

    def threshold(self, slope: float) -> float:
        """The lowest margin from which on nothing is missed: infinity where even the last piece misses."""
        if self.wrong[-1]:
            return math.inf
        slacks = self.slacks(slope)
        before = np.maximum.accumulate(np.concatenate([[-math.inf], slacks]))[:-1]
        return float(max(slacks[(slacks > before) & self.wrong[:-1]], default=-math.inf))

    def stop(self, slope: float, margin: float) -> int:
        """After which piece the rule stops."""
        enough = np.flatnonzero(self.slacks(slope) > margin)
        return int(enough[0]) if len(enough) else len(self.ends) - 1


def _dcg(gains: Doubles) -> float:
    return float((gains / np.log2(np.arange(len(gains)) + 2)).sum())


def _margin(traces: Sequence[_Trace], slope: float, allowed: int) -> float:
    """The smallest margin that misses no more than so many; finite where any stop is possible."""
    found = sorted((trace.threshold(slope) for trace in traces), reverse=True)[allowed]
    slacks = np.concatenate([[0.0], *(trace.slacks(slope) for trace in traces)])
    return max(found, float(slacks[np.isfinite(slacks)].min()))


def _fitted(traces: Sequence[_Trace], share: float) -> float:
    """The slope with which the larger model reads least where that share of the queries may be missed."""
    crossed, squared = np.sum([trace.products for trace in traces], axis=0)
    unit = max(0.0, float(crossed / squared)) if squared else 0.0
    allowed = math.floor(share * len(traces))

    def read(slope: float) -> float:
        margin = _margin(traces, slope, allowed)
        return float(np.mean([trace.ends[trace.stop(slope, margin)] / trace.documents for trace in traces]))

    return min((unit * step for step in SLOPES), key=read)


# ---- Files.
def _file(path: str | Path) -> Path:
    return Path(path) if Path(path).suffix == ".json" else Path(path) / FILE


def _mark(model: Reranker) -> dict[str, Any]:
    rankings = model.rank_many(
        SAMPLE_QUERIES,
        [[document] for document in SAMPLE_DOCUMENTS],
        show_progress_bar=False,
        relevance=None if model.num_labels == 1 else 0,
    )
    logits = [ranking.documents[0].logit for ranking in rankings]
    return {"window": model.window, "labels": model.num_labels, "logits": logits}


def _same(found: dict[str, Any], stored: dict[str, Any]) -> bool:
    exact = np.asarray(stored["logits"], np.float64)
    if any(found[name] != stored[name] for name in ("window", "labels")) or len(exact) != len(found["logits"]):
        return False
    return bool((np.abs(exact - found["logits"]) <= SAME * np.ptp(exact)).all())


def _read_step(step: Any) -> Keep:
    if not isinstance(step, dict):
        return positive_int(step, "keep")
    return StoppingRule(**{**step, "margin": math.inf if step["margin"] is None else step["margin"]})


def _checked_calibration(
    queries: Iterable[str], documents_per_query: Iterable[Iterable[str]], labels: Iterable[Sequence[float]] | None
) -> tuple[list[str], list[list[str]], list[Sequence[float] | None]]:
    texts = checked_documents(queries, "queries")
    given = materialised(documents_per_query, "documents_per_query", "a sequence of sequences of str")
    lists = [checked_documents(one, f"documents_per_query[{number}]") for number, one in enumerate(given)]
    grades = [None] * len(texts) if labels is None else [list(one) for one in labels]
    if not len(texts) == len(lists) == len(grades):
        raise InvalidInput(f"{len(texts)} queries, {len(lists)} lists of documents and {len(grades)} of labels")
    for number, (documents, own) in enumerate(zip(lists, grades, strict=True)):
        if own is not None and len(own) != len(documents):
            raise InvalidInput(f"labels[{number}] has {len(own)}, and there are {len(documents)} documents")
    return texts, lists, grades
