"""Rules of `secondpass.forwards.families.modernbert`: its weights."""

from __future__ import annotations

from torch import nn

from secondpass.forwards.description import Encoder
from secondpass.forwards.families import describe
from tests.forwards.models import model_of


def test_layers_take_turns_between_local_and_global() -> None:
    """The window is the half of what the configuration calls local attention; weights are shared."""
    model = model_of("modernbert", num_hidden_layers=3, global_attn_every_n_layers=2, local_attention=10)
    encoder = describe(model)
    assert isinstance(encoder, Encoder)
    assert [layer.window for layer in encoder.layers] == [None, 5, None]
    assert encoder.layers[0].attention_norm is None
    assert encoder.layers[1].attention_norm is not None
    assert encoder.hidden == 32
    assert encoder.layers[1].qkv.weight.data_ptr() == model.model.layers[1].attn.Wqkv.weight.data_ptr()


def test_what_the_family_does_not_have_is_not_described() -> None:
    """Another linear layer, other frequencies."""
    model = model_of("modernbert")
    model.model.rotary_emb.rope_type["full_attention"] = "yarn"
    assert describe(model) is None
    model = model_of("modernbert")
    model.model.layers[0].mlp.Wo = nn.Bilinear(64, 64, 32)
    assert describe(model) is None
