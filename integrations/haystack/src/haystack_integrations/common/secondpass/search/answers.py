"""What a pipeline answered to one query, and its form as a line of JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Hit:
    """A document in a ranking; `text` is kept only for the last pass."""

    id: str
    score: float | None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Rankings by component, `second` being the last one's, and milliseconds by component.

    `cut` counts documents that were too long to be read wholly; `reranked` is False if the ranker fell back to the
    order that it was given. Both are known of a SecondPassRanker only. `textless` counts documents without any text
    among those that the last component was given; `shortened` is True if the retriever was asked with the beginning
    of the query only, because it has more terms than a server takes.
    """

    query_id: str
    query: str
    first: dict[str, tuple[Hit, ...]]
    second: tuple[Hit, ...]
    ms: dict[str, float]
    cut: int = 0
    reranked: bool = True
    textless: int = 0
    shortened: bool = False

    def to_json(self, texts: bool) -> dict[str, Any]:
        """Plain values; without `texts` a hit is only its id and score."""
        return {
            "query_id": self.query_id,
            "query": self.query,
            "first": {name: _plain(hits, texts=False) for name, hits in self.first.items()},
            "second": _plain(self.second, texts),
            "ms": {name: round(value, 3) for name, value in self.ms.items()},
            "cut": self.cut,
            "reranked": self.reranked,
            **({"textless": self.textless} if self.textless else {}),
            **({"shortened": True} if self.shortened else {}),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Answer:
        """Undo `to_json`; raises KeyError or TypeError if something is missing."""
        return cls(
            query_id=value["query_id"],
            query=value["query"],
            first={name: _hits(hits) for name, hits in value["first"].items()},
            second=_hits(value["second"]),
            ms=dict(value["ms"]),
            cut=value["cut"],
            reranked=value["reranked"],
            textless=value.get("textless", 0),
            shortened=value.get("shortened", False),
        )


def ids(hits: Iterable[Hit]) -> list[str]:
    """Ids in order."""
    return [hit.id for hit in hits]


def _plain(hits: tuple[Hit, ...], texts: bool) -> list[dict[str, Any]]:
    return [
        {"id": hit.id, "score": hit.score, **({"text": hit.text} if texts and hit.text is not None else {})}
        for hit in hits
    ]


def _hits(values: list[dict[str, Any]]) -> tuple[Hit, ...]:
    return tuple(Hit(value["id"], value["score"], value.get("text")) for value in values)
