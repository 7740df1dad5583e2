"""Libraries of the serve extra, looked for before a module is imported that needs them."""

from __future__ import annotations

from importlib import import_module

from secondpass.errors import MissingExtra

NEEDED = ("fastapi", "prometheus_client", "uvicorn")


def require_libraries() -> None:
    """Check that the service can run.

    Raises:
        MissingExtra: a library of the extra is not installed.
    """
    for name in NEEDED:
        try:
            import_module(name)
        except ImportError as error:
            raise MissingExtra(f'{name} is not installed: pip install "secondpass[serve]"') from error
