"""Where labelled queries come from: one function for files, folders, judgements, datasets and lists."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from secondpass.corpora import corpus_file, existing, named_file
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import Qrels, qrels_file, read_qrels
from secondpass.evaluation.runs import Run, read_run
from secondpass.limits import positive_int
from secondpass.training.data.columns import Columns, chosen_columns, layout_of
from secondpass.training.data.iterables import items_of
from secondpass.training.data.judged import Texts, judged_groups
from secondpass.training.data.streams import GroupStream, Item
from secondpass.training.data.tables import read_delimited_rows, read_json_rows, read_parquet_rows

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
