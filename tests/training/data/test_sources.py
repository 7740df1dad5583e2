"""One function for all sources: the right reader is picked, and an argument that does not fit is refused."""

from __future__ import annotations

import gzip
import json
import logging
import math
from collections import UserDict
from itertools import count, islice
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from secondpass.errors import InvalidInput
from secondpass.evaluation.pairs.evaluator import InputExample
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.training.data.groups import Group
from secondpass.training.data.rows import Row, items_of
from secondpass.training.data.sources import GroupStream, each, judged_groups, read_groups
from tests.small_collection import write_json_lines

ROWS = [{"query": "q1", "document": "a", "label": 1}, {"query": "q2", "document": "b, c", "label": 0}]
JSON = "\n".join(map(json.dumps, ROWS))
TABLES = {
    "t.jsonl": JSON,
    "t.ndjson.gz": JSON,
    "t.json": json.dumps(ROWS),
    "t.csv": 'query,document,label\nq1,a,1\nq2,"b, c",0\n',
    "t.CSV": 'query,document,label\nq1,a,1\nq2,"b, c",0\n',
    "t.tsv.gz": "query\tdocument\tlabel\nq1\ta\t1\nq2\tb, c\t0\n",
}


def content(groups):
    """Give what was read without where."""
    return [(group.query, group.documents, group.labels) for group in groups]


WANTED = [("q1", ("a",), (1.0,)), ("q2", ("b, c",), (0.0,))]


def put(folder, name, text):
    """Write a file with its folder, packed if its name says so."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.fixture
def beir(tmp_path):
    """A collection in BEIR's layout with two splits."""
    put(tmp_path, "corpus.jsonl.gz", "\n".join(json.dumps({"_id": d, "title": "", "text": d * 3}) for d in "abc"))
    put(tmp_path, "queries.jsonl", "\n".join(json.dumps({"_id": q, "text": f"query {q}"}) for q in "123"))
    put(tmp_path, "qrels/train.tsv", "query-id\tcorpus-id\tscore\n1\ta\t2\n1\tb\t0\n")
    put(tmp_path, "qrels/dev.tsv.gz", "query-id\tcorpus-id\tscore\n2\tc\t1\n")
    return tmp_path


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("kind", [str, Path])
def test_tables(tmp_path, name, kind):
    """By the name's ending, in either case, packed or not."""
    path = put(tmp_path, name, TABLES[name])
    groups = list(read_groups(kind(path)))
    assert content(groups) == WANTED
    assert all(group.source.startswith(str(path)) for group in groups)


def test_parquet(tmp_path):
    """Only the columns of the layout are asked for; others may hold anything."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [row | {"blob": b"\x00"} for row in ROWS]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    groups = list(read_groups(tmp_path / "t.parquet"))
    assert content(groups) == WANTED
    assert groups[1].source == f"{tmp_path / 't.parquet'} row 2"
    parquet.write_table(pyarrow.table({"a": ["x"], "b": ["y"]}), tmp_path / "u.parquet")
    with pytest.raises(InvalidInput, match=r"u\.parquet: the columns 'a', 'b' form none"):
        list(read_groups(tmp_path / "u.parquet"))
    named = read_groups(tmp_path / "u.parquet", columns={"query": "a", "positive": "b"})
    assert content(named) == [("x", ("y",), (1.0,))]


def test_columns_quotation_and_threshold_are_passed_on(tmp_path):
    """Each option reaches the part that reads."""
    path = put(tmp_path, "t.tsv", 'frage\ttext\tnote\n"a ""b"""\tc\t3\n')
    columns = {"query": "frage", "label": "note"}
    assert content(read_groups(path, columns=columns, relevant_from=3)) == [('"a ""b"""', ("c",), (1.0,))]
    assert content(read_groups(path, columns=columns, quoted=True)) == [('a "b"', ("c",), (3.0,))]


def test_folders_of_a_collection(beir):
    """The judgements of the split that is named."""
    assert list(read_groups(str(beir))) == [
        Group("query 1", ("aaa", "bbb"), (2.0, 0.0), f"{beir / 'qrels' / 'train.tsv'} query '1'", "1", ("a", "b"))
    ]
    assert content(read_groups(beir, split="dev")) == [("query 2", ("ccc",), (1.0,))]
    assert content(read_groups(beir, relevant_from=2)) == [("query 1", ("aaa", "bbb"), (1.0, 0.0))]
    with pytest.raises(InvalidInput, match=r"no qrels/test\.tsv; its splits are dev, train"):
        read_groups(beir, split="test")


