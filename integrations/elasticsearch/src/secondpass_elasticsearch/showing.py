"""Answers of a search in two passes on stdout: a table for people, JSON lines for programs."""

from __future__ import annotations

import sys
from typing import Any

from secondpass.cli.printing import Format, print_json_lines, print_table
from secondpass_elasticsearch.two_pass import Hit, TwoPassAnswer


def show(answer: TwoPassAnswer, form: Format) -> None:
    """Print hits, and on stderr what a user should know of how they were ranked."""
    if form is Format.jsonl:
        print_json_lines(_row(rank, hit) for rank, hit in enumerate(answer.hits, start=1))
    elif answer.hits:
        rows = [_cells(rank, hit) for rank, hit in enumerate(answer.hits, start=1)]
        print_table(("rank", "was", "score", "id", "text"), rows)
    if not answer.hits:
        _note("no document found")
    if answer.without_text:
        _note(f"{answer.without_text} of {answer.candidates} documents have no text in the fields: ranked as empty")
    if answer.cut:
        _note(f"{len(answer.cut)} of {answer.candidates} documents cut to fit the model (first {answer.cut[0]!r})")


def _row(rank: int, hit: Hit) -> dict[str, object]:
    found = hit.candidate
    row: dict[str, Any] = {
        "rank": rank,
        "was": found.was,
        "score": hit.score,
        "index": found.index,
        "id": found.id,
        "first_pass": dict(found.scores),
        "text": found.text,
    }
    return row if hit.passage is None else {**row, "passage": hit.passage}


def _cells(rank: int, hit: Hit) -> tuple[str, ...]:
    found = hit.candidate
    return str(rank), str(found.was), f"{hit.score:.4f}", found.id, hit.passage or found.text


def _note(text: str) -> None:
    print(f"secondpass: {text}", file=sys.stderr)  # noqa: T201
