"""Corpora, streamed: a folder in BEIR's layout, one JSON Lines file, or a table of ids and texts; gzip accepted."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO, cast

from secondpass.errors import InvalidInput
from secondpass.text import is_blank

# ---- Text files a line at a time: UTF-8, gzip accepted, and every refusal names the file and the line.
BYTE_ORDER_MARK = "\ufeff"
SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars", " ": "spaces"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end; `number` counts from 1, `source` is what an error message calls the file."""

    source: str
    number: int
    text: str

    def refuse(self, reason: str) -> InvalidInput:
        """The error for this line, to be raised."""
        return InvalidInput(f"{self.source}:{self.number}: {reason}")

    def columns_said(self, separator: str = "\t") -> str:
        """How many columns it has, for a message; without the separator, by the one that gives most."""
        marks = [mark for mark in SEPARATORS if mark == separator or separator not in self.text]
        by = {SEPARATORS[mark]: len(self.text.split(mark.strip(" ") or None)) for mark in marks}
        name = max(by, key=by.__getitem__)
        return f"{by[name]} columns by {name}" if by[name] > 1 else "1 column"

    def json(self) -> object:
        """The JSON value that the line holds; raises InvalidInput where it holds none."""
        try:
            return json.loads(self.text, object_pairs_hook=self._object)
        except json.JSONDecodeError as error:
            raise self.refuse(f"not JSON: {error.msg} at column {error.colno}") from None
        except InvalidInput:
            raise
        except (RecursionError, ValueError) as error:
            raise self.refuse(f"not JSON that can be read: {error}") from None

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        """An object whose keys differ: of two values under one key, the first would be lost."""
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise self.refuse(f"{shown_keys([twice])} comes twice")
        return found

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
    # One end of a line: a carriage return before it that is not part of it belongs to the text.
    text = text.removesuffix("\n").removesuffix("\r")
    return text.removeprefix(BYTE_ORDER_MARK) if number == 1 else text


ID_KEYS = ("_id", "id")
TEXT_KEYS = ("text", "contents")
# Of a table's first line, beside the names above: of documents, and of queries.
HEADER_KEYS = ("docid", "doc_id", "pid", "passage")
QUERY_HEADER_KEYS = ("query_id", "query-id", "qid", "query")
SHOWN_KEYS = 20
LONGEST_KEY = 40
# A line with this key is a refused document: its keys are the usual ones, "reason" is none of it, and what the key
# holds stood under one of those names.
REFUSED = "_refused"
PACKAGED = {"secondpass/demo": "demo"}
"""Folders of the package by the names that stand for them."""


