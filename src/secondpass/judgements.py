"""Queries, relevance judgements (qrels) and runs as files: BEIR and TREC formats.

BEIR: Thakur et al. 2021, "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation"; TREC: trec_eval's README.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TextIO

from secondpass.corpora import existing, named_file, record_id, record_text
from secondpass.errors import InvalidInput
from secondpass.lines import Line, read_lines

Qrels = dict[str, dict[str, int]]
"""Grade by document id, by query id."""

BEIR_HEADER = ("query-id", "corpus-id", "score")


def qrels_file(folder: Path, split: str) -> Path:
    """The judgements of one split in a BEIR folder.

    Raises:
        InvalidInput: there are none; the message names the splits that there are.
    """
    qrels = folder / "qrels"
    try:
        return named_file(qrels, f"{split}.tsv")
    except InvalidInput:
        splits = sorted(file.name.removesuffix(".gz").removesuffix(".tsv") for file in qrels.glob("*.tsv*"))
        found = f"its splits are {', '.join(splits)}" if splits else "it has no qrels/*.tsv"
        raise InvalidInput(f"{folder}: no qrels/{split}.tsv; {found}") from None


def read_qrels(path: Path) -> Qrels:
    """Judgements from BEIR's table (query-id, corpus-id, score) or TREC's four columns (query, 0, document, grade).

    Raises:
        InvalidInput: a line has other columns, a grade is no whole number, or a pair has two different grades.
    """
    qrels: Qrels = {}
    for position, line in enumerate(read_lines(existing(path))):
        columns = line.text.split("\t")
        if position == 0 and tuple(column.strip().lower() for column in columns) == BEIR_HEADER:
            continue
        query, document, grade = _judgement(line, columns)
        before = qrels.setdefault(query, {}).setdefault(document, grade)
        if before != grade:
            raise line.refuse(f"document {document!r} of query {query!r} has grade {grade} here and {before} before")
    if not qrels:
        raise InvalidInput(f"{path}: no judgement in it")
    return qrels


def judged_queries(qrels: Qrels) -> list[str]:
    """Queries with at least one relevant document (grade 1 and up), in file order: what a mean is taken over."""
    return [query for query, grades in qrels.items() if any(grade > 0 for grade in grades.values())]


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
        if not text.strip():
            raise line.refuse(f"the text of query {query_id!r} is blank")
        queries[query_id] = text
    if not queries:
        raise InvalidInput(f"{path}: no query in it")
    return queries


def write_run(stream: TextIO, rankings: Iterable[tuple[str, Sequence[tuple[str, float | None]]]], tag: str) -> int:
    """Write rankings (query id, documents best first with scores) in TREC's six columns; returns the lines written.

    trec_eval orders by score and breaks ties by document id, and holds scores as float32. So where the scores of a
    query do not fall strictly in float32 (or are absent), n, n-1, ... 1 stand in their place.

    Raises:
        InvalidInput: an id is empty or has white space in it, which the format cannot hold.
    """
    written = 0
    for query_id, ranking in rankings:
        scores = run_scores([score for _, score in ranking])
        for rank, ((document_id, _), score) in enumerate(zip(ranking, scores, strict=True), start=1):
            columns = (column_of(query_id), "Q0", column_of(document_id), str(rank), repr(score), tag)
            stream.write(" ".join(columns) + "\n")
            written += 1
    return written


def run_scores(scores: Sequence[float | None]) -> list[float]:
    """The scores, if trec_eval would keep their order; else the number of documents at or below each rank."""
    given = [float(score) for score in scores if score is not None]
    if len(given) == len(scores) and all(map(_fits_float32, given)):
        single = [struct.unpack("f", struct.pack("f", score))[0] for score in given]
        if all(upper > lower for upper, lower in pairwise(single)):
            return given
    return [float(len(scores) - index) for index in range(len(scores))]


def column_of(value: str) -> str:
    """`value` as a column of a run.

    Raises:
        InvalidInput: it is empty or has white space in it.
    """
    if not value or value.split() != [value]:
        raise InvalidInput(f"id {value!r} cannot stand in a TREC run: white space separates its columns")
    return value


def _fits_float32(score: float) -> bool:
    return math.isfinite(score) and abs(score) < 3.4e38


def _judgement(line: Line, columns: list[str]) -> tuple[str, str, int]:
    if len(columns) == 3:
        query, document, grade = columns
    else:
        trec = line.text.split()
        if len(trec) != 4:
            raise line.refuse(f"{len(columns)} columns; BEIR's judgements have 3 (by tabs), TREC's have 4")
        query, _, document, grade = trec
    try:
        return query.strip(), document.strip(), int(grade)
    except ValueError:
        raise line.refuse(f"grade {grade.strip()!r} is no whole number") from None


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
