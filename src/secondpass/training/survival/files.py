"""Files that are on the disk when we say so, and folders that are never seen half removed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any


def write_json(path: Path, content: object) -> None:
    """Write `content` in ASCII; `sync` it afterwards.

    Raises:
        OSError: it cannot be written.
    """
    path.write_text(json.dumps(content) + "\n", encoding="ascii")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON.
    """
    return json.loads(path.read_text(encoding="ascii"))


def sync(path: Path) -> None:
    """Wait until the disk has a file's content, or the names in a folder.

    Raises:
        OSError: the disk is full or broken.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Give a file's SHA-256 in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_folder(folder: Path, removed: Path) -> None:
    """Remove `folder` by way of the name `removed`, so that no kill leaves half of it under its own name.

    Raises:
        OSError: it cannot be removed; it may be gone under its own name already.
    """
    if removed.exists():
        shutil.rmtree(removed)
    folder.rename(removed)
    sync(removed.parent)
    shutil.rmtree(removed)
