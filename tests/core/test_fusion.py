"""Several scores to one order: by hand, and what a tuned order keeps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from secondpass.calibration import AnswerRule, Calibration, Conditions
from secondpass.errors import InvalidInput
from secondpass.fusion import Candidates, Fusion, SkipRule, Tuned, overlap

RUNS = {"bm25": [("a", 9.0), ("b", 5.0), ("c", 1.0)], "dense": [("c", 0.9), ("d", 0.8), ("a", 0.4)]}
EVEN = Fusion("weighted", {"bm25": 0.5, "dense": 0.5})
WITH = Fusion("weighted", {"bm25": 0.25, "dense": 0.25, "reranker": 0.5})

PAGE = Tuned(("bm25", "dense"), EVEN, WITH, 2).to_dict()


def scores(fusion: Fusion, candidates: Candidates) -> dict[str, float]:
    """By document, to six digits."""
    return dict(zip(candidates.ids, fusion.scores(candidates).round(6).tolist(), strict=True))


def test_scores_are_stretched_within_a_query_and_what_is_not_found_counts_nothing() -> None:
    """The best of a list has 1, its worst and what it lacks 0."""
    found = scores(EVEN, Candidates.of(RUNS))
    assert found == {"a": 0.5, "c": 0.5, "b": 0.25, "d": 0.4}


def test_a_list_of_one_document_has_found_it() -> None:
    """Equal scores are all 1: with 0 a document would be worth as little as one that was not found."""
    found = scores(EVEN, Candidates.of({"bm25": [("a", 3.0)], "dense": [("b", 0.5), ("c", 0.5)]}))
    assert found == {"a": 0.5, "b": 0.5, "c": 0.5}


def test_numbers_beyond_half_of_what_a_double_holds_are_stretched_too() -> None:
    """Their difference is more than it holds."""
    found = scores(
        Fusion("weighted", {"year": 1.0}), Candidates.of({"year": [("a", 1.7e308), ("b", 0.0), ("c", -1.7e308)]})
    )
    assert found == {"a": 2.0, "b": 1.5, "c": 1.0}


def test_reciprocal_ranks_are_those_of_the_lists() -> None:
    """1 / (60 + rank), summed; a list without scores counts by its order."""
    runs: dict[str, list[tuple[str, float | None]]] = {"bm25": [("a", None), ("b", None)], "dense": [("b", 7.0)]}
    found = scores(Fusion("rrf", {"bm25": 1.0, "dense": 1.0}), Candidates.of(runs))
    assert found == {"a": round(1 / 61, 6), "b": round(1 / 62 + 1 / 61, 6)}


def test_what_a_field_lacks_is_unknown_and_never_a_rank() -> None:
    """A document with None is one that is absent: the others' values stay what they are, as does a weight for them."""
    runs = {"bm25": [("old", 9.0), ("undated", 5.0), ("new", 1.0)]}
    absent = Candidates.of(runs, {"year": {"old": 1990.0, "new": 2024.0}})
    given = Candidates.of(runs, {"year": {"old": 1990.0, "undated": None, "new": 2024.0}})
    for candidates in (absent, given):
        assert candidates.scores["year"] == pytest.approx([1990.0, np.nan, 2024.0], nan_ok=True)
        assert scores(Fusion("weighted", {"year": 1.0}), candidates) == {"old": 1.0, "undated": 0.0, "new": 2.0}


def test_one_input_alone_keeps_its_own_order_before_all_it_has_not() -> None:
    """Its last document is above those that only others found."""
    candidates = Candidates.of(RUNS)
    order = np.argsort(-Fusion("weighted", {"bm25": 1.0}).scores(candidates), kind="stable")
    assert [candidates.ids[row] for row in order] == ["a", "b", "c", "d"]


def test_what_is_reranked_comes_first_and_scores_never_rise() -> None:
    """The best by the first passes are read; the others follow them as they were."""
    tuned = Tuned(("bm25", "dense"), EVEN, WITH, depth=2)
    candidates = Candidates.of(RUNS)
    read = tuned.to_read(candidates)
    assert [candidates.ids[row] for row in read] == ["a", "c"]
    fused = tuned.order(candidates, read, [-3.0, 2.0])
    assert [one.id for one in fused] == ["c", "a", "d", "b"]
    assert [one.logit for one in fused] == [2.0, -3.0, None, None]
    values = [one.score for one in fused]
    assert values == sorted(values, reverse=True)


def test_probabilities_are_of_what_was_read_and_tell_that_nothing_is_relevant() -> None:
    """By fused score and logit together; the verdict is of the best one."""
    calibration = Calibration("logistic", slope=2.0, answers=AnswerRule(0.0, 10, 0.9, 0.9))
    tuned = Tuned(("bm25", "dense"), EVEN, WITH, 2, calibration=calibration, calibrated_by=(0.0, 1.0))
    candidates = Candidates.of(RUNS)
    fused = tuned.order(candidates, [0, 1], [-1.0, -2.0])
    assert [one.probability for one in fused[:2]] == pytest.approx([1 / (1 + np.exp(2)), 1 / (1 + np.exp(4))])
    assert [one.probability for one in fused[2:]] == [None, None]
    assert tuned.nothing_relevant(fused) is True
    assert tuned.nothing_relevant(tuned.order(candidates, [0, 1], [1.0, -2.0])) is False
    assert tuned.nothing_relevant(tuned.order(candidates)) is None