def test_judgements_in_files_of_their_own(beir, tmp_path):
    """TREC's columns with a corpus and queries elsewhere, in files or in memory."""
    path = put(tmp_path, "my.qrels", "1 0 a 3\n1 0 c 0\n")
    wanted = [("query 1", ("aaa", "ccc"), (3.0, 0.0))]
    assert content(read_groups(path, corpus=beir, queries=beir / "queries.jsonl")) == wanted
    assert content(read_groups(path, corpus={"a": "aaa", "c": "ccc"}, queries={"1": "query 1"})) == wanted
    qrels = Qrels({"1": {"a": 3, "c": 0}})
    assert content(read_groups(qrels, corpus=str(beir / "corpus.jsonl.gz"), queries={"1": "query 1"})) == wanted
    replaced = read_groups(beir, corpus={"a": "x", "b": "y"})
    assert content(replaced) == [("query 1", ("x", "y"), (2.0, 0.0))]


def test_a_query_is_no_unjudged_negative_of_its_own(beir):
    """A BEIR folder's document under the query's id is the query, as in evaluation; elsewhere ids say nothing."""
    run = Run.from_scores("bm25", {"1": {"1": 2, "c": 1}})
    texts = {"a": "aaa", "b": "bbb", "c": "ccc", "1": "query 1 whole"}
    found = content(read_groups(beir, corpus=texts, run=run, unjudged_negatives=1))
    assert found == [("query 1", ("aaa", "bbb", "ccc"), (2.0, 0.0, 0.0))]
    qrels = Qrels({"1": {"a": 2}})
    (other,) = read_groups(qrels, corpus=texts, queries={"1": "query 1"}, run=run, unjudged_negatives=1)
    assert other.document_ids == ("a", "1")


def test_unjudged_documents_only_when_asked(beir, tmp_path):
    """A run in a file or as an object; without a number it would do nothing, which is refused."""
    path = put(tmp_path, "bm25.trec", "1 Q0 c 1 9.5 bm25\n1 Q0 a 2 9.1 bm25\n")
    wanted = [("query 1", ("aaa", "bbb", "ccc"), (2.0, 0.0, 0.0))]
    assert content(read_groups(beir, run=str(path), unjudged_negatives=3)) == wanted
    run = Run.from_scores("bm25", {"1": {"c": 1}})
    assert content(read_groups(beir, run=run, unjudged_negatives=1)) == wanted
    for arguments in ({"run": run}, {"unjudged_negatives": 2}):
        with pytest.raises(InvalidInput, match="run and unjudged_negatives go together"):
            read_groups(beir, **arguments)
    with pytest.raises(InvalidInput, match="unjudged_negatives=-1"):
        read_groups(beir, run=run, unjudged_negatives=-1)


def test_folders_of_tables(tmp_path):
    """One table a split, or its shards in order."""
    put(tmp_path, "train.tsv", TABLES["t.tsv.gz"])
    put(tmp_path, "README.md", "words")
    put(tmp_path, "dev-00001-of-00002.jsonl", json.dumps(ROWS[1]))
    put(tmp_path, "dev-00000-of-00002.jsonl", json.dumps(ROWS[0]))
    assert content(read_groups(tmp_path)) == WANTED
    assert content(read_groups(tmp_path, split="dev")) == WANTED
    with pytest.raises(InvalidInput, match=r"no test\.jsonl, \.csv"):
        read_groups(tmp_path, split="test")
    put(tmp_path, "train.csv.gz", TABLES["t.csv"])
    with pytest.raises(InvalidInput, match=r"more than one table of 'train': train\.csv\.gz, train\.tsv"):
        read_groups(tmp_path)
    (tmp_path / "dev-00001-of-00002.jsonl").unlink()
    with pytest.raises(InvalidInput, match="1 shards, not the 00002"):
        read_groups(tmp_path, split="dev")


def test_objects():
    """Lists of rows and of examples, groups, and a mapping of splits."""
    assert content(read_groups(ROWS)) == WANTED
    assert content(read_groups({"train": ROWS, "test": []})) == WANTED
    examples = [InputExample(texts=[row["query"], row["document"]], label=row["label"]) for row in ROWS]
    assert content(read_groups(examples)) == WANTED
    assert content(read_groups(read_groups(iter(ROWS)))) == WANTED


