"""Options that Elasticsearch alone has."""

from __future__ import annotations

from secondpass_elasticsearch.index_creation import SIMILARITIES
from secondpass_elasticsearch.options import Similarity


def test_similarities_are_those_of_the_index() -> None:
    """Said twice, so checked once."""
    assert tuple(Similarity) == SIMILARITIES
