"""The commands `index` and `search`, the same for both engines; light until one runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import typer

from secondpass.cli import arguments
from secondpass.cli.output import (
    Format,
    PipeConsole,
    note,
    print_json,
    print_json_lines,
    print_json_list,
    print_table,
    progress_bar,
)
from secondpass.corpora import RecordKeys, shown_keys
from secondpass_servers import options
from secondpass_servers.contract import DocumentsRefused
from secondpass_servers.index import (
    CONTENT,
    EMBEDDING,
    EngineAccess,
    SearchedIndex,
    check_vector_field,
    mappings_in,
    mappings_of,
)
from secondpass_servers.indexing.delivery import Backoff
from secondpass_servers.indexing.entries import Embedding, IndexingSettings
from secondpass_servers.indexing.journal import RunFiles
from secondpass_servers.indexing.run import IndexingCounters, IndexingReport, IndexingRequest, index_corpus
from secondpass_servers.options import First
from secondpass_servers.two_pass import (
    FirstPass,
    TwoPassAnswer,
    TwoPassHit,
    filter_clauses,
    most_words,
    two_pass_search,
)

if TYPE_CHECKING:
    from secondpass.cascade import Cascade
    from secondpass.cross_encoder import CrossEncoder


COLUMNS = ("rank", "was", "score", "id", "text")
SHOWN_IDS = 5
INDEX_HELP = """Index a corpus: every document once, or in INDEX.dead.jsonl with the reason; broken off, it is resumed.

Every key of a JSON line is kept: beside id, title and text as metadata, which `search --filter` knows.

[bold]Examples[/bold]

secondpass ENGINE index articles beir/scifact

secondpass ENGINE index articles corpus.jsonl.gz --embedder sentence-transformers/all-MiniLM-L6-v2

secondpass ENGINE index articles pages.jsonl --id-field url --title-field heading --text-field body
"""
SEARCH_HELP = """Search in two passes: the index finds candidates, a cross-encoder in this process puts them in order.

"was" is the rank that the first pass gave a document. JSON lines hold its metadata too.

[bold]Examples[/bold]

secondpass ENGINE search articles "how do wings stall"

secondpass ENGINE search articles "tax deadline" --first hybrid --passages --format jsonl

secondpass ENGINE search articles "tax deadline" --filter "lang == en" --filter "published >= 2024-01-01"

secondpass ENGINE search reports "tax deadline" --long windows --passages --budget-ms 500
"""


def embedding_of(model: str, device: str | None = None) -> Embedding:
    """A bi-encoder (folder or hub name), loaded; its vectors have length 1.

    They point where those of Haystack's sentence-transformers embedders point, so pipelines read what is written here.

    Raises:
        ModelLoadError: the model cannot be had, is no bi-encoder, or does more than pooling.
        InvalidInput: the device is refused.
    """
    from secondpass.biencoder import BiEncoder

    encoder = BiEncoder(model, device=device)
    return Embedding(model, lambda texts: encoder(texts).tolist())


def length_of(embedding: Embedding) -> int:
    """How many numbers a vector has."""
    (vector,) = embedding.embed(["length"])
    return len(vector)


class ProgressBar:
    """Draws a bar where stderr is a terminal, and else prints each reason for waiting once."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._told = ""

    def counted(self, counters: IndexingCounters) -> None:
        """Move the bar."""
        if self._bar.total is None:
            self._bar.reset(total=counters.documents)
            # what an earlier run has indexed is no part of this one's rate
            self._bar.initial = self._bar.n = self._bar.last_print_n = counters.already
        done = counters.already + counters.indexed + counters.dead
        self._bar.update(min(done, counters.documents) - self._bar.n)

    def notice(self, text: str) -> None:
        """Show why the run waits."""
        self._bar.set_description(text or "Indexing")
        reason = text.partition(";")[0]
        if reason and reason != self._told and self._bar.disable:
            note(text)
        self._told = reason or self._told


def run_index(request: IndexingRequest, embedder: str | None = None, as_json: bool = False) -> IndexingReport:
    """Index with a bar on stderr and print the summary; with the embeddings of a bi-encoder, if one is named.

    Embeddings that the index does not take are refused before the first document.

    Raises:
        DocumentsRefused: the run came to its end and some documents are dead letters: exit code 1.
        InvalidInput: the index has no field for embeddings of this length, or as `index_corpus`.
        IndexingError: as `index_corpus`.
        ModelLoadError: as `embedding_of`.
    """
    if embedder is not None:
        request = replace(request, embedding=_embedding_for(request, embedder))
    with indexing_bar() as listener:
        report = index_corpus(request, listener)
    console = PipeConsole(soft_wrap=True)
    if as_json:
        print_json({"index": request.sink.name, **asdict(report)})
    for line in () if as_json else summary(report, request.sink.name):
        console.print(line)
    if report.dead_letters is not None:
        raise DocumentsRefused(
            f"{report.dead} of {report.documents} documents were refused; "
            f"they are in {report.dead_letters}, each with the reason"
        )
    return report


