"""runs: rankings as a value, formats read and written, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.runs import Run, by_score, read_run, run_scores, without_query_ids, write_run


def test_run_has_six_columns_and_the_scores() -> None:
    """A run line is query, Q0, document, rank, score, tag, and falling scores are written as they are."""
    stream = io.StringIO()
    assert write_run(stream, [("q1", [("d2", 0.75), ("d1", -1.5)]), ("q2", [])], "tag") == 0
    assert stream.getvalue() == "q1 Q0 d2 1 0.75 tag\nq1 Q0 d1 2 -1.5 tag\n"


@pytest.mark.parametrize(
    "scores",
    [
        [0.5, 0.9, 0.1],
        [0.9, None, 0.1],
        [math.nan, 0.2, 0.1],
        [math.inf, 0.2, 0.1],
        [1e300, 1e200, 1.0],
    ],
)
def test_run_scores_fall_where_an_evaluator_would_reorder(scores: list[float | None]) -> None:
    """Rises, gaps and non-finite scores give way to n, n-1, ... 1; a ranking that lost any is counted."""
    assert run_scores(scores) == ([3.0, 2.0, 1.0], False)
    if not any(score is not None and math.isnan(score) for score in scores):
        rankings = [("q", list(zip("abc", scores, strict=True))), ("p", [("d", None)]), ("r", [("d", 1.0)])]
        assert write_run(io.StringIO(), rankings, "tag") == 1


@pytest.mark.parametrize(
    ("scores", "same"),
    [
        ([1.0, 1.0, 0.5], (0, 2)),
        ([1.0, 1.0 - 1e-12, 0.5], (0, 2)),
        ([0.7, 0.5, 0.5, 0.5 - 2**-25, 0.1, 0.1], (0, 1, 4)),
        ([0.3, 0.0, 0.0, 0.0], (0, 3)),
        ([0.0, 0.0], (1,)),
        ([2.5, -1.5, -1.5, -1.5], (0, 1)),
    ],
)
def test_only_equal_scores_are_moved(scores: list[float], same: tuple[int, ...], tmp_path: Path) -> None:
    """Apart by steps of float32, below 0 only where some were; they read back the same, in the order of the ranking."""
    written, kept = run_scores(scores)
    assert kept
    assert tuple(place for place, score in enumerate(scores) if written[place] == score) == same
    single = np.asarray(written, np.float32)
    assert (single[1:] < single[:-1]).all()
    assert written == pytest.approx(scores, rel=1e-6, abs=1e-40)
    assert (min(written) < 0) == (min(scores) < 0)
    with (tmp_path / "run.trec").open("w") as stream:
        assert write_run(stream, [("q", list(zip("abcdef", scores, strict=False)))], "tag") == 0
    found = list(read_run(tmp_path / "run.trec")["q"].items())
    assert found == list(zip("abcdef", written, strict=False))


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


def test_scores_are_ordered_as_trec_eval_orders_them() -> None:
    """By score, equal ones by document id, both descending; whatever order they come in."""
    assert [name for name, _ in by_score({"b": 1.0, "a": 2.0, "c": 1.0})] == ["a", "c", "b"]
    assert [name for name, _ in by_score({"x": 3.0, "y": 2.0})] == ["x", "y"]


def test_scores_that_differ_beyond_float32_tie() -> None:
    """trec_eval holds scores as float32, so the id decides."""
    assert [name for name, _ in by_score({"a": 1.0 + 1e-12, "b": 1.0})] == ["b", "a"]


def test_a_given_order_is_kept_whatever_the_scores() -> None:
    """A fused list, or one that lost its scores, is still a ranking."""
    run = Run("fused", {"q": [("c", 0.1), ("a", None), ("b", 9.0)]})
    assert list(run["q"]) == ["c", "a", "b"]
    assert run["q"]["a"] is None


@pytest.mark.parametrize(
    ("rankings", "reason"),
    [
        ({"q": [("d", 1.0), ("d", 0.5)]}, "query 'q': document 'd' comes twice"),
        ({"q": [("d", math.nan)]}, "query 'q': document 'd' has the score NaN"),
        ({"q": [(3, 1.0)]}, "query 'q': document id 3 is int, not str"),
        ({"q": [("", 1.0)]}, "query 'q': document id is empty"),
        ({4: [("d", 1.0)]}, "query id 4 is int, not str"),
    ],
)
def test_row_60_what_is_no_ranking_is_refused(rankings: Any, reason: str) -> None:
    """A document twice, a NaN or an id that is no str: the message names query and document."""
    with pytest.raises(InvalidInput) as refused:
        Run("r", rankings)
    assert reason in str(refused.value)


def test_nan_has_no_place_in_an_order() -> None:
    """It is refused with its document."""
    with pytest.raises(InvalidInput, match="document 'b' has the score NaN"):
        by_score({"a": 1.0, "b": math.nan})


def test_reads_trec_and_gzip(tmp_path: Path) -> None:
    """Order comes from the scores, ranks and tags are not read; the name is the file's."""
    text = "q1 Q0 d1 7 0.5 x\nq1\tQ0\td2\t1\t0.75\tx\n\nq2 Q0 d1 1 -3e1 x\n"
    (tmp_path / "bm25.run").write_text(text)
    (tmp_path / "bm25.run.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("bm25.run", "bm25.run.gz"):
        run = read_run(tmp_path / name)
        assert run.name == "bm25"
        assert {query: list(ranking.items()) for query, ranking in run.items()} == {
            "q1": [("d2", 0.75), ("d1", 0.5)],
            "q2": [("d1", -30.0)],
        }
    assert read_run(tmp_path / "bm25.run", name="first pass").name == "first pass"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q1 Q0 d2 1 0.5", "5 columns by spaces"),
        ("q1,Q0,d2,1,0.5,x", "6 columns by commas; a TREC run has 6"),
        ("q1 Q0 d2 1 high x", "score 'high' is no number"),
        ("q1 Q0 d2 1 nan x", "the score is NaN"),
        ("q1 Q0 d1 2 0.1 x", "document 'd1' of query 'q1' was given before"),
    ],
)
def test_a_bad_line_of_a_run_is_named(tmp_path: Path, line: str, reason: str) -> None:
    """With file and number."""
    (tmp_path / "r.trec").write_text(f"q1 Q0 d1 1 0.9 x\n{line}\n")
    with pytest.raises(InvalidInput) as refused:
        read_run(tmp_path / "r.trec")
    assert str(refused.value) == f"{tmp_path / 'r.trec'}:2: " + str(refused.value).split(": ", 1)[1]
    assert reason in str(refused.value)


