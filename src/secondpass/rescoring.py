"""Candidates of any number scored by one loaded model or many: a part at a time, each an atomic file of the run.

A folder holds the run: `part-00000.parquet` and so on, `_SUCCESS` once all are there, and `_manifest.jsonl`, which says
what is scored how and where the parts begin. A part's file is whole or absent, and holds the same whoever wrote it: so
whatever is killed, the same call goes on with the parts that are absent.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from secondpass.calibration import PROBABILITY, file_of
from secondpass.candidates import DOCUMENT_ID, DOCUMENT_KEYS, QUERY, QUERY_ID, CandidateFiles, Question, RunPart, Texts
from secondpass.cascade import Cascade
from secondpass.corpora import existing
from secondpass.cross_encoder import CrossEncoder
from secondpass.errors import InvalidInput, ModelLoadError, SecondPassError
from secondpass.forwards.choosing import DTYPES
from secondpass.forwards.kernel.cache import digest_of
from secondpass.journal import Journal
from secondpass.lazy import optional
from secondpass.models.folders import cascade_file, folder_of, holds_cascade
from secondpass.models.identity import weights_digest
from secondpass.ranking import Ranked, Ranking, Relevance
from secondpass.score_cache import ScoreCache
from secondpass.text import positive_int
from secondpass.tracing import reranking

MANIFEST, DONE, INDEX = "_manifest.jsonl", "_SUCCESS", "_documents"
PAIRS = 10_000
HUB = ("cache_dir", "local_files_only", "revision", "token")
THREADS = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")
PRECISIONS = {dtype: precision for precision, dtype in DTYPES.items()}
POCKET = "secondpass/pocket"


def open_reranker(
    models: Sequence[str], keep: int | Sequence[int] | None, max_length: int | None, **options: Any
) -> CrossEncoder | Cascade:
    """Load one model, several as a cascade, or one that was saved; raises as they do.

    Raises:
        InvalidInput: `max_length` for a saved cascade, which has its own.
    """
    if len(models) > 1:
        steps = [keep] if isinstance(keep, int) else list(keep or [100])
        return Cascade(models, steps[0] if len(steps) == 1 else steps, max_length=max_length, **options)
    if holds_cascade(models[0]):
        if max_length is not None:
            raise InvalidInput(f"max_length: the models of {models[0]} have the windows that they were saved with")
        return Cascade.load(models[0], **options)
    return CrossEncoder(models[0], max_length=max_length, **options)


class Rescorer:
    """One loaded model that scores tables of queries and documents: an actor of Ray Data, or the state of a Spark UDF.

    It is made of plain arguments, so that each process loads its own; the model is loaded when it is first asked.

    Args:
        model: folder or hub name; several are a cascade, the cheapest first.
        keep: of a cascade, documents that go on to the next model.
        relevance: for a model with several labels, the one to rank by, or "expected".
        truncation: what is read of a pair that is too long, as in `CrossEncoder`.
        batch_size: upper bound of a batch; batches are made by tokens across all rows of a call.
        score_cache: a file that keeps scores; of one machine, on its own disk.
        calibration: a file that makes probabilities of scores; without one it is that of the model's folder.
        headers: what `tracing.carrier` gave where the work is handed out, for the spans of its batches or parts.
        loading: further arguments of `CrossEncoder`: max_length, device, precision, instruction, template, ...
    """

    def __init__(
        self,
        model: str | Sequence[str] = POCKET,
        *,
        keep: Sequence[int] | None = None,
        relevance: Relevance | None = None,
        truncation: Any = None,
        batch_size: int = 32,
        score_cache: str | os.PathLike[str] | None = None,
        calibration: str | None = None,
        max_length: int | None = None,
        headers: Mapping[str, str] | None = None,
        **loading: Any,
    ) -> None:
        self.names = [model] if isinstance(model, str) else list(model)
        self._keep, self._max_length, self.loading = keep, max_length, loading
        self._score_cache, self._calibration, self.headers = score_cache, calibration, headers
        self._options = {
            "relevance": relevance,
            "truncation": truncation,
            "batch_size": positive_int(batch_size, "batch_size"),
            "show_progress_bar": False,
        }

    def __getstate__(self) -> dict[str, Any]:
        """Without the model: another process loads its own."""
        return {name: value for name, value in vars(self).items() if name != "model"}

    @cached_property
    def model(self) -> CrossEncoder | Cascade:
        """The model, loaded.

        Raises:
            ModelLoadError: it cannot be had.
            InvalidInput: an argument is refused.
        """
        made = open_reranker(self.names, self._keep, self._max_length, **self.loading)
        if self._calibration is not None:
            made.use_calibration(self._calibration)
        if self._score_cache is not None:
            made.use_score_cache(ScoreCache(self._score_cache))
        return made

    @property
    def dtype(self) -> str:
        """The type that the model computes in; of a cascade those of its models, by commas."""
        models = self.model.models if isinstance(self.model, Cascade) else (self.model,)
        return ",".join(one.dtype_name for one in models)

    def rank(
        self, queries: Sequence[str], documents: Sequence[Sequence[str]], top_k: int | None = None
    ) -> list[Ranking]:
        """Order the documents of each query, all in shared batches; as `CrossEncoder.rank_many`."""
        return self.model.rank_many(queries, documents, top_k=top_k, **self._options)

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float64]:
        """The scores of pairs in their order, float64 [pairs]: what `rank` gives each of them.

        Args:
            queries: one per document; equal ones side by side are one query.
            documents: as many.

        Raises:
            InvalidInput: they are not as many, or the model refuses one.
        """
        return np.array([one.score for one in self._ranked(queries, documents)], np.float64)

    def _ranked(self, queries: Sequence[str], documents: Sequence[str]) -> list[Ranked]:
        """The pairs in their order, as they are ranked."""
        if len(queries) != len(documents):
            raise InvalidInput(f"{len(queries)} queries and {len(documents)} documents: one query is for each document")
        groups = [(query, len(list(group))) for query, group in groupby(queries)]
        sizes = [size for _, size in groups]
        ends = np.cumsum(sizes).tolist()
        lists = [list(documents[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
        rankings = self.rank([query for query, _ in groups], lists)
        found = {
            end - size + one.index: one
            for end, size, ranking in zip(ends, sizes, rankings, strict=True)
            for one in ranking.documents
        }
        return [found[place] for place in range(len(documents))]

    @property
    def columns(self) -> tuple[str, ...]:
        """What a table gets: "score", and what the model's calibration, of this `relevance`, makes of it."""
        calibration, rule = self.model.calibration, self._options["relevance"]
        is_own = calibration is not None and calibration.relevance == (rule if self.model.num_labels > 1 else None)
        return ("score", *(PROBABILITY if is_own else ()))

    def __call__(self, batch: Any) -> Any:
        """A table with the column "score", float64, after its own; of pyarrow or pandas, with "query" and "document".

        Where a calibration applies (`columns`), "probability", float64, and "probability_interval", two numbers, come
        next, null for what a cascade's last model did not rank. No verdict: a batch may hold a part of a query only.

        Raises:
            InvalidInput: it is another kind of batch (in numpy's, whole numbers become floats where one is null), a
                column is not there, a cell of it is null, or one that is to be added is there.
        """
        names = list(getattr(batch, "column_names", getattr(batch, "columns", ())))
        document = next((key for key in DOCUMENT_KEYS if key in names), DOCUMENT_KEYS[0])
        if isinstance(batch, Mapping) or QUERY not in names or document not in names:
            what = f"is {type(batch).__name__}" if not names else f"has the columns {', '.join(map(str, names))}"
            forms = "a table of pyarrow or pandas (batch_format) with the columns query and document"
            raise InvalidInput(f"the batch {what}, not {forms}")
        if there := next((name for name in self.columns if name in names), None):
            raise InvalidInput(f"the batch has a column {there}: rename it, since one that is added is named so")
        queries, documents = (_texts_of(batch[name], name) for name in (QUERY, document))
        with reranking("rescore batch", headers=self.headers) as span:
            span.note({"reranker.model_name": ",".join(self.names), "secondpass.documents": len(documents)})
            found = self._ranked(queries, documents)
        cells: tuple[Any, ...] = (
            np.array([one.score for one in found], np.float64),
            np.array([one.probability for one in found], np.float64),
            [None if one.interval is None else list(one.interval) for one in found],
        )
        made = dict(zip(self.columns, cells, strict=False))
        if not hasattr(batch, "append_column"):
            return batch.assign(**made)
        pa = optional("pyarrow", "pyarrow", "ray")
        for name, each in made.items():
            kind = pa.list_(pa.float64()) if name == PROBABILITY[1] else pa.float64()
            batch = batch.append_column(name, pa.array(each, kind, from_pandas=True))
        return batch


