"""Rules of `secondpass.ranking`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secondpass.activations import SIGMOID, Activation, Elementwise, as_torch, default_activation
from secondpass.errors import InvalidInput, MissingExtra, NonFiniteScore
from secondpass.ranking import (
    BLANK_LOGIT,
    BLOCK,
    Bar,
    Flags,
    Ranked,
    Ranking,
    activated,
    by_label,
    checked_relevance,
    checked_top_k,
    converted,
    order,
    ranked,
    rankings,
    relevance_logits,
)
from secondpass.record import CallRecord, Cut
from secondpass.scoring import Scored


def test_ties_keep_the_callers_order() -> None:
    """Stable: the first pass's order decides between equals."""
    scores = np.array([0.5, 0.9, 0.5, 0.9, 0.5])
    assert order(scores, scores) == [1, 3, 0, 2, 4]


def test_logits_tell_saturated_scores_apart() -> None:
    """sigmoid(18) == sigmoid(40) == 1 in float32, yet 40 comes first."""
    logits = np.array([18.0, 40.0, 19.0], np.float32)
    scores = activated(logits[:, None], SIGMOID, False)[:, 0]
    assert scores.tolist() == [1.0, 1.0, 1.0]
    assert order(scores, logits) == [1, 2, 0]


def test_scores_decide_before_logits() -> None:
    """An activation that turns the order around is obeyed, as the seed sorts by score."""
    logits = np.array([1.0, 2.0, 3.0])
    assert order(-logits, logits) == [0, 1, 2]


def ordered(logits: list[float], activation: Activation, **options: Any) -> list[Ranked]:
    """One query's documents."""
    (made,) = ranked(np.array(logits, np.float32)[:, None], activation, **options)
    return list(made)


def flags(*values: int) -> Flags:
    """Which documents are blank."""
    return np.array(values, np.bool_)


@pytest.mark.parametrize("count", [2, 3, 31, 33, 65, 257, 1000])
def test_equal_logits_tie_wherever_they_are(count: int) -> None:
    """Equal texts have equal scores and keep their order, whatever their number."""
    for activation in (nn.Sigmoid(), nn.GELU(), nn.Softmax(dim=0), torch.rand_like):
        made = ordered([1.234] * count, activation)
        assert [document.index for document in made] == list(range(count))
        assert len({document.score for document in made}) == 1


def test_a_rising_activation_keeps_the_order_of_the_logits() -> None:
    """Also where it is saturated, or rounds."""
    generator = torch.Generator().manual_seed(5)
    logits = (torch.randn(3000, generator=generator) * 8).tolist()
    expected = np.argsort(-np.asarray(logits, np.float32), kind="stable").tolist()
    for activation in (nn.Identity(), nn.Sigmoid(), torch.tanh, nn.ReLU(), nn.Sequential(nn.Tanh(), nn.Sigmoid())):
        made = ordered(logits, activation)
        assert [document.index for document in made] == expected
        scores = [document.score for document in made]
        assert scores == sorted(scores, reverse=True)


def test_any_other_activation_is_obeyed() -> None:
    """One that falls turns the order round, as the seed sorts by score."""
    assert [document.index for document in ordered([1.0, 3.0, 2.0], torch.neg)] == [0, 2, 1]
    assert [document.index for document in ordered([-0.5, -3.0, 1.0], nn.SiLU())] == [2, 1, 0]


@pytest.mark.parametrize("activation", [nn.Identity(), nn.Sigmoid(), torch.neg, torch.square, nn.SiLU()])
def test_blank_documents_come_last_with_the_lowest_score(activation: Activation) -> None:
    """Whatever the model says of them and whatever the activation, in the given order."""
    made = ordered([0.5, 9.0, -0.25, 8.0, 2.0], activation, blank=flags(0, 1, 0, 1, 0))
    assert [document.index for document in made][3:] == [1, 3]
    assert made[3].score == made[4].score <= min(document.score for document in made[:3])
    assert {document.logit for document in made[3:]} == {BLANK_LOGIT}
    assert sorted(document.logit for document in made[:3]) == [-0.25, 0.5, 2.0]


def test_a_blank_document_is_below_the_lowest_logit() -> None:
    """Also where a model goes further down than any for ranking does."""
    made = ordered([-300.0, 5.0, -200.0], nn.Identity(), blank=flags(0, 1, 0))
    assert [(document.index, document.logit) for document in made] == [(2, -200.0), (0, -300.0), (1, -300.0)]


