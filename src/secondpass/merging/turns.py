"""Whose pairs are scored next.

Every waiting call has a finishing time that it could expect of an idle model: when it came plus the time its remaining
pairs take. The earliest goes first and the next fill what is left of the batch. So a call of five documents overtakes
one of ten thousand that is under way, calls that began are finished rather than all kept half done (the mean wait of
equal calls is half of what taking turns gives), and nothing starves: once a long call has waited as long as it would
have taken alone, no newcomer is ahead of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from secondpass.merging.calls import Call


@dataclass(frozen=True, slots=True)
class Share:
    """The rows of one call in a batch, longest first."""

    call: Call
    rows: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of these rows."""
        return sum(len(self.call.tokens[row]) for row in self.rows)


def next_batch(calls: Iterable[Call], budget: int, padded: bool, seconds_per_token: float) -> list[Share]:
    """Take the next batch's rows out of the calls: at most `budget` tokens, or one pair that is longer alone.

    Args:
        calls: in any order; their waiting rows change.
        budget: tokens of the batch.
        padded: count the places of the rectangle that each call's rows would fill.
        seconds_per_token: what the model takes.
    """
    ready = [call for call in calls if call.waiting]
    ready.sort(key=lambda call: call.arrived + seconds_per_token * call.remaining_tokens)
    shares: list[Share] = []
    room = budget
    for call in ready:
        longest = len(call.tokens[call.waiting[-1]])
        rows = call.take(room if shares else max(room, longest), padded)
        if rows:
            shares.append(Share(call, rows))
            room -= longest * len(rows) if padded else shares[-1].tokens
    return shares