def _texts_of(column: Any, name: str) -> list[str]:
    cells = column.to_pylist() if hasattr(column, "to_pylist") else column.tolist()
    wrong = next((row for row, cell in enumerate(cells) if not isinstance(cell, str)), None)
    if wrong is not None:
        raise InvalidInput(f"{name}[{wrong}] is {cells[wrong]!r}, not a string")
    return cast(list[str], cells)


# ---- Parts of a run.


@dataclass(frozen=True, slots=True)
class PartDone:
    """A part that is written: pairs and queries, those cut to fit the model, those known from a cache of scores."""

    part: int
    pairs: int
    queries: int
    tokens: int
    cut: int
    cached: int
    seconds: float


class PartWriter:
    """A `Rescorer` that reads parts of candidates and writes them into a run's folder, each atomically.

    Args:
        folder: the run's.
        candidates: what is scored.
        digests: of the weights that it was begun with.
        top_k: documents of a query that are written, the best ones; None writes all.
        options: of `Rescorer`.
        threads: of this process, if it is one of several on its machine: else each would take all cores.
    """

    def __init__(
        self,
        folder: str,
        candidates: CandidateFiles,
        digests: Sequence[str | None],
        top_k: int | None,
        options: Mapping[str, Any],
        threads: int | None = None,
    ) -> None:
        if threads is not None:  # read when the libraries first compute
            os.environ |= dict.fromkeys(THREADS, str(threads))
        self._folder, self._candidates, self._digests, self._top_k = Path(folder), candidates, list(digests), top_k
        self._options, self._rescorer = dict(options), Rescorer(**options)

    def load(self, dtype: str | None = None) -> str:
        """Load the model, and say the type that it computes in.

        Args:
            dtype: the one that the run was begun in: precision "auto" goes by what is faster, which may differ here.

        Raises:
            ModelLoadError: it cannot be had, or is another one here than where the run was begun.
        """
        found = self._rescorer.dtype
        if found != dtype and dtype in PRECISIONS:
            self._rescorer = Rescorer(**{**self._options, "precision": PRECISIONS[dtype]})
            found = self._rescorer.dtype
        if dtype not in (None, found):
            raise ModelLoadError(f"the model computes in {found} here, and this run in {dtype}: say its precision")
        if digests_of(self._rescorer) != self._digests:
            raise ModelLoadError(f"{', '.join(self._rescorer.names)}: not the weights that this run was begun with")
        return found

    @cached_property
    def _texts(self) -> Texts | None:
        dataset = self._candidates.dataset
        return None if dataset is None else Texts(dataset, self._folder / INDEX)

    def write(self, part: RunPart) -> PartDone:
        """Score a part and put its file in place.

        Raises:
            SecondPassError: the model refuses or fails; the message says in which part.
        """
        with reranking("rescore part", headers=self._rescorer.headers) as span:
            span.note({"reranker.model_name": ",".join(self._rescorer.names), "secondpass.part": part.number})
            done = self._written(part)
            told = {f"secondpass.{name}": getattr(done, name) for name in ("queries", "pairs", "tokens", "cut")}
            span.note({**told, "secondpass.cache_hits": done.cached})
        return done

    def _written(self, part: RunPart) -> PartDone:
        began = time.perf_counter()
        questions = self._candidates.read(part, self._texts)
        try:
            rankings = self._rescorer.rank(
                [one.query for one in questions], [one.documents for one in questions], self._top_k
            )
        except SecondPassError as error:
            ends = f"queries {questions[0].query_id!r} to {questions[-1].query_id!r}"
            kind = InvalidInput if isinstance(error, InvalidInput) else SecondPassError
            raise kind(f"part {part.number} ({ends}): {error}") from error
        _write(self._folder / part_name(part.number), _table(questions, rankings))
        record = rankings[0].record
        counted = (record.tokens, len(record.truncated), record.cache_hits)
        return PartDone(part.number, part.pairs, part.queries, *counted, time.perf_counter() - began)


