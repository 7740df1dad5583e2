"""Corpora in BEIR's layout, streamed: a folder with corpus.jsonl, or one JSON Lines file; gzip accepted."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from secondpass.errors import InvalidInput
from secondpass.text import is_blank

# ---- Text files a line at a time: UTF-8, gzip accepted, and every refusal names the file and the line.
BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end; `number` counts from 1, `source` is what an error message calls the file."""

    source: str
    number: int
    text: str

    def refuse(self, reason: str) -> InvalidInput:
        """The error for this line, to be raised."""
        return InvalidInput(f"{self.source}:{self.number}: {reason}")

    def json(self) -> object:
        """The JSON value that the line holds; raises InvalidInput where it holds none."""
        try:
            return json.loads(self.text)
        except json.JSONDecodeError as error:
            raise self.refuse(f"not JSON: {error.msg} at column {error.colno}") from None
        except (RecursionError, ValueError) as error:
            raise self.refuse(f"not JSON that can be read: {error}") from None

    def json_object(self) -> dict[str, object]:
        """The JSON object that the line holds; raises InvalidInput where it holds none, or another JSON value."""
        value = self.json()
        if not isinstance(value, dict):
            raise self.refuse(f"a JSON {JSON_NAMES[type(value)]}, not an object")
        return value


JSON_NAMES: dict[type, str] = {
    list: "array",
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    type(None): "null",
}


def read_lines(path: Path) -> Iterator[Line]:
    """Lines of a file with something in them; a name that ends in .gz is unpacked on the way.

    Raises:
        InvalidInput: the file cannot be opened, is no gzip, is cut short, or a line is not UTF-8.
    """
    try:
        opened = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror or error}") from None
    with opened as stream:
        yield from stream_lines(cast(BinaryIO, stream), str(path))


def stream_lines(stream: BinaryIO, source: str) -> Iterator[Line]:
    """Lines of a binary stream with something in them, each numbered; only a line feed ends a line.

    Raises:
        InvalidInput: a line is not UTF-8, or the stream cannot be read to its end.
    """
    number = 0
    while True:
        try:
            raw = stream.readline()
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidInput(f"{source}:{number + 1}: cannot be read: {error}") from None
        if not raw:
            return
        number += 1
        text = _decoded(raw, source, number)
        if text.strip():
            yield Line(source, number, text)


def _decoded(raw: bytes, source: str, number: int) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start + 1}"
        raise InvalidInput(f"{source}:{number}: {reason}") from None
    return (text.removeprefix(BYTE_ORDER_MARK) if number == 1 else text).rstrip("\r\n")


ID_KEYS = ("_id", "id")
TEXT_KEYS = ("text", "contents")


@dataclass(frozen=True, slots=True)
class CorpusDocument:
    """One document of a corpus; `title` is empty where there is none."""

    id: str
    title: str
    text: str

    @property
    def content(self) -> str:
        """Title and text joined by one space, as BEIR joins them for every retriever and ranker."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True, slots=True)
class Survey:
    """What one reading of a whole corpus found: its size, and a SHA-256 of its ids and contents."""

    documents: int
    digest: str


def corpus_file(path: Path) -> Path:
    """The JSON Lines file of a BEIR folder, or `path` itself if it is a file; raises InvalidInput where none is."""
    return named_file(path, "corpus.jsonl") if path.is_dir() else existing(path)


def named_file(folder: Path, name: str) -> Path:
    """`name` in `folder`, or the same with .gz; raises InvalidInput where neither is there."""
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise InvalidInput(f"{folder}: no {name} in it, nor {name}.gz")


def existing(path: Path) -> Path:
    """`path`, if a file (or anything else that can be read) is there; raises InvalidInput where nothing is."""
    if not path.exists():
        raise InvalidInput(f"{path}: no such file")
    return path


def read_corpus(path: Path) -> Iterator[CorpusDocument]:
    """Documents of a BEIR folder or a JSON Lines file, one at a time.

    A line is an object with "_id" (or "id"), "text" (or "contents") and perhaps "title"; other keys are ignored.

    Raises:
        InvalidInput: a line lacks one of them or repeats an id; the message names file and line.
    """
    file = corpus_file(path)
    seen: set[str] = set()
    for line in read_lines(file):
        document = _document(line)
        if document.id in seen:
            raise line.refuse(f"id {document.id!r} was given before")
        seen.add(document.id)
        yield document
    if not seen:
        raise InvalidInput(f"{file}: no document in it")


def survey(path: Path) -> Survey:
    """Read the whole corpus once, which also finds every bad line before any work is done on it."""
    digest = hashlib.sha256()
    count = 0
    for document in read_corpus(path):
        digest.update("\0".join((document.id, document.content, "")).encode("utf-8", "surrogatepass"))
        count += 1
    return Survey(count, digest.hexdigest())


def _document(line: Line) -> CorpusDocument:
    value = line.json_object()
    title = value.get("title")
    if title is not None and not isinstance(title, str):
        raise line.refuse(f'"title" is {type(title).__name__}, not a string')
    return CorpusDocument(record_id(line, value), title or "", record_text(line, value))


def record_id(line: Line, value: dict[str, object]) -> str:
    """The id of a record as str, a whole number too; raises InvalidInput if it is absent, blank or of another type."""
    found = next((value[key] for key in ID_KEYS if key in value), None)
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if isinstance(found, str) and found.strip():
        return found
    raise line.refuse('no "_id"' if found is None else f'"_id" is {found!r}, not a string with something in it')


def record_text(line: Line, value: dict[str, object]) -> str:
    """The text of a record; raises InvalidInput where there is none, or it is no string."""
    found = next((value[key] for key in TEXT_KEYS if key in value), None)
    if not isinstance(found, str):
        raise line.refuse('no "text"' if found is None else f'"text" is {type(found).__name__}, not a string')
    return found


def read_queries(path: Path) -> dict[str, str]:
    """Text by query id, in file order.

    By the file's name (.gz apart): .tsv has id and text a line, .txt a text a line (its number is the id), all
    else is JSON Lines with "_id" and "text".

    Raises:
        InvalidInput: a line is of another form, a text is blank or an id comes twice.
    """
    parse = _PARSERS.get(Path(path.name.removesuffix(".gz")).suffix, _json_query)
    queries: dict[str, str] = {}
    for line in read_lines(existing(path)):
        query_id, text = parse(line)
        if query_id in queries:
            raise line.refuse(f"query id {query_id!r} was given before")
        if is_blank(text):
            raise line.refuse(f"the text of query {query_id!r} is blank")
        queries[query_id] = text
    if not queries:
        raise InvalidInput(f"{path}: no query in it")
    return queries


def _json_query(line: Line) -> tuple[str, str]:
    value = line.json_object()
    return record_id(line, value), record_text(line, value)


def _tsv_query(line: Line) -> tuple[str, str]:
    query_id, tab, text = line.text.partition("\t")
    if not tab or not query_id.strip():
        raise line.refuse("not an id, a tab and a text")
    return query_id.strip(), text


def _text_query(line: Line) -> tuple[str, str]:
    return str(line.number), line.text


_PARSERS: dict[str, Callable[[Line], tuple[str, str]]] = {".tsv": _tsv_query, ".txt": _text_query}
