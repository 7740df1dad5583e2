"""The second-pass ranking toolkit: re-orders search results with a cross-encoder."""

from typing import TYPE_CHECKING

from secondpass.lazy import lazily

if TYPE_CHECKING:
    from secondpass.cascade import Cascade
    from secondpass.cross_encoder import CrossEncoder
    from secondpass.evaluation.pairs.evaluator import InputExample
    from secondpass.inputs import PromptTemplate
    from secondpass.ranking import Ranked, Ranking
    from secondpass.record import CallRecord, Cut

__all__ = ["CallRecord", "Cascade", "CrossEncoder", "Cut", "InputExample", "PromptTemplate", "Ranked", "Ranking"]
__version__ = "0.1.0"

__getattr__ = lazily(
    __name__,
    {
        "CallRecord": "tokens",
        "Cascade": "cascade",
        "CrossEncoder": "cross_encoder",
        "Cut": "tokens",
        "InputExample": "evaluation.pairs.evaluator",
        "PromptTemplate": "inputs",
        "Ranked": "ranking",
        "Ranking": "ranking",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
