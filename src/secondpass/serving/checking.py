"""What texts a request may bring."""

from __future__ import annotations

from secondpass.serving.problems import Problem, invalid
from secondpass.serving.settings import Settings
from secondpass.serving.shapes.parts import Work, indices
from secondpass.text import is_blank

# OpenSearch hands over an empty string for a field that a hit lacks or that a `_source` filter dropped.
ALL_BLANK = (
    "every document is blank; a search engine sends empty texts when its hits lack the configured field or a _source "
    "filter dropped it"
)


def check_texts(work: Work, settings: Settings) -> tuple[str, ...]:
    """Refuse what no ranking can come of; returns warnings about the rest.

    Raises:
        Problem: 422, naming the field and the index.
    """
    count = len(work.documents)
    if count > settings.max_documents:
        raise invalid(f"{work.field}: {count} are more than the {settings.max_documents} that one request may have")
    for name, texts in (("query", work.queries), (work.field, work.documents)):
        for index, text in enumerate(texts):
            if len(text) > settings.max_characters:
                place = name if name == "query" and work.field != "pairs" else f"{name}[{index}]"
                raise invalid(f"{place} has {len(text)} characters, more than {settings.max_characters}")
            if name == "query" and is_blank(text):
                raise blank_query(work, index)
    blank = [index for index, text in enumerate(work.documents) if is_blank(text)]
    if len(blank) == count:
        raise invalid(f"{work.field}: {ALL_BLANK}")
    return (f"blank {work.field}: {indices(blank)}",) if blank else ()


def blank_query(work: Work, index: int) -> Problem:
    """422: the query of that document says nothing."""
    return invalid(f"{f'pairs[{index}][0]' if work.field == 'pairs' else 'query'} is blank")
