"""The component that measures rankings: its values, parameters and refusals, and pipelines with it."""

from __future__ import annotations

import asyncio
import math
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ir_measures")

import ir_measures
from haystack import Document, Pipeline
from haystack.components.evaluators import (
    DocumentMAPEvaluator,
    DocumentMRREvaluator,
    DocumentNDCGEvaluator,
    DocumentRecallEvaluator,
)
from haystack.evaluation import EvaluationRunResult
from haystack_integrations.components.evaluators.secondpass import LabelledQueries, SecondPassEvaluator
from haystack_integrations.components.rankers.secondpass import SecondPassRanker

from secondpass.errors import InvalidInput
from tests.haystack.judged import Lists, graded, random_queries, ranked

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
        "judged_without_key": 0,
        "identical_ids": 0,
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


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({}, "ground_truth_documents is missing"),
        ({"ground_truth_documents": []}, "ground_truth_documents has 0 entries, retrieved_documents 1"),
        ({"ground_truth_documents": graded({"a": 1.0})}, "ground_truth_documents[0] is Document, not a list"),
        ({"ground_truth_documents": [["a"]]}, "ground_truth_documents[0][0] is str, not Document"),
        ({"ground_truth_documents": [[], []]}, "ground_truth_documents has 2 entries, retrieved_documents 1"),
        ({"ground_truth_documents": [graded({"a": 1.0, "b": None})]}, "ground_truth_documents[0] has documents with a"),
        ({"ground_truth_documents": [graded({"a": 0.5})]}, "ground_truth_documents[0][0] has score 0.5"),
        ({"ground_truth_documents": [graded({"a": math.nan})]}, "ground_truth_documents[0][0] has score nan"),
        ({"retrieved_documents": ranked("a")}, "retrieved_documents[0] is Document"),
        ({"retrieved_documents": []}, "retrieved_documents is empty"),
        ({"retrieved_documents": None}, "retrieved_documents is NoneType, not a list with an entry for each query"),
        ({"query_ids": ["a", "b"]}, "query_ids has 2 entries, retrieved_documents 1"),
        ({"query_ids": [7]}, "query_ids[0] is int, not str"),
        ({"query_ids": ["a", "a"], "retrieved_documents": [[], []]}, "query_ids has 'a' twice"),
    ],
)
def test_bad_inputs_are_named(inputs: dict[str, Any], reason: str) -> None:
    """An input of a wrong form is refused with its name and index."""
    with pytest.raises(InvalidInput) as refused:
        SecondPassEvaluator().run(**({"retrieved_documents": [ranked("a")]} | inputs))
    assert reason in str(refused.value)


def test_row_62_bad_values_to_compare_are_named() -> None:
    """Ground truth without the field, a list beside none, and 7 beside "7" are refused: all would silently be 0."""
    evaluator = SecondPassEvaluator(["RR"], document_comparison_field="meta.parent")
    order = [Document(content="x", meta={"parent": 7})]

    def refusal(truth: Document, ranking: list[Document]) -> str:
        with pytest.raises(InvalidInput) as refused:
            evaluator.run(ground_truth_documents=[[truth]], retrieved_documents=[ranking])
        return str(refused.value)

    assert "none of the 1 judged documents has meta.parent to compare by" in refusal(Document(content="x"), order)
    assert "7 (int) and '7' (str)" in refusal(Document(content="x", meta={"parent": "7"}), order)
    listed = [Document(content="x", meta={"parent": ["7"]})]
    assert "7 (int) and ('7',) (list)" in refusal(Document(content="x", meta={"parent": 7}), listed)
    mapped = [Document(content="x", meta={"parent": [{"a": 1}]})]
    assert "retrieved_documents[0][0] has meta.parent [{'a': 1}]" in refusal(order[0], mapped)
    assert evaluator.run(ground_truth_documents=[order], retrieved_documents=[order])["score"] == 1.0


