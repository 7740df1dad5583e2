"""The Haystack component that gives queries and candidates. YAML names this module: its name is public API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from haystack import Document, component
from haystack_integrations.common.secondpass import parameters
from haystack_integrations.common.secondpass.model_lifecycle import in_thread
from haystack_integrations.components.evaluators.secondpass.labelled_queries import LabelledSet

from secondpass.corpora import read_corpus
from secondpass.errors import InvalidInput

__all__ = ["LabelledCandidates"]

Found = dict[str, list[tuple[str, float | None]]]
OUTPUTS = {
    "queries": list[str],
    "query_ids": list[str],
    "ground_truth_documents": list[list[Document]],
    "documents": list[list[Document]],
}


@component
class LabelledCandidates(LabelledSet):
    """Gives the queries of a labelled set that have a relevant document, their judged documents, and BM25's best.

    All documents come with their texts (title, a space and text as `content`, as `secondpass search` indexes them), so
    that `CrossEncoderTrainer` can learn from them without a document store. BM25 reads the whole corpus in memory; the
    candidates of another retriever can be given to the trainer from Python.

    ### Usage example

    ```python
    from haystack_integrations.components.trainers.secondpass import LabelledCandidates

    labelled = LabelledCandidates(dataset="secondpass/demo", top_k=20).run()
    for query, found in zip(labelled["queries"], labelled["documents"]):
        print(query, found[0].content)
    ```
    """

    def __init__(
        self,
        *,
        dataset: str | Path | None = None,
        split: str = "train",
        queries: str | Path | None = None,
        qrels: str | Path | None = None,
        corpus: str | Path | None = None,
        top_k: int = 30,
    ) -> None:
        """Check and keep the parameters; files are read by `warm_up` or the first `run`.

        :param dataset: A folder, as `LabelledQueries` takes it, with its corpus.jsonl.
        :param split: Which judgements of the folder.
        :param queries: Instead of a folder, a file of queries, as `LabelledQueries` takes it.
        :param qrels: A file of judgements, as `LabelledQueries` takes it.
        :param corpus: A file of documents (JSON Lines), or a BEIR folder. Needed with `queries`; with `dataset` it is
            read in place of the folder's.
        :param top_k: How many documents BM25 finds for each query, at most.

        :raises ValueError:
            If a parameter has a wrong type, with its name, or both or neither of `dataset` and `queries` are given.
        """
        # Not super(): Haystack's decorator makes another class of this one.
        LabelledSet.__init__(self, dataset=dataset, split=split, queries=queries, qrels=qrels)
        self.corpus = parameters.optional_path("corpus", corpus)
        self.top_k = parameters.positive("top_k", top_k)
        if self.queries is not None and self.corpus is None:
            raise InvalidInput("corpus is missing: the queries of a file have no documents of their own")
        self._found: tuple[dict[str, Document], Found] | None = None

    def warm_up(self) -> None:
        """Read the files and search."""
        self._candidates()

    @component.output_types(**OUTPUTS)
    def run(self) -> dict[str, Any]:
        """Give all queries.

        :returns:
            A dictionary with the following keys, each a list with one entry a query:
            - `queries`: The texts.
            - `query_ids`: The ids.
            - `ground_truth_documents`: The judged documents with their contents, and grades as scores. One that the
              corpus lacks has no content.
            - `documents`: What BM25 finds, best first, with its scores; of a folder none whose id is the query's.

        :raises ValueError:
            If a file is not there or a line of it is refused.
        :raises ImportError:
            If bm25s is not installed.
        """
        contents, found = self._candidates()
        texts = self.labelled().texts
        return {
            "queries": list(texts.values()),
            "query_ids": list(texts),
            "ground_truth_documents": [
                [_scored(contents.get(judged.id, judged), judged.score) for judged in self.ground_truth(query)]
                for query in texts
            ],
            "documents": [[_scored(contents[document], score) for document, score in found[query]] for query in texts],
        }

    run_async = in_thread(run)

    def _candidates(self) -> tuple[dict[str, Document], Found]:
        """Every document by its id, and what is found; two threads that ask first both read, and find the same."""
        if self._found is None:
            from secondpass.training.negatives.candidates import bm25_candidates

            texts = self.labelled().texts
            place = Path(str(self.dataset if self.corpus is None else self.corpus))
            contents = {document.id: document.content for document in read_corpus(place)}
            documents = {name: Document(id=name, content=content) for name, content in contents.items()}
            found = bm25_candidates(texts, contents, depth=self.top_k + 1)
            # A folder's document under a query's id is the query itself, as for BEIR.
            beir = self.dataset is not None
            left = {key: [each for each in best if not beir or each[0] != key] for key, best in found.items()}
            self._found = documents, {query: best[: self.top_k] for query, best in left.items()}
        return self._found


def _scored(document: Document, score: float | None) -> Document:
    return Document(id=document.id, content=document.content, score=score)
