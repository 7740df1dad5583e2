"""Answers on stdout, and what a user should know on stderr."""

from __future__ import annotations

import json

import pytest

from secondpass.cli.printing import Format
from secondpass_searching.candidates import Candidate, FirstPass
from secondpass_searching.showing import notes, show_hits, show_notes
from secondpass_searching.two_pass import Hit, TwoPassAnswer

FOUND = Candidate("articles", "a/ü", "line\u2028end 😀\nmore", 7, {"bm25": 1.5, "dense": 0.25})


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A line a hit, whatever the text holds; a passage where there is one."""
    show_hits(TwoPassAnswer((Hit(FOUND, 0.5), Hit(FOUND, 0.25, "a passage")), 2), Format.jsonl)
    first, second = capsys.readouterr().out.splitlines()
    assert list(json.loads(first).items()) == [
        ("rank", 1),
        ("was", 7),
        ("score", 0.5),
        ("index", "articles"),
        ("id", "a/ü"),
        ("first_pass", {"bm25": 1.5, "dense": 0.25}),
        ("text", "line\u2028end 😀\nmore"),
    ]
    assert json.loads(second)["passage"] == "a passage"


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Texts on one line as they are, the passage before the text: brackets are no markup."""
    candidate = Candidate("articles", "[red]", "[bold]text[/bold]\nmore", 1, {})
    show_hits(TwoPassAnswer((Hit(candidate, 0.5), Hit(candidate, 0.25, "a passage")), 1), Format.table)
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["rank", "was", "score", "id", "text"]
    assert first.split() == ["1", "1", "0.5000", "[red]", "[bold]text[/bold]", "more"]
    assert second.split() == ["2", "1", "0.2500", "[red]", "a", "passage"]
    show_hits(TwoPassAnswer(()), Format.table)
    assert capsys.readouterr().out == ""


def test_notes(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is silently cut or left out."""
    long = " ".join(map(str, range(2_000)))
    answer = TwoPassAnswer((Hit(FOUND, 0.5),), 9, 2, tuple("abcdefg"))
    assert notes(answer, FirstPass(long, ("title", "body"))) == [
        "BM25 searched for the first 512 words of the query; the second pass read all of it",
        "2 of 9 documents have no text in title, body: ranked as empty",
        "7 of 9 documents cut to fit the model (id a, b, c, d, e, ...)",
    ]
    show_notes(TwoPassAnswer((Hit(FOUND, 0.25),), 1), FirstPass("x"))
    assert capsys.readouterr().err == ""
    show_notes(TwoPassAnswer(()), FirstPass(long, bm25=False))
    assert capsys.readouterr() == ("", "secondpass: no document found\n")
