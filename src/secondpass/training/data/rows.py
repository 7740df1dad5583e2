"""Rows of tables and datasets, each to one group: texts, labels and ids where the layout says they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from secondpass.corpora import CorpusDocument
from secondpass.errors import InvalidInput
from secondpass.text import is_blank
from secondpass.training.data.groups import Group, Teaching
from secondpass.training.settings import worded

# ---- Which column of a table holds the query, the documents and the labels: by its name, or as the caller says.
Columns = Mapping[str, str | Sequence[str] | None]
"""The caller's word: column by role. Several columns for positives and negatives; None: there is none to read."""

QUERY, DOCUMENT, LABEL, POSITIVE, NEGATIVE = "query", "document", "label", "positive", "negative"
QUERY_ID, DOCUMENT_ID, TEACHING, ORIGIN = "query_id", "document_id", "teaching", "label_origin"

SHAPES = (
    "query, document, label (or score)",
    "query, documents, labels (or scores)",
    "query, positive",
    "query, positive, negative (or negative_1, negative_2, ...)",
    "query, positives, negatives",
    "query, document without a label and with nothing else but ids: every document is relevant",
    "the positives and negatives with scores, a list: first of the positives, then of the negatives",
    "query, positive, negatives with margins: one number, or one for each negative, for the loss margin_mse",
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
        "relevant document_one passage_one".split()
    ),
    NEGATIVE: frozenset(
        "negative negatives neg negative_passage negative_passages negative_document negative_documents negative_ctxs "
        "hard_negative hard_negatives hard_negative_ctxs irrelevant document_two passage_two".split()
    ),
    QUERY_ID: frozenset("query_id qid queryid".split()),
    DOCUMENT_ID: frozenset("document_id document_ids doc_id doc_ids docid docids passage_id passage_ids pid".split()),
    TEACHING: frozenset((TEACHING,)),
    ORIGIN: frozenset((ORIGIN,)),
}
# Labels and ids only where nothing else is one: of logs of clicks, of a teacher's margins.
MARGINS = frozenset(("margin", "margins"))
OTHER_IDS = frozenset("pids corpus_id product_id item_id".split())
CLICKS = frozenset("click clicks clicked is_clicked click_count".split())
# As tables write what is a boolean elsewhere.
TRUTH = {"true": 1, "false": 0}
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
        label: of a number or a list of them; None where positives and negatives say it all, or every document is
            relevant.
        positives: of relevant documents, each a text or a list.
        negatives: of documents that are not.
        query_id: of the query's name; None: it has none.
        document_id: of the documents' names, one or a list; None: they have none.
        teaching: of a teacher's opinion, an object; None: nobody was asked.
        label_origin: of where the labels come from, see `Group.label_origin`.
    """

    query: str
    document: str | None = None
    label: str | None = None
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    query_id: str | None = None
    document_id: str | None = None
    teaching: str | None = None
    label_origin: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """All of them."""
        single = (self.query, self.document, self.label, self.query_id, self.document_id)
        named = (*single, self.teaching, self.label_origin)
        return tuple(name for name in named if name is not None) + self.positives + self.negatives


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
    if LABEL not in chosen and not found[LABEL]:
        spare = MARGINS if found[NEGATIVE] else MARGINS | CLICKS if not any(_forms(found, chosen)) else ()
        found[LABEL] = [(name,) for name in free if _plain_name(name) in spare]
    layouts = [form for form in _forms(found, chosen) if form is not None] or _all_relevant(found, chosen, names)
    if not layouts:
        raise InvalidInput(f"{source}: {_no_shape(found, names)}")
    if len(layouts) > 1:
        ways = " or ".join(worded("columns", {role: "NAME"}) for role in (DOCUMENT, POSITIVE))
        both = f"both {_listed(layouts[0])} and {_listed(layouts[1])}"
        raise InvalidInput(f"{source}: {both} could be the documents; choose by {ways}")
    return _layout(found, layouts[0], source)


Found = Mapping[str, list[tuple[str, ...]]]


def _all_relevant(found: Found, chosen: Mapping[str, tuple[str, ...]], names: Sequence[str]) -> list[tuple[str, ...]]:
    """Query and document alone: a relevant pair a row, unless an unknown column may say something else."""
    if not (found[QUERY] and found[DOCUMENT]) or any(found[role] for role in (LABEL, POSITIVE, NEGATIVE, TEACHING)):
        return []
    known = {name for columns in found.values() for stem in columns for name in stem}
    return [(QUERY, DOCUMENT)] if LABEL in chosen or known >= set(names) else []


def _no_shape(found: Found, names: Sequence[str]) -> str:
    if found[QUERY] and found[DOCUMENT] and not found[LABEL]:
        every = (
            f"or, where every document is relevant to its query, that there is none: {worded('columns', {LABEL: None})}"
        )
        return f"none of the columns {_listed(names)} is known as a label; say which: {_example(LABEL)}, {every}"
    if names_ids(names) and not found[QUERY]:
        return f"the columns {_listed(names)} have ids: corpus and queries are needed too, for the texts"
    shapes = f"form none of the shapes that are known: {'; '.join(SHAPES)}"
    return f"the columns {_listed(names)} {shapes}. Columns of other names: {_example(QUERY, DOCUMENT, LABEL)}"


def _example(*roles: str) -> str:
    return worded("columns", dict.fromkeys(roles, "NAME"))


def names_ids(names: Iterable[str]) -> bool:
    """Whether a name says that the column has ids."""
    return any(_plain_name(name) in NAMES[QUERY_ID] | NAMES[DOCUMENT_ID] | OTHER_IDS for name in names)


def layout_of_ids(names: Sequence[str], chosen: Mapping[str, tuple[str, ...]], source: str) -> Layout:
    """`layout_of` for a table with ids in place of texts: qid is the query, pid the document, positive_id the positive.

    Raises:
        InvalidInput: as `layout_of`.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        plain = _plain_name(name)
        stem = re.sub(r"_?(doc_?|passage_?|p)?ids?$", "", plain)
        known = {QUERY: NAMES[QUERY_ID], DOCUMENT: NAMES[DOCUMENT_ID] | OTHER_IDS}
        roles = [role for role, of in known.items() if plain in of]
        for role in roles or [role for role in SEVERAL if stem in NAMES[role] and stem != plain]:
            found.setdefault(role, []).append(name)
    for role, columns in found.items():
        if len(columns) > 1 and role not in chosen and role not in SEVERAL:
            several = f"any of {_listed(columns)} could be the id of the {role}"
            raise InvalidInput(f"{source}: {several}; choose by {_example(role)}")
    named = {role: tuple(columns) for role, columns in found.items()}
    return layout_of(names, {**named, QUERY_ID: (), DOCUMENT_ID: (), **chosen}, source)


