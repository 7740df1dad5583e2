"""The passage of a document that shares most with the query, by Elasticsearch's own highlighter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from secondpass_elasticsearch.candidates import words_query
from secondpass_elasticsearch.failures import spoken

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

CHARACTERS = 200
# The highlighter analyses the text anew and refuses more than a million characters
# (index.highlight.max_analyzed_offset).
MOST_ANALYSED = 999_999


def best_passages(
    client: Elasticsearch, server: str, index: str, ids: Sequence[str], query: str, fields: Sequence[str]
) -> dict[str, str]:
    """Passages of about 200 characters by id, for documents of one concrete index.

    One request for those that are shown, not for every candidate: cheap. A document that shares no word with the query
    gets its beginning; one without text gets none.

    Raises:
        InvalidInput, NoAnswer, ElasticsearchFailure: as `spoken`.
    """
    options: dict[str, Any] = {
        "type": "unified",
        "number_of_fragments": 1,
        "fragment_size": CHARACTERS,
        "no_match_size": CHARACTERS,
        "max_analyzed_offset": MOST_ANALYSED,
        "order": "score",
        "pre_tags": [""],
        "post_tags": [""],
    }
    highlight = {
        "fields": {field: {"highlight_query": words_query(query, [field])} for field in fields},
        **options,
    }
    with spoken(server):
        answer = client.search(
            index=index,
            size=len(ids),
            query={"ids": {"values": list(ids)}},
            highlight=highlight,
            source=False,
            allow_partial_search_results=False,
        ).body
    passages = {}
    for hit in answer["hits"]["hits"]:
        found = hit.get("highlight", {})
        # The last field is the body where a title comes first.
        shown = next((found[field][0] for field in reversed(fields) if found.get(field)), None)
        if shown is not None:
            passages[hit["_id"]] = shown
    return passages
