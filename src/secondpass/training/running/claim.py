"""One training at a time on one cross-encoder, and a folder for what it makes."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from secondpass.errors import CheckpointError, InvalidInput, SecondPassError

logger = logging.getLogger(__name__)

_CLAIMING = threading.Lock()


@contextmanager
def claimed(encoder: Any) -> Iterator[None]:
    """Make other threads' calls fail instead of meeting dropout; leave the model ready to score.

    Raises:
        SecondPassError: `encoder` is closed, or being trained already.
    """
    if encoder.model is None:
        raise SecondPassError("this CrossEncoder is closed: load the model again")
    with _CLAIMING:
        if encoder.training_thread is not None:
            raise SecondPassError("this CrossEncoder is being trained already")
        encoder.training_thread = threading.get_ident()
    model = encoder.model
    try:
        yield
    finally:
        model.zero_grad()
        model.eval()
        encoder.training_thread = None


def trainable_weights(model: Any) -> tuple[nn.Parameter, ...]:
    """All weights, for clipping; frozen ones have no gradient.

    Raises:
        InvalidInput: all are frozen, or they are too coarse to be trained.
    """
    weights = tuple(model.parameters())
    if not any(weight.requires_grad for weight in weights):
        raise InvalidInput("every parameter of the model is frozen: there is nothing to train")
    types = {weight.dtype for weight in weights if weight.requires_grad}
    if torch.float16 in types:
        raise InvalidInput("the weights are float16, too coarse to train: load them in float32, with use_amp=True")
    if torch.bfloat16 in types:
        logger.warning("the weights are bfloat16: small steps are rounded away; load them in float32, with use_amp")
    return weights


def make_folder(path: str | os.PathLike[str] | None, argument: str = "output_path") -> None:
    """Make a folder if it is missing.

    Raises:
        CheckpointError: `path` is no folder; the message names `argument`.
    """
    if path is None:
        return
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{argument} {path} cannot be made: {error.strerror}") from error
