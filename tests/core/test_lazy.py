"""lazy: public names that are imported when first asked for."""

from __future__ import annotations

import pytest

import secondpass


def test_a_public_name_is_loaded_once() -> None:
    """The first use imports it, later ones find it in the package."""
    vars(secondpass).pop("Cut", None)
    assert secondpass.Cut.__module__ == "secondpass.record"
    assert "Cut" in vars(secondpass)


def test_public_names_are_listed_before_they_are_loaded() -> None:
    """Tab completion and `dir` know them."""
    assert set(secondpass.__all__) < set(dir(secondpass))


def test_another_name_is_no_attribute() -> None:
    """A misspelt name fails as in any module."""
    with pytest.raises(AttributeError, match="module 'secondpass' has no attribute 'CrossEncode'"):
        secondpass.CrossEncode  # noqa: B018


def test_names_of_newer_generations_are_told_what_does_the_same() -> None:
    """An import of sentence-transformers' trainer or evaluators says what to use here."""
    with pytest.raises(ImportError, match=r"CrossEncoderTrainer: secondpass\.training\.train"):
        from secondpass import CrossEncoderTrainer  # noqa: F401
    with pytest.raises(ImportError, match=r"CrossEncoderRerankingEvaluator: CERerankingEvaluator$"):
        from secondpass.evaluation import CrossEncoderRerankingEvaluator  # noqa: F401
