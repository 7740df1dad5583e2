"""What a search is to answer: one query, a file of them, or the judged queries of a BEIR folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from secondpass.corpora import named_file
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import Qrels, qrels_file, read_qrels
from secondpass.queries import read_queries
from secondpass.text import is_blank

SINGLE = "query"
"""The id of a query that was given on the command line."""


@dataclass(frozen=True, slots=True)
class Questions:
    """Text by query id in the order in which they are asked, and judgements if they are to be measured."""

    texts: dict[str, str]
    qrels: Qrels | None = None

    def limited(self, limit: int | None) -> Questions:
        """Only the first `limit`."""
        return Questions(dict(list(self.texts.items())[:limit]), self.qrels)


def single_question(text: str) -> Questions:
    """Return one query without judgements.

    Raises:
        InvalidInput: it is blank.
    """
    if is_blank(text):
        raise InvalidInput("--query is blank")
    return Questions({SINGLE: text})


def listed_questions(queries: Path, qrels: Path | None) -> Questions:
    """All queries of a file; with judgements, those that have a relevant document are measured."""
    texts = read_queries(queries)
    if qrels is None:
        return Questions(texts)
    judgements = read_qrels(qrels)
    if not set(judgements.with_relevant) & texts.keys():
        raise InvalidInput(f"{qrels}: has no relevant document for any query of {queries}")
    return Questions(texts, judgements)


def judged_questions(folder: Path, split: str, qrels: Path | None = None) -> Questions:
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
    return Questions({query_id: text for query_id, text in texts.items() if query_id in judged}, judgements)
