"""Clicks to graded judgements: what a position-based model gets back from a log whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation import ClickLog, click_labels, fit_positions
from secondpass.evaluation import clicks as module

GRADES = np.array([0.03, 0.15, 0.35, 0.7])
"""P(click) at the first position by the true grade."""
TRUE_EXAMINATION = np.arange(1, 11) ** -0.8


def simulated(seed: int, *, queries: int = 120, sessions: int = 300, moves: float = 0.5) -> tuple[ClickLog, Any]:
    """Clicks on lists of a ranker that puts relevant documents last, and the true grade of each pair."""
    draw = np.random.default_rng(seed)
    documents = len(TRUE_EXAMINATION)
    rows: dict[tuple[int, int, int], list[int]] = {}
    grades = draw.choice(4, (queries, documents), p=[0.6, 0.2, 0.1, 0.1])
    for query in range(queries):
        scores = -0.5 * grades[query] + draw.normal(0, 1, documents)
        for _ in range(1 + int(draw.exponential(sessions))):
            shown = np.argsort(-(scores + draw.normal(0, moves, documents)))
            clicked = draw.random(documents) < TRUE_EXAMINATION * GRADES[grades[query, shown]]
            for position, (document, click) in enumerate(zip(shown.tolist(), clicked.tolist(), strict=True), start=1):
                counts = rows.setdefault((query, document, position), [0, 0])
                counts[0] += 1
                counts[1] += click
    log = log_of([{"query_id": str(query), "doc_id": str(document), "rank": position, "views": shown, "clicks": clicked}
                  for (query, document, position), (shown, clicked) in rows.items()])  # fmt: skip
    return log, np.array([grades[int(query), int(document)] for query, document in log.pairs])


def log_of(rows: Sequence[Mapping[str, Any]], **options: Any) -> ClickLog:
    """A log of rows, each called by its number."""
    return ClickLog.of_rows(((f"row {number}", row) for number, row in enumerate(rows)), **options)


def better(values: np.ndarray, grades: np.ndarray) -> float:
    """P(a relevant pair has the higher value than another one), half for equal ones."""
    relevant, other = values[grades > 0], values[grades == 0]
    return float(((relevant[:, None] > other) + 0.5 * (relevant[:, None] == other)).mean())


def test_grades_beat_click_through_rates_where_the_ranker_was_bad():
    """Examination is found as it was, and what is left ranks better than clicks by impressions, by AUC and Kendall."""
    log, grades = simulated(0)
    model = fit_positions(log)
    assert np.abs(np.array(model.examination) - TRUE_EXAMINATION).max() < 0.04
    assert all(model.estimated)
    assert (model.origin, model.warning) == ("from clicks, position-based model", "")
    rates = np.bincount(log.pair, log.clicks) / np.bincount(log.pair, log.impressions)
    labels = click_labels(log, model)
    judged = np.array([document in labels.qrels.get(query, {}) for query, document in log.pairs])
    given = np.array([labels.qrels[query][document] for query, document in np.array(log.pairs)[judged].tolist()])
    by_rate = np.zeros(len(given), int)  # as many of each grade, given by rates
    by_rate[np.argsort(rates[judged], kind="stable")] = np.sort(given)
    assert better(given, grades[judged]) > better(by_rate, grades[judged]) + 0.02
    assert better(model.attractiveness, grades) > better(rates, grades) + 0.04
    kendall = pytest.importorskip("scipy.stats").kendalltau
    assert kendall(given, grades[judged]).statistic > kendall(by_rate, grades[judged]).statistic + 0.08
    assert kendall(model.attractiveness, grades).statistic > kendall(rates, grades).statistic + 0.05
    assert sum(labels.grades) + labels.unjudged == len(log.pairs)
    assert labels.qrels.origin == model.origin


def test_few_impressions_do_not_flatten_examination():
    """Thousands of pairs that were shown a few times each say the same of positions as few shown often do.

    The likelihood of attractiveness and examination together is 0.2 off here: each pair is a parameter of its own.
    """
    log, _ = simulated(1, queries=1500, sessions=8, moves=1.0)
    assert np.abs(np.array(fit_positions(log).examination) - TRUE_EXAMINATION).max() < 0.06


def test_attractiveness_is_where_expectation_maximisation_ends():
    """Given examination, a further step of it changes nothing; a pair alone is found on paper."""
    log, _ = simulated(2, queries=20)
    model = fit_positions(log)
    seen = np.array(model.examination)[log.position - 1]
    own = model.attractiveness[log.pair]
    attracted = log.clicks + (log.impressions - log.clicks) * own * (1 - seen) / (1 - seen * own)
    shown = np.bincount(log.pair, log.impressions) + model.prior
    again = (np.bincount(log.pair, attracted) + model.prior * model.mean) / shown
    assert np.abs(again - model.attractiveness).max() < 1e-6
    top = log_of([{"qid": "q", "doc_id": "d", "position": 1, "clicks": 30, "views": 100},
                  {"qid": "q", "doc_id": "e", "position": 1, "clicks": 0, "views": 100}])  # fmt: skip
    alone = fit_positions(top, prior=10)
    assert alone.attractiveness.tolist() == pytest.approx([(30 + 10 * 0.15) / 110, 10 * 0.15 / 110])
    assert (alone.origin, alone.warning) == ("from clicks at position 1", "")


FIXED = [
    {"query_id": "q", "doc_id": f"d{position}", "position": position, "clicks": clicks, "impressions": 100}
    for position, clicks in ((1, 40), (2, 20), (4, 10))
]


def test_a_log_whose_lists_never_change_gets_the_stated_curve():
    """Nothing tells examination from attractiveness: 1/position^eta as given, with a warning, in the origin too."""
    model = fit_positions(log_of(FIXED), prior=0.001)
    assert model.examination == pytest.approx((1, 1 / 2, 1 / 4))
    assert not any(model.estimated[1:])
    assert model.attractiveness.tolist() == pytest.approx([0.4, 0.4, 0.4], abs=1e-3)
    assert "could not be estimated" in model.warning
    assert "1/position^1" in model.warning
    assert model.origin.endswith("examination 1/position^1, which was not estimated")
    assert fit_positions(log_of(FIXED), eta=0.5).examination == pytest.approx((1, 2**-0.5, 1 / 2))


def test_positions_that_nothing_ties_to_the_others_lie_on_their_curve():
    """Documents moved between 1 and 2 only: position 9 gets the curve that these two have."""
    rows = [
        {"query_id": "q", "doc_id": "d", "position": 1, "clicks": 40, "impressions": 100},
        {"query_id": "q", "doc_id": "d", "position": 2, "clicks": 20, "impressions": 100},
        {"query_id": "q", "doc_id": "e", "position": 9, "clicks": 5, "impressions": 100},
    ]
    model = fit_positions(log_of(rows))
    assert model.estimated == (True, True, False)
    assert model.examination == pytest.approx((1, 0.5, 1 / 9), abs=1e-5)
    assert model.warning.startswith("examination of positions 9 lies on the curve of the others, 1/position^1.00")


def test_what_was_hardly_seen_is_unjudged():
    """A hundred impressions at a place that nobody reads prove nothing: the pair is neither relevant nor irrelevant."""
    rows = [*FIXED, {"query_id": "q", "doc_id": "deep", "position": 100, "clicks": 0, "impressions": 100}]
    log = log_of(rows)
    model = fit_positions(log)
    labels = click_labels(log, model)
    assert model.seen.tolist() == pytest.approx([100, 50, 25, 1])
    assert (labels.qrels["q"].keys(), labels.unjudged) == ({"d1", "d2", "d4"}, 1)
    assert click_labels(log, model, least_seen=0).qrels["q"]["deep"] == 2  # the mean's
    few = [{"query_id": "q", "doc_id": "x", "position": 1, "clicked": value} for value in (1, 0, 0, 0, 0)]
    assert fit_positions(log_of([*few, *few])).attractiveness[0] == pytest.approx(0.2)


def test_thresholds_make_grades():
    """A pair has the grade of the last threshold that it reaches."""
    log = log_of([{"query_id": "q", "doc_id": f"d{clicks}", "position": 1, "clicks": clicks, "impressions": 100_000}
                  for clicks in (1_000, 9_000, 30_000, 90_000)])  # fmt: skip
    model = fit_positions(log)
    labels = click_labels(log, model, thresholds=(0.05, 0.2))
    assert dict(labels.qrels["q"]) == {"d1000": 0, "d9000": 1, "d30000": 2, "d90000": 2}
    assert (labels.grades, labels.thresholds, labels.without_relevant) == ((1, 1, 2), (0.05, 0.2), 0)
    for thresholds in ((), (0.2, 0.1), (0.0, 0.5), (0.5, 1.5)):
        with pytest.raises(InvalidInput, match="thresholds"):
            click_labels(log, model, thresholds=thresholds)
    with pytest.raises(InvalidInput, match=r"nothing reaches the lowest threshold, 0.95, for sure: .* has 0.9"):
        click_labels(log, model, thresholds=(0.95,))
    with pytest.raises(InvalidInput, match="no document was seen 1e\\+06 times for a query: the most is 1e\\+05"):
        click_labels(log, model, least_seen=1e6)


def test_a_pair_near_the_threshold_is_unjudged():
    """A click or two that chance may have brought make nothing relevant, nor does one more make it irrelevant."""
    shown = {"no": (1, 90), "hardly": (2, 12), "maybe": (2, 20), "yes": (7, 20)}
    log = log_of([{"query_id": "q", "doc_id": name, "position": 1, "clicks": clicks, "impressions": times}
                  for name, (clicks, times) in shown.items()])  # fmt: skip
    model = fit_positions(log)
    labels = click_labels(log, model)
    assert (dict(labels.qrels["q"]), labels.unjudged) == ({"no": 0, "yes": 2}, 2)
    assert click_labels(log, model, sure=0.5).qrels["q"].keys() == shown.keys()
    beta = pytest.importorskip("scipy.stats").beta
    a, b = 5 * model.mean + 2, 5 * (1 - model.mean) + 10
    assert click_labels(log, model, sure=beta.sf(0.1, a, b) - 1e-9).qrels["q"]["hardly"] == 1
    with pytest.raises(InvalidInput, match=r"sure=0\.4 is below"):
        click_labels(log, model, sure=0.4)


def test_what_is_called_relevant_is():
    """Of a log of a few dozen impressions a pair: 95 % at least, where the mean alone is right of less than 90 %."""
    log, truth = simulated(0, sessions=30)
    model = fit_positions(log)
    precision = {}
    for sure in (0.5, 0.8):
        qrels = click_labels(log, model, sure=sure).qrels
        called = [qrels.get(query, {}).get(document, 0) > 0 for query, document in log.pairs]
        precision[sure] = (truth[called] > 0).mean()
    assert precision[0.8] > 0.95
    assert precision[0.5] < 0.9


ROW = {"Query": "reset  my password", "Document ID": "d1", "Pos": "1", "Clicked": "true", "session": "s"}


def test_rows_are_summed_and_texts_get_ids():
    """By query, document and position; white space in a text does not matter, and its id is the same in every log."""
    rows = [ROW, ROW | {"Query": " reset my password", "Clicked": "0"}, ROW | {"Pos": "2", "Clicked": "false"}]
    empty = [ROW | {"Query": " "}, ROW | {"Document ID": ""}, ROW | {"Pos": ""}]
    log = log_of([*rows, *empty])
    assert log.pairs == ((module.query_name("reset my password"), "d1"),)
    assert (log.impressions.tolist(), log.clicks.tolist(), log.position.tolist()) == ([2, 1], [1, 0], [1, 2])
    assert log.texts == {module.query_name("reset my password"): "reset my password"}
    assert log.dropped == {"have no query": 1, "have no id of a document": 1, "have no position": 1}
    assert (log.rows, log.unread) == (6, ("session",))
    assert log_of(rows, first_position=0).position.tolist() == [2, 3]
    both = log_of([{**row, "qid": 7} for row in rows] + [{**ROW, "qid": 7, "Query": "other"}])
    assert both.texts == {"7": "reset my password"}
    assert list(both.dropped.values()) == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Clicked": "maybe"}, "row 0: column 'Clicked' is 'maybe', not a whole number"),
        ({"Clicked": "2"}, "row 0: 2 clicks of 1 impressions .a row is one where no column counts them"),
        ({"Pos": "0"}, "row 0: position 0 is before the first, 1"),
        ({"Pos": "1.5"}, "row 0: column 'Pos' is '1.5'"),
        ({"Pos": "-1"}, "row 0: column 'Pos' is '-1'"),
        ({"rank": 1}, "row 0: any of the columns Pos, rank could be the position"),
        ({"Document ID": 1.5}, "row 0: column 'Document ID' has the id 1.5"),
        ({"Clicked": "1"}, "all 1 impressions were clicked: a log of clicks alone"),
        ({"Clicked": "0"}, "nothing was clicked in 1 rows"),
    ],
)
def test_rows_that_are_refused(changes, message):
    """With the place of the row, the column and the value."""
    with pytest.raises(InvalidInput, match=message):
        log_of([ROW | changes])


def test_columns_that_are_absent_are_named():
    """All of them, and those that there are."""
    with pytest.raises(InvalidInput, match="row 0: no column for query or query_id, clicked among doc_id, position"):
        log_of([{"doc_id": "d", "position": 1}])
    for options in ({"eta": -1.0}, {"prior": 0.0}):
        with pytest.raises(InvalidInput, match=next(iter(options))):
            fit_positions(log_of(FIXED), **options)
