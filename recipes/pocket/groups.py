"""Training groups: for each query eight texts of the pool, near and far, with the teachers' opinion of each.

Candidates are BM25's and each teacher's nearest. What nobody judged is no negative: it has the teachers' score, and for
queries of forums and help centres, which other passages can answer as well, it stays out where the teachers find it
better than the judged one.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.pocket.build import LONG_MAX_TOKENS, MAX_TOKENS, Window, token_limit
from recipes.pocket.candidates import FirstPass, Floats, Rows, nearest_rows
from recipes.pocket.corpora import Corpus
from recipes.pocket.queries import TrainingQuery, judged_sentences
from recipes.pocket.teachers import Teacher, Vectors
from secondpass.training import Group, Teaching

log = logging.getLogger(__name__)

DOCUMENTS = 8
# Of each teacher, beside what BM25 finds.
NEAR = 30
# Cosines spread differently: these bring the teachers to one spread, that of all-MiniLM-L6-v2's times ten.
COSINE_SCALE = {"minilm": 10.0, "e5": 45.0}
# A teacher's weighted mean in logits is so much of what the student is to give.
SHARPNESS = 2.0
# Chosen by the development mean: bge-small-en-v1.5 beside these two lowers it (.681 to .674), and BM25's vote helps
# where words are names and terms (claims, keywords, long requests) more than where they ask.
TEACHER_WEIGHTS: Mapping[str, float] = {"minilm": 0.75, "e5": 1.0}
VOTES: Mapping[str, float] = {
    "question": 0.2, "title": 0.25, "command": 0.2, "keywords": 0.5, "request": 0.5, "claim": 0.5,
}  # fmt: skip
# What the judged document counts beside the teachers.
LABEL_WEIGHT = 0.5
# What the teachers count where a sentence is to answer: about that they know little.
SENTENCE_WEIGHT = 0.3
# Unjudged documents that are better than the best judged one by so many logits are taken for relevant.
SURPASSES = 1.0
# Passages before and behind one that are shown with it, where whole pages are.
BEFORE, BEHIND = 2, 3
# An id in the pool that tells where a passage stands: of which page of its set, and its number there ("f3" in a list
# of questions). Names of sets have a "-", too.
PASSAGE = re.compile(r"([^/]+/.+)-f?(\d+)")


@dataclass(frozen=True)
class Opinions:
    """What the teachers and BM25 think of the pool, query by query.

    `queries` and `documents` are vectors by teacher's name.
    """

    queries: Mapping[str, Vectors]
    documents: Mapping[str, Vectors]

    def targets(self, kind: str, query: int, rows: Sequence[int], bm25: Mapping[int, float]) -> Floats:
        """Logits [rows] to learn: the teachers' weighted mean, and BM25's vote standardised within what it found."""
        total = sum(TEACHER_WEIGHTS.values())
        made = np.zeros(len(rows), np.float32)
        for name, asked in self.queries.items():
            cosines = self.documents[name][rows].astype(np.float32) @ asked[query].astype(np.float32)
            made += SHARPNESS * TEACHER_WEIGHTS[name] / total * COSINE_SCALE[name] * cosines
        known = np.fromiter(bm25.values(), np.float32, len(bm25))
        lowest, centre, spread = (
            (float(known.min()), float(known.mean()), float(known.std()) or 1.0) if len(known) else (0.0, 0.0, 1.0)
        )
        votes = np.array([bm25.get(row, lowest) for row in rows], np.float32)
        return np.asarray(made + VOTES[kind] * (votes - centre) / spread, np.float32)


def opinions(asked: Sequence[str], texts: Sequence[str], teachers: Sequence[Teacher]) -> Opinions:
    """Encode what has not been encoded."""
    return Opinions(
        {teacher.spec.name: teacher.queries(asked) for teacher in teachers},
        {teacher.spec.name: teacher.documents(texts) for teacher in teachers},
    )


def training_groups(
    pool: Corpus,
    queries: Sequence[TrainingQuery],
    known: Opinions,
    window: Window,
    seed: int,
    limit: Callable[[int], int] = token_limit,
) -> Iterator[Group]:
    """A group for each query that finds enough; `limit` is the window of each, by its number."""
    found, scores = FirstPass(pool.texts).search([query.text for query in queries])
    near = np.concatenate(
        [nearest_rows(asked, known.documents[name], NEAR) for name, asked in known.queries.items()], axis=1
    )
    log.info("candidates of %d queries found", len(queries))
    drawing = _Drawing(pool, known, window, random.Random(seed), limit)
    for place, query in enumerate(queries):
        bm25 = {int(row): float(score) for row, score in zip(found[place], scores[place], strict=True) if score > 0}
        group = drawing.group(query, place, bm25, near[place])
        if group is not None:
            yield group
    log.info("%d of %d queries give a group", drawing.number, len(queries))


def found_groups(
    pool: Corpus, queries: Sequence[TrainingQuery], window: Window, seed: int, documents: int
) -> Iterator[Group]:
    """A group of so many texts for each query that BM25 finds enough for; whoever teaches has not been asked.

    The judged one is among them, half of the others are of its first ten, and the rest from further down.
    """
    found, scores = FirstPass(pool.texts).search([query.text for query in queries])
    rng, number = random.Random(seed), 0
    for query, rows, values in zip(queries, found, scores, strict=True):
        order = [int(row) for row, value in zip(rows, values, strict=True) if value > 0]
        judged = sorted(query.relevant, key=lambda one: -one[1])[:1]
        chosen = [row for row, _ in judged]
        for choice, take in ((order[:10], documents // 2), (order, documents)):
            free = [row for row in choice if row not in chosen]
            chosen += rng.sample(free, min(take, documents - len(chosen), len(free)))
        limit, teaching = token_limit(number), Teaching((0.0,) * len(chosen), label_weight=LABEL_WEIGHT)
        shown = [pool.texts[row] for row in chosen]
        group = window.group(query.shown, shown, range(len(judged)), teaching, limit)
        if group is not None:
            number += 1
            yield group
    log.info("%d of %d queries give a group", number, len(queries))


class _Drawing:
    """Draws the groups of one pool, one after the other; `number` of them so far."""

    def __init__(
        self, pool: Corpus, known: Opinions, window: Window, rng: random.Random, limit: Callable[[int], int]
    ) -> None:
        self._pool = pool
        self._places = [_place(name) for name in pool.ids]
        self._known = known
        self._window = window
        self._rng = rng
        self._limit = limit
        self.number = 0

    def group(self, query: TrainingQuery, place: int, bm25: dict[int, float], near: Rows) -> Group | None:
        """Of the query at `place`, from BM25's rows with their scores and the teachers' nearest rows."""
        # a sentence of a passage finds that passage by every word: half of these queries have to do without
        if query.source >= 0 and query.kind in ("claim", "request") and self._rng.random() < 0.5:
            bm25.pop(query.source, None)
            near = near[near != query.source]
        grades = dict(query.relevant)
        rows = list(dict.fromkeys([*bm25, *map(int, near), *grades]))
        if len(rows) < DOCUMENTS:
            return None
        targets = self._known.targets(query.kind, place, rows, bm25)
        relevant = sorted((n for n, row in enumerate(rows) if row in grades), key=lambda n: -grades[rows[n]])[:2]
        allowed = set(range(len(rows)))
        if relevant and query.kind == "title":
            bar = max(targets[n] for n in relevant) + SURPASSES
            allowed = {n for n in allowed if targets[n] <= bar or n in relevant}
        chosen = _chosen(targets, relevant, allowed, len(bm25), self._rng)
        if len(chosen) < DOCUMENTS // 2:
            return None
        limit = self._limit(self.number)
        picked = [rows[n] for n in chosen]
        # what was made of a title would find that title by every word
        bare = query.kind == "title" and query.source >= 0
        if limit == LONG_MAX_TOKENS:
            stretches = [_stretch(self._places, row, self._rng) for row in picked]
            documents = [self._joined(own, bare) for own in stretches]
            # a page is as good as its best passage
            opinion = [float(self._known.targets(query.kind, place, own, bm25).max()) for own in stretches]
        else:
            documents = [self._pool.body(row) if bare else self._pool.texts[row] for row in picked]
            opinion = targets[chosen].tolist()
        teaching = Teaching(tuple(opinion), label_weight=LABEL_WEIGHT)
        labels = [n for n, c in enumerate(chosen) if c in relevant]
        group = self._window.group(query.shown, documents, labels, teaching, limit)
        self.number += group is not None
        return group

    def _joined(self, rows: Sequence[int], bare: bool) -> str:
        """Passages of a page, the first with its title unless they are to be bare."""
        first = self._pool.body(rows[0]) if bare else self._pool.texts[rows[0]]
        return "\n".join([first, *map(self._pool.body, rows[1:])])


def _chosen(
    targets: Floats, relevant: Sequence[int], allowed: set[int], by_words: int, rng: random.Random
) -> list[int]:
    """Places of the documents to train on: judged ones, the teachers' best, BM25's best, and from further down.

    The first `by_words` places are BM25's order.
    """
    chosen = list(relevant)
    best = [int(place) for place in np.argsort(-targets, kind="stable") if place in allowed]
    words = [place for place in range(by_words) if place in allowed]
    pools = ((best[:4], 2), (words[:10], 2), (best[:30], 1), (words, 2), (best, DOCUMENTS))
    for choice, take in pools:
        free = [place for place in choice if place not in chosen]
        chosen += rng.sample(free, min(take, DOCUMENTS - len(chosen), len(free)))
    return chosen


def _place(name: str) -> tuple[str, int] | None:
    """The page of a passage and its number there, by its id "SET/PAGE-NUMBER"; None where the set has no pages."""
    found = PASSAGE.fullmatch(name)
    return None if found is None else (found[1], int(found[2]))


def _stretch(places: Sequence[tuple[str, int] | None], row: int, rng: random.Random) -> list[int]:
    """A passage with neighbours of its page, told by their numbers: in a thinned set the next one is none."""
    own, first, last = places[row], row, row
    if own is not None:
        page, number = own
        for _ in range(rng.randint(0, BEFORE)):
            first -= first > 0 and places[first - 1] == (page, number - (row - first) - 1)
        for _ in range(rng.randint(0, BEHIND)):
            last += last + 1 < len(places) and places[last + 1] == (page, number + (last - row) + 1)
    return list(range(first, last + 1))


def sentence_groups(data: Path, teachers: Sequence[Teacher], window: Window, seed: int) -> Iterator[Group]:
    """Judged sentences of trecqa's train questions: which sentence answers, not which is about the same."""
    drawn = judged_sentences(data, random.Random(seed))
    texts = list(dict.fromkeys(text for _, sentences in drawn for text in sentences))
    places = {text: row for row, text in enumerate(texts)}
    asked = [question for question, _ in drawn]
    known = opinions(asked, texts, teachers)
    for query, (question, sentences) in enumerate(drawn):
        opinion = known.targets("question", query, [places[text] for text in sentences], {})
        teaching = Teaching(tuple(opinion.tolist()), SENTENCE_WEIGHT, 1.0)
        group = window.group(question, sentences, [0], teaching, MAX_TOKENS)
        if group is not None:
            yield group
