"""Best weights: who wins, what is kept, what comes back."""

from __future__ import annotations

import pytest
import torch

from secondpass.training.weights.best_weights import BestWeights


def model_at(value: float) -> torch.nn.Linear:
    """Make a model with one weight."""
    model = torch.nn.Linear(1, 1, bias=False)
    set_to(model, value)
    return model


def set_to(model: torch.nn.Linear, value: float) -> None:
    """Change its weight in place, as training does."""
    with torch.no_grad():
        model.weight.fill_(value)


def after_offers(scores: list[float], keeps: bool = True) -> tuple[BestWeights, float, list[float]]:
    """Offer weight 0, 1, 2, ... with `scores`; -> the object, the weight restored, the weights saved."""
    model, saved = model_at(0.0), []
    best = BestWeights(model, keeps, lambda: saved.append(model.weight.item()))
    for number, score in enumerate(scores):
        set_to(model, float(number))
        best.offer(score)
    best.restore()
    return best, model.weight.item(), saved


@pytest.mark.parametrize(
    ("scores", "restored", "saved"),
    [
        ([0.1, 0.9, 0.2], 1.0, [0.0, 1.0]),
        ([0.5, 0.5], 0.0, [0.0]),
        ([float("nan"), 0.2, float("nan")], 1.0, [1.0]),
        ([-1e12, float("-inf")], 0.0, [0.0]),
        ([float("nan")], 0.0, []),
    ],
)
def test_highest_score_wins(scores, restored, saved):
    """The first of the highest scores is kept and saved, however low it is; NaN never is."""
    _, weight, written = after_offers(scores)
    assert weight == restored
    assert written == saved


def test_score_without_weights():
    """Told not to keep weights, it remembers the score and leaves the last weights."""
    best, weight, saved = after_offers([0.9, 0.1], keeps=False)
    assert (best.score, weight, saved) == (0.9, 1.0, [])


def test_nan_is_logged(caplog):
    """A NaN score is told."""
    assert not BestWeights(model_at(0.0), keeps=True).offer(float("nan"))
    assert "NaN" in caplog.text


def test_copy_does_not_change_with_the_model():
    """The kept weights are copies, on the CPU, and the model keeps its own tensors when they come back."""
    model = model_at(1.0)
    weight = model.weight
    best = BestWeights(model, keeps=True)
    best.offer(1.0)
    set_to(model, 5.0)
    best.restore()
    assert model.weight is weight
    assert weight.item() == 1.0
    assert weight.requires_grad
