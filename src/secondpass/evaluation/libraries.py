"""scikit-learn and scipy, imported when an evaluator first needs them: they take seconds."""

from __future__ import annotations

from typing import Any

from secondpass.errors import MissingExtra


def scikit_metrics() -> Any:
    """The module `sklearn.metrics`.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        import sklearn.metrics as library
    except ImportError as error:
        raise MissingExtra('scikit-learn is not installed: pip install "secondpass[eval]"') from error
    return library


def scipy_stats() -> Any:
    """The module `scipy.stats`.

    Raises:
        MissingExtra: scipy is not installed.
    """
    try:
        import scipy.stats as library
    except ImportError as error:
        raise MissingExtra('scipy is not installed: pip install "secondpass[eval]"') from error
    return library
