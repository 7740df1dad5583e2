"""CERerankingEvaluator: hand-worked values, ties, a first pass beside the second, its file."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest

from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.evaluation import CERerankingEvaluator
from tests.given_scores import GivenScores, ScoresByText

SECOND = 1 / math.log2(3)
# The relevant one is second; of two relevant ones the first is first and the other third.
SAMPLES = [
    {"query": "q1", "positive": ["p"], "negative": ["n1", "n2"]},
    {"query": "q2", "positive": ["a", "b"], "negative": ["c"]},
]
SCORES = {"p": 0.25, "n1": 0.5, "n2": 0.125, "a": 0.75, "b": 0.25, "c": 0.5}


def test_values():
    """MRR is the mean of 1/2 and 1; nDCG that of 1/log2(3) and 1.5 / (1 + 1/log2(3))."""
    found = CERerankingEvaluator(SAMPLES).measure(ScoresByText(SCORES))
    assert found == pytest.approx({"MRR@10": 0.75, "NDCG@10": (SECOND + 1.5 / (1 + SECOND)) / 2}, abs=1e-12)
    assert {type(value) for value in found.values()} == {float}


@pytest.mark.parametrize(("k", "mrr", "gain"), [(1, 0.5, 0.5), (2, 0.75, (SECOND + 1 / (1 + SECOND)) / 2)])
def test_ranks_beyond_k_do_not_count(k, mrr, gain):
    """The same at 1 and at 2."""
    found = CERerankingEvaluator(SAMPLES, k).measure(ScoresByText(SCORES))
    assert found == pytest.approx({f"MRR@{k}": mrr, f"NDCG@{k}": gain}, abs=1e-12)


def test_equal_scores_favour_nobody():
    """A model that gives all candidates one score has the mean over all orders: MRR H(10) / 10 with one of ten."""
    sample = {"query": "q", "positive": ["p"], "negative": [f"n{number}" for number in range(9)]}
    found = CERerankingEvaluator([sample]).measure(GivenScores([0.5] * 10))
    discounts = [1 / math.log2(rank + 1) for rank in range(1, 11)]
    assert found["MRR@10"] == pytest.approx(sum(1 / rank for rank in range(1, 11)) / 10, abs=1e-12)
    assert found["NDCG@10"] == pytest.approx(sum(discounts) / 10, abs=1e-12)


def test_graded_relevance():
    """Grades are gains of nDCG: the better text behind the good one."""
    sample = {"query": "q", "positive": {"good": 1, "better": 3}, "negative": ["n"]}
    found = CERerankingEvaluator([sample]).measure(ScoresByText({"good": 0.75, "better": 0.5, "n": 0.25}))
    assert found == pytest.approx({"MRR@10": 1, "NDCG@10": (1 + 3 * SECOND) / (3 + SECOND)}, abs=1e-12)


def test_all_candidates_are_scored_in_one_call():
    """One `predict` for all samples; batch_size and progress bar are handed on when asked for."""
    model = ScoresByText(SCORES)
    CERerankingEvaluator(SAMPLES)(model)
    assert model.calls == [[["q1", "p"], ["q1", "n1"], ["q1", "n2"], ["q2", "a"], ["q2", "b"], ["q2", "c"]]]
    noting = GivenScores([0.5] * 6)
    CERerankingEvaluator(SAMPLES)(noting)
    CERerankingEvaluator(SAMPLES, batch_size=8, show_progress_bar=True)(noting)
    assert [options for _, options in noting.calls] == [
        {"convert_to_numpy": True, "show_progress_bar": False},
        {"convert_to_numpy": True, "show_progress_bar": True, "batch_size": 8},
    ]


def test_file_and_log(tmp_path, caplog):
    """Name, columns, row and log lines byte for byte; MRR comes back."""
    caplog.set_level(logging.INFO)
    skipped = {"query": "q3", "positive": [], "negative": ["n"]}
    made = CERerankingEvaluator([SAMPLES[0], skipped], 5, "dev")
    assert made(ScoresByText(SCORES), str(tmp_path), 0, -1) == 0.5
    assert (tmp_path / "CERerankingEvaluator_dev_results_@5.csv").read_bytes() == (
        f"epoch,steps,MRR@5,NDCG@5\r\n0,-1,0.5,{made.measure(ScoresByText(SCORES))['NDCG@5']!r}\r\n".encode()
    )
    assert caplog.messages == [
        "CERerankingEvaluator: Evaluating the model on dev dataset after epoch 0:",
        "Queries: 1 \t Positives: Min 1.0, Mean 1.0, Max 1.0 \t Negatives: Min 2.0, Mean 2.0, Max 2.0",
        "Skipped: 1 queries without positive or without other documents",
        "MRR@5: 50.00",
        "NDCG@5: 63.09",
    ]


def test_old_name_of_at_k(caplog):
    """`mrr_at_k` wins over `at_k` and is told to be old."""
    made = CERerankingEvaluator(SAMPLES, 10, "", True, 3)
    assert made.at_k == 3
    assert made.csv_file == "CERerankingEvaluator_results_@3.csv"
    assert caplog.messages == ["The `mrr_at_k` parameter has been deprecated; please use `at_k=3` instead."]


FIRST_PASS = [
    {"query": "q1", "positive": ["p1", "p2"], "documents": ["n1", "p1", "n2"]},  # p2 was missed
    {"query": "q2", "positive": ["p1"], "documents": ["n1", "n2"]},  # all were missed
    {"query": "q3", "positive": ["p1", "p2"], "documents": ["p2", "p1"]},
    {"query": "q4", "positive": ["p1"], "documents": [f"n{number}" for number in range(15)] + ["p1"]},
    {"query": "q5", "positive": ["p1"], "documents": ["n1", "p1", "p1", "n1"]},
]
GRADED = [
    {"query": "q1", "positive": {"p1": 1, "p2": 3, "p3": 2}, "documents": ["n1", "p1", "n2"]},
    {"query": "q2", "positive": {"p1": 1, "p2": 3}, "documents": ["p1", "p2"]},
]


def keeps_order(pairs):
    """Scores that fall from pair to pair."""
    return np.linspace(0.9, 0.1, len(pairs), dtype=np.float32)


def knows_nothing(pairs):
    """One score for all."""
    return np.full(len(pairs), 0.5, np.float32)


class Scorer:
    """A model that scores by where a pair stands in the call."""

    def __init__(self, rule):
        self.rule = rule

    def predict(self, sentences, **options):
        return self.rule(sentences)


@pytest.mark.parametrize("rule", [keeps_order, knows_nothing])
@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("samples", [FIRST_PASS, GRADED], ids=["binary", "graded"])
@pytest.mark.parametrize("k", [1, 2, 3, 10, 100])
def test_an_order_that_is_kept_is_no_gain(rule, always, samples, k):
    """In every mode, to the last bit: same candidates, same ideal; equal scores keep the first pass's order."""
    made = CERerankingEvaluator(samples, k, always_rerank_positives=always)
    found = made.measure(Scorer(rule))
    assert found[f"MRR@{k}"] == found[f"Base MRR@{k}"]
    assert found[f"NDCG@{k}"] == found[f"Base NDCG@{k}"]
    assert made(Scorer(rule)) == found[f"MRR@{k}"]