@contextmanager
def indexing_bar() -> Iterator[ProgressBar]:
    """A bar that goes when it is done."""
    with progress_bar("Indexing", None, "documents") as bar:
        yield ProgressBar(bar)


def summary(report: IndexingReport, name: str) -> list[str]:
    """Lines that say what a run did; what did not happen is not mentioned."""
    speed = f", {report.per_second:.0f} documents a second" if report.indexed else ""
    counts = {
        "already indexed by the run that this one continues": report.already,
        "written over a document of the same id": report.replaced,
        "sent again": report.retries,
        "forgotten by the server and written again": report.mended,
        "without any text": report.blank,
        "refused": report.dead,
    }
    first = f"{report.indexed} of {report.documents} documents indexed in {report.seconds:.1f} s{speed}: {name}"
    lines = [first, *(f"  {count} {what}" for what, count in counts.items() if count)]
    if report.unindexed:
        lines.append(f"  kept, but nothing can be filtered by: {shown_keys(report.unindexed)}")
    return lines


def _embedding_for(request: IndexingRequest, embedder: str) -> Embedding:
    """A bi-encoder whose vectors the index takes."""
    sink = request.sink
    with indexing_bar() as bar:
        answer = Backoff(request.settings, bar.notice).call(lambda: sink.field_mapping(EMBEDDING))
    mappings = mappings_in(answer, EMBEDDING)
    check_vector_field(sink.engine, sink.name, mappings, EMBEDDING)
    embedding = embedding_of(embedder)
    check_vector_field(sink.engine, sink.name, mappings, EMBEDDING, length_of(embedding))
    return embedding


def run_search(
    index: SearchedIndex,
    first: FirstPass,
    load: Callable[[], CrossEncoder | Cascade],
    embedder: str | None = None,
    device: str | None = None,
    **ranking: Any,
) -> TwoPassAnswer:
    """As `two_pass_search`, the query embedded by the bi-encoder `embedder`; None: embeddings are not searched.

    Raises:
        InvalidInput: the index has no field for embeddings of this length, or as `two_pass_search`.
        SecondPassError: as `two_pass_search`.
    """
    if embedder is not None:
        field = first.vector_field
        mappings = mappings_of(index, field)
        check_vector_field(index.engine, index.name, mappings, field)
        (vector,) = embedding_of(embedder, device).embed([first.query])
        check_vector_field(index.engine, index.name, mappings, field, len(vector))
        first = replace(first, vector=list(vector))
    return two_pass_search(index, first, load, **ranking)


def show_hits(answer: TwoPassAnswer, form: Format | str) -> None:
    """Print the hits, best first; `was` is the rank that the first pass gave.

    Another form than `Format`'s is the query, and asks for one JSON object with it.
    """
    hits = enumerate(answer.hits, start=1)
    if not isinstance(form, Format):
        verdict = {} if answer.nothing_relevant is None else {"nothing_relevant": answer.nothing_relevant}
        head = {"query": form, "candidates": answer.candidates, "unscored": answer.unscored, **verdict}
        print_json_list(head, "results", (_row(rank, hit) for rank, hit in hits))
    elif form is Format.jsonl:
        print_json_lines(_row(rank, hit) for rank, hit in hits)
    elif answer.hits:
        print_table(COLUMNS, [_cells(rank, hit) for rank, hit in hits])


def notes(answer: TwoPassAnswer, first: FirstPass) -> list[str]:
    """Whatever was cut, missing or not found; what did not happen is not mentioned."""
    names = ", ".join(first.fields)
    ids = ", ".join(answer.cut[:SHOWN_IDS]) + (", ..." if len(answer.cut) > SHOWN_IDS else "")
    words = f"{most_words(len(first.fields)):,}"
    said = {
        "no document found": not answer.hits,
        f"BM25 searched for the first {words} words of the query; the second pass read all of it": (
            first.bm25 and first.words != first.query
        ),
        f"{answer.without_text} of {answer.candidates} documents have no text in {names}: ranked as empty": (
            answer.without_text
        ),
        f"{len(answer.cut)} of {answer.candidates} documents cut to fit the model (id {ids})": answer.cut,
        f"{answer.unscored} of {answer.candidates} documents not scored in time: they follow as they were found": (
            answer.unscored
        ),
        "nothing relevant: by the model's calibration no document answers the query": answer.nothing_relevant,
    }
    return [line for line, happened in said.items() if happened]


