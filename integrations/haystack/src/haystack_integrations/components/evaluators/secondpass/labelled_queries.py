"""The Haystack component that gives all queries of a labelled set. YAML names this module: its name is public API."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from haystack import Document, component, logging
from haystack_integrations.common.secondpass import parameters
from haystack_integrations.common.secondpass.model_lifecycle import SerializedComponent, in_thread

from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import JudgedQueries, Qrels, judged_queries, listed_queries
from secondpass.text import checked

__all__ = ["LabelledQueries"]

logger = logging.getLogger(__name__)


class LabelledSet(SerializedComponent):
    """Queries with a relevant document and their judgements, read once, when they are first needed."""

    def __init__(
        self,
        *,
        dataset: str | Path | None = None,
        split: str = "test",
        queries: str | Path | None = None,
        qrels: str | Path | None = None,
        relevant_only: bool = False,
    ) -> None:
        """Check and keep the parameters; files are read by `warm_up` or the first `run`.

        :param dataset: A folder in BEIR's layout (queries.jsonl, qrels/SPLIT.tsv, gzip accepted), or "secondpass/demo"
            for the small one that comes with the package.
        :param split: Which judgements of the folder.
        :param queries: Instead of a folder, a file of queries: .jsonl (_id, text), .tsv (id, text) or .txt.
        :param qrels: A file of judgements (BEIR, TREC or JSON Lines). Needed with `queries`; with `dataset` it is read
            in place of the split's.
        :param relevant_only: If `True`, judged documents that are not relevant (grade 0 or below) are left out of the
            ground truth. Haystack's own evaluators need that: they take every document there for relevant.

        :raises ValueError:
            If a parameter has a wrong type, with its name, or both or neither of `dataset` and `queries` are given.
        """
        self.dataset = parameters.optional_path("dataset", dataset)
        self.split = checked(split, "split")
        self.queries = parameters.optional_path("queries", queries)
        self.qrels = parameters.optional_path("qrels", qrels)
        self.relevant_only = parameters.flag("relevant_only", relevant_only)
        if (self.dataset is None) == (self.queries is None):
            raise InvalidInput("give one of dataset (a BEIR folder) and queries (a file, with qrels)")
        if self.queries is not None and self.qrels is None:
            raise InvalidInput("qrels is missing: queries of a file are labelled by it")
        self._labelled: JudgedQueries | None = None

    def warm_up(self) -> None:
        """Read the files."""
        self.labelled()

    def labelled(self) -> JudgedQueries:
        """Return the labelled queries; two threads that ask first both read the files, and find the same.

        Raises:
            InvalidInput: a file is not there or a line of it is refused.
        """
        if self._labelled is None:
            self._labelled = self._read()
        return self._labelled

    def ground_truth(self, query_id: str) -> list[Document]:
        """Return the judged documents of a query: ids, and grades as scores."""
        grades = (self.labelled().qrels or Qrels({})).get(query_id, {})
        return [
            Document(id=document, score=float(grade))
            for document, grade in grades.items()
            if grade > 0 or not self.relevant_only
        ]

    def _read(self) -> JudgedQueries:
        qrels = None if self.qrels is None else Path(self.qrels)
        if self.queries is None:
            found = judged_queries(Path(str(self.dataset)), self.split, qrels)
        else:
            found = listed_queries(Path(self.queries), qrels)
        if found.note:
            logger.warning("{note}.", note=found.note)
        judged = set((found.qrels or Qrels({})).with_relevant)
        return replace(found, texts={query: text for query, text in found.texts.items() if query in judged})


@component
class LabelledQueries(LabelledSet):
    """Gives the queries of a labelled set that have a relevant document, in the order of their file.

    ### Usage example

    ```python
    from haystack_integrations.components.evaluators.secondpass import LabelledQueries

    labelled = LabelledQueries(dataset="secondpass/demo").run()
    for query_id, query in zip(labelled["query_ids"], labelled["queries"]):
        print(query_id, query)
    ```
    """

    @component.output_types(queries=list[str], query_ids=list[str], ground_truth_documents=list[list[Document]])
    def run(self) -> dict[str, Any]:
        """Give all queries.

        :returns:
            A dictionary with the following keys, each a list with one entry a query:
            - `queries`: The texts.
            - `query_ids`: The ids.
            - `ground_truth_documents`: The judged documents: ids, and grades as scores.

        :raises ValueError:
            If a file is not there or a line of it is refused.
        """
        texts = self.labelled().texts
        return {
            "queries": list(texts.values()),
            "query_ids": list(texts),
            "ground_truth_documents": [self.ground_truth(query) for query in texts],
        }

    run_async = in_thread(run)
