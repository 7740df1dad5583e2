"""LlamaIndex: a node postprocessor that reranks.

Needs the extra `llama-index`.
"""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher

from secondpass.postprocessing import FACTS, Count, RerankOptions

__all__ = ["SecondPassRerank"]

dispatcher = get_dispatcher(__name__)


class SecondPassRerank(RerankOptions, BaseNodePostprocessor):
    """Reranks LlamaIndex's nodes with a cross-encoder.

    Args:
        options: of `RerankOptions`.
        metadata_mode: which metadata is read with a node's text, by the node's own templates and excluded keys.
        keep_retrieval_score: put the score that a node came with into its metadata, as "retrieval_score".

    Nodes come back in new `NodeWithScore`s; what came in is not changed. Where there are such, a copy of the node has
    in its metadata "probability" and "probability_interval", the best "passage", what was "truncated" (tokens of query
    and document that were not read, and characters), and "nothing_relevant", the calibration's verdict on all of them:
    no model reads these. A node that a budget left unscored has the score None. Any number of threads and tasks may
    use one; `to_dict` and `from_dict` keep the options, and what is pickled loads the model anew.
    """

    what = "nodes"

    top_n: Count | None = 2
    metadata_mode: MetadataMode = MetadataMode.EMBED
    keep_retrieval_score: bool = Field(default=False)

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised components."""
        return "SecondPassRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        """Order nodes by how well each one answers the query, best first; `top_n` of them come back.

        Raises:
            ValueError: there is no query.
            SecondPassError: what scoring raises.
        """
        if query_bundle is None:
            raise ValueError("Missing query bundle in extra info.")
        if not nodes:
            return []
        name, query = self.model_name, query_bundle.query_str
        limit = len(nodes) if self.top_n is None else self.top_n
        dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=limit, model_name=name))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: name,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: limit,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            best = self._best(nodes, query)
            event.on_end(payload={EventPayload.NODES: best})
        dispatcher.event(ReRankEndEvent(nodes=best))
        return best

    def _best(self, nodes: list[NodeWithScore], query: str) -> list[NodeWithScore]:
        texts = [one.node.get_content(metadata_mode=self.metadata_mode) for one in nodes]
        ids, scores = [one.node.node_id for one in nodes], [one.score for one in nodes]
        before = [_before(one.node, text) for one, text in zip(nodes, texts, strict=True)]
        found = self.reranked(query, texts, before, ids, scores)
        if found is None:
            return nodes
        made, keeps = [], self.keep_retrieval_score
        for one in found:
            came = nodes[one.index]
            facts = {**one.facts, **({"retrieval_score": came.score} if keeps and came.score is not None else {})}
            made.append(NodeWithScore(node=_with(came.node, facts), score=one.score))
        return made


def _before(node: BaseNode, text: str) -> int:
    """Where the node's own text begins in what is read, whose ends are stripped; 0 where a template has it inside."""
    own = node.get_content(metadata_mode=MetadataMode.NONE)
    for skipped in (0, len(own) - len(own.lstrip())):
        if (rest := own[skipped:].rstrip()) and text.endswith(rest):
            return len(text) - len(rest) - skipped
    return 0


def _with(node: BaseNode, facts: dict[str, Any]) -> BaseNode:
    """A copy with these facts, which no model reads, instead of an earlier reranker's; without any the node itself."""
    old = set(FACTS).intersection(node.excluded_embed_metadata_keys, node.excluded_llm_metadata_keys)
    kept = {name: value for name, value in node.metadata.items() if name not in old}
    if not facts and len(kept) == len(node.metadata):
        return node
    hidden = {
        name: [*getattr(node, name), *(key for key in facts if key not in getattr(node, name))]
        for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")
    }
    return node.model_copy(update={"metadata": {**kept, **facts}, **hidden})
