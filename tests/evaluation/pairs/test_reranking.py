"""CERerankingEvaluator: hand-worked values, ties, a first pass beside the second, its file."""

from __future__ import annotations

import copy
import logging
import math
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.evaluation import CERerankingEvaluator
from secondpass.evaluation.pairs.reranking import Sample, ndcg, read_samples, reciprocal_rank
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


@pytest.mark.parametrize(("name", "value"), [("at_k", 5), ("samples", SAMPLES[:1]), ("always_rerank_positives", False)])
def test_what_it_was_made_with_stays(name, value):
    """Setting it is refused at once; the figures are as before, also of a copy, and the rest can be set."""
    evaluator = CERerankingEvaluator(SAMPLES)
    with pytest.raises(InvalidInput, match=f"^{name} is what the evaluator was made with"):
        setattr(evaluator, name, value)
    evaluator.name, evaluator.write_csv, evaluator.batch_size = "dev", False, 4
    assert copy.deepcopy(evaluator).measure(ScoresByText(SCORES))["MRR@10"] == pytest.approx(0.75, abs=1e-12)


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


def ideal(gains):
    """Gains in the best order."""
    return tuple(sorted((gain for gain in gains if gain), reverse=True))


@pytest.mark.parametrize(
    ("gains", "k", "expected"),
    [
        ([1, 0, 0], 10, 1),
        ([0, 0, 1], 10, 1 / 3),
        ([0, 2, 1], 10, 1 / 2),
        ([0, 0, 1], 2, 0),
        ([0, 0], 10, 0),
        ([], 10, 0),
    ],
)
def test_reciprocal_rank_of_an_order(gains, k, expected):
    """One over the rank of the first document with a gain, 0 beyond k."""
    assert reciprocal_rank(gains, np.arange(len(gains), 0, -1), k) == expected


@pytest.mark.parametrize(
    ("gains", "k", "expected"),
    [
        ([1] + [0] * 9, 10, sum(1 / rank for rank in range(1, 11)) / 10),
        ([0] * 9 + [1], 10, sum(1 / rank for rank in range(1, 11)) / 10),
        ([1, 1, 0, 0], 10, 1 / 2 + 1 / 3 / 2 + 1 / 6 / 3),
        ([1, 1, 0, 0], 2, 1 / 2 + 1 / 3 / 2),
        ([1, 1, 1], 10, 1),
    ],
)
def test_reciprocal_rank_of_equal_scores(gains, k, expected):
    """Where all scores are equal it depends on how many documents have a gain, not on where they are listed."""
    assert reciprocal_rank(gains, np.zeros(len(gains)), k) == pytest.approx(expected, abs=1e-15)


def test_reciprocal_rank_of_many_equal_scores():
    """A thousand documents make no number overflow: one relevant has H(1000) / 1000 on average."""
    expected = sum(1 / rank for rank in range(1, 1001)) / 1000
    assert reciprocal_rank([0] * 999 + [1], np.zeros(1000), 1000) == pytest.approx(expected, abs=1e-12)
    assert reciprocal_rank([0, 1] * 500, np.zeros(1000), 10) == pytest.approx(0.6933, abs=1e-3)


@pytest.mark.parametrize(
    ("gains", "missed", "k", "expected"),
    [
        ([1, 0, 1], (), 10, 1.5 / (1 + 1 / math.log2(3))),
        ([0, 3, 1], (), 10, (3 / math.log2(3) + 1 / 2) / (3 + 1 / math.log2(3))),
        ([0, 1], (), 1, 0),
        ([1, 0], (1.0,), 10, 1 / (1 + 1 / math.log2(3))),  # the ideal has what the ranking lacks
        ([1, 0], (1.0,), 1, 1),
        ([1], (), 10, 1),
        ([], (1.0,), 10, 0),
    ],
)
def test_ndcg_of_an_order(gains, missed, k, expected):
    """DCG by hand over that of the ideal order of all documents with a gain, retrieved or not."""
    assert ndcg(gains, np.arange(len(gains), 0, -1), ideal([*gains, *missed]), k) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 1, 3]), min_size=1, max_size=40), st.integers(1, 12))
