"""A bi-encoder folded into the weights of a cross-encoder, so that training begins where the bi-encoder ends.

A cross-encoder that starts from a bi-encoder's layers has to learn what comparing two texts is, and forgets meanwhile
what the layers knew about each. Here the comparison is written down, in a BERT like any other:

- **Marks.** Two coordinates of the hidden state say whose a token is: token types set one of them, and nothing else
  writes or reads them. What stands before both texts, the first token, has neither.
- **Gates.** In each head the two directions that its queries and keys use least give way to the marks: a token of the
  other text loses `GAP` logits. So each text is read by itself, as the bi-encoder reads it; what training finds worth
  more than the gap gets through.
- **Comparison.** The last layer is new. For the first token half of its heads average the query's tokens and half the
  document's; their values are what such averages have most in, as many numbers of each. Its feed-forward part
  multiplies the two: gelu(x) + gelu(-x) is nearly a parabola and (u + v)^2 - (u - v)^2 = 4uv; it takes away its input
  too, since gelu(x) - gelu(-x) = x. The normalisation between sees both together, so what is multiplied is nearly a
  cosine. The head reads the sum.

Only then does training begin, with marks and gates as they are: they are a few hundred numbers that everything hangs
on, and steps that are right for the others are far too long for them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

# Of the variance of what is normalised a mark has so much: less drowns in rounding and in what training moves, more
# keeps the normalisation from doing its work.
SHARE = 0.1
# Logits that a token of the other text loses where its mark has its usual size.
GAP = 6.0
# A mark's size where the last layer reads it, and what that takes of a logit for each unit: no token of the other text
# is to count there.
LAST_SIZE = 10.0
LAST_GATE = 1.8
# What the last layer's heads give is so many times what is wanted of them: beside it what the first token itself has is
# nothing.
CONTEXT = 4.0
# What is multiplied is so much of what comes in: where gelu still bends as a parabola does.
BEND = 0.3
# Logits from the middle where the sum is half as large as the constant beside it, which keeps it in proportion.
SPAN = 12.0


@dataclass(frozen=True)
class Sample:
    """Two texts as the model reads them: int64 [1, tokens] each."""

    ids: torch.Tensor
    types: torch.Tensor


@dataclass(frozen=True)
class Marks:
    """The coordinates of the hidden state that tokens of the query and of the document have."""

    query: int
    document: int

    @property
    def both(self) -> list[int]:
        """Query's, document's."""
        return [self.query, self.document]


class _Seen:
    """What flows through the bi-encoder: by normalisation the spread of what comes in, by head what it compares."""

    def __init__(self, model: Any) -> None:
        layers = model.bert.encoder.layer
        self.norms = [model.bert.embeddings.LayerNorm]
        for layer in layers:
            self.norms += [layer.attention.output.LayerNorm, layer.output.LayerNorm]
        self._model = model
        self._spreads: dict[nn.Module, list[torch.Tensor]] = defaultdict(list)
        self._offsets: dict[nn.Module, list[torch.Tensor]] = defaultdict(list)
        self.moments: dict[nn.Module, torch.Tensor] = {}
        self.sums: dict[nn.Module, torch.Tensor] = {}
        self.squares: dict[nn.Module, torch.Tensor] = {}
        self.tokens = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = [norm.register_forward_hook(self._normalised) for norm in self.norms]
        for layer in self._model.bert.encoder.layer:
            own = layer.attention.self
            handles += [part.register_forward_hook(self._projected) for part in (own.query, own.key)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _normalised(self, module: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        spread, mean = torch.std_mean(given[0].flatten(0, -2), -1, correction=0)
        self._spreads[module].append(spread)
        self._offsets[module].append(mean / spread)
        rows = made.flatten(0, -2).double()
        self.sums[module] = self.sums.get(module, torch.zeros(())) + rows.sum(0)
        self.squares[module] = self.squares.get(module, torch.zeros(())) + rows.square().sum(0)
        if module is self.norms[0]:
            self.tokens += len(rows)

    def _projected(self, module: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        count = self._model.config.num_attention_heads
        rows = made.reshape(-1, count, made.shape[-1] // count).double()
        self.moments[module] = self.moments.get(module, torch.zeros(())) + torch.einsum("tha,thb->hab", rows, rows)

    def spread(self, norm: nn.Module) -> float:
        """Standard deviation of what is normalised, the median token's."""
        return float(torch.cat(self._spreads[norm]).median())

    def offset(self, norm: nn.Module) -> float:
        """Its mean in standard deviations."""
        return float(torch.cat(self._offsets[norm]).mean())

    def mean(self, norm: nn.Module) -> torch.Tensor:
        """Of what comes out [width]."""
        return (self.sums[norm] / self.tokens).float()

    def variance(self, norm: nn.Module) -> torch.Tensor:
        """Of what comes out [width]."""
        return (self.squares[norm] / self.tokens - (self.sums[norm] / self.tokens).square()).float()


