"""Queries as files: BEIR's JSON Lines, tables of id and text, and plain lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from secondpass.corpora import existing, record_id, record_text
from secondpass.errors import InvalidInput
from secondpass.lines import Line, read_lines
from secondpass.text import is_blank


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