@pytest.mark.parametrize("always", [True, False])
def test_our_own_order_is_no_gain(tiny, always):
    """Candidates in the order that a real model gives them are measured the same before and after it."""
    documents = ["the cat sat on the mat", "a red river", "reset the password", "the sun", "a dog in the garden"]
    ranked = [documents[hit["corpus_id"]] for hit in tiny.rank("how to reset", documents)]
    sample = {"query": "how to reset", "positive": [ranked[2], ranked[4]], "documents": ranked}
    found = CERerankingEvaluator([sample], always_rerank_positives=always).measure(tiny)
    assert found["MRR@10"] == found["Base MRR@10"] == 1 / 3
    assert found["NDCG@10"] == found["Base NDCG@10"] < 1


@pytest.mark.parametrize(
    ("always", "base", "reranked"),
    [
        # n1 p1 n2 p2 -> p1 p2 n1 n2
        (True, (SECOND + 1 / math.log2(5)) / (1 + SECOND), 1.0),
        # n1 p1 n2 -> p1 n1 n2, and p2 stays lost
        (False, SECOND / (1 + SECOND), 1 / (1 + SECOND)),
    ],
)
def test_both_passes_on_the_same_candidates(always, base, reranked, caplog):
    """A perfect second pass: with the missed texts put behind the first pass, or with them lost to both."""
    caplog.set_level(logging.INFO)
    model = ScoresByText({"p1": 0.9, "p2": 0.8, "n1": 0.2, "n2": 0.1})
    made = CERerankingEvaluator(FIRST_PASS[:1], always_rerank_positives=always)
    assert made(model) == 1.0
    expected = {"MRR@10": 1, "NDCG@10": reranked, "Base MRR@10": 0.5, "Base NDCG@10": base}
    assert made.measure(model) == pytest.approx(expected, abs=1e-12)
    assert caplog.messages[1:] == [
        "Queries: 1 \t Positives: Min 2.0, Mean 2.0, Max 2.0 \t Negatives: Min 2.0, Mean 2.0, Max 2.0",
        "         Base  -> Reranked",
        "MRR@10:  50.00 -> 100.00",
        f"NDCG@10: {base * 100:.2f} -> {reranked * 100:.2f}",
    ]


