"""What the tests of training share: a folder in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory if there is any: syncing a disk takes time, and a kill loses nothing that is not synced."""
    memory = "/dev/shm"  # noqa: S108
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(dir=memory))
    yield made
    shutil.rmtree(made, ignore_errors=True)