def test_a_run_without_lines_is_refused(tmp_path: Path) -> None:
    """Empty files are mistakes, not systems that found nothing."""
    for name in ("r.trec", "r.jsonl"):
        (tmp_path / name).write_text("\n")
        with pytest.raises(InvalidInput, match="no ranking in it"):
            read_run(tmp_path / name)


def test_json_lines_keep_the_order_given(tmp_path: Path) -> None:
    """A line a query, with or without scores; documents may be plain ids, whole numbers are ids by their digits."""
    rows = [
        {"query_id": "q", "documents": [{"id": "b", "score": 0.1}, {"id": "a"}]},
        {"query_id": "p", "documents": ["x"]},
        {"query_id": 7, "documents": [12, {"id": 3}]},
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = read_run(tmp_path / "r.jsonl")
    assert list(run["q"].items()) == [("b", 0.1), ("a", None)]
    assert list(run["p"].items()) == [("x", None)]
    assert list(run["7"].items()) == [("12", None), ("3", None)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"query_id": 1.5, "documents": []}, '"query_id" is 1.5, not a string'),
        ({"documents": []}, 'no "query_id"; its keys are "documents"'),
        ({"query_id": "q"}, '"documents" is no list'),
        ({"query_id": "q", "documents": ["a", True]}, r"documents\[1\] has no id that is a string or a whole number"),
        ({"query_id": "q", "documents": [{"score": 1}]}, r"documents\[0\] has no id"),
        ({"query_id": "q", "documents": ["7", 7]}, "a document comes twice"),
        ({"query_id": "q", "documents": [{"id": "a", "score": "x"}]}, "has score 'x'"),
        ({"query_id": "q", "documents": ["a", "a"]}, "a document comes twice"),
    ],
)
def test_a_bad_json_ranking_is_named(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    """With file and line."""
    (tmp_path / "r.jsonl").write_text(json.dumps(row))
    with pytest.raises(InvalidInput, match=reason):
        read_run(tmp_path / "r.jsonl")


def test_a_written_run_reads_back_in_its_order(tmp_path: Path) -> None:
    """Also where scores tie or are absent."""
    run = Run("r", {"q": [("c", 1.0), ("a", 1.0), ("b", None)], "p": [("x", 2.0), ("y", 1.0)]})
    with (tmp_path / "r.trec").open("w") as stream:
        write_run(stream, ((query, list(ranking.items())) for query, ranking in run.items()), "r")
    read = read_run(tmp_path / "r.trec")
    assert {query: list(ranking) for query, ranking in read.items()} == {"q": ["c", "a", "b"], "p": ["x", "y"]}


def test_only_some_queries() -> None:
    """The rest is left out; the name stays."""
    run = Run("r", {"a": [("d", 1.0)], "b": [("e", 1.0)]}).only(["b"])
    assert run.name == "r"
    assert list(run) == ["b"]
    assert repr(run) == "Run('r', 1 queries, 1 documents)"


def test_three_columns_are_ranks(tmp_path: Path) -> None:
    """MS MARCO's form: query, document, rank, whatever the order of the lines."""
    (tmp_path / "r.tsv").write_text("q\tb\t2\nq\ta\t1\nq\tc\t3\n\np\tx\t1\n")
    assert {query: list(ranking.items()) for query, ranking in read_run(tmp_path / "r.tsv").items()} == {
        "q": [("a", None), ("b", None), ("c", None)],
        "p": [("x", None)],
    }


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["q a 0.9", "q b 0.8"], r"r\.tsv:1: rank '0.9' is none; a run with scores has TREC's six columns"),
        (["q a 0", "q b 1"], "rank '0' is none"),
        (["q a 1", "q b 3"], "the ranks of query 'q' are not 1 to 2, each once"),
        (["q a 1", "q b 1"], "the ranks of query 'q' are not 1 to 2"),
        (["q a 2", "q b 1"], "the third column falls from line to line in every query, as scores do"),
        (["q a 1", "q a 2"], r"r\.tsv:2: document 'a' of query 'q' was given before"),
        (["q a 1", "q Q0 b 2 0.5 x"], r"r\.tsv:2: 6 columns by spaces; the lines before have 3"),
        (["q Q0 b 2 0.5 x", "q a 1"], r"r\.tsv:2: 3 columns by spaces; a TREC run has 6"),
    ],
)
def test_three_columns_that_are_no_ranks_are_refused(tmp_path: Path, lines: list[str], reason: str) -> None:
    """Scores read as ranks would turn every ranking round."""
    (tmp_path / "r.tsv").write_text("\n".join(lines))
    with pytest.raises(InvalidInput, match=reason):
        read_run(tmp_path / "r.tsv")


def test_a_query_that_is_a_document_does_not_find_itself() -> None:
    """BEIR's convention, with the number of documents that it leaves out; other runs stay as they are."""
    run = Run("r", {"d1": [("d1", 2.0), ("d2", 1.0)], "q": [("d1", 1.0)]})
    left, gone = without_query_ids(run)
    assert {query: dict(ranking) for query, ranking in left.items()} == {"d1": {"d2": 1.0}, "q": {"d1": 1.0}}
    assert (left.name, gone) == ("r", 1)
    assert without_query_ids(left) == (left, 0)


def test_scores_beyond_float32_are_infinite_without_a_warning() -> None:
    """As trec_eval holds them; among each other they tie, so the id decides."""
    assert [name for name, _ in by_score({"a": 1e300, "b": 1e200, "c": 1.0, "d": -1e300})] == ["b", "a", "c", "d"]


@pytest.mark.parametrize("score", ["1_0", "\u0661"])
def test_scores_are_read_as_trec_eval_reads_them(tmp_path: Path, score: str) -> None:
    """Python's float() takes both for numbers."""
    (tmp_path / "r.trec").write_text(f"q Q0 a 1 {score} x\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="is no number"):
        read_run(tmp_path / "r.trec")
