"""Which queries a search asks and which of them count."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("haystack")

from secondpass.errors import InvalidInput
from secondpass.evaluation.judged_queries import judged_queries, listed_queries

HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BEIR folder with three queries, two of them with a relevant document."""
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(HEADER + "c\td\t1\na\td\t2\nb\td\t0\n")
    (tmp_path / "queries.jsonl").write_text(
        "".join(f'{{"_id": "{query}", "text": "text of {query}"}}\n' for query in "abc")
    )
    return tmp_path


def test_judged_queries_come_in_the_order_of_the_queries_file(folder: Path) -> None:
    """Only queries with a relevant document are asked, in the order of queries.jsonl."""
    assert list(judged_queries(folder, "test").texts) == ["a", "c"]


def test_other_judgements_can_be_given(folder: Path) -> None:
    """--qrels replaces the folder's judgements."""
    other = folder / "other.txt"
    other.write_text("b 0 d 1\n")
    assert list(judged_queries(folder, "nonsense", other).texts) == ["b"]


def test_judged_query_without_text_is_refused(folder: Path) -> None:
    """A judged query that has no text would silently be left out of the mean; it is refused."""
    with (folder / "qrels" / "test.tsv").open("a") as qrels:
        qrels.write("x\td\t1\n")
    with pytest.raises(InvalidInput, match=r"1 judged queries have no text in .* \(first 'x'\)"):
        judged_queries(folder, "test")


def test_no_relevant_document_is_refused(folder: Path) -> None:
    """Judgements without a relevant document cannot be averaged over."""
    (folder / "qrels" / "test.tsv").write_text(HEADER + "b\td\t0\n")
    with pytest.raises(InvalidInput, match="no query has a relevant document"):
        judged_queries(folder, "test")


def test_a_file_has_no_queries_of_its_own(folder: Path) -> None:
    """--data-queries needs a BEIR folder."""
    with pytest.raises(InvalidInput, match="give --queries FILE"):
        judged_queries(folder / "queries.jsonl", "test")


def test_judgements_of_other_queries_are_refused(folder: Path) -> None:
    """Judgements that share no query with the file would give a mean over nothing."""
    queries = folder / "q.tsv"
    queries.write_text("1\tone\n")
    assert listed_queries(queries, None).qrels is None
    with pytest.raises(InvalidInput, match="has no relevant document for any query of"):
        listed_queries(queries, folder / "qrels" / "test.tsv")
