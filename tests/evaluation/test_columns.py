"""columns: ids of queries and documents."""

from __future__ import annotations

import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.columns import column_of, string_id


def test_an_id_is_a_str_with_something_in_it() -> None:
    """Anything else is refused with its type."""
    assert string_id("7", "query") == "7"
    with pytest.raises(InvalidInput, match="query id 7 is int, not str"):
        string_id(7, "query")
    with pytest.raises(InvalidInput, match="document id is empty"):
        string_id("", "document")


@pytest.mark.parametrize("bad", ["", " ", "a b", "a\t", "\u00a0"])
def test_a_column_has_no_white_space(bad: str) -> None:
    """It would shift the columns after it."""
    assert column_of("a-1") == "a-1"
    with pytest.raises(InvalidInput, match="white space"):
        column_of(bad)
