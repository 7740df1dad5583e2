"""A labelled dataset through a pipeline: what is asked for, and the runs of both passes that come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run


@dataclass(frozen=True, slots=True)
class DatasetRequest:
    """A pipeline (file or packaged name) and a BEIR folder.

    `depth` is the first pass's top_k instead of the pipeline's own. `top_k` is the second pass's: by default it
    returns all that it was given, so that deep measures are taken on the same candidates. `model` takes the place of
    the ranker's own. `output` is the TREC run of the second pass; answers are kept beside it as they come, and a
    broken run goes on with them. `indexed` says that the pipeline's stores hold the documents already, `index` takes
    the place of the index of stores that live in a server, and `add` allows to index into one that holds documents.
    """

    pipeline: str
    dataset: Path
    split: str = "test"
    limit: int | None = None
    depth: int | None = None
    top_k: int | None = None
    model: str | None = None
    output: Path | None = None
    indexed: bool = False
    index: str | None = None
    add: bool = False


@dataclass(frozen=True, slots=True)
class DatasetRuns:
    """Both passes over the queries that have a relevant document.

    Attributes:
        qrels: the judgements; with a limit only those of the queries that were asked.
        first: the first pass, a run for each component that gives documents, in the order of the pipeline. The last
            one holds the candidates: what the second pass was given.
        second: the second pass.
        texts: text by query id, in the order in which they were asked.
        ms: milliseconds a query by the name of the run.
        cut: how many documents were too long for the model to be read wholly.
        not_reranked: how many queries kept the order of the first pass because the ranker failed.
        textless: how many documents were ranked without any text, over all queries.
        shortened: how many queries a server was asked with their beginning only, because they are very long.
        absent: how many relevant documents no store has, if they were indexed before.
        measures: names of the measures that the pipeline's own evaluators state; empty if it has none.
    """

    qrels: Qrels
    first: tuple[Run, ...]
    second: Run
    texts: Mapping[str, str]
    ms: Mapping[str, float]
    cut: int
    not_reranked: int
    measures: tuple[str, ...] = ()
    textless: int = 0
    shortened: int = 0
    absent: int = 0
