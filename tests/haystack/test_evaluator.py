"""SecondPassEvaluator: its values beside those of Haystack's evaluators and of ir_measures."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

ir_measures = pytest.importorskip("ir_measures")

from haystack import Document  # noqa: E402
from haystack.components.evaluators import (  # noqa: E402
    DocumentMAPEvaluator,
    DocumentMRREvaluator,
    DocumentNDCGEvaluator,
    DocumentRecallEvaluator,
)
from haystack_integrations.components.evaluators.secondpass import LabelledQueries, SecondPassEvaluator  # noqa: E402

from secondpass.errors import InvalidInput  # noqa: E402
from tests.haystack.judged import graded, random_queries, ranked  # noqa: E402

STOCK = {
    "RR": DocumentMRREvaluator("id"),
    "AP": DocumentMAPEvaluator("id"),
    "nDCG": DocumentNDCGEvaluator("id"),
    "R@1000": DocumentRecallEvaluator("multi_hit", "id"),
    "Success@1000": DocumentRecallEvaluator("single_hit", "id"),
}


@pytest.mark.parametrize("measure", STOCK)
def test_equal_to_the_stock_evaluators(measure: str) -> None:
    """Where every judged document is relevant, values and mean are those of Haystack's evaluators, to 1e-9."""
    truths, rankings = random_queries(1, (1, 2, 3))
    ours = SecondPassEvaluator([measure]).run(ground_truth_documents=truths, retrieved_documents=rankings)
    stock = STOCK[measure].run(ground_truth_documents=truths, retrieved_documents=rankings)
    assert ours["individual_scores"] == pytest.approx(stock["individual_scores"], abs=1e-9)
    assert ours["score"] == pytest.approx(stock["score"], abs=1e-9)
    assert 0 < ours["score"] < 1


def test_equal_to_ir_measures() -> None:
    """With grades down to -1, every measure is that of ir_measures on the same order, to 1e-9."""
    names = ["nDCG@10", "RR@10", "AP(rel=2)", "P@5", "R@20", "ERR@20", "Judged@10", "Success@1", "Bpref", "NumRet"]
    truths, rankings = random_queries(2, (-1, 0, 1, 2, 3))
    ours = SecondPassEvaluator(names).run(ground_truth_documents=truths, retrieved_documents=rankings)
    # gdeval, which computes ERR, takes only numbers for queries.
    qrels = {str(n): {d.id: int(d.score or 0) for d in truth} for n, truth in enumerate(truths)}
    run = {str(n): {d.id: -float(place) for place, d in enumerate(order)} for n, order in enumerate(rankings) if order}
    for name in names:
        measure = ir_measures.parse_measure(name)
        values = {found.query_id: found.value for found in ir_measures.iter_calc([measure], qrels, run)}
        expected = [values.get(str(number), 0.0) for number in range(len(truths))]
        assert ours["results"][str(measure)]["individual_scores"] == pytest.approx(expected, abs=1e-9), name


def stock_and_ours(measure: str, truth: Any, ranking: Any, stock: str) -> tuple[float, float]:
    """Values of one query by Haystack's evaluator and ours."""
    inputs = {"ground_truth_documents": [truth], "retrieved_documents": [ranking]}
    return STOCK[stock].run(**inputs)["score"], SecondPassEvaluator([measure]).run(**inputs)["score"]


@pytest.mark.parametrize(
    ("measure", "stock", "truth", "order", "theirs", "ours"),
    [
        pytest.param("AP", "AP", {"a": 1.0, "b": 0.0}, "ba", 1.0, 0.5, id="theirs takes grade 0 for relevant"),
        pytest.param("RR", "RR", {"a": 1.0, "b": -1.0}, "ba", 1.0, 0.5, id="and a negative grade"),
        pytest.param("R@9", "R@1000", {"a": 1.0, "b": 0.0}, "b", 0.5, 0.0, id="in recall too"),
        # Theirs: the ideal gain is 1 - 2 / log2(3), below 0, and then the value is 0.
        pytest.param("nDCG", "nDCG", {"a": 1.0, "b": -2.0}, "ab", 0.0, 1.0, id="theirs gives a perfect order 0"),
        pytest.param("RR@2", "RR", {"c": 1.0}, "abc", 1 / 3, 0.0, id="theirs has no cut-off"),
        pytest.param("AP", "AP", {"a": 1.0, "b": 1.0}, "aab", 5 / 6, 1.0, id="a repetition takes up a rank in theirs"),
    ],
)  # fmt: skip
def test_known_differences(
    measure: str, stock: str, truth: dict[str, float | None], order: str, theirs: float, ours: float
) -> None:
    """Where Haystack's evaluators are wrong or have another rule, both values are known; the id is the reason."""
    found = stock_and_ours(measure, graded(truth), ranked(*order), stock)
    assert found == pytest.approx((theirs, ours), abs=1e-9)


