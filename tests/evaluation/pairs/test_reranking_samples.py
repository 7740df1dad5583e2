"""reranking_samples: the forms in which samples come, what is skipped and what is refused."""

from __future__ import annotations

import math

import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.pairs.reranking_samples import Sample, read_samples

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


def test_graded_relevance():
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


def test_what_is_no_list_of_samples():
    """A str is refused as a whole."""
    with pytest.raises(InvalidInput, match="samples is str"):
        read_samples("abc", True)
