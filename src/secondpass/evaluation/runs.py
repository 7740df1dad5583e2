"""Runs as values: per query a ranking of documents, and the files that hold them: TREC and JSON Lines.

The order of a run is part of it, so that no measure breaks ties its own way. Read from scores, the order is
trec_eval's: by score as float32, ties by document id, descending.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TextIO

import numpy as np

from secondpass.corpora import Line, existing, read_lines, record_id
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import column_of, string_id
from secondpass.lazy import optional

RANKED = "{:,} rankings are written with ranks for scores: some of theirs are missing, not finite, or rise"

Ranking = Mapping[str, float | None]
"""Score by document id, best document first; None where a ranker gave no score."""


class Run(Mapping[str, Ranking]):
    """Rankings by query id, in the order in which the system gave them.

    Args:
        name: what reports call the system.
        rankings: per query the documents, best first, with their scores (None where there are none).

    Raises:
        InvalidInput: an id is no str, a document comes twice in a ranking, or a score is NaN; the message names
            query and document.
    """

    def __init__(self, name: str, rankings: Mapping[str, Iterable[tuple[str, float | None]]]) -> None:
        self.name = name
        self._rankings = {
            string_id(query, "query"): _ranking(query, documents) for query, documents in rankings.items()
        }

    @classmethod
    def from_scores(cls, name: str, scores: Mapping[str, Mapping[str, float]]) -> Run:
        """A run out of scores in any order, ordered as trec_eval orders them."""
        return cls(name, {query: by_score(documents) for query, documents in scores.items()})

    def __getitem__(self, query: str) -> Ranking:
        return self._rankings[query]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rankings)

    def __len__(self) -> int:
        return len(self._rankings)

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {len(self)} queries, {sum(map(len, self._rankings.values()))} documents)"

    def only(self, queries: object) -> Run:
        """The rankings of some queries; `queries` is any container of ids."""
        kept = {query: ranking.items() for query, ranking in self.items() if query in queries}  # type: ignore[operator]
        return Run(self.name, kept)


def without_query_ids(run: Run) -> tuple[Run, int]:
    """The run without documents whose id is their query's, and how many they are.

    BEIR's evaluation leaves them out: in ArguAna and Quora a query is a document itself, and finds itself first.
    """
    own = sum(query in ranking for query, ranking in run.items())
    if not own:
        return run, 0
    left = {query: [(key, score) for key, score in ranking.items() if key != query] for query, ranking in run.items()}
    return Run(run.name, left), own


def by_score(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Documents in trec_eval's order: by score as float32, equal scores by id, both descending.

    Raises:
        InvalidInput: a score is NaN: it has no place in an order.
    """
    with np.errstate(over="ignore"):
        # What float32 does not hold is infinite there, as it is for trec_eval.
        values = np.fromiter(scores.values(), np.float64, len(scores)).astype(np.float32)
    if np.isnan(values).any():
        document = list(scores)[int(np.isnan(values).argmax())]
        raise InvalidInput(f"document {document!r} has the score NaN")
    documents = list(scores.items())
    if (values[1:] < values[:-1]).all():
        return documents
    # UTF-8's byte order, by which trec_eval compares, is the order of code points, by which Python does.
    ranked = sorted(zip(values.tolist(), documents, strict=True), key=lambda item: (item[0], item[1][0]), reverse=True)
    return [document for _, document in ranked]


def run_name(path: Path) -> str:
    """What the run of a file is called, where nobody says another name."""
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def read_run(path: Path, name: str | None = None) -> Run:
    """A run from a file, gzip accepted; `name` is by default the file's.

    A name that ends in .jsonl holds an object a query, {"query_id": ..., "documents": [{"id": ..., "score": ...},
    ...]}, best document first. A Parquet file, or a folder of them as `secondpass rescore` writes it, has the columns
    query_id, document_id, rank and score. Any other file has TREC's six columns (query, Q0, document, rank, score,
    tag), ordered by score: rank and tag are not read, as trec_eval does not read them; or MS MARCO's three (query,
    document, rank).

    Raises:
        MissingExtra: pyarrow, which reads Parquet, is not installed.
        InvalidInput: a folder's run is not finished, a line has another form, a score is no number, a query or
            document comes twice, or ranks are not 1, 2, 3, ...; the message names file and line.
    """
    given = name if name is not None else run_name(path)
    if path.is_dir() or path.suffix == ".parquet":
        return Run(given, _table_rankings(path))
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        return Run(given, _json_rankings(path))
    scores: dict[str, dict[str, float]] = {}
    columns = 0
    for line in read_lines(existing(path)):
        columns = columns or (3 if len(line.text.split()) == 3 else 6)
        query, document, score = run_row(line, columns)
        ranking = scores.get(query)
        if ranking is None:
            ranking = scores[query] = {}
        if document in ranking:
            raise line.refuse(f"document {document!r} of query {query!r} was given before")
        ranking[document] = score
    if not scores:
        raise InvalidInput(f"{path}: no ranking in it")
    return Run.from_scores(given, scores) if columns == 6 else Run(given, _by_rank(path, scores))


