"""Several models one after the other: a small one ranks all documents, each larger one the best of those before it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from secondpass.activations import Activation
from secondpass.calibration import Calibration, least_of, with_probabilities
from secondpass.cross_encoder import CrossEncoder, hits_of
from secondpass.errors import InvalidInput, NonFiniteScore, NoTokens, OutOfMemory, TooLong
from secondpass.explanation import Explanation, explain
from secondpass.models.config import read_json, write_json
from secondpass.models.folders import cascade_file
from secondpass.models.identity import is_known, marks_of
from secondpass.models.templates import check_alone
from secondpass.ranking import Ranked, Ranking, Relevance, checked_top_k
from secondpass.record import CallRecord, CascadeRecord, Cut, added
from secondpass.reranker import Reranker, until_of
from secondpass.score_cache import ScoreCache
from secondpass.stopping import PIECE, StoppingRule, Trace, calibrated, misses_allowed
from secondpass.text import checked_documents, checked_query, finite_number, is_blank, materialised, positive_int
from secondpass.token_cache import TokenCache

__all__ = ["Cascade", "CascadeRecord"]

VERSION = 1
Keep = int | StoppingRule


@dataclass(slots=True)
class _Asked:
    """One query on its way: `blocks` are its documents by the model that scored them, the last model's first."""

    query: str
    documents: list[str]
    blocks: list[list[Ranked]] = field(default_factory=lambda: [[]])
    cuts: dict[int, Cut] = field(default_factory=dict)
    unscored: int = 0
    is_short: bool = False  # a model had no time for documents that went on to it

    def ranking(self, record: CallRecord, top_k: int | None) -> Ranking:
        """All documents, none with more than those before it have."""
        made = joined(self.blocks)
        cuts = tuple(self.cuts[index] for index in sorted(self.cuts))
        return Ranking(tuple(made[:top_k]), cuts, record, self.unscored)


