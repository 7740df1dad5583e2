"""The second-pass ranking toolkit: re-orders search results with a cross-encoder."""

from typing import TYPE_CHECKING

from secondpass.lazy import lazily

if TYPE_CHECKING:
    from secondpass.cascade import Cascade
    from secondpass.cross_encoder import CrossEncoder
    from secondpass.evaluation.pairs.evaluator import InputExample
    from secondpass.explanation import Explanation, explain
    from secondpass.inputs import PromptTemplate
    from secondpass.ranking import Ranked, Ranking
    from secondpass.record import CallRecord, Cut
    from secondpass.score_cache import ScoreCache
    from secondpass.stopping import StoppingRule
    from secondpass.windows import Passage, Windows

__all__ = [
    "CallRecord",
    "Cascade",
    "CrossEncoder",
    "Cut",
    "Explanation",
    "InputExample",
    "Passage",
    "PromptTemplate",
    "Ranked",
    "Ranking",
    "ScoreCache",
    "StoppingRule",
    "Windows",
    "explain",
]
__version__ = "0.1.0"

__getattr__ = lazily(
    __name__,
    {
        "CallRecord": "record",
        "Cascade": "cascade",
        "CrossEncoder": "cross_encoder",
        "Cut": "record",
        "Explanation": "explanation",
        "InputExample": "evaluation.pairs.evaluator",
        "Passage": "windows",
        "PromptTemplate": "inputs",
        "Ranked": "ranking",
        "Ranking": "ranking",
        "ScoreCache": "score_cache",
        "StoppingRule": "stopping",
        "Windows": "windows",
        "explain": "explanation",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