def test_default_field_is_the_id() -> None:
    """Haystack compares contents by default, where two documents of one text are one; here it is ids unless asked."""
    truth = [Document(id="a", content="same", score=1.0), Document(id="b", content="same", score=1.0)]
    order = [Document(id="a", content="same"), Document(id="c", content="other"), Document(id="b", content="same")]
    inputs = {"ground_truth_documents": [truth], "retrieved_documents": [order]}
    assert DocumentMAPEvaluator().run(**inputs)["score"] == 1.0
    assert SecondPassEvaluator(["AP"]).run(**inputs)["score"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-9)
    assert SecondPassEvaluator(["AP"], document_comparison_field="content").run(**inputs)["score"] == 1.0


def test_order_of_the_list_is_the_ranking() -> None:
    """Scores that tie or fall differently from the list do not matter; a run file's reader would sort by them."""
    truth = graded({"a": 1.0})
    for scores in ((1.0, 1.0), (0.0, 9.0), (None, None)):
        order = [Document(id=name, score=score) for name, score in zip("ba", scores, strict=True)]
        assert stock_and_ours("RR", truth, order, "RR") == (0.5, 0.5)


def test_row_56_queries_without_a_relevant_document() -> None:
    """By default they have the value NaN and no part in the mean; "zero" counts them, as Haystack does; both count."""
    truths = [graded({"a": 1.0}), graded({"a": 0.0}), [], graded({"x": 2.0})]
    rankings = [ranked("b", "a"), ranked("a"), ranked("a"), []]
    inputs = {"ground_truth_documents": truths, "retrieved_documents": rankings}
    left = SecondPassEvaluator(["RR"]).run(**inputs)
    assert left["individual_scores"] == pytest.approx([0.5, math.nan, math.nan, 0.0], nan_ok=True)
    assert left["score"] == 0.25
    assert left["counts"] == {
        "measured": 2,
        "unjudged": 0,
        "without_relevant": 2,
        "nothing_retrieved": 1,
        "documents_without_key": 0,
    }
    zero = SecondPassEvaluator(["RR"], without_relevant="zero").run(**inputs)
    assert (zero["individual_scores"], zero["score"]) == ([0.5, 0.0, 0.0, 0.0], 0.125)
    # Haystack's takes the document of grade 0 for relevant, so it is asked without it.
    truths[1] = []
    assert STOCK["RR"].run(**inputs)["score"] == 0.125


def test_row_54_nothing_to_measure_is_refused_or_zero() -> None:
    """A call in which no query has a relevant document is refused by name, unless such queries count 0."""
    inputs = {"ground_truth_documents": [[]], "retrieved_documents": [ranked("a")]}
    with pytest.raises(InvalidInput, match="no judged queries"):
        SecondPassEvaluator().run(**inputs)
    assert SecondPassEvaluator(without_relevant="zero").run(**inputs)["score"] == 0.0


def test_row_60_chunks_count_as_their_parents() -> None:
    """By a dotted meta field, the first chunk of a parent takes its place and the later ones are as if not there."""

    def chunk(name: str, parent: str | None) -> Document:
        return Document(id=name, content=name, meta={} if parent is None else {"source": {"id": parent}})

    order = [chunk("1", "p"), chunk("2", "q"), chunk("3", "p"), chunk("4", None), chunk("5", None), chunk("6", "r")]
    truth = [Document(id=name, meta={"source": {"id": name}}, score=grade) for name, grade in (("q", 2.0), ("r", 1.0))]
    evaluator = SecondPassEvaluator(["AP", "NumRet"], document_comparison_field="meta.source.id")
    found = evaluator.run(ground_truth_documents=[truth], retrieved_documents=[order])
    # p, q, two chunks of no parent that keep their ranks, r.
    assert found["score"] == pytest.approx((1 / 2 + 2 / 5) / 2, abs=1e-9)
    assert found["counts"]["documents_without_key"] == 2


