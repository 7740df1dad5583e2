"""Relevance judgements (qrels) as a value, and the files that hold them: BEIR, TREC and JSON Lines.

BEIR: Thakur et al. 2021, "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation"; TREC: trec_eval's README.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, TextIO

from secondpass.corpora import Line, existing, named_file, packaged, read_lines, read_queries
from secondpass.errors import InvalidInput


# ---- Ids of queries and documents: str everywhere, and what of them fits into a TREC column.
def string_id(value: object, what: str) -> str:
    """Return an id that is a str.

    Raises:
        InvalidInput: it is anything else: 7 and "7" would silently be two documents.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"{what} id {value!r} is {type(value).__name__}, not str")
    if not value:
        raise InvalidInput(f"{what} id is empty")
    return value


def column_of(value: str) -> str:
    """`value` as a column of a TREC file.

    Raises:
        InvalidInput: it is empty or has white space in it.
    """
    if not value or value.split() != [value]:
        raise InvalidInput(f"id {value!r} cannot stand in a TREC run: white space separates its columns")
    return value


BEIR_HEADER = ("query-id", "corpus-id", "score")


class Qrels(Mapping[str, Mapping[str, int]]):
    """Grades by document id, by query id: 1 and up is relevant, 0 and below was judged and is not.

    Args:
        grades: any mapping of mappings; it is copied. A query may have no judgement: it is then as if absent.

    Raises:
        InvalidInput: an id is no str, or a grade is no whole number; the message names query and document.
    """

    def __init__(self, grades: Mapping[str, Mapping[str, Any]]) -> None:
        self._grades: dict[str, dict[str, int]] = {}
        for query, documents in grades.items():
            string_id(query, "query")
            judged = {string_id(document, f"query {query!r}: document"): _whole(query, document, grade)
                      for document, grade in documents.items()}  # fmt: skip
            if judged:
                self._grades[query] = judged

    def __getitem__(self, query: str) -> Mapping[str, int]:
        return self._grades[query]

    def __iter__(self) -> Iterator[str]:
        return iter(self._grades)

    def __len__(self) -> int:
        return len(self._grades)

    def __repr__(self) -> str:
        return f"Qrels({len(self)} queries, {sum(map(len, self._grades.values()))} judgements)"

    @property
    def with_relevant(self) -> list[str]:
        """Queries with at least one relevant document, in order: what a mean is taken over."""
        return [query for query, grades in self._grades.items() if any(grade > 0 for grade in grades.values())]

    def only(self, queries: object) -> Qrels:
        """The judgements of some queries; `queries` is any container of ids."""
        return Qrels({query: grades for query, grades in self.items() if query in queries})  # type: ignore[operator]


def qrels_file(folder: Path, split: str) -> Path:
    """The judgements of one split in a BEIR folder.

    Raises:
        InvalidInput: there are none; the message names the splits that there are.
    """
    qrels = packaged(folder) / "qrels"
    try:
        return named_file(qrels, f"{split}.tsv")
    except InvalidInput:
        splits = sorted(file.name.removesuffix(".gz").removesuffix(".tsv") for file in qrels.glob("*.tsv*"))
        found = f"its splits are {', '.join(splits)}" if splits else "it has no qrels/*.tsv"
        raise InvalidInput(f"{folder}: no qrels/{split}.tsv; {found}") from None


def read_qrels(path: Path) -> Qrels:
    """Judgements from a file, gzip accepted.

    A name that ends in .jsonl holds objects with "query_id", "doc_id" and "relevance"; any other file has BEIR's
    table (query-id, corpus-id, score, by tabs, with or without a header) or TREC's four columns (query, 0, document,
    grade).

    Raises:
        InvalidInput: a line has another form, a grade is no whole number, or a pair has two different grades; the
            message names file and line.
    """
    parse = _json_judgement if path.name.removesuffix(".gz").endswith(".jsonl") else _judgement
    grades: dict[str, dict[str, int]] = {}
    for position, line in enumerate(read_lines(existing(path))):
        if position == 0 and tuple(column.strip().lower() for column in line.text.split("\t")) == BEIR_HEADER:
            continue
        query, document, grade = parse(line)
        before = grades.setdefault(query, {}).setdefault(document, grade)
        if before != grade:
            raise line.refuse(f"document {document!r} of query {query!r} has grade {grade} here and {before} before")
    if not grades:
        raise InvalidInput(f"{path}: no judgement in it")
    return Qrels(grades)


