"""Ground truth and rankings for the tests of the evaluator."""

from __future__ import annotations

import random

from haystack import Document

Lists = list[list[Document]]


def graded(grades: dict[str, float | None]) -> list[Document]:
    """Documents with grades as scores."""
    return [Document(id=name, score=grade) for name, grade in grades.items()]


def ranked(*names: str) -> list[Document]:
    """Documents in an order; their scores rise, which must not matter."""
    return [Document(id=name, content=f"text of {name}", score=float(place)) for place, name in enumerate(names)]


def random_queries(seed: int, grades: tuple[int, ...]) -> tuple[Lists, Lists]:
    """Sixty queries with 1 to 8 judged documents, at least one of the highest grade, and up to 30 retrieved ones."""
    chance = random.Random(seed)
    truths, rankings = [], []
    for _ in range(60):
        names = [f"d{number}" for number in range(40)]
        judged = chance.sample(names, chance.randint(1, 8))
        truth = {name: float(chance.choice(grades)) for name in judged} | {judged[0]: float(max(grades))}
        truths.append(graded(truth))
        rankings.append(ranked(*chance.sample(names, chance.randint(0, 30))))
    return truths, rankings