def _forms(found: Found, chosen: Mapping[str, tuple[str, ...]]) -> Iterable[tuple[str, ...] | None]:
    """The roles of each shape that the columns could be; what the caller chose excludes the other shape."""
    judged = bool(found[QUERY] and found[DOCUMENT] and found[LABEL])
    listed = bool(found[QUERY] and found[POSITIVE])
    if judged and not (listed and chosen.get(POSITIVE)):
        yield (QUERY, DOCUMENT, LABEL)
    if listed and not (judged and chosen.get(DOCUMENT)):
        yield (QUERY, POSITIVE, *((NEGATIVE,) if found[NEGATIVE] else ()), *((LABEL,) if found[LABEL] else ()))


def _layout(found: Found, roles: Sequence[str], source: str) -> Layout:
    identified = (QUERY_ID, DOCUMENT_ID, TEACHING, ORIGIN) if DOCUMENT in roles else (QUERY_ID, ORIGIN)
    columns: dict[str, tuple[str, ...]] = {}
    for role in (*roles, *(role for role in identified if found[role])):
        if len(found[role]) > 1:
            several = _listed([name for stem in found[role] for name in stem])
            raise InvalidInput(f"{source}: any of {several} could be the {role}; choose by {_example(role)}")
        columns[role] = found[role][0]
    first = {role: names[0] for role, names in columns.items()}
    lists = columns.get(POSITIVE, ()), columns.get(NEGATIVE, ())
    further = (first.get(role) for role in (QUERY_ID, DOCUMENT_ID, TEACHING, ORIGIN))
    return Layout(first[QUERY], first.get(DOCUMENT), first.get(LABEL), *lists, *further)


