"""Hayhooks: searches in two passes over your documents, over HTTP and as an MCP tool.

SECONDPASS_SEARCH_PIPELINE names the pipeline, rerank_bm25 by default; SECONDPASS_CORPUS the BEIR folder or JSON Lines
file that its store is filled with. ELASTICSEARCH_URL, OPENSEARCH_URL and SECONDPASS_INDEX say which server's index a
pipeline such as rerank_opensearch_bm25 searches; what that holds needs no corpus.
"""

from __future__ import annotations

import os

from hayhooks import BasePipelineWrapper

from secondpass_pipelines.indexing import fill_from_environment
from secondpass_pipelines.pipeline_files import load_pipeline, pipeline_file
from secondpass_pipelines.results import chances_of, verdict_of
from secondpass_pipelines.searching import stages_of


class PipelineWrapper(BasePipelineWrapper):
    """One searching pipeline; `POST /search/run`, and the tool `search` of `hayhooks mcp run`."""

    def setup(self) -> None:
        """Load the pipeline, fill its store and load its models before the first request."""
        self.pipeline = load_pipeline(pipeline_file(os.environ.get("SECONDPASS_SEARCH_PIPELINE", "rerank_bm25")))
        self.stages = stages_of(self.pipeline)
        fill_from_environment(self.pipeline)
        self.pipeline.warm_up()

    async def run_api_async(self, query: str, top_k: int = 10) -> list[dict]:
        """Find the documents that answer a query best.

        Args:
            query: What is looked for.
            top_k: At most so many of them come back.

        Returns:
            A list of {"id", "score", "text", "meta"}, best first; of documents that were read in windows, as those of
            rerank_long, also the best "passage". Where the ranker's model has a calibration, also "probability" and
            "probability_interval", and in each "nothing_relevant": whether no document answers the query.
        """
        outputs = await self.pipeline.run_async(self.stages.inputs(query, None, top_k))
        found = outputs[self.stages.last]
        passages = {told["id"]: {"passage": told["text"]} for told in found.get("passages", ())}
        chances, verdict = chances_of(found), verdict_of(found)
        return [
            {
                **{"id": document.id, "score": document.score, "text": document.content, "meta": document.meta},
                **passages.get(document.id, {}),
                **chances.get(document.id, {}),
                **verdict,
            }
            for document in found["documents"]
        ]
