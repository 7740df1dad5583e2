"""What is read of texts that are too long: which of the two loses, how much, and at which end. The one place for it.

A policy sees numbers of tokens, never texts: `secondpass.tokens` applies it to what users bring. What an operator
writes around their texts (`secondpass.templates`) is not in these numbers, so it is never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from secondpass.errors import InvalidInput
from secondpass.limits import positive_int

Truncation = Literal["longest_first", "only_document", "error"]
Sharing = Callable[[int, int, int], tuple[int, int]]
"""Tokens of a query and of a document, and the places for both together, to the tokens kept of each."""


def cut_longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths kept of two texts: the longer one loses, then both share `room`, as `tokenizers` cuts."""
    if first + second <= room:
        return first, second
    short = min(first, second)
    long = max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if first > second else (short, long)


def cut_only_document(query: int, document: int, room: int) -> tuple[int, int]:
    """Lengths kept when only the document is cut; a query beyond half the window is cut to that half."""
    if query + document <= room:
        return query, document
    kept = min(query, max(room // 2, room - document))
    return kept, min(document, room - kept)


# "error" needs to know what would be lost.
SHARINGS: Mapping[Truncation, Sharing] = {
    "longest_first": cut_longest_first,
    "only_document": cut_only_document,
    "error": cut_longest_first,
}
TRUNCATIONS: tuple[Truncation, ...] = tuple(SHARINGS)


@dataclass(frozen=True, slots=True)
class CutPolicy:
    """How the texts of one call are cut.

    Args:
        truncation: "longest_first" cuts the longer text, "only_document" spares the query, "error" refuses.
        keep_tail: which end stays of a text that is cut; None takes the tokenizer's own (`truncation_side`).
        max_document_tokens: of a document only so many first tokens are read, whatever the window has room for; a
            number as large as the window has no effect. This cut is a wish, which "error" does not refuse.

    Raises:
        InvalidInput: an argument is refused; the message names it.
    """

    truncation: Truncation = "longest_first"
    keep_tail: bool | None = None
    max_document_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.truncation not in TRUNCATIONS:
            raise InvalidInput(f"truncation={self.truncation!r} is none of {', '.join(TRUNCATIONS)}")
        if self.max_document_tokens is not None:
            positive_int(self.max_document_tokens, "max_document_tokens")

    def head(self, max_length: int) -> int | None:
        """How many first tokens of a document may be read where the window has `max_length`; None is all."""
        most = self.max_document_tokens
        return most if most is not None and most < max_length else None

    def parts(self, lengths: tuple[int, ...], room: int, keep_tail: bool) -> tuple[slice, ...]:
        """Which tokens an input reads of each text: of a query and a document, or of a document alone.

        `lengths` are what may be read, `keep_tail` is the end that stays where the policy names none. One tuple is one
        input: a policy that reads a long document in windows would give several.
        """
        if len(lengths) == 1:
            kept: tuple[int, ...] = (min(lengths[0], room),)
        else:
            query, document = lengths
            kept = SHARINGS[self.truncation](query, document, room)
        tail = keep_tail if self.keep_tail is None else self.keep_tail
        if tail:
            return tuple(slice(length - most, length) for length, most in zip(lengths, kept, strict=True))
        return tuple(slice(0, most) for most in kept)


def policy_of(truncation: Truncation | CutPolicy) -> CutPolicy:
    """A name stands for the policy that has no other wish.

    Raises:
        InvalidInput: there is none of this name.
    """
    return truncation if isinstance(truncation, CutPolicy) else CutPolicy(truncation)
