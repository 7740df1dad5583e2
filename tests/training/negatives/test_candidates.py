"""Candidates from the three sources: order, depth, ties, and the scores of positives that come deeper."""

from __future__ import annotations

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.training.negatives import candidates as module
from secondpass.training.negatives.candidates import bm25_candidates, encoder_candidates, run_candidates

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


def test_runs_keep_their_order():
    """The run's order counts, scores or none."""
    run = Run("r", {"q1": [("d2", None), ("d1", 3.0)]})
    assert run_candidates(run) == {"q1": [("d2", None), ("d1", 3.0)]}


def test_refused_arguments():
    """A depth below 1, and an encoder that loses a text."""
    with pytest.raises(InvalidInput, match="depth=0"):
        bm25_candidates(QUERIES, CORPUS, depth=0)
    with pytest.raises(InvalidInput, match="shape"):
        encoder_candidates(QUERIES, CORPUS, lambda texts: letters(texts)[1:])