@torch.no_grad()
def fold(model: Any, samples: Sequence[Sample], worth: float) -> Marks:
    """Turn a model whose layers are a bi-encoder's into one that compares as it does; its last layer becomes new.

    Args:
        model: BertForSequenceClassification of one label, with the bi-encoder's layers; gets one more.
        samples: pairs of texts that are like those to come.
        worth: logits of a cosine of 1.

    Returns:
        Which coordinates are marks now.
    """
    encoder = model.bert.encoder
    last = deepcopy(encoder.layer[-1])
    seen = _Seen(model)
    with seen.watching():
        for sample in samples:
            _states(model, sample, apart=True)
    marks = _mark(model, seen)
    own = [_read(model, marks, sample) for sample in samples]
    encoder.layer.append(last)
    model.config.num_hidden_layers += 1
    first, *averages = (torch.stack(part) for part in zip(*own, strict=True))
    _compare(model, marks, averages, worth)
    # what the first token brings, which is the same for all texts, is not to be compared
    last.attention.output.dense.bias.sub_(first.mean(0))
    return marks


def _states(model: Any, sample: Sample, *, apart: bool) -> torch.Tensor:
    """Hidden states [tokens, width]; `apart`: of a model without marks, each text by itself."""
    if not apart:
        mask = torch.ones_like(sample.ids)
        read = model.bert(sample.ids, token_type_ids=sample.types, attention_mask=mask)
        return cast("torch.Tensor", read.last_hidden_state[0])
    mask = (sample.types[:, :, None] == sample.types[:, None, :])[:, None]
    own = model.bert(sample.ids, token_type_ids=torch.zeros_like(sample.ids), attention_mask=mask)
    return cast("torch.Tensor", own.last_hidden_state[0])


# ---- Marks and gates.
def _mark(model: Any, seen: _Seen) -> Marks:
    """Put the marks into embeddings, normalisations and heads."""
    layers = model.bert.encoder.layer
    marks = Marks(*_least_used(layers, seen))
    both, first, second = marks.both, marks.query, marks.document
    sizes = [math.sqrt(SHARE * model.config.hidden_size) * seen.spread(norm) for norm in seen.norms]
    embeddings = model.bert.embeddings
    for table in (embeddings.word_embeddings, embeddings.position_embeddings):
        table.weight[:, both] = 0
    types = embeddings.token_type_embeddings.weight
    types[1] = types[0]
    types[:, both] = 0
    types[0, first] = types[1, second] = sizes[0]
    # the first token stands before both texts
    embeddings.position_embeddings.weight[0, first] = -sizes[0]
    for layer, before, norm, size in zip(layers, seen.norms[::2], seen.norms[1::2], sizes[1::2], strict=False):
        own, mean = layer.attention.self, seen.mean(before)
        for part in (own.query, own.key, own.value):
            part.bias += part.weight[:, both] @ mean[both]
            part.weight[:, both] = 0
        inner = layer.intermediate.dense
        inner.bias += inner.weight[:, both] @ seen.mean(norm)[both]
        inner.weight[:, both] = 0
        for part in (layer.attention.output.dense, layer.output.dense):
            part.weight[both] = 0
            part.bias[both] = 0
        _gate(own, (seen.moments[own.query], seen.moments[own.key]), marks, size)
    for norm, size, after in zip(seen.norms, sizes, [*sizes[1:], LAST_SIZE], strict=True):
        # what the marks add to the variance is taken back from the others
        grown = math.sqrt(1 + SHARE)
        norm.weight *= grown
        norm.weight[both] = after * seen.spread(norm) * grown / size
        norm.bias[both] = norm.weight[both] * seen.offset(norm) / grown
    return marks


