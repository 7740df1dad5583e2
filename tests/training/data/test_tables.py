"""Tables from files: what is read, row by row, and how a broken file is named."""

from __future__ import annotations

import csv
import gzip
import sys

import pytest

from secondpass.errors import InvalidInput, MissingExtra
from secondpass.training.data.sources import LARGEST_FIELD, read_delimited_rows, read_json_rows, read_parquet_rows


def written(folder, name, content):
    """Write a file, packed if its name says so."""
    raw = content if isinstance(content, bytes) else content.encode()
    path = folder / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def plain(rows):
    """Source behind the folder, and values; errors as text."""
    return [
        (row.source.rpartition("/")[2], dict(row.values))
        if not isinstance(row, InvalidInput)
        else str(row).rpartition("/")[2]
        for row in rows
    ]


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.ndjson", "t.json", "t.json.gz"])
def test_json_lines(tmp_path, name):
    """An object a line; blank lines count as lines but not as rows, a byte order mark is none of the text."""
    path = written(tmp_path, name, '\ufeff{"a": 1}\n\n{"a": "\\u00e9\\u2028", "b": null}\r\n')
    assert plain(read_json_rows(path)) == [(f"{name}:1", {"a": 1}), (f"{name}:3", {"a": "é\u2028", "b": None})]


def test_bad_json_lines_stand_in_their_place(tmp_path):
    """The rows around a broken one are still read."""
    path = written(tmp_path, "t.jsonl", '{"a": 1}\n{"a": \n[1]\n{"a": 2}\n')
    assert plain(read_json_rows(path)) == [
        ("t.jsonl:1", {"a": 1}),
        "t.jsonl:2: not JSON: Expecting value at column 7",
        "t.jsonl:3: a JSON array, not an object",
        ("t.jsonl:4", {"a": 2}),
    ]


def test_a_json_array(tmp_path):
    """Many datasets come as one array, over lines or in one."""
    path = written(tmp_path, "t.json", '\n [{"a": 1},\n\n {"a":\n 2}, 3]')
    assert plain(read_json_rows(path)) == [
        ("t.json row 1", {"a": 1}),
        ("t.json row 2", {"a": 2}),
        "t.json row 3: int, not an object",
    ]
    with pytest.raises(InvalidInput, match=r"t\.json:4: not JSON: .* at column 2"):
        list(read_json_rows(written(tmp_path, "t.json", '[{"a": 1},\n\n\n x]')))


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_quoted_fields(tmp_path, name):
    """Delimiters, doubled quotation marks, blank lines and line ends inside; a row is named by its first line."""
    path = written(tmp_path, name, '\ufeffq, d\r\n"a, b","say ""x""\n\ny"\r\n\r\nc,"d"\r\n')
    assert plain(read_delimited_rows(path, ",", True)) == [
        (f"{name}:2", {"q": "a, b", "d": 'say "x"\n\ny'}),
        (f"{name}:6", {"q": "c", "d": "d"}),
    ]


def test_fields_without_quotation(tmp_path):
    """A quotation mark is then a character: an odd one swallows no lines."""
    path = written(tmp_path, "t.tsv", 'q\td\n"a\tb"c\n"d"\t5" disk\n')
    assert plain(read_delimited_rows(path, "\t", False)) == [
        ("t.tsv:2", {"q": '"a', "d": 'b"c'}),
        ("t.tsv:3", {"q": '"d"', "d": '5" disk'}),
    ]


def test_long_documents(tmp_path):
    """The csv module's own limit of 131,072 characters does not hold; another caller's higher one stays."""
    long = "x" * 400_000
    path = written(tmp_path, "t.csv", f"q,d\na,{long}\n")
    assert plain(read_delimited_rows(path, ",", True)) == [("t.csv:2", {"q": "a", "d": long})]
    before = csv.field_size_limit(LARGEST_FIELD * 2)
    try:
        list(read_delimited_rows(path, ",", True))
        assert csv.field_size_limit() == LARGEST_FIELD * 2
    finally:
        csv.field_size_limit(before)


def test_bad_rows_of_a_table_stand_in_their_place(tmp_path):
    """Too many columns, too few, a broken quotation: each by its line, and the good rows around them."""
    path = written(tmp_path, "t.csv", 'q,d\na,b,c\na\na,b\n"a"b,c\nc,d\n')
    assert plain(read_delimited_rows(path, ",", True)) == [
        "t.csv:2: 3 columns where the header has 2",
        "t.csv:3: 1 columns where the header has 2",
        ("t.csv:4", {"q": "a", "d": "b"}),
        "t.csv:5: ',' expected after '\"'",
        ("t.csv:6", {"q": "c", "d": "d"}),
    ]


