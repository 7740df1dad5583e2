"""Candidates of queries in files of any size: Parquet, JSON Lines or a run with a BEIR folder, cut into parts.

A part is a stretch of the files that holds whole queries. Who has the part reads it by itself, on whatever machine sees
the files; who plans reads everything once, in constant memory but for eight bytes a query, and finds every row that
cannot be scored before any work is done.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondpass.corpora import (
    TEXT_KEYS,
    Line,
    RecordKeys,
    corpus_parser,
    existing,
    named_file,
    packaged,
    read_queries,
    record_id,
    record_text,
    shown_keys,
    stream_lines,
)
from secondpass.errors import InvalidInput
from secondpass.evaluation.runs import check_finished, json_ranking, run_row
from secondpass.lazy import optional
from secondpass.text import is_blank

Form = Literal["parquet", "pairs", "rankings", "trec", "msmarco"]
QUERY_ID, DOCUMENT_ID, QUERY = "query_id", "document_id", "query"
DOCUMENT_KEYS = ("document", *TEXT_KEYS)
# Rows of a Parquet file that are held at once.
ROWS = 8192


class _Row(NamedTuple):
    """A candidate: where it ends in the files, what an error calls its place, ids, and texts where the row has them."""

    end: int
    where: str
    query_id: str
    document_id: str
    query: str | None
    document: str | None


@dataclass(frozen=True, slots=True)
class RunPart:
    """A stretch of the files, in bytes or rows of all of them one after the other, with so many pairs of queries."""

    number: int
    start: int
    stop: int
    pairs: int
    queries: int


@dataclass(frozen=True, slots=True)
class Question:
    """A query with its candidates, in the order of the rows."""

    query_id: str
    query: str
    document_ids: list[str]
    documents: list[str]


def digest(text: str) -> int:
    """64 bits of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class CandidateFiles:
    """Where they are: files of one form, and the BEIR folder that has the texts where the rows have ids only.

    Rows of one query stand side by side. In Parquet (a file, or a folder's) the columns are query_id, document_id and,
    without a folder, query and document; JSON Lines have objects with the same keys, or a query a line as `read_run`
    reads it; all else is a run in TREC's or MS MARCO's form.
    """

    files: tuple[Path, ...]
    form: Form
    dataset: Path | None = None

    @classmethod
    def of(cls, path: Path, dataset: Path | None = None) -> CandidateFiles:
        """The candidates of a file or folder.

        Raises:
            InvalidInput: there are none, they are packed by gzip (a part begins in the middle), a run that is not
                finished, or rows without texts come without `dataset`.
        """
        path = existing(path).absolute()
        files = _files(path)
        form = _form(files)
        if form not in ("parquet", "pairs") and dataset is None:
            raise InvalidInput(f"{files[0]} is a run, which has no texts: say in which BEIR folder they are")
        return cls(files, form, None if dataset is None else packaged(dataset).absolute())

    def identity(self) -> dict[str, Any]:
        """What changes with the files: names, sizes and times."""
        own = [self.files, *([] if self.dataset is None else [_texts(self.dataset)])]
        told = [[[file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files] for files in own]
        return {"form": self.form, "files": told}

    def plan(self, pairs: int, texts: Texts | None) -> list[RunPart]:
        """Cut the files into parts of whole queries, each with `pairs` pairs or the few more that its last query has.

        Raises:
            InvalidInput: a row cannot be scored; the message names its place.
        """
        parts: list[RunPart] = []
        seen = array("Q")
        start = count = queries = end = 0
        for query_id, group in groupby(self._rows(0, self._end(), False), attrgetter("query_id")):
            rows = list(group)
            self._check(query_id, rows, texts)
            seen.append(digest(query_id))
            count, queries, end = count + len(rows), queries + 1, rows[-1].end
            if count >= pairs:
                parts.append(RunPart(len(parts), start, end, count, queries))
                start, count, queries = end, 0, 0
        if count:
            parts.append(RunPart(len(parts), start, end, count, queries))
        if not parts:
            raise InvalidInput(f"{self.files[0]}: no candidate in it")
        self._refuse_scattered(seen)
        return parts

    def read(self, part: RunPart, texts: Texts | None) -> list[Question]:
        """The queries of a part with their texts."""
        made = []
        for query_id, group in groupby(self._rows(part.start, part.stop, True), attrgetter("query_id")):
            rows = list(group)
            names = [row.document_id for row in rows]
            if texts is None:
                query, documents = str(rows[0].query), [str(row.document) for row in rows]
            else:
                query, documents = texts.queries[query_id], []
            made.append(Question(query_id, query, names, documents))
        if texts is not None:
            found = texts.documents([name for one in made for name in one.document_ids])
            for one in made:
                one.documents.extend(found[name] for name in one.document_ids)
        return made

    def _check(self, query_id: str, rows: Sequence[_Row], texts: Texts | None) -> None:
        place = rows[0].where
        names = [row.document_id for row in rows]
        if len(set(names)) != len(names):
            known: set[str] = set()
            row = next(row for row in rows if row.document_id in known or known.add(row.document_id))  # type: ignore[func-returns-value]
            raise InvalidInput(f"{row.where}: document {row.document_id!r} of query {query_id!r} was given before")
        if texts is not None:
            if query_id not in texts.queries:
                raise InvalidInput(f"{place}: {self.dataset} has no text of query {query_id!r}")
            lost = texts.absent(names)
            if lost is not None:
                raise InvalidInput(f"{rows[lost].where}: {self.dataset} has no document {names[lost]!r}")
            return
        if is_blank(str(rows[0].query)):
            raise InvalidInput(f"{place}: the text of query {query_id!r} is blank")
        other = next((row for row in rows if row.query != rows[0].query), None)
        if other is not None:
            raise InvalidInput(f"{other.where}: query {query_id!r} has another text than at {place}")

    def _refuse_scattered(self, seen: array[int]) -> None:
        """A query whose rows do not stand side by side would be ranked twice."""
        values, counts = np.unique(np.frombuffer(seen, np.uint64), return_counts=True)
        twice = set(values[counts > 1].tolist())
        known: set[str] = set()
        rows = self._rows(0, self._end(), False) if twice else ()
        for query_id, group in groupby(rows, attrgetter("query_id")):
            if digest(query_id) in twice and query_id in known:
                raise InvalidInput(f"{next(group).where}: query {query_id!r} comes again: sort the rows by query")
            known |= {query_id} if digest(query_id) in twice else set()

    def _end(self) -> int:
        return sum(_parquet(file).metadata.num_rows if self.form == "parquet" else file.stat().st_size
                   for file in self.files)  # fmt: skip

    def _rows(self, start: int, stop: int, whole: bool) -> Iterator[_Row]:
        """The rows of a stretch; of a table without the documents unless they are wanted."""
        if self.form == "parquet":
            yield from self._table_rows(start, stop, whole)
            return
        parse: Callable[[int, Line], Iterable[_Row]] = {"pairs": self._pair, "rankings": _ranking}.get(self.form, _run)
        for end, line in self._lines(start, stop):
            for row in parse(end, line):
                _check_ids(row)
                yield row

    def _lines(self, start: int, stop: int) -> Iterator[tuple[int, Line]]:
        base = 0
        for file in self.files:
            size = file.stat().st_size
            if base < stop and start < base + size:
                with file.open("rb") as stream:
                    stream.seek(max(0, start - base))
                    for line in stream_lines(stream, str(file)):
                        end = base + stream.tell()
                        yield end, line
                        if end >= stop:
                            break
            base += size

    def _pair(self, end: int, line: Line) -> Iterator[_Row]:
        value = line.json_object()
        ids = record_id(line, value, QUERY_ID), record_id(line, value, DOCUMENT_ID)
        texts: tuple[str | None, str | None] = (None, None)
        if self.dataset is None:
            key = next((key for key in DOCUMENT_KEYS if key in value), DOCUMENT_KEYS[0])
            texts = record_text(line, value, QUERY), record_text(line, value, key)
        yield _Row(end, f"{line.source}:{line.number}", *ids, *texts)

    def _table_rows(self, start: int, stop: int, whole: bool) -> Iterator[_Row]:
        base = 0
        for file in self.files:
            table = _parquet(file)
            columns = _columns(file, table.schema_arrow, self.dataset is not None)
            if not whole and len(columns) > 3:
                _check_no_null(file, table, columns.pop())
            first = base
            for group in range(table.num_row_groups):
                size = table.metadata.row_group(group).num_rows
                if base < stop and start < base + size:
                    names = list(dict.fromkeys(columns))
                    place = base
                    for batch in _batches(file, table, group, names):
                        low, high = max(0, start - place), min(batch.num_rows, stop - place)
                        if low < high:
                            cells = [
                                _strings(file, batch.column(name), name, place + low - first, low, high)
                                for name in columns
                            ]
                            yield from _named(file, place + low, place + low - first, cells)
                        place += batch.num_rows
                base += size


def _files(path: Path) -> tuple[Path, ...]:
    if path.is_file():
        files = [path]
    elif not path.is_dir():
        raise InvalidInput(f"{path}: no file: it is read more than once, and from its middle")
    else:
        check_finished(path)
        shown = sorted(file for file in path.iterdir() if file.is_file() and file.name[0] not in "._")
        kinds = {file.suffix for file in shown}
        files = shown if len(kinds) == 1 and kinds <= {".parquet", ".jsonl", ".ndjson"} else []
        if not files:
            raise InvalidInput(f"{path}: neither Parquet files nor JSON Lines alone are in it")
    packed = next((file for file in files if file.suffix == ".gz"), None)
    if packed is not None:
        raise InvalidInput(f"{packed}: unpack it: parts begin in the middle of a file, where gzip cannot be read")
    return tuple(files)


def _form(files: Sequence[Path]) -> Form:
    if files[0].suffix == ".parquet":
        return "parquet"
    first = next((line for file in files for line in _first(file)), None)
    if first is None:
        raise InvalidInput(f"{files[0]}: no candidate in it")
    if files[0].suffix in (".jsonl", ".ndjson"):
        return "rankings" if "documents" in first.json_object() else "pairs"
    return "msmarco" if len(first.text.split()) == 3 else "trec"


def _first(file: Path) -> list[Line]:
    with file.open("rb") as stream:
        return list(islice(stream_lines(stream, str(file)), 1))


def _run(end: int, line: Line) -> Iterator[_Row]:
    query, document, _ = run_row(line, 3 if len(line.text.split()) == 3 else 6)
    yield _Row(end, f"{line.source}:{line.number}", query, document, None, None)


def _ranking(end: int, line: Line) -> Iterator[_Row]:
    query, documents = json_ranking(line)
    for document, _ in documents:
        yield _Row(end, f"{line.source}:{line.number}", query, document, None, None)


def _check_ids(row: _Row) -> None:
    for name, value in ((QUERY_ID, row.query_id), (DOCUMENT_ID, row.document_id)):
        if not value.isascii() and any(0xD800 <= ord(character) < 0xE000 for character in value):
            raise InvalidInput(f"{row.where}: {name} {value!r} has half a character, which Parquet cannot hold")


# ---- Columns of Parquet files: ids as str, whatever type holds them.


def _parquet(file: Path) -> Any:
    reader = optional("pyarrow.parquet", "pyarrow, which reads Parquet,", "ray")
    try:
        return reader.ParquetFile(file)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{file}: no Parquet file: {error}") from None


def _columns(file: Path, schema: Any, with_dataset: bool) -> list[str]:
    names = schema.names
    document = next((key for key in DOCUMENT_KEYS if key in names), DOCUMENT_KEYS[0])
    wanted = [QUERY_ID, DOCUMENT_ID, *([] if with_dataset else [QUERY, document])]
    absent = [name for name in wanted if name not in names]
    if absent:
        raise InvalidInput(f"{file}: no column {shown_keys(absent)}; its columns are {shown_keys(names)}")
    twice = next((name for name in wanted if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"{file}: two columns are named {twice!r}")
    kinds = optional("pyarrow", "pyarrow, which reads Parquet,", "ray").types
    for name in wanted:
        held, is_id = schema.field(name).type, name in (QUERY_ID, DOCUMENT_ID)
        kind = held.value_type if kinds.is_dictionary(held) else held
        texts = kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)
        if not texts and not (is_id and kinds.is_integer(kind)):
            what = "strings or whole numbers" if is_id else "strings"
            raise InvalidInput(f"{file}: column {name!r} is of {kind}, not of {what}")
    return wanted


def _batches(file: Path, table: Any, group: int, names: Sequence[str]) -> Iterator[Any]:
    try:
        yield from table.iter_batches(ROWS, row_groups=[group], columns=names)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{file}: row group {group} cannot be read: {error}") from None


def _strings(file: Path, column: Any, name: str, row: int, low: int, high: int) -> list[str]:
    """A batch's cells from `low` to `high` as str; `row` is the file's row of the first."""
    arrow = optional("pyarrow", "pyarrow, which reads Parquet,", "ray")
    try:
        cells: list[str | None] = column.slice(low, high - low).cast(arrow.string()).to_pylist()
    except ValueError:
        where = f"{file}: rows {row} to {row + high - low - 1}"
        raise InvalidInput(f"{where}: {name} has bytes that are not UTF-8") from None
    empty = "" if name in (QUERY_ID, DOCUMENT_ID) else None
    for number, cell in enumerate(cells):
        if cell is None or cell == empty:
            raise InvalidInput(f"{file}: row {row + number}: {name} is {'null' if cell is None else 'empty'}")
    return cells  # type: ignore[return-value]


def _check_no_null(file: Path, table: Any, name: str) -> None:
    """Refuse a table with documents that are null; the files' own counts tell, where they have them."""
    place = table.schema_arrow.names.index(name)
    row = 0
    for group in range(table.num_row_groups):
        found = table.metadata.row_group(group)
        counts = found.column(place).statistics if found.num_columns == len(table.schema_arrow.names) else None
        if counts is None or not counts.has_null_count or counts.null_count:
            for batch in _batches(file, table, group, [name]):
                _strings(file, batch.column(0), name, row, 0, batch.num_rows)
                row += batch.num_rows
        else:
            row += found.num_rows


def _named(file: Path, place: int, row: int, cells: Sequence[Sequence[str]]) -> Iterator[_Row]:
    absent: list[Sequence[str | None]] = [[None] * len(cells[0])] * (4 - len(cells))
    for number, values in enumerate(zip(*cells, *absent, strict=True)):
        yield _Row(place + number + 1, f"{file}: row {row + number}", *values)


# ---- Texts of a BEIR folder by id, for whoever has a part: queries in memory, documents by their places in the file.


def _texts(dataset: Path) -> tuple[Path, Path]:
    found = named_file(dataset, "queries.jsonl"), named_file(dataset, "corpus.jsonl")
    if found[1].suffix == ".gz":
        raise InvalidInput(f"{found[1]}: unpack it: documents are read from the middle of the file")
    return found


class Texts:
    """Texts of a BEIR folder; `index` is the file of documents' places, which `write_index` made.

    Attributes:
        queries: text by query id.
    """

    def __init__(self, dataset: Path, index: Path) -> None:
        queries, self._corpus = _texts(dataset)
        self.queries = read_queries(queries)
        whole: NDArray[np.uint64] = np.fromfile(index, np.uint64)
        self._digests, self._places = whole[: len(whole) // 2], whole[len(whole) // 2 :]
        self._parse = corpus_parser(self._corpus, RecordKeys())

    @staticmethod
    def write_index(dataset: Path, index: Path) -> None:
        """Write digests of the documents' ids, ascending, then their places: 16 bytes a document.

        Raises:
            InvalidInput: a document is none, or an id comes twice.
        """
        _, corpus = _texts(dataset)
        parse = corpus_parser(corpus, RecordKeys())
        digests, places = array("Q"), array("Q")
        with corpus.open("rb") as stream:
            place = 0
            for line in stream_lines(stream, str(corpus)):
                if (document := parse(line)) is not None:
                    digests.append(digest(document.id))
                    places.append(place)
                place = stream.tell()
        if not digests:
            raise InvalidInput(f"{corpus}: no document in it")
        order = np.argsort(np.frombuffer(digests, np.uint64), kind="stable")
        made = [np.frombuffer(each, np.uint64)[order] for each in (digests, places)]
        unfinished = index.with_name(f"{index.name}.{os.getpid()}")
        np.concatenate(made).tofile(unfinished)
        unfinished.replace(index)
        texts = Texts(dataset, index)
        for twice in np.flatnonzero(made[0][1:] == made[0][:-1]).tolist():
            names = [texts._at(int(made[1][each])).id for each in (twice, twice + 1)]
            if names[0] == names[1]:
                raise InvalidInput(f"{corpus}: id {names[0]!r} was given before")

    def absent(self, ids: Sequence[str]) -> int | None:
        """The place in `ids` of the first that is no document's; one of 2^64 others is taken for it."""
        wanted = np.array([digest(name) for name in ids], np.uint64)
        found = np.searchsorted(self._digests, wanted)
        known = self._digests[np.minimum(found, len(self._digests) - 1)] == wanted
        return None if known.all() else int((~known).argmax())

    def documents(self, ids: Iterable[str]) -> dict[str, str]:
        """Title and text by id, read in the order of the file.

        Raises:
            InvalidInput: one is not there.
        """
        wanted = list(dict.fromkeys(ids))
        numbers = np.array([digest(name) for name in wanted], np.uint64)
        lows = np.searchsorted(self._digests, numbers)
        highs = np.searchsorted(self._digests, numbers, side="right")
        places = np.concatenate([self._places[low:high] for low, high in zip(lows, highs, strict=True)])
        read = map(self._at, np.sort(places).tolist())
        found = {document.id: document.content for document in read}
        lost = next((name for name in wanted if name not in found), None)
        if lost is not None:
            raise InvalidInput(f"{self._corpus}: no document {lost!r}")
        return found

    def _at(self, place: int) -> Any:
        with self._corpus.open("rb") as stream:
            stream.seek(place)
            return self._parse(next(stream_lines(stream, str(self._corpus))))
