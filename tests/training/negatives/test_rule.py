"""Mining rules: what is refused, and which settings need scores."""

from __future__ import annotations

import json

import pytest

from secondpass.errors import InvalidInput
from secondpass.training.negatives.rule import MiningRule


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"negatives": 0}, "negatives=0"),
        ({"negatives": True}, "negatives=True"),
        ({"first": 0}, "first=0"),
        ({"first": 10, "last": 9}, "last=9 is before first=10"),
        ({"positives": 0}, "positives=0"),
        ({"max_score": float("nan")}, "max_score=nan"),
        ({"absolute_margin": -0.1}, "absolute_margin=-0.1 is below 0"),
        ({"relative_margin": float("inf")}, "relative_margin=inf"),
        ({"rescore_margin": "1"}, "rescore_margin='1'"),
        ({"sampling": "best"}, "sampling='best' is none of top, random"),
        ({"against": "mean"}, "against='mean' is none of lowest, highest"),
        ({"seed": 1.5}, "seed=1.5"),
    ],
)
def test_refused(settings, words):
    """A setting that means nothing is refused by name."""
    with pytest.raises(InvalidInput, match=words):
        MiningRule(**settings)


def test_which_setting_needs_scores():
    """Margins and bounds compare scores; a rank window does not, nor does the cross-encoder's margin."""
    assert MiningRule(first=3, last=9, rescore_margin=0.2).needs_scores is None
    assert MiningRule(relative_margin=0.0).needs_scores == "relative_margin"
    assert MiningRule(min_score=-1.0).needs_scores == "min_score"


def test_plain_values_for_reports():
    """Everything that decides what is mined can be written down."""
    assert MiningRule(**json.loads(json.dumps(MiningRule(last=7).as_json()))) == MiningRule(last=7)
