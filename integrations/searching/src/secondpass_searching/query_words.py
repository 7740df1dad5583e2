"""Long queries for engines that take 1,024 clauses at most; the reranker reads them whole."""

from __future__ import annotations

import re

MOST = 1_024
"""Elasticsearch's and OpenSearch's indices.query.bool.max_clause_count, as far as nobody raised it."""
# The standard tokenizer makes a term of every Chinese character, of every kana here (it joins some) and of every emoji,
IDEOGRAPHS = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
EMOJI = r"\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
ALONE = IDEOGRAPHS + EMOJI
# and one of every run of other letters and digits, which it cuts after 255 UTF-16 units.
TERM = re.compile(rf"[{ALONE}]|[^\W_{ALONE}]{{1,127}}")


def most_words(fields: int) -> int:
    """Terms that a query over so many fields may have: each is a clause in every field."""
    return max(1, MOST // fields)


def shortened(query: str, most: int = MOST) -> str:
    """The beginning of `query` that has `most` terms at most; the query itself if it has no more.

    A term counts as often as it stands there, as the engines count.
    """
    if len(query) <= most:
        return query
    end = 0
    for count, term in enumerate(TERM.finditer(query)):
        if count == most:
            return query[:end]
        end = term.end()
    return query
