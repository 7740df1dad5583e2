"""Which column of a table holds the query, the documents and the labels: by its name, or as the caller says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from secondpass.errors import InvalidInput

Columns = Mapping[str, str | Sequence[str] | None]
"""The caller's word: column by role. Several columns for positives and negatives; None: there is none to read."""

QUERY, DOCUMENT, LABEL, POSITIVE, NEGATIVE = "query", "document", "label", "positive", "negative"
QUERY_ID, DOCUMENT_ID, TEACHING = "query_id", "document_id", "teaching"

SHAPES = (
    "query, document, label (or score)",
    "query, documents, labels (or scores)",
    "query, positive",
    "query, positive, negative (or negative_1, negative_2, ...)",
    "query, positives, negatives",
    "the last three with scores, a list: first of the positives, then of the negatives",
    'the first two with teaching, an object {"scores": [...], "weight": 1, "label_weight": 1}: a teacher beside labels',
)

# The names of datasets in use: sentence-transformers', GLUE's, BEIR's, MS MARCO's, Tevatron's, FlagEmbedding's, DPR's.
# A role's own name and its plural are also names.
NAMES: dict[str, frozenset[str]] = {
    QUERY: frozenset("query question anchor query_text sentence1 sentence_1 sentence_a text1 text_1".split()),
    DOCUMENT: frozenset(
        "document documents doc docs passage passages answer answers text texts sentence context contexts ctxs "
        "paragraph paragraphs candidate candidates response content contents sentence2 sentence_2 sentence_b text2 "
        "text_2".split()
    ),
    LABEL: frozenset(
        "label labels relevance relevances grade grades rating ratings score scores teacher_score "
        "teacher_scores".split()
    ),
    POSITIVE: frozenset(
        "positive positives pos positive_passage positive_passages positive_document positive_documents positive_ctxs "
        "relevant".split()
    ),
    NEGATIVE: frozenset(
        "negative negatives neg negative_passage negative_passages negative_document negative_documents negative_ctxs "
        "hard_negative hard_negatives hard_negative_ctxs irrelevant".split()
    ),
    QUERY_ID: frozenset("query_id qid queryid".split()),
    DOCUMENT_ID: frozenset("document_id document_ids doc_id doc_ids docid docids passage_id passage_ids pid".split()),
    TEACHING: frozenset((TEACHING,)),
}
SEVERAL = (POSITIVE, NEGATIVE)
_PLURALS = {f"{role}s": role for role in (DOCUMENT, LABEL, POSITIVE, NEGATIVE, DOCUMENT_ID)}
_ROLES = {role: role for role in NAMES} | _PLURALS | {"score": LABEL, "scores": LABEL}
_NUMBERED = re.compile(r"(.*?)_?(\d+)")


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns that are read. Either `document` with `label`, or `positives` with perhaps `negatives` and `label`.

    Attributes:
        query: the column of the query.
        document: of a document or a list of them; None where positives are named.
        label: of a number or a list of them; None where positives and negatives say it all.
        positives: of relevant documents, each a text or a list.
        negatives: of documents that are not.
        query_id: of the query's name; None: it has none.
        document_id: of the documents' names, one or a list; None: they have none.
        teaching: of a teacher's opinion, an object; None: nobody was asked.
    """

    query: str
    document: str | None = None
    label: str | None = None
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    query_id: str | None = None
    document_id: str | None = None
    teaching: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """All of them."""
        single = (self.query, self.document, self.label, self.query_id, self.document_id, self.teaching)
        return tuple(name for name in single if name is not None) + self.positives + self.negatives


def chosen_columns(columns: Columns | None) -> dict[str, tuple[str, ...]]:
    """The caller's columns by role, () for a role that is not to be read.

    Raises:
        InvalidInput: a role is not known or named twice, or its columns are no names.
    """
    chosen: dict[str, tuple[str, ...]] = {}
    for given, names in (columns or {}).items():
        role = _ROLES.get(given)
        if role is None:
            raise InvalidInput(f"columns: {given!r} is none of {', '.join(NAMES)}")
        if role in chosen:
            raise InvalidInput(f"columns: {given!r} was named before, as {role!r}")
        listed = () if names is None else (names,) if isinstance(names, str) else tuple(names)
        if not all(isinstance(name, str) for name in listed) or (len(listed) > 1 and role not in SEVERAL):
            raise InvalidInput(f"columns[{given!r}] is {names!r}, not the name of a column")
        chosen[role] = listed
    return chosen


def layout_of(names: Sequence[str], chosen: Mapping[str, tuple[str, ...]], source: str) -> Layout:
    """The columns to read among `names`; those that the caller chose go before what names suggest.

    Raises:
        InvalidInput: they form no known shape, or more than one; the message begins with `source` and lists the
            columns that were found and the shapes that are known.
    """
    for role, columns in chosen.items():
        for column in columns:
            if column not in names:
                raise InvalidInput(f"{source}: no column {column!r} for {role!r} among {_listed(names)}")
    taken = {column for columns in chosen.values() for column in columns}
    free = [name for name in names if name not in taken]
    found = {
        role: [chosen[role]] if chosen.get(role) else [] if role in chosen else _candidates(role, free)
        for role in NAMES
    }
    layouts = [form for form in _forms(found, chosen) if form is not None]
    if not layouts:
        raise InvalidInput(f"{source}: {_unknown(names)}")
    if len(layouts) > 1:
        raise InvalidInput(
            f"{source}: both {_listed(layouts[0])} and {_listed(layouts[1])} could be the documents; "
            f"choose by columns={{{DOCUMENT!r}: ...}} or columns={{{POSITIVE!r}: ...}}"
        )
    return _layout(found, layouts[0], source)


def _forms(
    found: Mapping[str, list[tuple[str, ...]]], chosen: Mapping[str, tuple[str, ...]]
) -> Iterable[tuple[str, ...] | None]:
    """The roles of each shape that the columns could be; what the caller chose excludes the other shape."""
    judged = bool(found[QUERY] and found[DOCUMENT] and found[LABEL])
    listed = bool(found[QUERY] and found[POSITIVE])
    if judged and not (listed and chosen.get(POSITIVE)):
        yield (QUERY, DOCUMENT, LABEL)
    if listed and not (judged and chosen.get(DOCUMENT)):
        yield (QUERY, POSITIVE, *((NEGATIVE,) if found[NEGATIVE] else ()), *((LABEL,) if found[LABEL] else ()))


def _layout(found: Mapping[str, list[tuple[str, ...]]], roles: Sequence[str], source: str) -> Layout:
    identified = (QUERY_ID, DOCUMENT_ID, TEACHING) if DOCUMENT in roles else (QUERY_ID,)
    columns: dict[str, tuple[str, ...]] = {}
    for role in (*roles, *(role for role in identified if found[role])):
        if len(found[role]) > 1:
            several = _listed([name for stem in found[role] for name in stem])
            raise InvalidInput(f"{source}: any of {several} could be the {role}; choose by columns={{{role!r}: ...}}")
        columns[role] = found[role][0]
    first = {role: names[0] for role, names in columns.items()}
    return Layout(
        first[QUERY],
        first.get(DOCUMENT),
        first.get(LABEL),
        columns.get(POSITIVE, ()),
        columns.get(NEGATIVE, ()),
        first.get(QUERY_ID),
        first.get(DOCUMENT_ID),
        first.get(TEACHING),
    )


def _candidates(role: str, names: Iterable[str]) -> list[tuple[str, ...]]:
    """Columns whose name says `role`, one tuple a stem: negative, negative_1 and negative_2 belong together."""
    stems: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        plain = re.sub(r"[\s\-]+", "_", name.strip().lower())
        numbered = _NUMBERED.fullmatch(plain) if role in SEVERAL else None
        stem, number = (numbered[1], int(numbered[2])) if numbered else (plain, -1)
        if stem in NAMES[role]:
            # Where only one may be read, query and Query are two columns, so two stems.
            stems.setdefault(stem if role in SEVERAL else name, []).append((number, name))
    return [tuple(name for _, name in sorted(columns, key=lambda column: column[0])) for columns in stems.values()]


def _unknown(names: Sequence[str]) -> str:
    return (
        f"the columns {_listed(names)} form none of the shapes that are known: {'; '.join(SHAPES)}. "
        f"Columns of other names: columns={{{QUERY!r}: ..., {DOCUMENT!r}: ..., {LABEL!r}: ...}}"
    )


def _listed(names: Sequence[str]) -> str:
    """The names, in quotes; a table without a header has whole texts in their place."""
    shown = [repr(name if len(name) <= 40 else f"{name[:39]}…") for name in names[:20]]
    return ", ".join(shown + ["…"] * (len(names) > 20)) or "(none)"