def part_name(number: int) -> str:
    """The file of a part."""
    return f"part-{number:05d}.parquet"


def digests_of(rescorer: Rescorer) -> list[str | None]:
    """Of the weights of its models, of a saved cascade of its file; None where they cannot be read."""
    hub = {name: rescorer.loading[name] for name in HUB if rescorer.loading.get(name) is not None}
    return [
        digest_of([cascade_file(name)]) if holds_cascade(name) else weights_digest(folder_of(name, **hub))
        for name in rescorer.names
    ]


def _table(questions: Sequence[Question], rankings: Sequence[Ranking]) -> Any:
    """A row for each document, best first: query_id, document_id, rank from 1, score, perhaps probability."""
    arrow = optional("pyarrow", "pyarrow, which writes Parquet,", "ray")
    found = [
        (one, place, each)
        for one, ranking in zip(questions, rankings, strict=True)
        for place, each in enumerate(ranking.documents, start=1)
    ]
    columns = {
        QUERY_ID: arrow.array([one.query_id for one, _, _ in found], arrow.string()),
        DOCUMENT_ID: arrow.array([one.document_ids[each.index] for one, _, each in found], arrow.string()),
        "rank": arrow.array([place for _, place, _ in found], arrow.int32()),
        "score": arrow.array([each.score for _, _, each in found], arrow.float64()),
    }
    if any(each.probability is not None for _, _, each in found):
        columns["probability"] = arrow.array([each.probability for _, _, each in found], arrow.float64())
    return arrow.table(columns)