def test_a_list_is_compared_as_a_whole() -> None:
    """As Haystack's evaluators that take one compare it; of 7 and 7.0 both are the same number."""
    truth = [Document(content="a", meta={"of": ["p", 1]}), Document(content="b", meta={"of": "q"})]
    order = [Document(content=text, meta={"of": of}) for text, of in (("c", ["p"]), ("d", ["p", 1.0]), ("e", "q"))]
    inputs = {"ground_truth_documents": [truth], "retrieved_documents": [order]}
    stock = DocumentMRREvaluator("meta.of").run(**inputs)["score"]
    assert SecondPassEvaluator(["RR"], document_comparison_field="meta.of").run(**inputs)["score"] == stock == 0.5


def test_judged_documents_without_the_field_are_left_out_and_counted(caplog) -> None:
    """No retrieved document could be one of them, so Haystack's nDCG leaves them out too."""
    truth = [Document(content=text) for text in ("a", "", None)]
    order = [Document(content="x"), Document(content="a")]
    inputs = {"ground_truth_documents": [iter(truth)], "retrieved_documents": [order]}
    found = SecondPassEvaluator(["nDCG"], document_comparison_field="content").run(**inputs)
    assert found["score"] == pytest.approx(1 / math.log2(3))
    assert found["counts"]["judged_without_key"] == 2
    assert "2 judged documents have no content: they are left out." in caplog.text


def test_a_fractional_grade_says_what_to_do() -> None:
    """A retriever's scores are no grades."""
    truth = [Document(id="a", score=0.83), Document(id="b", score=0.2)]
    with pytest.raises(InvalidInput) as refused:
        SecondPassEvaluator().run(ground_truth_documents=[truth], retrieved_documents=[ranked("a")])
    assert "score=None on all of them makes each relevant; where they are a retriever's scores" in str(refused.value)


def test_a_query_that_is_a_document_does_not_find_itself(caplog) -> None:
    """BEIR's convention by choice, counted; a measure without a value is NaN and said."""
    inputs = {"ground_truth_documents": [graded({"a": 1.0})], "retrieved_documents": [ranked("q", "a")]}
    assert SecondPassEvaluator(["RR"]).run(**inputs, query_ids=["q"])["score"] == 0.5
    evaluator = SecondPassEvaluator(["RR", "Accuracy"], ignore_identical_ids=True)
    assert evaluator.to_dict()["init_parameters"]["ignore_identical_ids"] is True
    found = evaluator.run(**inputs, query_ids=["q"])
    assert (found["score"], found["counts"]["identical_ids"]) == (1.0, 1)
    assert math.isnan(found["results"]["Accuracy"]["score"])
    assert "Accuracy has no value for 1 of 1 queries" in caplog.text
    with pytest.raises(InvalidInput, match="query_ids is missing: ignore_identical_ids=True"):
        evaluator.run(**inputs)
    chunks = [[Document(content=name, meta={"of": name}) for name in ("q", "a")]]
    truth = [[Document(content="a", meta={"of": "a"})]]
    of_chunks = SecondPassEvaluator(["RR"], document_comparison_field="meta.of", ignore_identical_ids=True)
    found = of_chunks.run(ground_truth_documents=truth, retrieved_documents=chunks, query_ids=["q"])
    assert (found["score"], found["counts"]["identical_ids"]) == (1.0, 1)


