"""Candidates from the three sources: order, depth, ties, and the scores of positives that come deeper."""

from __future__ import annotations

import math
import random
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondpass.errors import InvalidInput, MissingExtra
from secondpass.evaluation.qrels import Qrels
from secondpass.training.negatives import candidates as module
from secondpass.training.negatives.candidates import BM25, best, bm25_candidates, encoder_candidates, nearest, unit

CORPUS = {
    "d1": "a cat on a mat",
    "d2": "a dog",
    "d3": "the cat",
    "d4": "a cat on a mat",
    "d5": "a river in london and a cat",
    "d6": "nothing of the kind",
}
QUERIES = {"q1": "cat mat", "q2": "river", "q3": "?"}


def test_bm25_order_depth_and_ties():
    """Best first, ties in the order of the corpus, no document without a word of the query."""
    found = bm25_candidates(QUERIES, CORPUS)
    assert [name for name, _ in found["q1"]] == ["d1", "d4", "d3", "d5"]
    assert found["q1"][0][1] == found["q1"][1][1]
    assert [name for name, _ in found["q2"]] == ["d5"]
    assert found["q3"] == []
    backwards = dict(reversed(CORPUS.items()))
    assert [name for name, _ in bm25_candidates(QUERIES, backwards, depth=1)["q1"]] == ["d4"]


def test_bm25_scores_deeper_positives():
    """Relevant documents that the depth leaves out, or that share no word, follow with their scores."""
    qrels = Qrels({"q1": {"d5": 1, "d2": 2, "d3": 0, "elsewhere": 1}})
    whole = dict(bm25_candidates(QUERIES, CORPUS)["q1"])
    found = bm25_candidates(QUERIES, CORPUS, depth=2, qrels=qrels)["q1"]
    assert [name for name, _ in found] == ["d1", "d4", "d5", "d2"]
    assert [score for _, score in found] == [whole["d1"], whole["d4"], whole["d5"], 0.0]


def letters(texts: list[str]) -> np.ndarray:
    """A bi-encoder of a kind: how often each letter comes."""
    return np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz:"] for text in texts], np.float64)


@pytest.mark.parametrize("block", [1, 2, 100])
def test_encoder_is_exact(block, monkeypatch):
    """The cosine's order, whatever the size of the blocks; deeper positives follow."""
    monkeypatch.setattr(module, "BLOCK", block)
    vectors = letters(list(CORPUS.values()))
    asked = letters([QUERIES["q1"]])[0]
    cosines = vectors @ asked / np.linalg.norm(vectors, axis=1) / np.linalg.norm(asked)
    order = sorted(range(len(CORPUS)), key=lambda place: (-round(cosines[place], 6), place))
    names = list(CORPUS)
    last = names[order[-1]]
    found = encoder_candidates(QUERIES, CORPUS, letters, depth=3, qrels=Qrels({"q1": {last: 1, names[order[0]]: 1}}))
    assert [name for name, _ in found["q1"]] == [names[place] for place in order[:3]] + [last]
    assert [score for _, score in found["q1"]] == pytest.approx([cosines[place] for place in (*order[:3], order[-1])])


