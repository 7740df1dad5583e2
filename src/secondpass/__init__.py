"""The second-pass ranking toolkit: re-orders search results with a cross-encoder."""

from typing import TYPE_CHECKING

from secondpass.lazy import lazily

if TYPE_CHECKING:
    from secondpass.cross_encoder import CrossEncoder
    from secondpass.ranking import Ranked, Ranking
    from secondpass.record import CallRecord, Cut
    from secondpass.templates import PromptTemplate
    from secondpass.training.examples import InputExample

__all__ = ["CallRecord", "CrossEncoder", "Cut", "InputExample", "PromptTemplate", "Ranked", "Ranking"]
__version__ = "0.1.0"

__getattr__ = lazily(
    __name__,
    {
        "CallRecord": "record",
        "CrossEncoder": "cross_encoder",
        "Cut": "record",
        "InputExample": "training.examples",
        "PromptTemplate": "templates",
        "Ranked": "ranking",
        "Ranking": "ranking",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
