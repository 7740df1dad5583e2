"""A model's dropout replaced by cheap dropout for a run on a CPU, and memory that the run keeps instead of freeing."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from secondpass.forwards.learning.attention import (
    CHUNK_BYTES,
    Chunk,
    DropoutSource,
    Dropping,
    attend,
    dropped,
    levels_dropped,
)
from secondpass.forwards.learning.packed import recomputes

# The name of our attention function among transformers'.
ATTENTION = "secondpass_training"
REPLACED = ("sdpa", "eager")
# Attributes in which attention modules of transformers keep their dropout as a number.
NUMBERS = ("attention_dropout", "attn_dropout", "dropout_prob", "dropout")

_SOURCES: WeakKeyDictionary[nn.Module, DropoutSource] = WeakKeyDictionary()


@contextmanager
def dropout_set_to(model: nn.Module, share: float | None) -> Iterator[None]:
    """Give every dropout of `model` this share, and afterwards its own again; None changes nothing."""
    before: list[tuple[Any, str, float]] = []
    if share is not None:
        for module in model.modules():
            names = ("p",) if isinstance(module, nn.Dropout) else NUMBERS
            found = [name for name in names if isinstance(getattr(module, name, None), float)]
            before += [(module, name, getattr(module, name)) for name in found]
        for module, name, _ in before:
            setattr(module, name, share)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


@contextmanager
def cheap_dropout(model: Any, source: DropoutSource) -> Iterator[None]:
    """Let every `nn.Dropout` of `model`, and dropout in attention, take its random numbers from `source`.

    Only tensors on the CPU, and only while training: scores, and other devices, are what they were. Afterwards
    everything is as before. A model that recomputes activations (`gradient_checkpointing_enable`) keeps torch's
    dropout, whose masks alone are the same the second time.

    Args:
        model: a transformers model.
        source: for this model only: it is the run's random state.
    """
    if recomputes(model):
        yield
        return
    modules = list(model.modules())
    before = [(module, module.__dict__.get("forward")) for module in modules if _drops(module)]
    sources = [(module, _SOURCES.get(module)) for module in modules]
    attention: str | None = model.config._attn_implementation
    try:
        for module, _ in before:
            module.__dict__["forward"] = partial(_forward, module, source)
        for module in modules:
            _SOURCES[module] = source
        # whether the model calls attention functions by name, which transformers knows of its classes, and torch's own
        # can stand for the one that it has: Gemma 2's scores have a soft cap
        replaced = attention in REPLACED and (attention == "sdpa" or getattr(model, "_supports_sdpa", True))
        if replaced and getattr(model, "_can_set_attn_implementation", lambda: False)():
            _register()
            model.config._attn_implementation = ATTENTION
        yield
    finally:
        model.config._attn_implementation = attention
        for module, own in before:
            del module.__dict__["forward"]
            if own is not None:
                module.__dict__["forward"] = own
        for module, earlier in sources:
            _SOURCES.pop(module, None)
            if earlier is not None:
                _SOURCES[module] = earlier


def _drops(module: nn.Module) -> bool:
    return isinstance(module, nn.Dropout) and type(module).forward is nn.Dropout.forward


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, padded_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _forward(module: nn.Dropout, source: DropoutSource, x: torch.Tensor) -> torch.Tensor:
    """What `nn.Dropout` does, with other random numbers."""
    if not module.training or not levels_dropped(module.p):
        return x
    if x.device.type != "cpu" or not x.is_floating_point() or module.inplace:
        return nn.Dropout.forward(module, x)
    return dropped(x, module.p, source)


def padded_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention as transformers calls it: [pairs, heads, width, size] to [pairs, width, heads, size].

    Whatever is not plain attention with gradients on a CPU goes to torch's own; so does float32 without dropout,
    where that is as fast.
    """
    source = _SOURCES.get(module)
    plain = query.shape[1] == key.shape[1] and options.get("position_bias") is None and not _causal(module, options)
    ours = plain and source is not None and torch.is_grad_enabled() and query.device.type == "cpu"
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (part.to(torch.get_autocast_dtype("cpu")) for part in (query, key, value))
    dropout = dropout if levels_dropped(dropout) else 0.0
    if source is None or not ours or (not dropout and query.dtype == torch.float32):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        made: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return made
    pairs, heads, width, size = query.shape
    rows = [part.transpose(1, 2).reshape(-1, heads, part.shape[-1]) for part in (query, key, value)]
    together = max(1, CHUNK_BYTES // (heads * width * width * query.element_size()))
    chunks = []
    for start in range(0, pairs, together):
        end = min(start + together, pairs)
        place = slice(start * width, end * width)
        mask = None if attention_mask is None else attention_mask.expand(pairs, -1, -1, -1)[start:end]
        chunks.append(Chunk(end - start, place, place, (width, width), mask=mask))
    scale = size**-0.5 if scaling is None else scaling
    dropping = Dropping(source, dropout) if dropout else None
    context = attend(rows[0], rows[1], rows[2], chunks, scale, dropping)
    return context.view(pairs, width, heads, size), None


def _causal(module: nn.Module, options: dict[str, Any]) -> bool:
    wanted = options.get("is_causal")
    return bool(getattr(module, "is_causal", True) if wanted is None else wanted)


# ---- Freed memory kept by the process: activations land on pages that are there already.
#
# glibc gives large blocks back to the system as soon as they are freed. A training step frees and takes gigabytes, and
# every page that is taken again costs a fault and 4 KiB of zeros: up to half of a step on a CPU. Names of its malloc.h:
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
NEVER = -1
HEAP_GROWS_BY = 256 * 1024 * 1024  # bytes

_LOCK = threading.Lock()
_kept: bool | None = None


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, from now on; True if it does.

    Blocks come from the heap, which grows by 256 MiB at a time and does not shrink by itself: see `give_back_memory`.
    Holds for the whole process, so it is done once. Memory taken in threads other than the main one is kept as far as
    glibc's own pools for threads go (64 MiB a block). False where the C library is not glibc (musl, macOS, Windows).
    """
    global _kept  # noqa: PLW0603
    with _LOCK:
        if _kept is None:
            mallopt = _function("mallopt")
            settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, HEAP_GROWS_BY))
            # all of them, whatever the first one answers; musl has no mallopt at all
            _kept = mallopt is not None and all([mallopt(name, value) == 1 for name, value in settings])
        return _kept


def give_back_memory() -> bool:
    """Give free pages back to the system, also those between blocks in use; False where there is no such call.

    Batches of many shapes tear holes into the heap, which would grow by gigabytes in an hour: call it every few dozen
    steps and at the end of a run.
    """
    trim = _function("malloc_trim")
    if trim is None:
        return False
    trim(ctypes.c_size_t(0))
    return True


def _function(name: str) -> ctypes._NamedFuncPointer | None:
    """A function of glibc, or None."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return None
    found: ctypes._NamedFuncPointer | None = getattr(library, name, None)
    return found
