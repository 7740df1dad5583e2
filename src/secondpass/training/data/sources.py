"""Where labelled queries come from: one function for files, folders, judgements, datasets and lists."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

from secondpass import corpora
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import BEIR_HEADER, Qrels, qrels_file, read_qrels
from secondpass.evaluation.runs import Run, read_run, without_query_ids
from secondpass.lazy import optional
from secondpass.text import positive_int
from secondpass.training.data.groups import Group, Texts, judged_groups, with_texts
from secondpass.training.data.rows import (
    NEGATIVE_LABEL,
    POSITIVE_LABEL,
    Columns,
    Item,
    Layout,
    Row,
    chosen_columns,
    group_of,
    group_of_ids,
    items_of,
    layout_of,
    layout_of_ids,
    names_ids,
)

logger = logging.getLogger(__name__)


class GroupStream(Iterator[Group]):
    """An iterator over groups that holds one row at a time.

    `next` raises InvalidInput for a bad row and goes on behind it when it is called again, so that a check can name
    more than the first. Each row is understood by its own columns: a JSON Lines file may mix shapes.

    Args:
        items: rows in order.
        chosen: see `rows.chosen_columns`.
        relevant_from: labels from this number on become 1, all others 0; None leaves them.
        ids: the rows have ids where others have texts, see `rows.layout_of_ids`.

    Columns that cannot be understood are refused once, however many rows have them.
    """

    def __init__(
        self,
        items: Iterator[Item],
        chosen: Mapping[str, tuple[str, ...]],
        relevant_from: float | None = None,
        ids: bool = False,
    ) -> None:
        self._items = items
        self._chosen = chosen
        self._relevant_from = relevant_from
        self._ids = ids
        self._refused: set[tuple[str, ...]] = set()
        self._names: tuple[str, ...] = ()
        self._layout: Layout | None = None

    def __next__(self) -> Group:
        item = next(self._items)
        while isinstance(item, Row) and self._refused and tuple(item.values) in self._refused:
            item = next(self._items)
        if isinstance(item, InvalidInput):
            raise item
        understood = group_of_ids if self._ids else group_of
        group = item if isinstance(item, Group) else understood(item, self._layout_of(item))
        if self._relevant_from is None:
            return group
        if group.margins:
            raise InvalidInput(f"{group.source}: relevant_from is for grades, and its label is a margin")
        return replace(group, labels=tuple(_binary(label, self._relevant_from) for label in group.labels))

    def _layout_of(self, row: Row) -> Layout:
        names = tuple(row.values)
        if self._layout is None or names != self._names:
            try:
                layout = (layout_of_ids if self._ids else layout_of)(names, self._chosen, row.source)
            except InvalidInput:
                self._refused.add(names)
                raise
            if self._layout is None:
                unread = ", ".join(sorted(set(names) - set(layout.columns))) or "none"
                logger.info("%s: columns %s; not read: %s", row.source, ", ".join(layout.columns), unread)
            self._names, self._layout = names, layout
        return self._layout


def each(groups: Iterable[Group]) -> Iterator[Group | InvalidInput]:
    """Groups, and for a bad row the error in its place; only a `GroupStream` has anything behind one."""
    iterator = iter(groups)
    while True:
        try:
            item: Group | InvalidInput = next(iterator)
        except StopIteration:
            return
        except InvalidInput as error:
            item = error
        yield item
        if isinstance(item, InvalidInput) and not isinstance(iterator, GroupStream):
            return


def _binary(label: float, relevant_from: float) -> float:
    """NaN stays, to be refused: it is neither."""
    if math.isnan(label):
        return label
    return POSITIVE_LABEL if label >= relevant_from else NEGATIVE_LABEL


# ---- Rows out of files: JSON Lines, comma or tab separated, Parquet.
# Python's limit of 128 KiB is less than a long document. Some limit must be: a quotation mark that is never closed
# makes one field of the rest of the file.
LARGEST_FIELD = 2**27
PARQUET_ROWS = 256
# A carriage return that ends no line, which the csv module would take for such an end; no UTF-8 decodes to this.
LONE_RETURN = "\udc0d"


def read_json_rows(path: Path) -> Iterator[Row | InvalidInput]:
    """Rows of a JSON Lines file, an object a line; gzip accepted.

    A file named .json may hold one array of objects instead: it is read whole.

    Raises:
        InvalidInput: the file cannot be read on. A line that is no object is given back as the error, in its place.
    """
    if path.name.removesuffix(".gz").endswith(".json"):
        first = next(corpora.read_lines(corpora.existing(path)), None)
        if first is not None and first.text.lstrip().startswith("["):
            yield from _json_array(path)
            return
    for line in corpora.read_lines(corpora.existing(path)):
        try:
            yield Row(f"{line.source}:{line.number}", line.json_object())
        except InvalidInput as error:
            yield error


def _json_array(path: Path) -> Iterator[Row | InvalidInput]:
    lines = list(corpora.read_lines(path))
    try:
        values = json.loads("\n".join(line.text for line in lines))
    except json.JSONDecodeError as error:
        place = lines[min(error.lineno, len(lines)) - 1]
        raise place.refuse(f"not JSON: {error.msg} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise InvalidInput(f"{path}: not JSON that can be read: {error}") from None
    for number, value in enumerate(values, start=1):
        source = f"{path} row {number}"
        is_object = isinstance(value, dict)
        yield Row(source, value) if is_object else InvalidInput(f"{source}: {type(value).__name__}, not an object")


# MS MARCO's triples have no header: three texts, or (qidpidtriples) three ids.
TRIPLE = ["query", "positive", "negative"]


def is_triple(columns: Sequence[str]) -> bool:
    """Whether a line is no header but one of MS MARCO's triples: two passages of a few words, or whole numbers."""
    passages = all(len(column.split()) > 2 for column in columns[1:]) or all(map(str.isdecimal, columns))
    return len(columns) == 3 and passages


