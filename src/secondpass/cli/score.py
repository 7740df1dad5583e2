"""`secondpass score`: score pairs of a query and a document."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secondpass.cli import choices
from secondpass.cli.printing import Format, note_cuts, print_json_lines, print_table
from secondpass.cli.reading import GivenPair, read_pairs

if TYPE_CHECKING:
    from secondpass.cross_encoder import CrossEncoder
    from secondpass.record import CallRecord

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
    model: choices.Model = choices.POCKET,
    max_length: choices.MaxLength = None,
    batch_size: choices.BatchSize = 32,
    device: choices.Device = None,
    precision: choices.Precision = None,
) -> None:
    """Score pairs of a query and a document, in the order given.

    A JSON pair is a list of two strings or an object with "query" and "document" (or "text"). The index is the line
    of the pair, counted from 0; blank lines are skipped.

    [bold]Examples[/bold]

    secondpass score pairs.tsv

    secondpass score pairs.jsonl --format jsonl > scores.jsonl

    paste queries.txt answers.txt | secondpass score --format jsonl
    """
    given = read_pairs(pairs, input_format)
    encoder = _Later(model, max_length, device, precision)
    if output is Format.jsonl:
        for pair, value in _scored(given, encoder, batch_size):
            row = {"index": pair.index, "score": value, "query": pair.query, "document": pair.document}
            print_json_lines([row])
    else:
        rows = (
            (str(pair.index), _shown(value), f"{pair.query} → {pair.document}")
            for pair, value in _scored(given, encoder, batch_size)
        )
        print_table(("index", "score", "query → document"), rows)


class _Later:
    """The model, loaded once the first pairs are known to be readable."""

    def __init__(self, *chosen: Any) -> None:
        self._chosen = chosen
        self._loaded: CrossEncoder | None = None

    def __call__(self) -> CrossEncoder:
        if self._loaded is None:
            self._loaded = choices.load(*self._chosen)
        return self._loaded


def _scored(pairs: Iterator[GivenPair], encoder: _Later, batch_size: int) -> Iterator[tuple[GivenPair, Any]]:
    """Pairs with a float each, or a list of floats from a model with several labels."""
    while chunk := list(islice(pairs, CHUNK)):
        records: list[CallRecord] = []
        texts = [(pair.query, pair.document) for pair in chunk]
        values = encoder().predict(texts, batch_size=batch_size, records=records)
        yield from zip(chunk, values.tolist(), strict=True)
        note_cuts(records[0], encoder().max_length, [pair.index for pair in chunk])


def _shown(value: Any) -> str:
    return " ".join(f"{label:.4f}" for label in value) if isinstance(value, list) else f"{value:.4f}"
