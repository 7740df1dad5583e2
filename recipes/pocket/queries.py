"""Training queries of many kinds, seeded: questions, titles, keywords, requests and claims.

Only train splits and unlabelled texts are read. Queries of the test sets are never used, not even
without their judgements.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from recipes.pocket.corpora import TRAIN_QRELS, UNLABELLED_QUERIES, Corpus, read_qrels, read_queries

WORD = re.compile(r"[A-Za-z][A-Za-z0-9'-]+")
SENTENCE = re.compile(r"(?<=[.!?])\s+")

# How many labelled questions a collection gives. MedQuAD's come from few templates.
LABELLED = {"squad": 16000, "medquad": 3000, "trecqa": 83}
TITLES = {"lisa": 3000, "cacm": 1500, "cranfield": 1000, "stackfaq": 719, "nq-gold": 300}
KEYWORDS = {
    "squad": 2500, "lisa": 2000, "medquad": 1000, "cacm": 1200, "cranfield": 900, "time": 1200,
    "pubmedqa": 800, "trecqa": 800, "nq-gold": 500, "stackfaq": 500, "climate": 300,
}  # fmt: skip
REQUESTS = {"lisa": 1500, "cacm": 600, "cranfield": 900, "pubmedqa": 400, "time": 400}
SENTENCES = {"squad": 1500, "pubmedqa": 800, "medquad": 800, "climate": 400, "nq-gold": 400, "lisa": 500}

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
    """A query against one corpus; `relevant` are labelled rows, `source` is the row it was made from."""

    corpus: str
    kind: str
    text: str
    relevant: tuple[int, ...] = ()
    source: int = -1


def labelled(data: Path, corpus: Corpus, rng: random.Random) -> list[TrainingQuery]:
    rows = corpus.index()
    qrels = read_qrels(data, corpus.name, TRAIN_QRELS[corpus.name])
    texts = read_queries(data, corpus.name)
    names = sorted(qrels)
    rng.shuffle(names)
    made = []
    for name in names[: LABELLED[corpus.name]]:
        relevant = tuple(rows[d] for d, grade in qrels[name].items() if grade > 0 and d in rows)
        if relevant:
            made.append(TrainingQuery(corpus.name, "question", texts[name], relevant))
    return made


def unlabelled(data: Path, corpus: Corpus) -> list[TrainingQuery]:
    return [TrainingQuery(corpus.name, "question", text) for text in read_queries(data, corpus.name).values()]


def part(count: int, share: float) -> int:
    """So much of `count` for a trial with a share of everything; at least one of some."""
    return min(count, max(1, round(count * share)))


def titles(corpus: Corpus, rng: random.Random) -> list[TrainingQuery]:
    rows = [row for row, title in enumerate(corpus.titles) if title and corpus.texts[row] != title]
    chosen = rng.sample(rows, min(len(rows), TITLES[corpus.name]))
    return [TrainingQuery(corpus.name, "title", corpus.titles[row], source=row) for row in chosen]


class Salience:
    """Words of a document by tf-idf within its corpus."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._frequency = Counter(word for text in corpus.texts for word in {w.lower() for w in WORD.findall(text)})

    def keywords(self, row: int, rng: random.Random) -> str:
        """Two to six of the twelve most salient words, in random order."""
        counts = Counter(word.lower() for word in WORD.findall(self._corpus.texts[row]) if len(word) > 2)
        total = len(self._corpus.texts)
        weight = {w: (1 + math.log(n)) * math.log(total / self._frequency[w]) for w, n in counts.items()}
        best = sorted(weight, key=lambda w: -weight[w])[:12]
        rng.shuffle(best)
        return " ".join(best[: rng.randint(2, 6)])


def keywords(corpus: Corpus, rng: random.Random) -> list[TrainingQuery]:
    salience = Salience(corpus)
    rows = [rng.randrange(len(corpus.texts)) for _ in range(KEYWORDS[corpus.name])]
    made = [TrainingQuery(corpus.name, "keywords", salience.keywords(row, rng), source=row) for row in rows]
    return [query for query in made if " " in query.text]


def sentences_of(text: str, shortest: int = 6, longest: int = 40) -> list[str]:
    """Sentences with so many words."""
    return [s for s in SENTENCE.split(text) if shortest <= len(s.split()) <= longest]


def requests(corpus: Corpus, rng: random.Random) -> list[TrainingQuery]:
    """Long technical requests: one or two sentences of a document with a third of the words gone."""
    made = []
    for row in rng.choices(range(len(corpus.texts)), k=REQUESTS[corpus.name]):
        found = sentences_of(corpus.texts[row])
        if found:
            start = rng.randrange(len(found))
            words = " ".join(found[start : start + rng.randint(1, 3)]).split()
            kept = " ".join(word for word in words if rng.random() > 0.33)
            if kept:
                made.append(TrainingQuery(corpus.name, "request", kept, source=row))
    return made


def framed(request: str, rng: random.Random) -> str:
    """The request as a sentence to somebody, or as two; what is asked for stays the same."""
    words = request.rstrip(" .").split()
    if len(words) < 8 or rng.random() < 0.5:
        return rng.choice(FRAMES).format(" ".join(words))
    cut = rng.randint(3, len(words) - 3)
    first, second = rng.sample(FRAMES, 2)
    return f"{first.format(' '.join(words[:cut]))} {second.format(' '.join(words[cut:]))}"


def sentences(corpus: Corpus, rng: random.Random) -> list[TrainingQuery]:
    """A whole sentence as a claim to find support for."""
    made = []
    for row in rng.choices(range(len(corpus.texts)), k=SENTENCES[corpus.name]):
        found = sentences_of(corpus.texts[row])
        if found:
            made.append(TrainingQuery(corpus.name, "claim", rng.choice(found), source=row))
    return made


def all_queries(
    data: Path, corpora: list[Corpus], claims: list[str], seed: int = 17, share: float = 1.0
) -> list[TrainingQuery]:
    """Queries of all kinds in random order; a `share` of them for a trial."""
    rng = random.Random(seed)
    made = [TrainingQuery("climate", "claim", text) for text in claims]
    for corpus in corpora:
        if corpus.name in LABELLED:
            made += labelled(data, corpus, rng)
        if corpus.name in UNLABELLED_QUERIES:
            made += unlabelled(data, corpus)
        for source, kind in ((TITLES, titles), (KEYWORDS, keywords), (REQUESTS, requests), (SENTENCES, sentences)):
            if corpus.name in source:
                made += kind(corpus, rng)
    rng.shuffle(made)
    return made[: part(len(made), share)]
