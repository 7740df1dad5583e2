"""A corpus into the document stores of a pipeline: before a search, or through an indexing pipeline of its own."""

from __future__ import annotations

import importlib
import inspect
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack import Document
from haystack.core.serialization import component_from_dict, component_to_dict
from haystack.document_stores.types import DuplicatePolicy
from haystack_integrations.components.converters.secondpass.corpus_reader import CorpusReader

from secondpass.cli.output import PipeConsole, print_json, progress_bar
from secondpass.corpora import CorpusDocument, read_corpus, survey
from secondpass.errors import InvalidInput, SecondPassError
from secondpass.evaluation.qrels import column_of
from secondpass_pipelines.pipeline_files import inputs_to, load_pipeline, pipeline_file
from secondpass_pipelines.stores import (
    absent,
    batches,
    client_of,
    close,
    components_of,
    document_stores,
    engine_of,
    map_metadata,
    refuse_empty,
    refuse_filled,
    server_stores,
    store_name,
    told_in_one_line,
)

if TYPE_CHECKING:
    from haystack import Pipeline

BATCH = 64
CORPUS = "SECONDPASS_CORPUS"
TEXT_EMBEDDER = "TextEmbedder"
DOCUMENT_EMBEDDER = "DocumentEmbedder"
Sockets = tuple[tuple[str, str], ...]


def run_index(
    pipeline_name: str, corpus: Path, index: str | None, add: bool, batch: int, as_json: bool = False
) -> None:
    """Index a corpus, `batch` documents at a time, and say how much went where.

    `index` takes the place of the index of stores that live in a server.

    Raises:
        InvalidInput: the pipeline is no indexing pipeline, the corpus is refused, or a server's index holds documents.
        SecondPassError: a component failed; how many documents were written before is in the message.
    """
    file = pipeline_file(pipeline_name)
    pipeline = load_pipeline(file, index=index)
    try:
        reader, sockets = without_reader(pipeline, file)
        stores = document_stores(pipeline)
        if not stores:
            raise InvalidInput(f"{file}: no component of the pipeline has a document store")
        found = survey(corpus, reader.keys)
        with told_in_one_line(pipeline):
            if not add:
                refuse_filled(server_stores(pipeline))
            map_metadata(server_stores(pipeline), found.kinds)
            pipeline.warm_up()
        began = time.perf_counter()
        documents = map(reader.document, read_corpus(corpus, reader.keys))
        _run_batches(pipeline, sockets, documents, batch, found.documents)
        seconds = time.perf_counter() - began
        # What splits or cleans makes documents of other ids.
        same = all(type(part).__name__.endswith((DOCUMENT_EMBEDDER, "DocumentWriter")) for _, part in pipeline.walk())
        with told_in_one_line(pipeline):
            counts = (absent(store, (one.id for one in read_corpus(corpus, reader.keys))) for store in stores if same)
            missing = max(counts, default=0)
    finally:
        close(pipeline)
    if missing:
        raise SecondPassError(f"{missing} of {found.documents} documents are not in the index, though it took them")
    names = ", ".join(store_name(store) for store in stores)
    speed = found.documents / seconds
    if as_json:
        print_json({"documents": found.documents, "seconds": seconds, "stores": list(map(store_name, stores))})
        return
    console = PipeConsole(soft_wrap=True)
    console.print(f"{found.documents} documents indexed in {seconds:.1f} s, {speed:.0f} documents a second: {names}")


def without_reader(pipeline: Pipeline, file: Path) -> tuple[CorpusReader, Sockets]:
    """Take the CorpusReader out of a pipeline and return it with the sockets that it fed.

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
    return reader, sockets


def _run_batches(pipeline: Pipeline, sockets: Sockets, documents: Iterable[Document], size: int, total: int) -> None:
    written = 0
    with progress_bar("Indexing", total, "documents") as bar:
        for batch in batches(documents, size):
            try:
                with told_in_one_line(pipeline):
                    pipeline.run(inputs_to(sockets, batch))
            except SecondPassError as error:
                raise SecondPassError(f"{error}; {written} of {total} documents were written before") from error
            written += len(batch)
            bar.update(len(batch))


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents to search; `corpus` is None if the stores hold them already.

    `identity` is equal only for the same corpus, or the same stores with as many documents. `add` allows to index
    into a server's index that holds documents. `kinds` is what the corpus has in its metadata.
    """

    corpus: Path | None
    documents: int
    identity: str
    add: bool = False
    kinds: Mapping[tuple[str, ...], set[str]] = field(default_factory=dict)


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
            return Collection(corpus, found.documents, " in ".join((found.digest, *names)), add, found.kinds)
        counts = refuse_empty(document_stores(pipeline))
    identity = ", ".join(f"{name}: {count} documents" for name, count in counts.items())
    return Collection(None, sum(counts.values()), identity)


