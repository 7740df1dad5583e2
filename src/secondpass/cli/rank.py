"""`secondpass rank` orders documents by how well they answer a query, `secondpass score` scores pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from secondpass.cli import arguments
from secondpass.cli.arguments import GivenDocument, GivenPair, read_documents, read_pairs
from secondpass.cli.output import Format, lost_tokens, note, note_cuts, print_explained, print_json_lines, print_table
from secondpass.errors import InvalidInput
from secondpass.text import checked_query
from secondpass.windows import Windows

if TYPE_CHECKING:
    from secondpass.cross_encoder import CrossEncoder
    from secondpass.explanation import Explanation
    from secondpass.record import CallRecord


Documents = Annotated[
    Path | None,
    typer.Option("--documents", "-d", help="File with the documents; without it, or as '-', they come from stdin."),
]
InputFormat = Annotated[
    str | None,
    typer.Option(
        help="txt (one a line), jsonl, json (a list) or tsv (id, tab, text); by default what the file's name says."
    ),
]
TopK = Annotated[int | None, typer.Option("--top-k", "-k", min=1, help="How many to print; all by default.")]
RelevanceRule = Annotated[
    str | None, typer.Option(help="For a model with several labels: the label's number to rank by, or 'expected'.")
]
Passages = Annotated[
    bool, typer.Option("--passages", help="With --long windows, show the best window of each document.")
]
BudgetMs = Annotated[
    float | None, typer.Option(help="Milliseconds after which what is not scored follows in the order given.")
]


def rank(
    query: Annotated[str, typer.Argument(help="What is asked.", show_default=False)],
    *,
    documents: Documents = None,
    input_format: InputFormat = None,
    top_k: TopK = None,
    output: Annotated[Format, typer.Option("--format", "-f", help="How to print them.")] = Format.table,
    relevance: RelevanceRule = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what each sentence and word of the best document contributes.")
    ] = False,
    explain_best: Annotated[int, typer.Option(min=0, help="The same for so many of the best ones.")] = 0,
    passages: Passages = False,
    budget_ms: BudgetMs = None,
    model: arguments.Models = None,
    keep: arguments.Keep = None,
    max_length: arguments.MaxLength = None,
    batch_size: arguments.BatchSize = 32,
    device: arguments.Device = None,
    precision: arguments.Precision = None,
    instruction: arguments.Instruction = None,
    template: arguments.Template = None,
    true_token: arguments.TrueToken = None,
    false_token: arguments.FalseToken = None,
    long: arguments.Long = None,
    window_tokens: arguments.WindowTokens = None,
    window_overlap: arguments.WindowOverlap = None,
    max_windows: arguments.MaxWindows = None,
    select: arguments.SelectWindows = None,
    score_cache: arguments.ScoreCacheFile = None,
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

    secondpass rank "tax deadline" -d reports.jsonl --long windows --passages
    """
    checked_query(query, "the query")
    rule = _relevance(relevance)
    how = arguments.truncation_of(long, window_tokens, window_overlap, max_windows, select)
    if passages and not isinstance(how, Windows):
        raise InvalidInput("--passages goes with --long windows")
    given = read_documents(documents, input_format)
    encoder = arguments.load_all(model, keep, max_length, device, precision, None, template, true_token, false_token)
    records: list[CallRecord] = []
    texts = [document.text for document in given]
    options: Any = dict(batch_size=batch_size, relevance=rule, truncation=how, instruction=instruction)
    with arguments.cached(encoder, score_cache):
        best = encoder.rank(query, texts, top_k, passages, records=records, budget_ms=budget_ms, **options)
        chosen = [texts[item["corpus_id"]] for item in best[: explain_best or int(explain)]]
        why = [encoder.explain(query, text, **options) for text in chosen]
    if output is Format.jsonl:
        lost = lost_tokens(records[0])
        told = [{"explanation": _told(one)} for one in why]
        rows = (_row(place, given[item["corpus_id"]], item, lost) for place, item in enumerate(best, start=1))
        print_json_lines({**row, **more} for row, more in zip(rows, chain(told, repeat({})), strict=False))
    else:
        name = "id" if any(document.id is not None for document in given) else "index"
        cells = (_cells(place, given[item["corpus_id"]], item) for place, item in enumerate(best, start=1))
        print_table(("rank", "score", name, "passage" if passages else "text"), cells)
        print_explained(why)
    note_cuts(records[0], encoder.max_length, [document.index for document in given])
    if records[0].unscored:
        note(f"{records[0].unscored} of {len(given)} not scored within {budget_ms:g} ms")


