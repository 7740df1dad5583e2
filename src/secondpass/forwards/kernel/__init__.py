"""A compiled forward for CPUs: float32, bfloat16, int16 and int8 in the widest instructions the processor has.

Nothing is padded, and each sequence's result is its own: its logits are the same numbers, bit for bit, whatever else is
in the batch and however many threads compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from ctypes import byref
from typing import Any

import numpy as np
import numpy.typing as npt

from secondpass.forwards.contract import Logits, checked_inputs, end_to_end
from secondpass.forwards.description import Encoder
from secondpass.forwards.kernel import cache, native
from secondpass.forwards.kernel.native import Precision, thread_count
from secondpass.forwards.kernel.weights import POOLINGS, Decode, Floats, PackedWeights, aligned, angles, packed
from secondpass.tokens import Tokens

# Tokens that one thread takes through all layers at a time: weights are read once for them, and their activations
# still fit into the core's own cache.
CHUNK_TOKENS = 384
# With fewer sequences for each thread, threads share a chunk instead.
ENOUGH_EACH = 4
# Rows of a block. Of threads that share a chunk none is started that would have fewer, and where tiles take twice as
# many at once, two blocks are for one thread.
TILE_ROWS, REGISTER_ROWS = 16, 8
ROWS_BEHIND = 32

Bytes = npt.NDArray[np.uint8]


def chunk_ends(lengths: npt.NDArray[np.int64], parts: int) -> npt.NDArray[np.int32]:
    """Split sequences into at most `parts` neighbouring groups of about as many tokens: -> [0, ..., sequences]."""
    if parts == 1:
        return np.array([0, len(lengths)], np.int32)
    ends = np.cumsum(lengths)
    middles = ends - lengths / 2
    group = np.minimum((middles * parts / ends[-1]).astype(np.int64), parts - 1)
    changes = np.flatnonzero(np.diff(group)) + 1
    return np.concatenate([[0], changes, [len(lengths)]]).astype(np.int32)


def evenly(lengths: npt.NDArray[np.int64], parts: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Split sequences into groups of as even numbers of tokens as it goes, wherever they stand.

    The longest first, each to the group that has the fewest tokens so far (Graham 1969).

    Returns:
        The order in which groups follow each other, and where they end in it: [0, ..., sequences].
    """
    sums, groups = [0] * parts, [list[int]() for _ in range(parts)]
    for place in np.argsort(-lengths, kind="stable").tolist():
        fewest = sums.index(min(sums))
        sums[fewest] += int(lengths[place])
        groups[fewest].append(place)
    ends = np.cumsum([0, *map(len, filter(None, groups))])
    return np.concatenate(groups).astype(np.int64), ends.astype(np.int32)


