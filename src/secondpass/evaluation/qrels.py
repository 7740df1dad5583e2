"""Relevance judgements (qrels) as a value, and the files that hold them: BEIR, TREC and JSON Lines.

BEIR: Thakur et al. 2021, "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation"; TREC: trec_eval's README.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TextIO

from secondpass.corpora import Line, existing, named_file, packaged, read_lines, read_queries, record_id
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
# A further column of ours, which BEIR's own reader passes over.
ORIGIN = "origin"


HIGHEST_GRADE = 1_000_000
BEYOND = f"beyond {HIGHEST_GRADE:,}: trec_eval keeps a counter for every grade up to the highest"
GRADE = re.compile(r"[+-]?[0-9]{1,40}(\.0*)?")


class Qrels(Mapping[str, Mapping[str, int]]):
    """Grades by document id, by query id: 1 and up is relevant, 0 and below was judged and is not.

    Args:
        grades: any mapping of mappings; it is copied. A query may have no judgement: it is then as if absent.
        subtopics: of queries that are judged by several subtopics (intents, aspects) the grade by subtopic, by
            document. The documents' grades are then the highest of theirs, whatever `grades` has.
        origin: where grades come from that people did not give, to be read after "judgements": "from clicks,
            position-based model", "by MODEL, not by people". Whatever is computed with them has to say so.
        by_people: whether people gave some of them; None: all of them where there is no origin, else none.

    Raises:
        InvalidInput: an id is no str, or a grade is no whole number from -1,000,000 to 1,000,000; the message names
            query and document.
    """

    def __init__(
        self,
        grades: Mapping[str, Mapping[str, Any]],
        subtopics: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
        origin: str = "",
        by_people: bool | None = None,
    ) -> None:
        self.origin = " ".join(origin.split())
        self.by_people = not self.origin if by_people is None else by_people
        self.subtopics: dict[str, dict[str, dict[str, int]]] = {
            query: {document: {string_id(topic, "subtopic"): _whole(query, document, grade)
                               for topic, grade in by_topic.items()}
                    for document, by_topic in documents.items() if by_topic}
            for query, documents in (subtopics or {}).items()
        }  # fmt: skip
        highest = {query: {document: max(by_topic.values()) for document, by_topic in documents.items()}
                   for query, documents in self.subtopics.items()}  # fmt: skip
        self._grades: dict[str, dict[str, int]] = {}
        for query, documents in (grades if not highest else {**grades, **highest}).items():
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
        chosen = [query for query in self if query in queries]  # type: ignore[operator]
        several = {query: self.subtopics[query] for query in chosen if query in self.subtopics}
        return Qrels({query: self[query] for query in chosen}, several, self.origin, self.by_people)

    @property
    def origin_note(self) -> str:
        """What is to be said of judgements that are not people's; "" of people's."""
        return f"judgements {self.origin}" if self.origin else ""


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

    A name that ends in .jsonl holds objects with "query_id", "doc_id", "relevance" and perhaps "subtopic_id" and
    "origin"; any other file has BEIR's table (query-id, corpus-id, score, by tabs, with or without a header, which may
    name "origin" as a fourth column) or TREC's four columns (query, subtopic, document, grade). A query with several
    subtopics keeps them; its documents' grades are then the highest of theirs.

    Raises:
        InvalidInput: a line has another form, a grade is no whole number, or a document has two different grades for
            one subtopic; the message names file and line.
    """
    parse = _json_judgement if path.name.removesuffix(".gz").endswith(".jsonl") else _judgement
    grades: dict[str, dict[str, int]] = {}
    topics: dict[str, str] = {}
    several: dict[str, dict[str, dict[str, int]]] = {}
    origins: Counter[str] = Counter()
    for position, line in enumerate(read_lines(existing(path))):
        if position == 0 and (header := _header(line))[:3] == BEIR_HEADER and header[3:] in ((), (ORIGIN,)):
            parse = _judgement_with_origin if header[3:] else parse
            continue
        query, topic, document, grade, origin = parse(line)
        origins[origin] += 1
        flat = grades.setdefault(query, {})
        first = topics.setdefault(query, topic)
        if topic != first and query not in several:
            several[query] = {known: {first: before} for known, before in flat.items()}
        if query in several:
            before = several[query].setdefault(document, {}).setdefault(topic, grade)
        else:
            before = flat.setdefault(document, grade)
        if before != grade:
            raise line.refuse(f"document {document!r} of query {query!r} has grade {grade} here and {before} before")
    if not grades:
        raise InvalidInput(f"{path}: no judgement in it")
    return Qrels(grades, several, _several_origins(origins), by_people="" in origins)