def test_a_perfect_order_is_exactly_one(gains, k):
    """To the last bit, so that a report never shows 0.9999999999999999."""
    gains = [*sorted(gains, reverse=True), 0]
    gains[0] = 3
    assert ndcg(gains, np.arange(len(gains), 0, -1), ideal(gains), k) == 1.0


DOCUMENTS = st.lists(st.tuples(st.sampled_from([0, 0, 1, 3]), st.sampled_from([-1.0, 0.0, 2.0])), max_size=6)


@settings(deadline=None, max_examples=30)
@given(DOCUMENTS, st.integers(1, 7))
def test_ties_are_the_mean_over_all_orders(documents, k):
    """Both figures equal the mean over every order in which scores do not rise."""
    gains, scores = [gain for gain, _ in documents], np.array([score for _, score in documents])
    best = ideal([*gains, 1])
    orders = [
        [gains[place] for place in order]
        for order in permutations(range(len(gains)))
        if all(scores[upper] >= scores[lower] for upper, lower in pairwise(order))
    ]
    falling = np.arange(len(gains), 0, -1)
    expected = np.mean([reciprocal_rank(order, falling, k) for order in orders])
    assert reciprocal_rank(gains, scores, k) == pytest.approx(expected, abs=1e-12)
    expected = np.mean([ndcg(order, falling, best, k) for order in orders])
    assert ndcg(gains, scores, best, k) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=12), st.integers(1, 12))
def test_ndcg_of_all_documents_is_scikit_learns(documents, k):
    """Where nothing is missed it is the seed's value: scikit-learn's ndcg_score."""
    gains, scores = (np.array(column, float) for column in zip(*documents, strict=True))
    gains[0] = 2
    expected = ndcg_score([gains], [scores], k=k)
    assert ndcg(gains.tolist(), scores, ideal(gains), k) == pytest.approx(expected, abs=1e-12)


PLAIN = {"query": "q", "positive": ["p1", "p2"], "negative": ["n1"]}
RANKED = {"query": "q", "positive": ["p1", "p2"], "documents": ["n1", "p1", "n2"]}


def only(sample, always=True):
    """Read one sample."""
    (found,) = read_samples([sample], always).kept
    return found


def test_positive_and_negative_texts():
    """Candidates are both; the positive ones have gain 1."""
    assert only(PLAIN) == Sample("samples[0]", "q", ("p1", "p2", "n1"), (1, 1, 0), (1, 1))


@pytest.mark.parametrize("always", [True, False])
def test_a_first_pass(always):
    """Candidates have its order; the missed positive texts come behind it, or count in the ideal only."""
    behind = (("p2",), (1,)) if always else ((), ())
    expected = Sample("samples[0]", "q", ("n1", "p1", "n2", *behind[0]), (0, 1, 0, *behind[1]), (1, 1))
    assert only(RANKED, always) == expected


def test_a_str_is_one_text():
    """Not a sequence of characters."""
    assert only({"query": "q", "positive": "abc", "negative": "de"}).candidates == ("abc", "de")
    assert only({"query": "q", "positive": "abc", "documents": "de"}).candidates == ("de", "abc")


def test_sets_are_sorted():
    """The seed's own training scripts give sets: their order must not change from run to run."""
    sample = only({"query": "q", "positive": {"p2", "p1"}, "negative": frozenset(["n2", "n1"])})
    assert sample.candidates == ("p1", "p2", "n1", "n2")


def test_graded_relevance_of_reranking_samples():
    """A dict of positive texts gives their grades; the ideal has the highest first."""
    sample = only({"query": "q", "positive": {"p1": 1, "p2": 2.5}, "negative": ["n1"]})
    assert (sample.gains, sample.ideal) == ((1, 2.5, 0), (2.5, 1))


def test_equal_texts_are_one():
    """A text that is listed twice is no second relevant document, and no second place in the ranking."""
    assert only({"query": "q", "positive": ["p", "p"], "negative": ["n", "n"]}).candidates == ("p", "n")
    sample = only({"query": "q", "positive": ["p", "p"], "documents": ["n", "p", "n", "p"]})
    assert (sample.candidates, sample.ideal) == (("n", "p"), (1,))


