"""Long queries for engines that take 1,024 clauses at most; the reranker reads them whole."""

from __future__ import annotations

import re

MOST = 1_024
"""Elasticsearch's and OpenSearch's indices.query.bool.max_clause_count, as far as nobody raised it."""
# A standard tokenizer makes a term of every run of letters and digits, and of every Chinese or Japanese character.
ALONE = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
TERM = re.compile(rf"[{ALONE}]|[^\W_{ALONE}]+")


def shortened(query: str, most: int = MOST) -> str:
    """The beginning of `query` that has `most` terms at most; the query itself if it has no more."""
    if len(query) <= most:
        return query
    end = 0
    for count, term in enumerate(TERM.finditer(query)):
        if count == most:
            return query[:end]
        end = term.end()
    return query
