"""Rescoring with a real cross-encoder: what it finds as relevant as the positive is no negative."""

from __future__ import annotations

import pytest

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.training.negatives.rescoring import choices, rescored_choices
from secondpass.training.negatives.rule import MiningRule
from secondpass.training.negatives.sifting import RESCORED, Judged, Sifted, sift

WORDS = "cat mat river london train password bank dog paris water".split()
CORPUS = {f"d{number}": f"the {word} and the {WORDS[-1 - number]}" for number, word in enumerate(WORDS)}
QUERIES = {"q1": ("a cat on a mat", ("d3",)), "q2": ("train to paris", ("d4", "d9")), "q3": ("water", ("d0",))}


def sifted(rule: MiningRule, *queries: str, not_relevant: tuple[str, ...] = ()) -> list[tuple[Judged, Sifted]]:
    """All documents as candidates, in one order."""
    made = []
    for query in queries or QUERIES:
        text, positives = QUERIES[query]
        judged = Judged(query, text, positives, set(positives), not_relevant)
        made.append((judged, sift(judged, CORPUS, [(name, 1.0) for name in CORPUS], rule)))
    return made


def scores(encoder: CrossEncoder, query: str) -> dict[str, float]:
    """What `predict` says of every document."""
    return dict(zip(CORPUS, encoder.predict([(QUERIES[query][0], text) for text in CORPUS.values()]), strict=True))


@pytest.mark.parametrize("margin", [0.0, 0.05])
@pytest.mark.parametrize("against", ["lowest", "highest"])
def test_keeps_what_scores_below_the_positive(tiny, margin, against):
    """The first candidates whose score is below that of the positive less the margin, and no other."""
    rule = MiningRule(negatives=3, rescore_margin=margin, against=against)
    for choice in rescored_choices(sifted(rule), rule, CORPUS, tiny):
        query = choice.judged.query_id
        known = scores(tiny, query)
        positives = [known[name] for name in QUERIES[query][1]]
        limit = (min if against == "lowest" else max)(positives) - margin
        expected = [name for name in CORPUS if name not in QUERIES[query][1] and known[name] < limit]
        assert [item.id for item in choice.negatives] == expected[:3]
        assert choice.scores == pytest.approx({name: known[name] for name in choice.scores}, abs=1e-5)
        read = len(choice.scores) - len(positives)
        assert choice.dropped[RESCORED] == read - len(choice.negatives)


def test_reads_no_more_than_it_needs(tiny):
    """When enough are found, no further candidate is read; a query that needs none is not read at all."""
    rule = MiningRule(negatives=2)
    (choice,) = rescored_choices(sifted(rule, "q1"), rule, CORPUS, tiny)
    last = max(list(CORPUS).index(item.id) for item in choice.negatives)
    assert set(choice.scores) <= {*list(CORPUS)[: last + 2], "d3"}
    (done,) = rescored_choices(sifted(rule, "q1", not_relevant=("d1", "d2")), rule, CORPUS, tiny)
    assert done.scores == {}


def test_judged_negatives_are_not_rescored(tiny):
    """Somebody has looked at them."""
    rule = MiningRule(negatives=9)
    everything = tuple(CORPUS)[:3]
    (choice,) = rescored_choices(sifted(rule, "q2", not_relevant=everything), rule, CORPUS, tiny)
    assert [item.id for item in choice.negatives[:3]] == list(everything)
    assert set(choice.scores).isdisjoint(everything)


def test_company_changes_nothing(tiny):
    """A query gets the same negatives alone and among others."""
    rule = MiningRule(negatives=3)
    together = rescored_choices(sifted(rule), rule, CORPUS, tiny)
    alone = [rescored_choices(sifted(rule, query), rule, CORPUS, tiny)[0] for query in QUERIES]
    assert [choice.negatives for choice in together] == [choice.negatives for choice in alone]


def test_several_labels_need_to_be_told_which(tiny_model_folder):
    """As in `rank`: which label is relevance cannot be guessed."""
    encoder = CrossEncoder(tiny_model_folder("bert", 3), device="cpu")
    rule = MiningRule(negatives=2)
    with pytest.raises(InvalidInput, match="relevance"):
        rescored_choices(sifted(rule), rule, CORPUS, encoder)
    made = rescored_choices(sifted(rule), rule, CORPUS, encoder, relevance=1)
    assert all(0.0 <= score <= 1.0 for choice in made for score in choice.scores.values())


def test_without_a_cross_encoder_the_first_are_taken():
    """As many as the rule asks for."""
    made = choices(sifted(MiningRule(negatives=4)), MiningRule(negatives=4))
    assert [item.id for item in made[0].negatives] == ["d0", "d1", "d2", "d4"]
    assert made[0].scores == {}
