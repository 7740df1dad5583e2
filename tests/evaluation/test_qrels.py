"""qrels: judgements as a value, formats read and written, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import (
    Qrels,
    column_of,
    judged_queries,
    listed_queries,
    qrels_file,
    read_qrels,
    string_id,
    write_qrels,
)

HEADER = "query-id\tcorpus-id\tscore\n"


def test_reads_beir_and_trec_alike(tmp_path: Path) -> None:
    """BEIR's table, with and without header, and TREC's columns give the same judgements."""
    beir, bare, trec = tmp_path / "a.tsv", tmp_path / "b.tsv", tmp_path / "c.txt"
    beir.write_text(HEADER + "q1\td1\t2\nq1\td2\t0\nq2\td1\t-1\n")
    bare.write_text("q1\td1\t2\nq1\td2\t0\nq2\td1\t-1\n")
    trec.write_text("q1 0 d1 2\nq1\tQ0\td2\t0\n\nq2  0   d1  -1\n")
    expected = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": -1}}
    assert read_qrels(beir) == read_qrels(bare) == read_qrels(trec) == expected


def test_whole_grades_with_a_point_are_grades(tmp_path: Path) -> None:
    """1.0 is 1 in a table and in TREC's columns, as it is in JSON lines."""
    for name, text in (("a.tsv", HEADER + "q\ta\t1.0\nq\tb\t-2.\nq\tc\t+3\n"),
                       ("b.txt", "q 0 a 1.00\nq 0 b -2.0\nq 0 c 3\n")):  # fmt: skip
        (tmp_path / name).write_text(text)
        assert read_qrels(tmp_path / name) == {"q": {"a": 1, "b": -2, "c": 3}}


MARKED = HEADER.strip() + "\torigin\nq\ta\t1\tby m\nq\tb\t0\tby m\np\ta\t1\t\n"


def test_judgements_say_whose_they_are(tmp_path: Path) -> None:
    """A fourth column of BEIR's table or a key of JSON lines; of several origins how much is of each, people's too."""
    (tmp_path / "a.tsv").write_text(MARKED)
    rows = [dict(zip(("query_id", "doc_id", "relevance", "origin"), line.split("\t"), strict=True))
            for line in MARKED.splitlines()[1:]]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row | {"relevance": int(row["relevance"])}) for row in rows))
    for name in ("a.tsv", "a.jsonl"):
        found = read_qrels(tmp_path / name)
        assert found == {"q": {"a": 1, "b": 0}, "p": {"a": 1}}
        assert found.origin == "by m (2 of 3); by people (1 of 3)"
        assert found.only(["q"]).origin_note == f"judgements {found.origin}"
        assert found.by_people
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "a"}\n')
    note = f"judgements {found.origin}; 1 judged queries have no text, so they are left out (p)"
    assert listed_queries(tmp_path / "queries.jsonl", tmp_path / "a.tsv").note == note
    assert (Qrels({"q": {"a": 1}}).origin, Qrels({"q": {"a": 1}}).origin_note) == ("", "")
    assert [Qrels({}, origin=origin).by_people for origin in ("", "by m")] == [True, False]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", MARKED + "q\tc\t1\n", "a.tsv:5: 3 columns by tabs, where the header has 4 by tabs"),
        ("a.tsv", MARKED + "q 0 c 1\n", "a.tsv:5: 4 columns by spaces, where the header has 4 by tabs"),
        ("a.jsonl", '{"query_id": "q", "doc_id": "a", "relevance": 1, "origin": 7}', '"origin" is 7, not a string'),
    ],
)
def test_origins_that_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    """With the line."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInput, match=message):
        read_qrels(tmp_path / name)


def test_marked_judgements_are_read_as_they_were_written() -> None:
    """Subtopics too, in JSON lines; an id that a table cannot hold is refused."""
    stream = io.StringIO()
    write_qrels(stream, Qrels({}, SUBTOPICS, "by m"), "jsonl")
    assert json.loads(stream.getvalue().splitlines()[0]) == {
        "query_id": "q", "doc_id": "a", "relevance": 1, "origin": "by m", "subtopic_id": "1",
    }  # fmt: skip
    with pytest.raises(InvalidInput, match="cannot stand in a table"):
        write_qrels(io.StringIO(), Qrels({"q\t": {"a": 1}}), "beir")
    with pytest.raises(InvalidInput, match="half a surrogate pair"):
        write_qrels(io.StringIO(), Qrels({"q": {"d\udc00": 1}}), "beir")


SUBTOPICS = {"q": {"a": {"1": 1, "2": 0}, "b": {"2": 2}}}


def test_subtopics_are_kept(tmp_path: Path) -> None:
    """TREC's second column, where a query has several; a document's grade is the highest of its subtopics' then."""
    lines = ["q 1 a 1", "p 1 a 1", "q 2 a 0", "q 2 b 2", "q 1 a 1"]
    (tmp_path / "q.txt").write_text("\n".join(lines))
    rows = [dict(zip(("query_id", "subtopic_id", "doc_id", "relevance"), line.split(), strict=True)) for line in lines]
    (tmp_path / "q.jsonl").write_text(
        "\n".join(json.dumps({**row, "relevance": int(row["relevance"])}) for row in rows)
    )
    for name in ("q.txt", "q.jsonl"):
        found = read_qrels(tmp_path / name)
        assert found == {"q": {"a": 1, "b": 2}, "p": {"a": 1}}
        assert found.subtopics == found.only({"q"}).subtopics == SUBTOPICS
        assert not found.only({"p"}).subtopics
    stream = io.StringIO()
    write_qrels(stream, found)
    (tmp_path / "again.txt").write_text(stream.getvalue())
    assert read_qrels(tmp_path / "again.txt").subtopics == SUBTOPICS
    (tmp_path / "q.txt").write_text("q 1 a 1\nq 2 a 0\nq 2 a 1\n")
    with pytest.raises(InvalidInput, match=r"q\.txt:3: document 'a' of query 'q' has grade 1 here and 0 before"):
        read_qrels(tmp_path / "q.txt")


