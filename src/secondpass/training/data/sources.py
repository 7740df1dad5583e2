"""Where labelled queries come from: one function for files, folders, judgements, datasets and lists."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from secondpass.corpora import corpus_file, existing, named_file, read_corpus, read_queries
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import Qrels, qrels_file, read_qrels
from secondpass.evaluation.runs import Run, read_run
from secondpass.text import positive_int
from secondpass.training.data.groups import Group
from secondpass.training.data.rows import (
    NEGATIVE_LABEL,
    POSITIVE_LABEL,
    Columns,
    Layout,
    Row,
    chosen_columns,
    group_of,
    layout_of,
)
from secondpass.training.data.tables import read_delimited_rows, read_json_rows, read_parquet_rows

# ---- Groups one at a time out of rows: files may be larger than memory, and a bad row does not end the reading.
logger = logging.getLogger(__name__)

Item = Row | Group | InvalidInput
"""What a source gives: a row, a group that is already one, or why a row could not be read."""


class GroupStream(Iterator[Group]):
    """An iterator over groups that holds one row at a time.

    `next` raises InvalidInput for a bad row and goes on behind it when it is called again, so that a check can name
    more than the first. Each row is understood by its own columns: a JSON Lines file may mix shapes.

    Args:
        items: rows in order.
        chosen: see `columns.chosen_columns`.
        relevant_from: labels from this number on become 1, all others 0; None leaves them.
    """

    def __init__(
        self, items: Iterator[Item], chosen: Mapping[str, tuple[str, ...]], relevant_from: float | None = None
    ) -> None:
        self._items = items
        self._chosen = chosen
        self._relevant_from = relevant_from
        self._names: tuple[str, ...] = ()
        self._layout: Layout | None = None

    def __next__(self) -> Group:
        item = next(self._items)
        if isinstance(item, InvalidInput):
            raise item
        group = item if isinstance(item, Group) else group_of(item, self._layout_of(item))
        if self._relevant_from is None:
            return group
        return replace(group, labels=tuple(_binary(label, self._relevant_from) for label in group.labels))

    def _layout_of(self, row: Row) -> Layout:
        names = tuple(row.values)
        if self._layout is None or names != self._names:
            layout = layout_of(names, self._chosen, row.source)
            if self._layout is None:
                _announce(row.source, names, layout)
            self._names, self._layout = names, layout
        return self._layout


def _binary(label: float, relevant_from: float) -> float:
    """NaN stays, to be refused: it is neither."""
    if math.isnan(label):
        return label
    return POSITIVE_LABEL if label >= relevant_from else NEGATIVE_LABEL


def _announce(source: str, names: tuple[str, ...], layout: Layout) -> None:
    unread = sorted(set(names) - set(layout.columns))
    logger.info("%s: columns %s; not read: %s", source, ", ".join(layout.columns), ", ".join(unread) or "none")


# ---- Rows out of Python objects: datasets of Hugging Face (streamed too), any mappings, InputExamples, groups.
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
        try:
            return _pair(element, name)
        except InvalidInput as error:
            return error
    return InvalidInput(f"{name} is {type(element).__name__}, neither a mapping of columns nor an InputExample")


def _pair(example: Any, name: str) -> Group:
    guid = getattr(example, "guid", "")
    named = f"{name} (guid {guid!r})" if guid else name
    texts, label = example.texts, example.label
    if not isinstance(texts, (list, tuple)) or len(texts) != 2 or not all(isinstance(text, str) for text in texts):
        raise InvalidInput(f"{named}: texts is no list of two str, the query and the document")
    if hasattr(label, "item"):
        label = label.item()
    if not isinstance(label, (int, float)):
        raise InvalidInput(f"{named} has a label of type {type(label).__name__}, not a number")
    return Group(texts[0], (texts[1],), (float(label),), named)


# ---- Judgements, a corpus and queries to groups: BEIR folders and TREC files.
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
    unjudged = {} if run is None else {query: _unjudged(qrels, run, query, unjudged_negatives) for query in qrels}
    texts = read_queries(queries) if isinstance(queries, Path) else queries
    _all_known(qrels, texts, "queries", source)
    wanted = {document: None for query in qrels for document in (*qrels[query], *unjudged.get(query, ()))}
    contents = _contents(corpus, wanted)
    _all_known(wanted, contents, "documents", source)
    for query, grades in qrels.items():
        added = unjudged.get(query, [])
        ids = (*grades, *added)
        labels = (*(float(max(grade, 0)) for grade in grades.values()), *(NEGATIVE_LABEL for _ in added))
        yield Group(
            texts[query], tuple(contents[document] for document in ids), labels, f"{source} query {query!r}", query, ids
        )


def _unjudged(qrels: Qrels, run: Run, query: str, count: int) -> list[str]:
    return [document for document in run.get(query, ()) if document not in qrels[query]][:count]


def _contents(corpus: Path | Texts, wanted: Mapping[str, None]) -> Texts:
    if not isinstance(corpus, Path):
        return corpus
    return {document.id: document.content for document in read_corpus(corpus) if document.id in wanted}


def _all_known(ids: Iterable[str], texts: Texts, what: str, source: str) -> None:
    unknown = [name for name in ids if name not in texts]
    if unknown:
        shown = ", ".join(map(repr, unknown[:SHOWN_IDS])) + (", …" if len(unknown) > SHOWN_IDS else "")
        raise InvalidInput(f"{source}: {len(unknown)} {what} have no text: {shown}")


JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TABLE_SUFFIXES = (*JSON_SUFFIXES, ".csv", ".tsv", ".parquet")


def read_groups(
    source: Any,
    *,
    split: str = "train",
    columns: Columns | None = None,
    corpus: str | Path | Texts | None = None,
    queries: str | Path | Texts | None = None,
    run: str | Path | Run | None = None,
    unjudged_negatives: int = 0,
    relevant_from: float | None = None,
    quoted: bool | None = None,
) -> GroupStream:
    """Labelled queries as a stream of groups, a row in memory at a time.

    Args:
        source: one of

            - a file .jsonl, .ndjson, .json, .csv, .tsv (each also with .gz) or .parquet: a group a row, in one of
              `columns.SHAPES`; which, is seen by the names of the columns. "file:line" or "file row N" is its source;
            - a folder with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv (BEIR), each also with .gz: a group for
              each judged query, its labels the grades. The texts of judged documents are held in memory;
            - a folder with one table named SPLIT, or its shards, SPLIT-00000-of-00002.parquet;
            - judgements, a file (BEIR's, TREC's or JSON Lines) or `Qrels`, together with `corpus` and `queries`;
            - a `datasets.Dataset` or `IterableDataset`, any iterable of mappings, of `InputExample`s (a pair each),
              or of `Group`s; or a mapping of splits to such, as a `DatasetDict`.

        split: which of a folder or mapping that has splits.
        columns: column by role (query, document, label, positive, negative, query_id, document_id) where the names
            do not say it; None for a role that is not to be read.
        corpus: contents by id for judgements: a file, a BEIR folder, or a mapping.
        queries: texts by id for judgements: a file or a mapping.
        run: a ranking of documents for judgements, with `unjudged_negatives`.
        unjudged_negatives: so many documents of the run that were not judged become negatives of each query.
        relevant_from: labels from this number on become 1, all others 0; for grades under a loss that wants [0, 1].
        quoted: whether quotation marks in a .csv or .tsv file enclose fields; by default in .csv only.

    Returns:
        An iterator. It raises InvalidInput for a bad row, naming file, row and column, and goes on behind it if asked
        for more. Rows of the same query stay apart: `checked_groups(..., join=True)` joins them.

    Raises:
        InvalidInput: the source is of no kind above, or an argument does not go with it.
        MissingExtra: a Parquet file without pyarrow.
    """
    chosen = chosen_columns(columns)
    if relevant_from is not None and not (isinstance(relevant_from, (int, float)) and math.isfinite(relevant_from)):
        raise InvalidInput(f"relevant_from={relevant_from!r} is not a finite number")
    if isinstance(source, str) and not source.strip():
        raise InvalidInput("source is blank")
    place = Path(source) if isinstance(source, (str, Path)) else source
    judged = _is_judged(place, corpus, queries)
    _refuse_unused(judged, {"columns": columns, "quoted": quoted}, "a table", True)
    _refuse_unused(judged, {"run": run, "unjudged_negatives": unjudged_negatives or None}, "judgements", False)
    items: Iterator[Item]
    if judged:
        items = _judgements(place, split, corpus, queries, run, unjudged_negatives)
    elif isinstance(place, Path):
        files = _split_files(place, split) if place.is_dir() else [existing(place)]
        readers = [_table_reader(file, chosen, quoted) for file in files]
        items = (item for read in readers for item in read())
    elif quoted is not None:
        raise InvalidInput("quoted goes with .csv and .tsv files only")
    else:
        items = items_of(_of_split(place, split))
    return GroupStream(items, chosen, relevant_from)


def _is_judged(place: Any, corpus: object, queries: object) -> bool:
    given = corpus is not None or queries is not None
    if isinstance(place, Path) and place.is_dir():
        if given and not (place / "qrels").is_dir():
            raise InvalidInput(f"{place}: no qrels in it, with which corpus and queries would go")
        return (place / "qrels").is_dir()
    if given and not isinstance(place, (Path, Qrels)):
        raise InvalidInput("corpus and queries go with judgements: a file, a folder or Qrels")
    if (given or isinstance(place, Qrels)) and (corpus is None or queries is None):
        raise InvalidInput("judgements need both corpus and queries, for the texts")
    return given


def _refuse_unused(judged: bool, given: Mapping[str, object], kind: str, unused_when: bool) -> None:
    for name, value in given.items():
        if value is not None and judged is unused_when:
            raise InvalidInput(f"{name} goes with {kind} only")


def _judgements(
    place: Path | Qrels,
    split: str,
    corpus: str | Path | Texts | None,
    queries: str | Path | Texts | None,
    run: str | Path | Run | None,
    unjudged_negatives: int,
) -> Iterator[Item]:
    if (run is None) != (unjudged_negatives == 0):
        raise InvalidInput("run and unjudged_negatives go together: how many of the run's documents become negatives")
    if run is not None:
        positive_int(unjudged_negatives, "unjudged_negatives")
    if isinstance(place, Qrels):
        qrels, named = place, "judgements"
    else:
        file = qrels_file(place, split) if place.is_dir() else existing(place)
        qrels, named = read_qrels(file), str(file)
    # Only a folder brings them itself: anything else was refused without.
    queries = named_file(Path(place), "queries.jsonl") if queries is None else queries  # type: ignore[arg-type]
    corpus = corpus_file(Path(place)) if corpus is None else corpus  # type: ignore[arg-type]
    return judged_groups(
        qrels,
        existing(Path(queries)) if isinstance(queries, (str, Path)) else queries,
        existing(Path(corpus)) if isinstance(corpus, (str, Path)) else corpus,
        source=named,
        run=read_run(Path(run)) if isinstance(run, (str, Path)) else run,
        unjudged_negatives=unjudged_negatives,
    )


def _split_files(folder: Path, split: str) -> list[Path]:
    """The one table of a split in a folder, or all its shards in order."""
    found = sorted(file for file in folder.iterdir() if file.is_file() and _suffix(file) in TABLE_SUFFIXES)
    named = [file for file in found if _stem(file) == split]
    shards = [file for file in found if _stem(file).startswith(f"{split}-") and "-of-" in _stem(file)]
    if len(named) == 1 and not shards:
        return named
    if shards and not named:
        return _whole(shards, folder)
    several = ", ".join(file.name for file in named + shards)
    wanted = f"{split}.jsonl, .csv, .tsv or .parquet, nor corpus.jsonl with qrels/"
    raise InvalidInput(f"{folder}: " + (f"more than one table of {split!r}: {several}" if several else f"no {wanted}"))


def _whole(shards: list[Path], folder: Path) -> list[Path]:
    total = _stem(shards[0]).rpartition("-of-")[2]
    wanted = int(total) if total.isdecimal() else -1
    if len(shards) != wanted or any(_stem(file).rpartition("-of-")[2] != total for file in shards):
        raise InvalidInput(f"{folder}: {len(shards)} shards, not the {total} that {shards[0].name} speaks of")
    return shards


def _suffix(file: Path) -> str:
    return Path(file.name.removesuffix(".gz")).suffix.lower()


def _stem(file: Path) -> str:
    return Path(file.name.removesuffix(".gz")).stem


def _table_reader(
    file: Path, chosen: Mapping[str, tuple[str, ...]], quoted: bool | None
) -> Callable[[], Iterator[Item]]:
    suffix = _suffix(file)
    if suffix in {".csv", ".tsv"}:
        is_csv = suffix == ".csv"
        return partial(read_delimited_rows, file, "," if is_csv else "\t", is_csv if quoted is None else quoted)
    if quoted is not None:
        raise InvalidInput("quoted goes with .csv and .tsv files only")
    if suffix in JSON_SUFFIXES:
        return partial(read_json_rows, file)
    if suffix == ".parquet":

        def wanted(names: Sequence[str]) -> Sequence[str]:
            return layout_of(names, chosen, str(file)).columns

        return partial(read_parquet_rows, file, wanted)
    raise InvalidInput(f"{file}: neither {', '.join(TABLE_SUFFIXES)}, nor judgements with corpus and queries")


def _of_split(source: Any, split: str) -> Any:
    """The split of a mapping of splits, such as a DatasetDict; anything else as it is."""
    if not isinstance(source, Mapping):
        return source
    if split in source:
        return source[split]
    raise InvalidInput(f"source: no split {split!r} among {', '.join(map(repr, source)) or '(none)'}")
