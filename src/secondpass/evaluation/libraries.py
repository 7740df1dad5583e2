"""Libraries of the eval extra, imported when they are first needed: they take seconds."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from secondpass.errors import MissingExtra


def ir_measures() -> Any:
    """The module `ir_measures`.

    Raises:
        MissingExtra: it is not installed.
    """
    return _module("ir_measures", "ir_measures")


def scikit_metrics() -> Any:
    """The module `sklearn.metrics`.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    return _module("sklearn.metrics", "scikit-learn")


def scipy_stats() -> Any:
    """The module `scipy.stats`.

    Raises:
        MissingExtra: scipy is not installed.
    """
    return _module("scipy.stats", "scipy")


def _module(name: str, library: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra(f'{library} is not installed: pip install "secondpass[eval]"') from error
