"""A compiled forward for CPUs: float32, bfloat16 and int8 in the widest instructions the processor has.

Nothing is padded, and each sequence's result is its own: its logits are the same numbers, bit for bit, whatever else is
in the batch and however many threads compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref

import numpy as np
import numpy.typing as npt
import torch

from secondpass.forwards.contract import Logits, checked_inputs
from secondpass.forwards.description import Encoder, mapped
from secondpass.forwards.kernel import native
from secondpass.forwards.kernel.native import Precision, Routine
from secondpass.forwards.kernel.weights import PackedWeights, own_positions, unsupported
from secondpass.tokens import Tokens

# Tokens that one thread takes through all layers at a time: weights are read once for them, and their activations
# still fit into the core's own cache.
CHUNK_TOKENS = 384
# With fewer sequences for each thread, threads share a chunk instead.
ENOUGH_EACH = 4
ROWS_BEHIND = 32
# What addresses are a multiple of: the widest register's bytes, and a line of the cache.
ALIGNED = 64

Bytes = npt.NDArray[np.uint8]


def aligned(size: int) -> Bytes:
    """Memory of that many bytes, not filled, at a multiple of `ALIGNED`."""
    made = np.empty(size + ALIGNED, np.uint8)
    start = -made.ctypes.data % ALIGNED
    return made[start : start + size]


def chunk_ends(lengths: npt.NDArray[np.int64], parts: int) -> npt.NDArray[np.int32]:
    """Split sequences into at most `parts` neighbouring groups of about as many tokens: -> [0, ..., sequences]."""
    ends = np.cumsum(lengths)
    middles = ends - lengths / 2
    group = np.minimum((middles * parts / ends[-1]).astype(np.int64), parts - 1)
    changes = np.flatnonzero(np.diff(group)) + 1
    return np.concatenate([[0], changes, [len(lengths)]]).astype(np.int32)


class KernelEncoder:
    """The forward of one encoder at one precision.

    Args:
        encoder: on the CPU; its word table is shared where it is float32, everything else is copied.
        routine: of `native.find`.
    """

    def __init__(self, encoder: Encoder, routine: Routine) -> None:
        self._routine = routine
        self._packed = PackedWeights(encoder, routine)
        embeddings = encoder.embeddings
        positions = None if embeddings.positions is None else len(own_positions(embeddings))
        types = None if embeddings.types is None else len(embeddings.types)
        self._rows = len(embeddings.words), positions, types
        # Memory of calls that ended; popping and appending are atomic.
        self._spare: list[Bytes] = []

    def __call__(self, inputs: Sequence[Tokens]) -> Logits:
        """-> logits float32 [pairs, labels].

        Raises:
            InvalidInput: an input is empty, longer than the positions, or has an id or type beyond its table.
        """
        model = self._packed.model
        if not inputs:
            return np.empty((0, model.labels), np.float32)
        lengths, ids, types = checked_inputs(inputs, *self._rows)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        threads = torch.get_num_threads()
        together = threads > 1 and len(inputs) < ENOUGH_EACH * threads
        ends = self._chunks(lengths, threads, together)
        pairs, width = len(inputs), model.heads * model.head_size
        rows = aligned((pairs + ROWS_BEHIND) * model.hidden * 4)
        context = aligned((pairs + ROWS_BEHIND) * width * self._routine.side_bytes)
        logits = np.empty((pairs, model.labels), np.float32)
        turns = self._packed.turns(int(lengths.max()))
        rotations = np.array([table.ctypes.data for table in turns], np.uintp)
        call = native.CallStruct(
            ids=ids.ctypes.data,
            types=types.ctypes.data,
            starts=starts.ctypes.data,
            chunks=ends.ctypes.data,
            pairs=pairs,
            chunk_count=len(ends) - 1,
            threads=threads,
            together=together,
            capacity=int(np.diff(starts[ends]).max()),
            rotations=rotations.ctypes.data,
            rows=rows.ctypes.data,
            context=context.ctypes.data,
            logits=logits.ctypes.data,
        )
        library, arguments = self._routine.library, (self._routine.index, byref(model), byref(call))
        memory = self._memory(threads * library.secondpass_memory(*arguments))
        call.memory = memory.ctypes.data
        # other Python threads go on meanwhile
        library.secondpass_run(*arguments)
        self._spare.append(memory)
        return logits

    @staticmethod
    def _chunks(lengths: npt.NDArray[np.int64], threads: int, together: bool) -> npt.NDArray[np.int32]:
        total = int(lengths.sum())
        if together:
            return chunk_ends(lengths, -(-total // (CHUNK_TOKENS * threads)))
        parts = -(-total // CHUNK_TOKENS)
        return chunk_ends(lengths, -(-parts // threads) * threads)

    def _memory(self, size: int) -> Bytes:
        try:
            memory = self._spare.pop()
        except IndexError:
            return aligned(size)
        return memory if len(memory) >= size else aligned(size)


def kernel_forward(encoder: Encoder, precision: Precision) -> KernelEncoder | str:
    """The kernel's forward of this encoder, or a sentence that says why it cannot be had."""
    missing = unsupported(encoder)
    if missing is not None:
        return missing
    routine = native.find(precision)
    if isinstance(routine, str):
        return routine
    # not before: the copy of a half type is large
    return KernelEncoder(mapped(encoder, torch.Tensor.float), routine)
