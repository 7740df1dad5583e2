"""Evaluation in pipelines: `evaluator.SecondPassEvaluator` measures rankings, two more components feed queries.

`labelled_queries.LabelledQueries` gives all labelled queries, `labelled_query.LabelledQuery` one at a time.
"""

from haystack_integrations.components.evaluators.secondpass.evaluator import SecondPassEvaluator
from haystack_integrations.components.evaluators.secondpass.labelled_queries import LabelledQueries
from haystack_integrations.components.evaluators.secondpass.labelled_query import LabelledQuery

__all__ = ["LabelledQueries", "LabelledQuery", "SecondPassEvaluator"]