def write_run(stream: TextIO, rankings: Iterable[tuple[str, Sequence[tuple[str, float | None]]]], tag: str) -> int:
    """Write rankings (query id, documents best first with scores) in TREC's six columns, with `run_scores`.

    Returns how many rankings lost scores: `RANKED` says so.

    Raises:
        InvalidInput: an id is empty or has white space in it, which the format cannot hold.
    """
    ranked = 0
    for query_id, ranking in rankings:
        scores, kept = run_scores([score for _, score in ranking])
        ranked += not kept and any(score is not None for _, score in ranking)
        for rank, ((document_id, _), score) in enumerate(zip(ranking, scores, strict=True), start=1):
            columns = (column_of(query_id), "Q0", column_of(document_id), str(rank), repr(score), tag)
            stream.write(" ".join(columns) + "\n")
    return ranked


def run_scores(scores: Sequence[float | None]) -> tuple[list[float], bool]:
    """Scores in whose order trec_eval keeps the documents, and whether they are those given.

    It holds scores as float32 and breaks ties by document id, so of equal ones each is the next float32 below the one
    before it (above the one behind it where that would be below 0). Scores that are missing, not finite or rise give
    way to n, n-1, ... 1.
    """
    given = [float(score) for score in scores if score is not None]
    finite = len(given) == len(scores) and all(abs(score) < 3.4e38 for score in given)
    single = np.asarray(given if finite else (), np.float32)
    if not finite or (single[1:] > single[:-1]).any():
        return [float(len(scores) - index) for index in range(len(scores))], False
    if not (single[1:] == single[:-1]).any():
        return given, True
    apart = single.copy()
    for place in range(1, len(apart)):
        apart[place] = min(apart[place], np.nextafter(apart[place - 1], np.float32(-np.inf)))
    if apart[-1] < 0 <= single[-1]:
        apart[-1] = 0
        for place in range(len(apart) - 2, -1, -1):
            apart[place] = max(apart[place], np.nextafter(apart[place + 1], np.float32(np.inf)))
    triples = zip(given, single.tolist(), apart.tolist(), strict=True)
    return [score if moved == held else moved for score, held, moved in triples], True


def _ranking(query: str, documents: Iterable[tuple[str, float | None]]) -> dict[str, float | None]:
    ranking: dict[str, float | None] = {}
    count = 0
    for document, score in documents:
        count += 1
        if score is not None and math.isnan(score):
            raise InvalidInput(f"query {query!r}: document {document!r} has the score NaN")
        ranking[document] = score
        if len(ranking) != count:
            raise InvalidInput(f"query {query!r}: document {document!r} comes twice in the ranking")
        if document.__class__ is not str or not document:
            string_id(document, f"query {query!r}: document")
    return ranking


def run_row(line: Line, columns: int) -> tuple[str, str, float]:
    """Query, document and score of a line of TREC's six columns, or rank of MS MARCO's three; raises InvalidInput."""
    return _ms_marco(line) if columns == 3 else _trec(line)


def _trec(line: Line) -> tuple[str, str, float]:
    columns = line.text.split()
    if len(columns) != 6:
        forms = "a TREC run has 6 (query, Q0, document, rank, score, tag), MS MARCO's has 3 (query, document, rank)"
        raise line.refuse(f"{line.columns_said(' ')}; {forms}")
    try:
        # float() would read 1_0 as 10, and digits of other scripts.
        score = float(columns[4] if columns[4].isascii() and "_" not in columns[4] else "")
    except ValueError:
        raise line.refuse(f"score {columns[4]!r} is no number") from None
    if math.isnan(score):
        raise line.refuse("the score is NaN")
    return columns[0], columns[2], score