def test_two_sources_of_judgements_are_refused(tmp_path: Path) -> None:
    """With a file of judgements, query ids are needed and ground truth documents are refused; it is read late."""
    evaluator = SecondPassEvaluator(qrels=tmp_path / "absent.tsv")
    with pytest.raises(InvalidInput, match=r"absent\.tsv: no such file"):
        evaluator.warm_up()
    with pytest.raises(InvalidInput, match="query_ids is missing"):
        evaluator.run(retrieved_documents=[ranked("a")])
    with pytest.raises(InvalidInput, match="two sources of judgements"):
        evaluator.run(retrieved_documents=[ranked("a")], ground_truth_documents=[[]], query_ids=["q"])


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"measures": ["nDCG@10", "nonsense@3"]}, "nonsense@3"),
        ({"measures": "nDCG@10"}, "measures is str, not a list of str"),
        ({"measures": []}, "measures is empty"),
        ({"document_comparison_field": "meta."}, "document_comparison_field='meta.'"),
        ({"document_comparison_field": "title"}, "is not 'id', 'content' or 'meta.'"),
        ({"qrels": 3}, "qrels is int"),
        ({"without_relevant": "drop"}, "without_relevant='drop' is none of"),
    ],
)
def test_bad_parameters_are_named(parameters: dict[str, Any], reason: str) -> None:
    """A parameter that cannot be right is refused when the component is made, with its name."""
    with pytest.raises(InvalidInput) as refused:
        SecondPassEvaluator(**parameters)
    assert reason in str(refused.value)


def test_yaml_round_trip() -> None:
    """Every parameter comes back through YAML under the default allow-list, and a nested object is refused."""
    pipeline = Pipeline()
    evaluator = SecondPassEvaluator(
        ["P(rel=2)@5", "ERR@20"], document_comparison_field="meta.a.b", qrels="some.tsv", without_relevant="zero"
    )
    pipeline.add_component("evaluator", evaluator)
    again: Any = Pipeline.loads(pipeline.dumps()).get_component("evaluator")
    assert again.to_dict() == evaluator.to_dict()
    assert again.measures == ["P(rel=2)@5", "ERR@20"]
    data = evaluator.to_dict()
    data["init_parameters"]["qrels"] = {"type": "haystack.dataclasses.document.Document"}
    with pytest.raises(InvalidInput, match="qrels is an object"):
        SecondPassEvaluator.from_dict(data)


async def test_async_equals_sync() -> None:
    """`run_async`, alone and in an asynchronous pipeline, gives what `run` gives."""
    truths, rankings = random_queries(3, (1, 2))
    inputs = {"ground_truth_documents": truths, "retrieved_documents": rankings}
    evaluator = SecondPassEvaluator()
    expected = evaluator.run(**inputs)
    pipeline = Pipeline()
    pipeline.add_component("evaluator", evaluator)
    answers = await asyncio.gather(evaluator.run_async(**inputs), pipeline.run_async({"evaluator": inputs}))
    assert list(answers) == [expected, {"evaluator": expected}]


def test_eight_threads() -> None:
    """Calls from eight threads on one component give what serial calls give."""
    evaluator = SecondPassEvaluator(["nDCG@10", "AP", "ERR@20"])
    calls = [random_queries(seed, (0, 1, 2)) for seed in range(16)]

    def measure(call: tuple[Lists, Lists]) -> dict[str, Any]:
        return evaluator.run(ground_truth_documents=call[0], retrieved_documents=call[1])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(measure, calls)) == [measure(call) for call in calls]


def test_results_fit_evaluation_run_result(tmp_path: Path) -> None:
    """`results` goes into EvaluationRunResult as it is; its reports have a row a measure and a row a query."""
    truths, rankings = [graded({"a": 1.0}), graded({"a": 0.0})], [ranked("b", "a"), ranked("a")]
    found = SecondPassEvaluator(["RR", "nDCG@10"]).run(ground_truth_documents=truths, retrieved_documents=rankings)
    result = EvaluationRunResult("run", {"query": ["one", "two"]}, found["results"])
    assert result.aggregated_report() == {"metrics": ["RR", "nDCG@10"], "score": [0.5, 1 / math.log2(3)]}
    detailed: Any = result.detailed_report()
    assert detailed["query"] == ["one", "two"]
    assert detailed["RR"] == pytest.approx([0.5, math.nan], nan_ok=True)
    other = EvaluationRunResult("other", {"query": ["one", "two"]}, found["results"])
    compared: Any = result.comparative_detailed_report(other)
    assert list(compared) == ["query", "run_RR", "run_nDCG@10", "other_RR", "other_nDCG@10"]
    result.detailed_report(output_format="csv", csv_file=str(tmp_path / "d.csv"))
    assert (tmp_path / "d.csv").read_text().splitlines()[2] == "two,nan,nan"
    assert (found["score"], found["individual_scores"][0]) == (0.5, 0.5)


