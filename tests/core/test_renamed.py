"""Rules of `secondpass.renamed`."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from secondpass import CrossEncoder
from secondpass.renamed import CONSTRUCTOR, SCORING, accepts_renamed


@accepts_renamed({"new": "old", "newest": "old"})
def function(old: Any, other: Any = 2) -> tuple[Any, Any]:
    """Give the arguments back."""
    return old, other


def test_either_name_reaches_the_parameter() -> None:
    """By position, by the old name or by one of the new ones."""
    assert function(1) == function(old=1) == function(new=1) == function(newest=1) == (1, 2)
    assert function(new=None, other=3) == (None, 3)


@pytest.mark.parametrize("names", [{"old": 1, "new": 1}, {"old": None, "newest": 1}, {"new": 1, "newest": 1}])
def test_two_names_for_one_parameter_are_a_mistake(names: dict[str, Any]) -> None:
    """Which one is meant is not guessed, even if both say the same."""
    with pytest.raises(TypeError, match=r"^function\(\) got both 'old' and 'new"):
        function(**names)


def test_position_and_new_name_are_a_mistake() -> None:
    """Python's own error, under the old name."""
    with pytest.raises(TypeError, match="multiple values for argument 'old'"):
        function(1, new=1)


def test_unknown_names_are_refused() -> None:
    """Nothing is swallowed."""
    with pytest.raises(TypeError, match="unknown"):
        function(1, unknown=1)


def test_the_signature_stays() -> None:
    """Tools see the old names only."""
    assert list(inspect.signature(function).parameters) == ["old", "other"]
    assert function.__doc__ == "Give the arguments back."


@pytest.mark.parametrize(
    ("method", "names", "lacks"),
    [
        (CrossEncoder.__init__, CONSTRUCTOR, set()),
        (CrossEncoder.predict, SCORING, set()),
        (CrossEncoder.rank, SCORING, {"sentences"}),
        (CrossEncoder.rank_many, SCORING, {"sentences"}),
    ],
)
def test_every_new_name_has_its_parameter(method: Any, names: dict[str, str], lacks: set[str]) -> None:
    """The tables name parameters that exist, and no parameter is both old and new."""
    parameters = set(inspect.signature(method).parameters)
    assert set(names.values()) - parameters == lacks
    assert parameters.isdisjoint(names)
