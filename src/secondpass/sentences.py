"""Text to sentences as places in it: cautious, so that a sentence is rather too long than broken in two."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from secondpass.errors import InvalidInput

# Where a sentence may end: closing marks after . ! ? … and white space behind them; CJK full stops need no space. A run
# of marks is tried from its beginning alone, else a long one would take the square of its length.
_END = re.compile(r"(?<![.!?…])[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？｡]+[”’」』）]*")
# A blank line, or a line that begins like a list's, ends a sentence whatever stands before it.
_BREAK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*•‣·]|\d{1,3}[.)])\s)")
# What stands before a full stop that is no end: titles, initials, months, "e.g.", "U.S.", "No.".
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"'“‘])(?:(?i:mr|mrs|ms|dr|prof|sr|jr|st|rev|gen|col|capt|lt|sgt|gov|sen|rep|pres|hon|vs|cf|approx|"
    r"ca|fig|figs|eq|eqs|sec|ch|vol|pp|ed|eds|inc|ltd|co|corp|est|dept|univ|etc|al|viz|resp)|No|Nos|no|Jan|Feb|Mar|"
    r"Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|[A-Za-z]|(?:[A-Za-z]\.)+[A-Za-z])\.$"
)
_VISIBLE = re.compile(r"\S")
_LIST_NUMBER = re.compile(r"(?:^|\n)\s*\d{1,3}\.$")
# The longest abbreviation and the mark before it.
_LOOK_BACK = 24


@dataclass(frozen=True, slots=True)
class Span:
    """text[start:end], without white space at its ends."""

    start: int
    end: int


def sentences(text: str, longest: int = 1000) -> list[Span]:
    """Split a text.

    Args:
        text: any string; what is only white space has no sentence.
        longest: characters; a longer sentence is split at white space, so that running text without a full stop
            (tables, logs) still comes in pieces.

    Returns:
        Places of the sentences in order; together they hold every visible character once.

    Raises:
        InvalidInput: `longest` is below 1.
    """
    if longest < 1:
        raise InvalidInput(f"longest={longest} is below 1")
    breaks = {match.start() for match in _BREAK.finditer(text)}
    ends = {match.end() for match in _END.finditer(text) if _is_end(text, match)}
    made: list[Span] = []
    start = 0
    for end in [*sorted(breaks | ends), len(text)]:
        made += _pieces(text, start, end, longest)
        start = end
    return made


def _is_end(text: str, match: re.Match[str]) -> bool:
    mark = match.group()
    if mark[0] in "。！？｡":
        return True
    next_character = _VISIBLE.search(text, match.end())
    follows = next_character.group() if next_character else ""
    # "approx. 5", "said Dr. Smith", "... and so on": a small letter goes on with the sentence.
    if follows.islower():
        return False
    if mark[0] != "." or mark.startswith(".."):
        return True
    before = text[max(0, match.start() - _LOOK_BACK) : match.start() + 1]
    if _LIST_NUMBER.search(before):
        return False
    return not _ABBREVIATION.search(before) or not follows


def _pieces(text: str, start: int, end: int, longest: int) -> Iterator[Span]:
    while True:
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if start == end:
            return
        if end - start <= longest:
            yield Span(start, end)
            return
        cut = next((at for at in range(start + longest, start, -1) if text[at].isspace()), start + longest)
        stop = cut
        while text[stop - 1].isspace():
            stop -= 1
        yield Span(start, stop)
        start = cut
