"""Hayhooks: re-ordering documents as an HTTP endpoint and as an MCP tool."""

from __future__ import annotations

from hayhooks import BasePipelineWrapper
from haystack import Document, Pipeline
from haystack_integrations.components.rankers.secondpass import SecondPassRanker

from secondpass_pipelines.results import chances_of, verdict_of


class PipelineWrapper(BasePipelineWrapper):
    """One ranker; `POST /rerank/run`, and the tool `rerank` of `hayhooks mcp run`."""

    def setup(self) -> None:
        """Make the pipeline and load its model before the first request."""
        self.pipeline = Pipeline()
        self.pipeline.add_component("ranker", SecondPassRanker(model="secondpass/pocket", top_k=10))
        self.pipeline.warm_up()

    async def run_api_async(self, query: str, documents: list[str], top_k: int = 10) -> list[dict]:
        """Order texts by how well each answers the query, most relevant first.

        Args:
            query: What the texts are to answer.
            documents: The texts to order.
            top_k: At most so many of them come back.

        Returns:
            A list of {"index": place in `documents`, "score": between 0 and 1, "text": the text}. Where the model has a
            calibration, also "probability" and "probability_interval", and in each "nothing_relevant": whether no text
            answers the query.
        """
        given = [Document(id=str(place), content=text) for place, text in enumerate(documents)]
        inputs = {"query": query, "documents": given, "top_k": top_k}
        found = (await self.pipeline.run_async({"ranker": inputs}))["ranker"]
        chances, verdict = chances_of(found), verdict_of(found)
        return [
            {
                **{"index": int(document.id), "score": document.score, "text": document.content},
                **chances.get(document.id, {}),
                **verdict,
            }
            for document in found["documents"]
        ]
