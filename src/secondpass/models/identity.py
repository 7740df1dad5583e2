"""Which model it is that something was measured on: the digest of its weights, and its logits for sample pairs.

What was measured stands in a file of the model's folder, with both. Weights that were written anew, in another type or
another number of files, have another digest and nearly the same logits.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from secondpass.calibration import FILE, Calibration
from secondpass.errors import InvalidInput, ModelLoadError, SecondPassError
from secondpass.forwards.kernel.cache import digest_of
from secondpass.forwards.precision import SAMPLE_DOCUMENTS, SAMPLE_QUERIES
from secondpass.models.folders import whole
from secondpass.models.modules import stored_weights

logger = logging.getLogger(__name__)

# Logits of one model by another routine, precision or machine differ by less than this share of their spread.
SAME = 0.05
GO_ON = f"delete {FILE} to go on without probabilities, or calibrate again with `secondpass calibrate`"


def marks_of(model: Any, instruction: str | None = None) -> tuple[float, ...]:
    """A `Reranker`'s logits for the sample pairs, of several labels the first one's; None: told what it always is."""
    labels = None if model.num_labels == 1 else 0
    pairs = [[document] for document in SAMPLE_DOCUMENTS]
    found = model.rank_many(SAMPLE_QUERIES, pairs, relevance=labels, instruction=instruction, show_progress_bar=False)
    return tuple(ranking.documents[0].logit for ranking in found)


def agree(found: Sequence[float], stored: Sequence[Any]) -> bool:
    """Whether these are the marks of one model."""
    exact = np.asarray(stored, np.float64)
    return len(exact) == len(found) and bool((np.abs(exact - found) <= SAME * np.ptp(exact)).all())


def is_known(model: Any, marks: Sequence[Any], instruction: str | None = None, told: bool = False) -> bool:
    """Whether a `Reranker` has these marks, as it is or told `instruction`, which is said to those with a place.

    With `told` such a one has to have them when it is told.
    """
    wishes = [instruction] if instruction is not None and model.takes_instruction else []
    return any(agree(marks_of(model, wish), marks) for wish in (wishes if told and wishes else [None, *wishes]))


def weights_digest(folder: Path, variant: str | None = None) -> str | None:
    """Of the files that a folder's model is loaded from; None where they cannot be read."""
    with suppress(OSError, ModelLoadError):
        return digest_of(stored_weights(folder, variant))
    return None


def stored_calibration(folder: Path, variant: str | None = None) -> Calibration | None:
    """That of a model's folder; its `weights` are None unless they are those of the folder.

    Raises:
        ModelLoadError: the file is none of a calibration; the message says how to go on.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        made = Calibration.load(file)
    except InvalidInput as error:
        raise ModelLoadError(f"{error}; {GO_ON}") from error
    if made.weights is not None and made.weights == weights_digest(folder, variant):
        return made
    if made.marks is None:
        raise ModelLoadError(f"{file} is of other weights than those beside it: {GO_ON}")
    return replace(made, weights=None)


def check_marks(
    calibration: Calibration, model: Any, error: type[SecondPassError] = InvalidInput, instruction: str | None = None
) -> None:
    """Raise `error` for a calibration of another model, where it says by what its own is known (`is_known`)."""
    if calibration.marks is None or is_known(model, calibration.marks, instruction):
        return
    differences = calibration.conditions and model.conditions().differences(calibration.conditions)
    read = f" ({', '.join(differences.values())})" if differences else ""
    raise error(
        f"{model.name} has a calibration of another model ({calibration.model or 'no name'}), whose logits for sample "
        f"pairs are others{read}: {GO_ON}"
    )


def own_calibration(model: Any) -> Calibration | None:
    """The calibration of a `Reranker` that is about to be saved; none, with a warning, where its weights are others."""
    calibration: Calibration = model.calibration
    if calibration.marks is None or agree(marks_of(model), calibration.marks):
        return calibration
    logger.warning("%s has other weights than those that were calibrated: saved without probabilities", model.name)
    return None


def put_calibration(folder: Path, calibration: Calibration, *, rounded: bool = False) -> None:
    """Write it into a folder beside the weights that it is of; `rounded` ones are known by their logits alone."""
    folder = whole(folder)
    replace(calibration, weights=None if rounded else weights_digest(folder)).save(folder)
