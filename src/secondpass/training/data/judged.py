"""Judgements, a corpus and queries to groups: BEIR folders and TREC files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from secondpass.corpora import read_corpus
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.queries import read_queries
from secondpass.training.data.groups import Group
from secondpass.training.data.rows import NEGATIVE_LABEL

Texts = Mapping[str, str]
"""Text by id."""
SHOWN_IDS = 5


def judged_groups(
    qrels: Qrels,
    queries: Path | Texts,
    corpus: Path | Texts,
    *,
    source: str,
    run: Run | None = None,
    unjudged_negatives: int = 0,
) -> Iterator[Group]:
    """A group for each judged query, in the order of the judgements: first what was judged, then what was not.

    Labels are the grades; a grade below 0 (spam, in TREC's web tracks) becomes 0. Grade 0 was judged and is not
    relevant. Only the texts that are needed are held.

    Args:
        qrels: the judgements.
        queries: a file (see `queries.read_queries`) or texts by id.
        corpus: a BEIR folder or file (see `corpora.read_corpus`) or contents by id.
        source: what messages call the judgements.
        run: whose documents are taken where a query has no judgement of them.
        unjudged_negatives: how many of those for each query, from the top of the run, with label 0. Some will be
            relevant: nobody has looked at them.

    Raises:
        InvalidInput: a judged query or a document has no text; the message names the first and says how many.
    """
    unjudged = {} if run is None else {query: _unjudged(qrels, run, query, unjudged_negatives) for query in qrels}
    texts = read_queries(queries) if isinstance(queries, Path) else queries
    _all_known(qrels, texts, "queries", source)
    wanted = {document: None for query in qrels for document in (*qrels[query], *unjudged.get(query, ()))}
    contents = _contents(corpus, wanted)
    _all_known(wanted, contents, "documents", source)
    for query, grades in qrels.items():
        added = unjudged.get(query, [])
        ids = (*grades, *added)
        labels = (*(float(max(grade, 0)) for grade in grades.values()), *(NEGATIVE_LABEL for _ in added))
        yield Group(
            texts[query], tuple(contents[document] for document in ids), labels, f"{source} query {query!r}", query, ids
        )


def _unjudged(qrels: Qrels, run: Run, query: str, count: int) -> list[str]:
    return [document for document in run.get(query, ()) if document not in qrels[query]][:count]


def _contents(corpus: Path | Texts, wanted: Mapping[str, None]) -> Texts:
    if not isinstance(corpus, Path):
        return corpus
    return {document.id: document.content for document in read_corpus(corpus) if document.id in wanted}


def _all_known(ids: Iterable[str], texts: Texts, what: str, source: str) -> None:
    unknown = [name for name in ids if name not in texts]
    if unknown:
        shown = ", ".join(map(repr, unknown[:SHOWN_IDS])) + (", …" if len(unknown) > SHOWN_IDS else "")
        raise InvalidInput(f"{source}: {len(unknown)} {what} have no text: {shown}")
