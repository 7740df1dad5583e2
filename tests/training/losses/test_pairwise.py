"""Pairwise losses: their options, and sentence-transformers' values."""

from __future__ import annotations

from math import log, log2

import numpy as np
import pytest
import torch
from sentence_transformers.cross_encoder import losses as st_losses

from secondpass.errors import InvalidInput
from secondpass.training.losses.pairwise import PAIRS, WEIGHTINGS, LambdaLoss, MarginMSE, RankNet
from tests.training.losses.ragged import Ragged, drawn, padded, units
from tests.training.losses.references import gains, lambda_loss, margin_mse, of_all, ranks
from tests.training.losses.theirs import assert_same, given, of_lists

SCHEMES = {
    "none": st_losses.NoWeightingScheme,
    "ndcg_loss1": st_losses.NDCGLoss1Scheme,
    "ndcg_loss2": st_losses.NDCGLoss2Scheme,
    "ndcg_loss2++": st_losses.NDCGLoss2PPScheme,
    "lambda_rank": st_losses.LambdaRankScheme,
}


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("ties", [True, False])
def test_which_pairs_margin_mse_takes(pairs, ties):
    """Units are those of the formula over all pairs, or those of the first or the highest document."""
    loss = MarginMSE(pairs)
    for seed in range(10):
        ragged = drawn(loss, seed, ties=ties)
        np.testing.assert_allclose(units(loss, ragged), of_all(margin_mse(pairs), ragged.groups), atol=1e-12)


def test_margin_mse_is_sentence_transformers():
    """Means and gradients of "first" are equal to theirs, whose first document is the positive of their columns.

    Theirs needs as many negatives for each query; with several queries both divide by the number of pairs.
    """
    loss = MarginMSE("first")
    ragged = drawn(loss, 1, (4, 4, 4))
    model = given(ragged)
    queries = ["0", "1", "2"]
    columns = [[str(place)] * len(queries) for place in range(4)]
    labels = [torch.tensor(group) for group in ragged.labels]
    assert_same(loss, ragged, model, st_losses.MarginMSELoss(model)([queries, *columns], labels))


@pytest.mark.parametrize("sigma", [1.0, 0.3])
def test_ranknet_is_sentence_transformers(sigma):
    """Means and gradients are equal with their natural logarithm; their default is ours over log 2."""
    loss = RankNet(sigma)
    ragged = drawn(loss, 1)
    model = given(ragged)
    natural = st_losses.RankNetLoss(model, sigma=sigma, reduction_log="natural")
    assert_same(loss, ragged, model, of_lists(natural, ragged))
    default = st_losses.RankNetLoss(model, sigma=sigma)
    assert_same(loss, ragged, model, of_lists(default, ragged) * log(2))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("k", [None, 1, 2, 5, 100])
