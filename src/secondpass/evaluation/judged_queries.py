"""Which queries are asked, and which of them are measured: those of a file, or the judged ones of a BEIR folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from secondpass.corpora import named_file
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import Qrels, qrels_file, read_qrels
from secondpass.queries import read_queries


@dataclass(frozen=True, slots=True)
class JudgedQueries:
    """Text by query id in the order in which they are asked, and judgements if they are to be measured."""

    texts: dict[str, str]
    qrels: Qrels | None = None

    def limited(self, limit: int | None) -> JudgedQueries:
        """Only the first `limit`."""
        return JudgedQueries(dict(list(self.texts.items())[:limit]), self.qrels)


def listed_queries(queries: Path, qrels: Path | None) -> JudgedQueries:
    """All queries of a file; with judgements, those that have a relevant document are measured."""
    texts = read_queries(queries)
    if qrels is None:
        return JudgedQueries(texts)
    judgements = read_qrels(qrels)
    if not set(judgements.with_relevant) & texts.keys():
        raise InvalidInput(f"{qrels}: has no relevant document for any query of {queries}")
    return JudgedQueries(texts, judgements)


def judged_queries(folder: Path, split: str, qrels: Path | None = None) -> JudgedQueries:
    """Return the queries of a BEIR folder that have a relevant document in the split.

    Raises:
        InvalidInput: it is no such folder, or the judgements name a query that it has not got.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: not a BEIR folder, so it has no queries of its own; give --queries FILE")
    file = qrels or qrels_file(folder, split)
    judgements = read_qrels(file)
    texts = read_queries(named_file(folder, "queries.jsonl"))
    judged = set(judgements.with_relevant)
    missing = sorted(judged - texts.keys())
    if missing:
        raise InvalidInput(f"{file}: {len(missing)} judged queries have no text in {folder} (first {missing[0]!r})")
    if not judged:
        raise InvalidInput(f"{file}: no query has a relevant document")
    return JudgedQueries({query_id: text for query_id, text in texts.items() if query_id in judged}, judgements)
