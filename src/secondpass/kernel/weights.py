"""An encoder's weights in the order in which a routine reads them, made once per model and precision."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import get_args

import torch

from secondpass.kernel import native
from secondpass.kernel.native import Precision, Routine
from secondpass.packed import encoder as described
from secondpass.packed.encoder import Encoder

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "tanh", "none")
WIDTH_STEP = 64
HEAD_STEP = 32
# values of one dword
GROUP: dict[Precision, int] = {"fp32": 1, "bf16": 2, "int8": 4}


@dataclass(frozen=True, slots=True)
class PackedWeights:
    """`model` for the library, and the tensors its pointers point into."""

    model: native.Model
    kept: list[object] = field(repr=False)


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


class Packing:
    """Packs the parts of one encoder for one routine."""

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
        self._side: Precision = "fp32" if routine.side_bytes == 4 else "bf16"

    def packed(self) -> PackedWeights:
        """Everything."""
        encoder, embeddings, head = self._encoder, self._encoder.embeddings, self._encoder.head
        layers = (native.Layer * len(encoder.layers))(*map(self._layer, encoder.layers))
        self._kept.append(layers)
        words = widened(embeddings.words, len(embeddings.words), self._embedding)
        positions = widened(
            embeddings.positions[embeddings.first_position :],
            len(embeddings.positions) - embeddings.first_position,
            self._embedding,
        )
        types = None if embeddings.types is None else widened(embeddings.types, len(embeddings.types), self._embedding)
        model = native.Model(
            words=self._pointer(words),
            positions=self._pointer(positions),
            types=None if types is None else self._pointer(types),
            embedding_norm=self._norm(embeddings.norm, self._embedding),
            projection=self._optional(embeddings.projection, self._hidden, self._embedding),
            layers=layers,
            dense=self._optional(head.dense, self._hidden, self._hidden),
            classifier=self._optional(head.out, up_to(len(head.out.weight), self._routine.panel), self._hidden),
            layer_count=len(encoder.layers),
            embedding=self._embedding,
            hidden=self._hidden,
            heads=encoder.heads,
            head_size=self._head_size,
            inner=self._inner,
            labels=len(head.out.weight),
            activation=ACTIVATIONS.index(encoder.activation),
            head_activation=ACTIVATIONS.index(head.activation),
            score_scale=1.0 / math.sqrt(self._size),
        )
        return PackedWeights(model, self._kept)

    def _pointer(self, tensor: torch.Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _norm(self, norm: described.Norm, width: int) -> native.Norm:
        weight, bias = widened(norm.weight, width), widened(norm.bias, width)
        return native.Norm(self._pointer(weight), self._pointer(bias), norm.eps, len(norm.weight))

    def _layer(self, layer: described.Layer) -> native.Layer:
        heads, size, head_size, hidden = self._encoder.heads, self._size, self._head_size, self._hidden
        width = heads * head_size
        qkv = layer.qkv.weight.view(3, heads, size, -1)
        qkv_bias = layer.qkv.bias.view(3, heads, size)
        out = layer.attention_out.weight.view(-1, heads, size)
        precision = self._routine.precision
        return native.Layer(
            qkv=self._matrix(
                widened(qkv, 3, heads, head_size, hidden).view(3 * width, hidden),
                widened(qkv_bias, 3, heads, head_size).view(3 * width),
                precision,
            ),
            out=self._matrix(
                widened(out, hidden, heads, head_size).view(hidden, width),
                widened(layer.attention_out.bias, hidden),
                self._side,
            ),
            up=self._linear(layer.up, self._inner, hidden, precision),
            down=self._linear(layer.down, hidden, self._inner, precision),
            attention_norm=self._norm(layer.attention_norm, hidden),
            output_norm=self._norm(layer.output_norm, hidden),
        )

    def _optional(self, linear: described.Linear | None, columns: int, depth: int) -> native.Matrix:
        return native.Matrix() if linear is None else self._linear(linear, columns, depth, "fp32")

    def _linear(self, linear: described.Linear, columns: int, depth: int, precision: Precision) -> native.Matrix:
        return self._matrix(widened(linear.weight, columns, depth), widened(linear.bias, columns), precision)

    def _matrix(self, weight: torch.Tensor, bias: torch.Tensor, precision: Precision) -> native.Matrix:
        scale = sums = None
        if precision == "int8":
            # A weight that is not finite makes its whole column not a number.
            steps = weight.abs().amax(dim=1) / 127 + weight.sum(dim=1) * 0
            steps = torch.where(steps == 0, torch.ones_like(steps), steps)
            values = (weight / steps[:, None]).nan_to_num(0.0).round().clamp(-127, 127).to(torch.int8)
            scale, sums = self._pointer(steps), self._pointer(values.sum(dim=1) * steps)
        else:
            values = weight.to(torch.bfloat16) if precision == "bf16" else weight
        group = GROUP[precision]
        made = panels(values, self._routine.panel, group)
        return native.Matrix(
            self._pointer(made), self._pointer(bias), scale, sums, len(weight), weight.shape[1] // group
        )


def unsupported(encoder: Encoder) -> str | None:
    """Say why the kernel cannot compute this encoder; None if it can."""
    tensors = (encoder.embeddings.words, encoder.layers[0].qkv.weight)
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return "the kernel computes on the CPU"
    if encoder.activation not in get_args(described.HiddenActivation):
        return f"the kernel has no activation {encoder.activation!r}"
    return None


def pack(encoder: Encoder, routine: Routine) -> PackedWeights:
    """Copy an encoder's weights into the routine's order; float32 tables of words are shared, not copied."""
    return Packing(encoder, routine).packed()
