"""One query with its documents and what is known about each: the unit that training reads."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from secondpass.errors import InvalidInput
from secondpass.evaluation.reporting.files import opened


@dataclass(frozen=True, slots=True)
class Teaching:
    """A teacher's opinion of a group's documents, beside their labels; for a loss that reads both.

    Attributes:
        scores: one per document, finite, on the scale of logits.
        weight: what they count in the loss, not negative.
        label_weight: what the labels count beside them, not negative.
    """

    scores: tuple[float, ...]
    weight: float = 1.0
    label_weight: float = 1.0

    def only(self, places: Iterable[int]) -> Teaching:
        """The opinion of some of the documents, in the order of `places`."""
        return Teaching(tuple(self.scores[place] for place in places), self.weight, self.label_weight)


@dataclass(frozen=True, slots=True)
class Group:
    """A query, its documents, and one label for each.

    What a label means is the loss's matter (`losses.contract.LabelKind`): relevance in [0, 1], a grade, a teacher's
    score, or the index of a class.

    Attributes:
        query: what is asked.
        documents: at least one.
        labels: one per document, finite.
        source: where it was read, "train.jsonl:12"; error messages begin with it.
        query_id: the collection's name for the query; empty if it has none.
        document_ids: one per document, or empty if they have none.
        teaching: what a teacher thinks of the documents; None: nobody was asked.
    """

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...]
    source: str = ""
    query_id: str = ""
    document_ids: tuple[str, ...] = ()
    teaching: Teaching | None = None

    def __len__(self) -> int:
        return len(self.documents)


def checked_teaching(teaching: Any, documents: int, name: str) -> Teaching | None:
    """`teaching` with Python's own numbers.

    Raises:
        InvalidInput: it is no `Teaching`, has not as many scores as there are documents, or a number is refused; the
            message begins with `name`.
    """
    if teaching is None:
        return None
    if not isinstance(teaching, Teaching):
        raise InvalidInput(f"{name}: teaching is {type(teaching).__name__}, not a Teaching")
    if len(teaching.scores) != documents:
        raise InvalidInput(f"{name}: {documents} documents and {len(teaching.scores)} scores of the teacher")
    for index, score in enumerate(teaching.scores):
        if not isinstance(score, Real) or not math.isfinite(score):
            raise InvalidInput(f"{name}: the teacher's score of documents[{index}] is {score!r}, no finite number")
    for what, weight in (("weight", teaching.weight), ("label_weight", teaching.label_weight)):
        if not isinstance(weight, Real) or isinstance(weight, bool) or not 0 <= weight < math.inf:
            raise InvalidInput(f"{name}: teaching has {what}={weight!r}, not a finite number from 0 on")
    return Teaching(tuple(map(float, teaching.scores)), float(teaching.weight), float(teaching.label_weight))


def write_groups(path: Path, groups: Iterable[Group]) -> None:
    """Write groups as JSON lines that `sources.read_groups` reads back; the file is there whole or not at all.

    Raises:
        InvalidInput: the path is refused (see `checked_target`), or cannot be written to.
    """
    checked_target(path)
    with opened(path) as stream:
        for group in groups:
            stream.write(json_line(columns_of(group)) + "\n")


def checked_target(path: Path) -> None:
    """Refuse what groups could not be written to, before there are any.

    Raises:
        InvalidInput: the path is a folder, in none, or its name does not end as that of JSON lines.
    """
    if path.suffix not in (".jsonl", ".ndjson"):
        raise InvalidInput(f"{path}: JSON lines are written, so the name has to end in .jsonl")
    if path.is_dir():
        raise InvalidInput(f"{path}: is a folder, not a file")
    if not path.absolute().parent.is_dir():
        raise InvalidInput(f"{path}: there is no folder {path.absolute().parent}")


def columns_of(group: Group) -> dict[str, object]:
    """A group as a row: query_id, query, documents, labels, document_ids and teaching, as far as it has them."""
    row: dict[str, object] = {"query_id": group.query_id} if group.query_id else {}
    row |= {"query": group.query, "documents": group.documents, "labels": group.labels}
    if group.document_ids:
        row["document_ids"] = group.document_ids
    if group.teaching is not None:
        row["teaching"] = asdict(group.teaching)
    return row


def json_line(row: dict[str, object]) -> str:
    """One line of JSON that can be written as UTF-8."""
    line = json.dumps(row, ensure_ascii=False, allow_nan=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair: only its escape can be written
        return json.dumps(row, allow_nan=False)
    return line
