"""The second pass over HTTP: `secondpass serve`, and the application for whoever embeds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secondpass.lazy import lazily
from secondpass.serving.settings import require_libraries

if TYPE_CHECKING:
    from secondpass.serving.application import create_app
    from secondpass.serving.settings import Settings

__all__ = ["Settings", "create_app"]

_load = lazily(__name__, {"create_app": "application", "Settings": "settings"})


def __getattr__(name: str) -> Any:
    if name == "create_app":
        require_libraries()
    return _load(name)
