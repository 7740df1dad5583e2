"""The CSV file that an evaluator appends a row to after each evaluation."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from secondpass.errors import CheckpointError, InvalidInput

Value = int | float | str


def file_name(evaluator: str, name: str, ending: str = "") -> str:
    """EVALUATOR[_NAME]_results[ENDING].csv.

    Raises:
        InvalidInput: `name` cannot be a part of a file name.
    """
    if not isinstance(name, str) or any(mark in name for mark in "/\\\0\r\n"):
        raise InvalidInput(f"name={name!r} cannot stand in a file name")
    return f"{evaluator}{'_' + name if name else ''}_results{ending}.csv"


def append_row(folder: str | os.PathLike[str], file: str, headers: Sequence[str], row: Sequence[Value]) -> None:
    """Add a row to the file in the folder; both are made if missing, a new file begins with the headers.

    Raises:
        InvalidInput: the file has other headers; it is left as it is.
        CheckpointError: the folder or the file cannot be written.
    """
    path = Path(folder) / file
    try:
        os.makedirs(folder, exist_ok=True)
        rows = [row] if _begun(path, headers) else [headers, row]
        # One write, so that a process that is stopped, or another that appends, leaves whole rows.
        with path.open("a", encoding="utf-8", newline="") as stream:
            stream.write(_text(rows))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}") from error


def _begun(path: Path, headers: Sequence[str]) -> bool:
    """Tell if the file has its headers already."""
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        found = next(csv.reader(stream), [])
    if found != list(headers):
        raise InvalidInput(f"{path} has columns {','.join(found)}, not {','.join(headers)}: move it away")
    return True


def _text(rows: Sequence[Sequence[Value]]) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows(rows)
    return stream.getvalue()
