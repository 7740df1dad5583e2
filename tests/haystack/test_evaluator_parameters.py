"""SecondPassEvaluator: what it refuses, by name and index, and its parameters through YAML."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ir_measures")

from haystack import Document, Pipeline
from haystack_integrations.components.evaluators.secondpass import SecondPassEvaluator

from secondpass.errors import InvalidInput
from tests.haystack.judged import graded, ranked


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({}, "ground_truth_documents is missing"),
        ({"ground_truth_documents": []}, "ground_truth_documents is empty"),
        ({"ground_truth_documents": graded({"a": 1.0})}, "ground_truth_documents[0] is Document, not a list"),
        ({"ground_truth_documents": [["a"]]}, "ground_truth_documents[0][0] is str, not Document"),
        ({"ground_truth_documents": [[], []]}, "ground_truth_documents has 2 lists, retrieved_documents 1"),
        ({"ground_truth_documents": [graded({"a": 1.0, "b": None})]}, "ground_truth_documents[0] has documents with a"),
        ({"ground_truth_documents": [graded({"a": 0.5})]}, "ground_truth_documents[0][0] has score 0.5"),
        ({"ground_truth_documents": [graded({"a": math.nan})]}, "ground_truth_documents[0][0] has score nan"),
        ({"retrieved_documents": ranked("a")}, "retrieved_documents[0] is Document"),
        ({"retrieved_documents": []}, "retrieved_documents is empty"),
        ({"retrieved_documents": None}, "retrieved_documents is NoneType, not a list of lists of Document"),
        ({"query_ids": ["a", "b"]}, "query_ids has 2 ids, retrieved_documents 1 lists"),
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
    """Ground truth without the field, a value that is a list, and 7 beside "7" are refused: all would silently be 0."""
    evaluator = SecondPassEvaluator(["RR"], document_comparison_field="meta.parent")
    order = [Document(content="x", meta={"parent": 7})]

    def refusal(truth: Document, ranking: list[Document]) -> str:
        with pytest.raises(InvalidInput) as refused:
            evaluator.run(ground_truth_documents=[[truth]], retrieved_documents=[ranking])
        return str(refused.value)

    assert "ground_truth_documents[0][0] has no meta.parent" in refusal(Document(content="x"), order)
    assert "7 (int) and '7' (str)" in refusal(Document(content="x", meta={"parent": "7"}), order)
    listed = [Document(content="x", meta={"parent": ["7"]})]
    assert "retrieved_documents[0][0] has meta.parent ['7']" in refusal(
        Document(content="x", meta={"parent": 7}), listed
    )
    assert evaluator.run(ground_truth_documents=[order], retrieved_documents=[order])["score"] == 1.0


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
