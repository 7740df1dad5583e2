"""Mined groups as JSON lines that the data readers read back."""

from __future__ import annotations

import json
from pathlib import Path

from secondpass.errors import InvalidInput
from secondpass.evaluation.reporting.files import opened
from secondpass.training.negatives.mined import Mined


def write_mined(path: Path, mined: Mined) -> None:
    """Write an object a group; the file is there whole or not at all.

    {"query_id", "query", "documents": [...], "labels": [...], "document_ids": [...], "first_pass_scores": [...]} and,
    if a cross-encoder was asked, "cross_encoder_scores": all lists go with the documents, null where there is no
    score.

    Raises:
        InvalidInput: the path is refused (see `checked_target`), or cannot be written to.
    """
    checked_target(path)
    rescored = any(score is not None for scores in mined.cross_encoder_scores for score in scores)
    with opened(path) as stream:
        rows = zip(mined.groups, mined.first_pass_scores, mined.cross_encoder_scores, strict=True)
        for group, first_pass, cross_encoder in rows:
            row: dict[str, object] = {
                "query_id": group.query_id,
                "query": group.query,
                "documents": group.documents,
                "labels": group.labels,
                "document_ids": group.document_ids,
                "first_pass_scores": first_pass,
            }
            if rescored:
                row["cross_encoder_scores"] = cross_encoder
            stream.write(_line(row) + "\n")


def checked_target(path: Path) -> None:
    """Refuse what groups could not be written to, before there are any.

    Raises:
        InvalidInput: the path is a folder, in none, or its name does not end as that of JSON lines.
    """
    if path.suffix not in (".jsonl", ".ndjson"):
        raise InvalidInput(f"{path}: JSON lines are written, so the name has to end in .jsonl")
    if path.is_dir():
        raise InvalidInput(f"{path}: is a folder, not a file")
    if not path.absolute().parent.is_dir():
        raise InvalidInput(f"{path}: there is no folder {path.absolute().parent}")


def _line(row: dict[str, object]) -> str:
    line = json.dumps(row, ensure_ascii=False, allow_nan=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair: only its escape can be written
        return json.dumps(row, allow_nan=False)
    return line