def test_a_lone_carriage_return_is_part_of_its_text(tmp_path):
    """Only a line feed, perhaps behind a carriage return, ends a line, with and without quotation."""
    path = written(tmp_path, "t.tsv", "q\td\r\na\tb\rc\r\n\rd\te\r\r\n")
    assert plain(read_delimited_rows(path, "\t", False)) == [
        ("t.tsv:2", {"q": "a", "d": "b\rc"}),
        ("t.tsv:3", {"q": "\rd", "d": "e\r"}),
    ]
    path = written(tmp_path, "t.csv", 'q,d\na\rb,"c\rd\r\ne"\nf,g\n')
    assert plain(read_delimited_rows(path, ",", True)) == [
        ("t.csv:2", {"q": "a\rb", "d": "c\rd\r\ne"}),
        ("t.csv:4", {"q": "f", "d": "g"}),
    ]


def test_a_quotation_that_never_ends(tmp_path):
    """It is named by the line on which it begins, not by the end of the file."""
    path = written(tmp_path, "t.csv", 'q,d\na,b\nc,"d\ne,f\n')
    assert plain(read_delimited_rows(path, ",", True))[1] == "t.csv:3: unexpected end of data"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", r"t\.csv: no header"),
        ("\n\n", r"t\.csv: no header"),
        ("q,d,q\n", r"t\.csv:1: the header names the column 'q' twice"),
        ('"q,d\n', r"t\.csv:1: unexpected end of data"),
        (b"q,d\na,b\nc,\xff\n", r"t\.csv:3: not UTF-8: byte 0xff at position 3"),
        ("q,d\n".encode("utf-16"), r"t\.csv:1: not UTF-8"),
    ],
)
def test_refused_tables(tmp_path, content, words):
    """A file that is no such table."""
    with pytest.raises(InvalidInput, match=words):
        list(read_delimited_rows(written(tmp_path, "t.csv", content), ",", True))


def test_columns_without_a_name(tmp_path):
    """An index column as pandas writes it does no harm."""
    path = written(tmp_path, "t.csv", ",,q\n0,1,a\n")
    assert plain(read_delimited_rows(path, ",", True)) == [("t.csv:2", {"": "1", "q": "a"})]


@pytest.mark.parametrize("read", [lambda path: read_delimited_rows(path, ",", True), read_json_rows])
def test_files_that_are_absent_or_cut_short(tmp_path, read):
    """No such file, no gzip, and a gzip that ends too soon; rows before the end are given."""
    with pytest.raises(InvalidInput, match="no such file"):
        next(read(tmp_path / "absent.gz"))
    (tmp_path / "no.gz").write_bytes(b"q,d\na,b\n")
    with pytest.raises(InvalidInput, match=r"no\.gz:1: cannot be read"):
        list(read(tmp_path / "no.gz"))
    lines = b"".join(b'{"q": %d}\n' % number for number in range(3000))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(lines)[:-200])
    with pytest.raises(InvalidInput, match=r"cut\.gz:\d+: cannot be read"):
        list(read(tmp_path / "cut.gz"))


def wanted_of(*names):
    """Ask for some columns, whatever there is."""
    return lambda found: [name for name in found if name in names]


def test_parquet(tmp_path):
    """Lists and objects come through, columns that are not wanted are not read, and rows are numbered over batches."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"query": f"q{n}", "documents": ["a", "é"], "labels": [n, 0.5], "x": {"y": n}} for n in range(700)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=300)
    found = plain(read_parquet_rows(tmp_path / "t.parquet", wanted_of("query", "labels", "documents")))
    assert found[699] == ("t.parquet row 700", {"query": "q699", "documents": ["a", "é"], "labels": [699.0, 0.5]})
    assert len(found) == 700
    dotted = pyarrow.table({"a.b": [1], "c": [2]})
    parquet.write_table(dotted, tmp_path / "d.parquet")
    assert plain(read_parquet_rows(tmp_path / "d.parquet", wanted_of("a.b"))) == [("d.parquet row 1", {"a.b": 1})]


def test_damaged_parquet(tmp_path):
    """No Parquet file, and one whose middle was overwritten: the row up to which it was read is named."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "no.parquet").write_bytes(b"PAR1, but no more")
    with pytest.raises(InvalidInput, match=r"no\.parquet row 1: cannot be read"):
        list(read_parquet_rows(tmp_path / "no.parquet", wanted_of("q")))
    table = pyarrow.table({"q": [f"text {n}" * 50 for n in range(5000)]})
    parquet.write_table(table, tmp_path / "t.parquet", compression="gzip", use_dictionary=False, row_group_size=1000)
    raw = bytearray((tmp_path / "t.parquet").read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 4000] = b"\xff" * 4000
    (tmp_path / "t.parquet").write_bytes(raw)
    with pytest.raises(InvalidInput, match=r"t\.parquet row \d+: cannot be read"):
        list(read_parquet_rows(tmp_path / "t.parquet", wanted_of("q")))


def test_parquet_without_its_library(tmp_path, monkeypatch):
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match="pyarrow is not installed: pip install"):
        next(read_parquet_rows(tmp_path / "t.parquet", wanted_of("q")))
