"""An encoder's weights in the order in which a routine reads them, made once per model and precision."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from secondpass.forwards import description as described
from secondpass.forwards.description import Encoder
from secondpass.forwards.kernel import native
from secondpass.forwards.kernel.native import Routine

Kind = Literal["fp32", "bf16", "int16", "int8", "digits"]
"""What a matrix is multiplied as."""
Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]
Decode = Callable[..., Floats]

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "tanh", "none")
POOLINGS = ("first", "mean", "max", "last", "tokens")
WIDTH_STEP = 64
HEAD_STEP = 32
# Depth of weights and activations that shares a scale where they are integers. Also the part of the feed-forward's
# width that is computed at a time, so that operands of both products stay in the first cache.
SEGMENT = 384
# The largest weight as an integer: of 24 bits the first digit stays below 128; of words, the products with rows up to
# 4095 add up over a segment to less than 2^31. Of bytes a routine says it.
LARGEST: dict[Kind, float] = {"int16": 1365, "digits": 127.4 * 65536}
# values of one dword
GROUP: dict[Kind, int] = {"fp32": 1, "bf16": 2, "int16": 2, "int8": 4, "digits": 4}
# What addresses are a multiple of: the widest register's bytes, and a line of the cache.
ALIGNED = 64
# Weights that are brought into order at a time: what is made of them on the way stays in the core's own cache.
BLOCK = 1 << 16


def up_to(size: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-size // step) * step


def aligned(size: int) -> npt.NDArray[np.uint8]:
    """Memory of that many bytes, not filled, at a multiple of `ALIGNED`."""
    made = np.empty(size + ALIGNED, np.uint8)
    start = -made.ctypes.data % ALIGNED
    return made[start : start + size]


def widened(values: Floats, *sizes: int) -> Floats:
    """A contiguous array with zeros behind the end of each dimension; itself if it is one already."""
    if values.shape == sizes:
        return np.require(values, requirements=("C", "A"))
    made = np.zeros(sizes, np.float32)
    made[tuple(map(slice, values.shape))] = values
    return made


def bfloat16(values: Floats) -> npt.NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to the even one; what is no number stays none."""
    bits = values.view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    made = rounded.astype(np.uint16)
    odd = np.isnan(values)
    if odd.any():
        made[odd] = 0xFFFF
    return made


def put(values: Array, panels: npt.NDArray[np.uint32]) -> None:
    """Values [columns, depth] as dwords of neighbours along the depth into [columns / panel, ..., panel]."""
    dwords = np.ascontiguousarray(values).view(np.uint32)
    panels[...] = np.moveaxis(dwords.reshape(panels.shape[0], panels.shape[-1], *panels.shape[1:-1]), 1, -1)