@dataclass(frozen=True, slots=True)
class RecordKeys:
    """Which keys of a JSON record hold id, title and text; None: "_id" or "id", "title", "text" or "contents"."""

    id: str | None = None
    title: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class CorpusDocument:
    """One document of a corpus; `title` is empty where there is none, `meta` holds every other key of its record."""

    id: str
    title: str
    text: str
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def content(self) -> str:
        """Title and text joined by one space, as BEIR joins them for every retriever and ranker."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True, slots=True)
class Survey:
    """What one reading of a whole corpus found.

    Attributes:
        documents: how many.
        digest: SHA-256 of ids, contents and metadata.
        kinds: what the metadata holds, by the keys that lead there (those of objects inside lists too).
    """

    documents: int
    digest: str
    kinds: Mapping[tuple[str, ...], set[str]] = field(default_factory=dict, hash=False)


def packaged(path: Path, folder: Path | None = None) -> Path:
    """The folder that comes with the package if `path` is its name and nothing lies there, else `path` itself.

    A relative path starts from `folder`, by default the current one.
    """
    name, placed = PACKAGED.get(path.as_posix()), path if folder is None else folder / path
    return placed if name is None or placed.exists() else Path(str(files("secondpass").joinpath(name)))


def corpus_file(path: Path) -> Path:
    """The JSON Lines file of a BEIR folder, or `path` itself if it is a file; raises InvalidInput where none is."""
    path = packaged(path)
    return named_file(path, "corpus.jsonl") if path.is_dir() else existing(path)


def named_file(folder: Path, name: str) -> Path:
    """`name` in `folder`, or the same with .gz; raises InvalidInput where neither is there."""
    folder = packaged(folder)
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise InvalidInput(f"{folder}: no {name} in it, nor {name}.gz")


def existing(path: Path) -> Path:
    """`path`, if a file (or anything else that can be read) is there; raises InvalidInput where nothing is."""
    path = packaged(path)
    if not path.exists():
        raise InvalidInput(f"{path}: no such file")
    return path


def read_corpus(path: Path, keys: RecordKeys | None = None) -> Iterator[CorpusDocument]:
    """Documents of a BEIR folder or a file, one at a time.

    A file whose name ends in .tsv has id, tab and text a line, as MS MARCO's collection.tsv; a first line that names
    its columns is no document. Any other file is JSON Lines: objects with "_id" (or "id"), "text" (or "contents") and
    perhaps "title", or what `keys` names instead. Every other key is metadata.

    Raises:
        InvalidInput: a line lacks one of them, repeats an id or has NaN or infinity as metadata, or no line has the
            title that `keys` names; the message names file and line.
    """
    file = corpus_file(path)
    chosen = keys or RecordKeys()
    parse = corpus_parser(file, chosen)
    seen: set[str] = set()
    titled = chosen.title is None
    for line in read_lines(file):
        document = parse(line)
        if document is None:
            continue
        if document.id in seen:
            raise line.refuse(f"id {document.id!r} was given before")
        seen.add(document.id)
        titled = titled or document.title != ""
        yield document
    if not seen:
        raise InvalidInput(f"{file}: no document in it")
    if not titled:
        raise InvalidInput(f"{file}: no line has a title under {shown_keys([str(chosen.title)])}")


def corpus_parser(file: Path, keys: RecordKeys) -> Callable[[Line], CorpusDocument | None]:
    """What makes a document of a line of such a file, or None of one that names the columns.

    Raises:
        InvalidInput: `keys` names some for a table, which has none.
    """
    if Path(file.name.removesuffix(".gz")).suffix.lower() != ".tsv":
        return partial(_document, keys=keys)
    if keys != RecordKeys():
        raise InvalidInput(f"{file}: a table of ids and texts, whose columns have no other names")
    return table_document


def survey(path: Path, keys: RecordKeys | None = None) -> Survey:
    """Read the whole corpus once, which also finds every bad line before any work is done on it.

    Raises:
        InvalidInput: as `read_corpus`, or metadata is nested more than `DEEPEST` deep.
    """
    digest = hashlib.sha256()
    count = 0
    kinds: dict[tuple[str, ...], set[str]] = {}
    for document in read_corpus(path, keys):
        parts = [document.id, document.content, ""]
        if document.meta:
            try:
                note_kinds(document.meta, kinds)
            except InvalidInput as error:
                raise InvalidInput(f"{path}: document {document.id!r}: {error}") from None
            parts.insert(2, json.dumps(document.meta, sort_keys=True))
        digest.update("\0".join(parts).encode("utf-8", "surrogatepass"))
        count += 1
    return Survey(count, digest.hexdigest(), kinds)


DEEPEST = 100
# No index has so many fields: a corpus whose keys are data would fill the memory.
MOST_KINDS = 50_000
# Elasticsearch's and OpenSearch's strict_date_optional_time, as far as a whole day is in it.
DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)(T([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,9})?)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)?)?", re.ASCII
)
OBJECT, BOOLEAN, INTEGER, NUMBER, DATED, STRING = "object", "boolean", "integer", "number", "date", "string"
INT64 = 2**63


def note_kinds(meta: Mapping[str, Any], kinds: dict[tuple[str, ...], set[str]]) -> None:
    """Add the kinds of a document's metadata: a list counts as its elements, null and an empty list as nothing.

    From `MOST_KINDS` places on no new one is added.

    Raises:
        InvalidInput: lists and objects are nested more than `DEEPEST` deep.
    """
    waiting: list[tuple[tuple[str, ...], Any, int]] = [((key,), value, 1) for key, value in meta.items()]
    while waiting:
        path, value, depth = waiting.pop()
        if depth > DEEPEST:
            raise InvalidInput(f"metadata {shown_keys(path[:1])} is nested more than {DEEPEST} deep")
        if len(kinds) >= MOST_KINDS and path not in kinds:
            continue
        if isinstance(value, list):
            waiting += [(path, each, depth + 1) for each in value]
        elif isinstance(value, dict):
            kinds.setdefault(path, set()).add(OBJECT)
            waiting += [((*path, key), each, depth + 1) for key, each in value.items()]
        elif value is not None:
            kinds.setdefault(path, set()).add(kind_of(value))


def kind_of(value: object) -> str:
    """The kind of a value that JSON holds; a whole number beyond 64 bits is a string, as no index counts so far."""
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, int):
        return INTEGER if -INT64 <= value < INT64 else STRING
    if isinstance(value, float):
        return NUMBER
    return DATED if is_date(str(value)) else STRING


def is_date(text: str) -> bool:
    """Whether a text is a day of the calendar in ISO 8601, perhaps with a time: 2024-02-29, 2024-02-29T12:00:00Z."""
    found = DATE.fullmatch(text)
    if found is None:
        return False
    try:
        date.fromisoformat(found[1])
    except ValueError:
        return False
    return True


def _document(line: Line, keys: RecordKeys) -> CorpusDocument:
    value = line.json_object()
    held = value.pop(REFUSED, None)
    if isinstance(held, dict):
        keys = RecordKeys()
        value.pop("reason", None)
    title_key = keys.title or "title"
    title = value.get(title_key)
    if title is not None and not isinstance(title, str):
        raise line.refuse(f"{shown_keys([title_key])} is {type(title).__name__}, not a string")
    found, text = record_id(line, value, keys.id), record_text(line, value, keys.text)
    taken = (title_key, _first(value, keys.id, ID_KEYS), _first(value, keys.text, TEXT_KEYS))
    meta = {key: each for key, each in value.items() if key not in taken}
    meta |= held if isinstance(held, dict) else {}
    _refuse_no_number(line, meta)
    return CorpusDocument(found, title or "", text, meta)


def _refuse_no_number(line: Line, meta: Mapping[str, object]) -> None:
    """Refuse NaN and infinity, which Python reads and writes and which neither JSON nor an index has got."""
    waiting: list[tuple[str, object]] = list(meta.items())
    while waiting:
        place, value = waiting.pop()
        if type(value) is float and not math.isfinite(value):
            raise line.refuse(f"{shown_keys([place])} is {value}, which JSON and every index refuse; null says nothing")
        if type(value) is list:
            waiting += [(place, each) for each in value]
        elif type(value) is dict:
            waiting += [(f"{place}.{key}", each) for key, each in value.items()]


def table_document(line: Line) -> CorpusDocument | None:
    """The document of a line with id, tab and text; None for a first line that names the columns."""
    columns = line.text.split("\t")
    if len(columns) != 2:
        raise line.refuse(f"{line.columns_said()}; a corpus in .tsv has an id, a tab and a text")
    if not columns[0].strip():
        raise line.refuse("no id before the tab")
    return None if _names_columns(line, HEADER_KEYS) else CorpusDocument(columns[0].strip(), "", columns[1])


def _names_columns(line: Line, further: Sequence[str]) -> bool:
    """Whether a table's line is a first one with the names of ids and texts, the usual ones or `further` ones."""
    names = {name.strip().lower() for name in line.text.split("\t")}
    return line.number == 1 and "\t" in line.text and names <= {*ID_KEYS, *TEXT_KEYS, *further}