def read_delimited_rows(path: Path, delimiter: str, quoted: bool, ids: bool = False) -> Iterator[Row | InvalidInput]:
    """Rows of a table whose first line names the columns; gzip accepted. A row's source is the line it begins on.

    By tabs, a first line that is one of MS MARCO's triples (`is_triple`) is a row like the others.

    Args:
        path: of the file.
        delimiter: between columns.
        quoted: True: a field between double quotation marks may hold delimiters, line ends and doubled quotation
            marks (RFC 4180). False: a quotation mark is a character like any other.
        ids: whether triples may be of ids.

    Raises:
        InvalidInput: there is no header, it names a column twice, or the file cannot be read on. A row with more or
            fewer columns is given back as the error, in its place.
    """
    if csv.field_size_limit() < LARGEST_FIELD:
        csv.field_size_limit(LARGEST_FIELD)
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = _text_lines(corpora.existing(path))
    first = next(lines, "")
    found = corpora.Line(str(path), 1, first.strip()).columns_said(delimiter)
    if delimiter not in first and not found.endswith(("column", "spaces")):
        raise InvalidInput(f"{path}:1: {found}; it is read as columns by {corpora.SEPARATORS[delimiter]}")
    lines = chain([first], lines)
    rows = _numbered(csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True), path)
    header = next(rows, None)
    if header is None:
        raise InvalidInput(f"{path}: no header in it")
    if isinstance(header, InvalidInput):
        raise header
    names = _column_names(header[1], path)
    if delimiter == "\t" and is_triple(names):
        if not ids and all(map(str.isdecimal, names)):
            raise InvalidInput(f"{path}: triples of ids: corpus and queries are needed too, for the texts")
        names, rows = TRIPLE, chain([header], rows)
    for row in rows:
        if isinstance(row, InvalidInput):
            yield row
        elif len(row[1]) != len(names):
            yield InvalidInput(f"{path}:{row[0]}: {len(row[1])} columns where the header has {len(names)}")
        else:
            yield Row(f"{path}:{row[0]}", dict(zip(names, row[1], strict=True)), textual=True)


def _column_names(header: Sequence[str], path: Path) -> list[str]:
    names = [name.strip() for name in header]
    twice = next((name for name in names if name and names.count(name) > 1 and not is_triple(names)), None)
    if twice is not None:
        raise InvalidInput(f"{path}:1: the header names the column {twice!r} twice")
    return names


def _numbered(reader: Any, path: Path) -> Iterator[tuple[int, list[str]] | InvalidInput]:
    """Rows with something in them and the number of the line on which each begins."""
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield InvalidInput(f"{path}:{start}: {error}")
            continue
        if row:
            yield start, [column.replace(LONE_RETURN, "\r") for column in row]


