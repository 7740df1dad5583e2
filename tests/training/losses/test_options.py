"""Options of losses: which values pass, and what the others are told."""

from __future__ import annotations

import re

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.limits import finite_number, positive_number, whole_number
from secondpass.training.losses.options import chosen

KNOWN = ("margin_mse", "ndcg_loss2++", "listmle")


@pytest.mark.parametrize("value", ["margin_mse", "Margin-MSE", "MARGINMSE", "margin mse", "_margin__mse_"])
def test_spellings_of_a_name(value):
    """Case, hyphens, underscores and spaces are no matter."""
    assert chosen(value, KNOWN, "loss") == "margin_mse"
    assert chosen("NDCGLoss2++", KNOWN, "weighting") == "ndcg_loss2++"


@pytest.mark.parametrize(
    ("value", "end"),
    [
        ("list_mlee", "; did you mean listmle?"),
        ("ndcgloss2", "; did you mean ndcg_loss2++?"),
        ("", ""),
        ("\u200blistmle!?\n" * 9, ""),
        ("xyz", ""),
        (None, ""),
        (3, ""),
        (["listmle"], ""),
    ],
)
def test_unknown_names(value, end):
    """The message repeats the value, lists the names, and suggests one only if it is near."""
    whole = f"loss={value!r} is none of margin_mse, ndcg_loss2++, listmle{end}"
    with pytest.raises(InvalidInput, match=f"^{re.escape(whole)}$"):
        chosen(value, KNOWN, "loss")


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), np.float64(2)])
def test_numbers(value):
    """Python's and numpy's pass, as a float."""
    for check in (finite_number, positive_number):
        assert check(value, "sigma") == 2.0
        assert type(check(value, "sigma")) is float
    assert finite_number(-0.5, "mu") == -0.5


@pytest.mark.parametrize("value", [True, False, "1", None, float("nan"), float("inf"), 10**400, 1j, [1.0]])
def test_what_is_no_finite_number(value):
    """It is refused by name."""
    for check in (finite_number, positive_number):
        with pytest.raises(InvalidInput, match=r"^sigma=.* is not a finite number$"):
            check(value, "sigma")


@pytest.mark.parametrize("value", [0, 0.0, -1, np.float32(-3)])
def test_numbers_not_above_zero(value):
    """They are refused where there is nothing to divide by."""
    with pytest.raises(InvalidInput, match=r"^sigma=.* is not above 0$"):
        positive_number(value, "sigma")


def test_whole_numbers():
    """From 0 on, numpy's too; nothing else."""
    assert whole_number(np.int32(3), "count") == 3
    assert whole_number(0, "count") == 0
    for value in (-1, True, 1.0, "1", None, float("nan")):
        with pytest.raises(InvalidInput, match=r"^count=.* is not a whole number from 0 on$"):
            whole_number(value, "count")
