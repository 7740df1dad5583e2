"""A search in two passes: Elasticsearch finds candidates, a cross-encoder in this process puts them in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from secondpass.errors import InvalidInput
from secondpass_elasticsearch.candidates import Candidate, FirstPass, find_candidates
from secondpass_elasticsearch.passages import best_passages

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

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
    """Hits, best first, and the second pass's own account.

    Attributes:
        candidates: how many documents the first pass found.
        without_text: of those, how many have none of the fields; they were ranked as empty texts.
        cut: ids of candidates that were too long for the model to read wholly.
    """

    hits: tuple[Hit, ...]
    candidates: int = 0
    without_text: int = 0
    cut: tuple[str, ...] = field(default=())


def two_pass_search(
    client: Elasticsearch,
    server: str,
    index: str,
    first: FirstPass,
    load: Callable[[], Ranks],
    top_k: int = 10,
    batch_size: int = 32,
    passages: bool = False,
) -> TwoPassAnswer:
    """Search, rank, and look up the best passages of the `top_k` documents if asked.

    The encoder is loaded when there is something to rank: an index that is not there is known at once.

    Raises:
        InvalidInput: no candidate has a text in the fields, or as `find_candidates`.
        SecondPassError: as `find_candidates`, and what the encoder raises.
    """
    found = find_candidates(client, server, index, first)
    if not found:
        return TwoPassAnswer(())
    without = sum(not candidate.text.strip() for candidate in found)
    if without == len(found):
        names = ", ".join(first.fields)
        raise InvalidInput(
            f"{index}: none of the {without} documents found has a text in {names}: name the field that has it"
        )
    texts = [candidate.text for candidate in found]
    (ranking,) = load().rank_many([first.query], [texts], top_k=top_k, batch_size=batch_size)
    hits = [Hit(found[ranked.index], ranked.score) for ranked in ranking.documents]
    if passages:
        hits = _with_passages(client, server, first, hits)
    cut = tuple(found[cut.index].id for cut in ranking.truncated)
    return TwoPassAnswer(tuple(hits), len(found), without, cut)


def _with_passages(client: Elasticsearch, server: str, first: FirstPass, hits: list[Hit]) -> list[Hit]:
    shown: dict[tuple[str, str], str] = {}
    for index in {hit.candidate.index for hit in hits}:
        ids = [hit.candidate.id for hit in hits if hit.candidate.index == index]
        by_id = best_passages(client, server, index, ids, first.query, first.fields)
        shown |= {(index, found): passage for found, passage in by_id.items()}
    return [replace(hit, passage=shown.get((hit.candidate.index, hit.candidate.id))) for hit in hits]