def test_the_file_has_the_same_columns_with_a_first_pass(tmp_path):
    """Rows of both forms of samples can be compared: the first pass is in the log and in `measure`."""
    CERerankingEvaluator(FIRST_PASS)(Scorer(keeps_order), tmp_path)
    assert (tmp_path / "CERerankingEvaluator_results_@10.csv").read_text().startswith("epoch,steps,MRR@10,NDCG@10\n")


def test_nan_scores_are_refused():
    """The message names the query's sample and the candidate."""
    with pytest.raises(NonFiniteScore, match=r"for candidate 0 of samples\[1\]$") as caught:
        CERerankingEvaluator(SAMPLES)(GivenScores([0.5, 0.5, 0.5, math.nan, 0.5, 0.5]))
    assert caught.value.indices == (3,)


def test_a_model_with_several_labels():
    """It gives no order."""
    with pytest.raises(InvalidInput, match="needs a model with one label"):
        CERerankingEvaluator(SAMPLES)(GivenScores(np.zeros((6, 3))))


@pytest.mark.parametrize("k", [0, -1, 1.5, None, True])
def test_refused_depths(k):
    """A depth is a whole number above 0."""
    with pytest.raises(InvalidInput, match="at_k="):
        CERerankingEvaluator(SAMPLES, k)


@pytest.mark.parametrize("samples", ["abc", 7, None, {1, 2}])
def test_what_is_no_list_of_samples(samples):
    """A str is not read as characters; a generator is read once."""
    with pytest.raises(InvalidInput, match="samples is "):
        CERerankingEvaluator(samples)
    assert CERerankingEvaluator(iter(SAMPLES)).samples == SAMPLES


def test_a_text_that_says_nothing_is_last_whatever_the_model_says():
    """As in `rank`: a model that likes empty texts is measured by the order that it would give."""
    model = ScoresByText({"": 9.0, "\u200b": 8.0, "mat": -1.0, "cat": -2.0})
    first = {"query": "q", "positive": ["mat"], "documents": ["", "cat", "\u200b", "mat"]}
    assert CERerankingEvaluator([first]).measure(model)["MRR@10"] == 1.0
    plain = {"query": "q", "positive": ["mat"], "negative": ["", "cat"]}
    assert CERerankingEvaluator([plain]).measure(model)["MRR@10"] == 1.0