def test_dataset_dict():
    """The split of a DatasetDict."""
    datasets = pytest.importorskip("datasets")
    both = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS), "dev": datasets.Dataset.from_list(ROWS[:1])}
    )
    assert content(read_groups(both)) == WANTED
    assert content(read_groups(both, split="dev")) == WANTED[:1]
    with pytest.raises(InvalidInput, match="no split 'test' among 'train', 'dev'"):
        read_groups(both, split="test")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"source": "absent.jsonl"}, r"absent\.jsonl: no such file"),
        ({"source": " "}, "source is blank"),
        ({"source": 5}, "source is int, neither"),
        ({"source": None}, "source is NoneType, neither"),
        ({"source": ROWS, "corpus": {}}, "corpus and queries go with judgements"),
        ({"source": ROWS, "quoted": True}, r"quoted goes with \.csv and \.tsv files only"),
        ({"source": ROWS, "run": "r"}, "run goes with judgements only"),
        ({"source": ROWS, "unjudged_negatives": 3}, "unjudged_negatives goes with judgements only"),
        ({"source": ROWS, "relevant_from": float("nan")}, "relevant_from=nan is not a finite number"),
        ({"source": ROWS, "relevant_from": "2"}, "relevant_from='2' is not a finite number"),
        ({"source": ROWS, "columns": {"q": "x"}}, "columns: 'q' is none of"),
        ({"source": Qrels({})}, "judgements need both corpus and queries"),
        ({"source": Qrels({}), "corpus": {}}, "judgements need both corpus and queries"),
        (
            {"source": Qrels({}), "corpus": {}, "queries": {}, "columns": {"query": "x"}},
            "columns goes with a table only",
        ),
        ({"source": Qrels({}), "corpus": {}, "queries": {}, "quoted": False}, "quoted goes with a table only"),
    ],
)
def test_refused_arguments(arguments, words):
    """Said at once, not with the first row."""
    with pytest.raises(InvalidInput, match=words):
        read_groups(**arguments)


def test_refused_files(tmp_path):
    """A file of another kind, judgements without texts, and options of another kind of file."""
    path = put(tmp_path, "t.txt", "1 0 a 1\n")
    with pytest.raises(InvalidInput, match=r"t\.txt: neither \.jsonl, .* nor judgements with corpus and queries"):
        read_groups(path)
    with pytest.raises(InvalidInput, match="judgements need both"):
        read_groups(path, queries={"1": "q"})
    with pytest.raises(InvalidInput, match="quoted goes with"):
        read_groups(put(tmp_path, "t.jsonl", JSON), quoted=True)
    with pytest.raises(InvalidInput, match="no qrels in it"):
        read_groups(tmp_path, corpus={}, queries={})


def test_all_collections_can_be_read(data_folder):
    """Real collections and pair sets in both layouts, every group with texts and labels."""
    groups = list(read_groups(data_folder / "medquad"))
    assert (len(groups), sum(map(len, groups))) == (11_454, 13_001)
    trecqa = list(read_groups(data_folder / "trecqa"))
    assert sum(map(len, trecqa)) == len((data_folder / "trecqa" / "qrels" / "train.tsv").read_text().splitlines()) - 1
    assert {label for group in trecqa for label in group.labels} == {0.0, 1.0}
    similar = list(read_groups(data_folder / "pairs" / "stsb"))
    assert len(similar) == 5_749
    assert {0.0, 4.75, 5.0} <= {group.labels[0] for group in similar}
    assert all(group.query and group.documents[0] for group in groups + trecqa + similar)


def test_mappings_examples_and_groups():
    """Elements of every kind in one list; a row is named by its index."""
    group = Group("q", ("a",), (1.0,), "here")
    mapping = UserDict(query="q", document="a", label=1)
    items = list(items_of([{"a": 1}, mapping, InputExample("g", ["q", "d"], np.float32(0.5)), group]))
    assert items == [Row("rows[0]", {"a": 1}), Row("rows[1]", mapping), items[2], group]
    assert items[2] == Group("q", ("d",), (0.5,), "rows[2] (guid 'g')")