def _first(value: Mapping[str, object], named: str | None, usual: Sequence[str]) -> str | None:
    """The key of a record that counts: the one that was named, or the first of the usual ones that is there."""
    return next((key for key in ((named,) if named else usual) if key in value), None)


def record_id(line: Line, value: dict[str, object], key: str | None = None) -> str:
    """The id of a record as str, a whole number too; raises InvalidInput if it is absent, blank or of another type."""
    place, name = _first(value, key, ID_KEYS), shown_keys([key or "_id"])
    found = None if place is None else value[place]
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if isinstance(found, str) and found.strip():
        return found
    wrong = f"{name} is {found!r}, not a string with something in it"
    raise line.refuse(_lacks(name, value, place) if found is None else wrong)


def record_text(line: Line, value: dict[str, object], key: str | None = None) -> str:
    """The text of a record; raises InvalidInput where there is none, or it is no string."""
    place, name = _first(value, key, TEXT_KEYS), shown_keys([key or "text"])
    found = None if place is None else value[place]
    if not isinstance(found, str):
        raise line.refuse(
            _lacks(name, value, place) if found is None else f"{name} is {type(found).__name__}, not a string"
        )
    return found


def _lacks(name: str, value: Mapping[str, object], place: str | None = None) -> str:
    if place is not None:
        return f"{shown_keys([place])} is null"
    return f"no {name}; its keys are {shown_keys(value)}" if value else f"no {name}: the object is empty"


def shown_keys(keys: Iterable[str]) -> str:
    """Keys for a message: on one line, the first `SHOWN_KEYS`, long ones cut."""
    known = list(keys)
    cut = [key if len(key) <= LONGEST_KEY else f"{key[: LONGEST_KEY - 1]}…" for key in known[:SHOWN_KEYS]]
    shown = ", ".join(json.dumps(key, ensure_ascii=not key.isprintable()) for key in cut)
    return f"{shown}, …" if len(known) > SHOWN_KEYS else shown


def read_queries(path: Path) -> dict[str, str]:
    """Text by query id, in file order.

    By the file's name (.gz apart): .tsv has id and text a line, of which a first one that names the columns is no
    query, .txt a text a line (its number is the id), all else is JSON Lines with "_id" and "text".

    Raises:
        InvalidInput: a line is of another form, a text is blank or an id comes twice.
    """
    parse = _PARSERS.get(Path(path.name.removesuffix(".gz")).suffix, _json_query)
    queries: dict[str, str] = {}
    for line in read_lines(existing(path)):
        if parse is _tsv_query and _names_columns(line, QUERY_HEADER_KEYS):
            continue
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