def _least_used(layers: Sequence[Any], seen: _Seen) -> list[int]:
    """The two coordinates whose loss changes least: by their variance times what reads them, and themselves."""
    cost = torch.zeros(())
    for layer, norm in zip(layers, seen.norms[::2], strict=False):
        own = layer.attention.self
        read = sum(part.weight.square().sum(0) for part in (own.query, own.key, own.value, layer.intermediate.dense))
        cost = cost + seen.variance(norm) * (1 + read)
    return [int(place) for place in cost.argsort()[:2]]


def _gate(own: Any, moments: tuple[torch.Tensor, torch.Tensor], marks: Marks, size: float) -> None:
    """Let the marks take the place of what a layer's heads compare least (balanced truncation, Moore 1981)."""
    heads, width = moments[0].shape[:2]
    strength = math.sqrt(GAP * math.sqrt(width)) / size
    for head in range(heads):
        rows = slice(head * width, (head + 1) * width)
        asked, found = (_root(moment[head]) for moment in moments)
        left, values, right = torch.linalg.svd(asked.T @ found)
        scale = values.clamp(min=1e-12).rsqrt()
        turns = ((found @ right.T * scale).T, scale[:, None] * (left.T @ asked.T))
        for part, turn in zip((own.query, own.key), turns, strict=True):
            part.weight[rows] = (turn @ part.weight[rows].double()).float()
            part.bias[rows] = (turn @ part.bias[rows].double()).float()
            part.weight[rows.stop - 2 : rows.stop] = 0
            part.bias[rows.stop - 2 : rows.stop] = 0
        for row, (asking, other) in zip((rows.stop - 2, rows.stop - 1), (marks.both, marks.both[::-1]), strict=True):
            own.query.weight[row, asking] = strength
            own.key.weight[row, other] = -strength


def _root(moment: torch.Tensor) -> torch.Tensor:
    """Lower triangle L with L L' = `moment`, which may lack a direction."""
    small = 1e-9 * float(moment.diagonal().mean()) + 1e-12
    lower: torch.Tensor = torch.linalg.cholesky(moment + small * torch.eye(len(moment), dtype=moment.dtype))
    return lower


# ---- The last layer.
def _read(model: Any, marks: Marks, sample: Sample) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the last layer finds: the first token's state, and averages of the query's tokens and the document's."""
    x = _states(model, sample, apart=False)
    weights = (torch.softmax(-LAST_GATE * x[:, other], 0) for other in (marks.document, marks.query))
    query, document = (weight @ x for weight in weights)
    return x[0], query, document


