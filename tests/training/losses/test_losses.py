"""Losses by name: spellings, options, objects."""

from __future__ import annotations

import re

import pytest
import torch

from secondpass.errors import InvalidInput
from secondpass.training.losses import LOSSES, make_loss
from secondpass.training.losses.loss import Loss
from secondpass.training.losses.pointwise import BinaryCrossEntropy, CrossEntropy
from secondpass.training.losses.ranking import CachedInfoNCE, LambdaLoss, RankNet


class OwnLoss:
    """A caller's own, which knows nothing of ours."""

    labels = "score"
    shortest = 1
    needs_contrast = False

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (logits - labels)[mask].abs()


@pytest.mark.parametrize("name", LOSSES)
def test_every_name_in_any_spelling(name):
    """Case, hyphens and underscores are no matter; without options it has its defaults."""
    for spelling in (name, name.upper(), name.replace("_", "-"), name.replace("_", "").title()):
        made = make_loss(spelling, {})
        assert type(made) is LOSSES[name]
        assert made == LOSSES[name]()
        assert isinstance(made, Loss)


def test_options_of_a_name():
    """They are its keyword arguments, as a settings file gives them."""
    assert make_loss("lambda-loss", {"weighting": "LambdaRank", "k": 10}) == LambdaLoss("lambda_rank", k=10)
    assert make_loss("bINARY_cross-entropy", {"pos_weight": "balanced"}) == BinaryCrossEntropy("balanced")
    assert make_loss("cached_info_nce", {"in_batch_negatives": 9}) == CachedInfoNCE(in_batch_negatives=9)
    assert make_loss("cross_entropy", {"weights": [1, 2]}) == CrossEntropy((1.0, 2.0))


@pytest.mark.parametrize("own", [RankNet(), OwnLoss()])
def test_objects_pass_as_they_are(own):
    """Ours and a caller's own."""
    assert make_loss(own, {}) is own


@pytest.mark.parametrize(
    ("loss", "options", "words"),
    [
        ("lamda_loss", {}, f"loss='lamda_loss' is none of {', '.join(LOSSES)}; did you mean lambda_loss?"),
        ("zzz", {}, f"loss='zzz' is none of {', '.join(LOSSES)}"),
        ("", {}, f"loss='' is none of {', '.join(LOSSES)}"),
        ("ranknet", {"sigm": 1}, "loss_options of ranknet: option='sigm' is none of sigma; did you mean sigma?"),
        ("ranknet", {"shortest": 1}, "loss_options of ranknet: option='shortest' is none of sigma"),
        ("ranknet", {"labels": "grade"}, "loss_options of ranknet: option='labels' is none of sigma"),
        ("ranknet", {3: 1}, "loss_options of ranknet: option=3 is none of sigma"),
        ("ranknet", {"Sigma": 1}, "loss_options: ranknet has no option 'Sigma': write it as one of sigma"),
        ("mse", {"sigma": 1}, "loss_options: mse has no option, so not 'sigma'"),
        ("ranknet", {"sigma": -1}, "sigma=-1 is not above 0"),
        (RankNet(), {"sigma": 2}, "loss_options={'sigma': 2} are for a loss given by name, not for an object"),
        (RankNet, {}, "loss is the class RankNet: give an object of it"),
        (None, {}, "loss is NoneType, no name and no loss: it lacks labels, shortest, needs_contrast, __call__"),
        (torch.nn.MSELoss(), {}, "loss is MSELoss, no name and no loss: it lacks labels, shortest, needs_contrast"),
    ],
)
def test_what_is_refused(loss, options, words):
    """The message lists what there is, and suggests the nearest."""
    with pytest.raises(InvalidInput, match=f"^{re.escape(words)}$"):
        make_loss(loss, options)
