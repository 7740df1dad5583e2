"""Long queries for servers that take so many terms and no more."""

from __future__ import annotations

import re

import pytest

from secondpass_searching.query_words import MOST, most_words, shortened


@pytest.mark.parametrize("query", ["", "a short one", "x" * 50_000, "  \n ", "?!" * 3_000, " ".join(["word"] * MOST)])
def test_queries_of_few_terms_stay(query: str) -> None:
    """However long their terms, or what is between them."""
    assert shortened(query) is query


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        (" ".join(f"w{n}" for n in range(5_000)), r"w\d+"),
        ("a-b_c," * 2_000, "[abc]"),
        ("東京" * 2_000, "[東京]"),
        ("über-größe! " * 900, r"\w+"),
        ("\U0001f600 one" * 2_000, "one|\U0001f600"),
        ("☺" * 2_000, "☺"),
        ("y" * 400_000, "y{127}"),
    ],
)
def test_the_first_terms_are_kept(query: str, terms: str) -> None:
    """Exactly as many as are allowed, and the query's own beginning."""
    short = shortened(query)
    assert query.startswith(short)
    assert len(re.findall(terms, short)) == MOST


def test_a_word_is_a_clause_in_every_field() -> None:
    """So several fields share the limit; there is always room for a word."""
    assert [most_words(fields) for fields in (1, 2, 3, 5_000)] == [1_024, 512, 341, 1]
