"""Second-pass rankers.

`ranker.SecondPassRanker` re-orders retrieved documents with a cross-encoder; `tuned_ranker.SecondPassTunedRanker`
orders those of several retrievers as `secondpass tune` found best.
"""

from haystack_integrations.components.rankers.secondpass.ranker import SecondPassRanker
from haystack_integrations.components.rankers.secondpass.tuned_ranker import SecondPassTunedRanker

__all__ = ["SecondPassRanker", "SecondPassTunedRanker"]