def _candidates(role: str, names: Iterable[str]) -> list[tuple[str, ...]]:
    """Columns whose name says `role`, one tuple a stem: negative, negative_1 and negative_2 belong together."""
    stems: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        plain = _plain_name(name)
        numbered = _NUMBERED.fullmatch(plain) if role in SEVERAL else None
        stem, number = (numbered[1], int(numbered[2])) if numbered else (plain, -1)
        if stem in NAMES[role]:
            # Where only one may be read, query and Query are two columns, so two stems.
            stems.setdefault(stem if role in SEVERAL else name, []).append((number, name))
    return [tuple(name for _, name in sorted(columns, key=lambda column: column[0])) for columns in stems.values()]


def _plain_name(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", name.strip().lower())


def _listed(names: Sequence[str]) -> str:
    """The names, in quotes; a table without a header has whole texts in their place."""
    shown = [repr(name if len(name) <= 40 else f"{name[:39]}…") for name in names[:20]]
    return ", ".join(shown + ["…"] * (len(names) > 20)) or "(none)"


POSITIVE_LABEL, NEGATIVE_LABEL = 1.0, 0.0
TEXT_KEYS = ("text", "contents", "content")
ID_KEYS = ("_id", "id", "docid", "doc_id", "document_id", "passage_id", "pid")


@dataclass(frozen=True, slots=True)
class Row:
    """What stands in each column. `textual`: the table can hold nothing but texts, so "1" is a number."""

    source: str
    values: Mapping[str, Any]
    textual: bool = False

    def refuse(self, column: str, reason: str) -> InvalidInput:
        """The error for this row, to be raised."""
        return InvalidInput(f"{self.source}: column {column!r} {reason}")


@dataclass(frozen=True, slots=True)
class _Document:
    text: str
    id: str = ""


def group_of(row: Row, layout: Layout) -> Group:
    """The group of one row.

    A document is a str, an object with "text" and perhaps "title" (joined by a space, as BEIR joins them) and an id,
    or a Haystack Document. Positives have label 1 and negatives 0, if no column gives labels.

    Raises:
        InvalidInput: a value has another type, there is no document, or there are not as many labels or ids as
            documents; the message begins with the row's source and names the column.
    """
    if layout.document is not None:
        documents, single = _documents(row, layout.document)
        labels: list[float] = []
    else:
        positives, negatives = _gathered(row, layout.positives), _gathered(row, layout.negatives)
        documents, single = positives + negatives, False
        labels = [POSITIVE_LABEL] * len(positives) + [NEGATIVE_LABEL] * len(negatives)
    if not documents:
        raise InvalidInput(f"{row.source}: no document")
    margins = _margins(row, layout, len(documents))
    if margins is not None:
        labels = margins
    elif layout.label is not None:
        labels = _labels(row, layout.label, len(documents), single)
    elif layout.document is not None:
        if not single:
            raise row.refuse(layout.document, "is a list of documents, and no column has their labels")
        labels = [POSITIVE_LABEL]
    ids = tuple(document.id for document in documents)
    if (names := layout.document_id) is not None:
        ids = tuple(_id(row, names, value) for value in _one_each(row, names, len(documents), single, "id"))
    return Group(
        _text(row, layout.query),
        tuple(document.text for document in documents),
        tuple(labels),
        row.source,
        "" if layout.query_id is None else _id(row, layout.query_id, row.values[layout.query_id]),
        ids if any(ids) else (),
        None if layout.teaching is None else _teaching(row, layout.teaching, len(documents)),
        margins is not None,
        "" if layout.label_origin is None else _text(row, layout.label_origin),
    )


def group_of_ids(row: Row, layout: Layout) -> Group:
    """`group_of` for ids in place of texts, whole numbers too; the group's texts are the ids."""
    columns = [
        name for name in (layout.query, layout.document, *layout.positives, *layout.negatives) if name is not None
    ]
    return group_of(Row(row.source, {**row.values, **{name: _ids(row, name) for name in columns}}, row.textual), layout)


def _ids(row: Row, column: str) -> str | list[str]:
    value = _plain(row.values[column])
    return [_id(row, column, item) for item in value] if isinstance(value, (list, tuple)) else _id(row, column, value)


def _margins(row: Row, layout: Layout, documents: int) -> list[float] | None:
    """Labels of a positive and its negatives from how far it is above each: one number, or a list one shorter.

    As sentence-transformers 6.2 takes them for MarginMSELoss, with any number of negatives.
    """
    if layout.label is None or not layout.negatives or documents < 2:
        return None
    value = _plain(row.values[layout.label])
    given = value if isinstance(value, (list, tuple)) else [value]
    if len(given) != documents - 1 or value is None or len(_gathered(row, layout.positives)) != 1:
        return None
    return [0.0, *(0.0 - _number(row, layout.label, _plain(item)) for item in given)]


def _teaching(row: Row, column: str, documents: int) -> Teaching | None:
    value = row.values[column]
    if value is None:
        return None
    known = {"scores", "weight", "label_weight"}
    if not isinstance(value, Mapping) or "scores" not in value or not value.keys() <= known:
        raise row.refuse(column, f"is {_named(value)}, not an object of scores and perhaps weight and label_weight")
    inner = Row(f"{row.source}: column {column!r}", value)
    scores = tuple(_labels(inner, "scores", documents, single=False))
    return Teaching(scores, *(_number(inner, name, value.get(name, 1.0)) for name in ("weight", "label_weight")))


def _text(row: Row, column: str) -> str:
    value = _plain(row.values[column])
    if not isinstance(value, str):
        raise row.refuse(column, f"is {_named(value)}, not a text")
    return value


def _documents(row: Row, column: str) -> tuple[list[_Document], bool]:
    """The documents in a column, and whether it holds one rather than a list."""
    value = _plain(row.values[column])
    if not isinstance(value, (list, tuple)):
        return [_document(row, column, value, "")], True
    return [_document(row, column, item, f"[{index}]") for index, item in enumerate(value)], False


def _gathered(row: Row, columns: tuple[str, ...]) -> list[_Document]:
    """The documents of several columns; of numbered ones some may be empty, for rows that have fewer."""
    given = {name: row.values[name] for name in columns}
    absent = {name for name, value in given.items() if value is None or (isinstance(value, str) and is_blank(value))}
    filled = [name for name in columns if len(columns) == 1 or name not in absent]
    return [document for name in filled for document in _documents(row, name)[0]]


def _document(row: Row, column: str, value: Any, place: str) -> _Document:
    if isinstance(value, str):
        return _Document(value)
    if isinstance(value, Mapping):
        text = next((value[key] for key in TEXT_KEYS if key in value), None)
        title = value.get("title")
        name = next((value[key] for key in ID_KEYS if key in value), None)
    else:
        text, title, name = getattr(value, "content", None), None, getattr(value, "id", None)
    if not isinstance(text, str) or not isinstance(title, str | None):
        raise row.refuse(column + place, f"is {_named(value)}, not a text, nor an object that has one")
    return _Document(CorpusDocument("", title, text).content if title else text, _id(row, column + place, name))


def _labels(row: Row, column: str, documents: int, single: bool) -> list[float]:
    return [_number(row, column, value) for value in _one_each(row, column, documents, single, "number")]


def _one_each(row: Row, column: str, documents: int, single: bool, what: str) -> list[Any]:
    """The values of a column that go with the documents: one for a single document, else a list as long."""
    value = _plain(row.values[column])
    if single and not isinstance(value, (list, tuple)):
        return [value]
    if isinstance(value, (list, tuple)) and len(value) == documents:
        return [_plain(item) for item in value]
    given = f"has {len(value)} values" if isinstance(value, (list, tuple)) else f"is {_named(value)}"
    wanted = f"{documents} documents need a list of {documents} {what}s" if not single else f"not one {what}"
    hint = f"; to leave it out: {worded('columns', {LABEL if what == 'number' else DOCUMENT_ID: None})}"
    raise row.refuse(column, f"{given}, where {wanted}{hint}")


def _number(row: Row, column: str, value: Any) -> float:
    # float() would read "1_000" and full-width digits, which nobody means in a table.
    readable = isinstance(value, str) and row.textual and value.isascii() and "_" not in value
    if readable or isinstance(value, (int, float, Decimal)):
        try:
            return float(TRUTH.get(value.strip().lower(), value) if readable else value)
        except (ValueError, OverflowError):
            pass
    raise row.refuse(column, f"is {_named(value)}, not a number")


def _id(row: Row, column: str, value: Any) -> str:
    value = _plain(value)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise row.refuse(column, f"has the id {_named(value)}, neither a text nor a whole number")


def _plain(value: Any) -> Any:
    """Arrays and numbers of numpy, torch and pandas as Python's."""
    convert = getattr(value, "tolist", None)
    return convert() if callable(convert) else value


def _named(value: Any) -> str:
    shown = repr(value)
    if value is None or isinstance(value, (str, int, float, Decimal)):
        return shown if len(shown) <= 60 else f"{shown[:59]}…"
    return type(value).__name__


Item = Row | Group | InvalidInput
"""What a source gives: a row, a group that is already one, or why a row could not be read."""


def items_of(source: object) -> Iterator[Item]:
    """What an iterable holds, each element by its kind; a row's source is its index from 0, "rows[7]".

    Taken are mappings of columns (what a `datasets.Dataset` or `IterableDataset` gives), examples (any object with
    `texts` and `label`, as `InputExample`), which become groups of one document, and groups.

    Raises:
        InvalidInput: `source` is no iterable of such things. An element of another kind is given back as the error,
            in its place.
    """
    if isinstance(source, (str, bytes, Mapping, set, frozenset)) or not isinstance(source, Iterable):
        raise InvalidInput(f"source is {type(source).__name__}, neither a file, a folder, a dataset nor a list of rows")
    return (_item(element, f"rows[{index}]") for index, element in enumerate(source))


def _item(element: Any, name: str) -> Item:
    if isinstance(element, Group):
        return element
    if isinstance(element, Mapping):
        return Row(name, element)
    if hasattr(element, "texts") and hasattr(element, "label"):
        return _pair(element, name)
    return InvalidInput(f"{name} is {type(element).__name__}, neither a mapping of columns nor an InputExample")


def _pair(example: Any, name: str) -> Group | InvalidInput:
    guid = getattr(example, "guid", "")
    named = f"{name} (guid {guid!r})" if guid else name
    texts, label = example.texts, example.label
    if not isinstance(texts, (list, tuple)) or len(texts) != 2 or not all(isinstance(text, str) for text in texts):
        return InvalidInput(f"{named}: texts is no list of two str, the query and the document")
    if hasattr(label, "item"):
        label = label.item()
    if not isinstance(label, (int, float)):
        return InvalidInput(f"{named} has a label of type {type(label).__name__}, not a number")
    return Group(texts[0], (texts[1],), (float(label),), named)
