"""One model for many callers: what threads and coroutines ask at the same time is scored in shared batches."""

from secondpass.merging.scoring_thread import MergedBatch
from secondpass.merging.shared import Load, SharedReranker
from secondpass.scoring import Scored

__all__ = ["Load", "MergedBatch", "Scored", "SharedReranker"]
