"""BM25: the formula, ties and settings."""

from __future__ import annotations

import math
import random
import sys

import numpy as np
import pytest

from secondpass.errors import InvalidInput, MissingExtra
from secondpass.training.negatives.bm25 import BM25, BM25Settings

WORDS = "river bank house london train password mat cat".split()
PLAIN = BM25Settings(stop_words=None, stemmer=None)


def formula(texts: list[str], query: str, k1: float, b: float) -> list[float]:
    """Lucene's BM25, written out."""
    documents = [text.split() for text in texts]
    average = sum(map(len, documents)) / len(documents)
    scores = []
    for words in documents:
        total = 0.0
        for word in query.split():
            holding = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            count = words.count(word)
            total += idf * count / (count + k1 * (1 - b + b * len(words) / average)) if count else 0.0
        scores.append(total)
    return scores


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 0.75), (0.0, 0.0)])
def test_equals_the_formula(k1, b):
    """On random texts, words of the query that repeat or are unknown included."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) for _ in range(40)]
    queries = ["river river bank", "cat unknown", "train"]
    index = BM25(texts, BM25Settings(k1=k1, b=b, stop_words=None, stemmer=None))
    for query, scores in zip(queries, index.scores(queries), strict=True):
        assert scores.dtype == np.float32
        assert scores == pytest.approx(np.array(formula(texts, query, k1, b)), rel=1e-5, abs=1e-6)


def test_stop_words_and_stemmer():
    """By default English words are stemmed and the commonest dropped; both can be set."""
    texts = ["the trains of london", "die Züge von London"]
    (scores,) = BM25(texts).scores(["the train"])
    assert scores[0] > 0 == scores[1]
    (unstemmed,) = BM25(texts, PLAIN).scores(["train"])
    assert unstemmed.tolist() == [0.0, 0.0]
    (german,) = BM25(texts, BM25Settings(stop_words="german", stemmer="german")).scores(["von Zug"])
    assert german.tolist()[0] == 0.0
    (own,) = BM25(texts, BM25Settings(stop_words=("london",), stemmer=None)).scores(["london"])
    assert own.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("texts", [[], ["", "the a of"], ["\ud800 ? !"]])
def test_nothing_to_find(texts):
    """A corpus without a word has no match, and no query fails on it."""
    found = list(BM25(texts).scores(["river", "", "the \udfff"]))
    assert [scores.tolist() for scores in found] == [[0.0] * len(texts)] * 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"k1": -1.0}, "k1=-1.0"),
        ({"b": 1.1}, "b=1.1"),
        ({"k1": float("nan")}, "k1=nan"),
        ({"stop_words": "klingon"}, "stop_words='klingon'"),
        ({"stemmer": "klingon"}, "stemmer='klingon' is none of .*english"),
    ],
)
def test_refused_settings(settings, words):
    """A language that there is no list or stemmer for, and impossible numbers, are refused by name."""
    with pytest.raises(InvalidInput, match=words):
        BM25(["river"], BM25Settings(**settings))


@pytest.mark.parametrize(("module", "library"), [("bm25s", "bm25s"), ("Stemmer", "PyStemmer")])
def test_absent_library(module, library, monkeypatch):
    """Without its library it says what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=f"{library} is not installed: pip install"):
        BM25(["river"])
