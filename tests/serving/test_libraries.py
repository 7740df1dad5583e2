"""Without the extra the service says what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

import secondpass.serving
from secondpass.errors import MissingExtra
from secondpass.serving.libraries import require_libraries


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, the same from the package."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtra, match=r'uvicorn is not installed: pip install "secondpass\[serve\]"'):
        require_libraries()
    monkeypatch.delitem(vars(secondpass.serving), "create_app", raising=False)
    with pytest.raises(MissingExtra):
        _ = secondpass.serving.create_app


def test_settings_need_no_library() -> None:
    """Neither torch nor fastapi is loaded for reading settings."""
    program = (
        "import sys, secondpass.cli.serve, secondpass.serving; secondpass.serving.Settings(); "
        "print(sorted({'torch', 'fastapi', 'uvicorn', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.strip() == "[]"
