"""InfoNCE: which documents are against which, and sentence-transformers' values."""

from __future__ import annotations

from dataclasses import replace
from math import log, log2

import numpy as np
import pytest
import torch
from sentence_transformers.cross_encoder import losses as st_losses
from torch import nn

from secondpass.errors import InvalidInput
from secondpass.training.losses.loss import Teachings
from secondpass.training.losses.ranking import (
    ADRMSE,
    MILNCE,
    PAIRS,
    WEIGHTINGS,
    CachedInfoNCE,
    InfoNCE,
    KLDistillation,
    LabelledDistillation,
    LambdaLoss,
    ListMLE,
    ListNet,
    MarginMSE,
    PListMLE,
    RankNet,
)
from tests.training.losses.ragged import Ragged, drawn, padded, units
from tests.training.losses.references import gains, kl_distillation, lambda_loss, margin_mse, of_all, ranks, taught
from tests.training.losses.theirs import assert_same, given, of_lists

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


LISTS = (5, 2, 7, 3)


@pytest.mark.parametrize(
    ("loss", "theirs"),
    [
        (ListNet(), st_losses.ListNetLoss),
        (ListMLE(), lambda model: st_losses.ListMLELoss(model, respect_input_order=False)),
        (PListMLE(), lambda model: st_losses.PListMLELoss(model, respect_input_order=False)),
        (ADRMSE(), st_losses.ADRMSELoss),
        (ADRMSE(2.5), lambda model: st_losses.ADRMSELoss(model, alpha=2.5)),
    ],
    ids=["listnet", "listmle", "p_listmle", "adr_mse", "adr_mse steep"],
)
def test_equal_to_sentence_transformers_of_listwise(loss, theirs):
    """Means and gradients are equal on lists of two documents or more with no equal labels.

    Both divide by the number of lists, and for ADR-MSE by that of documents.
    """
    ragged = drawn(loss, 1, LISTS, ties=False)
    model = given(ragged)
    assert_same(loss, ragged, model, of_lists(theirs(model), ragged))


@pytest.mark.parametrize(("loss", "more"), [(ListNet(), 5 / 4), (ADRMSE(), 18 / 17)], ids=["listnet", "adr_mse"])
def test_lists_of_one_document(loss, more):
    """They say nothing: sentence-transformers divides by them too, so theirs is smaller by as much."""
    ragged = drawn(loss, 1, (*LISTS, 1), ties=True)
    model = given(ragged)
    theirs = of_lists({ListNet: st_losses.ListNetLoss, ADRMSE: st_losses.ADRMSELoss}[type(loss)](model), ragged)
    assert_same(loss, ragged, model, theirs * more)


@pytest.mark.parametrize(
    ("loss", "theirs"),
    [(ListMLE(), st_losses.ListMLELoss), (PListMLE(), st_losses.PListMLELoss)],
    ids=["plain", "position"],
)
def test_equal_labels_keep_the_order_of_the_group(loss, theirs):
    """The earlier document counts as the better: with labels sorted, that is their default of trusting the order."""
    ragged = drawn(loss, 2, (6, 4, 3))
    ragged = Ragged(ragged.logits, [np.sort(labels)[::-1].copy() for labels in ragged.labels])
    assert all(len(set(labels)) in range(2, len(labels)) for labels in ragged.labels[:2])
    ragged.labels[2][:] = 1.0, 1.0, 0.0
    model = given(ragged)
    assert_same(loss, ragged, model, of_lists(theirs(model), ragged))


@pytest.mark.parametrize("loss", [ListNet(), KLDistillation(), ADRMSE()], ids=["listnet", "kl", "adr_mse"])
def test_the_order_of_the_group_is_no_matter_elsewhere(loss):
    """Shuffled groups with equal labels give the same loss."""
    ragged = drawn(loss, 3)
    order = [np.random.default_rng(0).permutation(len(labels)) for labels in ragged.labels]
    shuffled = Ragged(*([group[o] for group, o in zip(x, order, strict=True)] for x in (ragged.logits, ragged.labels)))
    assert units(loss, shuffled).sum() == pytest.approx(units(loss, ragged).sum(), rel=1e-12)


def test_equal_logits_meet_equal_labels():
    """ADR-MSE is 0 if all labels and all logits are equal: a mean rank can be met."""
    logits, mask = torch.full((1, 4), 3.0), torch.ones(1, 4, dtype=torch.bool)
    assert ADRMSE()(logits, torch.ones(1, 4), mask).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4])
