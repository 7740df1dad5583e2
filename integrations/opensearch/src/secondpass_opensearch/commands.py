"""`secondpass opensearch`: an index made, filled and searched in two passes, and OpenSearch's own reranking through us.

The server and its credentials come from OPENSEARCH_URL, OPENSEARCH_USERNAME, OPENSEARCH_PASSWORD and
OPENSEARCH_CA_FILE.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from importlib.resources import files as files_of
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secondpass.cli import choices
from secondpass.cli.printing import Format
from secondpass_opensearch.server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "secondpass"
CONTENT = "content"
DEMO = "secondpass/demo"
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class First(StrEnum):
    """What finds the candidates."""

    bm25 = "bm25"
    dense = "dense"
    hybrid = "hybrid"


commands = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="OpenSearch as the first pass. Server and credentials: OPENSEARCH_URL, _USERNAME, _PASSWORD, _CA_FILE.",
)

Index = Annotated[str, typer.Argument(help="Name of the index.", show_default=False)]
Name = Annotated[str, typer.Option("--name", help="Of connector, model and search pipeline.")]
Fields = Annotated[
    list[str] | None,
    typer.Option("--field", help="Field with the text; several are joined in this order. By default content."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the requests that would change something, and stop.")]


@commands.command()
def create(
    index: Index,
    *,
    analyzer: Annotated[
        str, typer.Option(help="standard for any language; english and others find word forms too.")
    ] = "standard",
    dims: Annotated[
        int | None, typer.Option(min=1, help="Length of the vectors, for dense and hybrid search; needs k-NN.")
    ] = None,
    shards: Annotated[int, typer.Option(min=1, help="Parts of the index.")] = 1,
    replicas: Annotated[
        int | None, typer.Option(min=0, help="Copies; by default what the server does. 0 suits one node.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Create an index for reranking: BM25 on the field content alone, vectors only if asked for.

    An index that is there already is left as it is, and that is an error.
    """
    from secondpass_opensearch.indexes import IndexPlan, create_index

    server = Server.from_environment()
    create_index(server, IndexPlan(index, analyzer, dims, shards, replicas), dry=dry_run)
    if dry_run:
        return
    vectors = "no vectors" if dims is None else f"vectors of {dims} numbers (Lucene, cosine)"
    typer.echo(f"created {index} on {server.address}: BM25 on {CONTENT}, analyzer {analyzer}, {vectors}")


@commands.command()
def index(
    index: Index,
    corpus: Annotated[Path, typer.Argument(help="BEIR folder, JSON Lines file (.gz too), or secondpass/demo.")],
    *,
    embedder: Annotated[
        str | None,
        typer.Option(help=f"Folder or hub name of a bi-encoder such as {DEFAULT_MODEL}; fills the vectors."),
    ] = None,
    batch_documents: Annotated[int, typer.Option(min=1, help="Documents in one request at most.")] = 500,
    batch_bytes: Annotated[int, typer.Option(min=1, help="Bytes of one request; a larger document goes alone.")] = (
        5_000_000
    ),
    in_flight: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 2,
    patience: Annotated[float, typer.Option(min=0, help="Seconds that a server may be away or busy.")] = 300.0,
    add: Annotated[
        bool, typer.Option("--add", help="The index may hold documents already; the same ids are written over.")
    ] = False,
    files: Annotated[
        Path | None, typer.Option(help="Folder for INDEX.journal and INDEX.dead.jsonl; by default this one.")
    ] = None,
) -> None:
    """Index a corpus; the same command goes on where a broken run stopped, and no document is lost or doubled.

    Documents that the index refuses are in INDEX.dead.jsonl, each with the reason; then the exit code is 1.
    """
    from secondpass_indexing.command import run_indexing
    from secondpass_indexing.indexing import IndexingRequest
    from secondpass_indexing.run_files import RunFiles
    from secondpass_indexing.settings import IndexingSettings
    from secondpass_opensearch.embedding import embedding_of
    from secondpass_opensearch.sink import OpenSearchSink

    settings = IndexingSettings(
        max_documents=batch_documents, max_bytes=batch_bytes, in_flight=in_flight, patience=patience
    )
    sink = OpenSearchSink(Server.from_environment(), index)
    embedding = None if embedder is None else embedding_of(embedder)
    run_indexing(IndexingRequest(_corpus(corpus), sink, RunFiles.of_index(index, files), settings, embedding, add))