def test_reads_gzip_and_byte_order_mark(tmp_path: Path) -> None:
    """A gzipped file with a byte order mark and Windows line ends is read as the plain one."""
    file = tmp_path / "q.tsv.gz"
    file.write_bytes(gzip.compress(b"\xef\xbb\xbf" + HEADER.replace("\n", "\r\n").encode() + b"q1\td1\t1\r\n"))
    assert read_qrels(file) == {"q1": {"d1": 1}}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q1\td2", "2 columns by tabs"),
        ("q1 d2 1", "3 columns by spaces; BEIR's judgements have 3 (by tabs), TREC's have 4"),
        ("q1,d2,1", "3 columns by commas; BEIR's"),
        ("q1;d2;1", "3 columns by semicolons; BEIR's"),
        ("d2", "1 column; BEIR's"),
        ("q1\td2\t1.5", "grade '1.5' is no whole number"),
        ("q1 0 d2 1.5", "grade '1.5' is no whole number"),
        ("q1\td2\t1_0", "grade '1_0' is no whole number"),
        ("q1\td2\tnan", "grade 'nan' is no whole number"),
        ("q1\td2\t3000000000", "grade 3000000000 is beyond 1,000,000"),
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
    assert Qrels({"a": {"d": 1}, "b": {"d": 0}, "c": {"d": -1, "e": 3}}).with_relevant == ["a", "c"]


@pytest.mark.parametrize(
    ("grades", "reason"),
    [
        ({1: {"d": 1}}, "query id 1 is int, not str"),
        ({"q": {7: 1}}, "query 'q': document id 7 is int, not str"),
        ({"": {"d": 1}}, "query id is empty"),
        ({"q": {"d": float("nan")}}, "query 'q': document 'd' has grade nan"),
        ({"q": {"d": float("inf")}}, "has grade inf"),
        ({"q": {"d": 0.5}}, "has grade 0.5, which is no whole number"),
        ({"q": {"d": True}}, "has grade True"),
        ({"q": {"d": "1"}}, "has grade '1'"),
        ({"q": {"d": 10**400}}, "beyond 1,000,000"),
        ({"q": {"d": -(2**31)}}, "beyond 1,000,000"),
    ],
)
def test_row_59_and_62_ids_are_str_and_grades_whole(grades: Any, reason: str) -> None:
    """7 and "7" would silently be two documents, and NaN no grade at all."""
    with pytest.raises(InvalidInput) as refused:
        Qrels(grades)
    assert reason in str(refused.value)


def test_grades_of_other_number_types_are_ints() -> None:
    """What a table or an array holds is taken, if it is whole."""
    qrels = Qrels({"q": {"a": np.int64(2), "b": np.float32(1.0), "c": 3.0}})
    assert qrels == {"q": {"a": 2, "b": 1, "c": 3}}
    assert all(type(grade) is int for grade in qrels["q"].values())


def test_row_58_a_query_without_judgements_is_absent() -> None:
    """An empty inner mapping corrupts later queries in pytrec_eval: it never gets there."""
    qrels = Qrels({"a": {}, "b": {"d": 1}})
    assert list(qrels) == ["b"]
    assert len(qrels) == 1


def test_judgements_are_a_copy() -> None:
    """A value does not change with what it was made from."""
    given = {"q": {"d": 1}}
    qrels = Qrels(given)
    given["q"]["d"] = 5
    assert qrels["q"]["d"] == 1
    assert repr(qrels) == "Qrels(1 queries, 1 judgements)"


def test_only_some_queries() -> None:
    """The others are left out, in the same order."""
    qrels = Qrels({"a": {"d": 1}, "b": {"d": 0}, "c": {"d": 2}})
    assert qrels.only({"c", "a"}) == {"a": {"d": 1}, "c": {"d": 2}}


