"""Answers of a search in two passes on stdout, and on stderr what the user should know of them."""

from __future__ import annotations

import sys

from secondpass.cli.printing import Format, print_json_lines, print_table
from secondpass_searching.candidates import FirstPass
from secondpass_searching.query_words import most_words
from secondpass_searching.two_pass import Hit, TwoPassAnswer

COLUMNS = ("rank", "was", "score", "id", "text")
SHOWN_IDS = 5


def show_hits(answer: TwoPassAnswer, form: Format) -> None:
    """Print the hits, best first; `was` is the rank that the first pass gave."""
    hits = enumerate(answer.hits, start=1)
    if form is Format.jsonl:
        print_json_lines(_row(rank, hit) for rank, hit in hits)
    elif answer.hits:
        print_table(COLUMNS, [_cells(rank, hit) for rank, hit in hits])


def notes(answer: TwoPassAnswer, first: FirstPass) -> list[str]:
    """Whatever was cut, missing or not found; what did not happen is not mentioned."""
    names = ", ".join(first.fields)
    ids = ", ".join(answer.cut[:SHOWN_IDS]) + (", ..." if len(answer.cut) > SHOWN_IDS else "")
    words = f"{most_words(len(first.fields)):,}"
    said = {
        "no document found": not answer.hits,
        f"BM25 searched for the first {words} words of the query; the second pass read all of it": (
            first.bm25 and first.words != first.query
        ),
        f"{answer.without_text} of {answer.candidates} documents have no text in {names}: ranked as empty": (
            answer.without_text
        ),
        f"{len(answer.cut)} of {answer.candidates} documents cut to fit the model (id {ids})": answer.cut,
    }
    return [line for line, happened in said.items() if happened]


def show_notes(answer: TwoPassAnswer, first: FirstPass) -> None:
    """Print them on stderr."""
    for line in notes(answer, first):
        print(f"secondpass: {line}", file=sys.stderr)  # noqa: T201


def _row(rank: int, hit: Hit) -> dict[str, object]:
    found = hit.candidate
    row: dict[str, object] = {"rank": rank, "was": found.was, "score": hit.score, "index": found.index, "id": found.id}
    row["first_pass"] = dict(found.scores)
    if hit.passage is not None:
        row["passage"] = hit.passage
    return {**row, "text": found.text}


def _cells(rank: int, hit: Hit) -> tuple[str, ...]:
    found = hit.candidate
    return str(rank), str(found.was), f"{hit.score:.4f}", found.id, hit.passage or found.text