@pytest.mark.parametrize("source", ["text", b"bytes", {"a": 1}, {1, 2}, 5, None, object()])
def test_what_is_no_source(source):
    """Characters, keys and things without an order are no rows."""
    with pytest.raises(InvalidInput, match=f"source is {type(source).__name__}, neither a file"):
        items_of(source)


@pytest.mark.parametrize(
    ("element", "words"),
    [
        ("text", r"rows\[0\] is str, neither a mapping of columns nor an InputExample"),
        (("q", "d", 1), r"rows\[0\] is tuple"),
        (None, r"rows\[0\] is NoneType"),
        (InputExample(texts=["q"], label=1), r"rows\[0\]: texts is no list of two str"),
        (InputExample("g", None, 1), r"rows\[0\] \(guid 'g'\): texts is no list of two str"),
        (InputExample("g", "qd", 1), r"rows\[0\] \(guid 'g'\): texts is no list of two str"),
        (InputExample("g", ["q", 5], 1), r"rows\[0\] \(guid 'g'\): texts is no list of two str"),
        (InputExample("g", ["q", "d"], "1"), r"rows\[0\] \(guid 'g'\) has a label of type str, not a number"),
    ],
)
def test_bad_elements_stand_in_their_place(element, words):
    """An error in place of the row, and the next row behind it."""
    error, row = items_of([element, {"a": 1}])
    with pytest.raises(InvalidInput, match=words):
        raise error
    assert row == Row("rows[1]", {"a": 1})


def test_endless_iterables_are_streamed():
    """Nothing is collected first."""
    items = items_of({"n": n} for n in count())
    assert [item.values for item in islice(items, 3)] == [{"n": 0}, {"n": 1}, {"n": 2}]


@pytest.mark.parametrize("kind", ["whole", "numpy", "torch", "streamed"])
def test_datasets_of_hugging_face(kind):
    """In memory, in a format of arrays, and streamed: the same groups."""
    datasets = pytest.importorskip("datasets")
    row = {"query": "q", "documents": ["a", "b"], "labels": [1, 0], "lang": "en"}
    dataset = datasets.Dataset.from_list([row] * 3)
    dataset = dataset.to_iterable_dataset() if kind == "streamed" else dataset
    dataset = dataset.with_format(kind) if kind in {"numpy", "torch"} else dataset
    assert list(GroupStream(items_of(dataset), {})) == [
        Group("q", ("a", "b"), (1.0, 0.0), f"rows[{n}]") for n in range(3)
    ]


QRELS = Qrels({"2": {"b": 2, "a": 0, "c": -2}, "1": {"a": 1}})
QUERIES = {"1": "one", "2": "two", "3": "not judged"}
CORPUS = {name: f"text {name}" for name in "abcde"}


def test_grades_are_labels():
    """In the order of the judgements; grade 0 stays as judged and not relevant, below 0 is 0."""
    assert list(judged_groups(QRELS, QUERIES, CORPUS, source="f")) == [
        Group("two", ("text b", "text a", "text c"), (2.0, 0.0, 0.0), "f query '2'", "2", ("b", "a", "c")),
        Group("one", ("text a",), (1.0,), "f query '1'", "1", ("a",)),
    ]


def test_files_give_the_same(tmp_path):
    """A corpus and queries in files, titles joined to texts as everywhere."""
    corpus, queries = tmp_path / "corpus.jsonl", tmp_path / "queries.jsonl"
    lines = [{"_id": name, "title": "text" * (name != "b"), "text": name} for name in CORPUS]
    corpus.write_text("\n".join(map(json.dumps, lines)))
    queries.write_text("\n".join(json.dumps({"_id": name, "text": text}) for name, text in QUERIES.items()))
    found = list(judged_groups(QRELS, queries, corpus, source="f"))
    assert found[1] == next(g for g in judged_groups(QRELS, QUERIES, CORPUS, source="f") if g.query_id == "1")
    assert found[0].documents == ("b", "text a", "text c")


def test_unjudged_documents_of_a_run_as_negatives():
    """From the top of the run, so many as asked, never one that was judged; a query without a ranking gets none."""
    run = Run.from_scores("bm25", {"2": {"a": 9, "d": 8, "b": 7, "e": 6}, "3": {"a": 1}})
    one, other = judged_groups(QRELS, QUERIES, CORPUS, source="f", run=run, unjudged_negatives=1)
    assert (one.document_ids, one.labels) == (("b", "a", "c", "d"), (2.0, 0.0, 0.0, 0.0))
    assert one.documents[3] == "text d"
    assert other.document_ids == ("a",)
    one, _ = judged_groups(QRELS, QUERIES, CORPUS, source="f", run=run, unjudged_negatives=50)
    assert one.document_ids == ("b", "a", "c", "d", "e")