def _ms_marco(line: Line) -> tuple[str, str, float]:
    columns = line.text.split()
    if len(columns) != 3:
        raise line.refuse(f"{line.columns_said(' ')}; the lines before have 3 (query, document, rank)")
    if re.fullmatch("[0-9]{1,9}", columns[2]) is None or int(columns[2]) == 0:
        raise line.refuse(f"rank {columns[2]!r} is none; a run with scores has TREC's six columns")
    return columns[0], columns[1], float(columns[2])


def _by_rank(path: Path, ranks: Mapping[str, Mapping[str, float]]) -> dict[str, list[tuple[str, None]]]:
    """Documents by their ranks, which must be 1, 2, 3, ...: scores that stand in their place would turn a run round."""
    several = [list(found.values()) for found in ranks.values() if len(found) > 1]
    if several and all(upper > lower for found in several for upper, lower in pairwise(found)):
        fall = "the third column falls from line to line in every query"
        raise InvalidInput(f"{path}: {fall}, as scores do; as a rank, 1 is the best")
    for query, found in ranks.items():
        if sorted(found.values()) != list(range(1, len(found) + 1)):
            raise InvalidInput(f"{path}: the ranks of query {query!r} are not 1 to {len(found)}, each once")
    return {
        query: [(document, None) for document in sorted(found, key=found.__getitem__)] for query, found in ranks.items()
    }


def check_finished(path: Path) -> None:
    """Raise InvalidInput for the folder of a run (`secondpass.rescoring`) that has not all its parts."""
    if (path / "_manifest.jsonl").exists() and not (path / "_SUCCESS").exists():
        raise InvalidInput(f"{path}: its run is not finished")


def _table_rankings(path: Path) -> dict[str, list[tuple[str, float | None]]]:
    tables = optional("pyarrow.parquet", "pyarrow, which reads Parquet,", "ray")
    files = sorted(path.glob("[!._]*.parquet")) if path.is_dir() else [path]
    if not files:
        raise InvalidInput(f"{path}: no Parquet file in it")
    check_finished(path)
    found: dict[str, list[tuple[int, str, float]]] = {}
    for file in files:
        try:
            table = tables.read_table(existing(file), columns=["query_id", "document_id", "rank", "score"])
        except (OSError, ValueError, KeyError) as error:
            raise InvalidInput(f"{file}: no run: {error}") from None
        for query, *ranked in zip(*(column.to_pylist() for column in table.itercolumns()), strict=True):
            found.setdefault(query, []).append((ranked[1], ranked[0], ranked[2]))
    for query, ranking in found.items():
        ranking.sort()
        if [rank for rank, _, _ in ranking] != list(range(1, len(ranking) + 1)):
            raise InvalidInput(f"{path}: the ranks of query {query!r} are not 1 to {len(ranking)}, each once")
    return {query: [(document, score) for _, document, score in ranking] for query, ranking in found.items()}


def _json_rankings(path: Path) -> dict[str, list[tuple[str, float | None]]]:
    rankings: dict[str, list[tuple[str, float | None]]] = {}
    for line in read_lines(existing(path)):
        query, documents = json_ranking(line)
        if query in rankings:
            raise line.refuse(f"query {query!r} was given before")
        rankings[query] = documents
    if not rankings:
        raise InvalidInput(f"{path}: no ranking in it")
    return rankings


def json_ranking(line: Line) -> tuple[str, list[tuple[str, float | None]]]:
    """A query's id and its documents, best first, of a line of JSON Lines; raises InvalidInput where it is none."""
    value = line.json_object()
    query, documents = record_id(line, value, "query_id"), value.get("documents")
    if not isinstance(documents, list):
        raise line.refuse('"documents" is no list')
    ranking = [_json_document(line, index, document) for index, document in enumerate(documents)]
    if len({document for document, _ in ranking}) != len(documents):
        raise line.refuse("a document comes twice")
    return query, ranking


def _json_document(line: Line, index: int, document: object) -> tuple[str, float | None]:
    found = document if isinstance(document, dict) else {"id": document}
    try:
        name, score = record_id(line, found, "id"), found.get("score")
    except InvalidInput:
        raise line.refuse(f"documents[{index}] has no id that is a string or a whole number") from None
    if score is not None and (not isinstance(score, (int, float)) or isinstance(score, bool) or math.isnan(score)):
        raise line.refuse(f"documents[{index}] has score {score!r}, not a number")
    return name, None if score is None else float(score)