def _text_lines(path: Path) -> Iterator[str]:
    """Lines with their ends, which a quoted field may hold."""
    number = 0
    try:
        with cast(Any, gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")) as stream:
            for raw in stream:
                number += 1
                text = raw.decode("utf-8")
                body = text.removesuffix("\n").removesuffix("\r")
                text = body.replace("\r", LONE_RETURN) + text[len(body) :]
                yield text.removeprefix(corpora.BYTE_ORDER_MARK) if number == 1 else text
    except UnicodeDecodeError as error:
        place = f"byte 0x{error.object[error.start]:02x} at position {error.start + 1}"
        raise InvalidInput(f"{path}:{number}: not UTF-8: {place}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path}:{number + 1}: cannot be read: {error}") from None


def read_parquet_rows(path: Path, wanted: Callable[[Sequence[str]], Sequence[str]]) -> Iterator[Row]:
    """Rows of a Parquet file, 256 in memory at a time; only the columns that `wanted` picks are read.

    Raises:
        InvalidInput: it is no Parquet file, or is damaged.
        MissingExtra: pyarrow is not installed.
    """
    pyarrow, parquet = (optional(module, "pyarrow", "train") for module in ("pyarrow", "pyarrow.parquet"))
    number = 0
    try:
        with parquet.ParquetFile(corpora.existing(path)) as file:
            names = list(wanted(file.schema_arrow.names))
            # In a selection a dot leads into a nested column.
            selection = None if any("." in name for name in names) else names
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=selection):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path} row {number}", {name: values[name] for name in names})
    except (pyarrow.ArrowException, OSError) as error:
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput(f"{path} row {number + 1}: cannot be read: {message}") from None


# ---- One function for all of them.
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
              `rows.SHAPES`; which, is seen by the names of the columns. "file:line" or "file row N" is its source;
            - a folder with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv (BEIR), each also with .gz: a group for
              each judged query, its labels the grades. The texts of judged documents are held in memory;
            - a folder with one table named SPLIT, or its shards, SPLIT-00000-of-00002.parquet;
            - judgements, a file (BEIR's, TREC's or JSON Lines) or `Qrels`, together with `corpus` and `queries`;
            - a table as above that has ids in place of texts, such as a log of clicks, together with both;
            - a `datasets.Dataset` or `IterableDataset`, any iterable of mappings, of `InputExample`s (a pair each),
              or of `Group`s; or a mapping of splits to such, as a `DatasetDict`.

        split: which of a folder or mapping that has splits.
        columns: column by role (query, document, label, positive, negative, query_id, document_id) where the names
            do not say it; None for a role that is not to be read.
        corpus: contents by id for judgements: a file, a BEIR folder, or a mapping.
        queries: texts by id for judgements: a file or a mapping.
        run: a ranking of documents for judgements, with `unjudged_negatives`.
        unjudged_negatives: so many documents of the run that were not judged become negatives of each query; with a
            BEIR folder none whose id is the query's.
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
    place = corpora.packaged(Path(source)) if isinstance(source, (str, Path)) else source
    judged = _is_judged(place, corpus, queries)
    of_ids = judged and isinstance(place, Path) and place.is_file() and _has_ids(place)
    judged = judged and not of_ids
    _refuse_unused(judged, {"columns": columns, "quoted": quoted}, "a table", True)
    _refuse_unused(judged, {"run": run, "unjudged_negatives": unjudged_negatives or None}, "judgements", False)
    items: Iterator[Item]
    if judged:
        items = _judgements(place, split, corpus, queries, run, unjudged_negatives)
    elif isinstance(place, Path):
        files = _split_files(place, split) if place.is_dir() else [corpora.existing(place)]
        readers = [_table_reader(file, chosen, quoted, of_ids) for file in files]
        items = (item for read in readers for item in read())
        if of_ids:
            named = each(GroupStream(items, chosen, ids=True))
            items = with_texts(named, _given(queries), _given(corpus), source=str(place))
    elif quoted is not None:
        raise InvalidInput("quoted goes with .csv and .tsv files only")
    else:
        items = items_of(_of_split(place, split))
    return GroupStream(items, chosen, relevant_from)


def _given(texts: str | Path | Texts | None) -> Path | Texts:
    return corpora.existing(Path(texts)) if isinstance(texts, (str, Path)) else texts or {}


