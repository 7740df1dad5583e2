"""`secondpass elasticsearch`: an Elasticsearch made into a search of two passes; light until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secondpass.cli import choices
from secondpass.cli.printing import Format
from secondpass.errors import InvalidInput

if TYPE_CHECKING:
    from secondpass.cross_encoder import CrossEncoder
from secondpass_elasticsearch import options
from secondpass_elasticsearch.endpoint import Shape

commands = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Elasticsearch as the first pass, and a cross-encoder as the second. Credentials come from the environment: "
    "ELASTIC_API_KEY, or ELASTIC_USERNAME and ELASTIC_PASSWORD; ELASTICSEARCH_CA_FILE for a private authority.",
)


@commands.command()
def create(
    index: options.Index,
    *,
    analyzer: Annotated[str, typer.Option(help="Analyzer of the content, such as english.")] = "standard",
    dims: Annotated[
        int | None, typer.Option(min=1, help="Length of embeddings; without it the index takes none.")
    ] = None,
    similarity: Annotated[
        options.Similarity, typer.Option(help="How embeddings are compared.")
    ] = options.Similarity.cosine,
    shards: Annotated[int | None, typer.Option(min=1, help="Primary shards; by default the server's.")] = None,
    replicas: Annotated[int | None, typer.Option(min=0, help="Copies of each shard; by default the server's.")] = None,
    dry_run: options.DryRun = False,
    url: options.Url = None,
    timeout: options.Timeout = 30.0,
) -> None:
    """Create an index for two passes: BM25 reads the content alone; an index that is there is never touched.

    [bold]Examples[/bold]

    secondpass elasticsearch create articles

    secondpass elasticsearch create articles --analyzer english --dims 384 --replicas 0
    """
    from secondpass_elasticsearch.index_definition import IndexDefinition

    definition = IndexDefinition(index, analyzer, shards, replicas, dims, similarity.value)
    if dry_run:
        typer.echo(definition.creation().shown())
        return
    from secondpass_elasticsearch.index_definition import create_index
    from secondpass_elasticsearch.session import session

    with session(url, timeout) as (client, server):
        create_index(client, server, definition)
    typer.echo(f"Created {server}/{index}.")


@commands.command()
def index(
    index: options.Index,
    corpus: Annotated[
        Path, typer.Argument(help="BEIR folder, JSON Lines file (.gz too), or secondpass/demo.", show_default=False)
    ],
    *,
    embedder: Annotated[
        str | None, typer.Option(help="Embed the documents with this model; the index must have been made with --dims.")
    ] = None,
    add: Annotated[bool, typer.Option("--add", help="Add to an index that holds documents already.")] = False,
    files: Annotated[
        Path | None, typer.Option(help="Folder for INDEX.journal and INDEX.dead.jsonl; by default this one.")
    ] = None,
    batch_documents: Annotated[int, typer.Option(min=1, help="Documents of one request at most.")] = 500,
    batch_bytes: Annotated[int, typer.Option(min=1, help="Bytes of one request at most.")] = 5_000_000,
    in_flight: Annotated[int, typer.Option(min=1, help="Requests under way at the same time.")] = 2,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to wait for a server that is away or busy.")] = 300.0,
    url: options.Url = None,
    timeout: options.Timeout = 60.0,
) -> None:
    """Index a corpus: every document once, or in INDEX.dead.jsonl with the reason; broken off, it is resumed.

    [bold]Examples[/bold]

    secondpass elasticsearch index articles beir/scifact

    secondpass elasticsearch index articles corpus.jsonl.gz --embedder sentence-transformers/all-MiniLM-L6-v2
    """
    from secondpass_elasticsearch.embedding import document_embedding
    from secondpass_elasticsearch.session import session
    from secondpass_elasticsearch.sink import ElasticsearchSink
    from secondpass_indexing.command import run_indexing
    from secondpass_indexing.indexing import IndexingRequest
    from secondpass_indexing.run_files import RunFiles
    from secondpass_indexing.settings import IndexingSettings

    settings = IndexingSettings(
        max_documents=batch_documents, max_bytes=batch_bytes, in_flight=in_flight, patience=patience
    )
    with session(url, timeout) as (client, server):
        sink = ElasticsearchSink(client, server, index)
        embedding = None if embedder is None else document_embedding(embedder)
        run_indexing(
            IndexingRequest(
                options.corpus_path(corpus), sink, RunFiles.of_index(index, files), settings, embedding, add
            )
        )


@commands.command()
def search(
    index: options.Index,
    query: Annotated[str, typer.Argument(help="What is asked.", show_default=False)],
    *,
    first: Annotated[options.First, typer.Option(help="What finds the candidates.")] = options.First.bm25,
    depth: Annotated[int, typer.Option(min=1, max=10_000, help="Candidates of each retriever.")] = 100,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many to print.")] = 10,
    field: Annotated[
        list[str] | None, typer.Option(help="Text field (content by default); several are read one after another.")
    ] = None,
    passages: Annotated[bool, typer.Option("--passages", help="Show the best passage of each document.")] = False,
    embedder: Annotated[
        str, typer.Option(help="Model that embedded the documents, for dense and hybrid.")
    ] = "sentence-transformers/all-MiniLM-L6-v2",
    vector_field: Annotated[str, typer.Option(help="Field of the embeddings.")] = "embedding",
    output: Annotated[Format, typer.Option("--format", "-f", help="How to print them.")] = Format.table,
    model: choices.Model = choices.POCKET,
    max_length: choices.MaxLength = None,
    batch_size: choices.BatchSize = 32,
    device: choices.Device = None,
    url: options.Url = None,
    timeout: options.Timeout = 30.0,
) -> None:
    """Search in two passes: the index finds candidates, a cross-encoder in this process puts them in order.

    "was" is the rank that the first pass gave a document.

    [bold]Examples[/bold]

    secondpass elasticsearch search articles "how do wings stall"

    secondpass elasticsearch search articles "tax deadline" --first hybrid --passages --format jsonl
    """
    if not query.strip():
        raise InvalidInput("the query is blank")
    from secondpass_elasticsearch.candidates import FirstPass, check_fields
    from secondpass_elasticsearch.session import session
    from secondpass_elasticsearch.showing import show
    from secondpass_elasticsearch.two_pass import two_pass_search

    fields, vector = tuple(field or ["content"]), None
    with session(url, timeout) as (client, server):
        if first is not options.First.bm25:
            from secondpass_elasticsearch.embedding import query_vector

            check_fields(client, server, index, [vector_field])
            vector = query_vector(embedder, query)
        wanted = FirstPass(query, fields, depth, first is not options.First.dense, vector, vector_field)

        def load() -> CrossEncoder:
            return choices.load(model, max_length, device)

        answer = two_pass_search(client, server, index, wanted, load, top_k, batch_size, passages)
        if not answer.hits:
            check_fields(client, server, index, fields)
    show(answer, output)


@commands.command()
def connect(
    service: Annotated[
        str, typer.Argument(help="Address of `secondpass serve` as Elasticsearch sees it.", show_default=False)
    ],
    *,
    inference_id: options.InferenceId = "secondpass",
    shape: Annotated[Shape, typer.Option(help="custom (/v2/rerank) or hugging_face (/rerank).")] = Shape.custom,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model of the service, if it has several (custom only).")
    ] = None,
    index: Annotated[str, typer.Option(help="Index of the query that is printed.")] = "INDEX",
    content: Annotated[str, typer.Option("--field", help="Text field of the query that is printed.")] = "content",
    replace: Annotated[bool, typer.Option("--replace", help="Make an endpoint of this name anew, with key.")] = False,
    dry_run: options.DryRun = False,
    url: options.Url = None,
    timeout: options.Timeout = 60.0,
) -> None:
    """Let Elasticsearch rerank through `secondpass serve`: make the inference endpoint, try it, print a query.

    Needs a complete Elasticsearch, 8.19 or 9.1 or later, with an Enterprise or a trial licence. The key of the service,
    if it has one, comes from SECONDPASS_API_KEY.

    [bold]Examples[/bold]

    secondpass elasticsearch connect http://rerank:8000 --index articles

    secondpass elasticsearch connect http://rerank:8000 --shape hugging_face --dry-run
    """
    from secondpass_elasticsearch.endpoint import Endpoint

    endpoint = Endpoint(inference_id, service, shape, model, options.service_key())
    ready = endpoint.ready_query(index, content).shown()
    if dry_run:
        requests = (endpoint.look(), endpoint.creation(), endpoint.trial())
        typer.echo("\n\n".join([*(request.shown() for request in requests), ready]))
        return
    from secondpass_elasticsearch import connecting
    from secondpass_elasticsearch.session import session

    with session(url, timeout) as (client, server):
        done = connecting.connect(client, server, endpoint, replace)
    typer.echo(f"Inference endpoint {inference_id!r} on {server}: {done.value}, and it answers. A search with it:\n")
    typer.echo(ready)


@commands.command()
def disconnect(
    *,
    inference_id: options.InferenceId = "secondpass",
    dry_run: options.DryRun = False,
    url: options.Url = None,
    timeout: options.Timeout = 30.0,
) -> None:
    """Remove the inference endpoint that `connect` made; nothing happens if there is none."""
    from secondpass_elasticsearch.endpoint import removal

    request = removal(inference_id)
    if dry_run:
        typer.echo(request.shown())
        return
    from secondpass_elasticsearch import connecting
    from secondpass_elasticsearch.session import session

    with session(url, timeout) as (client, server):
        removed = connecting.disconnect(client, server, request)
    what = "removed" if removed else "there was none"
    typer.echo(f"Inference endpoint {inference_id!r} on {server}: {what}.")
