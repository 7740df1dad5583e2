"""The commands `index` and `search`, the same for both engines; light until one runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from secondpass.cli import choices
from secondpass.cli.printing import Format
from secondpass_searching import options
from secondpass_searching.index_layout import CONTENT, EMBEDDING
from secondpass_searching.options import First

if TYPE_CHECKING:
    from collections.abc import Callable

    from secondpass.cross_encoder import CrossEncoder
    from secondpass_searching.access import EngineAccess

INDEX_HELP = """Index a corpus: every document once, or in INDEX.dead.jsonl with the reason; broken off, it is resumed.

[bold]Examples[/bold]

secondpass ENGINE index articles beir/scifact

secondpass ENGINE index articles corpus.jsonl.gz --embedder sentence-transformers/all-MiniLM-L6-v2
"""
SEARCH_HELP = """Search in two passes: the index finds candidates, a cross-encoder in this process puts them in order.

"was" is the rank that the first pass gave a document.

[bold]Examples[/bold]

secondpass ENGINE search articles "how do wings stall"

secondpass ENGINE search articles "tax deadline" --first hybrid --passages --format jsonl
"""


def add_commands(commands: typer.Typer, access: EngineAccess) -> None:
    """Give an engine's commands `index` and `search`."""
    name = access.engine.command
    commands.command("index", help=INDEX_HELP.replace("ENGINE", name))(_index(access))
    commands.command("search", help=SEARCH_HELP.replace("ENGINE", name))(_search(access))


def _index(access: EngineAccess) -> Callable[..., None]:
    def index(
        index: options.Index,
        corpus: options.Corpus,
        *,
        embedder: options.DocumentEmbedder = None,
        add: options.Add = False,
        files: options.Files = None,
        batch_documents: options.BatchDocuments = 500,
        batch_bytes: options.BatchBytes = 5_000_000,
        in_flight: options.InFlight = 2,
        patience: options.PatienceSeconds = 300.0,
        url: options.Url = None,
        timeout: options.Timeout = 60.0,
    ) -> None:
        from secondpass_indexing.indexing import IndexingRequest
        from secondpass_indexing.run_files import RunFiles
        from secondpass_indexing.settings import IndexingSettings
        from secondpass_searching.running import run_index

        settings = IndexingSettings(
            max_documents=batch_documents, max_bytes=batch_bytes, in_flight=in_flight, patience=patience
        )
        with access.sink(url, timeout, index) as sink:
            left_behind = RunFiles.of_index(index, files)
            request = IndexingRequest(options.corpus_path(corpus), sink, left_behind, settings, add=add)
            run_index(access.engine, sink, request, embedder)

    return index


def _search(access: EngineAccess) -> Callable[..., None]:
    def search(
        index: options.Index,
        query: options.Query,
        *,
        first: options.Retriever = First.bm25,
        depth: options.Depth = 100,
        top_k: options.TopK = 10,
        field: options.Fields = None,
        passages: options.Passages = False,
        embedder: options.QueryEmbedder = options.EMBEDDER,
        vector_field: options.VectorField = EMBEDDING,
        output: options.Output = Format.table,
        model: choices.Model = choices.POCKET,
        max_length: choices.MaxLength = None,
        batch_size: choices.BatchSize = 32,
        device: choices.Device = None,
        precision: choices.Precision = None,
        url: options.Url = None,
        timeout: options.Timeout = 30.0,
    ) -> None:
        from secondpass_searching.candidates import FirstPass
        from secondpass_searching.running import SearchRequest, run_search
        from secondpass_searching.showing import show_hits, show_notes

        def load() -> CrossEncoder:
            return choices.load(model, max_length, device, precision)

        fields = tuple(field or (CONTENT,))
        wanted = FirstPass(query, fields, depth, first is not First.dense, vector_field=vector_field)
        bi_encoder = None if first is First.bm25 else embedder
        with access.searched(url, timeout, index) as place:
            request = SearchRequest(wanted, bi_encoder, load, top_k, batch_size, passages, device)
            answer = run_search(place, request)
        show_hits(answer, output)
        show_notes(answer, wanted)

    return search