def _has_ids(file: Path) -> bool:
    """Whether a file that comes with corpus and queries is a table of ids, and no judgements in a form of theirs."""
    suffix = _unpacked(file).suffix.lower()
    if suffix == ".parquet":
        return True
    line = next(corpora.read_lines(file), None)
    if line is None or suffix not in TABLE_SUFFIXES:
        return False
    if suffix == ".csv":
        return "," in line.text or ";" in line.text
    if suffix == ".tsv":
        names = tuple(line.text.lower().split("\t"))
        return names != BEIR_HEADER and (names_ids(names) or (is_triple(names) and "triples" in file.name))
    return line.text.lstrip().startswith("{") and "relevance" not in line.json_object()


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
    of_folder = isinstance(place, Path) and place.is_dir()
    ranked = read_run(Path(run)) if isinstance(run, (str, Path)) else run
    if isinstance(place, Qrels):
        qrels, named = place, "judgements"
    else:
        file = qrels_file(place, split) if of_folder else corpora.existing(place)
        qrels, named = read_qrels(file), str(file)
    # Only a folder brings them itself: anything else was refused without.
    queries = corpora.named_file(Path(place), "queries.jsonl") if queries is None else queries  # type: ignore[arg-type]
    corpus = corpora.corpus_file(Path(place)) if corpus is None else corpus  # type: ignore[arg-type]
    return judged_groups(
        qrels,
        _given(queries),
        _given(corpus),
        source=named,
        # BEIR's convention: in its folders a document under the query's id is the query.
        run=ranked if ranked is None or not of_folder else without_query_ids(ranked)[0],
        unjudged_negatives=unjudged_negatives,
    )


def _split_files(folder: Path, split: str) -> list[Path]:
    """The one table of a split in a folder, or all its shards in order."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    stems = {file: _unpacked(file).stem for file in files if _unpacked(file).suffix.lower() in TABLE_SUFFIXES}
    named = [file for file, stem in stems.items() if stem == split]
    shards = [file for file, stem in stems.items() if stem.startswith(f"{split}-") and "-of-" in stem]
    if len(named) == 1 and not shards:
        return named
    if shards and not named:
        return _whole(shards, folder)
    several = ", ".join(file.name for file in named + shards)
    wanted = f"{split}.jsonl, .csv, .tsv or .parquet, nor corpus.jsonl with qrels/"
    raise InvalidInput(f"{folder}: " + (f"more than one table of {split!r}: {several}" if several else f"no {wanted}"))


def _whole(shards: list[Path], folder: Path) -> list[Path]:
    total = _unpacked(shards[0]).stem.rpartition("-of-")[2]
    wanted = int(total) if total.isdecimal() else -1
    if len(shards) != wanted or any(_unpacked(file).stem.rpartition("-of-")[2] != total for file in shards):
        raise InvalidInput(f"{folder}: {len(shards)} shards, not the {total} that {shards[0].name} speaks of")
    return shards


def _unpacked(file: Path) -> Path:
    """The name without .gz."""
    return Path(file.name.removesuffix(".gz"))


def _table_reader(
    file: Path, chosen: Mapping[str, tuple[str, ...]], quoted: bool | None, ids: bool = False
) -> Callable[[], Iterator[Item]]:
    suffix = _unpacked(file).suffix.lower()
    if suffix in {".csv", ".tsv"}:
        is_csv = suffix == ".csv"
        return partial(read_delimited_rows, file, "," if is_csv else "\t", is_csv if quoted is None else quoted, ids)
    if quoted is not None:
        raise InvalidInput("quoted goes with .csv and .tsv files only")
    if suffix in JSON_SUFFIXES:
        return partial(read_json_rows, file)
    if suffix == ".parquet":

        def wanted(names: Sequence[str]) -> Sequence[str]:
            return (layout_of_ids if ids else layout_of)(names, chosen, str(file)).columns

        return partial(read_parquet_rows, file, wanted)
    raise InvalidInput(f"{file}: neither {', '.join(TABLE_SUFFIXES)}, nor judgements with corpus and queries")


def _of_split(source: Any, split: str) -> Any:
    """The split of a mapping of splits, such as a DatasetDict; anything else as it is."""
    if not isinstance(source, Mapping):
        return source
    if split in source:
        return source[split]
    raise InvalidInput(f"source: no split {split!r} among {', '.join(map(repr, source)) or '(none)'}")