def test_an_activation_that_has_no_number_for_blank_documents() -> None:
    """They get the lowest of the others; what is said of the others stays an error."""
    made = ordered([4.0, 0.0, 9.0], torch.sqrt, blank=flags(0, 1, 0))
    assert [(document.index, document.score) for document in made] == [(2, 3.0), (0, 2.0), (1, 2.0)]
    assert [document.score for document in ordered([4.0], torch.sqrt, blank=flags(1))] == [BLANK_LOGIT]
    with pytest.raises(NonFiniteScore) as caught:
        ordered([4.0, 0.0, -9.0], torch.sqrt, blank=flags(0, 1, 0))
    assert caught.value.indices == (2,)


def test_every_document_may_be_blank() -> None:
    """There is an order then, too."""
    made = ordered([1.0, 2.0], nn.Sigmoid(), blank=flags(1, 1))
    assert [document.index for document in made] == [0, 1]
    assert ordered([], nn.Sigmoid()) == []


def test_the_lowest_grade_is_that_of_blank_documents() -> None:
    """Grades begin with 0: nothing is graded below."""
    logits = np.array([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0], [9.0, 0.0, 0.0]], np.float32)
    (made,) = ranked(logits, nn.Identity(), rule="expected", blank=flags(0, 1, 0))
    assert [document.index for document in made] == [0, 2, 1]
    assert made[2].score == made[2].logit == 0.0
    (made,) = ranked(logits, nn.Sigmoid(), rule=2, blank=flags(0, 1, 0))
    assert [document.index for document in made] == [0, 2, 1]
    assert made[2].logit == BLANK_LOGIT


def test_rankings_give_every_query_its_own_indices_and_cuts() -> None:
    """Shared calls are taken apart without mixing queries; a blank document is below its own query's others."""
    record = CallRecord(5, 9, 1, 0.0, (Cut(1, 0, 7), Cut(4, 1, 0)), 0.0, 0.0, 0.0, 0.0, 0, "cpu", "float32")
    blank = np.zeros((5, 2), np.bool_)
    blank[4, 1] = True
    scored = Scored(np.array([[0.1], [0.2], [5.0], [4.0], [6.0]], np.float32), blank, record)
    parts = rankings(scored, [2, 0, 3], nn.Identity(), None, 2)
    assert [[document.index for document in part.documents] for part in parts] == [[1, 0], [], [0, 1]]
    assert [part.truncated for part in parts] == [(Cut(1, 0, 7),), (), (Cut(2, 1, 0),)]
    assert all(part.record is record for part in parts)


@pytest.mark.parametrize("wrong", [0, -1, True, 1.0, "3"])
def test_top_k_counts_something(wrong: Any) -> None:
    """All when None, else at least one."""
    assert checked_top_k(None) is None
    assert checked_top_k(2) == 2
    with pytest.raises(InvalidInput, match="top_k="):
        checked_top_k(wrong)


def test_a_notebook_shows_a_table() -> None:
    """Place, index, score and logit of each document, and how much of it was not read; numbers only, so no markup."""
    cuts = (Cut(index=1, query_tokens=0, document_tokens=7, characters=0),)
    record = CallRecord(2, 9, 1, 0.0, cuts, 0.0, 0.0, 0.0, 0.0, 0, "cpu", "float32")
    html = Ranking((Ranked(1, 0.75, 1.5), Ranked(0, 0.5, 0.0)), cuts, record)._repr_html_()
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in html.split("<tr>")[2:]]
    assert cells == [["1", "1", "0.7500", "1.5000", "7 tokens"], ["2", "0", "0.5000", "0.0000", ""]]


LOGITS = np.array([[1.0, 2.0], [-3.0, 0.5], [0.0, 0.0]], np.float32)


def test_the_logits_are_left_alone() -> None:
    """An activation that works in place does not change what documents are ranked by."""
    for activation in (nn.ReLU(inplace=True), nn.Hardshrink(3.5), torch.Tensor.zero_):
        logits = LOGITS.copy()
        scores = activated(logits, activation, False)
        scores += 1.0
        assert np.array_equal(logits, LOGITS)


def test_scores_are_ordinary_tensors() -> None:
    """Not inference tensors: they may be changed and enter autograd."""
    for activation in (nn.Identity(), nn.Sigmoid(), torch.square):
        scores = converted(activated(LOGITS, activation, False), "cpu", False, True)
        assert isinstance(scores, torch.Tensor)
        assert not scores.is_inference()
        assert not scores.requires_grad


def test_an_activation_with_weights_needs_no_gradient() -> None:
    """Scoring records no graph."""
    assert activated(LOGITS, nn.PReLU(), False).tolist() == [[1.0, 2.0], [-0.75, 0.5], [0.0, 0.0]]


