"""The Haystack component that gives all queries of a labelled set, for pipelines that take many at once.

Its YAML `type` is `haystack_integrations.components.evaluators.secondpass.labelled_queries.LabelledQueries`: the
module's name is public API.
"""

from __future__ import annotations

import asyncio
from typing import Any

from haystack import Document, component
from haystack_integrations.components.evaluators.secondpass.labelled_set import LabelledSet


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
        texts = self.questions().texts
        return {
            "queries": list(texts.values()),
            "query_ids": list(texts),
            "ground_truth_documents": [self.ground_truth(query) for query in texts],
        }

    @component.output_types(queries=list[str], query_ids=list[str], ground_truth_documents=list[list[Document]])
    async def run_async(self) -> dict[str, Any]:
        """Do what `run` does, in a thread: the first call reads files.

        :returns:
            The same dictionary as `run`.

        :raises ValueError:
            If a file is not there or a line of it is refused.
        """
        return await asyncio.to_thread(self.run)