def single_query_pipeline(ranker: SecondPassRanker, **parameters: Any) -> Pipeline:
    """A ranker with one evaluator behind it; a second one gets the documents as they came."""
    pipeline = Pipeline()
    pipeline.add_component("ranker", ranker)
    pipeline.add_component("after", SecondPassEvaluator(["nDCG@10", "RR@10", "AP", "P@1"], **parameters))
    pipeline.add_component("before", SecondPassEvaluator(["nDCG@10", "RR@10", "AP", "P@1"], **parameters))
    pipeline.connect("ranker.documents", "after.retrieved_documents")
    return pipeline


def test_right_after_the_ranker(make_ranker: Callable[..., SecondPassRanker], documents: list[Document]) -> None:
    """In a pipeline for one query it takes the ranker's list itself, and measures the order that came out."""
    truth = [graded({"d1": 1.0, "d4": 2.0})]
    pipeline = single_query_pipeline(make_ranker())
    given = {"ground_truth_documents": truth}
    found = pipeline.run(
        {
            "ranker": {"query": "a dog", "documents": documents},
            "after": given,
            "before": given | {"retrieved_documents": [documents]},
        },
        include_outputs_from={"ranker"},
    )
    order = found["ranker"]["documents"]
    assert [d.id for d in order] != [d.id for d in documents]
    expected = SecondPassEvaluator(["nDCG@10", "RR@10", "AP", "P@1"]).run(retrieved_documents=[order], **given)
    assert found["after"] == expected
    assert found["before"]["results"] != found["after"]["results"]


@pytest.mark.parametrize("by_file", [False, True], ids=["ground truth", "qrels"])
@pytest.mark.parametrize("without_relevant", ["leave out", "zero"])
def test_unchanged_order_is_exactly_no_gain(
    documents: list[Document], tmp_path: Path, by_file: bool, without_relevant: str
) -> None:
    """A ranker that gives its documents back as they came has, in every mode, exactly the first pass's values."""
    file = tmp_path / "judged.txt"
    file.write_text("q 0 d3 1\nq 0 d5 3\nq 0 d0 0\n")
    # No model is there, so nothing is re-ordered.
    ranker = SecondPassRanker(model=str(tmp_path / "absent"), raise_on_failure=False)
    pipeline = single_query_pipeline(ranker, qrels=file if by_file else None, without_relevant=without_relevant)
    truth = {"ground_truth_documents": [graded({"d3": 1.0, "d5": 3.0, "d0": 0.0})]}
    given: dict[str, Any] = {"query_ids": ["q"]} if by_file else truth
    found = pipeline.run(
        {
            "ranker": {"query": "a dog", "documents": documents},
            "after": given,
            "before": given | {"retrieved_documents": [documents]},
        },
        include_outputs_from={"ranker"},
    )
    assert found["ranker"]["reranked"] is False
    assert found["after"] == found["before"]
    assert 0 < found["after"]["score"] < 1


def test_needs_no_torch() -> None:
    """Evaluators work where torch is not installed: they only count."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from haystack import Document\n"
        "from haystack_integrations.components.evaluators.secondpass import LabelledQuery, SecondPassEvaluator\n"
        "truth, found = [[Document(id='a')]], [[Document(id='b'), Document(id='a')]]\n"
        "evaluator = SecondPassEvaluator(['RR'])\n"
        "print(evaluator.run(ground_truth_documents=truth, retrieved_documents=found)['score'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.5"]
