"""What is searched: a corpus that is indexed first, or a server's index as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haystack_integrations.common.secondpass.search.indexing import index
from haystack_integrations.common.secondpass.search.store_failures import failure_line
from haystack_integrations.common.secondpass.search.stores import (
    document_stores,
    refuse_empty,
    refuse_filled,
    server_stores,
    store_name,
)
from rich.progress import Progress

from secondpass.corpora import CorpusDocument, read_corpus, survey
from secondpass.errors import SecondPassError
from secondpass.evaluation.columns import column_of

if TYPE_CHECKING:
    from haystack import Pipeline


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents to search; `corpus` is None if the stores hold them already.

    `identity` is equal only for the same corpus, or the same stores with as many documents. `add` allows to index
    into a server's index that holds documents.
    """

    corpus: Path | None
    documents: int
    identity: str
    add: bool = False


def collection(pipeline: Pipeline, corpus: Path | None, add: bool = False) -> Collection:
    """Read a corpus through once, or ask the stores how much they hold.

    Raises:
        InvalidInput: a line of the corpus is refused, or there is none and a store is empty.
        SecondPassError: a server does not answer.
    """
    with told_in_one_line(pipeline):
        names = [store_name(store) for store in server_stores(pipeline)]
        if corpus is not None:
            found = survey(corpus)
            return Collection(corpus, found.documents, " in ".join((found.digest, *names)), add)
        counts = refuse_empty(document_stores(pipeline))
    identity = ", ".join(f"{name}: {count} documents" for name, count in counts.items())
    return Collection(None, sum(counts.values()), identity)


def fill(
    pipeline: Pipeline, found: Collection, progress: Progress, columns: bool = False, continued: bool = False
) -> None:
    """Index a corpus; with `columns`, ids must fit a TREC run.

    `continued` says that an earlier search began to index the same corpus into the same stores.

    Raises:
        InvalidInput: a server's index holds documents already, and neither `add` nor `continued` allows that.
        SecondPassError: a server does not answer, or refuses a document.
    """
    if found.corpus is None:
        return
    bar = progress.add_task("Indexing", total=found.documents)
    documents = read_corpus(found.corpus)
    with told_in_one_line(pipeline):
        if not (found.add or continued):
            refuse_filled(server_stores(pipeline))
        index(
            pipeline,
            _with_column_ids(documents) if columns else documents,
            lambda count: progress.advance(bar, count),
        )


@contextmanager
def told_in_one_line(pipeline: Pipeline) -> Iterator[None]:
    """Say in one line, and without credentials, what a client of a server raises; errors of secondpass pass."""
    try:
        yield
    except SecondPassError:
        raise
    except Exception as error:
        raise SecondPassError(failure_line(error, pipeline)) from error


def _with_column_ids(documents: Iterator[CorpusDocument]) -> Iterator[CorpusDocument]:
    for document in documents:
        column_of(document.id)
        yield document
