"""`secondpass index`: a corpus through an indexing pipeline, a batch at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack import Document
from haystack_integrations.common.secondpass.search.collection import told_in_one_line
from haystack_integrations.common.secondpass.search.pipeline_files import load_pipeline, pipeline_file
from haystack_integrations.common.secondpass.search.search_run import progress_bars
from haystack_integrations.common.secondpass.search.stores import (
    absent,
    close,
    document_stores,
    refuse_filled,
    server_stores,
    store_name,
)
from haystack_integrations.components.converters.secondpass import CorpusReader

from secondpass.cli.failures import PipeConsole
from secondpass.corpora import CorpusDocument, read_corpus, survey
from secondpass.errors import InvalidInput, SecondPassError

if TYPE_CHECKING:
    from haystack import Pipeline

ABSENT_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class IndexRequest:
    """What the command line asked for; `batch` documents go through the pipeline together."""

    pipeline: str
    corpus: Path
    index: str | None
    add: bool
    batch: int


@dataclass(frozen=True, slots=True)
class Inlet:
    """Where documents enter a pipeline whose reader was taken out: the sockets that the reader fed, and the reader."""

    sockets: tuple[tuple[str, str], ...]
    reader: CorpusReader

    def inputs(self, documents: list[Document]) -> dict[str, dict[str, Any]]:
        """Inputs by component."""
        inputs: dict[str, dict[str, Any]] = {}
        for component, socket in self.sockets:
            inputs.setdefault(component, {})[socket] = documents
        return inputs


def run_index(request: IndexRequest) -> None:
    """Index a corpus and say how much went where.

    Raises:
        InvalidInput: the pipeline is no indexing pipeline, the corpus is refused, or a server's index holds documents.
        SecondPassError: a component failed; how many documents were written before is in the message.
    """
    file = pipeline_file(request.pipeline)
    pipeline = load_pipeline(file, index=request.index)
    try:
        inlet = without_reader(pipeline, file)
        stores = document_stores(pipeline)
        if not stores:
            raise InvalidInput(f"{file}: no component of the pipeline has a document store")
        found = survey(request.corpus)
        with told_in_one_line(pipeline):
            if not request.add:
                refuse_filled(server_stores(pipeline))
            pipeline.warm_up()
        began = time.perf_counter()
        _write(pipeline, inlet, request, found.documents)
        seconds = time.perf_counter() - began
        with told_in_one_line(pipeline):
            missing = max(_missing(store, read_corpus(request.corpus)) for store in stores)
    finally:
        close(pipeline)
    if missing:
        raise SecondPassError(f"{missing} of {found.documents} documents are not in the index, though it took them")
    names = ", ".join(store_name(store) for store in stores)
    speed = found.documents / seconds
    console = PipeConsole(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(f"{found.documents} documents indexed in {seconds:.1f} s, {speed:.0f} documents a second: {names}")


def without_reader(pipeline: Pipeline, file: Path) -> Inlet:
    """Take the CorpusReader out of a pipeline and return where it fed documents in.

    Raises:
        InvalidInput: there is no reader, or more than one, or another component waits for something from outside.
    """
    readers = {name: part for name, part in pipeline.walk() if isinstance(part, CorpusReader)}
    if len(readers) != 1:
        raise InvalidInput(f"{file}: an indexing pipeline has one CorpusReader; this one has {len(readers)}")
    ((name, reader),) = readers.items()
    edges = pipeline.graph.out_edges(name, data=True)
    sockets = tuple((target, data["to_socket"].name) for _, target, data in edges)
    pipeline.remove_component(name)
    for component, inputs in pipeline.inputs().items():
        for socket, described in inputs.items():
            if described["is_mandatory"] and (component, socket) not in sockets:
                raise InvalidInput(f"{file}: component {component!r} needs {socket!r}, which indexing has not got")
    return Inlet(sockets, reader)


def _write(pipeline: Pipeline, inlet: Inlet, request: IndexRequest, total: int) -> None:
    written = 0
    with progress_bars() as progress:
        bar = progress.add_task("Indexing", total=total)
        for batch in _batches(map(inlet.reader.document, read_corpus(request.corpus)), request.batch):
            try:
                with told_in_one_line(pipeline):
                    pipeline.run(inlet.inputs(batch))
            except SecondPassError as error:
                raise SecondPassError(f"{error}; {written} of {total} documents were written before") from error
            written += len(batch)
            progress.advance(bar, len(batch))


def _missing(store: Any, documents: Iterable[CorpusDocument]) -> int:
    ids = (document.id for document in documents)
    missing = 0
    while some := list(islice(ids, ABSENT_AT_ONCE)):
        missing += absent(store, some)
    return missing


def _batches(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    stream = iter(documents)
    while batch := list(islice(stream, size)):
        yield batch
