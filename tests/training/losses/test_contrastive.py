"""InfoNCE: which documents are against which, and sentence-transformers' values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers.cross_encoder import losses as st_losses
from torch import nn

from secondpass.errors import InvalidInput
from secondpass.training.losses.contrastive import MILNCE, CachedInfoNCE, InfoNCE
from tests.training.losses.ragged import Ragged, units
from tests.training.losses.theirs import assert_same, given

QUERIES = 5
THEIRS = {
    InfoNCE: st_losses.MultipleNegativesRankingLoss,
    CachedInfoNCE: lambda *args, **options: st_losses.CachedMultipleNegativesRankingLoss(
        *args, mini_batch_size=3, **options
    ),
}


def batch(columns: int) -> tuple[Ragged, list[list[str]]]:
    """Make every query's logits for the documents of all columns, and the columns as sentence-transformers has them.

    The first column has the positives: query 2 has its own in place 2.
    """
    logits = np.random.default_rng(0).normal(size=(QUERIES, QUERIES * columns))
    numbers = np.arange(QUERIES * columns).reshape(columns, QUERIES)
    texts = [[str(number) for number in column] for column in (np.arange(QUERIES), *numbers)]
    return Ragged(list(logits), list(np.eye(QUERIES, QUERIES * columns))), texts


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("columns", [1, 3])
def test_equal_to_sentence_transformers(kind, columns):
    """Means and gradients are equal over the same candidates, cached or not: all documents of the batch.

    `num_negatives=None` makes them take all of them instead of some at random; their scale is 1 / temperature. Both
    divide by the number of queries, since each has one positive.
    """
    ragged, texts = batch(columns)
    model = given(ragged)
    theirs = THEIRS[kind](model, num_negatives=None, scale=4.0, activation_fn=nn.Identity())
    assert_same(kind(0.25), ragged, model, theirs(texts, None))


def test_their_default_is_of_probabilities():
    """They take the sigmoid of the logits, times 10: our loss of that at temperature 0.1 is the same."""
    ragged, texts = batch(2)
    theirs = st_losses.MultipleNegativesRankingLoss(given(ragged), num_negatives=None)(texts, None)
    probabilities = Ragged([1 / (1 + np.exp(-logits)) for logits in ragged.logits], ragged.labels)
    assert units(InfoNCE(0.1), probabilities).mean() == pytest.approx(theirs.item(), rel=1e-5)


def test_positives_do_not_compete():
    """A second positive of a group is another unit, and changes nothing for the first."""
    one = Ragged([np.array([1.0, -1.0, 0.5])], [np.array([2.0, 0.0, 0.0])])
    two = Ragged([np.array([1.0, -1.0, 0.5, 9.0])], [np.array([2.0, 0.0, 0.0, 1.0])])
    assert units(InfoNCE(), two).tolist()[0] == units(InfoNCE(), one).tolist()[0]
    assert units(InfoNCE(), two).shape == (2,)


def test_groups_of_one_kind_give_no_unit():
    """Without a positive or without a negative there is nothing to tell apart."""
    ragged = Ragged([np.zeros(2)] * 3, [np.zeros(2), np.ones(2), np.array([1.0, 0.0])])
    assert units(InfoNCE(), ragged).tolist() == pytest.approx([np.log(2)])


def test_what_a_group_needs():
    """A positive is enough if negatives are added; else it takes both kinds."""
    assert (InfoNCE().shortest, InfoNCE().needs_contrast) == (1, False)
    alone = InfoNCE(in_batch_negatives=0)
    assert (alone.shortest, alone.needs_contrast) == (2, True)
    assert replace(alone, in_batch_negatives=1) == InfoNCE(in_batch_negatives=1)
    assert replace(alone, in_batch_negatives=1).shortest == 1


def test_cached_is_the_same_loss_run_otherwise():
    """It tells the loop so, and is no other in value."""
    assert (InfoNCE().cached, CachedInfoNCE().cached) == (False, True)
    assert CachedInfoNCE(in_batch_negatives=7).in_batch_negatives == 7
    ragged, _ = batch(2)
    np.testing.assert_array_equal(units(CachedInfoNCE(), ragged), units(InfoNCE(), ragged))


def test_objects_do_not_change():
    """Frozen, so that what the manifest of a checkpoint says stays true."""
    loss = InfoNCE()
    for name in ("temperature", "shortest"):
        with pytest.raises(AttributeError):
            setattr(loss, name, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.0}, "^temperature=0.0 is not above 0$"),
        ({"in_batch_negatives": -1}, "^in_batch_negatives=-1 is not a whole number from 0 on$"),
        ({"in_batch_negatives": 2.0}, "^in_batch_negatives=2.0 is not a whole number from 0 on$"),
        ({"in_batch_negatives": None}, "^in_batch_negatives=None is not a whole number from 0 on$"),
    ],
)
@pytest.mark.parametrize("kind", THEIRS)
def test_refused_options(kind, options, words):
    """By name."""
    with pytest.raises(InvalidInput, match=words):
        kind(**options)


def test_gradients_stay_finite_where_one_wins_by_far():
    """A positive that is 2e4 above or below its negatives."""
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    found = InfoNCE(0.01)(logits, torch.tensor([[1.0, 0.0]] * 2), torch.ones(2, 2, dtype=torch.bool))
    found.sum().backward()
    assert found.tolist() == pytest.approx([0.0, 2e6])
    np.testing.assert_allclose(logits.grad, [[0, 0], [-100, 100]], rtol=1e-5)


def test_any_of_several_relevant_documents_will_do() -> None:
    """Where one of two is far ahead the loss is almost nothing, and the likelier one is lifted most."""
    loss = MILNCE()
    logits = torch.tensor([[9.0, -3.0, 0.0]], requires_grad=True)
    labels, mask = torch.tensor([[1.0, 1.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool)
    value = loss(logits, labels, mask)
    assert value.item() < 2e-4
    even = torch.tensor([[1.0, 0.0, 1.0]], requires_grad=True)
    loss(even, labels, mask).sum().backward()
    assert even.grad[0, 0] < even.grad[0, 1] < 0 < even.grad[0, 2]