@pytest.mark.parametrize("samples", [[PLAIN, PLAIN], {"a": PLAIN, "b": PLAIN}, iter([PLAIN, PLAIN])])
def test_a_list_or_a_dict_of_samples(samples):
    """Any sequence of samples will do, or a dict of them, whose keys messages repeat."""
    found = read_samples(samples, True)
    assert [sample.name for sample in found.kept] in (["samples[0]", "samples[1]"], ["samples['a']", "samples['b']"])
    assert not found.ranked
    assert read_samples([RANKED], True).ranked


@pytest.mark.parametrize(
    ("skipped", "always"),
    [
        ({"query": "q", "positive": [], "negative": ["n"]}, True),
        ({"query": "q", "positive": ["p"], "negative": []}, True),
        ({"query": "q", "positive": {}, "documents": ["n"]}, False),
        ({"query": "q", "positive": ["p"], "documents": []}, True),
    ],
)
def test_samples_that_tell_nothing_are_skipped(skipped, always):
    """Without a positive text, or without another one, no order is better than another: counted, not measured."""
    other = PLAIN if "negative" in skipped else RANKED
    found = read_samples([skipped, other], always)
    assert [sample.name for sample in found.kept] == ["samples[1]"]
    assert found.skipped == 1
    with pytest.raises(InvalidInput, match="none of 1 samples has a positive text and candidates"):
        read_samples([skipped], always)


def test_a_first_pass_that_found_nothing_counts():
    """What both passes deliver together is measured on this query too: it is 0."""
    found = read_samples([{"query": "q", "positive": ["p"], "documents": []}, RANKED], False)
    assert found.skipped == 0
    assert found.kept[0].candidates == ()


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (7, r"samples\[1\] is int, not a dict"),
        ({"positive": ["p"], "negative": ["n"]}, r"samples\[1\] has no 'query'"),
        ({"query": "q", "negative": ["n"]}, r"samples\[1\] has no 'positive'"),
        ({"query": "q", "positive": ["p"]}, r"samples\[1\] has neither: it needs one of"),
        (PLAIN | RANKED, r"samples\[1\] has negative and documents: it needs one of"),
        (RANKED, r"samples\[1\] has 'documents' where samples\[0\] has 'negative'"),
        (PLAIN | {"query": 7}, r"samples\[1\]\['query'\] is int, not str"),
        (PLAIN | {"positive": ["p", 7]}, r"samples\[1\]\['positive'\]\[1\] is int, not str"),
        (PLAIN | {"negative": 7}, r"samples\[1\]\['negative'\] is int"),
        (PLAIN | {"negative": {"n": 0}}, r"samples\[1\]\['negative'\] is dict"),
        (PLAIN | {"negative": ["n", "p1"]}, r"samples\[1\] has 'p1' as positive and as negative"),
        (PLAIN | {"positive": {"p": 0}}, r"samples\[1\]\['positive'\]\['p'\] is 0, not a grade above 0"),
        (PLAIN | {"positive": {"p": math.nan}}, "is nan, not a grade"),
        (PLAIN | {"positive": {"p": True}}, "is True, not a grade"),
        (PLAIN | {"positive": {"p": "2"}}, "is '2', not a grade"),
        (PLAIN | {"positive": {7: 1}}, r"a key of samples\[1\]\['positive'\] is int, not str"),
    ],
)
def test_refused_samples(sample, message):
    """What has another form is named by its place."""
    with pytest.raises(InvalidInput, match=message):
        read_samples([PLAIN, sample], True)


def test_a_ranking_has_an_order():
    """A set of documents has none, so it is refused."""
    with pytest.raises(InvalidInput, match=r"samples\[0\]\['documents'\] is set"):
        read_samples([RANKED | {"documents": {"n", "p"}}], True)


@pytest.mark.parametrize("samples", [[], {}])
def test_no_samples(samples):
    """There is nothing to evaluate on."""
    with pytest.raises(InvalidInput, match="samples is empty"):
        read_samples(samples, True)


def test_what_is_no_list_of_samples_of_reranking_samples():
    """A str is refused as a whole."""
    with pytest.raises(InvalidInput, match="samples is str"):
        read_samples("abc", True)
