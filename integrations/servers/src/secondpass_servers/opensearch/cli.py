"""`secondpass opensearch`: an index made, filled and searched in two passes, and OpenSearch's own reranking through us.

The server and its credentials come from OPENSEARCH_URL, OPENSEARCH_USERNAME, OPENSEARCH_PASSWORD and
OPENSEARCH_CA_FILE.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from secondpass.cli.arguments import JsonObject
from secondpass.cli.output import print_json
from secondpass_servers import options
from secondpass_servers.commands import add_commands
from secondpass_servers.index import CONTENT, IndexLayout
from secondpass_servers.opensearch import search_pipeline
from secondpass_servers.opensearch.client import ACCESS, OPENSEARCH, Server, create_index, creation
from secondpass_servers.opensearch.ml_commons import RerankService

commands = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="OpenSearch as the first pass, and a cross-encoder as the second. Server and credentials come from the "
    "environment: OPENSEARCH_URL; OPENSEARCH_USERNAME and OPENSEARCH_PASSWORD; OPENSEARCH_CA_FILE for a private "
    "authority.",
)

Name = Annotated[str, typer.Option("--name", help="Of connector, model and search pipeline.")]
NAME = "secondpass"


@commands.command()
def create(
    index: options.Index,
    *,
    analyzer: options.Analyzer = "standard",
    dims: options.Dims = None,
    shards: options.Shards = 1,
    replicas: options.Replicas = None,
    dry_run: options.DryRun = False,
    as_json: JsonObject = False,
    url: options.Url = None,
    timeout: options.Timeout = 30.0,
) -> None:
    """Create an index for two passes: BM25 reads the content alone; an index that is there is never touched.

    Embeddings are compared by cosine and need the k-NN plugin.

    [bold]Examples[/bold]

    secondpass opensearch create articles

    secondpass opensearch create articles --analyzer english --dims 384 --replicas 0
    """
    options.check_json(as_json, dry_run)
    layout = IndexLayout(index, analyzer, shards, replicas, dims)
    if dry_run:
        typer.echo(creation(layout).shown())
        return
    server = Server.from_environment(url=url, timeout=timeout)
    create_index(server, layout)
    if as_json:
        print_json({"server": server.address, **asdict(layout)})
    else:
        typer.echo(layout.made(server.address))


add_commands(commands, ACCESS)


@commands.command()
def connect(
    service: Annotated[str, typer.Argument(help="URL of `secondpass serve`, as OpenSearch reaches it.")],
    *,
    name: Name = NAME,
    field: options.Fields = None,
    model: Annotated[str, typer.Option(help="Name of one of the service's models; by default its own choice.")] = "",
    on_failure: options.OnFailureOption = options.OnFailure.error,
    service_timeout: Annotated[int, typer.Option(min=1, help="Seconds that OpenSearch waits for the service.")] = 10,
    index: Annotated[str, typer.Option(help="Index in the query that is printed.")] = "INDEX",
    private_address: Annotated[
        bool | None,
        typer.Option(
            "--private-address/--public-address",
            help="Whether OpenSearch has to be allowed private addresses; by default found out from the URL.",
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Have OpenSearch rerank two texts at the end.")] = (
        True
    ),
    dry_run: options.DryRun = False,
    as_json: JsonObject = False,
    url: options.Url = None,
    timeout: options.Timeout = 30.0,
) -> None:
    """Make OpenSearch rerank through our service, by its own rerank processor, and print a query to try.

    The key of the service is taken from SECONDPASS_API_KEY. The same command again brings everything to what it says,
    whatever an earlier run left; `disconnect` takes it all back.
    """
    options.check_json(as_json, dry_run)
    server = Server.from_environment(url=url, timeout=timeout)
    fields = tuple(field or (CONTENT,))
    target = RerankService.from_environment(service, model, service_timeout)
    first_pass = on_failure is options.OnFailure.first_pass
    model_id = search_pipeline.connect(
        server, name, target, fields, private=private_address, first_pass=first_pass, dry=dry_run
    )
    if dry_run:
        return
    if check:
        search_pipeline.check(server, model_id, target)
    ready = search_pipeline.ready_query(server, name, index, "how do I reset my password", fields)
    if as_json:
        print_json({"server": server.address, "service": target.endpoint, "search_pipeline": name, "search": ready})
        return
    typer.echo(f"{OPENSEARCH.at(server.address)} reranks through {target.endpoint}: search pipeline {name}")
    typer.echo(f"\n{ready}")


@commands.command()
def disconnect(
    *,
    name: Name = NAME,
    dry_run: options.DryRun = False,
    as_json: JsonObject = False,
    url: options.Url = None,
    timeout: options.Timeout = 30.0,
) -> None:
    """Take back everything that `connect` made, and nothing else."""
    options.check_json(as_json, dry_run)
    server = Server.from_environment(url=url, timeout=timeout)
    was_there = search_pipeline.disconnect(server, name, dry=dry_run)
    if as_json:
        print_json({"server": server.address, "search_pipeline": name, "removed": was_there})
    elif not dry_run:
        state = "disconnected" if was_there else "nothing to take back"
        typer.echo(f"{state}: {name} on {OPENSEARCH.at(server.address)}")
