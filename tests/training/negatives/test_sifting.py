"""Which candidates of a query are left, in which order, and under which reason the others are counted."""

from __future__ import annotations

import json
import random

import pytest

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.training.negatives import sifting
from secondpass.training.negatives.sifting import (
    RESCORED,
    JudgedQuery,
    MiningRule,
    Sifted,
    choices,
    drawn,
    highest,
    plain,
    rescored_choices,
    sift,
)

CORPUS = {f"d{number}": f"text {number}" for number in range(10)}
CANDIDATES = [(f"d{number}", 10.0 - number) for number in range(10)]


def judged(*positives: str, relevant: set[str] | None = None, not_relevant: tuple[str, ...] = ()) -> JudgedQuery:
    """A query with these positives."""
    return JudgedQuery("q", "the query", positives, relevant or set(positives), not_relevant)


def left(given: JudgedQuery, corpus=CORPUS, candidates=CANDIDATES, **rule: object) -> list[str]:
    """Ids of what is left, judged ones first."""
    found = sift(given, corpus, candidates, MiningRule(**rule))  # type: ignore[arg-type]
    return [item.id for item in (*found.judged, *found.unjudged)]


def test_positives_are_dropped_and_not_ranked():
    """Ranks count what is not judged relevant, so the second to the fourth are d2, d3 and d5 here."""
    given = judged("d0", "d4")
    found = sift(given, CORPUS, CANDIDATES, MiningRule(first=2, last=4))
    assert [(item.id, item.score) for item in found.unjudged] == [("d2", 8.0), ("d3", 7.0), ("d5", 5.0)]
    assert dict(found.dropped) == {sifting.RELEVANT: 2, sifting.OUTSIDE: 5}
    assert [(item.id, item.score) for item in found.positives] == [("d0", 10.0), ("d4", 6.0)]


def test_relevant_to_another_query_of_the_same_text_is_dropped():
    """What may never be a negative is more than the query's own positives."""
    assert "d1" not in left(judged("d0", relevant={"d0", "d1"}))


def test_texts_that_are_no_other_document():
    """A copy of a positive, of another candidate, of the query, and nothing at all; case and space aside."""
    corpus = CORPUS | {"d1": " TEXT\u00a00\n", "d2": "\t\u200b", "d3": "The  query", "d5": "Text 4", "d6": "text 7"}
    found = sift(judged("d0"), corpus, CANDIDATES, MiningRule())
    assert [item.id for item in found.unjudged] == ["d4", "d6", "d8", "d9"]
    assert dict(found.dropped) == {
        sifting.RELEVANT: 1,
        sifting.LIKE_RELEVANT: 1,
        sifting.BLANK: 1,
        sifting.QUERY: 1,
        sifting.REPEATED: 2,
    }


def test_a_querys_own_document_is_no_negative_where_ids_are_shared():
    """Neither as a candidate nor judged, nor a copy of it, and it has no rank; else ids of queries say nothing."""
    corpus = CORPUS | {"q": "its title and the query", "d5": "Its title and the query"}
    found = [("q", 11.0), *CANDIDATES]
    given = judged("d0", not_relevant=("q", "d3"))
    assert left(given, corpus, found, first=2, last=5) == ["q", "d3", "d1", "d2", "d4"]
    assert left(given, corpus, found, first=2, last=5, ignore_identical_ids=True) == ["d3", "d2", "d4"]
    dropped = sift(given, corpus, found, MiningRule(ignore_identical_ids=True)).dropped
    assert dropped[sifting.QUERY] == 2
    assert left(judged("d0"), ignore_identical_ids=True) == left(judged("d0"))


def test_a_copy_of_a_dropped_candidate_may_stay():
    """Only what is taken is repeated: the copy below max_score stands for the one above it."""
    corpus = CORPUS | {"d5": "text 1"}
    assert left(judged("d0"), corpus, max_score=6.0) == ["d4", "d5", "d6", "d7", "d8", "d9"]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"max_score": 5.0}, ["d5", "d7", "d8", "d9"]),
        ({"min_score": 5.0}, ["d0", "d1", "d3", "d4", "d5"]),
        ({"absolute_margin": 0.0}, ["d7", "d8", "d9"]),
        ({"absolute_margin": 2.0}, ["d9"]),
        ({"relative_margin": 0.5}, ["d9"]),
        ({"relative_margin": 0.26}, ["d8", "d9"]),
        ({"absolute_margin": 0.0, "against": "highest"}, ["d3", "d4", "d5", "d7", "d8", "d9"]),
        ({"absolute_margin": 1.0, "relative_margin": 0.5, "against": "highest"}, ["d7", "d8", "d9"]),
    ],
)
def test_scores_and_margins(rule, expected):
    """Bounds hold what lies on them; a negative lies below the lowest (or highest) positive by more than the margin."""
    assert left(judged("d2", "d6"), **rule) == expected


