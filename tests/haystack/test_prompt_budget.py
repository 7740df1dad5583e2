"""Rules of `haystack_integrations.components.preprocessors.secondpass.prompt_budget`."""

from __future__ import annotations

import re

import pytest
from haystack_integrations.components.preprocessors.secondpass.prompt_budget import Portion, fitted
from hypothesis import given
from hypothesis import strategies as st

from secondpass.errors import InvalidInput


def words(text: str) -> list[int]:
    """Tokens of a plain kind: words."""
    return [match.end() for match in re.finditer(r"\S+", text)]


def test_whole_texts_as_long_as_they_fit_then_whole_sentences_then_nothing() -> None:
    """What the ranking holds for better is never left out for what it holds for worse."""
    texts = ["One two.", "Three four. Five six seven.", "Eight."]
    assert fitted(texts, words, 4) == [Portion(8, 2, 2), Portion(11, 2, 5), Portion(0, 0, 1)]
    assert fitted(texts, words, 8) == [Portion(8, 2, 2), Portion(27, 5, 5), Portion(6, 1, 1)]
    assert fitted(texts, words, 3) == [Portion(8, 2, 2), Portion(0, 0, 5), Portion(0, 0, 1)]


def test_what_the_prompt_puts_around_a_text_counts() -> None:
    """For every text that is included."""
    texts = ["One two.", "Three."]
    assert [portion.end for portion in fitted(texts, words, 6, overhead=2)] == [8, 0]
    assert [portion.end for portion in fitted(texts, words, 7, overhead=2)] == [8, 6]


@given(
    st.lists(st.text(alphabet=st.sampled_from("ab .!\n"), max_size=40), max_size=6),
    st.integers(1, 30),
    st.integers(0, 5),
)
def test_the_budget_holds_and_only_beginnings_are_kept(texts: list[str], budget: int, overhead: int) -> None:
    """Counted anew, what is kept has no more tokens than it is said to have, and all of it fits."""
    portions = fitted(texts, words, budget, overhead)
    used = sum(portion.kept + overhead for portion in portions if portion.end)
    assert used <= budget
    for text, portion in zip(texts, portions, strict=True):
        assert len(words(text[: portion.end])) <= portion.kept <= portion.tokens == len(words(text))


def test_a_budget_of_nothing_is_refused() -> None:
    """It could only be a mistake."""
    with pytest.raises(InvalidInput, match="max_tokens"):
        fitted(["a"], words, 0)
