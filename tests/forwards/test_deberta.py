"""Rules of `secondpass.forwards.families.deberta`: every kind of DeBERTa, and those left to transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import DebertaV2Config
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from secondpass.forwards.families import describe
from secondpass.forwards.families.deberta import buckets
from secondpass.forwards.packed import PackedEncoder
from secondpass.forwards.plain import PlainEncoder
from tests.forwards.models import LENGTHS, inputs_of, model_of, reference, tensors

KINDS: dict[str, dict[str, Any]] = {
    "v3": {"position_biased_input": False},
    "places of their own too": {"position_biased_input": True},
    "token types": {"type_vocab_size": 2},
    "projections of distances": {"share_att_key": False},
    "queries to distances alone": {"pos_att_type": ["c2p"]},
    "keys to distances alone": {"pos_att_type": ["p2c"], "share_att_key": False},
    "no distances": {"pos_att_type": []},
    "a row for each distance": {"position_buckets": -1},
    "distances that end early": {"position_buckets": -1, "max_relative_positions": 20},
    "buckets that end early": {"position_buckets": 8, "max_relative_positions": 24},
    "distances as they are": {"norm_rel_ebd": "none"},
    "tanh behind the pooler": {"pooler_hidden_act": "tanh"},
    "one layer": {"num_hidden_layers": 1},
    "heads of an odd size": {"hidden_size": 30},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_equals_transformers(kind: str) -> None:
    """Sequences of one token to the longest, some longer than distances go."""
    model = model_of("deberta-v2", 3, **KINDS[kind])
    encoder = describe(model)
    assert encoder is not None
    inputs = inputs_of(LENGTHS, model)
    wanted = reference(model, inputs)
    assert torch.allclose(tensors(PackedEncoder(encoder))(inputs), wanted, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="by torch alone"):
        PlainEncoder(encoder)


@pytest.mark.parametrize(("count", "most"), [(256, 512), (16, 128), (32, 40), (4, 7), (-1, 30), (0, 512)])
def test_every_distance_has_the_row_that_transformers_gives_it(count: int, most: int) -> None:
    """Also those beyond the last bucket, which are clamped as attention clamps them."""
    config = DebertaV2Config(max_relative_positions=most)
    config.position_buckets = count
    found = buckets(config)
    length = 2 * most + 3
    rows = torch.empty(length, 1)
    places = build_relative_position(rows, rows, count, most)[0]
    span = count if count > 0 else most
    wanted = (places + span).clamp(0, 2 * span - 1).numpy()
    distance = np.arange(length)[:, None] - np.arange(length)
    assert np.array_equal(found[np.clip(distance, -most, most - 1) + most], wanted)


def test_the_most_is_that_of_positions_where_none_is_told() -> None:
    """As published configurations have it: -1."""
    config = DebertaV2Config(max_relative_positions=-1, max_position_embeddings=50)
    config.position_buckets = 16
    assert len(buckets(config)) == 100


LEFT: dict[str, dict[str, Any]] = {
    "a convolution": {"conv_kernel_size": 3},
    "narrow words": {"embedding_size": 16},
    "no relative positions": {"relative_attention": False},
    "an activation nobody knows": {"pooler_hidden_act": "mish"},
}


@pytest.mark.parametrize("kind", LEFT)
def test_what_is_rare_is_left_to_transformers(kind: str) -> None:
    """None of the published rerankers has it."""
    assert describe(model_of("deberta-v2", **LEFT[kind])) is None


def test_a_changed_part_is_not_described() -> None:
    """Distances that another module gives, or scores of another kind."""
    model = model_of("deberta-v2")
    assert describe(model) is not None
    model.deberta.encoder.layer[0].attention.self.pos_att_type = ["p2p"]
    assert describe(model) is None
    model = model_of("deberta-v2")
    model.deberta.encoder.LayerNorm = nn.RMSNorm(32)
    assert describe(model) is None