class Cascade:
    """Models of which each ranks what the one before it found best; any number of threads may use one.

    Args:
        models: two at least, the cheapest first: loaded `CrossEncoder`s, or names, which are loaded. One model twice,
            first with a short `max_length`, is a cascade too.
        keep: one for each step from a model to the next, or one for all: how many of the documents that the model
            before has scored go on, by turns its best and the first of those given; or a `StoppingRule`.
        options: of `CrossEncoder`, for models that are loaded here: a template for one of them, `max_length` for all or
            a list with one for each; and `instruction`, for all models with a place, in calls that do not say it.

    Raises:
        InvalidInput: an argument is refused.
        ModelLoadError: a model cannot be had.
    """

    def __init__(self, models: Iterable[str | Reranker], keep: Keep | Iterable[Keep] = 100, **options: Any) -> None:
        given = materialised(models, "models", "a sequence of CrossEncoders or names")
        if len(given) < 2:
            raise InvalidInput(f"models has {len(given)}: a cascade has two at least")
        for number, model in enumerate(given):
            if not isinstance(model, (str, Reranker)):
                raise InvalidInput(f"models[{number}] is {type(model).__name__}, not a CrossEncoder or a name")
        steps = list(keep) if isinstance(keep, Iterable) else [keep] * (len(given) - 1)
        if len(steps) != len(given) - 1:
            raise InvalidInput(f"keep has {len(steps)}, and {len(given)} models have {len(given) - 1} steps")
        self.keep: tuple[Keep, ...] = tuple(
            step if isinstance(step, StoppingRule) else positive_int(step, f"keep[{number}]")
            for number, step in enumerate(steps)
        )
        check_alone((model for model in given if isinstance(model, str)), options)
        self.instruction: str | None = options.pop("instruction", None)
        window = options.pop("max_length", None)
        windows = window if isinstance(window, list) else [window] * len(given)
        if len(windows) != len(given):
            raise InvalidInput(f"max_length has {len(windows)}, and there are {len(given)} models")
        self.models: tuple[Reranker, ...] = tuple(
            model if isinstance(model, Reranker) else CrossEncoder(str(model), max_length=own, **options)
            for model, own in zip(given, windows, strict=True)
        )
        if self.instruction is not None:  # refused now where every call would be
            max(self.models, key=lambda model: model.takes_instruction).conditions(instruction=self.instruction)

    def __repr__(self) -> str:
        """Say which models there are, and what goes on from one to the next."""
        return f"Cascade([{', '.join(map(repr, self.models))}], keep={list(self.keep)})"

    @property
    def num_labels(self) -> int:
        """Of the last model."""
        return self.models[-1].num_labels

    @property
    def own_activation(self) -> Activation:
        """Of the last model; where a call gives none, each model's own makes its scores."""
        return self.models[-1].own_activation

    @property
    def max_length(self) -> int | None:
        """Of the last model."""
        return self.models[-1].max_length

    @property
    def calibration(self) -> Calibration | None:
        """Of the last model: what that one has not scored has no probability."""
        return self.models[-1].calibration

    def use_calibration(self, calibration: Calibration | str | Path | None) -> None:
        """Give documents that the last model scores a probability, as `Reranker.use_calibration`."""
        self.models[-1].use_calibration(calibration, self.instruction)

    def use_score_cache(self, cache: ScoreCache | None) -> None:
        """Keep the scores of all models, each by itself."""
        for model in self.models:
            model.use_score_cache(cache)

    def use_token_cache(self, cache: TokenCache | None) -> None:
        """Keep the ids of documents for all models; those with equal tokenizers share them."""
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
        budget_ms: float | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Order documents as `CrossEncoder.rank` does, in dicts that also have the "stage" of the score.

        `options` are keywords of `rank_many`. Texts are stripped.
        """
        texts, asked = checked_documents(documents), checked_query(query).strip()
        stripped = [text.strip() for text in texts]
        (ranking,) = self.rank_many([asked], [stripped], top_k=top_k, budget_ms=budget_ms, **options)
        if records is not None and texts:
            records.append(ranking.record)
        return hits_of(ranking, texts, return_documents, budget_ms is not None)

    def rank_many(
        self,
        queries: Iterable[str],
        documents_per_query: Iterable[Iterable[str]],
        *,
        top_k: int | None = None,
        relevance: Relevance | None = None,
        budget_ms: float | None = None,
        min_probability: float | None = None,
        **options: Any,
    ) -> list[Ranking]:
        """Order several queries' documents, in batches that the queries share.

        First come the documents that the last model scored, by its scores, then those of the model before in its
        order, and so on; blank ones are last. `Ranked.stage` is the number of the model that gave score and logit, from
        0; where they are higher than the lowest of the documents before, they are lowered to that.

        Args:
            queries: as in `Reranker.rank_many`, and so are the errors.
            documents_per_query: likewise.
            top_k: how many of each query's documents come back; None: all.
            relevance: for models with several labels.
            budget_ms: for all models together; a later one scores the best first, with the time that is left.
            min_probability: leaves out what the last model finds less probable, and what a model before it ranked.
            options: other keywords of `Reranker.rank_many`, for every model; `instruction` for those with a place.

        Returns:
            One `Ranking` per query, in order; its record is a `CascadeRecord`.
        """
        until, least = until_of(budget_ms), least_of(self.calibration, min_probability)
        checked_top_k(top_k)
        asked, last = _asked(queries, documents_per_query), len(self.models) - 1
        record = _summed(self._run(asked, last + 1, options | {"relevance": relevance}, until), asked)
        rule = relevance if self.num_labels > 1 else None
        made = with_probabilities([one.ranking(record, top_k) for one in asked], self.calibration, rule, least, last)
        return [
            replace(ranking, nothing_relevant=None) if one.is_short and ranking.nothing_relevant else ranking
            for one, ranking in zip(asked, made, strict=True)
        ]

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
        """Measure when the last model may stop, and let that be the last step from now on (`stopping.calibrated`).

        Args:
            queries: such as will be asked, each once.
            documents_per_query: the candidates of each, as many as there will be.
            labels: a grade for each document of each query; without, the last model's own order is what counts.
            top_k: the places that are to stay as they are.
            risk: the share of queries that may be missed, from 0.001 to below 1.
            confidence: the probability that no more are among as many further queries, from 0.5 to below 1.
            piece: documents that the last model scores at a time.
            relevance: for models with several labels.
            options: as in `rank_many`.

        Raises:
            InvalidInput: there are too few queries for that promise (the message says how many it takes), or the models
                before the last lose too much.
        """
        asked = _asked(queries, documents_per_query)
        rule = StoppingRule(top_k, 0.0, 1.0, piece, by_labels=labels is not None)
        misses_allowed(len(asked), risk, confidence)
        if options.get("budget_ms") is not None:
            raise InvalidInput("budget_ms: a rule is measured on all documents")
        grades = [None] * len(asked) if labels is None else _grades(labels, asked)
        options["relevance"] = relevance
        self._run(asked, len(self.models) - 1, options)
        full = [_Asked(one.query, one.documents) for one in asked]
        _Scoring(self.models[-1], 0, full, self._options(-1, options)).best(None)
        traces = [
            Trace(rule, one.blocks[0], large.blocks[0], own)
            for one, large, own in zip(asked, full, grades, strict=True)
        ]
        made = calibrated(rule, traces, risk, confidence)
        self.keep = (*self.keep[:-1], made)
        return made

    def explain(self, query: str, document: str, *, relevance: Relevance | None = None, **options: Any) -> Explanation:
        """What the last model says of a document; arguments are those of `explanation.explain`."""
        return explain(self.models[-1], query, document, **self._options(-1, options | {"relevance": relevance}))

    def save(self, path: str | Path) -> None:
        """Write names, steps, instruction and what the models are known by to a JSON file or a folder's cascade.json.

        A model is known by its window and by its logits for a few pairs of texts.

        Raises:
            InvalidInput: the file cannot be written.
        """
        steps = [asdict(step) if isinstance(step, StoppingRule) else step for step in self.keep]
        for step in steps:
            if isinstance(step, dict) and step["margin"] == math.inf:
                step["margin"] = None
        models = [{"name": one.name, "window": one.window, "logits": marks_of(one)} for one in self.models]
        try:
            told = {"version": VERSION, "models": models, "keep": steps, "instruction": self.instruction}
            write_json(cascade_file(path), told)
        except OSError as error:
            raise InvalidInput(f"{cascade_file(path)} cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | Path, models: Iterable[str | Reranker] | None = None, **options: Any) -> Cascade:
        """Read what `save` wrote.

        Args:
            path: the file, or its folder.
            models: as in the constructor; None: those that the file names. Names are loaded with the file's windows.
            options: as in the constructor; an `instruction` takes the place of the file's, where no rule was measured.

        Raises:
            InvalidInput: a rule was measured otherwise, or the file is none of a cascade.
            ModelLoadError: the file or a model cannot be had.
        """
        page = read_json(file := cascade_file(path))
        try:
            version, given = page["version"], page["keep"] if page["version"] == VERSION else []
            steps = [_step(step) for step in given]
            stored = [
                (str(one["name"]), positive_int(one["window"], "window"), [float(logit) for logit in one["logits"]])
                for one in page.get("models", [])
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"{file} is no cascade: {type(error).__name__}: {error}") from error
        if version != VERSION:
            raise InvalidInput(f"{file} has version {version!r}, and this reads {VERSION}")
        if len(stored) != len(steps) + 1:
            raise InvalidInput(f"{file} is no cascade: {len(stored)} models and {len(steps)} steps")
        options["max_length"] = [window for _, window, _ in stored]
        if options.get("instruction") is None:
            options["instruction"] = page.get("instruction")
        made = cls([name for name, *_ in stored] if models is None else models, steps, **options)
        if any(isinstance(step, StoppingRule) for step in steps):
            told = made.instruction != page.get("instruction", made.instruction)
            for number, (model, (name, window, logits)) in enumerate(zip(made.models, stored, strict=True)):
                if model.window != window or not is_known(model, logits, made.instruction, told):
                    raise InvalidInput(f"models[{number}] is not the {name!r} that the rule of {file} was measured on")
        return made

    def _run(
        self, asked: Sequence[_Asked], models: int, options: dict[str, Any], until: float | None = None
    ) -> list[CallRecord]:
        """Let the first so many models score; gives the record of each."""
        records = []
        for stage, keep in enumerate((None, *self.keep)[:models]):
            scoring = _Scoring(self.models[stage], stage, asked, self._options(stage, options), until)
            if isinstance(keep, StoppingRule):
                scoring.by_rule(keep)
            else:
                scoring.best(keep)
            records.append(added(scoring.records))
        return records

    def _options(self, stage: int, options: dict[str, Any]) -> dict[str, Any]:
        model = self.models[stage]
        several = model.num_labels > 1 or all(one.num_labels == 1 for one in self.models)
        own = {**options, "relevance": options["relevance"] if several else None}
        if all(options.get(name) is None for name in ("prompt", "prompt_name", "instruction")):
            own["instruction"] = self.instruction
        if any(one.takes_instruction for one in self.models) and not model.takes_instruction:
            own.pop("instruction", None)
        return own


class _Scoring:
    """One model's part of a call, which ends when its budget is spent."""

    def __init__(
        self, model: Reranker, stage: int, asked: Sequence[_Asked], options: dict[str, Any], until: float | None = None
    ) -> None:
        self._model, self._stage, self._asked, self._options, self._until = model, stage, asked, options, until
        self.records: list[CallRecord] = []

    def best(self, keep: int | None) -> None:
        """Score so many documents of the block before; None: all documents."""
        wanted = [
            list(range(len(one.documents))) if keep is None else [found.index for found in going_on(_scored(one), keep)]
            for one in self._asked
        ]
        for one, own, scored in zip(self._asked, wanted, self._scored(wanted), strict=True):
            one.is_short = one.is_short or len(scored) < len(own)
            put(one.blocks, scored, one.documents)

    def by_rule(self, rule: StoppingRule) -> None:
        """Score pieces of all queries together until each query has had enough."""
        blocks = [_scored(one) for one in self._asked]
        logits = [[found.logit for found in block] for block in blocks]
        ends = [[0, *rule.ends(own)] for own in logits]
        done: list[list[Ranked]] = [[] for _ in blocks]
        going = [row for row, block in enumerate(blocks) if block]
        while going and not self._is_late():
            wanted: list[list[int]] = [[] for _ in blocks]
            for row in going:
                start = ends[row].pop(0)
                wanted[row] = [found.index for found in blocks[row][start : ends[row][0]]]
            for row, scored in enumerate(self._scored(wanted)):
                done[row] += scored
            going = [
                row for row in going if not rule.stops([one.logit for one in done[row]], logits[row][ends[row][0] :])
            ]
        for row, (one, scored) in enumerate(zip(self._asked, done, strict=True)):
            one.is_short = one.is_short or row in going
            put(one.blocks, scored, one.documents)

    def _is_late(self) -> bool:
        return self._until is not None and time.perf_counter() >= self._until

    def _scored(self, wanted: Sequence[Sequence[int]]) -> list[list[Ranked]]:
        """The documents wanted of each query, best first, in one call; equal ones keep the caller's order."""
        first = self._stage == 0
        rows = [row for row, indices in enumerate(wanted) if first or (indices and not self._is_late())]
        # with a budget the best come first
        chosen = [list(wanted[row]) if self._until else sorted(wanted[row]) for row in rows]
        asked = [self._asked[row] for row in rows]
        texts = [[one.documents[index] for index in own] for one, own in zip(asked, chosen, strict=True)]
        left = {} if self._until is None else {"budget_ms": max(0.001, 1000 * (self._until - time.perf_counter()))}
        try:
            rankings = self._model.rank_many([one.query for one in asked], texts, **self._options | left)
        except (NonFiniteScore, NoTokens, OutOfMemory, TooLong) as error:
            starts = np.cumsum([0, *(len(one.documents) for one in self._asked)]).tolist()
            pairs = [(row, starts[row] + index) for row, own in zip(rows, chosen, strict=True) for index in own]
            named = tuple(pairs[number][1] for number in error.indices)
            what = f"pairs {list(named)}: {error}"
            if isinstance(error, NoTokens):
                what = f"queries[{pairs[error.indices[0]][0]}] is blank"
            raise type(error)(f"model {self._stage}, {what}", named) from error
        made: list[list[Ranked]] = [[] for _ in wanted]
        for row, one, own, ranking in zip(rows, asked, chosen, rankings, strict=True):
            made[row] = [
                replace(found, index=own[found.index], stage=self._stage, probability=None, interval=None)
                for found in ranking.documents
                if first or found.scored
            ]
            one.unscored += ranking.unscored * first
            cuts = {own[cut.index]: replace(cut, index=own[cut.index]) for cut in ranking.truncated}
            for found in made[row]:
                one.cuts.pop(found.index, None)
                one.cuts |= {found.index: cuts[found.index]} if found.index in cuts else {}
        self.records += [ranking.record for ranking in rankings[:1]]
        return made


