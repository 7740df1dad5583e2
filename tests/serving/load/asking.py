"""Requests of mixed sizes and shapes whose right answers are known."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from secondpass import CrossEncoder
from tests.tiny_models import WORDS

SIZES = (1, 2, 5, 5, 10, 10, 20, 50, 100, 200)
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: path, body, and the score of each document in the body's order."""

    path: str
    body: dict[str, Any]
    expected: np.ndarray

    def right(self, answer: Any) -> bool:
        """Whether an answer has every document once, with its own score, best first."""
        if self.path == "/score":
            scores, ordered = dict(enumerate(answer["scores"])), True
        else:
            items = answer if self.path == "/rerank" else answer["results"]
            name = "score" if self.path == "/rerank" else "relevance_score"
            values = [item[name] for item in items]
            scores = {item["index"]: item[name] for item in items}
            ordered = len(items) == len(scores) and values == sorted(values, reverse=True)
        made = np.asarray([scores.get(index, np.nan) for index in range(len(self.expected))])
        return ordered and len(scores) == len(self.expected) and bool(np.abs(made - self.expected).max() <= TOLERANCE)


class Requests:
    """Draws requests over a fixed set of pairs, scored in process once."""

    def __init__(self, encoder: CrossEncoder, queries: int = 8, documents: int = 250, longest: int = 60) -> None:
        draw = random.Random(0)
        self._queries = [" ".join(draw.choices(WORDS, k=draw.randrange(2, 8))) for _ in range(queries)]
        self._documents = [" ".join(draw.choices(WORDS, k=draw.randrange(1, longest))) for _ in range(documents)]
        pairs = [(query, text) for query in self._queries for text in self._documents]
        self._scores = np.asarray(encoder.predict(pairs)).reshape(queries, documents)

    def draw(self, random_state: random.Random, sizes: tuple[int, ...] = SIZES) -> Asked:
        """One request of a random shape, query and size."""
        size = random_state.choice(sizes)
        query = random_state.randrange(len(self._queries))
        places = random_state.sample(range(len(self._documents)), size)
        text, texts = self._queries[query], [self._documents[place] for place in places]
        path = random_state.choice(("/v2/rerank", "/v1/rerank", "/rerank", "/score"))
        bodies: dict[str, dict[str, Any]] = {
            "/rerank": {"query": text, "texts": texts},
            "/score": {"pairs": [[text, one] for one in texts]},
        }
        body = bodies.get(path, {"query": text, "documents": texts})
        return Asked(path, body, self._scores[query, places])
