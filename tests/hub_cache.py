"""A model hub's local cache, built by hand: what a download would have left, without any network."""

from __future__ import annotations

import shutil
from pathlib import Path


def commit_id(number: int) -> str:
    """Forty hexadecimal digits, as a commit has."""
    return f"{number:040x}"


def add_to_cache(cache: Path, name: str, folder: str | Path, commit: str, branch: str | None = "main") -> None:
    """Put a copy of `folder` into the cache as `name` at `commit`, and let `branch` point there."""
    repository = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / commit)
    if branch is not None:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
