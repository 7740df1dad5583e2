"""The name of training data changes with anything that is learnt from, and with nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from secondpass.training.data.fingerprints import fingerprint
from secondpass.training.data.groups import Group

ONE, TWO = Group("q", ("a", "b"), (1.0, 0.0), "f:1", "7", ("x", "y")), Group("é\ud800", ("c",), (-0.5,))


def test_what_does_not_count():
    """Where it was read, ids, and how it is handed over."""
    moved = [replace(ONE, source="g:9", query_id="", document_ids=()), TWO]
    assert fingerprint(moved) == fingerprint(iter([ONE, TWO]))
    assert len(fingerprint([])) == 64


@pytest.mark.parametrize(
    "other",
    [
        [],
        [ONE],
        [TWO, ONE],
        [ONE, TWO, TWO],
        [replace(ONE, query="q "), TWO],
        [replace(ONE, query="qa", documents=("", "b")), TWO],
        [replace(ONE, documents=("ab", "")), TWO],
        [replace(ONE, documents=("b", "a")), TWO],
        [replace(ONE, labels=(0.0, 1.0)), TWO],
        [replace(ONE, labels=(math.nextafter(1.0, 0), 0.0)), TWO],
        [Group("q", ("a",), (1.0,)), Group("q", ("b",), (0.0,)), TWO],
    ],
)
def test_what_counts(other):
    """Texts, where one ends, labels to the last bit, grouping and order."""
    assert fingerprint(other) != fingerprint([ONE, TWO])