def going_on(found: Sequence[Ranked], keep: int) -> list[Ranked]:
    """The documents that the next model scores: by turns the best of the model before and of the order given.

    A first pass that reads whole documents finds what a small model, which may read their beginnings alone, does not.
    """
    given = sorted(found, key=lambda one: one.index)
    by_turns = chain.from_iterable(zip(found, given, strict=True))
    return list({one.index: one for one in by_turns}.values())[:keep]


def put(blocks: list[list[Ranked]], scored: Sequence[Ranked], documents: Sequence[str]) -> None:
    """Put what a further model has scored of the first block in front of the rest, in the order of `ranking.order`.

    Blank documents come last: they stay where they are as long as any other does.
    """
    blank = {one.index for one in scored if is_blank(documents[one.index])}
    taken = {one.index for one in scored}
    if any(one.index not in taken and not is_blank(documents[one.index]) for one in blocks[0]):
        taken -= blank
    made = [one for one in scored if one.index in taken]
    made.sort(key=lambda one: (one.index in blank, not one.scored, -one.score, -one.logit, one.index))
    blocks[:1] = [made, [one for one in blocks[0] if one.index not in taken]]


def joined(blocks: Iterable[Sequence[Ranked]]) -> list[Ranked]:
    """All documents of the blocks, none with a higher score or logit than those of the blocks before its own have."""
    made: list[Ranked] = []
    score = logit = math.inf
    for block in blocks:
        made += [replace(one, score=min(score, one.score), logit=min(logit, one.logit)) for one in block]
        score = min([score, *(one.score for one in block)])
        logit = min([logit, *(one.logit for one in block)])
    return made


