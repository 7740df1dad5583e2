"""Corpora in BEIR's layout, streamed: a folder with corpus.jsonl, or one JSON Lines file; gzip accepted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from secondpass.errors import InvalidInput
from secondpass.lines import Line, read_lines

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
    """The JSON Lines file of a BEIR folder, or `path` itself if it is a file.

    Raises:
        InvalidInput: there is no such file.
    """
    return named_file(path, "corpus.jsonl") if path.is_dir() else existing(path)


def named_file(folder: Path, name: str) -> Path:
    """`name` in `folder`, or the same with .gz.

    Raises:
        InvalidInput: neither is there.
    """
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise InvalidInput(f"{folder}: no {name} in it, nor {name}.gz")


def existing(path: Path) -> Path:
    """`path`, if a file (or anything else that can be read) is there.

    Raises:
        InvalidInput: there is nothing.
    """
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
    """The id of a record as str; a whole number is taken too.

    Raises:
        InvalidInput: there is none, or it is of another type or blank.
    """
    found = next((value[key] for key in ID_KEYS if key in value), None)
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if isinstance(found, str) and found.strip():
        return found
    raise line.refuse('no "_id"' if found is None else f'"_id" is {found!r}, not a string with something in it')


def record_text(line: Line, value: dict[str, object]) -> str:
    """The text of a record.

    Raises:
        InvalidInput: there is none, or it is no string.
    """
    found = next((value[key] for key in TEXT_KEYS if key in value), None)
    if not isinstance(found, str):
        raise line.refuse('no "text"' if found is None else f'"text" is {type(found).__name__}, not a string')
    return found