def _header(line: Line) -> tuple[str, ...]:
    return tuple(column.strip().lower() for column in line.text.split("\t"))


def _several_origins(counts: Mapping[str, int]) -> str:
    """One origin as it is; of several how much is of each, and how much of people."""
    total = sum(counts.values())
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{origin or 'by people'} ({count:,} of {total:,})" for origin, count in counts.items())


def write_qrels(stream: TextIO, qrels: Qrels, form: Literal["trec", "beir", "jsonl"] = "trec") -> None:
    """Write judgements as `read_qrels` reads them: in TREC's four columns, BEIR's table or JSON lines.

    TREC's second column is the subtopic, 0 where there is one alone; BEIR's table has no place for subtopics.

    Raises:
        InvalidInput: an id is empty or has white space in it, which TREC's columns cannot hold, or a tab or half a
            surrogate pair in BEIR's; or the judgements are not people's and TREC's columns cannot say so.
    """
    if form != "trec":
        _write_marked(stream, qrels, form == "beir")
        return
    if qrels.origin:
        raise InvalidInput(f"{qrels.origin_note}: TREC's columns cannot say so; JSON lines and BEIR's table do")
    for query, grades in qrels.items():
        several = qrels.subtopics.get(query, {})
        for document, grade in grades.items():
            for topic, part in several.get(document, {"0": grade}).items():
                stream.write(f"{column_of(query)} {column_of(topic)} {column_of(document)} {part}\n")


def _write_marked(stream: TextIO, qrels: Qrels, table: bool) -> None:
    """BEIR's table or JSON lines, each with an origin if there is one."""
    origin = {ORIGIN: qrels.origin} if qrels.origin else {}
    if table:
        stream.write("\t".join((*BEIR_HEADER, *origin)) + "\n")
    for query, grades in qrels.items():
        for document, grade in grades.items():
            if table and (fault := _unfit(query + document)):
                raise InvalidInput(f"ids {query!r} and {document!r} cannot stand in a table: {fault}")
            several = qrels.subtopics.get(query, {}).get(document, {})
            for topic, part in several.items() if several and not table else (("", grade),):
                row = {"query_id": query, "doc_id": document, "relevance": part, **origin}
                row |= {"subtopic_id": topic} if topic else {}
                columns = map(str, (query, document, part, *origin.values()))
                stream.write(("\t".join(columns) if table else json.dumps(row)) + "\n")


def _unfit(ids: str) -> str:
    """Why they cannot stand in a table; "" if they can."""
    if any(mark in ids for mark in "\t\r\n"):
        return "a tab separates its columns"
    if not ids.isascii() and any("\ud800" <= one <= "\udfff" for one in ids):
        return "half a surrogate pair is no UTF-8; JSON lines can hold it"
    return ""


def _whole(query: str, document: object, grade: Any) -> int:
    place = f"query {query!r}: document {document!r} has grade {grade!r}, which is"
    if not isinstance(grade, Real) or isinstance(grade, bool):
        raise InvalidInput(f"{place} no whole number")
    number: Any = grade
    if abs(number) > HIGHEST_GRADE:
        raise InvalidInput(f"{place} {BEYOND}")
    if number != number // 1:
        raise InvalidInput(f"{place} no whole number")
    return int(number)


def _judgement_with_origin(line: Line) -> tuple[str, str, str, int, str]:
    columns = line.text.split("\t")
    if len(columns) != 4:
        raise line.refuse(f"{line.columns_said()}, where the header has 4 by tabs")
    query, topic, document, grade, _ = _judgement(Line(line.source, line.number, "\t".join(columns[:3])))
    return query, topic, document, grade, columns[3].strip()


def _judgement(line: Line) -> tuple[str, str, str, int, str]:
    columns = line.text.split("\t")
    topic = "0"
    if len(columns) == 3:
        query, document, grade = (column.strip() for column in columns)
    else:
        trec = line.text.split()
        if len(trec) != 4:
            raise line.refuse(f"{line.columns_said()}; BEIR's judgements have 3 (by tabs), TREC's have 4")
        query, topic, document, grade = trec
    if not query or not document:
        raise line.refuse("an id is empty")
    whole = _whole_text(grade)
    if whole is None:
        raise line.refuse(f"grade {grade!r} is no whole number")
    return query, topic, document, _graded(line, whole), ""


@lru_cache
def _whole_text(text: str) -> int | None:
    """2, 2.0 or 2. as a number; files have few different grades."""
    return None if GRADE.fullmatch(text) is None else int(text.partition(".")[0])