def _scored(one: _Asked) -> list[Ranked]:
    """What the model before has scored, best first."""
    return [found for found in one.blocks[0] if found.scored]


def _asked(queries: Iterable[str], documents_per_query: Iterable[Iterable[str]]) -> list[_Asked]:
    texts = checked_documents(queries, "queries")
    lists = materialised(documents_per_query, "documents_per_query", "a sequence of sequences of str")
    if len(lists) != len(texts):
        raise InvalidInput(f"documents_per_query has {len(lists)} lists for {len(texts)} queries")
    return [
        _Asked(query, checked_documents(documents, f"documents_per_query[{number}]"))
        for number, (query, documents) in enumerate(zip(texts, lists, strict=True))
    ]


def _grades(labels: Iterable[Sequence[float]], asked: Sequence[_Asked]) -> list[list[float]]:
    given = materialised(labels, "labels", "a sequence of sequences of numbers")
    if len(given) != len(asked):
        raise InvalidInput(f"labels has {len(given)} lists for {len(asked)} queries")
    made: list[list[float]] = []
    for number, (own, one) in enumerate(zip(given, asked, strict=True)):
        grades = materialised(own, f"labels[{number}]", "a sequence of numbers")
        if len(grades) != len(one.documents):
            raise InvalidInput(f"labels[{number}] has {len(grades)} for {len(one.documents)} documents")
        # True and False are grades
        places = ((f"labels[{number}][{place}]", grade) for place, grade in enumerate(grades))
        made.append([finite_number(+grade if isinstance(grade, bool) else grade, name) for name, grade in places])
    return made


# ---- One record of many calls.
def _summed(stages: Sequence[CallRecord], asked: Sequence[_Asked]) -> CascadeRecord:
    """The record of a call, with the cuts of the models whose scores the documents have."""
    cuts: list[Cut] = []
    start = 0
    for one in asked:
        cuts += [replace(one.cuts[index], index=start + index) for index in sorted(one.cuts)]
        start += len(one.documents)
    whole = replace(added(stages), truncated=tuple(cuts), unscored=stages[0].unscored)
    return CascadeRecord(**{one.name: getattr(whole, one.name) for one in fields(whole)}, stages=tuple(stages))


# ---- Files.
def _step(step: Any) -> Keep:
    if not isinstance(step, dict):
        return positive_int(step, "keep")
    return StoppingRule(**{**step, "margin": math.inf if step["margin"] is None else step["margin"]})
