"""What is fitted on a user's labels: which fusion of first passes and reranker wins, and what its scores mean.

Importing it loads neither torch nor scikit-learn.
"""

from typing import TYPE_CHECKING

from secondpass.lazy import lazily

if TYPE_CHECKING:
    from secondpass.evaluation.scores import calibration_error
    from secondpass.tuning.choosing import Tuning, tune
    from secondpass.tuning.probabilities import calibrate, fitted, labelled_run

__all__ = ["Tuning", "calibrate", "calibration_error", "fitted", "labelled_run", "tune"]

__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(("Tuning", "tune"), "choosing"),
        **dict.fromkeys(("calibrate", "calibration_error", "fitted", "labelled_run"), "probabilities"),
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
