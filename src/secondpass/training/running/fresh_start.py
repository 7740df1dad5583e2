"""A folder made ready for a run that begins anew."""

from __future__ import annotations

import os
from pathlib import Path

from secondpass.errors import CheckpointError
from secondpass.training.running.checkpointing import FOLDER
from secondpass.training.survival.files import remove_folder


def forget_checkpoints(folder: str | os.PathLike[str]) -> None:
    """Remove the checkpoints of earlier runs in an output folder; the model, log and card in it stay until replaced.

    The caller holds the folder's `RunLock`.

    Raises:
        CheckpointError: they cannot be removed.
    """
    checkpoints = Path(folder) / FOLDER
    if not checkpoints.is_dir():
        return
    try:
        remove_folder(checkpoints, checkpoints.with_name(f".removed-{FOLDER}"))
    except OSError as error:
        raise CheckpointError(f"{checkpoints} cannot be removed: {error.strerror or error}") from error