def _graded(line: Line, grade: int) -> int:
    if abs(grade) > HIGHEST_GRADE:
        raise line.refuse(f"grade {grade} is {BEYOND}")
    return grade


def _json_judgement(line: Line) -> tuple[str, str, str, int, str]:
    value = line.json_object()
    query, document = (record_id(line, value, key) for key in ("query_id", "doc_id"))
    grade = value.get("relevance")
    if not isinstance(grade, (int, float)) or isinstance(grade, bool) or grade != grade // 1:
        raise line.refuse(f'"relevance" is {grade!r}, no whole number')
    # ir_datasets writes TREC's second column under the second name.
    topic = value.get("subtopic_id", value.get("iteration", "0"))
    if isinstance(topic, bool) or not isinstance(topic, (str, int)) or topic == "":
        raise line.refuse(f'"subtopic_id" is {topic!r}, not a string with something in it')
    origin = value.get(ORIGIN) or ""
    if not isinstance(origin, str):
        raise line.refuse(f'"{ORIGIN}" is {origin!r}, not a string')
    return query, str(topic), document, _graded(line, int(grade)), origin.strip()


# ---- Which queries are asked, and which of them are measured: those of a file, or the judged ones of a BEIR folder.
#
# One rule: a query that has a relevant document but no text was never asked. It is left out of the judgements, so of
# every mean, and kept in `textless`, so that whoever measures can say so.
@dataclass(frozen=True, slots=True)
class JudgedQueries:
    """Text by query id in the order in which they are asked, and judgements if they are to be measured.

    `textless` are the queries with a relevant document that have no text; the judgements no longer have them.
    `judged` are the texts of a folder's judged queries, those without a relevant document among them.
    """

    texts: dict[str, str]
    qrels: Qrels | None = None
    textless: tuple[str, ...] = ()
    judged: dict[str, str] = field(default_factory=dict)

    def limited(self, limit: int | None) -> JudgedQueries:
        """Only the first `limit`."""
        return replace(self, texts=dict(list(self.texts.items())[:limit]))

    def with_unanswered(self) -> JudgedQueries:
        """Those without a relevant document are asked too: no measure is of them, but probabilities are."""
        return replace(self, texts=self.judged or self.texts)

    @property
    def note(self) -> str:
        """What is to be said of judged queries without a text, and of judgements that are not people's; else ""."""
        origin = "" if self.qrels is None else self.qrels.origin_note
        return "; ".join(filter(None, (origin, textless_note(self.textless))))


def textless_note(textless: Sequence[str]) -> str:
    """What is to be said of judged queries without a text; "" if there are none."""
    few = ", ".join(textless[:5]) + (", ..." if len(textless) > 5 else "")
    return f"{len(textless):,} judged queries have no text, so they are left out ({few})" if textless else ""


def with_text(qrels: Qrels, asked: Container[str]) -> tuple[Qrels, tuple[str, ...]]:
    """The judgements without the queries that have a relevant document but are not among those asked, and these."""
    textless = tuple(query for query in qrels.with_relevant if query not in asked)
    return (qrels.only(qrels.keys() - set(textless)) if textless else qrels), textless


def listed_queries(queries: Path, qrels: Path | None) -> JudgedQueries:
    """All queries of a file; with judgements, those that have a relevant document are measured."""
    texts = read_queries(queries)
    if qrels is None:
        return JudgedQueries(texts)
    judgements, textless = with_text(read_qrels(qrels), texts)
    if not judgements.with_relevant:
        raise InvalidInput(f"{qrels}: has no relevant document for any query of {queries}")
    return JudgedQueries(texts, judgements, textless)


def judged_queries(folder: Path, split: str, qrels: Path | None = None) -> JudgedQueries:
    """Return the queries of a BEIR folder that have a relevant document in the split.

    Raises:
        InvalidInput: it is no such folder, no query has a relevant document, or none of those has a text.
    """
    folder = packaged(folder)
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: not a BEIR folder, so it has no queries of its own; give --queries FILE")
    file = qrels or qrels_file(folder, split)
    texts = read_queries(named_file(folder, "queries.jsonl"))
    judgements, textless = with_text(read_qrels(file), texts)
    judged = set(judgements.with_relevant)
    if not judged and textless:
        raise InvalidInput(f"{file}: none of its {len(textless)} judged queries has a text in {folder}")
    if not judged:
        raise InvalidInput(f"{file}: no query has a relevant document")
    every = {query: text for query, text in texts.items() if query in judgements}
    return JudgedQueries({query: every[query] for query in every if query in judged}, judgements, textless, every)
