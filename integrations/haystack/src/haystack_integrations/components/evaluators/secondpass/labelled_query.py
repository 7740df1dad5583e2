"""The Haystack component that gives one labelled query. YAML names this module: its name is public API."""

from __future__ import annotations

from typing import Any

from haystack import Document, component
from haystack_integrations.common.secondpass.model_lifecycle import in_thread
from haystack_integrations.components.evaluators.secondpass.labelled_queries import LabelledSet

from secondpass.errors import InvalidInput
from secondpass.text import checked

__all__ = ["LabelledQuery"]


@component
class LabelledQuery(LabelledSet):
    """Gives the text and the judged documents of one query of a labelled set.

    `query` goes to the retriever and the ranker, `ground_truth_documents` to the evaluators. `LabelledQueries` tells
    which ids there are.

    ### Usage example

    ```python
    from haystack_integrations.components.evaluators.secondpass import LabelledQueries, LabelledQuery

    labelled = LabelledQuery(dataset="secondpass/demo")
    for query_id in LabelledQueries(dataset="secondpass/demo").run()["query_ids"]:
        print(labelled.run(query_id=query_id)["query"])
    ```
    """

    @component.output_types(query=str, query_ids=list[str], ground_truth_documents=list[list[Document]])
    def run(self, *, query_id: str) -> dict[str, Any]:
        """Give one query.

        :param query_id: The id of a query that has a relevant document.
        :returns:
            A dictionary with the following keys:
            - `query`: Its text.
            - `query_ids`: A list of its id alone.
            - `ground_truth_documents`: A list of one list: its judged documents, with grades as scores.

        :raises ValueError:
            If there is no such query, or a file is refused.
        """
        asked = checked(query_id, "query_id")
        texts = self.labelled().texts
        if asked not in texts:
            raise InvalidInput(f"query_id {asked!r} is none of the {len(texts)} queries with a relevant document")
        truth = [self.ground_truth(asked)]
        return {"query": texts[asked], "query_ids": [asked], "ground_truth_documents": truth}

    run_async = in_thread(run)
