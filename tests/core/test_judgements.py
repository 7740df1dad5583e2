"""Queries, judgements and runs: formats read and written, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import math
from pathlib import Path

import pytest

from secondpass.errors import InvalidInput
from secondpass.judgements import judged_queries, qrels_file, read_qrels, read_queries, run_scores, write_run

HEADER = "query-id\tcorpus-id\tscore\n"


def test_reads_beir_and_trec_alike(tmp_path: Path) -> None:
    """BEIR's table, with and without header, and TREC's columns give the same judgements."""
    beir, bare, trec = tmp_path / "a.tsv", tmp_path / "b.tsv", tmp_path / "c.txt"
    beir.write_text(HEADER + "q1\td1\t2\nq1\td2\t0\nq2\td1\t-1\n")
    bare.write_text("q1\td1\t2\nq1\td2\t0\nq2\td1\t-1\n")
    trec.write_text("q1 0 d1 2\nq1\tQ0\td2\t0\n\nq2  0   d1  -1\n")
    expected = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": -1}}
    assert read_qrels(beir) == read_qrels(bare) == read_qrels(trec) == expected


def test_reads_gzip_and_byte_order_mark(tmp_path: Path) -> None:
    """A gzipped file with a byte order mark and Windows line ends is read as the plain one."""
    file = tmp_path / "q.tsv.gz"
    file.write_bytes(gzip.compress(b"\xef\xbb\xbf" + HEADER.replace("\n", "\r\n").encode() + b"q1\td1\t1\r\n"))
    assert read_qrels(file) == {"q1": {"d1": 1}}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q1\td2", "2 columns"),
        ("q1 d2 1", "1 columns"),
        ("q1\td2\t1.5", "grade '1.5' is no whole number"),
        ("q1\td2\thigh", "grade 'high'"),
        ("query-id\tcorpus-id\tscore", "grade 'score'"),
        ("q1\td1\t2", "has grade 2 here and 1 before"),
    ],
)
def test_bad_judgement_is_named(tmp_path: Path, line: str, reason: str) -> None:
    """A line that is no judgement is refused with file and number; equal repetitions are not."""
    file = tmp_path / "q.tsv"
    file.write_text(HEADER + "q1\td1\t1\nq1\td1\t1\n" + line + "\n")
    with pytest.raises(InvalidInput) as refused:
        read_qrels(file)
    assert str(refused.value).startswith(f"{file}:4: ")
    assert reason in str(refused.value)


def test_no_judgement_is_refused(tmp_path: Path) -> None:
    """A file with a header only is refused."""
    (tmp_path / "q.tsv").write_text(HEADER)
    with pytest.raises(InvalidInput, match="no judgement in it"):
        read_qrels(tmp_path / "q.tsv")


def test_qrels_file_lists_the_splits(tmp_path: Path) -> None:
    """A split that is missing is refused with the names of those that are there."""
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "train.tsv").touch()
    (tmp_path / "qrels" / "dev.tsv.gz").touch()
    assert qrels_file(tmp_path, "dev").name == "dev.tsv.gz"
    with pytest.raises(InvalidInput, match=r"no qrels/test\.tsv; its splits are dev, train"):
        qrels_file(tmp_path, "test")


def test_judged_queries_have_a_relevant_document() -> None:
    """Queries whose judgements are all 0 or below do not count."""
    qrels = {"a": {"d": 1}, "b": {"d": 0}, "c": {"d": -1, "e": 3}}
    assert judged_queries(qrels) == ["a", "c"]


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


def test_run_has_six_columns_and_the_scores() -> None:
    """A run line is query, Q0, document, rank, score, tag, and falling scores are written as they are."""
    stream = io.StringIO()
    assert write_run(stream, [("q1", [("d2", 0.75), ("d1", -1.5)]), ("q2", [])], "tag") == 2
    assert stream.getvalue() == "q1 Q0 d2 1 0.75 tag\nq1 Q0 d1 2 -1.5 tag\n"


@pytest.mark.parametrize(
    "scores",
    [
        [1.0, 1.0, 0.5],
        [0.5, 0.9, 0.1],
        [1.0, 1.0 - 1e-12, 0.5],
        [0.9, None, 0.1],
        [math.nan, 0.2, 0.1],
        [math.inf, 0.2, 0.1],
        [1e300, 1e200, 1.0],
    ],
)
def test_run_scores_fall_where_an_evaluator_would_reorder(scores: list[float | None]) -> None:
    """Ties (in float32, as trec_eval holds them), rises, gaps and non-finite scores give way to n, n-1, ... 1."""
    assert run_scores(scores) == [3.0, 2.0, 1.0]


def test_run_order_survives_trec_eval() -> None:
    """An evaluator that sorts by score and document id finds tied documents in the order of the ranking."""
    ir_measures = pytest.importorskip("ir_measures")
    ranking = [("a", 1.0), ("z", 1.0), ("m", 1.0)]
    stream = io.StringIO()
    write_run(stream, [("q", ranking)], "tag")
    run = list(ir_measures.read_trec_run(stream.getvalue()))
    found = ir_measures.calc_aggregate([ir_measures.RR], {"q": {"a": 1}}, run)
    assert found[ir_measures.RR] == 1.0


@pytest.mark.parametrize("bad", ["a b", "", "a\t", "a\u00a0b"])
def test_run_refuses_ids_that_break_its_columns(bad: str) -> None:
    """An empty id or one with white space is refused, as query and as document."""
    for rankings in ([(bad, [("d", 1.0)])], [("q", [(bad, 1.0)])]):
        with pytest.raises(InvalidInput, match="cannot stand in a TREC run"):
            write_run(io.StringIO(), rankings, "tag")