def _compare(model: Any, marks: Marks, averages: Sequence[torch.Tensor], worth: float) -> None:
    """Write the last layer and the head."""
    last = model.bert.encoder.layer[-1]
    own, width = last.attention.self, model.config.hidden_size
    heads, half = model.config.num_attention_heads, model.config.hidden_size // 2
    generator = torch.Generator().manual_seed(3)
    size = width // heads
    common = _directions(averages, marks, half)
    # queries are short, so their averages are longer than documents': both alike are what makes their product a cosine
    read = [common / (given @ common).square().mean().sqrt() for given in averages]
    context = torch.cat([given @ weight for given, weight in zip(averages, read, strict=True)], 1)
    for part in (own.query, own.key):
        part.weight.zero_()
        part.bias.zero_()
    # what training may ask of the keys, which answer nothing yet
    own.query.bias.normal_(0, 0.3, generator=generator)
    for head in range(heads):
        row = (head + 1) * size - 1
        own.query.bias[row] = 1
        own.key.weight[row, marks.document if head < heads // 2 else marks.query] = -LAST_GATE * math.sqrt(size)
    own.value.weight.copy_(CONTEXT * torch.cat([weight.T for weight in read]))
    own.value.bias.zero_()
    dense, norm = last.attention.output.dense, last.attention.output.LayerNorm
    dense.weight.copy_(torch.eye(width))
    dense.bias.zero_()
    for part in (norm, last.output.LayerNorm):
        part.weight.fill_(1)
        part.bias.zero_()
    # the normalisation brings both together to a length of sqrt(width), so a cosine of 1 is width / 2
    each = 2 * worth / width
    products = (context[:, :half] * context[:, half:]).sum(1)
    middle = float((width * each * products / context.square().sum(1)).mean())
    _multiply(last, each, middle, generator)
    signs = torch.randn(width, generator=generator).sign()
    pooler = model.bert.pooler.dense
    pooler.weight.normal_(0, 0.002, generator=generator)
    pooler.weight[:, 0] += signs / math.sqrt(width)
    pooler.bias.zero_()
    model.classifier.weight.copy_((2 * SPAN / width * signs)[None])
    model.classifier.bias.zero_()


def _directions(averages: Sequence[torch.Tensor], marks: Marks, half: int) -> torch.Tensor:
    """The `half` directions that averages of one length have most in, turned at random: float32 [width, half].

    Turned, each of them has as much of what is to be multiplied.
    """
    own = [part.double().index_fill(1, torch.tensor(marks.both), 0) for part in averages]
    unit = torch.cat([nn.functional.normalize(part) for part in own])
    _, vectors = torch.linalg.eigh(unit.T @ unit)
    generator = torch.Generator().manual_seed(5)
    turn = torch.linalg.qr(torch.randn(half, half, generator=generator, dtype=torch.double))[0]
    directions: torch.Tensor = (vectors[:, -half:] @ turn).float()
    return directions


def _multiply(last: Any, worth: float, middle: float, generator: torch.Generator) -> None:
    """The feed-forward part: the product of both halves onto the first coordinate, beside a constant on the others."""
    inner, outer = last.intermediate.dense, last.output.dense
    width = outer.out_features
    half = width // 2
    unit = 0.5 * math.sqrt(width) / SPAN  # of the first coordinate, by logit
    inner.weight.normal_(0, 0.03, generator=generator)
    inner.weight[: 4 * half] = 0
    inner.bias.zero_()
    outer.weight.zero_()
    # gelu(x) + gelu(-x) = x^2 * sqrt(2 / pi) for small x
    product = worth * unit / (4 * math.sqrt(2 / math.pi) * BEND**2)
    away = 1 / (2 * BEND)
    for place in range(half):
        for number, (one, other) in enumerate(((1, 1), (-1, -1), (1, -1), (-1, 1))):
            row = 4 * place + number
            inner.weight[row, place], inner.weight[row, place + half] = BEND * one, BEND * other
            outer.weight[place, row] -= away * one
            outer.weight[place + half, row] -= away * other
            outer.weight[0, row] += product * one * other
    beside = torch.randn(width, generator=generator)
    beside[0] = 0
    outer.bias.copy_(beside * math.sqrt(width) / beside.norm())
    outer.bias[0] = -middle * unit


# ---- In training.
def keep(model: Any, marks: Marks) -> None:
    """Let training leave marks and gates as they are, and the words."""
    hold_words(model)
    width = model.config.hidden_size // model.config.num_attention_heads
    ends = range(width, model.config.hidden_size + 1, width)
    *layers, last = model.bert.encoder.layer
    embeddings = model.bert.embeddings
    for table in (embeddings.position_embeddings, embeddings.token_type_embeddings):
        _hold(table.weight, 1, marks.both)
    _hold_all(embeddings.LayerNorm, marks.both)
    for layer in layers:
        for part in (layer.attention.self.query, layer.attention.self.key):
            _hold_all(part, [end - back for end in ends for back in (2, 1)])
        for part in (layer.attention.output, layer.output):
            _hold_all(part.dense, marks.both)
            _hold_all(part.LayerNorm, marks.both)
    for part in (last.attention.self.query, last.attention.self.key):
        _hold_all(part, [end - 1 for end in ends])


def hold_words(model: Any) -> None:
    """Let training leave the words as they are: rounded to few bits already, and rare ones as the frequent ones."""
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)


def _hold_all(module: Any, rows: Sequence[int]) -> None:
    _hold(module.weight, 0, rows)
    _hold(module.bias, 0, rows)


def _hold(parameter: torch.nn.Parameter, axis: int, places: Sequence[int]) -> None:
    """No gradient, so no step, at these places."""
    index = torch.tensor(places)

    def without(gradient: torch.Tensor) -> torch.Tensor:
        return gradient.index_fill(axis, index, 0)

    parameter.register_hook(without)  # type: ignore[no-untyped-call]
