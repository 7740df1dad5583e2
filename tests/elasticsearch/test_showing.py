"""Answers on stdout, and what a user should know on stderr."""

from __future__ import annotations

import json

import pytest

from secondpass.cli.printing import Format
from secondpass_elasticsearch.candidates import Candidate
from secondpass_elasticsearch.showing import show
from secondpass_elasticsearch.two_pass import Hit, TwoPassAnswer

FOUND = Candidate("articles", "a/ü", "line\u2028end 😀\nmore", 7, {"bm25": 1.5, "dense": 0.25})


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A line a hit, whatever the text holds; a passage where there is one."""
    show(TwoPassAnswer((Hit(FOUND, 0.5), Hit(FOUND, 0.25, "a passage")), 2), Format.jsonl)
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == {
        "rank": 1,
        "was": 7,
        "score": 0.5,
        "index": "articles",
        "id": "a/ü",
        "first_pass": {"bm25": 1.5, "dense": 0.25},
        "text": "line\u2028end 😀\nmore",
    }
    assert json.loads(second)["passage"] == "a passage"


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Texts as they are: brackets are no markup."""
    candidate = Candidate("articles", "[red]", "[bold]text[/bold]", 1, {})
    show(TwoPassAnswer((Hit(candidate, 0.5),), 1), Format.table)
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["rank", "was", "score", "id", "text"]
    assert row.split() == ["1", "1", "0.5000", "[red]", "[bold]text[/bold]"]


def test_notes(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is silently cut or left out."""
    show(TwoPassAnswer((Hit(FOUND, 0.5),), 9, without_text=2, cut=("a", "b", "c")), Format.jsonl)
    notes = capsys.readouterr().err
    assert "2 of 9 documents have no text" in notes
    assert "3 of 9 documents cut to fit the model (first 'a')" in notes
    show(TwoPassAnswer(()), Format.table)
    nothing = capsys.readouterr()
    assert (nothing.out, nothing.err) == ("", "secondpass: no document found\n")
