"""`secondpass rank` orders documents by how well they answer a query, `secondpass score` scores pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer

from secondpass.activations import IDENTITY
from secondpass.calibration import PROBABILITY
from secondpass.cli import arguments
from secondpass.cli.arguments import GivenDocument, GivenPair, read_documents, read_pairs
from secondpass.cli.output import (
    Format,
    lost_tokens,
    note,
    note_cuts,
    one_form,
    print_explained,
    print_json_lines,
    print_json_list,
    print_table,
)
from secondpass.errors import InvalidInput
from secondpass.ranking import Ranking, activated, by_label, relevance_logits
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
TopK = Annotated[
    int | None, typer.Option("--top-k", "-k", min=1, help="Of each query the best so many; all by default.")
]
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
    as_json: arguments.JsonObject = False,
    relevance: RelevanceRule = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what each sentence and word of the best document contributes.")
    ] = False,
    explain_best: Annotated[int, typer.Option(min=0, help="The same for so many of the best ones.")] = 0,
    passages: Passages = False,
    budget_ms: BudgetMs = None,
    min_probability: arguments.MinProbability = None,
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
    calibration: arguments.CalibrationFile = None,
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
    one_form(output, as_json)
    how = arguments.truncation_of(long, window_tokens, window_overlap, max_windows, select)
    asked: Any = dict(relevance=relevance_of(relevance), truncation=how, batch_size=batch_size, instruction=instruction)
    if passages and not isinstance(how, Windows):
        raise InvalidInput("--passages goes with --long windows")
    given = read_documents(documents, input_format)
    tokens: Any = dict(template=template, true_token=true_token, false_token=false_token)
    encoder = arguments.load_all(model, keep, max_length, device=device, precision=precision, **tokens)
    from secondpass.cross_encoder import hits_of

    texts = [document.text for document in given]
    limits: Any = dict(top_k=top_k, budget_ms=budget_ms, min_probability=min_probability)
    with arguments.with_files(encoder, score_cache, calibration):
        (ranking,) = encoder.rank_many([query.strip()], [[text.strip() for text in texts]], **asked, **limits)
        best = hits_of(ranking, texts, passages, budget_ms is not None)
        chosen = (texts[item["corpus_id"]] for item in best[: explain_best or int(explain)])
        why = [encoder.explain(query, text, **asked) for text in chosen]
    if as_json:
        print_json_list(_head(query, given, ranking), "results", _json_rows(best, given, why, ranking.record))
    elif output is Format.jsonl:
        print_json_lines(_json_rows(best, given, why, ranking.record))
    else:
        _print_table(best, given, passages, encoder.calibration is not None, why)
    note_cuts(ranking.record, encoder.max_length, [document.index for document in given])
    _note_rest(ranking, len(given), budget_ms, min_probability)


def _note_rest(ranking: Ranking, given: int, budget_ms: float | None, min_probability: float | None) -> None:
    if ranking.unscored:
        note(f"{ranking.unscored} of {given} not scored within {budget_ms:g} ms")
    if ranking.nothing_relevant:
        note("nothing relevant: by the model's calibration no document answers the query")
    elif not ranking.documents:
        note(f"no document is relevant with a probability of {min_probability:g}")


def _head(query: str, given: list[GivenDocument], ranking: Ranking) -> dict[str, object]:
    """What is told of the whole ranking."""
    verdict = {} if ranking.nothing_relevant is None else {"nothing_relevant": ranking.nothing_relevant}
    return {"query": query, "documents": len(given), "unscored": ranking.unscored, **verdict}


def _json_rows(
    best: list[dict[str, Any]], given: list[GivenDocument], why: list[Explanation], record: CallRecord
) -> Iterator[dict[str, object]]:
    lost = lost_tokens(record)
    reasons = [{"explanation": _told(one)} for one in why]
    rows = (_row(place, given[item["corpus_id"]], item, lost) for place, item in enumerate(best, start=1))
    return ({**row, **more} for row, more in zip(rows, chain(reasons, repeat({})), strict=False))


def _print_table(
    best: list[dict[str, Any]], given: list[GivenDocument], passages: bool, probable: bool, why: list[Explanation]
) -> None:
    name = "id" if any(document.id is not None for document in given) else "index"
    told = PROBABILITY[:1] if probable else ()
    cells = (_cells(place, given[item["corpus_id"]], item, *told) for place, item in enumerate(best, start=1))
    print_table(("rank", "score", *told, name, "passage" if passages else "text"), cells)
    print_explained(why)


def _told(explanation: Explanation) -> dict[str, object]:
    return {name: value for name, value in explanation.to_dict().items() if name not in ("query", "document")}


def _row(place: int, document: GivenDocument, item: dict[str, Any], lost: dict[int, int]) -> dict[str, object]:
    row: dict[str, object] = {"rank": place, "score": float(item["score"]), "index": document.index}
    if document.id is not None:
        row["id"] = document.id
    if item["corpus_id"] in lost:
        row["cut_tokens"] = lost[item["corpus_id"]]
    row |= {name: item[name] for name in (*PROBABILITY, "scored", "stage", "passage") if name in item}
    return {**row, "text": document.text}


def _cells(place: int, document: GivenDocument, item: dict[str, Any], *more: str) -> tuple[str, ...]:
    """A row of the table, `more` being further numbers of the item."""
    name = document.id if document.id is not None else str(document.index)
    score = f"{float(item['score']):.4f}" if item.get("scored", True) else "-"
    told = (f"{item[key]:.3f}" if key in item else "-" for key in more)
    return str(place), score, *told, name, item.get("passage", {}).get("text", document.text)


def relevance_of(value: str | None) -> int | Literal["expected"] | None:
    """What --relevance says; raises InvalidInput where it is neither a label's number nor 'expected'."""
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
    as_json: arguments.JsonObject = False,
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
    calibration: arguments.CalibrationFile = None,
) -> None:
    """Score pairs of a query and a document, in the order given.

    A JSON pair is a list of two strings or an object with "query" and "document" (or "text"). The index is the line
    of the pair, counted from 0; blank lines are skipped.

    [bold]Examples[/bold]

    secondpass score pairs.tsv

    secondpass score pairs.jsonl --format jsonl > scores.jsonl

    paste queries.txt answers.txt | secondpass score --format jsonl
    """
    one_form(output, as_json)
    how = arguments.truncation_of(long, window_tokens, window_overlap, max_windows, select)
    options = (max_length, device, precision, instruction, template, true_token, false_token)
    with ExitStack() as stack:

        @cache
        def encoder() -> CrossEncoder:
            """Loaded once, when the first pairs are known to be readable."""
            made = arguments.load(model, *options)
            stack.enter_context(arguments.with_files(made, score_cache, calibration))
            return made

        scored = _scored(read_pairs(pairs, input_format), encoder, batch_size, how)
        found = (
            {"index": pair.index, **numbers, "query": pair.query, "document": pair.document} for pair, numbers in scored
        )
        if as_json:
            print_json_list({}, "results", found)
        elif output is Format.jsonl:
            print_json_lines(found)
        else:
            first = next(scored)
            names = [name for name in first[1] if name != PROBABILITY[1]]
            rows = (
                (str(pair.index), *(_shown(numbers[name]) for name in names), f"{pair.query} → {pair.document}")
                for pair, numbers in chain((first,), scored)
            )
            print_table(("index", *names, "query → document"), rows)