@commands.command()
def search(
    index: Index,
    query: Annotated[str, typer.Argument(help="What is asked.", show_default=False)],
    *,
    first: Annotated[First, typer.Option(help="What finds the candidates.")] = First.bm25,
    depth: Annotated[int, typer.Option(min=1, max=10_000, help="Candidates of each retriever.")] = 100,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many to print.")] = 10,
    field: Fields = None,
    embedder: Annotated[
        str, typer.Option(help="Bi-encoder of dense and hybrid search; the one the index was filled with.")
    ] = DEFAULT_MODEL,
    vector_field: Annotated[str, typer.Option(help="Field of the vectors.")] = "embedding",
    passages: Annotated[
        bool, typer.Option("--passages", help="Show the passage that shares most words with the query.")
    ] = False,
    output: Annotated[Format, typer.Option("--format", "-f", help="How to print them.")] = Format.table,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that OpenSearch may take.")] = 30.0,
    model: choices.Model = choices.POCKET,
    max_length: choices.MaxLength = None,
    device: choices.Device = None,
) -> None:
    """Search in two passes: OpenSearch finds the candidates, the cross-encoder puts them in order here.

    [bold]Examples[/bold]

    secondpass opensearch search docs "how do I reset my password"

    secondpass opensearch search docs "tax deadline" --first hybrid --passages --top-k 3
    """
    from secondpass_opensearch.candidates import FirstPass
    from secondpass_opensearch.embedding import embedding_of
    from secondpass_opensearch.showing import note_search, show_hits
    from secondpass_opensearch.two_pass import two_pass_search

    server = Server.from_environment(timeout=timeout)
    fields = tuple(field or (CONTENT,))
    wanted = FirstPass(query, fields, depth, first is not First.dense, vector_field=vector_field, passages=passages)
    if first is not First.bm25:
        (vector,) = embedding_of(embedder).embed([query])
        wanted = replace(wanted, vector=vector)
    answer = two_pass_search(server, index, wanted, choices.load(model, max_length, device), top_k)
    show_hits(answer, output)
    note_search(answer, wanted)


@commands.command()
def connect(
    service: Annotated[str, typer.Argument(help="URL of `secondpass serve`, as OpenSearch reaches it.")],
    *,
    name: Name = NAME,
    field: Fields = None,
    model: Annotated[str, typer.Option(help="Name of one of the service's models; by default its own choice.")] = "",
    timeout: Annotated[int, typer.Option(min=1, help="Seconds that OpenSearch waits for the service.")] = 10,
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
    dry_run: DryRun = False,
) -> None:
    """Make OpenSearch rerank through our service, by its own rerank processor, and print a query to try.

    The key of the service is taken from SECONDPASS_API_KEY. The same command again brings everything to what it says,
    whatever an earlier run left; `disconnect` takes it all back.
    """
    from secondpass_opensearch import connecting
    from secondpass_opensearch.service import RerankService
    from secondpass_opensearch.showing import ready_query

    server = Server.from_environment()
    fields: Sequence[str] = tuple(field or (CONTENT,))
    target = RerankService.from_environment(service, model, timeout)
    done = connecting.connect(server, name, target, fields, private=private_address, dry=dry_run)
    if dry_run:
        return
    if check:
        connecting.check(server, done, target)
    typer.echo(f"OpenSearch at {server.address} reranks through {target.endpoint}: search pipeline {done.pipeline}")
    typer.echo(f"\n{ready_query(server, done, index, 'how do I reset my password', fields)}")


@commands.command()
def disconnect(*, name: Name = NAME, dry_run: DryRun = False) -> None:
    """Take back everything that `connect` made, and nothing else."""
    from secondpass_opensearch import connecting

    server = Server.from_environment()
    was_there = connecting.disconnect(server, name, dry=dry_run)
    if not dry_run:
        state = "disconnected" if was_there else "nothing to take back"
        typer.echo(f"{state}: {name} on {server.address}")


def _corpus(given: Path) -> Path:
    """The path as given, or the small corpus that comes with the package."""
    return Path(str(files_of("secondpass"))) / "demo" if given.as_posix() == DEMO and not given.exists() else given