def show_notes(answer: TwoPassAnswer, first: FirstPass) -> None:
    """Print them on stderr."""
    for line in notes(answer, first):
        note(line)


def _row(rank: int, hit: TwoPassHit) -> dict[str, object]:
    found = hit.candidate
    row: dict[str, object] = {"rank": rank, "was": found.was, "score": hit.score, "index": found.index, "id": found.id}
    passage: dict[str, object] = {} if hit.passage is None else {"passage": hit.passage}
    if hit.place is not None:
        passage |= {"passage_start": hit.place[0], "passage_end": hit.place[1]}
    meta = {"meta": dict(hit.meta)} if hit.meta else {}
    scored: dict[str, object] = {} if hit.scored else {"scored": False}
    if hit.probability is not None:
        scored |= {"probability": hit.probability, "probability_interval": hit.interval}
    return {**row, **scored, "first_pass": dict(found.scores), **passage, "text": found.text, **meta}


def _cells(rank: int, hit: TwoPassHit) -> tuple[str, ...]:
    found = hit.candidate
    return str(rank), str(found.was), f"{hit.score:.4f}" if hit.scored else "-", found.id, hit.passage or found.text


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
        id_field: options.IdKey = None,
        title_field: options.TitleKey = None,
        text_field: options.TextKey = None,
        add: options.Add = False,
        files: options.Files = None,
        batch_documents: options.BatchDocuments = 500,
        batch_bytes: options.BatchBytes = 5_000_000,
        in_flight: options.InFlight = 2,
        patience: options.Patience = 300.0,
        url: options.Url = None,
        timeout: options.Timeout = 60.0,
        as_json: arguments.JsonObject = False,
    ) -> None:
        settings = IndexingSettings(
            max_documents=batch_documents, max_bytes=batch_bytes, in_flight=in_flight, give_up_after=patience
        )
        with access.sink(url, timeout, index) as sink:
            left_behind = RunFiles.of_index(index, files)
            keys = RecordKeys(id_field, title_field, text_field)
            request = IndexingRequest(corpus, sink, left_behind, settings, add=add, keys=keys)
            run_index(request, embedder, as_json)

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
        filters: options.Filters = None,
        passages: options.Passages = False,
        embedder: options.QueryEmbedder = options.EMBEDDER,
        vector_field: options.VectorField = EMBEDDING,
        output: options.Output = Format.table,
        model: arguments.Models = None,
        keep: arguments.Keep = None,
        max_length: arguments.MaxLength = None,
        batch_size: arguments.BatchSize = 32,
        device: arguments.Device = None,
        precision: arguments.Precision = None,
        long: arguments.Long = None,
        window_tokens: arguments.WindowTokens = None,
        window_overlap: arguments.WindowOverlap = None,
        max_windows: arguments.MaxWindows = None,
        select: arguments.SelectWindows = None,
        budget_ms: options.BudgetMs = None,
        score_cache: arguments.ScoreCacheFile = None,
        calibration: arguments.CalibrationFile = None,
        url: options.Url = None,
        timeout: options.Timeout = 30.0,
        as_json: arguments.JsonObject = False,
    ) -> None:
        def load() -> CrossEncoder | Cascade:
            encoder = arguments.load_all(model, keep, max_length, device=device, precision=precision)
            stack.enter_context(arguments.with_files(encoder, score_cache, calibration))
            return encoder

        how = arguments.truncation_of(long, window_tokens, window_overlap, max_windows, select)
        fields = tuple(field or (CONTENT,))
        wanted = FirstPass(query, fields, depth, first is not First.dense, vector_field=vector_field)
        bi_encoder = None if first is First.bm25 else embedder
        ranking = {"top_k": top_k, "batch_size": batch_size, "passages": passages, "truncation": how}
        with ExitStack() as stack, access.searched(url, timeout, index) as place:
            wanted = replace(wanted, filters=filter_clauses(place, filters or ()))
            answer = run_search(place, wanted, load, bi_encoder, device, budget_ms=budget_ms, **ranking)
        show_hits(answer, query if as_json else output)
        show_notes(answer, wanted)

    return search