class Scaled(nn.Module):
    """An activation of the user's own that has a weight, a buffer, or neither; notes where it was asked."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.asked: list[torch.device] = []
        self.scale: Any
        if kind == "buffer":
            self.register_buffer("scale", torch.tensor(2.0), persistent=False)
        else:
            self.scale = nn.Parameter(torch.tensor(2.0)) if kind == "weight" else 2.0

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        self.asked.append(logits.device)
        return logits * self.scale


@pytest.mark.parametrize("kind", ["weight", "buffer", "neither"])
@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
    ],
)
def test_an_activation_is_asked_where_its_weights_are(device: str, kind: str) -> None:
    """One without any is asked on the CPU, where logits are; the scores are there in any case."""
    activation = Scaled(kind).to(device)
    assert activated(LOGITS, activation, False).tolist() == (2 * LOGITS).tolist()
    assert [asked.type for asked in activation.asked] == ["cpu" if kind == "neither" else device]


@pytest.mark.parametrize(
    "activation",
    [
        lambda logits: logits[:-1],
        lambda logits: logits.sum(),
        lambda logits: logits.tolist(),
        lambda logits: None,
    ],
)
def test_an_activation_must_keep_the_rows(activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Scores of other pairs, or of none, are not handed out."""
    with pytest.raises(InvalidInput, match="does not give one row for each of 3 pairs"):
        activated(LOGITS, activation, False)


def test_an_activation_is_not_asked_about_no_pairs() -> None:
    """One that takes a maximum has no answer to that; the shape stays."""
    activations: tuple[Activation, ...] = (nn.Sigmoid(), lambda logits: logits / logits.max())
    for activation in activations:
        assert activated(LOGITS[:0], activation, True).shape == (0, 2)


def test_nan_of_an_activation_names_the_pairs() -> None:
    """NaN has no place in an order; infinity has one, at an end."""
    with pytest.raises(NonFiniteScore, match=r"gave NaN for pairs \[1\]$") as caught:
        activated(LOGITS, torch.sqrt, False)
    assert caught.value.indices == (1,)
    assert np.isinf(activated(LOGITS[2:], torch.log, False)).all()


def test_softmax_is_over_the_labels_after_the_activation() -> None:
    """For several labels only."""
    expected = torch.softmax(torch.tanh(torch.from_numpy(LOGITS)), 1)
    assert np.allclose(activated(LOGITS, nn.Tanh(), True), expected)
    assert np.array_equal(activated(LOGITS[:, :1], nn.Identity(), True), LOGITS[:, :1])


@pytest.mark.parametrize(("labels", "shape"), [(1, (3,)), (2, (3, 2))])
def test_one_label_loses_its_axis(labels: int, shape: tuple[int, ...]) -> None:
    """One number for each pair, or a row."""
    assert by_label(LOGITS[:, :labels], labels).shape == shape


def test_an_activation_may_drop_the_axis_itself() -> None:
    """What is already one number for each pair stays."""
    assert by_label(np.zeros(3), 1).shape == (3,)


@pytest.mark.parametrize(
    ("to_numpy", "to_tensor", "kind"),
    [(True, True, torch.Tensor), (False, True, torch.Tensor), (True, False, np.ndarray), (False, False, list)],
)
def test_a_tensor_wins_over_an_array(to_numpy: bool, to_tensor: bool, kind: type) -> None:
    """The seed's precedence, also for nothing."""
    for rows in (3, 0):
        made = converted(LOGITS[:rows, 0], torch.device("cpu"), to_numpy, to_tensor)
        assert type(made) is kind
        assert len(made) == rows


def test_the_bar_counts_batches_that_were_halved(capsys: pytest.CaptureFixture[str]) -> None:
    """A batch that is split makes the bar longer: it ends full, at the number of batches that ran."""
    with Bar(True) as bar:
        for remaining in (2, 2, 1, 0):
            bar(remaining)
    shown = capsys.readouterr().err
    assert "0/2" in shown
    assert "3/3" in shown
    with Bar(False) as bar:
        bar(1)
        bar(0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "activation",
    [
        nn.Sigmoid(),
        nn.Tanh(),
        nn.LogSigmoid(),
        nn.Softplus(),
        nn.GELU(),
        nn.SiLU(),
        nn.Mish(),
        nn.ELU(),
        nn.Sequential(),
        nn.Sequential(nn.Tanh(), nn.Sequential(nn.Sigmoid(), nn.Identity())),
        torch.sigmoid,
        nn.functional.silu,
    ],
    # a function's repr has its address, and two workers must call a test by one name
    ids=lambda activation: getattr(activation, "__name__", repr(activation)),
)
@pytest.mark.parametrize("labels", [1, 3])
def test_a_score_goes_by_its_logit_alone(activation: Callable[[torch.Tensor], torch.Tensor], labels: int) -> None:
    """Neither its place nor the number of pairs changes a bit, nor does softmax over the labels."""
    count = 2 * 40_000
    logits = np.random.default_rng(3).normal(0, 6, (count, labels)).astype(np.float32)
    for softmax in (False, True):
        whole = activated(logits, activation, softmax)
        assert whole.dtype == np.float32
        for size in (1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, BLOCK - 1, BLOCK, BLOCK + 1, 2000):
            for start in (0, 1, 40_003, count - size):
                part = activated(logits[start : start + size], activation, softmax)
                assert np.array_equal(part, whole[start : start + size])


