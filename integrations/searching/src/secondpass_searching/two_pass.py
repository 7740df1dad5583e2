"""A search in two passes: the engine finds candidates, a cross-encoder in this process puts them in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from secondpass.errors import InvalidInput
from secondpass.limits import positive_int
from secondpass.text import is_blank
from secondpass_searching.candidates import Candidate, FirstPass, find_candidates
from secondpass_searching.passages import best_passages
from secondpass_searching.searched_index import SearchedIndex, require_fields

if TYPE_CHECKING:
    from secondpass.ranking import Ranking


class Ranks(Protocol):
    """What orders candidates: a `CrossEncoder`."""

    def rank_many(
        self,
        queries: list[str],
        documents_per_query: list[list[str]],
        *,
        top_k: int | None = None,
        batch_size: int = 32,
    ) -> list[Ranking]:
        """Order each query's documents."""
        ...


@dataclass(frozen=True, slots=True)
class Hit:
    """A candidate with the score that the second pass gave it, and a passage where one was asked for and found."""

    candidate: Candidate
    score: float
    passage: str | None = None


@dataclass(frozen=True, slots=True)
class TwoPassAnswer:
    """Hits, best first, and what the user should know of them.

    Attributes:
        candidates: how many documents the first pass found.
        without_text: of those, how many say nothing in any of the fields; they come last.
        cut: ids of candidates that were too long for the model to read wholly.
    """

    hits: tuple[Hit, ...]
    candidates: int = 0
    without_text: int = 0
    cut: tuple[str, ...] = ()


def two_pass_search(
    index: SearchedIndex,
    first: FirstPass,
    load: Callable[[], Ranks],
    top_k: int = 10,
    batch_size: int = 32,
    passages: bool = False,
) -> TwoPassAnswer:
    """Search, rank, and look up the best passages of the `top_k` documents if asked.

    The encoder is loaded when there is something to rank: an index that is not there is known at once.

    Raises:
        InvalidInput: no candidate has a text in the fields, or nothing was found and the index has no such field.
        SecondPassError: as `SearchedIndex.hits`, and what the encoder raises.
    """
    positive_int(top_k, "top_k")
    found = find_candidates(index, first)
    if not found:
        require_fields(index, first.fields)
        return TwoPassAnswer(())
    without = sum(is_blank(candidate.text) for candidate in found)
    if without == len(found):
        raise InvalidInput(
            f"{index.name}: none of the {without} documents found has a text in {', '.join(first.fields)}: "
            "name the field that has it"
        )
    texts = [candidate.text for candidate in found]
    (ranking,) = load().rank_many([first.query], [texts], top_k=top_k, batch_size=batch_size)
    hits = [Hit(found[ranked.index], ranked.score) for ranked in ranking.documents]
    if passages:
        hits = _with_passages(index, first, hits)
    return TwoPassAnswer(tuple(hits), len(found), without, tuple(found[cut.index].id for cut in ranking.truncated))


def _with_passages(index: SearchedIndex, first: FirstPass, hits: list[Hit]) -> list[Hit]:
    shown: dict[tuple[str, str], str] = {}
    for concrete in {hit.candidate.index for hit in hits}:
        ids = [hit.candidate.id for hit in hits if hit.candidate.index == concrete]
        by_id = best_passages(index, concrete, ids, first)
        shown |= {(concrete, found): passage for found, passage in by_id.items()}
    return [replace(hit, passage=shown.get((hit.candidate.index, hit.candidate.id))) for hit in hits]
