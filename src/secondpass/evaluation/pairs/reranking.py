"""MRR and nDCG of the order that a model with one label gives to each query's candidates."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from math import comb
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import scikit_metrics
from secondpass.evaluation.pairs.evaluator import Evaluator, single_scores
from secondpass.text import checked, checked_documents, is_blank, materialised, positive_int


# ---- MRR and nDCG of one ranking that may have equal scores: the mean over all orders that these allow.
#
# With equal scores the order is left to chance (McSherry and Najork 2008, "Computing information retrieval performance
# measures efficiently in the presence of tied scores"), and no relevant document may profit from where it was listed.
def reciprocal_rank(gains: Sequence[float], scores: NDArray[Any], k: int) -> float:
    """Expected 1 / rank of the first document with a gain, 0 beyond rank k."""
    ahead = 0
    for members in _groups(scores):
        size, relevant = len(members), sum(gains[member] > 0 for member in members)
        if relevant:
            orders = comb(size, relevant)
            places = range(1, min(size - relevant + 1, k - ahead) + 1)
            # With the first of them at a place, the others are anywhere behind it.
            return sum(comb(size - place, relevant - 1) / orders / (ahead + place) for place in places)
        ahead += size
    return 0.0


def ndcg(gains: Sequence[float], scores: NDArray[Any], ideal: tuple[float, ...], k: int) -> float:
    """Expected DCG at k over the DCG of the `ideal` order's gains; gains count as they are (linear)."""
    # Both sums have as many terms, so that equal orders are equal to the last bit.
    width = 2 + max(len(gains), len(ideal))
    places = np.unique(-scores, return_inverse=True)[1]
    return _dcg(gains, places, width, k) / _ideal_dcg(ideal, width, k)


@lru_cache(maxsize=1024)
def _ideal_dcg(ideal: tuple[float, ...], width: int, k: int) -> float:
    return _dcg(ideal, np.arange(len(ideal)), width, k)


def _dcg(gains: Sequence[float], places: NDArray[np.int64], width: int, k: int) -> float:
    """DCG averaged over equal places; ndcg_score would take its ideal from the candidates."""
    row = np.zeros((1, width))
    row[0, : len(gains)] = gains
    # Documents without gain stand behind all others, each at a place of its own.
    order = np.arange(width)
    order[: len(places)] = places
    return float(scikit_metrics().dcg_score(row, -order[None], k=k))


