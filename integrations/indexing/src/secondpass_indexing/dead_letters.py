"""Refused documents as a JSON Lines file, which is a corpus again once what was wrong is mended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from secondpass.errors import InvalidInput


def write_dead_letters(path: Path, letters: Iterable[Mapping[str, str]]) -> int:
    """Write "_id", "title", "text" and "reason" a line and return how many; without any, no file is made.

    The file appears under its name only when it is whole.

    Raises:
        InvalidInput: it cannot be written.
    """
    unfinished = path.with_name(path.name + ".writing")
    count = 0
    try:
        with unfinished.open("w", encoding="ascii") as stream:
            for letter in letters:
                stream.write(json.dumps(letter, ensure_ascii=True) + "\n")
                count += 1
        if count:
            os.replace(unfinished, path)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def check_free(path: Path) -> None:
    """Refuse to write over the dead letters of an earlier run.

    Raises:
        InvalidInput: something is there.
    """
    if path.exists():
        raise InvalidInput(f"{path}: holds dead letters of an earlier run; index it, move it away or name another file")
