"""BERT-like encoders without padding: sequences laid end to end, one matrix for every linear layer.

The last layer's work is done for first tokens only, because nothing else of it is read. Modules are the model's own,
so that dropout, low-rank additions and frozen weights are what they are; only attention is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from secondpass.errors import InvalidInput
from secondpass.forwards.attention import ALIKE, Lengths, Packed, alike, pack
from secondpass.forwards.contract import Padding
from secondpass.forwards.families import trainable
from secondpass.forwards.family import TrainableModules
from secondpass.forwards.late import texts_of
from secondpass.forwards.learning.attention import CHUNK_BYTES, Chunk, DropoutSource, Dropping, attend, levels_dropped
from secondpass.forwards.padded import pad, padded_logits
from secondpass.forwards.readout import TextStates
from secondpass.tokens import Tokens


def chunks_of(lengths: Lengths, score_bytes: int, first_only: bool) -> list[Chunk]:
    """Neighbours of like length as chunks of attention.

    Args:
        lengths: longest first.
        score_bytes: of one token's score for one other token, all heads.
        first_only: only first tokens ask.
    """
    starts = np.cumsum(lengths) - lengths
    groups = alike(lengths, ALIKE, lambda length: CHUNK_BYTES // (score_bytes * length * (1 if first_only else length)))
    return [_chunk(lengths[own], own, int(starts[own.start]), first_only) for own in groups]


def _chunk(lengths: Lengths, sequences: slice, row: int, first_only: bool) -> Chunk:
    """One chunk, whose keys begin at `row`."""
    size, longest = len(lengths), int(lengths[0])
    keys = slice(row, row + int(lengths.sum()))
    queries, asking = (sequences, 1) if first_only else (keys, longest)
    if int(lengths[-1]) == longest:
        return Chunk(size, queries, keys, (asking, longest))
    real = np.arange(longest) < lengths[:, None]
    places = torch.from_numpy(np.flatnonzero(real))
    mask = torch.from_numpy(real)[:, None, None, :]
    return Chunk(size, queries, keys, (asking, longest), None if first_only else places, places, mask)


class PackedForward:
    """Model inputs to logits float32 [pairs, labels], with gradients, on a CPU.

    Computes in autocast's type where autocast is on. Equal to transformers' own forward but for rounding.

    Args:
        model: one that `packable` says yes to.
        input_names: of its tokenizer.
        source: of attention's dropout; elsewhere the model's own modules drop.
    """

    def __init__(self, model: Any, input_names: Sequence[str], source: DropoutSource) -> None:
        self._model = model
        self._typed = "token_type_ids" in input_names
        self._source = source

    def __call__(self, tokens: Sequence[Tokens]) -> torch.Tensor:
        """-> logits float32 [pairs, labels]."""
        own = self._own()
        texts, pairs = (tokens, None) if own.late is None else texts_of(tokens)
        x, packed, chunks = self._below_last(own, texts)
        last = own.layers[-1]
        if own.late is not None and pairs is not None:
            x = self._layer(last, x, x, chunks)
            return own.late.compared(*(_text_states(x, packed, torch.from_numpy(text)) for text in pairs.T)).float()
        first_alone = chunks_of(packed.lengths, self._score_bytes(x), first_only=True)
        x = self._layer(last, x[packed.starts], x, first_alone)
        # back into the caller's order
        x = torch.empty_like(x).index_copy(0, packed.order, x)[:, None]
        return own.head(x).float()

    def states(self, tokens: Sequence[Tokens]) -> torch.Tensor:
        """-> last states float32 [tokens, hidden] of inputs end to end, each read by itself whatever the model is."""
        own = self._own()
        x, packed, chunks = self._below_last(own, tokens)
        x = self._layer(own.layers[-1], x, x, chunks).float()
        starts = packed.starts[torch.argsort(packed.order)].tolist()
        # back into the caller's order
        return torch.cat([x[start : start + len(text)] for start, text in zip(starts, tokens, strict=True)])

    def _own(self) -> TrainableModules:
        # each time: adapters may have taken a module's place
        own = trainable(self._model)
        if own is None:
            raise InvalidInput(f"{type(self._model).__name__} is not trained without padding: see `packable`")
        return own

    def _below_last(self, own: TrainableModules, texts: Sequence[Tokens]) -> tuple[torch.Tensor, Packed, list[Chunk]]:
        """States [tokens, hidden] in front of the last layer, as `Packed` has them."""
        packed = pack(texts, own.first_position)
        types = packed.types if self._typed else torch.zeros_like(packed.types)
        ids, positions = packed.ids[None], packed.positions[None]
        x = own.embeddings(input_ids=ids, token_type_ids=types[None], position_ids=positions)[0]
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        chunks = chunks_of(packed.lengths, self._score_bytes(x), first_only=False)
        for layer in own.layers[:-1]:
            x = self._layer(layer, x, x, chunks)
        return x, packed, chunks

    def _score_bytes(self, x: torch.Tensor) -> int:
        size: int = self._model.config.num_attention_heads * x.element_size()
        return size

    def _layer(self, layer: Any, rows: torch.Tensor, x: torch.Tensor, chunks: Sequence[Chunk]) -> torch.Tensor:
        """One layer for `rows` [queries, hidden], which see `x` [tokens, hidden]."""
        own = layer.attention.self
        query, key, value = (
            part(given).view(len(given), own.num_attention_heads, -1)
            for part, given in ((own.query, rows), (own.key, x), (own.value, x))
        )
        share = own.dropout.p if own.training else 0.0
        dropping = Dropping(self._source, share) if levels_dropped(share) else None
        context = attend(query, key, value, chunks, own.scaling, dropping)
        rows = layer.attention.output(context.flatten(1), rows)
        made: torch.Tensor = layer.output(layer.intermediate(rows), rows)
        return made


def _text_states(x: torch.Tensor, packed: Packed, texts: torch.Tensor) -> TextStates:
    """Of texts by their numbers, which may come again, out of states [tokens, hidden] of all of them."""
    places = torch.argsort(packed.order)[texts]
    lengths = torch.from_numpy(packed.lengths)[places]
    width = torch.arange(int(lengths.max()))
    real = width < lengths[:, None]
    rows = torch.where(real, packed.starts[places][:, None] + width, 0)
    return TextStates(packed.ids[rows], x[rows], real)


def packable(model: Any) -> bool:
    """Whether `PackedForward` does what the model's own forward does."""
    return (
        trainable(model) is not None
        and not model.config.is_decoder
        and model.device.type == "cpu"
        and not recomputes(model)
    )


