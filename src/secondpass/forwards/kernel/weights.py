"""An encoder's weights in the order in which a routine reads them, made once per model and precision."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch

from secondpass.forwards import description as described
from secondpass.forwards.description import Encoder
from secondpass.forwards.kernel import native
from secondpass.forwards.kernel.native import Routine

Kind = Literal["fp32", "bf16", "int8", "digits"]
"""What a matrix is multiplied as."""

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "tanh", "none")
WIDTH_STEP = 64
HEAD_STEP = 32
# Depth of weights and activations that shares a scale where they are integers. Also the part of the feed-forward's
# width that is computed at a time, so that operands of both products stay in the first cache.
SEGMENT = 384
# The largest weight as an integer; 24 bits whose first digit stays below 128.
LARGEST: dict[Kind, float] = {"int8": 127, "digits": 127.4 * 65536}
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
        self._inner = up_to(encoder.layers[0].up.weight.shape[0], WIDTH_STEP)
        self._embedding = up_to(encoder.embeddings.words.shape[1], WIDTH_STEP)
        self._size = encoder.hidden // encoder.heads
        self._head_size = up_to(self._size, HEAD_STEP)
        # attention is float32 where nothing shorter is at hand
        self._kind: Kind = "digits" if routine.digits else routine.precision
        side: Kind = "fp32" if routine.side_bytes == 4 else "bf16"
        self._out_kind: Kind = "digits" if routine.digits else side
        self.model = self._packed()

    def _packed(self) -> native.ModelStruct:
        encoder, embeddings, steps = self._encoder, self._encoder.embeddings, self._encoder.readout.steps
        layers = (native.LayerStruct * len(encoder.layers))(*map(self._layer, encoder.layers))
        self._kept.append(layers)
        return native.ModelStruct(
            words=self._table(embeddings.words),
            positions=self._table(own_positions(embeddings)),
            types=None if embeddings.types is None else self._table(embeddings.types),
            embedding_norm=self._norm(embeddings.norm, self._embedding),
            projection=self._optional(embeddings.projection, self._hidden, self._embedding),
            layers=layers,
            dense=self._optional(steps[0].linear, self._hidden, self._hidden),
            classifier=self._optional(
                steps[1].linear, up_to(encoder.readout.labels, self._routine.panel), self._hidden
            ),
            layer_count=len(encoder.layers),
            embedding=self._embedding,
            hidden=self._hidden,
            heads=encoder.heads,
            head_size=self._head_size,
            inner=self._inner,
            labels=encoder.readout.labels,
            activation=ACTIVATIONS.index(encoder.activation),
            head_activation=ACTIVATIONS.index(steps[0].activation),
            segment=SEGMENT,
            score_scale=1.0 / math.sqrt(self._size),
        )

    def _pointer(self, tensor: torch.Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _table(self, rows: torch.Tensor) -> int:
        return self._pointer(widened(rows, len(rows), self._embedding))

    def _norm(self, norm: described.Norm, width: int) -> native.NormStruct:
        weight, bias = widened(norm.weight, width), _bias(norm, width)
        return native.NormStruct(self._pointer(weight), self._pointer(bias), norm.eps, len(norm.weight))

    def _layer(self, layer: described.Layer) -> native.LayerStruct:
        heads, size, head_size, hidden = self._encoder.heads, self._size, self._head_size, self._hidden
        width, kind = heads * head_size, self._kind
        qkv = widened(layer.qkv.weight.view(3, heads, size, -1), 3, heads, head_size, hidden)
        qkv_bias = widened(_bias(layer.qkv, 3 * heads * size).view(3, heads, size), 3, heads, head_size)
        out = widened(layer.attention_out.weight.view(-1, heads, size), hidden, heads, head_size).view(hidden, width)
        out_width = up_to(width, WIDTH_STEP) if self._routine.digits else width
        return native.LayerStruct(
            qkv=self._matrix(qkv.view(3 * width, hidden), qkv_bias.view(3 * width), kind),
            out=self._matrix(widened(out, hidden, out_width), _bias(layer.attention_out, hidden), self._out_kind),
            up=self._linear(layer.up, self._inner, hidden, kind),
            down=self._linear(layer.down, hidden, self._inner, kind),
            attention_norm=self._norm(layer.attention_norm, hidden),
            output_norm=self._norm(layer.output_norm, hidden),
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
            # [3, columns / panel, 16s of groups, 16, panel, 4] -> the digits of 16 groups one after another
            size = self._routine.panel
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
    if encoder.embeddings.positions is None or encoder.buckets is not None:
        return "the kernel has no relative positions"
    steps, first = encoder.readout.steps, encoder.readout.pooling == "first"
    plain = all(step.linear is not None and step.norm is None and not step.unit for step in steps)
    if not first or not plain or len(steps) != 2 or steps[1].activation != "none":
        return "the kernel has no such readout"
    if encoder.activation not in get_args(described.HiddenActivation):
        return f"the kernel has no activation {encoder.activation!r}"
    return None
