"""Training queries of many kinds, seeded, and the pool of passages that they are asked of.

Real queries come from the open sets, with judgements where there are some; titles, keywords, requests and claims are
made from passages, because too few real ones are to be had. Nothing of `corpora.DEVELOPMENT` is read but the
encyclopaedia's introductions, and nothing of a test collection but its train split.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.pocket.corpora import Corpus, held_out, joined, read_corpus, read_qrels, read_queries

WORD = re.compile(r"[A-Za-z][A-Za-z0-9'-]+")
SENTENCE = re.compile(r"(?<=[.!?])\s+")
# What a question is left with as keywords has none of these.
ASKING = frozenset(
    "a about an and are as at be been by can could did do does for from had has have how i if in is it its me my of on "
    "or should that the their there these they this to was we were what when where which who whom whose why will with "
    "would you your".split()
)

# Sets of passages, and of how many one is taken: the large ones of a single kind are thinned.
PASSAGES = {
    "open/wiki-intro": 1, "squad": 1, "medquad": 1, "pubmedqa": 1, "open/stackexchange": 1, "open/help-usgov": 1,
    "open/help-ukgov": 1, "open/help-gnome": 1, "open/docs-dev": 1, "open/recipes": 1, "open/law-dc": 2,
    "open/factbook": 2, "open/wordnet": 3, "open/books": 3,
}  # fmt: skip
# Judged queries: of which kind, and how many at most. MedQuAD's come from few templates.
JUDGED = {
    "squad": ("question", 9000), "medquad": ("question", 1500), "open/stackexchange": ("title", 2000),
    "open/help-usgov": ("title", 1000), "open/help-ukgov": ("title", 1000), "open/help-gnome": ("title", 1000),
    "open/docs-dev": ("title", 1000), "open/wiki-intro": ("question", 2300),
}  # fmt: skip
# Queries without judgements, the same.
ASKED = {
    "open/queries-web": ("question", 24000), "open/queries-assist": ("command", 5000),
    "open/queries-cooking": ("title", 3000), "open/queries-trivia": ("question", 4000), "pubmedqa": ("question", 1000),
}  # fmt: skip
# Made of passages.
TITLES, KEYWORDS, REQUESTS, CLAIMS = 3500, 5500, 3000, 4500
# Share of questions that are shown as keywords.
SHORTENED = 0.12
# Of a question of trecqa one sentence that answers among judged ones that do not, so often.
DRAWS = 2

# How people put a request to a librarian or a search box.
FRAMES = (
    "I am looking for {}.",
    "I would like to find articles about {}.",
    "We need information on {}.",
    "Please send me papers dealing with {}.",
    "What has been published on {}?",
    "Any literature on the subject of {} is of interest.",
    "Of interest are reports that describe {}.",
    "Is there any work on {}? Reviews are welcome too.",
    "My interest is {}. Studies and descriptions are wanted.",
    "Find documents which discuss {}.",
    "How is the following treated: {}?",
    "I should be glad to receive references to {}.",
)


@dataclass(frozen=True)
class TrainingQuery:
    """A query on the pool.

    Attributes:
        kind: "question", "title", "command", "keywords", "request" or "claim".
        text: what the teachers are asked.
        shown: what the student is asked, which means the same.
        relevant: judged rows of the pool by grade, 1 and up.
        source: the row it was made from; -1 for a real one.
    """

    kind: str
    text: str
    shown: str
    relevant: tuple[tuple[int, int], ...] = ()
    source: int = -1


def part(count: int, share: float) -> int:
    """So much of `count` for a trial with a share of everything; at least one of some."""
    return min(count, max(1, round(count * share)))


def read_pool(data: Path) -> Corpus:
    """Every passage that is trained on, ids "SET/ID"."""
    return joined("pool", [_passages(data, name).every(step) for name, step in PASSAGES.items()])


def trained_texts(data: Path) -> list[str]:
    """The pool's passages, and the judged sentences of trecqa's train questions."""
    sentences = {document for found in read_qrels(data, "trecqa", "train").values() for document in found}
    return [*read_pool(data).texts, *read_corpus(data, "trecqa").only(lambda name: name in sentences).texts]


def _passages(data: Path, name: str) -> Corpus:
    corpus = read_corpus(data, name)
    if name == "squad":  # articles are in one split each
        return corpus.only(lambda number: number.startswith("tr"))
    if name == "medquad":
        tested = {
            document
            for split in ("dev", "test")
            for found in read_qrels(data, name, split).values()
            for document in found
        }
        return corpus.only(lambda number: number not in tested)
    if name == "open/stackexchange":
        return corpus.only(lambda number: not held_out(number))
    return corpus


def judged_queries(data: Path, pool: Corpus, rng: random.Random) -> list[TrainingQuery]:
    """Queries of train splits, with the judged rows that are in the pool."""
    rows = pool.index()
    made = []
    for name, (kind, most) in JUDGED.items():
        corpus = name.rpartition("/")[2]
        texts, found = read_queries(data, name), []
        for query, grades in read_qrels(data, name, "train").items():
            relevant = {rows.get(f"{corpus}/{document}", -1): grade for document, grade in grades.items() if grade > 0}
            relevant.pop(-1, None)
            if relevant:
                found.append(TrainingQuery(kind, texts[query], texts[query], tuple(relevant.items())))
        made += rng.sample(found, min(most, len(found)))
    return made


def asked_queries(data: Path, rng: random.Random) -> list[TrainingQuery]:
    """Real queries of which nobody judged an answer."""
    made = []
    for name, (kind, most) in ASKED.items():
        texts = [text for text in read_queries(data, name).values() if text.strip()]
        for text in rng.sample(texts, min(most, len(texts))):
            short = _keywords_of(text) if kind == "question" and rng.random() < SHORTENED else ""
            made.append(TrainingQuery(kind, text, short or text))
    return made


def _keywords_of(question: str) -> str:
    """A question without the words that only ask; "" where fewer than two are left."""
    words = [word for word in question.rstrip(" ?.").split() if word.lower().strip(",;:'\"") not in ASKING]
    return " ".join(words) if len(words) > 1 else ""


class Salience:
    """Words of a passage by tf-idf within the pool."""

    def __init__(self, pool: Corpus) -> None:
        self._pool = pool
        self._frequency = Counter(word for text in pool.texts for word in {w.lower() for w in WORD.findall(text)})

    def keywords(self, row: int, rng: random.Random) -> str:
        """Two to six of the twelve most salient words, in random order."""
        counts = Counter(word.lower() for word in WORD.findall(self._pool.texts[row]) if len(word) > 2)
        total = len(self._pool.texts)
        weight = {w: (1 + math.log(n)) * math.log(total / self._frequency[w]) for w, n in counts.items()}
        salient = sorted(weight, key=lambda w: -weight[w])[:12]
        rng.shuffle(salient)
        return " ".join(salient[: rng.randint(2, 6)])


def sentences_of(text: str, shortest: int = 6, longest: int = 40) -> list[str]:
    """Sentences with so many words."""
    return [s for s in SENTENCE.split(text) if shortest <= len(s.split()) <= longest]


def _request(text: str, rng: random.Random) -> str:
    """One to three sentences with a third of the words gone."""
    found = sentences_of(text)
    if not found:
        return ""
    start = rng.randrange(len(found))
    words = " ".join(found[start : start + rng.randint(1, 3)]).split()
    return " ".join(word for word in words if rng.random() > 0.33)


def framed(request: str, rng: random.Random) -> str:
    """The request as a sentence to somebody, or as two; what is asked for stays the same."""
    words = request.rstrip(" .").split()
    if len(words) < 8 or rng.random() < 0.5:
        return rng.choice(FRAMES).format(" ".join(words))
    cut = rng.randint(3, len(words) - 3)
    first, second = rng.sample(FRAMES, 2)
    return f"{first.format(' '.join(words[:cut]))} {second.format(' '.join(words[cut:]))}"


def made_queries(pool: Corpus, rng: random.Random) -> list[TrainingQuery]:
    """Titles, keywords, requests and claims of passages drawn at random."""
    salience = Salience(pool)
    titled = [row for row, title in enumerate(pool.titles) if title and pool.texts[row] != title]
    makers: Sequence[tuple[str, int, Sequence[int], Callable[[int], str]]] = (
        ("title", TITLES, titled, lambda row: pool.titles[row]),
        ("keywords", KEYWORDS, range(len(pool.texts)), lambda row: salience.keywords(row, rng)),
        ("request", REQUESTS, range(len(pool.texts)), lambda row: _request(pool.body(row), rng)),
        ("claim", CLAIMS, range(len(pool.texts)), lambda row: rng.choice(sentences_of(pool.body(row)) or [""])),
    )
    made = []
    for kind, count, rows, write in makers:
        for row in rng.sample(rows, min(count, len(rows))):
            text = write(row)
            if " " in text:
                shown = framed(text, rng) if kind == "request" and rng.random() < 0.5 else text
                made.append(TrainingQuery(kind, text, shown, source=row))
    return made


def all_queries(data: Path, pool: Corpus, seed: int, count: int) -> list[TrainingQuery]:
    """So many queries of all kinds in random order, no text twice."""
    rng = random.Random(seed)
    made = judged_queries(data, pool, rng) + asked_queries(data, rng) + made_queries(pool, rng)
    rng.shuffle(made)
    once = list({query.text: query for query in reversed(made)}.values())
    return once[:count]


def judged_sentences(data: Path, rng: random.Random) -> list[tuple[str, list[str]]]:
    """Trecqa's train questions `DRAWS` times, with a sentence that answers, then seven judged ones that do not."""
    corpus = read_corpus(data, "trecqa")
    rows, texts = corpus.index(), read_queries(data, "trecqa")
    made = []
    for query, judged in read_qrels(data, "trecqa", "train").items():
        right = [rows[name] for name, grade in judged.items() if grade > 0]
        wrong = [rows[name] for name, grade in judged.items() if grade <= 0]
        for _ in range(DRAWS if right and len(wrong) > 1 else 0):
            chosen = [rng.choice(right), *rng.sample(wrong, min(7, len(wrong)))]
            made.append((texts[query], [corpus.texts[row] for row in chosen]))
    return made
