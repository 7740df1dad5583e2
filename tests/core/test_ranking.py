"""Rules of `secondpass.ranking`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from secondpass.activations import Activation
from secondpass.engine import Scored
from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.ranking import BLANK_LOGIT, Flags, Ranked, Ranking, checked_top_k, order, ranked, rankings
from secondpass.record import CallRecord, Cut


def test_ties_keep_the_callers_order() -> None:
    """Stable: the first pass's order decides between equals."""
    scores = torch.tensor([0.5, 0.9, 0.5, 0.9, 0.5])
    assert order(scores, scores) == [1, 3, 0, 2, 4]


def test_logits_tell_saturated_scores_apart() -> None:
    """sigmoid(17) == sigmoid(40) == 1 in float32, yet 40 comes first."""
    logits = torch.tensor([17.0, 40.0, 18.0])
    assert torch.sigmoid(logits).tolist() == [1.0, 1.0, 1.0]
    assert order(torch.sigmoid(logits), logits) == [1, 2, 0]


def test_scores_decide_before_logits() -> None:
    """An activation that turns the order around is obeyed, as the seed sorts by score."""
    logits = torch.tensor([1.0, 2.0, 3.0])
    assert order(-logits, logits) == [0, 1, 2]


def ordered(logits: list[float], activation: Activation, **options: Any) -> list[Ranked]:
    """One query's documents."""
    (made,) = ranked(torch.tensor(logits)[:, None], activation, **options)
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
    logits = torch.tensor([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0], [9.0, 0.0, 0.0]])
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
    scored = Scored(torch.tensor([[0.1], [0.2], [5.0], [4.0], [6.0]]), blank, record)
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
    assert "<tr><td>1</td><td>1</td><td>0.7500</td><td>1.5000</td><td>7 tokens</td></tr>" in html
    assert "<tr><td>2</td><td>0</td><td>0.5000</td><td>0.0000</td><td></td></tr>" in html
    assert html.count("<tr>") == 3
