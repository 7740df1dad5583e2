"""`secondpass ENGINE index` and `secondpass ENGINE search`, once their command line is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from secondpass_indexing.command import progress_bar, run_indexing
from secondpass_indexing.indexing import IndexingRequest
from secondpass_indexing.patience import Patience
from secondpass_searching.access import EmbeddingSink
from secondpass_searching.candidates import FirstPass
from secondpass_searching.embedding import embedding_of, length_of
from secondpass_searching.engine import Engine
from secondpass_searching.index_layout import EMBEDDING
from secondpass_searching.searched_index import SearchedIndex
from secondpass_searching.two_pass import Ranks, TwoPassAnswer, two_pass_search
from secondpass_searching.vector_field import check_vector_field, mappings_in, mappings_of


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What the command line of `search` asked for; `embedder` None: embeddings are not searched."""

    first: FirstPass
    embedder: str | None
    load: Callable[[], Ranks]
    top_k: int
    batch_size: int
    passages: bool
    device: str | None = None


def run_index(engine: Engine, sink: EmbeddingSink, request: IndexingRequest, embedder: str | None) -> None:
    """Index a corpus; embeddings that the index does not take are refused before the first document.

    Raises:
        InvalidInput: the index has no field for embeddings of this length, or as `index_corpus`.
        SecondPassError: as `run_indexing`.
    """
    if embedder is None:
        run_indexing(request)
        return
    with progress_bar() as bar:
        answer = Patience(request.settings, bar.notice).call(lambda: sink.field_mapping(EMBEDDING))
    mappings = mappings_in(answer, EMBEDDING)
    check_vector_field(engine, sink.name, mappings, EMBEDDING)
    embedding = embedding_of(embedder)
    check_vector_field(engine, sink.name, mappings, EMBEDDING, length_of(embedding))
    run_indexing(replace(request, embedding=embedding))


def run_search(index: SearchedIndex, request: SearchRequest) -> TwoPassAnswer:
    """Search in two passes, the query embedded if embeddings are wanted.

    Raises:
        InvalidInput: the index has no field for embeddings of this length, or as `two_pass_search`.
        SecondPassError: as `two_pass_search`.
    """
    first = request.first
    if request.embedder is not None:
        first = replace(first, vector=_query_vector(index, first, request.embedder, request.device))
    return two_pass_search(index, first, request.load, request.top_k, request.batch_size, request.passages)


def _query_vector(index: SearchedIndex, first: FirstPass, embedder: str, device: str | None) -> list[float]:
    field = first.vector_field
    mappings = mappings_of(index, field)
    check_vector_field(index.engine, index.name, mappings, field)
    (vector,) = embedding_of(embedder, device).embed([first.query])
    check_vector_field(index.engine, index.name, mappings, field, len(vector))
    return list(vector)