def _told(explanation: Explanation) -> dict[str, object]:
    return {name: value for name, value in explanation.to_dict().items() if name not in ("query", "document")}


def _row(place: int, document: GivenDocument, item: dict[str, Any], lost: dict[int, int]) -> dict[str, object]:
    row: dict[str, object] = {"rank": place, "score": float(item["score"]), "index": document.index}
    if document.id is not None:
        row["id"] = document.id
    if item["corpus_id"] in lost:
        row["cut_tokens"] = lost[item["corpus_id"]]
    row |= {name: item[name] for name in ("scored", "stage", "passage") if name in item}
    return {**row, "text": document.text}


def _cells(place: int, document: GivenDocument, item: dict[str, Any]) -> tuple[str, str, str, str]:
    name = document.id if document.id is not None else str(document.index)
    score = f"{float(item['score']):.4f}" if item.get("scored", True) else "-"
    return str(place), score, name, item.get("passage", {}).get("text", document.text)


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
    long: arguments.Long = None,
    window_tokens: arguments.WindowTokens = None,
    window_overlap: arguments.WindowOverlap = None,
    max_windows: arguments.MaxWindows = None,
    select: arguments.SelectWindows = None,
    score_cache: arguments.ScoreCacheFile = None,
) -> None:
    """Score pairs of a query and a document, in the order given.

    A JSON pair is a list of two strings or an object with "query" and "document" (or "text"). The index is the line
    of the pair, counted from 0; blank lines are skipped.

    [bold]Examples[/bold]

    secondpass score pairs.tsv

    secondpass score pairs.jsonl --format jsonl > scores.jsonl

    paste queries.txt answers.txt | secondpass score --format jsonl
    """
    how = arguments.truncation_of(long, window_tokens, window_overlap, max_windows, select)
    options = (max_length, device, precision, instruction, template, true_token, false_token)
    with ExitStack() as stack:

        @cache
        def encoder() -> CrossEncoder:
            """Loaded once, when the first pairs are known to be readable."""
            made = arguments.load(model, *options)
            stack.enter_context(arguments.cached(made, score_cache))
            return made

        scored = _scored(read_pairs(pairs, input_format), encoder, batch_size, how)
        if output is Format.jsonl:
            print_json_lines(
                {"index": pair.index, "score": value, "query": pair.query, "document": pair.document}
                for pair, value in scored
            )
        else:
            rows = ((str(pair.index), _shown(value), f"{pair.query} → {pair.document}") for pair, value in scored)
            print_table(("index", "score", "query → document"), rows)


def _scored(
    pairs: Iterator[GivenPair],
    encoder: Callable[[], CrossEncoder],
    batch_size: int,
    how: arguments.Truncation | Windows | None,
) -> Iterator[tuple[GivenPair, Any]]:
    """Pairs with a float each, or a list of floats from a model with several labels."""
    while chunk := list(islice(pairs, CHUNK)):
        records: list[CallRecord] = []
        texts = [(pair.query, pair.document) for pair in chunk]
        values = encoder().predict(texts, batch_size=batch_size, records=records, truncation=how)
        yield from zip(chunk, values.tolist(), strict=True)
        note_cuts(records[0], encoder().max_length, [pair.index for pair in chunk])


def _shown(value: Any) -> str:
    return " ".join(f"{label:.4f}" for label in value) if isinstance(value, list) else f"{value:.4f}"
