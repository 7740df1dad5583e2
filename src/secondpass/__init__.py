"""The second-pass ranking toolkit: re-orders search results with a cross-encoder."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secondpass.cross_encoder import CrossEncoder
    from secondpass.ranking import Ranked, Ranking
    from secondpass.record import CallRecord, Cut
    from secondpass.training.examples import InputExample

__all__ = ["CallRecord", "CrossEncoder", "Cut", "InputExample", "Ranked", "Ranking"]
__version__ = "0.1.0"

# torch takes seconds to import: whoever asks only for help, or evaluates runs, does not wait for it.
_HOMES = {
    "CallRecord": "record",
    "CrossEncoder": "cross_encoder",
    "Cut": "record",
    "InputExample": "training.examples",
    "Ranked": "ranking",
    "Ranking": "ranking",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'secondpass' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"secondpass.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
