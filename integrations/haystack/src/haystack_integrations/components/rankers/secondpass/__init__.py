"""The second-pass ranker: `ranker.SecondPassRanker` re-orders retrieved documents with a cross-encoder."""

from haystack_integrations.components.rankers.secondpass.ranker import SecondPassRanker

__all__ = ["SecondPassRanker"]
