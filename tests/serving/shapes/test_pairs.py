"""Scores of pairs, without an order."""

from __future__ import annotations

import pytest

from secondpass import CrossEncoder
from tests.serving.conftest import Live

PAIRS = [["where is the cat", "the mat"], ["who sat", "a dog"], ["where is the cat", ""]]


def test_scores_come_in_the_order_of_the_pairs(live: Live, tiny: CrossEncoder) -> None:
    """Those of `predict`; logits on demand. A blank document is never relevant, whatever the model says."""
    answer = live.client.post("/score", json={"pairs": PAIRS}).json()
    assert answer["scores"] == pytest.approx([*tiny.predict(PAIRS[:2]).tolist(), 0.0], abs=1e-6)
    assert answer["meta"]["warnings"] == ["blank pairs: 2"]
    raw = live.client.post("/score", json={"pairs": PAIRS, "raw_scores": True}).json()["scores"]
    logits = [item.logit for query, text in PAIRS[:2] for item in tiny.rank_many([query], [[text]])[0].documents]
    assert raw == pytest.approx([*logits, -100.0], abs=1e-5)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([["a"]], "pairs[0]: is not a list of two strings"),
        ([["a", "b"], ["a", 1]], "pairs[1]: is not a list of two strings"),
        (["ab"], "pairs[0]: is not a list of two strings"),
        ([], "pairs: "),
        ([["a", "b"], [" ", "b"]], "pairs[1][0] is blank"),
        ([["a", " "]], "pairs: every document is blank"),
    ],
)
def test_wrong_pairs_are_named(live: Live, pairs: list[object], said: str) -> None:
    """By index."""
    answer = live.client.post("/score", json={"pairs": pairs})
    assert answer.status_code == 422
    assert said in answer.json()["message"]
