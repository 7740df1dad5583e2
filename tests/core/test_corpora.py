"""Corpora: what is read, and that every bad line is named."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest

from secondpass.corpora import (
    CorpusDocument,
    Line,
    RecordKeys,
    corpus_file,
    is_date,
    named_file,
    packaged,
    read_corpus,
    read_lines,
    read_queries,
    stream_lines,
    survey,
)
from secondpass.errors import InvalidInput


def write(path: Path, *lines: object) -> Path:
    """Write lines, a str as it is and anything else as JSON."""
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_reads_beir_folder_and_file(tmp_path: Path) -> None:
    """A BEIR folder and its corpus file give the same documents, with every other key as metadata."""
    meta = {"metadata": {"url": None}, "id": 7, "contents": "y", "score": [1]}
    file = write(tmp_path / "corpus.jsonl", {"_id": "a", "title": "T", "text": "x", **meta})
    assert list(read_corpus(tmp_path)) == list(read_corpus(file)) == [CorpusDocument("a", "T", "x", meta)]


def test_reads_gzip(tmp_path: Path) -> None:
    """A gzipped corpus is found in a folder and read as the plain one."""
    file = write(tmp_path / "plain.jsonl", {"_id": "a", "text": "é"}, {"_id": "b", "text": "y"})
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(file.read_bytes()))
    assert corpus_file(tmp_path).name == "corpus.jsonl.gz"
    assert list(read_corpus(tmp_path)) == list(read_corpus(file))


def test_content_is_title_space_text() -> None:
    """The content joins title and text by one space and has no stray space without a title or text."""
    assert CorpusDocument("a", "Title", "text").content == "Title text"
    assert CorpusDocument("a", "", "text").content == "text"
    assert CorpusDocument("a", "Title", "").content == "Title"


def test_accepts_other_names_and_whole_number_ids(tmp_path: Path) -> None:
    """The keys id and contents are read as _id and text, and a whole number is an id."""
    file = write(tmp_path / "c.jsonl", {"id": 7, "contents": "x", "title": None}, "", {"_id": "8", "text": ""})
    assert list(read_corpus(file)) == [CorpusDocument("7", "", "x"), CorpusDocument("8", "", "")]


def test_keys_of_other_names(tmp_path: Path) -> None:
    """Id, title and text are where they are said to be; the usual names are then metadata; a title that none has is
    refused.
    """
    file = write(
        tmp_path / "c.jsonl", {"url": "a", "h": None, "body": "x", "text": 1}, {"url": 2, "h": "T", "body": ""}
    )
    found = read_corpus(file, RecordKeys(id="url", title="h", text="body"))
    assert list(found) == [CorpusDocument("a", "", "x", {"text": 1}), CorpusDocument("2", "T", "")]
    for keys, said in (
        (None, r'c\.jsonl:1: no "_id"; its keys are "url", "h", "body", "text"'),
        (RecordKeys(id="url", text="b"), r'c\.jsonl:1: no "b"; its keys are'),
        (RecordKeys(id="url", text="body", title="t"), r'c\.jsonl: no line has a title under "t"'),
    ):
        with pytest.raises(InvalidInput, match=said):
            list(read_corpus(file, keys))
    many = write(tmp_path / "many.jsonl", {f"key {number}\n" + "k" * 99: 0 for number in range(30)})
    with pytest.raises(InvalidInput, match=r'"key 0\\n') as refused:
        list(read_corpus(many))
    assert len(str(refused.value).removeprefix(str(many))) < 1_100
    assert "\n" not in str(refused.value)


def test_a_table_of_ids_and_texts(tmp_path: Path) -> None:
    """MS MARCO's collection.tsv: a carriage return inside a text stays, a header is no document, more is refused."""
    file = tmp_path / "collection.tsv"
    file.write_bytes(b"\xef\xbb\xbf0\tone\rtwo \r\n\nD1\tid\n")
    expected = [CorpusDocument("0", "", "one\rtwo "), CorpusDocument("D1", "", "id")]
    assert list(read_corpus(file)) == expected
    (tmp_path / "c.TSV.gz").write_bytes(
        gzip.compress(b"docid\ttext\n" + file.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    )
    assert list(read_corpus(tmp_path / "c.TSV.gz")) == expected
    bad = {
        "0\ta\tb": "1: 3 columns by tabs",
        "0": "1: 1 column;",
        "0,a": "1: 2 columns by commas",
        " \tx": "1: no id before",
        "0\ta\n0\tb": "2: id '0'",
    }
    for line, said in bad.items():
        with pytest.raises(InvalidInput, match=rf"c\.tsv:{said}"):
            list(read_corpus(write(tmp_path / "c.tsv", line)))
    with pytest.raises(InvalidInput, match="a table of ids and texts"):
        list(read_corpus(file, RecordKeys(text="body")))


def test_the_packaged_corpus_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """secondpass/demo is a corpus, a folder and a file's folder everywhere, unless a folder of that name is there."""
    monkeypatch.chdir(tmp_path)
    name = Path("secondpass/demo")
    assert next(read_corpus(name)).text
    assert named_file(name, "queries.jsonl") == packaged(name) / "queries.jsonl"
    (tmp_path / name).mkdir(parents=True)
    assert packaged(name) == name
    with pytest.raises(InvalidInput, match=r"secondpass/demo: no corpus\.jsonl"):
        next(read_corpus(name))
    assert packaged(name, tmp_path / "elsewhere").is_dir()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1.0e400"])
@pytest.mark.parametrize("place", ['"year": {}', '"meta": {{"a": [1, {{"year": {}}}]}}', '"_refused": {{"year": {}}}'])
def test_metadata_that_json_has_not_got_is_refused(tmp_path: Path, number: str, place: str) -> None:
    """One rule for every reader, by file, line and key: an index would refuse it later, a store would keep it."""
    bad = f'{{"_id": "b", "text": "x", {place.format(number)}}}'
    (tmp_path / "c.jsonl").write_text(f'{{"_id": "a", "text": "x", "year": 1e99}}\n{bad}\n')
    key = "meta.a.year" if "meta" in place else "year"
    with pytest.raises(InvalidInput, match=rf'c\.jsonl:2: "{key}" is -?(nan|inf), which JSON and every index refuse'):
        list(read_corpus(tmp_path / "c.jsonl"))


def test_kinds_of_metadata(tmp_path: Path) -> None:
    """A whole reading tells what each key holds, a list as its elements, and whether it is the same corpus."""
    rows = [
        {"n": 1, "l": ["2024-02-29T10:00:00.5Z", None], "o": [{"b": True}, {"b": "x"}], "big": 2**63},
        {"n": 2.5, "l": [], "o": {"d": {}}, "none": None},
    ]
    found = survey(write(tmp_path / "a.jsonl", *({"_id": str(at), "text": "x", **row} for at, row in enumerate(rows))))
    assert found.kinds == {
        ("n",): {"integer", "number"},
        ("l",): {"date"},
        ("o",): {"object"},
        ("o", "b"): {"boolean", "string"},
        ("o", "d"): {"object"},
        ("big",): {"string"},
    }
    other = survey(write(tmp_path / "b.jsonl", *({"_id": str(at), "text": "x"} for at in range(2))))
    assert other.digest != found.digest
    assert other.kinds == {}
    deep = '{"_id": "a", "text": "x", "k": ' + "[" * 150 + "]" * 150 + "}"
    with pytest.raises(InvalidInput, match="document 'a': metadata \"k\" is nested more than 100 deep"):
        survey(write(tmp_path / "c.jsonl", deep))


@pytest.mark.parametrize(
    ("text", "dated"),
    [
        ("2024-02-29", True),
        ("2023-02-29", False),
        ("0000-01-01", False),
        ("2024-01-01T23:59", True),
        ("2024-01-01T24:00", False),
        ("2024-01-01T10:00:00.123456+05:30", True),
        ("2024-01-01 10:00", False),
        ("2024", False),
        ("٢٠٢٤-01-01", False),
        ("2024-01-01\n", False),
    ],
)
def test_days(text: str, dated: bool) -> None:
    """A day of the calendar that both servers read as one."""
    assert is_date(text) is dated


def test_line_separators_inside_texts_do_not_end_a_line(tmp_path: Path) -> None:
    """Only a line feed ends a line: U+2028, U+0085 and form feeds stay inside a text."""
    text = "a\u2028b\u0085c\x0cd"
    file = tmp_path / "c.jsonl"
    file.write_bytes('\ufeff{"_id": "a", "text": "a\u2028b\u0085c\\fd"}\r\n'.encode())
    assert [document.text for document in read_corpus(file)] == [text]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", "not JSON"),
        ('["a"]', "a JSON array, not an object"),
        ('"a"', "a JSON string, not an object"),
        ("[" * 200_000, "not JSON that can be read"),
        ({"text": "x"}, 'no "_id"'),
        ({"_id": None, "text": "x"}, '"_id" is null'),
        ({"_id": None, "id": "a", "text": "x"}, '"_id" is null'),
        ({"_id": "a", "text": None, "contents": "x"}, '"text" is null'),
        ({"_id": " ", "text": "x"}, "\"_id\" is ' '"),
        ({"_id": True, "text": "x"}, '"_id" is True'),
        ({"_id": "b"}, 'no "text"'),
        ({"_id": "b", "text": ["x"]}, '"text" is list'),
        ({"_id": "b", "text": "x", "title": 3}, '"title" is int'),
        ({"_id": "a", "text": "x"}, "id 'a' was given before"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: object, reason: str) -> None:
    """A line that is no document is refused with the file's name and its number, blank lines counted."""
    file = write(tmp_path / "c.jsonl", {"_id": "a", "text": "x"}, "", line)
    with pytest.raises(InvalidInput) as refused:
        list(read_corpus(file))
    assert str(refused.value).startswith(f"{file}:3: ")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_bad_bytes_are_named(tmp_path: Path) -> None:
    """A line that is not UTF-8 is refused with its number and the byte."""
    file = tmp_path / "c.jsonl"
    file.write_bytes(b'{"_id": "a", "text": "x"}\n{"_id": "b", "text": "caf\xe9"}\n')
    with pytest.raises(InvalidInput, match=r"c\.jsonl:2: not UTF-8: byte 0xe9 at position 26"):
        list(read_corpus(file))


def test_cut_and_false_gzip_are_named(tmp_path: Path) -> None:
    """A gzip cut short, a damaged one and a file that is none are refused, not read as far as they go."""
    whole = gzip.compress(b'{"_id": "a", "text": "x"}\n' * 100)
    for name, content in (("cut", whole[:-9]), ("damaged", whole[:20] + b"\xff" * 30), ("false", b'{"_id": "a"}\n')):
        file = tmp_path / f"{name}.jsonl.gz"
        file.write_bytes(content)
        with pytest.raises(InvalidInput, match=f"{name}.jsonl.gz:"):
            list(read_corpus(file))


def test_missing_and_empty(tmp_path: Path) -> None:
    """A missing file, a folder without a corpus, a directory in the file's place and an empty file are refused."""
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(InvalidInput, match="no such file"):
        list(read_corpus(tmp_path / "absent.jsonl"))
    with pytest.raises(InvalidInput, match=r"no corpus\.jsonl in it, nor corpus\.jsonl\.gz"):
        list(read_corpus(tmp_path))
    with pytest.raises(InvalidInput, match="no document in it"):
        list(read_corpus(tmp_path / "empty.jsonl"))


def test_reads_lazily(tmp_path: Path) -> None:
    """Documents come while the file is being read, so a corpus need not fit into memory."""
    file = write(tmp_path / "c.jsonl", {"_id": "a", "text": "x"}, "{bad")
    documents = read_corpus(file)
    assert next(documents).id == "a"
    with pytest.raises(InvalidInput):
        next(documents)


def test_survey_tells_corpora_apart(tmp_path: Path) -> None:
    """The digest is the same for the same ids and contents, and another when a text moves between documents."""
    one = survey(write(tmp_path / "1.jsonl", {"_id": "a", "text": "x y"}, {"_id": "b", "text": "z"}))
    same = survey(write(tmp_path / "2.jsonl", {"_id": "a", "title": "x", "text": "y"}, {"_id": "b", "text": "z"}))
    other = survey(write(tmp_path / "3.jsonl", {"_id": "a", "text": "x"}, {"_id": "b", "text": "y z"}))
    assert one == same
    assert one.documents == other.documents == 2
    assert one.digest != other.digest


def texts(content: bytes) -> list[tuple[int, str]]:
    """Number and text of each line."""
    return [(line.number, line.text) for line in stream_lines(io.BytesIO(content), "here")]


def test_blank_lines_are_skipped_and_counted() -> None:
    """Blank lines are not given, but the lines after them keep their number."""
    assert texts(b"a\n\n \t\r\nb\r\nc") == [(1, "a"), (4, "b"), (5, "c")]


def test_byte_order_mark_is_dropped_once() -> None:
    """A byte order mark is dropped at the start of a file and nowhere else."""
    assert texts("\ufeffa\n\ufeffb".encode()) == [(1, "a"), (2, "\ufeffb")]


def test_inner_white_space_stays() -> None:
    """Leading, trailing and inner white space belongs to the line, its end does not."""
    assert texts(b"  a \t b  \n") == [(1, "  a \t b  ")]


def test_a_broken_stream_is_named() -> None:
    """A stream that fails while it is read is refused with the line it failed at."""

    class Broken(io.BytesIO):
        def readline(self, *_: object) -> bytes:
            if self.tell():
                raise OSError("gone")
            return super().readline()

    with pytest.raises(InvalidInput, match="here:2: cannot be read: gone"):
        list(stream_lines(Broken(b"a\nb\n"), "here"))


def test_a_directory_is_refused(tmp_path: Path) -> None:
    """A directory in a file's place is refused with the system's reason."""
    with pytest.raises(InvalidInput, match="Is a directory"):
        list(read_lines(tmp_path))


@pytest.mark.parametrize("text", ["{", "1" * 5000, "[" * 100_000, "nul"])
def test_json_that_cannot_be_read_is_named(text: str) -> None:
    """Broken JSON, a number with too many digits and too deep nesting are refused with file and line."""
    with pytest.raises(InvalidInput, match=r"^f:3: not JSON"):
        Line("f", 3, text).json()


def test_reads_queries_of_every_form(tmp_path: Path) -> None:
    """JSON Lines, id-tab-text with a header or without, and plain lines, whose ids are their numbers, give the same."""
    rows = [{"_id": "1", "text": "one"}, {"_id": "3", "text": "three, four"}]
    forms = {
        "q.jsonl": "\n\n".join(map(json.dumps, rows)),
        "q.tsv": "1\tone\n3\tthree, four\n",
        "headed.tsv": "Query_ID\tquery\n1\tone\n3\tthree, four\n",
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
        ("q.tsv", "id\ttext\nid\t ", "the text of query 'id' is blank"),
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


@pytest.mark.parametrize(
    ("text", "key"), [('"text": "y"', "text"), ('"n": 1, "n": 1', "n"), ('"meta": [{"a": {"b": 1, "b": 2}}]', "b")]
)
def test_a_key_that_comes_twice_is_refused(tmp_path: Path, text: str, key: str) -> None:
    """Of its two values the first would be lost, at whatever depth."""
    (tmp_path / "c.jsonl").write_text(f'{{"_id": "a", "text": "x", {text}}}\n')
    with pytest.raises(InvalidInput, match=rf'c\.jsonl:1: "{key}" comes twice'):
        list(read_corpus(tmp_path / "c.jsonl"))