def alternating(halves: Floats, lanes: int) -> Floats:
    """[..., 2, rows, depth] -> [..., 2 * rows, depth]: `lanes` rows of each half in turn."""
    *outer, _, rows, depth = halves.shape
    registers = halves.reshape(*outer, 2, rows // lanes, lanes, depth)
    return registers.swapaxes(-4, -3).reshape(*outer, 2 * rows, depth)


def angles(frequencies: Floats, positions: int, width: int) -> Floats:
    """Cosines and sines [positions, 2, width] of positions times frequencies; zeros behind those.

    Angles are rounded to float32 as the model rounds them; their cosines are computed in float64, so that the size of a
    table does not show in its numbers.
    """
    exact = (np.arange(positions, dtype=np.float32)[:, None] * frequencies).astype(np.float64)
    made = np.zeros((positions, 2, width), np.float32)
    made[:, 0, : len(frequencies)], made[:, 1, : len(frequencies)] = np.cos(exact), np.sin(exact)
    return made


def largest_along(values: Floats, axis: int) -> Floats:
    """The largest size along an axis, without a copy of all sizes; NaN where one is NaN."""
    largest: Floats = np.maximum(values.max(axis), -values.min(axis))
    return largest


def smoothing(weight: Floats) -> Floats:
    """Powers of two [depth] near the root of the largest weight of each depth; 1 where all are 0.

    Weights divided by them and activations multiplied by them give the same products: a channel of large activations
    with small weights then sets the scale of its row less. For digits alone: int8 was less faithful with it.
    """
    largest = largest_along(weight, 0)
    usable = np.isfinite(largest) & (largest > 0)
    # in float64: float32's logarithm is rounded in more than one way
    halves = np.log2(np.where(usable, largest, 1).astype(np.float64)).astype(np.float32) / np.float32(2)
    powers: Floats = np.ldexp(np.float32(1), np.rint(halves).clip(-60, 60).astype(np.int32))
    return powers


def segments(weight: Floats) -> Floats:
    """[columns, depth] -> [columns, segments, SEGMENT], zeros behind the end."""
    columns, depth = weight.shape
    return widened(weight, columns, up_to(depth, SEGMENT)).reshape(columns, -1, SEGMENT)


def steps_of(parts: Floats, largest: float) -> Floats:
    """Scales [columns, segments] that make `largest` of the largest weight; NaN where a weight is not finite."""
    most = largest_along(parts, 2)
    steps = np.where(np.isfinite(most), most / np.float32(largest), np.float32(np.nan))
    return np.where(most == 0, np.float32(1), steps)


def whole_numbers(parts: Floats, steps: Floats) -> Floats:
    """[columns, segments, depth] in steps of each segment, rounded; 0 for all of one whose step is no number."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        whole: Floats = parts / steps[:, :, None]
    if not (np.isfinite(steps) & (steps > 0)).all():
        whole[~np.isfinite(whole)] = 0
    np.rint(whole, out=whole)
    return whole


def digits_of(whole: npt.NDArray[np.int32]) -> npt.NDArray[np.int8]:
    """int32 of 24 bits -> three signed digits int8 [3, ...], the highest first."""
    middle = 0x808080
    digits = ((whole + middle) ^ middle)[..., None].view(np.int8)  # as bytes lie on these processors, the lowest first
    return np.stack([digits[..., place] for place in (2, 1, 0)])


class CompactWords:
    """The table of words of a compact model: a row becomes float32 when a text first has its word.

    A model has more words than all else, and texts have few of them: what nobody reads costs neither time nor memory.
    Any number of threads may ask; they write the same numbers.

    Args:
        parts: numbers and scales, a row for each word; never written to.
        decode: some rows of them to float32 [rows, at most `width`].
        width: of a row of the table; zeros behind what is decoded.
    """

    def __init__(self, parts: tuple[Array, ...], decode: Decode, width: int) -> None:
        self.parts, self.decode, self.width = parts, decode, width
        rows = len(parts[0])
        # numpy's own memory would come in pages of 2 MB, with all the rows beside the one that is asked for
        memory = mmap.mmap(-1, rows * width * 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._table = np.frombuffer(memory, np.float32).reshape(rows, width)
        self._known = np.zeros(rows, np.bool_)

    @property
    def address(self) -> int:
        """Of the table, for the library."""
        return int(self._table.ctypes.data)

    def read(self, ids: npt.NDArray[np.int32]) -> None:
        """Have the rows of these words."""
        missing = ids[~self._known[ids]]
        if len(missing):
            rows = np.flatnonzero(np.bincount(missing))  # np.unique would import numpy.ma for it
            values = self.decode(*(part[rows] for part in self.parts))
            self._table[rows, : values.shape[1]] = values
            self._known[rows] = True


@dataclass(frozen=True, slots=True)
class PackedWeights:
    """An encoder's weights in the order of a routine: all that a forward is computed from.

    Attributes:
        model: for the library; its pointers point into `arrays`, and into `words` where there are such.
        arrays: never written to; others may share them. The parts of `words` are among them.
        frequencies: of each kind of layer that turns queries and keys.
        rows: of the tables of words, positions and types; None where there is no such table.
        words: to be read before the library reads them; None: they are in `arrays`.
    """

    routine: Routine
    model: native.ModelStruct
    arrays: tuple[Array, ...]
    frequencies: tuple[Floats, ...]
    rows: tuple[int, int | None, int | None]
    words: CompactWords | None = None


def with_numbers(encoder: Encoder) -> Encoder:
    """A folder's encoder with its weights read, but for the words of a compact one, see `CompactWords`."""
    words = encoder.embeddings.words

    def read(weight: described.Array) -> described.Array:
        stays = weight is words and getattr(words, "compact", None) is not None
        return weight if stays else np.asarray(weight)

    return described.mapped(encoder, read)


def packed(encoder: Encoder, routine: Routine) -> PackedWeights:
    """An encoder of `with_numbers`; tables are shared where their width is a multiple of 64, the rest is copied."""
    return _Packing(encoder, routine).done()


class _Packing:
    """One encoder on its way into the order of one routine."""

    def __init__(self, encoder: Encoder, routine: Routine) -> None:
        self._encoder = encoder
        self._routine = routine
        self._kept: list[Array] = []
        self._words: CompactWords | None = None
        self._hidden = up_to(encoder.hidden, WIDTH_STEP)
        # of the widest: layers that were pruned are narrower
        self._inner = up_to(max(layer.down.weight.shape[1] for layer in encoder.layers), WIDTH_STEP)
        self._embedding = up_to(encoder.embeddings.words.shape[1], WIDTH_STEP)
        self._size = encoder.hidden // encoder.heads
        self._head_size = up_to(self._size, HEAD_STEP)
        # half a panel: a register
        self._lanes = routine.panel // 2
        self._kind: Kind = "digits" if routine.digits else routine.precision
        # attention's output, too
        side: Kind = "int16" if routine.words else "fp32"
        self._out_kind: Kind = "bf16" if routine.side_bytes == 2 else self._kind if routine.digits else side
        found = {turned.tobytes(): turned for layer in encoder.layers if (turned := layer.frequencies) is not None}
        self._frequencies = tuple(found.values())

    def done(self) -> PackedWeights:
        """All of it."""
        embeddings = self._encoder.embeddings
        positions = None if embeddings.positions is None else len(own_positions(embeddings))
        rows = len(embeddings.words), positions, None if embeddings.types is None else len(embeddings.types)
        model = self._model()
        return PackedWeights(self._routine, model, tuple(self._kept), self._frequencies, rows, self._words)

    def _model(self) -> native.ModelStruct:
        encoder, embeddings, readout = self._encoder, self._encoder.embeddings, self._encoder.readout
        layers = (native.LayerStruct * len(encoder.layers))(*map(self._layer, encoder.layers, self._below()))
        steps = (native.StepStruct * len(readout.steps))(*self._steps(readout))
        return native.ModelStruct(
            words=self._word_table(embeddings.words),
            positions=None if embeddings.positions is None else self._table(own_positions(embeddings)),
            types=None if embeddings.types is None else self._table(embeddings.types),
            embedding_norm=self._norm(embeddings.norm, self._embedding),
            projection=self._optional(embeddings.projection, self._hidden, self._embedding),
            layers=layers,
            final_norm=self._norm(encoder.final_norm, self._hidden),
            steps=steps,
            layer_count=len(encoder.layers),
            step_count=len(steps),
            embedding=self._embedding,
            hidden=self._hidden,
            heads=encoder.heads,
            head_size=self._head_size,
            inner=self._inner,
            labels=readout.labels,
            widest=max((step.width for step in steps), default=self._hidden),
            activation=ACTIVATIONS.index(encoder.activation),
            norm_first=encoder.final_norm is not None,
            gated=encoder.gated,
            pooling=POOLINGS.index(readout.pooling),
            segment=SEGMENT,
            score_scale=1.0 / math.sqrt(self._size),
        )

    def _pointer(self, array: Array) -> int:
        self._kept.append(array)
        return int(array.ctypes.data)

    def _word_table(self, words: described.Array) -> int:
        if not isinstance(words, described.StoredArray) or words.compact is None:
            return self._table(words)
        parts = tuple(np.ascontiguousarray(part) for part in words.compact.parts())
        self._kept += parts
        self._words = CompactWords(parts, words.compact.decode, self._embedding)
        return self._words.address

    def _table(self, rows: Floats) -> int:
        return self._pointer(widened(rows, len(rows), self._embedding))

    def _norm(self, norm: described.Norm | None, width: int) -> native.NormStruct:
        if norm is None:
            return native.NormStruct()
        weight, bias = widened(norm.weight, width), _bias(norm, width)
        return native.NormStruct(self._pointer(weight), self._pointer(bias), norm.eps, len(norm.weight))

    def _below(self) -> Iterator[tuple[described.Norm | None, described.Norm | None]]:
        """Of each layer, the norms whose values its queries, keys and values, and its inner values are products of."""
        embeddings = self._encoder.embeddings
        before = embeddings.norm if embeddings.projection is None else None
        for layer in self._encoder.layers:
            if self._encoder.final_norm is None:
                yield before, layer.attention_norm
                before = layer.output_norm
            else:
                yield before if layer.attention_norm is None else layer.attention_norm, layer.output_norm
                before = None

    def _layer(
        self, layer: described.Layer, below: tuple[described.Norm | None, described.Norm | None]
    ) -> native.LayerStruct:
        heads, size, head_size, hidden = self._encoder.heads, self._size, self._head_size, self._hidden
        width, kind = heads * head_size, self._kind
        turned = layer.frequencies
        qkv, qkv_bias = self._by_heads(layer.qkv, turned is not None)
        up, up_bias = self._inner_rows(layer.up)
        out = widened(layer.attention_out.weight.reshape(-1, heads, size), hidden, heads, head_size)
        out = out.reshape(hidden, width)
        out_width = up_to(width, WIDTH_STEP) if self._routine.digits else width
        return native.LayerStruct(
            qkv=self._matrix(qkv, qkv_bias, kind, below[0]),
            out=self._matrix(
                widened(out, hidden, out_width),
                _bias(layer.attention_out, hidden),
                self._out_kind,
            ),
            up=self._matrix(up, up_bias, kind, below[1]),
            down=self._linear(layer.down, hidden, self._inner, kind),
            attention_norm=self._norm(layer.attention_norm, hidden),
            output_norm=self._norm(layer.output_norm, hidden),
            window=-1 if layer.window is None else layer.window,
            rotation=-1
            if turned is None
            else [turned.tobytes() == own.tobytes() for own in self._frequencies].index(True),
        )

    def _by_heads(self, qkv: described.Linear, turned: bool) -> tuple[Floats, Floats]:
        """Weight and bias of queries, keys and values, each head widened; halves alternate where they are turned."""
        heads, size, wide = self._encoder.heads, self._size, self._head_size

        def placed(rows: Floats, depth: int) -> Floats:
            if not turned:
                return widened(rows.reshape(3 * heads, size, -1), 3 * heads, wide, depth).reshape(-1, depth)
            values = widened(rows[2 * heads * size :].reshape(heads, size, -1), heads, wide, depth)
            halves = rows[: 2 * heads * size].reshape(2 * heads, 2, size // 2, -1)
            asked = alternating(widened(halves, 2 * heads, 2, wide // 2, depth), self._lanes)
            return np.concatenate([asked.reshape(-1, depth), values.reshape(-1, depth)])

        bias = placed(_bias(qkv, 3 * heads * size)[:, None], 1)[:, 0]
        return placed(qkv.weight, self._hidden), np.ascontiguousarray(bias)

    def _inner_rows(self, up: described.Linear) -> tuple[Floats, Floats]:
        """Weight and bias of inner values; gates alternate with them."""
        parts = 2 if self._encoder.gated else 1

        def placed(rows: Floats, depth: int) -> Floats:
            wide = widened(rows.reshape(parts, -1, rows.shape[1]), parts, self._inner, depth)
            return wide[0] if parts == 1 else alternating(wide, self._lanes)

        bias = placed(_bias(up, len(up.weight))[:, None], 1)[:, 0]
        return placed(up.weight, self._hidden), np.ascontiguousarray(bias)

    def _steps(self, readout: described.Readout) -> Iterator[native.StepStruct]:
        width = self._hidden
        for step in readout.steps:
            depth, width = width, width if step.linear is None else up_to(len(step.linear.weight), WIDTH_STEP)
            yield native.StepStruct(
                linear=self._optional(step.linear, width, depth),
                norm=self._norm(step.norm, width),
                width=width,
                activation=ACTIVATIONS.index(step.activation),
                normalise=step.unit,
            )

    def _optional(self, linear: described.Linear | None, columns: int, depth: int) -> native.MatrixStruct:
        return native.MatrixStruct() if linear is None else self._linear(linear, columns, depth, "fp32")

    def _linear(self, linear: described.Linear, columns: int, depth: int, kind: Kind) -> native.MatrixStruct:
        return self._matrix(widened(linear.weight, columns, depth), _bias(linear, columns), kind)

    def _matrix(
        self, weight: Floats, bias: Floats, kind: Kind, below: described.Norm | None = None
    ) -> native.MatrixStruct:
        columns, depth = weight.shape
        # half a panel of each digit lies together
        panel = self._lanes if kind == "digits" else self._routine.panel
        made = aligned(columns * depth * {"fp32": 4, "bf16": 2, "int16": 2, "int8": 1, "digits": 3}[kind]).view(
            np.uint32
        )
        scales: dict[str, int] = {}
        if kind not in ("fp32", "bf16"):
            scales = self._integers(weight, made, panel, kind)
            if kind == "int8" and below is not None and below.bias is not None:
                # a norm's bias is the same in every row: without it their ranges are shorter, and what it adds is exact
                change = widened(below.bias, depth)
                with np.errstate(invalid="ignore", over="ignore"):
                    exact = [(weight[part] * change).sum(1, dtype=np.float64) for part in blocks(weight, panel)]
                    bias = (bias + np.concatenate(exact)).astype(np.float32)
                scales["change"] = self._pointer(change)
        else:
            ordered = made.reshape(columns // panel, -1, panel)
            for part in blocks(weight, panel):
                values = bfloat16(weight[part]) if kind == "bf16" else weight[part]
                put(values, ordered[part.start // panel : part.stop // panel])
        return native.MatrixStruct(
            panels=self._pointer(made), bias=self._pointer(bias), columns=columns, groups=depth // GROUP[kind], **scales
        )

    def _integers(self, weight: Floats, made: npt.NDArray[np.uint32], panel: int, kind: Kind) -> dict[str, int]:
        """Put a weight into `made` as integers or digits; gives what else the library must know of them."""
        columns, depth = weight.shape
        digits = kind == "digits"
        smooth = smoothing(weight) if digits else None
        # the digits of 16 groups one after another
        ordered = made.reshape(columns // panel, -1, *((3, 16) if digits else ()), panel)
        steps = np.empty((up_to(depth, SEGMENT) // SEGMENT, columns), np.float32)
        sums = np.empty_like(steps)
        for part in blocks(weight, panel):
            parts = segments(weight[part] if smooth is None else weight[part] / smooth)
            own = steps_of(parts, LARGEST.get(kind, self._routine.most_byte))
            whole = whole_numbers(parts, own)
            steps[:, part], sums[:, part] = own.T, (whole.sum(2) * own).T
            numbers = whole.reshape(len(whole), -1)[:, :depth]
            panels = ordered[part.start // panel : part.stop // panel]
            if digits:
                for place, digit in enumerate(digits_of(numbers.astype(np.int32))):
                    put(digit, panels[:, :, place])
            else:
                put(numbers.astype(kind), panels)
        # only bytes have offsets
        found = {"scale": steps, "sums": sums} if kind == "int8" else {"scale": steps}
        if smooth is not None:
            found = {"scale": steps * np.float32(65536), "change": smooth}
        return {name: self._pointer(array) for name, array in found.items()}


def blocks(weight: Floats, panel: int) -> Iterator[slice]:
    """Whole panels of columns, about `BLOCK` weights at a time."""
    columns, depth = weight.shape
    step = up_to(max(1, BLOCK // depth), panel)
    return (slice(first, min(first + step, columns)) for first in range(0, columns, step))


def _bias(part: described.Linear | described.Norm, size: int) -> Floats:
    """float32 [size], zeros behind its end and where there is none."""
    return np.zeros(size, np.float32) if part.bias is None else widened(part.bias, size)


def own_positions(embeddings: described.Embeddings) -> Floats:
    """Rows for the positions of a sequence.

    Raises:
        ValueError: it has none; see `unsupported`.
    """
    if embeddings.positions is None:
        raise ValueError("an encoder without absolute positions")
    rows: Floats = embeddings.positions[embeddings.first_position :]
    return rows


def unsupported(encoder: Encoder) -> str | None:
    """Say why the kernel cannot compute this encoder; None if it can."""
    turned = all(layer.frequencies is not None for layer in encoder.layers)
    if encoder.buckets is not None or (encoder.embeddings.positions is None and not turned):
        return "the kernel has no relative positions"
    if turned and encoder.hidden // encoder.heads % 2:
        return "the kernel turns heads of even sizes only"
    if encoder.readout.late is None and all(step.linear is None for step in encoder.readout.steps):
        return "the kernel reads out through a linear layer"
    for activation in (encoder.activation, *(step.activation for step in encoder.readout.steps)):
        if activation not in ACTIVATIONS:
            return f"the kernel has no activation {activation!r}"
    return None
