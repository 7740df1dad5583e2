"""What is fitted on a user's labels: which fusion of first passes and reranker wins, and what its scores mean.

Importing it loads neither torch nor scikit-learn.
"""

from typing import TYPE_CHECKING

from secondpass.lazy import lazily

if TYPE_CHECKING:
    from secondpass.tuning.choosing import Tuning, tune

__all__ = ["Tuning", "tune"]

__getattr__ = lazily(__name__, {"Tuning": "choosing", "tune": "choosing"})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