@pytest.mark.parametrize(
    "text", ["query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t0\nq2\tb\t1\n", "q1 0 a 2\nq1 0 b 0\nq2 0 b 1\n"]
)
def test_row_57_judgements_from_a_file(tmp_path: Path, text: str) -> None:
    """A BEIR or TREC file of judgements gives what the same documents give; a query that it lacks is left out."""
    file = tmp_path / "judged.tsv"
    file.write_text(text)
    rankings = [ranked("b", "a"), ranked("b"), ranked("a")]
    by_file = SecondPassEvaluator(["nDCG@10", "AP"], qrels=file, without_relevant="zero")
    found = by_file.run(retrieved_documents=rankings, query_ids=["q1", "q2", "unjudged"])
    truths = [graded({"a": 2.0, "b": 0.0}), graded({"b": 1.0})]
    same = SecondPassEvaluator(["nDCG@10", "AP"]).run(ground_truth_documents=truths, retrieved_documents=rankings[:2])
    for measure, result in same["results"].items():
        assert found["results"][measure]["individual_scores"][:2] == result["individual_scores"]
        assert math.isnan(found["results"][measure]["individual_scores"][2])
        assert found["results"][measure]["score"] == result["score"]
    assert (found["counts"]["measured"], found["counts"]["unjudged"]) == (2, 1)
    assert found["query_ids"] == ["q1", "q2", "unjudged"]
    assert same["query_ids"] == ["0", "1"]


SETS = ("adi", "cacm", "cranfield", "lisa", "medquad", "nq-gold", "pubmedqa", "squad", "stackfaq", "time", "trecqa")


@pytest.mark.parametrize("name", SETS)
def test_equal_on_real_judgements(data_folder: Path, name: str) -> None:
    """On every retrieval set, with its relevant documents in a shuffle among others, values are Haystack's to 1e-9."""
    labelled = LabelledQueries(dataset=data_folder / name, relevant_only=True).run()
    truths = labelled["ground_truth_documents"][:300]
    pool = sorted({document.id for truth in truths for document in truth})
    chance = random.Random(4)
    rankings = []
    for truth in truths:
        names = {document.id for document in truth if chance.random() < 0.8} | set(chance.choices(pool, k=60))
        rankings.append(ranked(*chance.sample(sorted(names), len(names))))
    inputs = {"ground_truth_documents": truths, "retrieved_documents": rankings}
    ours = SecondPassEvaluator(list(STOCK)).run(**inputs)
    for measure, stock in STOCK.items():
        theirs = stock.run(**inputs)
        found = ours["results"][measure]
        assert found["individual_scores"] == pytest.approx(theirs["individual_scores"], abs=1e-9), measure
        assert found["score"] == pytest.approx(theirs["score"], abs=1e-9), measure
        assert 0 < found["score"] <= 1


def test_judged_chunks_of_one_parent_have_its_highest_grade() -> None:
    """As in Haystack's nDCG, ground truth documents with one value are one, of the highest grade of them."""
    truth = [Document(content=text, meta={"of": "p"}, score=grade) for text, grade in (("a", 3.0), ("b", 1.0))]
    truth.append(Document(content="c", meta={"of": "q"}, score=2.0))
    order = [Document(content="c", meta={"of": "q"}), Document(content="b", meta={"of": "p"})]
    inputs = {"ground_truth_documents": [truth], "retrieved_documents": [order]}
    stock = DocumentNDCGEvaluator("meta.of").run(**inputs)["score"]
    assert stock == pytest.approx((2 + 3 / math.log2(3)) / (3 + 2 / math.log2(3)), abs=1e-9)
    ours = SecondPassEvaluator(["nDCG"], document_comparison_field="meta.of").run(**inputs)["score"]
    assert ours == pytest.approx(stock, abs=1e-9)
