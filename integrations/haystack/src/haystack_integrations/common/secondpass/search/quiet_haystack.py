"""Haystack imported where it is there, without the usage data that it would send."""

from __future__ import annotations

import os

from secondpass.errors import MissingExtra


def need_haystack() -> None:
    """Import Haystack, without the usage data that it would send over the network.

    Raises:
        MissingExtra: it is not installed.
    """
    os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "false")
    try:
        import haystack  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtra('Haystack is not installed: pip install "secondpass[haystack]"') from error