@given(values=st.lists(st.floats(-40, 40, width=32), min_size=2, max_size=50))
def test_scores_rise_with_their_logits(values: list[float]) -> None:
    """Rounding turns no two of them round, so that an order by logits is one by scores."""
    logits = np.array(sorted(values), np.float32)[:, None]
    for activation in (nn.Sigmoid(), nn.Tanh(), nn.LogSigmoid(), nn.Softplus(), nn.SELU()):
        scores = activated(logits, activation, False)[:, 0]
        assert bool((scores[1:] >= scores[:-1]).all())


def test_equal_logits_have_equal_scores_whatever_the_callable_does() -> None:
    """Of equal rows the first one's, for one label and for several."""

    def by_place(logits: torch.Tensor) -> torch.Tensor:
        return logits + torch.arange(len(logits))[:, None]

    assert activated(np.array([[1.0], [0.0], [1.0], [0.0]], np.float32), by_place, False)[:, 0].tolist() == [1, 1, 1, 1]
    rows = np.array([[1.0, 2.0], [1.0, 3.0], [1.0, 2.0]], np.float32)
    assert activated(rows, by_place, False).tolist() == [[1.0, 2.0], [2.0, 4.0], [1.0, 2.0]]


def test_an_error_of_the_activation_names_the_pairs_as_its_caller_does() -> None:
    """Where only some pairs are activated."""
    with pytest.raises(NonFiniteScore) as caught:
        activated(LOGITS, torch.sqrt, False, [3, 5, 7])
    assert caught.value.indices == (5,)


LOGITS_RELEVANCE = np.array([[1.0, 2.5], [0.0, -3.0]], np.float32)


def test_two_labels_rank_by_the_difference_of_their_logits() -> None:
    """As monoBERT does; the sigmoid of it is the softmax probability."""
    logits = relevance_logits(LOGITS_RELEVANCE, 1)
    assert np.allclose(logits, [1.5, -3.0])
    expected = torch.softmax(torch.from_numpy(LOGITS_RELEVANCE), 1)[:, 1]
    assert np.allclose(activated(logits[:, None], SIGMOID, False)[:, 0], expected)


def test_one_of_several_labels_ranks_by_its_log_odds() -> None:
    """The sigmoid of the log-odds is the softmax probability for any number of labels."""
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    for label in range(5):
        expected = torch.softmax(logits, 1)[:, label]
        made = torch.from_numpy(relevance_logits(logits.numpy(), label))
        assert torch.allclose(torch.sigmoid(made), expected, atol=1e-6)


def test_expected_grade() -> None:
    """Labels are grades 0, 1, 2."""
    logits = np.log(np.array([[0.5, 0.25, 0.25]], np.float32))
    assert relevance_logits(logits, "expected").item() == pytest.approx(0.75)


@pytest.mark.parametrize("rule", [None, -1, 2, True, "auto", 1.0])
def test_a_rule_that_fits_no_label_is_refused(rule: object) -> None:
    """Guessing a label would rank upside down half of the time."""
    with pytest.raises(InvalidInput, match="relevance="):
        checked_relevance(rule, 2)


def test_without_torch_scores_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known activations, softmax and relevance; a callable gets an array; what needs torch names the extra."""
    sizes = np.random.default_rng(0).normal(0, 5, (300, 3)).astype(np.float32)

    def doubled(logits: Any) -> Any:
        return 2 * logits

    def scores() -> list[Any]:
        return [
            activated(sizes, SIGMOID, True).tolist(),
            activated(sizes, doubled, False).tolist(),
            [ranked(sizes, SIGMOID, rule=rule) for rule in (1, "expected")],
            activated(sizes, Elementwise("ELU", (("alpha", 0.5),)), False).tolist(),
        ]

    expected = scores()
    for name in ("torch", "torch.nn"):
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    assert scores() == expected
    kinds: list[type] = []
    activated(sizes, lambda logits: (kinds.append(type(logits)), logits)[1], False)
    assert kinds == [np.ndarray]
    for ask in (
        lambda: converted(sizes, "cpu", True, True),
        lambda: as_torch(SIGMOID),
        lambda: activated(sizes, lambda logits: logits.sigmoid(), False),
    ):
        with pytest.raises(MissingExtra, match=r'pip install "secondpass\[torch\]"'):
            ask()
    assert default_activation(None, "torch.nn.Softmax", 1) == SIGMOID
    with pytest.raises(MissingExtra, match=r"which alone has the activation 'torch\.nn\.Softmax'"):
        default_activation(None, "torch.nn.Softmax", 2)
