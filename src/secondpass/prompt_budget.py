"""Texts cut to a token budget for a prompt: the best first, whole sentences only, and a record of what was left out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from secondpass.limits import positive_int
from secondpass.sentences import sentences
from secondpass.text import checked_documents

TokenEnds = Callable[[str], Sequence[int]]
"""A text to the place in it where each of its tokens ends, never falling."""


@dataclass(frozen=True, slots=True)
class Portion:
    """What of one text goes into the prompt: text[:end], `kept` of its `tokens`; end 0 leaves it out."""

    end: int
    kept: int
    tokens: int


def fitted(texts: Sequence[str], token_ends: TokenEnds, max_tokens: int, overhead: int = 0) -> list[Portion]:
    """Fill a budget with texts in their order.

    Whole texts as long as they fit; of the first that does not, as many whole sentences from its beginning as fit;
    none of those behind it, which the ranking holds for worse.

    Args:
        texts: best first.
        token_ends: of the tokenizer whose tokens are counted.
        max_tokens: of all texts together, `overhead` for each included.
        overhead: tokens that the prompt puts around a text (a number, a title, a line break).

    Returns:
        A portion per text.

    Raises:
        InvalidInput: an argument is refused; the message names it.
    """
    checked_documents(texts, "texts")
    left = positive_int(max_tokens, "max_tokens")
    full = False
    made = []
    for text in texts:
        ends = token_ends(text)
        portion = Portion(0, 0, len(ends))
        if not full and overhead < left:
            portion = _portion(text, ends, left - overhead)
        full = full or portion.end < len(text)
        left -= portion.kept + overhead if portion.end else 0
        made.append(portion)
    return made


def _portion(text: str, ends: Sequence[int], room: int) -> Portion:
    if len(ends) <= room:
        return Portion(len(text), len(ends), len(ends))
    best = Portion(0, 0, len(ends))
    for span in sentences(text):
        # a token that reaches beyond the sentence counts: the text that is kept has at least a part of it
        kept = bisect_right(ends, span.end)
        kept += kept < len(ends) and (ends[kept - 1] if kept else 0) < span.end
        if kept > room:
            break
        best = Portion(span.end, kept, len(ends))
    return best
