"""`secondpass rank` orders documents by how well they answer a query, `secondpass score` scores pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from secondpass.cli import arguments
from secondpass.cli.arguments import GivenDocument, GivenPair, read_documents, read_pairs
from secondpass.cli.output import Format, lost_tokens, note_cuts, print_explained, print_json_lines, print_table
from secondpass.errors import InvalidInput
from secondpass.text import checked_query

if TYPE_CHECKING:
    from secondpass.cross_encoder import CrossEncoder
    from secondpass.explanation import Explanation
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
        typer.Option(
            help="txt (one a line), jsonl, json (a list) or tsv (id, tab, text); by default what the file's name says."
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", "-k", min=1, help="How many to print; all by default.")
    ] = None,
    output: Annotated[Format, typer.Option("--format", "-f", help="How to print them.")] = Format.table,
    relevance: Annotated[
        str | None,
        typer.Option(help="For a model with several labels: the label's number to rank by, or 'expected'."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what each sentence and word of the best document contributes.")
    ] = False,
    explain_best: Annotated[int, typer.Option(min=0, help="The same for so many of the best ones.")] = 0,
    model: arguments.Model = arguments.POCKET,
    max_length: arguments.MaxLength = None,
    batch_size: arguments.BatchSize = 32,
    device: arguments.Device = None,
    precision: arguments.Precision = None,
    instruction: arguments.Instruction = None,
    template: arguments.Template = None,
    true_token: arguments.TrueToken = None,
    false_token: arguments.FalseToken = None,
) -> None:
    """Order documents by how well each one answers the query, best first.

    A JSON document is a string or an object with "text" and perhaps "title" and "_id". The index is the line of the
    document, counted from 0; blank lines are skipped. Lines on stdin are a table where most are an id, a tab and a
    text: one that is not is refused, unless --input-format says what they are.

    [bold]Examples[/bold]

    secondpass rank "how do I reset my password" --documents answers.txt

    grep -h . notes/*.txt | secondpass rank "tax deadline" --top-k 3

    secondpass rank "tax deadline" -d corpus.jsonl --format jsonl | jq -r .text

    head -1000 collection.tsv | secondpass rank "tax deadline" -k 10

    secondpass rank "tax deadline" -d answers.txt -k 5 --explain
    """
    checked_query(query, "the query")
    rule = _relevance(relevance)
    given = read_documents(documents, input_format)
    encoder = arguments.load(model, max_length, device, precision, instruction, template, true_token, false_token)
    records: list[CallRecord] = []
    texts = [document.text for document in given]
    ranked = encoder.rank(query, texts, top_k=top_k, batch_size=batch_size, relevance=rule, records=records)
    best = [(given[item["corpus_id"]], item["corpus_id"], float(item["score"])) for item in ranked]
    chosen = [document.text for document, _, _ in best[: explain_best or int(explain)]]
    why = _explanations(encoder, query, chosen, batch_size, rule) if chosen else []
    if output is Format.jsonl:
        lost = lost_tokens(records[0])
        print_json_lines(_row(place, *found, lost, why) for place, found in enumerate(best, start=1))
    else:
        name = "id" if any(document.id is not None for document in given) else "index"
        rows = (_cells(place, document, score) for place, (document, _, score) in enumerate(best, start=1))
        print_table(("rank", "score", name, "text"), rows)
        print_explained(why)
    note_cuts(records[0], encoder.max_length, [document.index for document in given])


def _explanations(
    encoder: CrossEncoder, query: str, texts: list[str], batch_size: int, rule: int | Literal["expected"] | None
) -> list[Explanation]:
    from secondpass.explanation import explain

    return [explain(encoder, query, text, batch_size=batch_size, relevance=rule) for text in texts]


def _row(
    place: int, document: GivenDocument, position: int, score: float, lost: dict[int, int], why: list[Explanation]
) -> dict[str, object]:
    row: dict[str, object] = {"rank": place, "score": score, "index": document.index}
    if document.id is not None:
        row["id"] = document.id
    if position in lost:
        row["cut_tokens"] = lost[position]
    row["text"] = document.text
    if place <= len(why):
        row["explanation"] = {
            name: value for name, value in why[place - 1].to_dict().items() if name not in ("query", "document")
        }
    return row


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


# Pairs read, scored and printed together: a file of any size runs in constant memory.
CHUNK = 1024


def score(
    pairs: Annotated[
        Path | None,
        typer.Argument(help="File with the pairs; without it, or as '-', they come from stdin.", show_default=False),
    ] = None,
    *,
    input_format: Annotated[
        str | None,
        typer.Option(help="tsv (query, tab, document) or jsonl; by default what the file's name says."),
    ] = None,
    output: Annotated[Format, typer.Option("--format", "-f", help="How to print them.")] = Format.table,
    model: arguments.Model = arguments.POCKET,
    max_length: arguments.MaxLength = None,
    batch_size: arguments.BatchSize = 32,
    device: arguments.Device = None,
    precision: arguments.Precision = None,
    instruction: arguments.Instruction = None,
    template: arguments.Template = None,
    true_token: arguments.TrueToken = None,
    false_token: arguments.FalseToken = None,
) -> None:
    """Score pairs of a query and a document, in the order given.

    A JSON pair is a list of two strings or an object with "query" and "document" (or "text"). The index is the line
    of the pair, counted from 0; blank lines are skipped.

    [bold]Examples[/bold]

    secondpass score pairs.tsv

    secondpass score pairs.jsonl --format jsonl > scores.jsonl

    paste queries.txt answers.txt | secondpass score --format jsonl
    """
    # The model is loaded once, when the first pairs are known to be readable.
    encoder = cache(
        lambda: arguments.load(model, max_length, device, precision, instruction, template, true_token, false_token)
    )
    scored = _scored(read_pairs(pairs, input_format), encoder, batch_size)
    if output is Format.jsonl:
        print_json_lines(
            {"index": pair.index, "score": value, "query": pair.query, "document": pair.document}
            for pair, value in scored
        )
    else:
        rows = ((str(pair.index), _shown(value), f"{pair.query} → {pair.document}") for pair, value in scored)
        print_table(("index", "score", "query → document"), rows)


def _scored(
    pairs: Iterator[GivenPair], encoder: Callable[[], CrossEncoder], batch_size: int
) -> Iterator[tuple[GivenPair, Any]]:
    """Pairs with a float each, or a list of floats from a model with several labels."""
    while chunk := list(islice(pairs, CHUNK)):
        records: list[CallRecord] = []
        texts = [(pair.query, pair.document) for pair in chunk]
        values = encoder().predict(texts, batch_size=batch_size, records=records)
        yield from zip(chunk, values.tolist(), strict=True)
        note_cuts(records[0], encoder().max_length, [pair.index for pair in chunk])


def _shown(value: Any) -> str:
    return " ".join(f"{label:.4f}" for label in value) if isinstance(value, list) else f"{value:.4f}"