@pytest.mark.parametrize(
    ("queries", "corpus", "words"),
    [
        ({"1": "one"}, CORPUS, r"f: 1 queries have no text: '2'$"),
        (QUERIES, {"a": "x"}, r"f: 2 documents have no text: 'b', 'c'$"),
        (QUERIES, {}, r"f: 3 documents have no text: 'b', 'a', 'c'$"),
    ],
)
def test_unknown_ids_are_named(queries, corpus, words):
    """A judgement without its text is no training data that may vanish."""
    with pytest.raises(InvalidInput, match=words):
        list(judged_groups(QRELS, queries, corpus, source="f"))


def test_many_unknown_ids_are_counted():
    """The first five are shown."""
    qrels = Qrels({"1": {f"d{n}": 1 for n in range(30)}})
    with pytest.raises(InvalidInput, match=r"f: 30 documents have no text: 'd0', 'd1', 'd2', 'd3', 'd4', …$"):
        list(judged_groups(qrels, QUERIES, CORPUS, source="f"))


def test_documents_of_a_run_without_text_are_named():
    """The run was made on another corpus."""
    run = Run.from_scores("bm25", {"1": {"x9": 1}})
    with pytest.raises(InvalidInput, match="f: 1 documents have no text: 'x9'"):
        list(judged_groups(QRELS, QUERIES, CORPUS, source="f", run=run, unjudged_negatives=2))


def test_rows_of_mixed_shapes():
    """Each row is understood by its own columns; a group passes as it is."""
    given = Group("q3", ("e",), (1.0,), "here")
    items = [
        Row("f:1", {"query": "q1", "document": "a", "label": 1}),
        Row("f:2", {"query": "q2", "positive": "b", "negative": "c"}),
        given,
        Row("f:3", {"label": 0, "document": "d", "query": "q1"}),
    ]
    assert list(GroupStream(iter(items), {})) == [
        Group("q1", ("a",), (1.0,), "f:1"),
        Group("q2", ("b", "c"), (1.0, 0.0), "f:2"),
        given,
        Group("q1", ("d",), (0.0,), "f:3"),
    ]


def test_reading_goes_on_behind_a_bad_row():
    """So a check can name the second fault too."""
    good = Row("f:1", {"query": "q", "document": "a", "label": 1})
    items = [good, InvalidInput("f:2: broken"), Row("f:3", {"query": "q"}), Row("f:4", {**good.values, "label": "x"})]
    stream = GroupStream(iter([*items, good]), {})
    assert next(stream).source == "f:1"
    for start in ("f:2: broken", "f:3: the columns 'query'", "f:4: column 'label'"):
        with pytest.raises(InvalidInput, match=start):
            next(stream)
    assert next(stream).source == "f:1"
    assert next(stream, None) is None


def test_nothing_is_read_ahead():
    """An endless source is no harm: a row is held at a time."""
    rows = (Row(f"f:{n}", {"query": "q", "document": "a", "label": n % 2}) for n in count(1))
    assert [group.source for group in islice(GroupStream(rows, {}), 3)] == ["f:1", "f:2", "f:3"]
    assert next(rows).source == "f:4"


def test_grades_to_relevance():
    """From the threshold on 1, below it 0; NaN stays NaN, for the check to refuse."""
    row = Row("f:1", {"query": "q", "documents": ["a", "b", "c", "d"], "labels": [0, 1.5, 2, math.nan]})
    labels = next(GroupStream(iter([row]), {}, relevant_from=1.5)).labels
    assert labels[:3] == (0.0, 1.0, 1.0)
    assert math.isnan(labels[3])