def test_margin_of_negative_scores():
    """Five percent below -10 is -10.5, not -9.5."""
    assert highest([-10.0, None, -8.0], None, 0.05, "lowest") == pytest.approx(-10.5)
    assert highest([-10.0, -8.0], 1.0, 0.05, "highest") == pytest.approx(-9.0)
    assert highest([None], 1.0, None, "lowest") is None


def test_a_positive_that_was_not_found_gives_nothing_to_measure_from():
    """Without a score of any positive a margin drops all, under a reason of its own; other positives are enough."""
    found = sift(judged("elsewhere"), CORPUS, CANDIDATES, MiningRule(relative_margin=0.1))
    assert found.unjudged == ()
    assert dict(found.dropped) == {sifting.UNMEASURED: 10}
    assert left(judged("elsewhere", "d7"), relative_margin=0.1) == ["d8", "d9"]


def test_judged_documents_come_first_whatever_their_rank_and_score():
    """Those found in their order before those that were not; a document that the corpus lacks is none."""
    given = judged("d0", not_relevant=("unknown", "extra", "d9", "d3"))
    corpus = CORPUS | {"extra": "one more"}
    found = sift(given, corpus, CANDIDATES, MiningRule(last=2, max_score=8.5))
    assert [(item.id, item.score) for item in found.judged] == [("d3", 7.0), ("d9", 1.0), ("extra", None)]
    assert [item.id for item in found.unjudged] == ["d2"]
    assert left(given, corpus, last=2, max_score=8.5, judged_first=False) == ["d2"]


def test_a_judged_copy_of_a_positive_is_no_negative():
    """The same text cannot be relevant and not."""
    assert "d1" not in left(judged("d0", not_relevant=("d1",)), CORPUS | {"d1": "Text 0"})


def test_random_order_depends_on_each_document_alone():
    """A different seed gives another order; a candidate more, or another list's order, changes none of the others."""
    given = judged("d0", not_relevant=("d8", "d9"))
    order = left(given, sampling="random")
    assert set(order[:2]) == {"d8", "d9"}
    assert sorted(order) == sorted(left(given))
    assert order != left(given, sampling="random", seed=1)
    shuffled = random.Random(0).sample(CANDIDATES[:6], 6)
    assert left(given, candidates=shuffled, sampling="random") == [
        name for name in order if name in dict(shuffled) or name in ("d8", "d9")
    ]


def test_draws_are_fair():
    """Each of five documents comes first for about a fifth of many queries."""
    firsts = [min("abcde", key=lambda name: drawn(7, f"q{query}", name)) for query in range(2000)]
    assert all(320 < firsts.count(name) < 480 for name in "abcde")


def test_plain_texts():
    """Only case and white space are no difference."""
    assert plain(" Straße\u2003X ") == plain("STRASSE x")
    assert plain("a-b") != plain("a b")


@pytest.mark.parametrize(
    ("candidates", "rule", "words"),
    [
        ([("nowhere", 1.0)], {}, "query 'q': document 'nowhere' is not in the corpus"),
        ([("d1", 1.0), ("d1", 0.5)], {}, "'d1' comes twice"),
        ([("d1", float("nan"))], {}, "'d1' has the score nan"),
        ([("d1", float("inf"))], {}, "'d1' has the score inf"),
        ([("d1", None)], {"relative_margin": 0.1}, "'d1' has no score, which relative_margin needs"),
    ],
)
def test_refused_candidates(candidates, rule, words):
    """A list that does not belong to the corpus, or that the rule cannot be applied to, is named."""
    with pytest.raises(InvalidInput, match=words):
        sift(judged("d0"), CORPUS, candidates, MiningRule(**rule))


def test_scores_are_not_needed_without_a_rule_about_them():
    """A run without scores can be mined by rank."""
    assert left(judged("d0"), candidates=[("d5", None), ("d4", None)]) == ["d5", "d4"]


WORDS = "cat mat river london train password bank dog paris water".split()
CORPUS_RESCORING = {f"d{number}": f"the {word} and the {WORDS[-1 - number]}" for number, word in enumerate(WORDS)}
QUERIES = {"q1": ("a cat on a mat", ("d3",)), "q2": ("train to paris", ("d4", "d9")), "q3": ("water", ("d0",))}


def sifted(rule: MiningRule, *queries: str, not_relevant: tuple[str, ...] = ()) -> list[tuple[JudgedQuery, Sifted]]:
    """All documents as candidates, in one order."""
    made = []
    for query in queries or QUERIES:
        text, positives = QUERIES[query]
        judged = JudgedQuery(query, text, positives, set(positives), not_relevant)
        made.append((judged, sift(judged, CORPUS_RESCORING, [(name, 1.0) for name in CORPUS_RESCORING], rule)))
    return made


def scores(encoder: CrossEncoder, query: str) -> dict[str, float]:
    """What `predict` says of every document."""
    return dict(
        zip(
            CORPUS_RESCORING,
            encoder.predict([(QUERIES[query][0], text) for text in CORPUS_RESCORING.values()]),
            strict=True,
        )
    )