def test_kl_distillation(temperature):
    """It equals the formula and torch's divergence, and is 0 for a student like its teacher but for a constant."""
    loss = KLDistillation(temperature)
    ragged = drawn(loss, 4, LISTS, ties=False)
    np.testing.assert_allclose(units(loss, ragged), of_all(kl_distillation(temperature), ragged.groups), rtol=1e-9)
    torchs = [
        torch.nn.functional.kl_div(
            (torch.tensor(logits) / temperature).log_softmax(0),
            (torch.tensor(labels) / temperature).softmax(0),
            reduction="sum",
        )
        for logits, labels in ragged.groups
    ]
    np.testing.assert_allclose(units(loss, ragged), np.array(torchs) * temperature**2, rtol=1e-9)
    alike = Ragged([labels + 5 for labels in ragged.labels], ragged.labels)
    np.testing.assert_allclose(units(loss, alike), 0, atol=1e-12)


def test_long_lists():
    """Of 400 documents, where 2^n is no float32: the first places count, and the value is that in float64."""
    for loss in (PListMLE(), ListMLE(), ListNet()):
        ragged = drawn(loss, 5, (400,), ties=False)
        logits, labels, mask = padded(ragged)
        found = loss(logits, labels, mask)
        found.sum().backward()
        assert torch.isfinite(logits.grad).all()
        np.testing.assert_allclose(found.detach(), units(loss, ragged), rtol=1e-5)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "hot", None, True])
def test_refused_options_of_listwise(value):
    """Neither can be anything but a number above 0."""
    with pytest.raises(InvalidInput, match=r"^temperature="):
        KLDistillation(value)
    with pytest.raises(InvalidInput, match=r"^alpha="):
        ADRMSE(value)


def teachings(ragged: Ragged, weights: list[float], label_weights: list[float]) -> tuple[Teachings, list[np.ndarray]]:
    """Random scores for every document, rubbish at masked places, and the scores of each group."""
    random = np.random.default_rng(9)
    scores = [random.normal(size=len(labels)) for labels in ragged.labels]
    _, grid, _ = padded(Ragged(ragged.logits, scores), torch.float64)
    return Teachings(grid, *(torch.tensor(made, dtype=torch.float64) for made in (weights, label_weights))), scores


def test_a_teacher_and_labels_at_once() -> None:
    """The weighted sum that the class states, list by list; a weight of 0 leaves its term out, bit for bit."""
    loss = LabelledDistillation(margin=0.3)
    ragged = drawn(loss, 3)
    weights, label_weights = [1.0, 0.5, 0.0, 1.0, 2.0, 0.25], [0.5, 1.0, 1.0, 1.0, 0.0, 2.0]
    given, scores = teachings(ragged, weights, label_weights)
    logits, labels, mask = padded(ragged, torch.float64)
    found = loss(logits, labels, mask, given)
    expected = [
        taught(*group, score, *counts, 0.3)
        for group, score, *counts in zip(ragged.groups, scores, weights, label_weights, strict=True)
        if len(score) > 1
    ]
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9)
    found.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[~mask].any()
    nobody = Teachings(torch.zeros_like(labels), torch.zeros(6), torch.ones(6))
    assert torch.equal(loss(logits, labels, mask, nobody), loss(logits, labels, mask))


def test_a_student_that_agrees_with_its_teacher_is_left_alone() -> None:
    """Logits that differ from the scores by a constant have no loss and no gradient; labels move them."""
    loss = LabelledDistillation()
    logits = torch.tensor([[1.0, -2.0, 0.5]], requires_grad=True)
    mask = torch.ones(1, 3, dtype=torch.bool)
    given = Teachings(logits.detach() + 7, torch.ones(1), torch.ones(1))
    value = loss(logits, torch.zeros(1, 3), mask, given)
    value.sum().backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(logits.grad, torch.zeros(1, 3), atol=1e-6, rtol=0)
    loss(logits, torch.tensor([[0.0, 1.0, 0.0]]), mask, given).sum().backward()
    assert logits.grad[0, 1] < 0 < logits.grad[0, 0]


def test_a_margin_below_zero_is_refused() -> None:
    """It would reward distance from the teacher."""
    with pytest.raises(InvalidInput, match=r"margin=-0\.1 is below 0"):
        LabelledDistillation(margin=-0.1)


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
def test_refused_options_of_pairwise(make, words):
    """By name."""
    with pytest.raises(InvalidInput, match=words):
        make()
