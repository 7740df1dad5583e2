"""MRR and nDCG of the order that a model with one label gives to each query's candidates."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.evaluation.pairs.evaluator import Evaluator
from secondpass.evaluation.pairs.expected_rank import ndcg, reciprocal_rank
from secondpass.evaluation.pairs.predictions import single_scores
from secondpass.evaluation.pairs.reranking_samples import read_samples
from secondpass.limits import positive_int
from secondpass.text import is_blank, materialised

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
        held = (
            samples if isinstance(samples, Mapping) else materialised(samples, "samples", "a list or dict of samples")
        )
        self._read = read_samples(held, always_rerank_positives)
        self.samples = list(held.values()) if isinstance(held, Mapping) else held
        self.always_rerank_positives = always_rerank_positives
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar

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