def test_columns_that_are_not_read_are_told(caplog):
    """Once, with the first row."""
    rows = [Row("f:1", {"query": "q", "document": "a", "label": 1, "lang": "en"})] * 3
    with caplog.at_level(logging.INFO):
        list(GroupStream(iter(rows), {}))
    assert caplog.messages == ["f:1: columns query, document, label; not read: lang"]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("s.csv", "query;document;clicked", "3 columns by semicolons; it is read as columns by commas"),
        ("s.csv", '"query";"document";"clicked"', "3 columns by semicolons"),
        ("s.csv", "query\tdocument", "2 columns by tabs"),
        ("s.tsv", "query,document,clicked", "3 columns by commas; it is read as columns by tabs"),
        ("s.tsv", "query|document|clicked", "3 columns by bars"),
        ("ids.csv", "qid;pid;clicked", "3 columns by semicolons"),
    ],
)
def test_another_separator_is_named(tmp_path, name, text, reason):
    """A header in one piece is refused with what separates it and what should."""
    (tmp_path / name).write_text(f"{text}\n")
    beside = {"corpus": {"d": "x"}, "queries": {"q": "x"}} if name == "ids.csv" else {}
    with pytest.raises(InvalidInput, match=rf"{name}:1: {reason}"):
        list(read_groups(tmp_path / name, **beside))


CLICKED = {"query_id": ["2", "1"], "doc_id": ["c", "a"], "clicks": [0, 3]}


def click_log(tmp_path, form: str):
    """The same log as a file of that form."""
    file = tmp_path / f"clicks.{form}"
    if form == "parquet":
        parquet.write_table(pyarrow.table(CLICKED), file)
    elif form == "jsonl":
        rows = [dict(zip(CLICKED, row, strict=True)) for row in zip(*CLICKED.values(), strict=True)]
        write_json_lines(file, rows)
    else:
        mark = {"csv": ",", "tsv": "\t"}[form]
        rows = [tuple(CLICKED), *zip(*CLICKED.values(), strict=True)]
        file.write_text("".join(mark.join(map(str, row)) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "jsonl"])
def test_clicks_with_ids(tmp_path, form):
    """A table of ids gets its texts from corpus and queries, and keeps the ids."""
    queries, corpus = {"1": "one", "2": "two"}, {"a": "A", "c": "C"}
    found = list(read_groups(click_log(tmp_path, form), queries=queries, corpus=corpus))
    assert [(group.query, group.documents, group.labels) for group in found] == [
        ("two", ("C",), (0.0,)),
        ("one", ("A",), (3.0,)),
    ]
    assert [(group.query_id, group.document_ids) for group in found] == [("2", ("c",)), ("1", ("a",))]
    with pytest.raises(InvalidInput, match="1 documents have no text: 'c'"):
        list(read_groups(click_log(tmp_path, form), queries=queries, corpus={"a": "A"}))


def test_triples_without_a_header(tmp_path):
    """MS MARCO's triples of texts, and of ids by their file's name; a header of three names stays a header."""
    texts = tmp_path / "triples.train.small.tsv"
    texts.write_text('what is a cat\tA cat is an animal.\t"A dog is one too\nwhy\tpositive\tnegative\n')
    found = list(read_groups(texts))
    assert [(group.query, group.documents, group.labels) for group in found] == [
        ("what is a cat", ("A cat is an animal.", '"A dog is one too'), (1.0, 0.0)),
        ("why", ("positive", "negative"), (1.0, 0.0)),
    ]
    ids = tmp_path / "qidpidtriples.train.full.2.tsv.gz"
    with gzip.open(ids, "wt") as out:
        out.write("1\t20\t30\n")
    (group,) = read_groups(ids, queries={"1": "one"}, corpus={"20": "twenty", "30": "thirty"})
    assert (group.query, group.documents, group.labels) == ("one", ("twenty", "thirty"), (1.0, 0.0))
    with pytest.raises(InvalidInput, match="triples of ids"):
        list(read_groups(ids))
    named = tmp_path / "named.tsv"
    named.write_text("ask\tgood\tbad\nq\ta\tb\n")
    with pytest.raises(InvalidInput, match="'ask', 'good', 'bad'"):
        list(read_groups(named))


def test_columns_that_cannot_be_understood_are_refused_once(tmp_path):
    """However many rows have them; other rows of the file are read."""
    rows = [{"a": 1, "b": 2}] * 3 + [{"query": "q", "document": "d", "label": 1}]
    said = [item for item in each(read_groups(rows)) if isinstance(item, InvalidInput)]
    assert [str(error).partition(":")[0] for error in said] == ["rows[0]"]
    assert len(list(each(read_groups(rows)))) == 2
