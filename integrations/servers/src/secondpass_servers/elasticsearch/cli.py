"""`secondpass elasticsearch`: an Elasticsearch made into a search of two passes; light until a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from secondpass_servers import options
from secondpass_servers.commands import add_commands
from secondpass_servers.elasticsearch import inference
from secondpass_servers.elasticsearch.client import ELASTICSEARCH, session
from secondpass_servers.elasticsearch.index import ACCESS, Similarity, create_index, creation
from secondpass_servers.index_layout import IndexLayout
from secondpass_servers.requests import service_key

InferenceId = Annotated[str, typer.Option("--id", help="Name of the inference endpoint.")]


commands = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Elasticsearch as the first pass, and a cross-encoder as the second. Server and credentials come from the "
    "environment: ELASTICSEARCH_URL; ELASTIC_API_KEY, or ELASTIC_USERNAME and ELASTIC_PASSWORD; ELASTICSEARCH_CA_FILE "
    "for a private authority.",
)


@commands.command()
def create(
    index: options.Index,
    *,
    analyzer: options.Analyzer = "standard",
    dims: options.Dims = None,
    similarity: Annotated[Similarity, typer.Option(help="How embeddings are compared.")] = Similarity.cosine,
    shards: options.Shards = None,
    replicas: options.Replicas = None,
    dry_run: options.DryRun = False,
    url: options.Url = None,
    timeout: options.Timeout = 30.0,
) -> None:
    """Create an index for two passes: BM25 reads the content alone; an index that is there is never touched.

    [bold]Examples[/bold]

    secondpass elasticsearch create articles

    secondpass elasticsearch create articles --analyzer english --dims 384 --replicas 0
    """
    layout = IndexLayout(index, analyzer, shards, replicas, dims)
    if dry_run:
        typer.echo(creation(layout, similarity.value).shown())
        return
    with session(url, timeout) as (client, server):
        create_index(client, server, layout, similarity.value)
    typer.echo(layout.made(server))


add_commands(commands, ACCESS)


@commands.command()
def connect(
    service: Annotated[
        str, typer.Argument(help="Address of `secondpass serve` as Elasticsearch sees it.", show_default=False)
    ],
    *,
    inference_id: InferenceId = "secondpass",
    shape: Annotated[
        inference.InferenceService, typer.Option(help="custom (/v2/rerank) or hugging_face (/rerank).")
    ] = inference.InferenceService.custom,
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
    endpoint = inference.Endpoint(inference_id, service, shape, model, service_key())
    ready = endpoint.ready_query(index, content).shown()
    if dry_run:
        requests = (endpoint.look(), endpoint.creation(), endpoint.trial())
        typer.echo("\n\n".join([*(request.shown() for request in requests), ready]))
        return
    with session(url, timeout) as (client, server):
        done = inference.connect(client, server, endpoint, replace)
    where = ELASTICSEARCH.at(server)
    typer.echo(f"Inference endpoint {inference_id!r} on {where}: {done.value}, and it answers. A search with it:\n")
    typer.echo(ready)


@commands.command()
def disconnect(
    *,
    inference_id: InferenceId = "secondpass",
    dry_run: options.DryRun = False,
    url: options.Url = None,
    timeout: options.Timeout = 30.0,
) -> None:
    """Remove the inference endpoint that `connect` made; nothing happens if there is none."""
    request = inference.removal(inference_id)
    if dry_run:
        typer.echo(request.shown())
        return
    with session(url, timeout) as (client, server):
        removed = inference.disconnect(client, server, request)
    what = "removed" if removed else "there was none"
    typer.echo(f"Inference endpoint {inference_id!r} on {ELASTICSEARCH.at(server)}: {what}.")