def test_written_judgements_read_back(tmp_path: Path) -> None:
    """TREC's columns hold everything but white space in ids."""
    qrels = Qrels({"q1": {"d1": 2, "d2": 0}, "q2": {"d1": -1}})
    stream = io.StringIO()
    write_qrels(stream, qrels)
    (tmp_path / "q.trec").write_text(stream.getvalue())
    assert read_qrels(tmp_path / "q.trec") == qrels
    with pytest.raises(InvalidInput, match="white space"):
        write_qrels(io.StringIO(), Qrels({"q": {"a b": 1}}))


def test_reads_json_lines(tmp_path: Path) -> None:
    """One object a judgement; whole numbers for ids are taken by their digits."""
    rows = [{"query_id": "q", "doc_id": "a", "relevance": 2}, {"query_id": "q", "doc_id": "b", "relevance": 0.0}]
    rows.append({"query_id": 7, "doc_id": 12, "relevance": 1})
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_qrels(tmp_path / "q.jsonl") == {"q": {"a": 2, "b": 0}, "7": {"12": 1}}


@pytest.mark.parametrize(
    "row",
    [
        {"query_id": 1.5, "doc_id": "a", "relevance": 1},
        {"query_id": "q", "doc_id": True, "relevance": 1},
        {"query_id": "q", "doc_id": " ", "relevance": 1},
        {"query_id": "q", "doc_id": "a"},
        {"query_id": "q", "doc_id": "a", "relevance": "1"},
        {"query_id": "q", "doc_id": "a", "relevance": 0.5},
        {"query_id": "q", "doc_id": "a", "relevance": float("nan")},
    ],
)
def test_a_bad_json_judgement_is_named(tmp_path: Path, row: dict[str, Any]) -> None:
    """With file and line."""
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    with pytest.raises(InvalidInput, match=r"q\.jsonl:1: "):
        read_qrels(tmp_path / "q.jsonl")


@pytest.mark.parametrize("line", ["q1\t\t1", "\td1\t1"])
def test_an_empty_id_in_a_table_is_refused(tmp_path: Path, line: str) -> None:
    """An empty column is a broken table, not a document."""
    (tmp_path / "q.tsv").write_text(HEADER + line + "\n")
    with pytest.raises(InvalidInput, match="an id is empty"):
        read_qrels(tmp_path / "q.tsv")


def test_an_id_is_a_str_with_something_in_it() -> None:
    """Anything else is refused with its type."""
    assert string_id("7", "query") == "7"
    with pytest.raises(InvalidInput, match="query id 7 is int, not str"):
        string_id(7, "query")
    with pytest.raises(InvalidInput, match="document id is empty"):
        string_id("", "document")


@pytest.mark.parametrize("bad", ["", " ", "a b", "a\t", "\u00a0"])
def test_a_column_has_no_white_space(bad: str) -> None:
    """It would shift the columns after it."""
    assert column_of("a-1") == "a-1"
    with pytest.raises(InvalidInput, match="white space"):
        column_of(bad)


pytest.importorskip("haystack")


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


def test_queries_without_an_answer_are_asked_where_that_is_wanted(folder: Path) -> None:
    """In their place among the others; the judgements are the same, and those that nobody judged stay out."""
    with (folder / "queries.jsonl").open("a") as queries:
        queries.write('{"_id": "unjudged", "text": "text"}\n')
    found = judged_queries(folder, "test")
    every = found.with_unanswered()
    assert list(every.texts) == ["a", "b", "c"]
    assert (every.qrels, every.textless) == (found.qrels, ())
    assert list(every.limited(2).texts) == ["a", "b"]


def test_other_judgements_can_be_given(folder: Path) -> None:
    """--qrels replaces the folder's judgements."""
    other = folder / "other.txt"
    other.write_text("b 0 d 1\n")
    assert list(judged_queries(folder, "nonsense", other).texts) == ["b"]


def test_a_judged_query_without_text_is_left_out_and_named(folder: Path) -> None:
    """It was never asked: the same in a folder and in files of queries and judgements, never a silent 0."""
    with (folder / "qrels" / "test.tsv").open("a") as qrels:
        qrels.write("x\td\t1\n")
    for found in (judged_queries(folder, "test"),
                  listed_queries(folder / "queries.jsonl", folder / "qrels" / "test.tsv")):  # fmt: skip
        assert found.textless == found.limited(1).textless == ("x",)
        assert found.qrels is not None
        assert found.qrels.with_relevant == ["c", "a"]
        assert found.note == "1 judged queries have no text, so they are left out (x)"
    (folder / "qrels" / "test.tsv").write_text("x\td\t1\n")
    with pytest.raises(InvalidInput, match="none of its 1 judged queries has a text"):
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
