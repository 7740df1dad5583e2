"""What training changed, measured on queries that were not learnt from: runs before and after, and their analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from secondpass.corpora import named_file, read_corpus
from secondpass.errors import InvalidInput
from secondpass.evaluation.analysis import analyse
from secondpass.evaluation.findings import Analysis
from secondpass.evaluation.qrels import Qrels, qrels_file, read_qrels
from secondpass.evaluation.runs import Run, read_run
from secondpass.queries import read_queries
from secondpass.training.data.groups import Group
from secondpass.training.measuring.dev_ranking import DevRanking
from secondpass.training.negatives.candidates import bm25_candidates

BM25 = "BM25"
BEFORE, AFTER = "before training", "after training"


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
    """

    name: str
    ranking: DevRanking
    qrels: Qrels
    first: Run | None
    measures: Sequence[str]
    runs: list[Run] = field(default_factory=list)

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
        InvalidInput: a label is no whole grade, or no query has a relevant document.
    """
    ranking = DevRanking(groups, measures[0])
    return BeforeAfter(name, ranking, ranking.qrels, None, measures)


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

    Args:
        folder: with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv.
        split: which judgements.
        measures: as ir_measures names them.
        run: the first pass; None: BM25 over the whole corpus (see `negatives.bm25`).
        depth: candidates of each query.
        limit: only so many queries, evenly spaced in the order of the judgements.

    Raises:
        InvalidInput: a file is refused, the run has a document that the corpus lacks, or none for any query.
        MissingExtra: BM25 without bm25s.
    """
    judged = read_qrels(qrels_file(folder, split))
    texts = read_queries(named_file(folder, "queries.jsonl"))
    queries = _spaced(judged.with_relevant, limit)
    if unknown := [query for query in queries if query not in texts]:
        raise InvalidInput(f"{folder}: {len(unknown)} judged queries have no text (the first: {unknown[0]!r})")
    corpus = {document.id: document.content for document in read_corpus(folder)}
    asked = {query: texts[query] for query in queries}
    found = Run(BM25, bm25_candidates(asked, corpus, depth=depth)) if run is None else read_run(run).only(set(queries))
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
            groups.append(Group(asked[query], contents, labels, f"{folder} query {query!r}", query, ids))
    if not groups:
        raise InvalidInput(f"{folder}: the first pass finds nothing for any of its {len(queries)} queries")
    return BeforeAfter(folder.name, DevRanking(groups, measures[0]), judged.only(set(queries)), first, measures)


def _spaced(queries: Sequence[str], limit: int | None) -> list[str]:
    if limit is None or limit >= len(queries):
        return list(queries)
    return [queries[place] for place in np.linspace(0, len(queries) - 1, limit).round().astype(int)]