def test_queries_that_first_passes_agree_on_are_not_read() -> None:
    """How far they agree is the share of their ten best that both have; of one list the lead of its best."""
    candidates = Candidates.of(RUNS)
    assert overlap(candidates, ("bm25", "dense")) == 0.5  # two of four documents
    assert overlap(Candidates.of(RUNS | {"bm25": []}), ("bm25", "dense")) == 0.0
    assert overlap(candidates, ("bm25",)) == 0.5
    tuned = Tuned(("bm25", "dense"), EVEN, WITH, depth=2, skip=SkipRule(0.4, 0.5, 0.0))
    assert tuned.to_read(candidates) == []
    assert [one.id for one in tuned.order(candidates)] == ["a", "c", "d", "b"]


def test_a_tuned_order_comes_back_from_its_file() -> None:
    """JSON holds all of it."""
    tuned = Tuned(
        ("bm25", "dense"),
        EVEN,
        WITH,
        depth=2,
        skip=SkipRule(0.9, 0.5, 0.0),
        model="m",
        marks=(0.5, -1.0),
        fields=("year",),
        calibration=Calibration("logistic"),
        calibrated_by=(0.25, 0.5),
        conditions=Conditions(128, prompt="find"),
    )
    assert Tuned.from_dict(json.loads(json.dumps(tuned.to_dict()))) == tuned


def edited(**changes: object) -> Tuned:
    """What is read of a file that somebody changed."""
    return Tuned.from_dict({**Tuned(("bm25", "dense"), EVEN).to_dict(), **changes}, "t.json")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Candidates.of({"bm25": [("a", 1.0), ("a", 2.0)]}), "bm25 has a document twice"),
        (lambda: Candidates.of({"bm25": [("a", float("nan"))]}), "bm25: the score of 'a'=nan is not a finite number"),
        (
            lambda: Candidates.of(RUNS, {"year": {"b": float("nan")}}),
            "year: the score of 'b'=nan is not a finite number",
        ),
        (lambda: EVEN.scores(Candidates.of({"bm25": []})), "needs 'dense'"),
        (lambda: Fusion("weighted", {}), "weights is empty"),
        (lambda: Fusion("weighted", {"a": float("inf")}), r"weights\['a'\]=inf"),
        (lambda: Fusion("median", {"a": 1.0}), "method='median'"),  # type: ignore[arg-type]
        (lambda: Tuned((), EVEN), "first is empty"),
        (lambda: Tuned(("bm25",), EVEN), "'dense' is no first pass"),
        (lambda: Tuned(("bm25", "dense"), WITH), "before has the reranker"),
        (lambda: Tuned(("bm25", "dense"), EVEN, WITH, -1), "depth=-1"),
        (
            lambda: Tuned(("bm25", "dense"), EVEN, WITH, 2).order(Candidates.of(RUNS), [0], [1.0, 2.0]),
            "2 numbers for 1",
        ),
        (lambda: Tuned(("bm25", "dense"), EVEN, WITH, 2).order(Candidates.of(RUNS), [0], [np.inf]), r"logits\[0\]"),
        (lambda: Tuned.from_dict({"version": 7}, "t.json"), "t.json has version 7"),
        (lambda: Tuned.from_dict({"version": 1, "first": ["a"]}, "t.json"), "t.json is no tuned ranking"),
        (lambda: Tuned.from_dict([], "t.json"), "t.json has version None"),  # type: ignore[arg-type]
        (lambda: Tuned.from_dict({**PAGE, "depth": -1}, "t.json"), "t.json is no tuned ranking: depth=-1"),
        (lambda: Tuned.from_dict({**PAGE, "before": {"method": "rrf", "weights": 5}}, "t.json"), "t.json is no tuned"),
        (lambda: Tuned.from_dict({**PAGE, "marks": ["x"]}, "t.json"), "t.json is no tuned ranking"),
        (lambda: Tuned.from_dict({**PAGE, "conditions": {"size": 1}}, "t.json"), "t.json is no tuned ranking"),
        (lambda: Tuned.from_dict({**PAGE, "skip": {"least": "x", "saved": 0, "lost": 0}}, "t.json"), "least='x'"),
        (lambda: edited(first="ab"), "first is a text, not a list"),
        (lambda: edited(marks="x"), "t.json is no tuned ranking: could not convert"),
        (lambda: edited(calibrated_by=[1]), "t.json is no tuned ranking: not enough values"),
        (lambda: edited(calibration=3), "t.json is no calibration"),
        (lambda: edited(before={"method": "rrf", "weights": [1]}), "t.json is no tuned ranking"),
        (lambda: Fusion("lambdamart", {"bm25": 1.0}, "tree\n").scores(Candidates.of(RUNS)), "no model of LightGBM"),
    ],
)
def test_what_makes_no_order_is_refused(wrong: object, said: str) -> None:
    """The message names what is wrong."""
    with pytest.raises(InvalidInput, match=said):
        wrong()  # type: ignore[operator]