def _scored(
    pairs: Iterator[GivenPair],
    encoder: Callable[[], CrossEncoder],
    batch_size: int,
    how: arguments.Truncation | Windows | None,
) -> Iterator[tuple[GivenPair, dict[str, Any]]]:
    """Pairs with their "score", a float, or a list of floats from a model with several labels, and its probability."""
    while chunk := list(islice(pairs, CHUNK)):
        records: list[CallRecord] = []
        texts = [(pair.query, pair.document) for pair in chunk]
        model = encoder()
        logits = model.predict(texts, batch_size, None, activation_fct=IDENTITY, records=records, truncation=how)
        logits = logits.reshape(len(chunk), -1)
        scores = by_label(activated(logits, model.own_activation, False), model.num_labels).tolist()
        numbers: list[dict[str, Any]] = [{"score": value} for value in scores]
        if (known := model.calibration) is not None:
            means = logits[:, 0] if known.relevance is None else relevance_logits(logits, known.relevance)
            intervals = np.column_stack(known.intervals(means)).tolist()
            for own, *told in zip(numbers, known.probabilities(means).tolist(), intervals, strict=True):
                own |= dict(zip(PROBABILITY, told, strict=True))
        yield from zip(chunk, numbers, strict=True)
        note_cuts(records[0], encoder().max_length, [pair.index for pair in chunk])


def _shown(value: Any) -> str:
    return " ".join(f"{label:.4f}" for label in value) if isinstance(value, list) else f"{value:.4f}"
