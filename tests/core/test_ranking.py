"""Rules of `secondpass.ranking`."""

from __future__ import annotations

import torch

from secondpass.ranking import Ranked, Ranking, order, split
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


def test_a_notebook_shows_a_table() -> None:
    """Place, index, score and logit of each document, and how much of it was not read; numbers only, so no markup."""
    cuts = (Cut(index=1, query_tokens=0, document_tokens=7, characters=0),)
    record = CallRecord(2, 9, 1, 0.0, cuts, 0.0, 0.0, 0.0, 0.0, 0, "cpu", "float32")
    html = Ranking((Ranked(1, 0.75, 1.5), Ranked(0, 0.5, 0.0)), cuts, record)._repr_html_()
    assert "<tr><td>1</td><td>1</td><td>0.7500</td><td>1.5000</td><td>7 tokens</td></tr>" in html
    assert "<tr><td>2</td><td>0</td><td>0.5000</td><td>0.0000</td><td></td></tr>" in html
    assert html.count("<tr>") == 3


def test_split_gives_every_query_its_own_indices_and_cuts() -> None:
    """Shared calls are taken apart without mixing queries."""
    logits = torch.tensor([0.1, 0.2, 5.0, 4.0, 6.0])
    parts = split(logits, logits, [2, 0, 3], (Cut(1, 0, 7), Cut(4, 1, 0)), 2)
    assert [[ranked.index for ranked in documents] for documents, _ in parts] == [[1, 0], [], [2, 0]]
    assert [cuts for _, cuts in parts] == [(Cut(1, 0, 7),), (), (Cut(2, 1, 0),)]