class KernelEncoder:
    """The forward of one encoder at one precision.

    Copies share its weights. With `layers` it is computed by the first of its layers alone, in the thread that asks.
    """

    def __init__(self, weights: PackedWeights, layers: int | None = None) -> None:
        self._weights = weights
        self._model = native.ModelStruct.from_buffer_copy(weights.model)
        self._layers = layers
        if layers is not None:
            self._model.layer_count = layers
        self._routine = weights.routine
        self._turns: list[Floats] = []
        # Memory of calls that ended; popping and appending are atomic.
        self._spare: list[Bytes] = []

    @property
    def instructions(self) -> str:
        """Of the processor, by which it computes."""
        return self._routine.instructions

    def __copy__(self) -> KernelEncoder:
        return KernelEncoder(self._weights, self._layers)

    def __deepcopy__(self, memo: object) -> KernelEncoder:
        return copy(self)

    def __reduce__(self) -> tuple[Any, ...]:
        routine, words = self._routine, self._weights.words
        decode = None if words is None else words.decode
        return _unpickled, (cache.to_bytes(self._weights), routine.precision, routine.instructions, decode)

    def shallow(self, share: float) -> KernelEncoder:
        """The first of its layers, about that share of them and one at least; for what it takes, not what it gives."""
        return KernelEncoder(self._weights, max(1, round(share * self._weights.model.layer_count)))

    def kept(self, identity: str) -> KernelEncoder:
        """The same, from where later starts find its weights: `identity` as of `kernel_forward`."""
        return KernelEncoder(cache.kept(identity, self._weights))

    def __call__(self, inputs: Sequence[Tokens]) -> Logits:
        """-> logits float32 [pairs, labels]; where all tokens are read out their states float32 [tokens, hidden].

        Raises:
            InvalidInput: an input is empty, longer than the positions, or has an id or type beyond its table.
        """
        model = self._model
        if not inputs:
            return np.empty((0, model.labels), np.float32)
        lengths, ids, types = checked_inputs(inputs, *self._weights.rows)
        if self._weights.words is not None:
            self._weights.words.read(ids)
        threads = self._threads(int(lengths.sum()))
        together = threads > 1 and len(inputs) < ENOUGH_EACH * threads
        order, ends = self._chunks(lengths, threads, together)
        if order is not None:
            lengths, (ids, types) = lengths[order], end_to_end([inputs[place] for place in order])
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        pairs, width = len(inputs), model.heads * model.head_size
        every = model.pooling == POOLINGS.index("tokens")
        rows = aligned((int(starts[-1]) if every else pairs + ROWS_BEHIND) * model.hidden * 4)
        context = aligned((pairs + ROWS_BEHIND) * width * self._routine.side_bytes)
        logits = np.empty((pairs, model.labels), np.float32)
        turns = self._angles(int(lengths.max()))
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
        if every:
            return self._states(rows, starts, order)
        if order is None:
            return logits
        given = np.empty_like(logits)
        given[order] = logits
        return given

    def _states(self, rows: Bytes, starts: npt.NDArray[np.int32], order: npt.NDArray[np.int64] | None) -> Floats:
        """The states of all tokens in the order of the inputs, without what widened them."""
        model = self._weights.model
        width = model.final_norm.count or model.layers[0].output_norm.count
        states = rows.view(np.float32).reshape(-1, model.hidden)[:, :width]
        if order is None:
            return states
        parts = np.split(states, starts[1:-1])
        return np.concatenate([parts[place] for place in np.argsort(order)])

    def _angles(self, longest: int) -> list[Floats]:
        """Of at least as many positions, for each kind of layer that turns queries and keys."""
        made, frequencies = self._turns, self._weights.frequencies
        if frequencies and (not made or len(made[0]) < longest):
            positions, width = 1 << (longest - 1).bit_length(), self._weights.model.head_size // 2
            made = self._turns = [angles(own, positions, width) for own in frequencies]
        return made

    def _threads(self, tokens: int) -> int:
        """No more than have work; one where a second would win nothing."""
        block = TILE_ROWS if self._routine.instructions == "amx" else REGISTER_ROWS
        at_once = 2 * block if block == TILE_ROWS and not self._routine.digits else block
        return 1 if tokens <= at_once or self._layers is not None else min(thread_count(), -(-tokens // block))

    @staticmethod
    def _chunks(
        lengths: npt.NDArray[np.int64], threads: int, together: bool
    ) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.int32]]:
        """The order of sequences, None: as they are, and where chunks end in it."""
        parts = -(-int(lengths.sum()) // CHUNK_TOKENS)
        if together:
            return None, chunk_ends(lengths, -(-parts // threads))
        if 1 < threads >= parts:
            return evenly(lengths, threads)  # a chunk for each thread: none can take another's
        return None, chunk_ends(lengths, -(-parts // threads) * threads)

    def _memory(self, size: int) -> Bytes:
        try:
            memory = self._spare.pop()
        except IndexError:
            return aligned(size)
        return memory if len(memory) >= size else aligned(size)


def _unpickled(content: Any, precision: Precision, instructions: str, decode: Decode | None) -> KernelEncoder:
    routine = native.named(precision, instructions)
    return KernelEncoder(cache.from_bytes(np.frombuffer(content, np.uint8), routine, decode))


def kernel_forward(
    encoder: Callable[[], Encoder],
    precision: Precision,
    identity: str | None = None,
    decode: Decode | None = None,
    keep: bool = False,
) -> KernelEncoder | str:
    """The kernel's forward of an encoder, or a sentence that says why it cannot be had.

    Args:
        encoder: gives one that is not `weights.unsupported`, as `weights.packed` takes it; not called where packed
            weights of that identity lie in the cache.
        precision: of the computation.
        identity: stands for all that `encoder` is made from, weights and config; None: nothing is looked for in the
            cache.
        decode: of the words of a compact model, see `weights.CompactWords`.
        keep: what is packed here is put into the cache, as `KernelEncoder.kept` does later.
    """
    routine = native.find(precision)
    if isinstance(routine, str):
        return routine  # before a weight is read in vain
    if identity is not None:
        weights = cache.weights(identity, routine, decode)
        if weights is not None:
            return KernelEncoder(weights)
    made = KernelEncoder(packed(encoder(), routine))
    return made if identity is None or not keep else made.kept(identity)
