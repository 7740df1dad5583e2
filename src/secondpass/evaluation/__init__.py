"""Evaluation that can be trusted: judgements, runs, measures, and the evaluators that `fit` takes.

Importing it loads neither torch nor scikit-learn.
"""

from typing import TYPE_CHECKING

from secondpass.lazy import lazily

if TYPE_CHECKING:
    from secondpass.evaluation.analysis import analyse
    from secondpass.evaluation.measures import evaluate
    from secondpass.evaluation.pairs.binary_accuracy import CEBinaryAccuracyEvaluator
    from secondpass.evaluation.pairs.binary_classification import CEBinaryClassificationEvaluator
    from secondpass.evaluation.pairs.correlation import CECorrelationEvaluator
    from secondpass.evaluation.pairs.f1 import CEF1Evaluator
    from secondpass.evaluation.pairs.reranking import CERerankingEvaluator
    from secondpass.evaluation.pairs.softmax_accuracy import CESoftmaxAccuracyEvaluator
    from secondpass.evaluation.qrels import Qrels, read_qrels
    from secondpass.evaluation.reports import Report
    from secondpass.evaluation.runs import Run, read_run

__all__ = [
    "CEBinaryAccuracyEvaluator",
    "CEBinaryClassificationEvaluator",
    "CECorrelationEvaluator",
    "CEF1Evaluator",
    "CERerankingEvaluator",
    "CESoftmaxAccuracyEvaluator",
    "Qrels",
    "Report",
    "Run",
    "analyse",
    "evaluate",
    "read_qrels",
    "read_run",
]

__getattr__ = lazily(
    __name__,
    {
        "CEBinaryAccuracyEvaluator": "pairs.binary_accuracy",
        "CEBinaryClassificationEvaluator": "pairs.binary_classification",
        "CECorrelationEvaluator": "pairs.correlation",
        "CEF1Evaluator": "pairs.f1",
        "CERerankingEvaluator": "pairs.reranking",
        "CESoftmaxAccuracyEvaluator": "pairs.softmax_accuracy",
        "Qrels": "qrels",
        "Report": "reports",
        "Run": "runs",
        "analyse": "analysis",
        "evaluate": "measures",
        "read_qrels": "qrels",
        "read_run": "runs",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
