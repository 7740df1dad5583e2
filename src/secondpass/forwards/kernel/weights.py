"""An encoder's weights in the order in which a routine reads them, made once per model and precision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from secondpass.forwards import description as described
from secondpass.forwards.description import Encoder
from secondpass.forwards.kernel import native
from secondpass.forwards.kernel.native import Routine

Kind = Literal["fp32", "bf16", "int8", "digits"]
"""What a matrix is multiplied as."""

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "tanh", "none")
POOLINGS = ("first", "mean", "max", "last")
WIDTH_STEP = 64
HEAD_STEP = 32
# Depth of weights and activations that shares a scale where they are integers. Also the part of the feed-forward's
# width that is computed at a time, so that operands of both products stay in the first cache.
SEGMENT = 384
# The largest weight as an integer; 24 bits whose first digit stays below 128.
LARGEST: dict[Kind, float] = {"int8": 127, "digits": 127.4 * 65536}
# by the bytes of a value
OF_SIZE: dict[int, Kind] = {4: "fp32", 2: "bf16", 1: "int8", 3: "digits"}
# values of one dword
GROUP: dict[Kind, int] = {"fp32": 1, "bf16": 2, "int8": 4, "digits": 4}


def up_to(size: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-size // step) * step


def widened(tensor: torch.Tensor, *sizes: int) -> torch.Tensor:
    """A float32 contiguous tensor with zeros behind the end of each dimension; itself if it is one already."""
    tensor = tensor.detach().to(torch.float32)
    if tensor.shape == sizes:
        return tensor.contiguous()
    made = tensor.new_zeros(sizes)
    made[tuple(map(slice, tensor.shape))] = tensor
    return made


def panels(values: torch.Tensor, panel: int, group: int) -> torch.Tensor:
    """[columns, depth] -> [columns / panel, depth / group, panel, group], contiguous."""
    columns, depth = values.shape
    return values.view(columns // panel, panel, depth // group, group).permute(0, 2, 1, 3).contiguous()


def alternating(halves: torch.Tensor, lanes: int) -> torch.Tensor:
    """[..., 2, rows, depth] -> [..., 2 * rows, depth]: `lanes` rows of each half in turn."""
    *outer, _, rows, depth = halves.shape
    registers = halves.reshape(*outer, 2, rows // lanes, lanes, depth)
    return registers.transpose(-4, -3).reshape(*outer, 2 * rows, depth)


def angles(frequencies: npt.NDArray[np.float32], positions: int, width: int) -> npt.NDArray[np.float32]:
    """Cosines and sines [positions, 2, width] of positions times frequencies; zeros behind those.

    Angles are rounded to float32 as the model rounds them; their cosines are computed in float64, so that the size of a
    table does not show in its numbers.
    """
    exact = (np.arange(positions, dtype=np.float32)[:, None] * frequencies).astype(np.float64)
    made = np.zeros((positions, 2, width), np.float32)
    made[:, 0, : len(frequencies)], made[:, 1, : len(frequencies)] = np.cos(exact), np.sin(exact)
    return made


def smoothing(weight: torch.Tensor) -> torch.Tensor:
    """Powers of two [depth] near the root of the largest weight of each depth; 1 where all are 0.

    Weights divided by them and activations multiplied by them give the same products: a channel of large activations
    with small weights then sets the scale of its row less. For digits alone: int8 was less faithful with it.
    """
    largest = weight.abs().amax(dim=0)
    usable = torch.isfinite(largest) & (largest > 0)
    exponents = (torch.where(usable, largest, torch.ones_like(largest)).log2() / 2).round()
    return torch.where(usable, exponents.clamp(-60, 60).exp2(), torch.ones_like(largest))


def segments(weight: torch.Tensor) -> torch.Tensor:
    """[columns, depth] -> [columns, segments, SEGMENT], zeros behind the end."""
    columns, depth = weight.shape
    return widened(weight, columns, up_to(depth, SEGMENT)).view(columns, -1, SEGMENT)


def steps_of(parts: torch.Tensor, largest: float) -> torch.Tensor:
    """Scales [columns, segments, 1] that make `largest` of the largest weight; NaN where a weight is not finite."""
    most = parts.abs().amax(dim=2, keepdim=True)
    steps = most / largest + (parts * 0).sum(dim=2, keepdim=True)
    return torch.where(most == 0, torch.ones_like(steps), steps)


def digits_of(whole: torch.Tensor) -> torch.Tensor:
    """int32 of 24 bits -> three signed digits int8 [3, ...], the highest first."""
    middle = 0x808080
    bits = (whole + middle) ^ middle
    return torch.stack([(bits >> shift).to(torch.int8) for shift in (16, 8, 0)])


class PackedWeights:
    """An encoder's weights, copied into the order of a routine; float32 tables of words are shared.

    Attributes:
        model: for the library; its pointers point into tensors that are kept here.
    """

    def __init__(self, encoder: Encoder, routine: Routine) -> None:
        self._encoder = encoder
        self._routine = routine
        self._kept: list[object] = []
        self._hidden = up_to(encoder.hidden, WIDTH_STEP)
        self._inner = up_to(encoder.layers[0].down.weight.shape[1], WIDTH_STEP)
        self._embedding = up_to(encoder.embeddings.words.shape[1], WIDTH_STEP)
        self._size = encoder.hidden // encoder.heads
        self._head_size = up_to(self._size, HEAD_STEP)
        # half a panel: a register
        self._lanes = routine.panel // 2
        self._kind: Kind = "digits" if routine.digits else routine.precision
        self._out_kind = OF_SIZE[routine.out_bytes]
        found = {turned.tobytes(): turned for layer in encoder.layers if (turned := layer.frequencies) is not None}
        self._frequencies, self._turns = list(found.values()), list[npt.NDArray[np.float32]]()
        self.model = self._packed()

    def turns(self, longest: int) -> list[npt.NDArray[np.float32]]:
        """Angles of at least as many positions, for each kind of layer that turns queries and keys."""
        made = self._turns
        if self._frequencies and (not made or len(made[0]) < longest):
            positions = 1 << (longest - 1).bit_length()
            made = self._turns = [angles(own, positions, self._head_size // 2) for own in self._frequencies]
        return made

    def _packed(self) -> native.ModelStruct:
        encoder, embeddings, readout = self._encoder, self._encoder.embeddings, self._encoder.readout
        layers = (native.LayerStruct * len(encoder.layers))(*map(self._layer, encoder.layers))
        steps = (native.StepStruct * len(readout.steps))(*self._steps(readout))
        self._kept += [layers, steps]
        return native.ModelStruct(
            words=self._table(embeddings.words),
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
            widest=max(step.width for step in steps),
            activation=ACTIVATIONS.index(encoder.activation),
            norm_first=encoder.final_norm is not None,
            gated=encoder.gated,
            pooling=POOLINGS.index(readout.pooling),
            segment=SEGMENT,
            score_scale=1.0 / math.sqrt(self._size),
        )

    def _pointer(self, tensor: torch.Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _table(self, rows: torch.Tensor) -> int:
        return self._pointer(widened(rows, len(rows), self._embedding))

    def _norm(self, norm: described.Norm | None, width: int) -> native.NormStruct:
        if norm is None:
            return native.NormStruct()
        weight, bias = widened(norm.weight, width), _bias(norm, width)
        return native.NormStruct(self._pointer(weight), self._pointer(bias), norm.eps, len(norm.weight))

    def _layer(self, layer: described.Layer) -> native.LayerStruct:
        heads, size, head_size, hidden = self._encoder.heads, self._size, self._head_size, self._hidden
        width, kind = heads * head_size, self._kind
        turned = layer.frequencies
        qkv, qkv_bias = self._by_heads(layer.qkv, turned is not None)
        up, up_bias = self._inner_rows(layer.up)
        out = widened(layer.attention_out.weight.view(-1, heads, size), hidden, heads, head_size).view(hidden, width)
        out_width = up_to(width, WIDTH_STEP) if self._routine.digits else width
        return native.LayerStruct(
            qkv=self._matrix(qkv, qkv_bias, kind),
            out=self._matrix(widened(out, hidden, out_width), _bias(layer.attention_out, hidden), self._out_kind),
            up=self._matrix(up, up_bias, kind),
            down=self._linear(layer.down, hidden, self._inner, kind),
            attention_norm=self._norm(layer.attention_norm, hidden),
            output_norm=self._norm(layer.output_norm, hidden),
            window=-1 if layer.window is None else layer.window,
            rotation=-1
            if turned is None
            else [turned.tobytes() == own.tobytes() for own in self._frequencies].index(True),
        )

    def _by_heads(self, qkv: described.Linear, turned: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of queries, keys and values, each head widened; halves alternate where they are turned."""
        heads, size, wide = self._encoder.heads, self._size, self._head_size

        def placed(rows: torch.Tensor, depth: int) -> torch.Tensor:
            values = widened(rows[2 * heads * size :].view(heads, size, -1), heads, wide, depth).view(-1, depth)
            if not turned:
                asked = widened(rows[: 2 * heads * size].view(2 * heads, size, -1), 2 * heads, wide, depth)
            else:
                halves = rows[: 2 * heads * size].view(2 * heads, 2, size // 2, -1)
                asked = alternating(widened(halves, 2 * heads, 2, wide // 2, depth), self._lanes)
            return torch.cat([asked.reshape(-1, depth), values])

        bias = placed(_bias(qkv, 3 * heads * size)[:, None], 1)[:, 0]
        return placed(qkv.weight, self._hidden), bias.contiguous()

    def _inner_rows(self, up: described.Linear) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of inner values; gates alternate with them."""
        parts = 2 if self._encoder.gated else 1

        def placed(rows: torch.Tensor, depth: int) -> torch.Tensor:
            wide = widened(rows.view(parts, -1, rows.shape[1]), parts, self._inner, depth)
            return wide[0] if parts == 1 else alternating(wide, self._lanes)

        bias = placed(_bias(up, len(up.weight))[:, None], 1)[:, 0]
        return placed(up.weight, self._hidden), bias.contiguous()

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

    def _matrix(self, weight: torch.Tensor, bias: torch.Tensor, kind: Kind) -> native.MatrixStruct:
        if kind in ("int8", "digits"):
            return self._integers(weight, bias, kind)
        made = panels(weight.to(torch.bfloat16) if kind == "bf16" else weight, self._routine.panel, GROUP[kind])
        columns, depth = weight.shape
        return native.MatrixStruct(
            panels=self._pointer(made), bias=self._pointer(bias), columns=columns, groups=depth // GROUP[kind]
        )

    def _integers(self, weight: torch.Tensor, bias: torch.Tensor, kind: Kind) -> native.MatrixStruct:
        columns, depth = weight.shape
        smooth = smoothing(weight) if kind == "digits" else torch.ones(depth)
        parts = segments(weight / smooth)
        steps = steps_of(parts, LARGEST[kind])
        whole = (parts / steps).nan_to_num(0.0, 0.0, 0.0).round()
        sums = (whole.sum(dim=2) * steps[:, :, 0]).T.contiguous()
        whole = whole.view(columns, -1)[:, :depth].to(torch.int32)
        if kind == "digits":
            # [3, columns / size, 16s of groups, 16, size, 4] -> the digits of 16 groups one after another
            size = self._lanes
            apart = [panels(digit, size, 4).view(columns // size, depth // 64, -1) for digit in digits_of(whole)]
            made = torch.stack(apart, dim=2)
            steps = steps * 65536.0
        else:
            made = panels(whole.to(torch.int8), self._routine.panel, 4)
        return native.MatrixStruct(
            panels=self._pointer(made),
            bias=self._pointer(bias),
            scale=self._pointer(steps[:, :, 0].T.contiguous()),
            sums=self._pointer(sums),
            smoothing=self._pointer(smooth),
            columns=columns,
            groups=depth // 4,
        )


def _bias(part: described.Linear | described.Norm, size: int) -> torch.Tensor:
    """float32 [size], zeros behind its end and where there is none."""
    return torch.zeros(size) if part.bias is None else widened(part.bias, size)


def own_positions(embeddings: described.Embeddings) -> torch.Tensor:
    """Rows for the positions of a sequence.

    Raises:
        ValueError: it has none; see `unsupported`.
    """
    if embeddings.positions is None:
        raise ValueError("an encoder without absolute positions")
    return embeddings.positions[embeddings.first_position :]


def unsupported(encoder: Encoder) -> str | None:
    """Say why the kernel cannot compute this encoder; None if it can."""
    tensors = (encoder.embeddings.words, encoder.layers[0].qkv.weight)
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return "the kernel computes on the CPU"
    turned = all(layer.frequencies is not None for layer in encoder.layers)
    if encoder.buckets is not None or (encoder.embeddings.positions is None and not turned):
        return "the kernel has no relative positions"
    if turned and encoder.hidden // encoder.heads % 2:
        return "the kernel turns heads of even sizes only"
    if all(step.linear is None for step in encoder.readout.steps):
        return "the kernel reads out through a linear layer"
    for activation in (encoder.activation, *(step.activation for step in encoder.readout.steps)):
        if activation not in ACTIVATIONS:
            return f"the kernel has no activation {activation!r}"
    return None
