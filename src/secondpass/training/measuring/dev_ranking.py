"""Held-out labelled queries to one figure, and to judgements and runs for a report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import evaluate
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.training.data.groups import Group

PRIMARY = "nDCG@10"
# Queries of one call: enough pairs to sort by length.
CHUNK = 64


class DevRanking:
    """An evaluator for training: ranks each group's documents and measures the rankings.

    Takes part wherever an evaluator is asked for: `evaluator(encoder, output_path=, epoch=, steps=)` gives a float.

    Args:
        groups: labelled queries; labels are whole grades, 0 is not relevant.
        measure: as ir_measures names it.

    Raises:
        InvalidInput: no groups, none with a relevant document, or a label that is no grade.
    """

    def __init__(self, groups: Iterable[Group], measure: str = PRIMARY) -> None:
        self.groups = tuple(groups)
        self.primary_metric = measure
        self.qrels = Qrels({name: self._grades(group) for name, group in self._named()})
        if not self.qrels.with_relevant:
            raise InvalidInput("dev: no query has a relevant document")

    def __call__(self, encoder: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1) -> float:
        """Return the mean of the measure over the queries with a relevant document."""
        report = evaluate(self.qrels, self.run(encoder, "dev"), [self.primary_metric])
        (mean,) = report.means.values()
        return mean

    def run(self, encoder: Any, name: str) -> Run:
        """Rank every group's documents with `encoder`."""
        rankings: dict[str, list[tuple[str, float | None]]] = {}
        named = list(self._named())
        for start in range(0, len(named), CHUNK):
            part = named[start : start + CHUNK]
            found = encoder.rank_many(
                [group.query for _, group in part],
                [group.documents for _, group in part],
                show_progress_bar=False,
                relevance=None if encoder.config.num_labels == 1 else "expected",
            )
            for (query, group), ranking in zip(part, found, strict=True):
                ids = document_ids(group)
                rankings[query] = [(ids[ranked.index], ranked.logit) for ranked in ranking.documents]
        return Run(name, rankings)

    def given(self, name: str) -> Run:
        """The order in which the groups have their documents, as a run."""
        return Run(name, {query: [(text, None) for text in document_ids(group)] for query, group in self._named()})

    def _named(self) -> Iterable[tuple[str, Group]]:
        """Groups by their query's id, or number where it has none; ids that repeat get their number too."""
        seen: set[str] = set()
        for number, group in enumerate(self.groups):
            name = group.query_id or str(number)
            if name in seen:
                name = f"{name}#{number}"
            seen.add(name)
            yield name, group

    @staticmethod
    def _grades(group: Group) -> dict[str, int]:
        for label in group.labels:
            if label != int(label):
                raise InvalidInput(f"{group.source or 'dev'}: label {label} of query {group.query!r} is no whole grade")
        return {text: int(label) for text, label in zip(document_ids(group), group.labels, strict=True)}


def document_ids(group: Group) -> tuple[str, ...]:
    """The documents' ids, or their numbers where they have none."""
    return group.document_ids or tuple(str(number) for number in range(len(group)))
