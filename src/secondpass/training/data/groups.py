"""One query with its documents and what is known about each: the unit that training reads."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from numbers import Real
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any

from secondpass import corpora
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import JudgedQueries, Qrels
from secondpass.evaluation.reporting.files import opened
from secondpass.evaluation.runs import Run

if TYPE_CHECKING:
    from secondpass.training.losses.loss import LabelKind


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

    What a label means is the loss's matter (`losses.loss.LabelKind`): relevance in [0, 1], a grade, a teacher's
    score, or the index of a class.

    Attributes:
        query: what is asked.
        documents: at least one.
        labels: one per document, finite.
        source: where it was read, "train.jsonl:12"; error messages begin with it.
        query_id: the collection's name for the query; empty if it has none.
        document_ids: one per document, or empty if they have none.
        teaching: what a teacher thinks of the documents; None: nobody was asked.
        margins: labels are no scores but say how far the first document is above each other: 0, -margin, -margin, ...
        label_origin: where the labels come from if people did not give them, as `Qrels.origin`.
    """

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...]
    source: str = ""
    query_id: str = ""
    document_ids: tuple[str, ...] = ()
    teaching: Teaching | None = None
    margins: bool = False
    label_origin: str = ""

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
    write_rows(path, map(columns_of, groups))


def write_rows(path: Path, rows: Iterable[dict[str, object]]) -> None:
    """Write an object a line; errors as of `write_groups`."""
    checked_target(path)
    with opened(path) as stream:
        stream.writelines(_json_line(row) + "\n" for row in rows)


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
    if group.margins:
        first, *others = group.documents
        return {"query": group.query, "positive": first, "negatives": others, "margins": [-x for x in group.labels[1:]]}
    if group.document_ids:
        row["document_ids"] = group.document_ids
    if group.teaching is not None:
        row["teaching"] = asdict(group.teaching)
    if group.label_origin:
        row["label_origin"] = group.label_origin
    return row