@pytest.mark.parametrize("margin", [0.0, 0.05])
@pytest.mark.parametrize("against", ["lowest", "highest"])
def test_keeps_what_scores_below_the_positive(tiny, margin, against):
    """The first candidates whose score is below that of the positive less the margin, and no other."""
    rule = MiningRule(negatives=3, rescore_margin=margin, against=against)
    for choice in rescored_choices(sifted(rule), rule, CORPUS_RESCORING, tiny):
        query = choice.judged.query_id
        known = scores(tiny, query)
        positives = [known[name] for name in QUERIES[query][1]]
        limit = (min if against == "lowest" else max)(positives) - margin
        expected = [name for name in CORPUS_RESCORING if name not in QUERIES[query][1] and known[name] < limit]
        assert [item.id for item in choice.negatives] == expected[:3]
        assert choice.scores == pytest.approx({name: known[name] for name in choice.scores}, abs=1e-5)
        read = len(choice.scores) - len(positives)
        assert choice.dropped[RESCORED] == read - len(choice.negatives)


def test_reads_no_more_than_it_needs(tiny):
    """When enough are found, no further candidate is read; a query that needs none is not read at all."""
    rule = MiningRule(negatives=2)
    (choice,) = rescored_choices(sifted(rule, "q1"), rule, CORPUS_RESCORING, tiny)
    last = max(list(CORPUS_RESCORING).index(item.id) for item in choice.negatives)
    assert set(choice.scores) <= {*list(CORPUS_RESCORING)[: last + 2], "d3"}
    (done,) = rescored_choices(sifted(rule, "q1", not_relevant=("d1", "d2")), rule, CORPUS_RESCORING, tiny)
    assert done.scores == {}


def test_judged_negatives_are_not_rescored(tiny):
    """Somebody has looked at them."""
    rule = MiningRule(negatives=9)
    everything = tuple(CORPUS_RESCORING)[:3]
    (choice,) = rescored_choices(sifted(rule, "q2", not_relevant=everything), rule, CORPUS_RESCORING, tiny)
    assert [item.id for item in choice.negatives[:3]] == list(everything)
    assert set(choice.scores).isdisjoint(everything)


def test_company_changes_nothing(tiny):
    """A query gets the same negatives alone and among others."""
    rule = MiningRule(negatives=3)
    together = rescored_choices(sifted(rule), rule, CORPUS_RESCORING, tiny)
    alone = [rescored_choices(sifted(rule, query), rule, CORPUS_RESCORING, tiny)[0] for query in QUERIES]
    assert [choice.negatives for choice in together] == [choice.negatives for choice in alone]


def test_several_labels_need_to_be_told_which(tiny_model_folder):
    """As in `rank`: which label is relevance cannot be guessed."""
    encoder = CrossEncoder(tiny_model_folder("bert", 3), device="cpu")
    rule = MiningRule(negatives=2)
    with pytest.raises(InvalidInput, match="relevance"):
        rescored_choices(sifted(rule), rule, CORPUS_RESCORING, encoder)
    made = rescored_choices(sifted(rule), rule, CORPUS_RESCORING, encoder, relevance=1)
    assert all(0.0 <= score <= 1.0 for choice in made for score in choice.scores.values())


def test_without_a_cross_encoder_the_first_are_taken():
    """As many as the rule asks for."""
    made = choices(sifted(MiningRule(negatives=4)), MiningRule(negatives=4))
    assert [item.id for item in made[0].negatives] == ["d0", "d1", "d2", "d4"]
    assert made[0].scores == {}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"negatives": 0}, "negatives=0"),
        ({"negatives": True}, "negatives=True"),
        ({"first": 0}, "first=0"),
        ({"first": 10, "last": 9}, "last=9 is before first=10"),
        ({"positives": 0}, "positives=0"),
        ({"max_score": float("nan")}, "max_score=nan"),
        ({"absolute_margin": -0.1}, "absolute_margin=-0.1 is below 0"),
        ({"relative_margin": float("inf")}, "relative_margin=inf"),
        ({"rescore_margin": "1"}, "rescore_margin='1'"),
        ({"sampling": "best"}, "sampling='best' is none of top, random"),
        ({"against": "mean"}, "against='mean' is none of lowest, highest"),
        ({"seed": 1.5}, "seed=1.5"),
    ],
)
def test_refused(settings, words):
    """A setting that means nothing is refused by name."""
    with pytest.raises(InvalidInput, match=words):
        MiningRule(**settings)


def test_which_setting_needs_scores():
    """Margins and bounds compare scores; a rank window does not, nor does the cross-encoder's margin."""
    assert MiningRule(first=3, last=9, rescore_margin=0.2).needs_scores is None
    assert MiningRule(relative_margin=0.0).needs_scores == "relative_margin"
    assert MiningRule(min_score=-1.0).needs_scores == "min_score"


def test_plain_values_for_reports():
    """Everything that decides what is mined can be written down."""
    assert MiningRule(**json.loads(json.dumps(MiningRule(last=7).as_json()))) == MiningRule(last=7)
