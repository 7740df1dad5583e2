"""Rules of `secondpass.packed.parts`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secondpass.packed.parts import NotDescribed, hidden_activation, joined, linear, norm, only, table


def test_joined_layers_give_their_outputs_side_by_side() -> None:
    """One product instead of three."""
    parts = [nn.Linear(5, 3), nn.Linear(5, 3), nn.Linear(5, 2)]
    made = joined(*parts)
    x = torch.randn(4, 5)
    expected = torch.cat([part(x) for part in parts], dim=1)
    assert torch.allclose(x @ made.weight.T + made.bias, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("describe", "module"),
    [
        (linear, nn.Linear(2, 2, bias=False)),
        (linear, nn.Identity()),
        (norm, nn.LayerNorm(2, bias=False)),
        (norm, nn.RMSNorm(2)),
        (table, nn.Embedding(2, 2, max_norm=1.0)),
        (hidden_activation, nn.Mish()),
    ],
)
def test_other_modules_are_refused(describe: object, module: nn.Module) -> None:
    """Exact classes only."""
    with pytest.raises(NotDescribed):
        describe(module)  # type: ignore[operator]


def test_only_wants_one_activation() -> None:
    """None, or two, are not."""
    assert only({"gelu"}) == "gelu"
    for wrong in (set(), {"gelu", "relu"}):
        with pytest.raises(NotDescribed):
            only(wrong)