def _write(file: Path, table: Any) -> None:
    unfinished = file.with_name(f"_{file.name}.{uuid.uuid4().hex}")
    with unfinished.open("wb") as stream:
        optional("pyarrow.parquet", "pyarrow", "ray").write_table(table, stream, compression="zstd")
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(file)


# ---- A run's folder, and the parts of it that are to be done.


@dataclass(slots=True)
class RunParts:
    """Parts that are absent, and those that are there.

    Attributes:
        writer: the arguments of a `PartWriter`.
        dtype: the type that the run's scores are computed in; None until the first model is loaded.
    """

    todo: list[RunPart]
    done: list[RunPart]
    writer: tuple[Any, ...]
    dtype: str | None
    _journal: Journal

    def begin(self, dtype: str) -> None:
        """Hold the type of the first model for all that come, after a kill too."""
        if self.dtype is None:
            self.dtype = dtype
            self._journal.append({"dtype": dtype})


Engine = Callable[[RunParts], Iterator[PartDone]]
"""Writes all parts that are to be done, in any order."""


def local(work: RunParts) -> Iterator[PartDone]:
    """One part after the other in this process, with all its threads."""
    writer = PartWriter(*work.writer)
    work.begin(writer.load(work.dtype))
    for part in work.todo:
        yield writer.write(part)


