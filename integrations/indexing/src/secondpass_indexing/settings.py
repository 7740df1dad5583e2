"""How much is sent at once, and how long a server that is away or busy is waited for."""

from __future__ import annotations

from dataclasses import dataclass, fields

from secondpass.errors import InvalidInput
from secondpass.limits import positive_int

COUNTS = ("max_documents", "max_bytes", "in_flight", "tries", "max_dead")


@dataclass(frozen=True, slots=True)
class IndexingSettings:
    """Bounds of one run; the defaults suit a server of one small node.

    Attributes:
        max_documents: documents in one request, at most.
        max_bytes: bytes of one request; a single larger document goes alone.
        in_flight: requests under way at the same time.
        patience: seconds that nothing at all gets through before the run gives up.
        first_wait: seconds before the first repetition; every further wait is twice as long, less a random part.
        longest_wait: ceiling of one wait in seconds.
        tries: how often one document that the engine may take later is offered before it is a dead letter.
        max_dead: refused documents in one run before it stops: the mapping is wrong rather than the documents.
    """

    max_documents: int = 500
    max_bytes: int = 5_000_000
    in_flight: int = 2
    patience: float = 300.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    tries: int = 10
    max_dead: int = 10_000

    def __post_init__(self) -> None:
        """Refuse what could not work.

        Raises:
            InvalidInput: a count is no positive int, or a time is negative or not finite.
        """
        for name in COUNTS:
            positive_int(getattr(self, name), name)
        for name in (field.name for field in fields(self) if field.name not in COUNTS):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise InvalidInput(f"{name}={value!r} is not a number of seconds")
