"""What labelled queries say of a reranker's scores: what they mean, and what to do with them.

Importing it loads neither torch nor scikit-learn.
"""

from typing import TYPE_CHECKING

from secondpass.lazy import lazily

if TYPE_CHECKING:
    from secondpass.tuning.probabilities import calibrate, calibration_error, fitted, labelled_run

__all__ = ["calibrate", "calibration_error", "fitted", "labelled_run"]

__getattr__ = lazily(
    __name__, dict.fromkeys(("calibrate", "calibration_error", "fitted", "labelled_run"), "probabilities")
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