@pytest.mark.parametrize("ties", [True, False])
def test_weightings_are_those_of_the_paper(weighting, k, ties):
    """Units of each weighting and depth equal the formula, equal logits among them."""
    loss = LambdaLoss(weighting, k=k, sigma=0.7, mu=3.0)
    for seed in range(10):
        ragged = drawn(loss, seed, ties=ties)
        rounded = Ragged([np.round(logits) for logits in ragged.logits], ragged.labels)
        for groups in (ragged, rounded):
            expected = of_all(lambda_loss(weighting, k, 0.7, 3.0), groups.groups)
            np.testing.assert_allclose(units(loss, groups), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighting", [name for name in WEIGHTINGS if name != "ndcg_loss1"])
@pytest.mark.parametrize("k", [None, 2])
def test_lambda_loss_is_sentence_transformers(weighting, k):
    """Means and gradients are equal: both divide by the number of pairs."""
    loss = LambdaLoss(weighting, k=k, sigma=1.5)
    ragged = drawn(loss, 1)
    model = given(ragged)
    theirs = st_losses.LambdaLoss(model, SCHEMES[weighting](), k=k, sigma=1.5)
    assert_same(loss, ragged, model, of_lists(theirs, ragged))


def test_the_largest_dcg_is_no_less_than_eps():
    """As in sentence-transformers, where it is below."""
    loss = LambdaLoss(eps=100.0)
    ragged = drawn(loss, 1)
    model = given(ragged)
    theirs = st_losses.LambdaLoss(model, st_losses.NDCGLoss2PPScheme(), eps=100.0)
    assert_same(loss, ragged, model, of_lists(theirs, ragged))
    assert units(loss, ragged).sum() < units(LambdaLoss(), ragged).sum() / 2


@pytest.mark.parametrize("k", [None, 2])
def test_ndcg_loss1_is_sentence_transformers(k):
    """Sums and gradients are equal, once theirs has lost each document's pair with itself.

    Such a pair adds log2(2) times its weight, a constant, and one to the number they divide by. They also take groups
    of equal labels, which are not drawn here.
    """
    loss = LambdaLoss("ndcg_loss1", k=k)
    ragged = drawn(loss, 1, (5, 2, 7), ties=False)
    model = given(ragged)
    theirs = of_lists(st_losses.LambdaLoss(model, st_losses.NDCGLoss1Scheme(), k=k), ragged)
    depth = [min(k or len(labels), len(labels)) for labels in ragged.labels]
    pairs = sum(len(labels) ** 2 - (len(labels) - top) ** 2 for labels, top in zip(ragged.labels, depth, strict=True))
    itself = sum(
        gain / log2(1 + rank)
        for (logits, labels), top in zip(ragged.groups, depth, strict=True)
        for gain, rank in zip(gains(labels, k), ranks(logits), strict=True)
        if rank <= top
    )
    assert_same(loss, ragged, model, theirs * pairs - itself, "sum")


def test_high_grades():
    """A grade of 1000, whose gain is no float, is worth what 2^1000 is beside the others."""
    loss = LambdaLoss()
    logits, _, mask = padded(drawn(loss, 0, (3,)))
    high, higher = (loss(logits, torch.tensor([[top, 0.0, 0.0, 0.0]]), mask) for top in (60.0, 1000.0))
    assert torch.isfinite(higher).all()
    torch.testing.assert_close(high, higher)


def test_no_gradient_through_the_weights():
    """With the ranks given, the loss is a weighted RankNet: the gradient pulls the better document up."""
    loss = LambdaLoss()
    logits, _, mask = padded(drawn(loss, 0, (2,)), extra=0)
    loss(logits, torch.tensor([[0.0, 1.0]]), mask).sum().backward()
    assert logits.grad[0, 0] == -logits.grad[0, 1] > 0


@pytest.mark.parametrize("name", ["NDCGLoss2++", "ndcg-loss2++", "NDCG_LOSS2++"])
def test_spellings_of_weightings(name):
    """The paper's names are understood, and the loss shows ours."""
    assert LambdaLoss(name) == LambdaLoss()
    assert MarginMSE("First").pairs == "first"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: LambdaLoss("ndcg_loss3"),
            "^weighting='ndcg_loss3' is none of none, ndcg_loss1, .*did you mean ndcg_loss",
        ),
        (lambda: LambdaLoss(k=0), "^k=0 is not a positive int$"),
        (lambda: LambdaLoss(k=2.5), "^k=2.5 is not a positive int$"),
        (lambda: LambdaLoss(sigma=0), "^sigma=0 is not above 0$"),
        (lambda: LambdaLoss(eps=-1.0), "^eps=-1.0 is not above 0$"),
        (lambda: LambdaLoss(mu=float("nan")), "^mu=nan is not a finite number$"),
        (lambda: RankNet("steep"), "^sigma='steep' is not a finite number$"),
        (lambda: MarginMSE("last"), "^pairs='last' is none of all, first, highest$"),
    ],
)
def test_refused_options(make, words):
    """By name."""
    with pytest.raises(InvalidInput, match=words):
        make()
