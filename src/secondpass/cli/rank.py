"""`secondpass rank`: order documents by how well they answer a query."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from secondpass.cli import choices
from secondpass.cli.printing import Format, lost_tokens, note_cuts, print_json_lines, print_table
from secondpass.cli.reading import GivenDocument, read_documents
from secondpass.errors import InvalidInput
from secondpass.text import checked_query

if TYPE_CHECKING:
    from secondpass.record import CallRecord


def rank(
    query: Annotated[str, typer.Argument(help="What is asked.", show_default=False)],
    *,
    documents: Annotated[
        Path | None,
        typer.Option("--documents", "-d", help="File with the documents; without it, or as '-', they come from stdin."),
    ] = None,
    input_format: Annotated[
        str | None,
        typer.Option(help="txt (one a line), jsonl or json (a list); by default what the file's name says."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", "-k", min=1, help="How many to print; all by default.")
    ] = None,
    output: Annotated[Format, typer.Option("--format", "-f", help="How to print them.")] = Format.table,
    relevance: Annotated[
        str | None,
        typer.Option(help="For a model with several labels: the label's number to rank by, or 'expected'."),
    ] = None,
    model: choices.Model = choices.POCKET,
    max_length: choices.MaxLength = None,
    batch_size: choices.BatchSize = 32,
    device: choices.Device = None,
    precision: choices.Precision = None,
) -> None:
    """Order documents by how well each one answers the query, best first.

    A JSON document is a string or an object with "text" and perhaps "title" and "_id". The index is the line of the
    document, counted from 0; blank lines are skipped.

    [bold]Examples[/bold]

    secondpass rank "how do I reset my password" --documents answers.txt

    grep -h . notes/*.txt | secondpass rank "tax deadline" --top-k 3

    secondpass rank "tax deadline" -d corpus.jsonl --format jsonl | jq -r .text
    """
    checked_query(query, "the query")
    rule = _relevance(relevance)
    given = read_documents(documents, input_format)
    encoder = choices.load(model, max_length, device, precision)
    records: list[CallRecord] = []
    texts = [document.text for document in given]
    ranked = encoder.rank(query, texts, top_k=top_k, batch_size=batch_size, relevance=rule, records=records)
    best = [(given[item["corpus_id"]], item["corpus_id"], float(item["score"])) for item in ranked]
    if output is Format.jsonl:
        lost = lost_tokens(records[0])
        print_json_lines(_row(place, *found, lost) for place, found in enumerate(best, start=1))
    else:
        name = "id" if any(document.id is not None for document in given) else "index"
        rows = (_cells(place, document, score) for place, (document, _, score) in enumerate(best, start=1))
        print_table(("rank", "score", name, "text"), rows)
    note_cuts(records[0], encoder.max_length, [document.index for document in given])


def _row(place: int, document: GivenDocument, position: int, score: float, lost: dict[int, int]) -> dict[str, object]:
    row: dict[str, object] = {"rank": place, "score": score, "index": document.index}
    if document.id is not None:
        row["id"] = document.id
    if position in lost:
        row["cut_tokens"] = lost[position]
    return {**row, "text": document.text}


def _cells(place: int, document: GivenDocument, score: float) -> tuple[str, str, str, str]:
    name = document.id if document.id is not None else str(document.index)
    return str(place), f"{score:.4f}", name, document.text


def _relevance(value: str | None) -> int | Literal["expected"] | None:
    if value is None:
        return None
    if value == "expected":
        return "expected"
    try:
        return int(value)
    except ValueError:
        raise InvalidInput(f"--relevance {value!r} is neither a label's number nor 'expected'") from None
