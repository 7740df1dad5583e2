"""Documents that are not where they were written."""

from __future__ import annotations

from secondpass.corpora import CorpusDocument
from secondpass_indexing.lost import ASKED_AT_ONCE, lost


def test_missing_documents_are_found_in_order_and_dead_ones_are_not_missed() -> None:
    """However many questions it takes."""
    documents = [CorpusDocument(f"d{place}", "", "") for place in range(2 * ASKED_AT_ONCE + 5)]
    asked: list[int] = []

    def present(ids) -> set[str]:
        asked.append(len(ids))
        return set(ids) - {"d0", "d1500", "d2004"}

    found = list(lost(enumerate(documents), {"d1", "d2004"}, present))
    assert [[place for place, _ in chunk] for chunk in found] == [[0], [1500]]
    assert asked == [1000, 1000, 3]
    assert list(lost(enumerate(documents), set(), set)) == []