def write_qrels(stream: TextIO, qrels: Qrels) -> None:
    """Write judgements in TREC's four columns.

    Raises:
        InvalidInput: an id is empty or has white space in it, which the format cannot hold.
    """
    for query, grades in qrels.items():
        for document, grade in grades.items():
            stream.write(f"{column_of(query)} 0 {column_of(document)} {grade}\n")


def _whole(query: str, document: object, grade: object) -> int:
    if isinstance(grade, Real) and not isinstance(grade, bool) and float(grade).is_integer():
        return int(float(grade))
    raise InvalidInput(f"query {query!r}: document {document!r} has grade {grade!r}, which is no whole number")


def _judgement(line: Line) -> tuple[str, str, int]:
    columns = line.text.split("\t")
    if len(columns) == 3:
        query, document, grade = (column.strip() for column in columns)
    else:
        trec = line.text.split()
        if len(trec) != 4:
            raise line.refuse(f"{len(columns)} columns; BEIR's judgements have 3 (by tabs), TREC's have 4")
        query, _, document, grade = trec
    if not query or not document:
        raise line.refuse("an id is empty")
    try:
        return query, document, int(grade)
    except ValueError:
        raise line.refuse(f"grade {grade!r} is no whole number") from None


def _json_judgement(line: Line) -> tuple[str, str, int]:
    value = line.json_object()
    query, document, grade = (value.get(key) for key in ("query_id", "doc_id", "relevance"))
    if not isinstance(query, str) or not isinstance(document, str) or not query.strip() or not document.strip():
        raise line.refuse('"query_id" and "doc_id" must be strings with something in them')
    if not isinstance(grade, (int, float)) or isinstance(grade, bool) or not float(grade).is_integer():
        raise line.refuse(f'"relevance" is {grade!r}, no whole number')
    return query, document, int(grade)


# ---- Which queries are asked, and which of them are measured: those of a file, or the judged ones of a BEIR folder.
@dataclass(frozen=True, slots=True)
class JudgedQueries:
    """Text by query id in the order in which they are asked, and judgements if they are to be measured."""

    texts: dict[str, str]
    qrels: Qrels | None = None

    def limited(self, limit: int | None) -> JudgedQueries:
        """Only the first `limit`."""
        return JudgedQueries(dict(list(self.texts.items())[:limit]), self.qrels)


def listed_queries(queries: Path, qrels: Path | None) -> JudgedQueries:
    """All queries of a file; with judgements, those that have a relevant document are measured."""
    texts = read_queries(queries)
    if qrels is None:
        return JudgedQueries(texts)
    judgements = read_qrels(qrels)
    if not set(judgements.with_relevant) & texts.keys():
        raise InvalidInput(f"{qrels}: has no relevant document for any query of {queries}")
    return JudgedQueries(texts, judgements)


def judged_queries(folder: Path, split: str, qrels: Path | None = None) -> JudgedQueries:
    """Return the queries of a BEIR folder that have a relevant document in the split.

    Raises:
        InvalidInput: it is no such folder, or the judgements name a query that it has not got.
    """
    folder = packaged(folder)
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: not a BEIR folder, so it has no queries of its own; give --queries FILE")
    file = qrels or qrels_file(folder, split)
    judgements = read_qrels(file)
    texts = read_queries(named_file(folder, "queries.jsonl"))
    judged = set(judgements.with_relevant)
    missing = sorted(judged - texts.keys())
    if missing:
        raise InvalidInput(f"{file}: {len(missing)} judged queries have no text in {folder} (first {missing[0]!r})")
    if not judged:
        raise InvalidInput(f"{file}: no query has a relevant document")
    return JudgedQueries({query_id: text for query_id, text in texts.items() if query_id in judged}, judgements)
