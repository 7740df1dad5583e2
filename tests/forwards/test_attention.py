"""Rules of `secondpass.forwards.attention`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from secondpass.forwards.attention import Heads, Packed, Rectangles, RelativeAttention, Views, moved, pack, spare_rows
from secondpass.forwards.description import Relative
from secondpass.tokens import Tokens
from tests.forwards.attending import LENGTHS, expected, first_of, packed_of, rows_of


def _tokens(*ids: int) -> Tokens:
    return Tokens(np.asarray(ids, np.int32), np.arange(len(ids), dtype=np.int32))


def test_sequences_lie_end_to_end_longest_first() -> None:
    """Equal lengths in the given order; `order` leads back."""
    packed = pack([_tokens(1), _tokens(2, 3, 4), _tokens(5), _tokens(6, 7)], first_position=2)
    assert packed.ids.tolist() == [2, 3, 4, 6, 7, 1, 5]
    assert packed.types.tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert packed.positions.tolist() == [2, 3, 4, 2, 3, 2, 2]
    assert packed.starts.tolist() == [0, 3, 5, 6]
    assert packed.order.tolist() == [1, 3, 0, 2]
    assert packed.lengths.tolist() == [3, 2, 1, 1]
    assert {tensor.dtype for tensor in (packed.ids, packed.types, packed.positions, packed.order)} == {torch.int64}


def test_on_the_cpu_nothing_moves() -> None:
    """The tensors are the same objects."""
    packed = pack([_tokens(1, 2)])
    assert moved(packed, torch.device("cpu")) is packed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_all_tensors_arrive() -> None:
    """Copied without waiting, and right when they are read."""
    packed = pack([_tokens(1, 2), _tokens(3)])
    there = moved(packed, torch.device("cuda"))
    assert there.ids.device.type == "cuda"
    assert there.ids.tolist() == packed.ids.tolist()
    assert there.order.tolist() == packed.order.tolist()


@pytest.mark.parametrize("window", [None, 1, 8, 64])
@pytest.mark.parametrize("lengths", LENGTHS, ids=len)
def test_padding_is_never_seen(lengths: Sequence[int], window: int | None) -> None:
    """Sequences of like length share a rectangle; each gets its own contexts."""
    heads = Heads(3, 8, window)
    packed = packed_of(lengths)
    qkv = rows_of(packed, heads)
    wanted = expected(qkv, packed, heads)
    rectangles = Rectangles(packed)
    assert torch.allclose(rectangles.all(qkv, heads), wanted, atol=1e-5)
    assert torch.allclose(rectangles.first(*first_of(qkv, packed, heads), heads), wanted[packed.starts], atol=1e-5)


SPAN, ROWS = 24, 16
# each distance's row; several share one, as in a model
BUCKETS = (np.arange(2 * SPAN) * ROWS // (2 * SPAN)).astype(np.int64)


def _heads(keys: bool, queries: bool) -> Heads:
    random = torch.Generator().manual_seed(2)
    tables = [torch.randn(ROWS, 24, generator=random) if wanted else None for wanted in (keys, queries)]
    return Heads(3, 8, relative=Relative(*tables))


def _expected(qkv: torch.Tensor, packed: Packed, heads: Heads) -> torch.Tensor:
    """Contexts [tokens, hidden], a pair of tokens at a time."""
    relative = heads.relative
    assert relative is not None
    made = []
    for start, length in zip(packed.starts.tolist(), packed.lengths.tolist(), strict=True):
        query, key, value = qkv[start : start + length].view(length, 3, *heads.shape).double().unbind(1)
        distance = np.arange(length)[:, None] - np.arange(length)
        rows = BUCKETS[np.clip(distance, -SPAN, SPAN - 1) + SPAN]
        scores = torch.einsum("ihd,jhd->hij", query, key)
        parts = 1
        if relative.keys is not None:
            scores += torch.einsum(
                "ihd,ijhd->hij", query, relative.keys[rows].view(length, length, *heads.shape).double()
            )
            parts += 1
        if relative.queries is not None:
            scores += torch.einsum(
                "jhd,ijhd->hij", key, relative.queries[rows].view(length, length, *heads.shape).double()
            )
            parts += 1
        weights = (scores / (heads.size * parts) ** 0.5).softmax(-1)
        made.append(torch.einsum("hij,jhd->ihd", weights, value).flatten(1).float())
    return torch.cat(made)


@pytest.mark.parametrize(("keys", "queries"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize(("alike", "together"), [(1.0, 512), (1.0, 1), (0.8, 16384), (0.1, 64)])
@pytest.mark.parametrize("lengths", LENGTHS, ids=len)
def test_each_pair_of_tokens_gets_what_its_distance_adds(
    lengths: Sequence[int], alike: float, together: int, keys: bool, queries: bool
) -> None:
    """Whatever shares a rectangle; sequences longer than distances go."""
    heads = _heads(keys, queries)
    packed = packed_of([min(length, 90) for length in lengths])
    qkv = rows_of(packed, heads)
    wanted = _expected(qkv, packed, heads)
    attention = RelativeAttention(packed, BUCKETS, alike, together)
    assert torch.allclose(attention.all(qkv, heads), wanted, atol=1e-5)
    assert torch.allclose(attention.first(*first_of(qkv, packed, heads), heads), wanted[packed.starts], atol=1e-5)


@pytest.mark.parametrize("window", [None, 1, 8, 64])
@pytest.mark.parametrize("lengths", LENGTHS, ids=len)
def test_each_sequence_sees_itself_alone(lengths: Sequence[int], window: int | None) -> None:
    """Views reach into other sequences and into the spare rows, masks hide them; windows go by blocks of queries."""
    heads = Heads(3, 8, window)
    packed = packed_of(lengths)
    qkv = rows_of(packed, heads, spare_rows(packed.lengths))
    wanted = expected(qkv, packed, heads)
    views = Views(packed)
    made = views.all(qkv, heads)
    assert torch.allclose(made[: len(wanted)], wanted, atol=1e-5)
    assert not made[len(wanted) :].any()
    assert torch.allclose(views.first(*first_of(qkv, packed, heads), heads), wanted[packed.starts], atol=1e-5)


def test_one_layout_serves_heads_with_and_without_a_window() -> None:
    """As in a model whose layers take turns."""
    packed = packed_of((300, 20))
    views = Views(packed)
    qkv = rows_of(packed, Heads(2, 8), spare_rows(packed.lengths))
    for window in (None, 16, None, 5):
        heads = Heads(2, 8, window)
        assert torch.allclose(views.all(qkv, heads)[:320], expected(qkv, packed, heads), atol=1e-5)


@pytest.mark.parametrize(
    ("lengths", "spare"), [((16,), 0), ((20,), 12), ((20, 16), 0), ((20, 3), 13), ((17, 5, 5, 5, 5, 5), 11)]
)
def test_spare_rows_reach_to_the_end_of_every_view(lengths: Sequence[int], spare: int) -> None:
    """Never more than fifteen."""
    assert spare_rows(np.asarray(lengths)) == spare
