"""What training changed, measured on queries that were not learnt from: runs before and after, and their analysis."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from secondpass.corpora import read_corpus
from secondpass.errors import InvalidInput
from secondpass.evaluation.analysis import analyse
from secondpass.evaluation.comparison import Analysis
from secondpass.evaluation.measures import evaluate
from secondpass.evaluation.qrels import Qrels, judged_queries
from secondpass.evaluation.runs import Run, read_run, without_query_ids
from secondpass.training.data.groups import Group, label_origins
from secondpass.training.negatives.candidates import bm25_candidates
from secondpass.training.negatives.sifting import plain
from secondpass.training.settings import worded

PRIMARY = "nDCG@10"
# Queries of one call: enough pairs to sort by length.
CHUNK = 64
BM25 = "BM25"
BEFORE, AFTER = "before training", "after training"


class DevRanking:
    """An evaluator for training: ranks each group's documents and measures the rankings.

    Takes part wherever an evaluator is asked for: `evaluator(encoder, output_path=, epoch=, steps=)` gives a float.

    Args:
        groups: labelled queries; labels are whole grades, 0 is not relevant.
        measure: as ir_measures names it.
        chooses: whether weights are chosen by it; False where it only measures.

    Attributes:
        note: how many groups measure the same in any order, or "".

    Raises:
        InvalidInput: no groups, none with a relevant document, a label that is no grade; or weights are to be chosen,
            and every group measures the same in any order, as one with relevant documents alone does.
    """

    def __init__(self, groups: Iterable[Group], measure: str = PRIMARY, *, chooses: bool = True) -> None:
        self.groups = tuple(groups)
        self.primary_metric = measure
        self.qrels = Qrels(
            {name: self._grades(group) for name, group in self._named()}, origin=label_origins(self.groups)
        )
        if not self.qrels.with_relevant:
            raise InvalidInput("dev: no query has a relevant document")
        same = sum(len(set(group.labels)) == 1 for group in self.groups)
        few = f"{same:,} of {len(self.groups):,} queries have documents of one grade alone"
        self.note = f"{few}: they measure the same in any order" if same else ""
        if chooses and not any(max(group.labels) > 0 and len(set(group.labels)) > 1 for group in self.groups):
            apart = len({(group.query_id, group.query) for group in self.groups}) < len(self.groups)
            way_out = f"join its rows by {worded('join', True)}" if apart else "`secondpass mine` finds negatives"
            raise InvalidInput(f"dev: no query has both a relevant document and another, to choose by; {way_out}")

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


@dataclass(slots=True)
class BeforeAfter:
    """One set of held-out queries and what has been measured on it.

    Attributes:
        name: of the set, for people.
        ranking: the candidates of each query.
        qrels: the judgements, of documents too that are no candidates.
        first: the first pass, whose order the candidates have; None where their order means nothing.
        measures: as ir_measures names them.
        runs: made so far, `first` not among them.
        note: what limits the figures, or "".
    """

    name: str
    ranking: DevRanking
    qrels: Qrels
    first: Run | None
    measures: Sequence[str]
    runs: list[Run] = field(default_factory=list)
    note: str = ""

    @property
    def queries(self) -> list[str]:
        """Texts of the queries."""
        return [group.query for group in self.ranking.groups]

    def measure(self, encoder: Any, run: str) -> None:
        """Rank all candidates with `encoder` as it is now; `run` names the outcome."""
        self.runs.append(self.ranking.run(encoder, run))

    def analysis(self) -> Analysis:
        """All runs against the first pass; where there is none, against the first run made.

        Raises:
            InvalidInput: nothing was measured.
            MissingExtra: ir_measures, scipy or scikit-learn is not installed.
        """
        return analyse(self.qrels, [*([self.first] if self.first else []), *self.runs], self.measures, examples=0)

    def gain(self) -> Analysis:
        """The runs made, against the first of them; raises as `analysis` does."""
        return analyse(self.qrels, self.runs, self.measures, examples=0)


def of_groups(name: str, groups: Sequence[Group], measures: Sequence[str]) -> BeforeAfter:
    """Held-out groups: their documents are the candidates, their labels the grades.

    Raises:
        InvalidInput: as of `DevRanking`, which has the first measure.
    """
    ranking = DevRanking(groups, measures[0])
    note = "; ".join(filter(None, (ranking.qrels.origin_note, ranking.note)))
    return BeforeAfter(name, ranking, ranking.qrels, None, measures, note=note)


def of_folder(
    folder: Path,
    split: str = "test",
    *,
    measures: Sequence[str],
    run: Path | None = None,
    depth: int = 100,
    limit: int | None = None,
) -> BeforeAfter:
    """The judged queries of a BEIR folder with the first pass's best documents as candidates.

    The folder has corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv; the arguments are as in `configuration.HeldOutTest`.
    Candidates whose id is the query's are left out, and the note says so: there they are the query (BEIR's convention).

    Raises:
        InvalidInput: a file is refused, the run has a document that the corpus lacks, or none for any query.
        MissingExtra: BM25 without bm25s.
    """
    found_queries = judged_queries(folder, split)
    judged, texts = found_queries.qrels or Qrels({}), found_queries.texts
    queries = list(judged.with_relevant)
    if limit is not None and limit < len(queries):
        queries = [queries[place] for place in np.linspace(0, len(queries) - 1, limit).round().astype(int)]
    corpus = {document.id: document.content for document in read_corpus(folder)}
    asked = {query: texts[query] for query in queries}
    found = Run(BM25, bm25_candidates(asked, corpus, depth=depth + 1)) if run is None else read_run(run)
    found, own = without_query_ids(found.only(set(queries)))
    notes = found_queries.note, f"{own:,} documents whose id is their query's are left out, as BEIR does" if own else ""
    first = Run(found.name, {query: list(ranking.items())[:depth] for query, ranking in found.items()})
    groups = []
    for query in queries:
        ids = tuple(first.get(query, ()))
        if unknown := [document for document in ids if document not in corpus]:
            raise InvalidInput(f"{run}: document {unknown[0]!r} of query {query!r} is not in {folder}")
        if ids:
            grades = judged[query]
            labels = tuple(float(max(grades.get(document, 0), 0)) for document in ids)
            contents = tuple(corpus[document] for document in ids)
            place = f"{folder} query {query!r}"
            groups.append(Group(asked[query], contents, labels, place, query, ids, label_origin=judged.origin))
    if not groups:
        raise InvalidInput(f"{folder}: the first pass finds nothing for any of its {len(queries)} queries")
    ranking = DevRanking(groups, measures[0], chooses=False)
    return BeforeAfter(
        folder.name, ranking, judged.only(set(queries)), first, measures, note="; ".join(filter(None, notes))
    )


def held_out(groups: Sequence[Group], share: float, seed: int = 0) -> tuple[list[Group], list[Group]]:
    """Split groups into those to learn from and those to measure on, in order; all groups of a query go together.

    Which queries are held out depends on their texts, the share and the seed alone, not on their order: more training
    data moves few of them.

    Args:
        groups: at least two different queries.
        share: of the queries, above 0 and below 1; at least one query is held out and one is left.
        seed: of the choice.

    Raises:
        InvalidInput: the share is out of its range, or there are fewer than two queries.
    """
    if not 0 < share < 1:
        raise InvalidInput(f"{worded('dev_share', share)} is not between 0 and 1")
    queries = {plain(group.query) for group in groups}
    if len(queries) < 2:
        raise InvalidInput(f"{worded('dev_share', share)}: {len(queries)} query cannot be divided")
    drawn = {query: hashlib.sha256(f"{seed}/{query}".encode("utf-8", "surrogatepass")).digest() for query in queries}
    ordered = sorted(queries, key=lambda query: (drawn[query], query))
    chosen = set(ordered[: min(max(1, round(share * len(ordered))), len(ordered) - 1)])
    kept = [group for group in groups if plain(group.query) not in chosen]
    return kept, [group for group in groups if plain(group.query) in chosen]


def queries_in_both(train: Iterable[Group], other: Iterable[str]) -> int:
    """How many of the `other` query texts are learnt from too, but for case and white space."""
    known = {plain(group.query) for group in train}
    return len({plain(query) for query in other} & known)