def _groups(scores: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Positions by score, best first."""
    order = np.argsort(-scores, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(scores[order])) + 1)


# ---- Queries with their relevant texts and the candidates to be ordered, in the forms that callers have.
@dataclass(frozen=True, slots=True)
class Sample:
    """One query.

    Attributes:
        name: what messages call it.
        query: its text.
        candidates: texts to be scored, each once; in the first pass's order if there was one.
        gains: of the candidates; 0 for one that is not relevant.
        ideal: gains of all relevant texts, falling; the first pass may have missed some.
    """

    name: str
    query: str
    candidates: tuple[str, ...]
    gains: tuple[float, ...]
    ideal: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Samples:
    """What was given, all that count, how many were skipped, and whether a first pass ranked the candidates."""

    given: list[Any]
    kept: tuple[Sample, ...]
    skipped: int
    ranked: bool


def read_samples(given: object, always_rerank_positives: bool) -> Samples:
    """Read a list of samples, or a dict whose values they are.

    Raises:
        InvalidInput: a sample has another form, the forms are mixed, or none is left to be measured.
    """
    items: list[Any]
    if isinstance(given, Mapping):
        names, items = [f"samples[{key!r}]" for key in given], list(given.values())
    else:
        items = materialised(given, "samples", "a list or dict of samples")
        names = [f"samples[{index}]" for index in range(len(items))]
    if not items:
        raise InvalidInput("samples is empty: there is nothing to evaluate on")
    forms = [_form(item, name) for item, name in zip(items, names, strict=True)]
    for form, name in zip(forms, names, strict=True):
        if form != forms[0]:
            raise InvalidInput(f"{name} has {form!r} where {names[0]} has {forms[0]!r}: an evaluator takes one form")
    read = partial(_ranked, always_rerank_positives=always_rerank_positives) if forms[0] == "documents" else _unranked
    samples = [read(item, name) for item, name in zip(items, names, strict=True)]
    kept = tuple(sample for sample in samples if sample is not None)
    if not any(sample.candidates for sample in kept):
        raise InvalidInput(f"none of {len(samples)} samples has a positive text and candidates to order")
    return Samples(items, kept, len(items) - len(kept), forms[0] == "documents")


def _form(item: object, name: str) -> str:
    if not isinstance(item, Mapping):
        raise InvalidInput(f"{name} is {type(item).__name__}, not a dict")
    for key in ("query", "positive"):
        if item.get(key) is None:
            raise InvalidInput(f"{name} has no {key!r}")
    found = [key for key in ("negative", "documents") if item.get(key) is not None]
    if len(found) != 1:
        raise InvalidInput(f"{name} has {' and '.join(found) or 'neither'}: it needs one of 'negative' and 'documents'")
    return found[0]


def _unranked(item: Mapping[str, Any], name: str) -> Sample | None:
    """Relevant texts and others: without one of both there is nothing to tell apart."""
    positive = _grades(item["positive"], f"{name}['positive']")
    negative = _texts(item["negative"], f"{name}['negative']")
    for text in negative:
        if text in positive:
            raise InvalidInput(f"{name} has {text[:80]!r} as positive and as negative")
    if not positive or not negative:
        return None
    return _sample(item, name, [*positive, *negative], positive)


def _ranked(item: Mapping[str, Any], name: str, always_rerank_positives: bool) -> Sample | None:
    """A first pass's ranking, behind which the positive texts it missed are put if they always count."""
    positive = _grades(item["positive"], f"{name}['positive']")
    documents = _texts(item["documents"], f"{name}['documents']", ordered=True)
    if not positive or (always_rerank_positives and not documents):
        return None
    if always_rerank_positives:
        documents = list(dict.fromkeys([*documents, *positive]))
    return _sample(item, name, documents, positive)


def _sample(item: Mapping[str, Any], name: str, candidates: list[str], positive: Mapping[str, float]) -> Sample:
    query = checked(item["query"], f"{name}['query']")
    gains = tuple(positive.get(text, 0.0) for text in candidates)
    return Sample(name, query, tuple(candidates), gains, tuple(sorted(positive.values(), reverse=True)))


def _grades(value: object, name: str) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return dict.fromkeys(_texts(value, name), 1.0)
    for text, grade in value.items():
        checked(text, f"a key of {name}")
        if not isinstance(grade, Real) or isinstance(grade, bool) or not 0 < float(grade) < math.inf:
            raise InvalidInput(f"{name}[{text[:80]!r}] is {grade!r}, not a grade above 0")
    return {text: float(grade) for text, grade in value.items()}


def _texts(value: object, name: str, ordered: bool = False) -> list[str]:
    """Texts, each once; a str is one text, and a set is fine where no order is asked for."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, (set, frozenset)) and not ordered:
        return sorted(checked_documents(list(value), name))
    return list(dict.fromkeys(checked_documents(value, name)))


logger = logging.getLogger(__name__)


class CERerankingEvaluator(Evaluator):
    """Mean reciprocal rank (which a call returns) and mean nDCG, both at k.

    A sample is a dict with "query", "positive" (texts, or text -> grade for graded relevance) and one of:

    - "negative": texts that are not relevant. Equal scores give the mean over all orders that they allow. A sample
      without positive or without negative texts is skipped.
    - "documents": the first pass's ranking, best first. Both passes are then measured on the same candidates with
      the same ideal, and documents with equal scores keep the first pass's order, as they do in `rank`: an order
      that stays as it was is no gain. The ideal has all positive texts, those too that the first pass missed.

    Equal texts of a sample are one text.

    Args:
        samples: a list of samples, or a dict whose values they are; all of one form.
        at_k: how many ranks count.
        name: of the data; it stands in log lines and in the file's name.
        write_csv: append to CERerankingEvaluator[_NAME]_results_@K.csv (epoch, steps, MRR@K, NDCG@K).
        mrr_at_k: old name of `at_k`.
        always_rerank_positives: for samples with "documents": put the positive texts that the first pass missed
            behind its ranking; False measures what both passes together would deliver.
        batch_size: pairs scored together at most; None leaves it to the model.
        show_progress_bar: show one while the pairs are scored.

    Raises:
        InvalidInput: a sample has another form, or none is left to be measured; the message names it.
        MissingExtra: scikit-learn is not installed.
    """

    title = "CERerankingEvaluator"

    def __init__(
        self,
        samples: Iterable[Mapping[str, Any]] | Mapping[Any, Mapping[str, Any]],
        at_k: int = 10,
        name: str = "",
        write_csv: bool = True,
        mrr_at_k: int | None = None,
        *,
        always_rerank_positives: bool = True,
        batch_size: int | None = None,
        show_progress_bar: bool | None = False,
    ) -> None:
        if mrr_at_k is not None:
            logger.warning("The `mrr_at_k` parameter has been deprecated; please use `at_k=%s` instead.", mrr_at_k)
            at_k = mrr_at_k
        self.at_k = positive_int(at_k, "at_k")
        super().__init__(name, write_csv, [f"MRR@{self.at_k}", f"NDCG@{self.at_k}"], ending=f"_@{self.at_k}")
        self._read = read_samples(samples, always_rerank_positives)
        self.samples = self._read.given
        self.always_rerank_positives = always_rerank_positives
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar
        scikit_metrics()  # told now, and not after an epoch

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse what the samples were read by: it would be told after all pairs were scored, or never."""
        if name in ("samples", "at_k", "always_rerank_positives") and name in self.__dict__:
            raise InvalidInput(f"{name} is what the evaluator was made with: make another one")
        super().__setattr__(name, value)

    def measure(self, model: Any) -> dict[str, float]:
        """The figures "MRR@K" and "NDCG@K", and with samples of a first pass "Base MRR@K" and "Base NDCG@K"."""
        samples = self._read.kept
        pairs = [[sample.query, text] for sample in samples for text in sample.candidates]
        names = [f"candidate {place} of {item.name}" for item in samples for place in range(len(item.candidates))]
        options: dict[str, Any] = {"show_progress_bar": self.show_progress_bar}
        if self.batch_size is not None:
            options["batch_size"] = self.batch_size
        scores = single_scores(model, pairs, names.__getitem__, **options)
        ends = np.cumsum([len(sample.candidates) for sample in samples])
        parts = zip(samples, np.split(scores, ends[:-1]), strict=True)
        by_sample = [_blank_last(sample.candidates, own) for sample, own in parts]
        if not self._read.ranked:
            return self._means(by_sample, "")
        return self._means([_kept_order(own) for own in by_sample], "") | self._first_pass

    @cached_property
    def _first_pass(self) -> dict[str, float]:
        """Figures of the order that the candidates have: no model changes them."""
        return self._means([np.arange(len(sample.candidates), 0, -1) for sample in self._read.kept], "Base ")

    def _means(self, scores: list[NDArray[Any]], prefix: str) -> dict[str, float]:
        samples, k = self._read.kept, self.at_k
        ranks = [reciprocal_rank(item.gains, own, k) for item, own in zip(samples, scores, strict=True)]
        gains = [ndcg(item.gains, own, item.ideal, k) for item, own in zip(samples, scores, strict=True)]
        return {f"{prefix}MRR@{k}": float(np.mean(ranks)), f"{prefix}NDCG@{k}": float(np.mean(gains))}

    def _lines(self, figures: Mapping[str, float]) -> Iterable[str]:
        samples = self._read.kept
        positives = _spread([len(sample.ideal) for sample in samples])
        negatives = _spread([sample.gains.count(0.0) for sample in samples])
        yield f"Queries: {len(samples)} \t Positives: {positives} \t Negatives: {negatives}"
        if self._read.skipped:
            yield f"Skipped: {self._read.skipped} queries without positive or without other documents"
        if self._read.ranked:
            yield f"{' ' * len(str(self.at_k))}       Base  -> Reranked"
        for name, padding in ((f"MRR@{self.at_k}", "  "), (f"NDCG@{self.at_k}", " ")):
            base = f"{padding}{figures[f'Base {name}'] * 100:.2f} ->" if self._read.ranked else ""
            yield f"{name}:{base} {figures[name] * 100:.2f}"


def _blank_last(texts: Sequence[str], scores: NDArray[Any]) -> NDArray[Any]:
    """What says nothing comes last, as it does in `rank`."""
    blank = np.array([is_blank(text) for text in texts], np.bool_)
    return np.where(blank, np.nextafter(scores.min(), -np.inf), scores) if blank.any() else scores


def _kept_order(scores: NDArray[Any]) -> NDArray[np.int64]:
    """Strictly falling numbers in the order of the scores, where equal ones keep the order they have."""
    places = np.empty(len(scores), np.int64)
    places[np.argsort(-scores, kind="stable")] = np.arange(len(scores), 0, -1)
    return places


def _spread(counts: list[int]) -> str:
    return f"Min {np.min(counts):.1f}, Mean {np.mean(counts):.1f}, Max {np.max(counts):.1f}"