def _json_line(row: dict[str, object]) -> str:
    """One line of JSON that can be written as UTF-8."""
    line = json.dumps(row, ensure_ascii=False, allow_nan=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair: only its escape can be written
        return json.dumps(row, allow_nan=False)
    return line


# ---- Judgements, a corpus and queries to groups: BEIR folders, TREC files, and tables of ids.
Texts = Mapping[str, str]
"""Text by id."""
SHOWN_IDS = 5


def judged_groups(
    qrels: Qrels,
    queries: Path | Texts,
    corpus: Path | Texts,
    *,
    source: str,
    run: Run | None = None,
    unjudged_negatives: int = 0,
) -> Iterator[Group]:
    """A group for each judged query, in the order of the judgements: first what was judged, then what was not.

    Labels are the grades; a grade below 0 (spam, in TREC's web tracks) becomes 0. Grade 0 was judged and is not
    relevant. Only the texts that are needed are held.

    Args:
        qrels: the judgements.
        queries: a file (see `queries.read_queries`) or texts by id.
        corpus: a BEIR folder or file (see `corpora.read_corpus`) or contents by id.
        source: what messages call the judgements.
        run: whose documents are taken where a query has no judgement of them.
        unjudged_negatives: how many of those for each query, from the top of the run, with label 0. Some will be
            relevant: nobody has looked at them.

    Raises:
        InvalidInput: a judged query or a document has no text; the message names the first and says how many.
    """
    ranked = {} if run is None else run
    unjudged = {
        query: [document for document in ranked.get(query, []) if document not in grades][:unjudged_negatives]
        for query, grades in qrels.items()
    }
    texts = _texts(qrels, queries, source)
    contents = _contents(
        (document for query in qrels for document in (*qrels[query], *unjudged[query])), corpus, source
    )
    for query, grades in qrels.items():
        added = unjudged[query]
        ids = (*grades, *added)
        labels = (*(float(max(grade, 0)) for grade in grades.values()), *(0.0 for _ in added))
        contained = tuple(contents[document] for document in ids)
        yield Group(texts[query], contained, labels, f"{source} query {query!r}", query, ids, label_origin=qrels.origin)


def with_texts(
    groups: Iterable[Group | InvalidInput], queries: Path | Texts, corpus: Path | Texts, *, source: str
) -> Iterator[Group | InvalidInput]:
    """Groups that have ids in place of texts to groups that have both; arguments and errors as of `judged_groups`."""
    held = list(groups)
    named = [group for group in held if isinstance(group, Group)]
    texts = _texts((group.query for group in named), queries, source)
    contents = _contents((document for group in named for document in group.documents), corpus, source)
    for group in held:
        if isinstance(group, InvalidInput):
            yield group
            continue
        documents = tuple(contents[name] for name in group.documents)
        yield replace(
            group, query=texts[group.query], documents=documents, query_id=group.query, document_ids=group.documents
        )


def _texts(ids: Iterable[str], queries: Path | Texts, source: str) -> Texts:
    texts = corpora.read_queries(queries) if isinstance(queries, Path) else queries
    _all_known(dict.fromkeys(ids), texts, "queries", source)
    return texts


def _contents(ids: Iterable[str], corpus: Path | Texts, source: str) -> Texts:
    wanted = dict.fromkeys(ids)
    found = corpora.read_corpus(corpus) if isinstance(corpus, Path) else ()
    stored = {document.id: document.content for document in found if document.id in wanted}
    contents = stored if isinstance(corpus, Path) else corpus
    _all_known(wanted, contents, "documents", source)
    return contents


def _all_known(ids: Iterable[str], texts: Texts, what: str, source: str) -> None:
    unknown = [name for name in ids if name not in texts]
    if unknown:
        shown = ", ".join(map(repr, unknown[:SHOWN_IDS])) + (", …" if len(unknown) > SHOWN_IDS else "")
        raise InvalidInput(f"{source}: {len(unknown)} {what} have no text: {shown}")


# ---- What there is to train on, in figures: shown before the first step, kept for the model's card.
FEW_VALUES = 10


@dataclass(frozen=True, slots=True)
class Counts:
    """Groups that are trained on, and what was dropped.

    Attributes:
        groups: how many are left.
        documents: in all of them.
        shortest: documents of the smallest group.
        median: of the middle one (the lower of two).
        longest: of the largest.
        positives: documents with label 0.5 and above (relevance) or above 0 (grade); None for other labels.
        negatives: the other documents; None for other labels.
        label_sum: of all labels.
        lowest: label.
        highest: label.
        histogram: documents by label, ascending, if there are at most ten different labels; else empty.
        dropped: groups left out, by reason.
        repeated: documents left out because their group has them already.
    """

    groups: int
    documents: int
    shortest: int
    median: int
    longest: int
    positives: int | None
    negatives: int | None
    label_sum: float
    lowest: float
    highest: float
    histogram: Mapping[float, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    repeated: int = 0

    @property
    def positive_weight(self) -> float:
        """Weight of a positive under which both sides count alike: negatives by positives, soft labels by their share.

        What `pos_weight="balanced"` of binary cross-entropy is: (documents - label sum) / label sum.

        Raises:
            InvalidInput: the labels are not in [0, 1], or all are 0 or all 1, which no weight can balance.
        """
        if not 0 <= self.lowest <= self.highest <= 1:
            raise InvalidInput(f"labels from {self.lowest:g} to {self.highest:g} cannot be balanced: not in [0, 1]")
        if not 0 < self.label_sum < self.documents:
            raise InvalidInput(f"all {self.documents} labels are {self.lowest:g}: there is nothing to balance")
        return (self.documents - self.label_sum) / self.label_sum

    def lines(self) -> list[str]:
        """The figures for people to read."""
        size = f"{self.shortest}" if self.shortest == self.longest else f"{self.shortest} to {self.longest}"
        labels = f"from {self.lowest:.4g} to {self.highest:.4g}, mean {self.label_sum / self.documents:.4g}"
        if self.histogram:
            labels = ", ".join(f"{label:g} ({count:,})" for label, count in self.histogram.items())
        made = [
            f"{self.groups:,} groups, {self.documents:,} documents ({size} a group, median {self.median})",
            f"labels: {labels}",
        ]
        if self.positives is not None and self.negatives is not None:
            made.append(f"positives: {self.positives:,}, negatives: {self.negatives:,}")
        made.extend(f"dropped: {count:,} groups, {reason}" for reason, count in self.dropped.items())
        if self.repeated:
            made.append(f"dropped: {self.repeated:,} documents that their group has already")
        return made

    def as_json(self) -> dict[str, Any]:
        """Plain values; labels of the histogram as text."""
        return asdict(self) | {"histogram": {f"{label:g}": count for label, count in self.histogram.items()}}


def counted(groups: Sequence[Group], kind: LabelKind, dropped: Mapping[str, int], repeated: int) -> Counts:
    """The figures of groups, at least one; `kind` says what their labels mean."""
    sizes = [len(group) for group in groups]
    labels = [label for group in groups for label in group.labels]
    histogram: Counter[float] = Counter(labels)
    positives: int | None = None
    if kind in ("relevance", "grade"):
        positives = sum(label >= 0.5 if kind == "relevance" else label > 0 for label in labels)
    return Counts(
        groups=len(groups),
        documents=len(labels),
        shortest=min(sizes),
        median=median_low(sizes),
        longest=max(sizes),
        positives=positives,
        negatives=None if positives is None else len(labels) - positives,
        label_sum=sum(sum(group.labels) for group in groups),
        lowest=min(labels),
        highest=max(labels),
        histogram=dict(sorted(histogram.items())) if len(histogram) <= FEW_VALUES else {},
        dropped=dict(dropped),
        repeated=repeated,
    )


def label_origins(groups: Iterable[Group]) -> str:
    """Where labels come from that people did not give, of several origins each with its groups; else ""."""
    counts = Counter(group.label_origin for group in groups)
    total = counts.total()
    if len(counts) < 2:
        return "".join(counts)
    return "; ".join(f"{origin or 'by people'} ({count:,} of {total:,} groups)" for origin, count in counts.items())


def judged(groups: Sequence[Group], contents: dict[str, str]) -> JudgedQueries:
    """The queries of groups, and what their labels say of documents, by the ids of those.

    A document without an id is the one of `contents`, texts by id, that has its text, or else is called by its text;
    `contents` gets those that it lacks.

    Raises:
        InvalidInput: a document has two labels for a query, or a label is no whole number.
    """
    named = {text: name for name, text in contents.items()}
    asked: dict[str, str] = {}
    grades: dict[str, dict[str, float]] = {}
    for group in groups:
        query = group.query_id or group.query
        asked[query] = group.query
        if group.margins:
            raise InvalidInput(f"{group.source}: margins between documents are no grades of them")
        for place, (text, label) in enumerate(zip(group.documents, group.labels, strict=True)):
            name = group.document_ids[place] if group.document_ids else named.get(text, text)
            contents.setdefault(name, text)
            before = grades.setdefault(query, {}).setdefault(name, label)
            if before != label:
                raise InvalidInput(f"{group.source}: {text[:60]!r} has label {label:g} here and {before:g} before")
    return JudgedQueries(asked, Qrels(grades, origin=label_origins(groups)))


# ---- A name for training data by what is in it, so that a run is not resumed on other data.
def fingerprint(groups: Iterable[Group]) -> str:
    """SHA-256 over queries, documents, labels, teachers' opinions and their order, as 64 hexadecimal digits.

    Sources and ids do not count: a file that was moved is the same data. Labels count as float64, to the last bit.
    """
    digest = hashlib.sha256()
    for group in groups:
        # Lengths first: no text can look like the end of another.
        digest.update(struct.pack("<Q", len(group.documents)))
        for text in (group.query, *group.documents):
            raw = text.encode("utf-8", "surrogatepass")
            digest.update(struct.pack("<Q", len(raw)))
            digest.update(raw)
        digest.update(struct.pack(f"<Q{len(group.labels)}d", len(group.labels), *group.labels))
        if group.teaching is not None:
            known = (*group.teaching.scores, group.teaching.weight, group.teaching.label_weight)
            digest.update(struct.pack(f"<{len(known)}d", *known))
    return digest.hexdigest()
