"""What is printed of an answer, and the query that is ready to run."""

from __future__ import annotations

import json
import shlex

import pytest

from secondpass.cli.printing import Format
from secondpass_opensearch.candidates import Candidate, FirstPass
from secondpass_opensearch.connecting import Connected
from secondpass_opensearch.server import Server
from secondpass_opensearch.showing import note_search, ready_query, show_hits
from secondpass_opensearch.two_pass import Hit, TwoPassAnswer

FOUND = Candidate("docs", "a\tb", "a long\ntext", 7, {"bm25": 1.5}, "a passage")
ANSWER = TwoPassAnswer((Hit(FOUND, 0.25),), 9, 2, tuple("abcdefg"))


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """All that is known of a hit, whole."""
    show_hits(ANSWER, Format.jsonl)
    row = json.loads(capsys.readouterr().out)
    assert (row["rank"], row["was"], row["score"], row["id"]) == (1, 7, 0.25, "a\tb")
    assert (row["text"], row["passage"], row["first_pass"]) == ("a long\ntext", "a passage", {"bm25": 1.5})


def test_a_table_shows_the_passage(capsys: pytest.CaptureFixture[str]) -> None:
    """On one line."""
    show_hits(ANSWER, Format.table)
    assert capsys.readouterr().out.splitlines()[1].split() == ["1", "0.2500", "7", "a", "b", "a", "passage"]


def test_notes(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever was cut or missing is said on stderr, and only then."""
    note_search(ANSWER, FirstPass(" ".join(map(str, range(500)))))
    said = capsys.readouterr().err
    assert "first 400 different words" in said
    assert "2 of 9 documents found have no text in content" in said
    assert "7 of 9 cut to fit the model (id a, b, c, d, e, ...)" in said
    note_search(TwoPassAnswer((Hit(FOUND, 0.25),), 1), FirstPass("x"))
    assert capsys.readouterr().err == ""


def test_the_query_survives_a_shell_and_holds_no_secret() -> None:
    """Quotes in the text are quoted; the password stays a variable."""
    server = Server.from_environment({"OPENSEARCH_URL": "https://joe:secret@h:9200"})
    command = ready_query(server, Connected("p", "m"), "docs", 'it\'s "so"', ["title", "content"])
    words = shlex.split(command.replace("\\\n", " "))
    body = json.loads(words[-1])
    assert body["ext"]["rerank"]["query_context"]["query_text"] == 'it\'s "so"'
    assert "content" in body["query"]["match"]
    assert "secret" not in command
    assert "$OPENSEARCH_USERNAME:$OPENSEARCH_PASSWORD" in words
