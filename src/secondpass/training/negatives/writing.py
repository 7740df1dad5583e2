"""Mined groups as JSON lines that the data readers read back."""

from __future__ import annotations

from pathlib import Path

from secondpass.evaluation.reporting.files import opened
from secondpass.training.data.groups import checked_target, columns_of, json_line
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
            row = columns_of(group) | {"first_pass_scores": first_pass}
            if rescored:
                row["cross_encoder_scores"] = cross_encoder
            stream.write(json_line(row) + "\n")
