"""The second-pass ranking toolkit: re-orders search results with a cross-encoder."""

from secondpass.cross_encoder import CrossEncoder
from secondpass.examples import InputExample
from secondpass.ranking import Ranked, Ranking
from secondpass.record import CallRecord, Cut

__all__ = ["CallRecord", "CrossEncoder", "Cut", "InputExample", "Ranked", "Ranking"]
__version__ = "0.1.0"
