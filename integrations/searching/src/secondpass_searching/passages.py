"""The passage of a document that shares most words with the query, by the engine's own highlighter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secondpass_searching.candidates import FirstPass, words_query
from secondpass_searching.query_words import shortened
from secondpass_searching.searched_index import SearchedIndex

CHARACTERS = 200
# The highlighter analyses the text anew and refuses more than a million characters (index.highlight.max_...).
MOST_ANALYSED = 999_999
AT_ONCE = 1_000


def best_passages(index: SearchedIndex, concrete: str, ids: Sequence[str], first: FirstPass) -> dict[str, str]:
    """Passages of about 200 characters by id, for documents of one concrete index.

    For those that are shown, not for every candidate: cheap. A document that shares no word with the query gets its
    beginning; one without text gets none.

    Raises:
        InvalidInput, SecondPassError: as `SearchedIndex.hits`.
    """
    passages: dict[str, str] = {}
    for start in range(0, len(ids), AT_ONCE):
        some = list(ids[start : start + AT_ONCE])
        body = {
            "size": len(some),
            "query": {"ids": {"values": some}},
            "highlight": _highlight(index.engine.analysed_key, first),
            "_source": False,
            "track_total_hits": False,
        }
        for hit in index.hits(body, concrete):
            found = hit.get("highlight", {})
            # The last field is the body where a title comes first.
            shown = next((found[field][0] for field in reversed(first.fields) if found.get(field)), None)
            if shown is not None:
                passages[hit["_id"]] = shown
    return passages


def _highlight(analysed_key: str, first: FirstPass) -> dict[str, Any]:
    words = shortened(first.query)
    return {
        "type": "unified",
        "number_of_fragments": 1,
        "fragment_size": CHARACTERS,
        "no_match_size": CHARACTERS,
        analysed_key: MOST_ANALYSED,
        "order": "score",
        "pre_tags": [""],
        "post_tags": [""],
        "fields": {field: {"highlight_query": words_query(words, [field])} for field in first.fields},
    }
