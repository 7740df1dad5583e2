"""changes: the queries helped and hurt most."""

from __future__ import annotations

import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.changes import changes
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run

QRELS = Qrels({query: {"x": 1, "y": 0} for query in ("up", "far", "down", "same", "lost")})
FIRST = Run("first", {"up": [("a", 2), ("x", 1)], "far": [("y", 3), ("a", 2), ("x", 1)], "down": [("x", 1), ("a", 0)],
                      "same": [("x", 1)], "lost": [("x", 1)]})  # fmt: skip
SECOND = Run("second", {"up": [("x", 2), ("a", 1)], "far": [("x", 3), ("y", 2), ("a", 1)], "down": [("a", 1), ("x", 0)],
                        "same": [("x", 1)]})  # fmt: skip
BEFORE = {"up": 0.5, "far": 1 / 3, "down": 1.0, "same": 1.0, "lost": 1.0}
AFTER = {"up": 1.0, "far": 1.0, "down": 0.5, "same": 1.0, "lost": 0.0}


def test_the_greatest_changes_come_first() -> None:
    """Helped and hurt, each by size; a query that did not change is in neither."""
    helped, hurt = changes(QRELS, FIRST, SECOND, BEFORE, AFTER)
    assert [change.query for change in helped] == ["far", "up"]
    assert [change.query for change in hurt] == ["lost", "down"]
    assert [change.difference for change in hurt] == [-1.0, -0.5]


def test_a_change_shows_its_text_and_ranks() -> None:
    """The ranks of the best relevant document (grade 1 and up), None where there is none, and the text if known."""
    helped, hurt = changes(QRELS, FIRST, SECOND, BEFORE, AFTER, texts={"far": "how far?"})
    assert (helped[0].text, helped[0].first_rank, helped[0].second_rank) == ("how far?", 3, 1)
    assert (helped[1].text, helped[1].first, helped[1].second) == ("", 0.5, 1.0)
    assert (hurt[0].first_rank, hurt[0].second_rank) == (1, None)


def test_count_bounds_each_kind() -> None:
    """At most so many of either; none at all for 0."""
    helped, hurt = changes(QRELS, FIRST, SECOND, BEFORE, AFTER, count=1)
    assert [change.query for change in (*helped, *hurt)] == ["far", "lost"]
    assert changes(QRELS, FIRST, SECOND, BEFORE, AFTER, count=0) == ((), ())


def test_equal_changes_keep_the_order_of_the_values() -> None:
    """The same input always shows the same queries."""
    helped, hurt = changes(QRELS, FIRST, SECOND, {"b": 0, "a": 0, "d": 1, "c": 1}, {"a": 1, "b": 1, "c": 0, "d": 0})
    assert ([change.query for change in helped], [change.query for change in hurt]) == (["b", "a"], ["d", "c"])


def test_bad_input_is_refused_by_name() -> None:
    """A query with one value, and a negative count."""
    with pytest.raises(InvalidInput, match="query 'b' has a value in one pass only"):
        changes(QRELS, FIRST, SECOND, {"a": 1.0}, {"a": 1.0, "b": 1.0})
    with pytest.raises(InvalidInput, match="count=-1"):
        changes(QRELS, FIRST, SECOND, BEFORE, AFTER, count=-1)
