"""Evaluation that can be trusted: judgements, runs, measures, and the evaluators that `fit` takes.

Importing it loads neither torch nor scikit-learn.
"""

from typing import TYPE_CHECKING

from secondpass.lazy import lazily

if TYPE_CHECKING:
    from secondpass.evaluation.analysis import analyse
    from secondpass.evaluation.clicks import ClickLog, click_labels, fit_positions
    from secondpass.evaluation.judge import ChatJudge, UnjudgedPair, agreement, judge_pairs
    from secondpass.evaluation.measures import Report, evaluate
    from secondpass.evaluation.pairs.classification import (
        CEBinaryAccuracyEvaluator,
        CEBinaryClassificationEvaluator,
        CEF1Evaluator,
        CESoftmaxAccuracyEvaluator,
    )
    from secondpass.evaluation.pairs.evaluator import CECorrelationEvaluator
    from secondpass.evaluation.pairs.reranking import CERerankingEvaluator
    from secondpass.evaluation.qrels import Qrels, read_qrels
    from secondpass.evaluation.reporting.plots import depth_plot, reliability_plot
    from secondpass.evaluation.runs import Run, read_run

__all__ = [
    "CEBinaryAccuracyEvaluator",
    "CEBinaryClassificationEvaluator",
    "CECorrelationEvaluator",
    "CEF1Evaluator",
    "CERerankingEvaluator",
    "CESoftmaxAccuracyEvaluator",
    "ChatJudge",
    "ClickLog",
    "Qrels",
    "Report",
    "Run",
    "UnjudgedPair",
    "agreement",
    "analyse",
    "click_labels",
    "depth_plot",
    "evaluate",
    "fit_positions",
    "judge_pairs",
    "read_qrels",
    "read_run",
    "reliability_plot",
]

__getattr__ = lazily(
    __name__,
    {
        "CEBinaryAccuracyEvaluator": "pairs.classification",
        "CEBinaryClassificationEvaluator": "pairs.classification",
        "CECorrelationEvaluator": "pairs.evaluator",
        "CEF1Evaluator": "pairs.classification",
        "CERerankingEvaluator": "pairs.reranking",
        "CESoftmaxAccuracyEvaluator": "pairs.classification",
        "ChatJudge": "judge",
        "ClickLog": "clicks",
        "Qrels": "qrels",
        "Report": "measures",
        "Run": "runs",
        "UnjudgedPair": "judge",
        "agreement": "judge",
        "analyse": "analysis",
        "click_labels": "clicks",
        "depth_plot": "reporting.plots",
        "evaluate": "measures",
        "fit_positions": "clicks",
        "judge_pairs": "judge",
        "read_qrels": "qrels",
        "read_run": "runs",
        "reliability_plot": "reporting.plots",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
