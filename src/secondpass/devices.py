"""Which device a model runs on."""

from __future__ import annotations

import logging

import torch

from secondpass.errors import InvalidInput

logger = logging.getLogger(__name__)


def pick_device(requested: str | torch.device | None) -> torch.device:
    """Return the device asked for, or for None the best present: cuda, mps, npu, hpu, cpu, as the seed picks.

    Raises:
        InvalidInput: the name is no device, or names one that this machine lacks.
    """
    if requested is None:
        device = torch.device(_best())
        logger.info("Use pytorch device: %s", device)
        return device
    if not isinstance(requested, (str, torch.device)):
        raise InvalidInput(f"device is {type(requested).__name__}, not str or torch.device")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise InvalidInput(f"device={requested!r} is no device; say 'cpu', 'cuda', 'cuda:1' or 'mps'") from error
    if not _present(device):
        raise InvalidInput(f"device={str(requested)!r} is not available on this machine")
    return device


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    # Both live in plug-ins of torch that transformers knows how to find.
    from transformers.utils.import_utils import is_torch_hpu_available, is_torch_npu_available

    if is_torch_npu_available():
        return "npu"
    return "hpu" if is_torch_hpu_available() else "cpu"


def _present(device: torch.device) -> bool:
    if device.type == "cuda":
        # A wrong index would fail as late as the first batch, as an assertion on the device.
        return (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return True
