"""Options of both engines' commands."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from secondpass.cli.output import Format
from secondpass.errors import InvalidInput

EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"


class First(StrEnum):
    """What makes the first pass."""

    bm25 = "bm25"
    dense = "dense"
    hybrid = "hybrid"


class OnFailure(StrEnum):
    """What a search answers that the service cannot rerank."""

    error = "error"
    first_pass = "first-pass"  # noqa: S105 - no password


OnFailureOption = Annotated[
    OnFailure,
    typer.Option(
        "--on-failure",
        help="What a search answers if the service is down, late or refuses: an error, or the first pass's order.",
    ),
]
Index = Annotated[str, typer.Argument(help="Name of the index.", show_default=False)]
Url = Annotated[
    str | None,
    typer.Option("--url", help="The server, without credentials; else from the environment, else localhost:9200."),
]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for each answer of the server.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the requests that would change something, secrets as ***; send none.")
]

Analyzer = Annotated[str, typer.Option(help="standard for any language; english and others find word forms too.")]
Dims = Annotated[int | None, typer.Option(min=1, help="Length of embeddings; without it the index takes none.")]
Shards = Annotated[
    int | None, typer.Option(min=1, help="Primary shards; BM25 counts words within each. Else the server's default.")
]
Replicas = Annotated[
    int | None, typer.Option(min=0, help="Copies of each shard, else the server's default; 0 suits a single node.")
]

Corpus = Annotated[
    Path,
    typer.Argument(help="BEIR folder, JSON Lines or .tsv file (.gz too), or secondpass/demo.", show_default=False),
]
IdKey = Annotated[str | None, typer.Option("--id-field", help="Key of the id, if it is neither _id nor id.")]
TitleKey = Annotated[str | None, typer.Option("--title-field", help="Key of the title, if it is not title.")]
TextKey = Annotated[
    str | None, typer.Option("--text-field", help="Key of the text, if it is neither text nor contents.")
]
DocumentEmbedder = Annotated[
    str | None, typer.Option("--embedder", help=f"Embed documents with this model, such as {EMBEDDER}.")
]
Add = Annotated[
    bool, typer.Option("--add", help="Add to an index that holds documents; the same ids are written over.")
]
Files = Annotated[Path | None, typer.Option(help="Folder for INDEX.journal and INDEX.dead.jsonl; by default this one.")]
BatchDocuments = Annotated[int, typer.Option(min=1, help="Documents of one request at most.")]
BatchBytes = Annotated[int, typer.Option(min=1, help="Bytes of one request; a larger document goes alone.")]
InFlight = Annotated[int, typer.Option(min=1, help="Requests under way at the same time.")]
Patience = Annotated[float, typer.Option(min=0, help="Seconds to wait for a server that is away or busy.")]

Query = Annotated[str, typer.Argument(help="What is asked.", show_default=False)]
Retriever = Annotated[First, typer.Option(help="What finds the candidates.")]
Depth = Annotated[int, typer.Option(min=1, max=10_000, help="Candidates of each retriever.")]
TopK = Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many to print.")]
Fields = Annotated[
    list[str] | None,
    typer.Option("--field", help="Text field, content by default; several are read one after another."),
]
Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        help="Only documents whose metadata fits: 'year >= 2020', 'lang == en', 'tag == [\"a\", \"b\"]' (any of them), "
        "or a JSON object in the server's query language; several: all of them.",
    ),
]
Passages = Annotated[
    bool,
    typer.Option(
        "--passages",
        help="Show a passage of each document: with --long windows the best window, else what shares most words.",
    ),
]
BudgetMs = Annotated[
    float | None,
    typer.Option(min=0.1, help="Milliseconds to rank for; what is not scored by then follows as it was found."),
]
QueryEmbedder = Annotated[
    str, typer.Option("--embedder", help="Model that embedded the documents, for dense and hybrid.")
]
VectorField = Annotated[str, typer.Option(help="Field of the embeddings.")]
Output = Annotated[Format, typer.Option("--format", "-f", help="How to print them.")]


def check_json(as_json: bool, dry_run: bool) -> None:
    """Refuse two forms of output at once; raises InvalidInput."""
    if as_json and dry_run:
        raise InvalidInput("give either --json, which is the result, or --dry-run, which prints the requests")