def fill(
    pipeline: Pipeline,
    found: Collection,
    columns: bool = False,
    continued: bool = False,
    begun: Callable[[], object] | None = None,
) -> None:
    """Index a corpus; with `columns`, ids must fit a TREC run.

    `continued` says that an earlier search began to index the same corpus into the same stores. `begun` is called
    before the first document goes into a server's index, unless it is `continued`.

    Raises:
        InvalidInput: a server's index holds documents already, and neither `add` nor `continued` allows that.
        SecondPassError: a server does not answer, or refuses a document.
    """
    if found.corpus is None:
        return
    documents = read_corpus(found.corpus)
    with told_in_one_line(pipeline):
        if not (found.add or continued):
            refuse_filled(server_stores(pipeline))
        if begun is not None and not continued and server_stores(pipeline):
            begun()
        map_metadata(server_stores(pipeline), found.kinds)
        checked = _with_column_ids(documents) if columns else documents
        with progress_bar("Indexing", found.documents, "documents") as bar:
            index(pipeline, checked, bar.update)


def fill_from_environment(pipeline: Pipeline) -> None:
    """Index the corpus that SECONDPASS_CORPUS names; a server's index without one is left as it is.

    Raises:
        InvalidInput: the corpus is refused, or there is none and a store is in memory: it would stay empty.
    """
    named = os.environ.get(CORPUS)
    if named:
        corpus = Path(named)
        map_metadata(server_stores(pipeline), survey(corpus).kinds)
        index(pipeline, read_corpus(corpus), lambda count: None)
    elif len(server_stores(pipeline)) < len(document_stores(pipeline)):
        raise InvalidInput(f"set {CORPUS} to a BEIR folder or JSON Lines file: the pipeline's store is empty without")


def _with_column_ids(documents: Iterator[CorpusDocument]) -> Iterator[CorpusDocument]:
    for document in documents:
        column_of(document.id)
        yield document


def index(pipeline: Pipeline, documents: Iterable[CorpusDocument], step: Callable[[int], object]) -> None:
    """Write a corpus into every document store of a pipeline; `step` hears how many documents each batch had.

    The content of a document is its title, a space and its text (BEIR's convention), so that every retriever and
    ranker sees the title without being told of it; meta has every other key of the corpus.

    Raises:
        InvalidInput: the pipeline has no document store, or a text embedder without a document embedder to match.
    """
    stores = document_stores(pipeline)
    if not stores:
        raise InvalidInput("no component of the pipeline has a document store to put the corpus into")
    embedders = document_embedders(pipeline)
    contents = (Document(id=found.id, content=found.content, meta=dict(found.meta)) for found in documents)
    for batch in batches(contents, BATCH):
        embedded = batch
        for embedder in embedders:
            embedded = embedder.run(documents=embedded)["documents"]
        for store in stores:
            _write(store, embedded)
        step(len(batch))
    for store in stores:
        _make_searchable(store)


def _write(store: Any, documents: list[Document]) -> None:
    """Write without waiting for a server's next refresh, which would take a second for every batch."""
    given: dict[str, Any] = {"policy": DuplicatePolicy.OVERWRITE}
    if "refresh" in inspect.signature(store.write_documents).parameters:
        given["refresh"] = False
    store.write_documents(documents, **given)


def _make_searchable(store: Any) -> None:
    """Have a server refresh its index: without documents a bulk request does not, so the store's client is asked."""
    client = client_of(store)
    if engine_of(store.to_dict()) is not None and client is not None:
        client.indices.refresh(index=store.to_dict()["init_parameters"]["index"])


def document_embedders(pipeline: Pipeline) -> list[Any]:
    """For each text embedder of a pipeline the document embedder that matches it, warmed up.

    Raises:
        InvalidInput: one has no match, or two give embeddings of the same kind: a document holds only one.
    """
    made: dict[str, Any] = {}
    for name, component in components_of(pipeline).items():
        if not type(component).__name__.endswith(TEXT_EMBEDDER):
            continue
        kind = "sparse_embedding" if "Sparse" in type(component).__name__ else "embedding"
        if kind in made:
            raise InvalidInput(f"{name!r} is a second text embedder; a document can hold only one embedding")
        made[kind] = matching_document_embedder(name, component)
    for embedder in made.values():
        if hasattr(embedder, "warm_up"):
            embedder.warm_up()
    return list(made.values())


def matching_document_embedder(name: str, text_embedder: Any) -> Any:
    """Build the document embedder beside a text embedder: XTextEmbedder -> XDocumentEmbedder, same parameters.

    Raises:
        InvalidInput: there is no such class, or it does not take a parameter of the text embedder.
    """
    cls = _sibling(name, type(text_embedder))
    settings = component_to_dict(text_embedder, name)["init_parameters"]
    # The class's own signature is that of the component decorator's metaclass.
    accepted = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    unknown = sorted(key for key, value in settings.items() if key not in accepted and value is not None)
    if unknown:
        raise InvalidInput(f"{cls.__name__} does not take {', '.join(unknown)} of {name!r}")
    known = {key: value for key, value in settings.items() if key in accepted}
    if "progress_bar" in accepted:
        known["progress_bar"] = False
    data = {"type": f"{cls.__module__}.{cls.__name__}", "init_parameters": known}
    return component_from_dict(cls, data, name)


def _sibling(name: str, text_embedder: type) -> type:
    module = text_embedder.__module__.replace("text_embedder", "document_embedder")
    wanted = text_embedder.__name__.replace(TEXT_EMBEDDER, DOCUMENT_EMBEDDER)
    try:
        sibling = getattr(importlib.import_module(module), wanted, None)
    except ImportError:
        sibling = None
    if not isinstance(sibling, type):
        raise InvalidInput(f"no {module}.{wanted} to embed documents as {name!r} embeds queries")
    return sibling
