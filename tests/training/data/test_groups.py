"""Groups that belong to one query, joined without losing a document."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.errors import InvalidInput
from secondpass.training.data.groups import Group, merged


def test_length_is_the_number_of_documents():
    """What batches count."""
    assert len(Group("q", ("a", "b"), (1.0, 0.0))) == 2


def test_groups_of_a_query_are_joined_in_order():
    """First appearance decides the order of queries and of documents, and the source."""
    rows = [
        Group("q1", ("a",), (1.0,), "f:1"),
        Group("q2", ("b",), (1.0,), "f:2"),
        Group("q1", ("c", "a"), (0.0, 1.0), "f:3"),
    ]
    assert list(merged(rows)) == [
        Group("q1", ("a", "c"), (1.0, 0.0), "f:1"),
        Group("q2", ("b",), (1.0,), "f:2"),
    ]


def test_equal_texts_with_different_ids_are_different_queries():
    """And the same id with another text is too: neither text is lost."""
    rows = [Group("q", ("a",), (1.0,), query_id="1"), Group("q", ("b",), (0.0,), query_id="2")]
    assert list(merged(rows)) == rows
    rows = [Group("q", ("a",), (1.0,), query_id="1"), Group("p", ("b",), (0.0,), query_id="1")]
    assert list(merged(rows)) == rows


def test_two_labels_of_one_document_are_both_kept():
    """Whether that is an error is for the check to say; here nothing may vanish."""
    rows = [Group("q", ("a",), (1.0,)), Group("q", ("a",), (0.0,))]
    assert list(merged(rows)) == [Group("q", ("a", "a"), (1.0, 0.0))]


def test_ids_come_along():
    """A document seen first without its id still gets it."""
    rows = [Group("q", ("a", "b"), (1.0, 0.0)), Group("q", ("a",), (1.0,), document_ids=("d1",))]
    assert list(merged(rows)) == [Group("q", ("a", "b"), (1.0, 0.0), document_ids=("d1", ""))]


@pytest.mark.parametrize(
    "group", [Group("q", ("a", "b"), (1.0,), "f:3"), Group("q", ("a",), (1.0,), "f:3", document_ids=("1", "2"))]
)
def test_uneven_groups_are_refused(group):
    """A label or id without a document is named, not cut off."""
    with pytest.raises(InvalidInput, match=r"^f:3: . documents, 1 labels and . ids"):
        list(merged([group]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("pq"), st.sampled_from("abc"), st.sampled_from([0.0, 1.0])), max_size=12))
def test_nothing_is_lost_and_nothing_is_added(rows):
    """The set of (query, document, label) is the same before and after, and each stands there once."""
    groups = list(merged(Group(query, (document,), (label,)) for query, document, label in rows))
    found = [(g.query, d, label) for g in groups for d, label in zip(g.documents, g.labels, strict=True)]
    assert sorted(found) == sorted(set(rows))
    assert len({group.query for group in groups}) == len(groups)
