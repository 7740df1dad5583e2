"""One run at a time in one folder.

The kernel holds the lock (flock) and lets go of it when the process ends, however it ends: a lock file left behind
means nothing, and is never removed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from secondpass.errors import CheckpointError, InvalidInput, SecondPassError

NAME = ".run.lock"
# Seconds for the children of a holder that has ended.
PATIENCE = 5.0


class RunLock:
    """An exclusive lock on a folder, held from `__enter__` to `__exit__`.

    Another process, another thread and this very object are refused alike. Children made by fork do not hold it: it is
    free as soon as the process that took it has ended.

    Args:
        folder: made if it is missing; gets the file `NAME`, which holds pid and host while the lock is held.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        """Take the lock, at once or not at all.

        Raises:
            CheckpointError: it is held (the message names pid and host), or the folder cannot be locked.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise CheckpointError(f"{self.folder} cannot be locked: {error.strerror}") from error
        try:
            _lock(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise CheckpointError(f"{self.folder} is in use by {holder}: one run at a time") from None
        except OSError as error:
            os.close(descriptor)
            raise CheckpointError(f"{self.folder} cannot be locked: {error.strerror}") from error
        self._descriptor = descriptor
        _HELD.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the lock."""
        descriptor, self._descriptor = self._descriptor, None
        _HELD.discard(self)
        if descriptor is not None:
            try:
                os.ftruncate(descriptor, 0)
            finally:
                os.close(descriptor)

    def _forget(self) -> None:
        """In a forked child: close its copy of the descriptor, which would hold the lock after the parent's end."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_HELD: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_HELD):
        lock._forget()
    _HELD.clear()


os.register_at_fork(after_in_child=_forget_all)


def _lock(descriptor: int) -> None:
    """Take the kernel's lock.

    A holder that was killed right after it forked leaves a child that has not let go yet and will in a moment: only for
    that child is it worth waiting.

    Raises:
        BlockingIOError: it is held.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not _holder_has_ended(descriptor) or time.monotonic() > end:
                raise
        time.sleep(0.01)


def _holder_has_ended(descriptor: int) -> bool:
    pid, host = _written(descriptor)
    if not pid.isdigit() or host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _holder(descriptor: int) -> str:
    pid, host = _written(descriptor)
    return f"process {pid} on {host}" if pid.isdigit() and host else "another run"


def _written(descriptor: int) -> tuple[str, str]:
    """Pid and host as the holder wrote them."""
    pid, _, host = os.pread(descriptor, 300, 0).decode(errors="replace").strip().partition(" ")
    return pid, host


# ---- One training at a time on one cross-encoder, and a folder for what it makes.
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
