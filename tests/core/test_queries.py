"""queries: forms read, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from secondpass.errors import InvalidInput
from secondpass.queries import read_queries


def test_reads_queries_of_every_form(tmp_path: Path) -> None:
    """JSON Lines, id-tab-text and plain lines give the same texts; plain lines have their number as id."""
    rows = [{"_id": "1", "text": "one"}, {"_id": "3", "text": "three, four"}]
    forms = {
        "q.jsonl": "\n\n".join(map(json.dumps, rows)),
        "q.tsv": "1\tone\n3\tthree, four\n",
        "q.txt": "one\n\nthree, four\n",
    }
    for name, content in forms.items():
        (tmp_path / name).write_text(content)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
        expected = {"1": "one", "3": "three, four"}
        assert read_queries(tmp_path / name) == read_queries(tmp_path / f"{name}.gz") == expected


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("q.jsonl", '{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}', "query id 'a' was given before"),
        ("q.jsonl", '{"_id": "b", "text": "x"}\n{"_id": "a", "text": " "}', "the text of query 'a' is blank"),
        (
            "q.jsonl",
            '{"_id": "b", "text": "x"}\n{"_id": "a", "text": "\\u200b\\ufeff"}',
            "the text of query 'a' is blank",
        ),
        ("q.tsv", "1\tone\ntwo", "not an id, a tab and a text"),
        ("q.tsv", "1\tone\n\ttwo", "not an id, a tab and a text"),
    ],
)
def test_bad_query_is_named(tmp_path: Path, name: str, content: str, reason: str) -> None:
    """A line that is no query is refused with file and number."""
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidInput) as refused:
        read_queries(tmp_path / name)
    assert str(refused.value) == f"{tmp_path / name}:2: {reason}"


def test_no_query_is_refused(tmp_path: Path) -> None:
    """A file without a query is refused."""
    (tmp_path / "q.txt").write_text("\n \n")
    with pytest.raises(InvalidInput, match="no query in it"):
        read_queries(tmp_path / "q.txt")
