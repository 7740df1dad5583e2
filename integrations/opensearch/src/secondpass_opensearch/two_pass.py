"""A search in two passes: OpenSearch finds candidates, a cross-encoder in this process puts them in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from secondpass.errors import InvalidInput
from secondpass.limits import positive_int
from secondpass_opensearch.candidates import Candidate, FirstPass, find_candidates, missing_fields
from secondpass_opensearch.failures import speaking_to
from secondpass_opensearch.server import Server

if TYPE_CHECKING:
    from secondpass.ranking import Ranking


class Ranks(Protocol):
    """What orders candidates: a `CrossEncoder`."""

    def rank_many(
        self, queries: list[str], documents_per_query: list[list[str]], *, top_k: int | None = None
    ) -> list[Ranking]:
        """Order each query's documents."""
        ...


@dataclass(frozen=True, slots=True)
class Hit:
    """A candidate with the score that the second pass gave it."""

    candidate: Candidate
    score: float


@dataclass(frozen=True, slots=True)
class TwoPassAnswer:
    """Hits, best first, and what the user should know of them.

    Attributes:
        candidates: how many documents the first pass found.
        without_text: of those, how many have none of the fields; they were ranked as empty texts.
        cut: ids of candidates that were too long for the model to read wholly.
    """

    hits: tuple[Hit, ...]
    candidates: int = 0
    without_text: int = 0
    cut: tuple[str, ...] = ()


def two_pass_search(server: Server, index: str, first: FirstPass, encoder: Ranks, top_k: int = 10) -> TwoPassAnswer:
    """Search and rank.

    Raises:
        InvalidInput: no candidate has a text in the fields, or nothing was found and the index has no such field.
        SecondPassError: the server cannot be reached or refuses the search, or the encoder fails.
    """
    positive_int(top_k, "top_k")
    with speaking_to(server), server.client() as client:
        found = find_candidates(client, index, first)
        absent = [] if found else missing_fields(client, index, first.fields)
    if absent:
        raise InvalidInput(f"{index} has no field {', '.join(absent)}: name its --field")
    if not found:
        return TwoPassAnswer(())
    without = sum(not candidate.text.strip() for candidate in found)
    if without == len(found):
        names = ", ".join(first.fields)
        raise InvalidInput(f"{index}: none of the {without} documents found has a text in {names}: name its --field")
    (ranking,) = encoder.rank_many([first.query], [[candidate.text for candidate in found]], top_k=top_k)
    hits = tuple(Hit(found[ranked.index], ranked.score) for ranked in ranking.documents)
    return TwoPassAnswer(hits, len(found), without, tuple(found[cut.index].id for cut in ranking.truncated))