@contextmanager
def begun(
    folder: Path, candidates: CandidateFiles, options: Mapping[str, Any], top_k: int | None = None, pairs: int = PAIRS
) -> Iterator[RunParts]:
    """Begin a run in a folder, or go on with the one that is there; nobody else may write it while the block runs.

    Args:
        folder: made if it is not there.
        candidates: what is scored.
        options: of `Rescorer`.
        top_k: documents of a query that are written; None writes all.
        pairs: of a part at least.

    Raises:
        InvalidInput: a row cannot be scored, another process writes the folder, or it has a run of other candidates,
            another model or other settings, or files that are no run's.
    """
    optional("pyarrow.parquet", "pyarrow, which writes Parquet,", "ray")
    folder = folder.absolute()
    options = _placed(options)
    digests = digests_of(Rescorer(**options))
    how = {"pairs": positive_int(pairs, "pairs"), "top_k": top_k, **_settings(options)}
    header = {"rescored": candidates.identity(), "weights": digests, "settings": how}
    _make(folder)

    def refuse(found: Any) -> str:
        known = found if isinstance(found, dict) else {}
        names = ", ".join(name for name in header if known.get(name) != header[name])
        return f"the run in it is of other {names}: choose another folder, or delete this one"

    with Journal(folder / MANIFEST, header, "another run is writing it", refuse) as journal:
        _clear(folder)
        told: dict[str, Any] = {}
        for record in journal.records(dict, "a record of a run"):
            told |= record
        if "parts" not in told:
            try:
                told["parts"] = [list(asdict(part).values()) for part in _planned(folder, candidates, pairs)]
            except InvalidInput:
                journal.remove()
                (folder / INDEX).unlink(missing_ok=True)
                raise
            journal.append({"parts": told["parts"]})
        parts = [RunPart(*each) for each in told["parts"]]
        there = {file.name for file in folder.glob("part-*.parquet")}
        done = [part for part in parts if part_name(part.number) in there]
        todo = [part for part in parts if part_name(part.number) not in there]
        if todo:
            (folder / DONE).unlink(missing_ok=True)
        writer = (str(folder), candidates, digests, top_k, options)
        yield RunParts(todo, done, writer, told.get("dtype"), journal)
        if all((folder / part_name(part.number)).is_file() for part in parts):
            _clear(folder)
            (folder / DONE).touch()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = not (folder / MANIFEST).exists() and any(folder.iterdir())
    except OSError as error:
        raise InvalidInput(f"{folder}: cannot be made or read: {error.strerror}") from None
    if foreign:
        raise InvalidInput(f"{folder}: has files and no {MANIFEST}: choose an empty folder")


def _clear(folder: Path) -> None:
    """Delete what was killed before it was whole; whoever still writes one can put it in place no more."""
    for left in folder.glob("_part-*"):
        left.unlink(missing_ok=True)


def _planned(folder: Path, candidates: CandidateFiles, pairs: int) -> list[RunPart]:
    texts = None
    if candidates.dataset is not None:
        Texts.write_index(candidates.dataset, folder / INDEX)
        texts = Texts(candidates.dataset, folder / INDEX)
    return candidates.plan(pairs, texts)


def _placed(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with whole paths: a worker may run in another folder."""

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(each) for each in value]
        return str(Path(value).absolute()) if Path(value).exists() else value

    made = dict(options)
    for name in ("model", "calibration", "score_cache"):
        if made.get(name) is not None:
            made[name] = str(Path(made[name]).absolute()) if name == "score_cache" else whole(made[name])
    return made


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """What scores depend on, as JSON keeps it; the calibration by its contents."""
    passing = ("batch_size", "device", "score_cache", "cache_dir", "local_files_only", "token", "headers")
    told = {name: value for name, value in options.items() if name not in passing and value is not None}
    if (file := told.get("calibration")) is not None:
        told["calibration"] = digest_of([existing(file_of(file))])
    return {name: value if isinstance(value, (str, int, list)) else repr(value) for name, value in told.items()}