def test_prefixes_reach_the_encoder():
    """Each side has its own."""
    seen: list[str] = []

    def encode(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return letters(texts)

    encoder_candidates({"q": "x"}, {"d": "y"}, encode, query_prefix="query: ", document_prefix="passage: ")
    assert seen == ["query: x", "passage: y"]


def test_nothing_in_nothing_out():
    """No queries or no documents are no error."""
    assert bm25_candidates({}, CORPUS) == encoder_candidates({}, CORPUS, letters) == {}
    assert bm25_candidates(QUERIES, {})["q1"] == encoder_candidates(QUERIES, {}, letters)["q1"] == []


def test_refused_arguments():
    """A depth below 1, and an encoder that loses a text."""
    with pytest.raises(InvalidInput, match="depth=0"):
        bm25_candidates(QUERIES, CORPUS, depth=0)
    with pytest.raises(InvalidInput, match="shape"):
        encoder_candidates(QUERIES, CORPUS, lambda texts: letters(texts)[1:])


WORDS = "river bank house london train password mat cat".split()
K1, B = 0.9, 0.4


def formula(texts: list[str], query: str) -> list[float]:
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
            total += idf * count / (count + K1 * (1 - B + B * len(words) / average)) if count else 0.0
        scores.append(total)
    return scores


def test_equals_the_formula():
    """On random texts, words of the query that repeat or are unknown included."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) for _ in range(40)]
    queries = ["river river bank", "cat unknown", "train"]
    index = BM25(texts)
    for query, scores in zip(queries, index.scores(queries), strict=True):
        assert scores.dtype == np.float32
        assert scores == pytest.approx(np.array(formula(texts, query)), rel=1e-5, abs=1e-6)


def test_stop_words_and_stemmer():
    """English words are stemmed and the commonest dropped; those of other languages are as good as any."""
    texts = ["the trains of london", "die Züge von London"]
    stemmed, common, german = BM25(texts).scores(["the train", "the of", "von"])
    assert stemmed[0] > 0 == stemmed[1]
    assert common.tolist() == [0.0, 0.0]
    assert german[0] == 0 < german[1]


@pytest.mark.parametrize("texts", [[], ["", "the a of"], ["\ud800 ? !"]])
def test_nothing_to_find(texts):
    """A corpus without a word has no match, and no query fails on it."""
    found = list(BM25(texts).scores(["river", "", "the \udfff"]))
    assert [scores.tolist() for scores in found] == [[0.0] * len(texts)] * 3


@pytest.mark.parametrize(("module", "library"), [("bm25s", "bm25s"), ("Stemmer", "PyStemmer")])
def test_absent_library(module, library, monkeypatch):
    """Without its library it says what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=f"{library} is not installed: pip install"):
        BM25(["river"])


def by_sorting(scores: np.ndarray, depth: int) -> list[list[int]]:
    """What `best` is: a sort by score, then by column."""
    return [sorted(range(len(row)), key=lambda column: (-row[column], column))[:depth] for row in scores.tolist()]


@given(st.data())
def test_best_is_a_sort(data):
    """Whatever ties, infinities and depths there are."""
    rows, columns = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 9))
    values = st.sampled_from([-np.inf, -1.0, 0.0, 1.0, 2.0, np.inf])
    scores = np.array(
        data.draw(st.lists(st.lists(values, min_size=columns, max_size=columns), min_size=rows, max_size=rows)),
        np.float32,
    ).reshape(rows, columns)
    depth = data.draw(st.integers(1, 12))
    assert best(scores, depth).tolist() == by_sorting(scores, depth)


@pytest.mark.parametrize("size", [1, 3, 7, 50])
@pytest.mark.parametrize("at_once", [1, 256])
def test_blocks_change_nothing(size, at_once, monkeypatch):
    """The result is that of all scores at once; whole numbers make many exact ties."""
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    queries = rng.integers(-2, 3, (5, 4)).astype(np.float32)
    documents = rng.integers(-2, 3, (50, 4)).astype(np.float32)
    found = nearest(queries, (documents[start : start + size] for start in range(0, 50, size)), 8)
    expected = by_sorting(queries @ documents.T, 8)
    assert found.positions.tolist() == expected
    assert found.scores.tolist() == np.take_along_axis(queries @ documents.T, np.array(expected), 1).tolist()


def test_nothing_to_search():
    """No documents or no queries give empty rows, not an error."""
    queries = np.ones((2, 3), np.float32)
    assert nearest(queries, [], 5).positions.shape == (2, 0)
    assert nearest(queries[:0], [np.ones((4, 3), np.float32)], 5).positions.shape == (0, 0)


def test_unit_vectors():
    """Every vector has length 1, but one of zeros stays."""
    made = unit([[3.0, 4.0], [0.0, 0.0]], 2)
    assert made.dtype == np.float32
    assert made == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        ([1.0, 2.0], r"shape \[2\] for 2 texts"),
        ([[1.0, 2.0]], r"shape \[1, 2\] for 2 texts"),
        ([[1.0], [2.0]], r"not \[2, 2\]"),
        ([[1.0, 2.0], [float("nan"), 1.0]], "not finite for text 1"),
    ],
)
def test_refused_vectors(vectors, words):
    """An encoder that gives something else is told what it gave."""
    with pytest.raises(InvalidInput, match=words):
        unit(vectors, 2, 2)