def recomputes(model: Any) -> bool:
    """Whether the model forgets activations and computes them again (`gradient_checkpointing_enable`)."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


class TrainingForward(Protocol):
    """A forward pass with gradients, on the model's device."""

    def __call__(self, tokens: Sequence[Tokens], /) -> torch.Tensor:
        """Model inputs to logits float32 [pairs, labels]."""

    def states(self, tokens: Sequence[Tokens], /) -> torch.Tensor:
        """Model inputs to their tokens' last states float32 [tokens, hidden], end to end."""


def training_forward(
    model: Any, input_names: Sequence[str], padding: Padding, source: DropoutSource
) -> TrainingForward:
    """The forward pass of training that is fastest where the model is.

    Args:
        model: a transformers sequence-classification model.
        input_names: of its tokenizer.
        padding: what it wants in unused places.
        source: of dropout in attention; give the same one to `dropout.cheap_dropout`.
    """
    if packable(model):
        return PackedForward(model, input_names, source)
    return PaddedForward(model, input_names, padding)


class PaddedForward:
    """transformers' own forward over one rectangle."""

    def __init__(self, model: Any, input_names: Sequence[str], padding: Padding) -> None:
        self._model = model
        self._input_names = tuple(input_names)
        self._padding = padding

    def __call__(self, tokens: Sequence[Tokens]) -> torch.Tensor:
        """-> logits float32 [pairs, labels]."""
        return padded_logits(self._model, tokens, self._input_names, self._padding).float()

    def states(self, tokens: Sequence[Tokens]) -> torch.Tensor:
        """-> last states float32 [tokens, hidden] of inputs end to end, each read by itself whatever the model is."""
        padded = pad(tokens, self._padding)
        encoder = self._model.base_model
        made = encoder(**padded.named(self._input_names, self._model.device), return_dict=True).last_hidden_state
        states: torch.Tensor = made[padded.attention_mask.bool().to(made.device)]
        return states.float()
