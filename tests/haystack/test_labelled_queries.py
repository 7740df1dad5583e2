"""LabelledQueries and LabelledQuery: what they read, what they give, and the pipelines that they feed."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.components.evaluators import DocumentMRREvaluator
from haystack_integrations.components.evaluators.secondpass import LabelledQueries, LabelledQuery, SecondPassEvaluator

from secondpass.errors import InvalidInput
from tests.small_collection import QRELS, QUERIES, write_json_lines

pytest.importorskip("ir_measures")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BEIR folder without a corpus: three queries with a relevant document and one without."""
    (tmp_path / "qrels").mkdir()
    write_json_lines(tmp_path / "queries.jsonl", QUERIES)
    (tmp_path / "qrels" / "test.tsv").write_text(QRELS)
    return tmp_path


def pairs(lists: list[list[Document]]) -> list[list[tuple[str, float | None]]]:
    """Ids and grades."""
    return [[(document.id, document.score) for document in documents] for documents in lists]


EXPECTED = {
    "queries": ["reset my password", "train to the capital of France", "delete a bank account"],
    "query_ids": ["q1", "q2", "q3"],
    "ground_truth_documents": [[("d1", 2.0)], [("d3", 1.0), ("d4", 2.0)], [("d5", 1.0), ("d2", 0.0)]],
}


def test_all_queries_of_a_folder(folder: Path) -> None:
    """Texts, ids and judged documents come in the order of the file; a query without a relevant document does not."""
    found = LabelledQueries(dataset=folder).run()
    assert found | {"ground_truth_documents": pairs(found["ground_truth_documents"])} == EXPECTED


def test_files_give_what_the_folder_gives(folder: Path, tmp_path: Path) -> None:
    """A table of queries with TREC judgements is read alike."""
    queries, qrels = tmp_path / "q.tsv", tmp_path / "judged.txt"
    queries.write_text("".join(f"{query['_id']}\t{query['text']}\n" for query in QUERIES))
    qrels.write_text("q1 0 d1 2\nq2 0 d3 1\nq2 0 d4 2\nq3 0 d5 1\nq3 0 d2 0\nunjudged 0 d2 0\n")
    assert LabelledQueries(queries=queries, qrels=qrels).run() == LabelledQueries(dataset=folder).run()
    assert LabelledQueries(dataset=folder, qrels=qrels).run() == LabelledQueries(dataset=folder).run()


def test_one_query(folder: Path) -> None:
    """By its id come its text and its judged documents, in lists of one query; without a relevant one it is refused."""
    labelled = LabelledQuery(dataset=folder)
    found = labelled.run(query_id="q3")
    assert (found["query"], found["query_ids"]) == ("delete a bank account", ["q3"])
    assert pairs(found["ground_truth_documents"]) == [[("d5", 1.0), ("d2", 0.0)]]
    for query_id in ("unjudged", "absent"):
        with pytest.raises(InvalidInput, match=f"query_id '{query_id}' is none of the 3 queries with a relevant"):
            labelled.run(query_id=query_id)


def test_relevant_only_is_what_the_stock_evaluators_need(folder: Path) -> None:
    """They take a judged document of grade 0 for relevant; without such documents they are right."""
    inputs = {"retrieved_documents": [[Document(id="d2"), Document(id="d5")]]}
    stock = DocumentMRREvaluator("id")
    truths = {
        flag: LabelledQuery(dataset=folder, relevant_only=flag).run(query_id="q3")["ground_truth_documents"]
        for flag in (False, True)
    }
    assert stock.run(ground_truth_documents=truths[False], **inputs)["score"] == 1.0
    assert stock.run(ground_truth_documents=truths[True], **inputs)["score"] == 0.5
    for truth in truths.values():
        assert SecondPassEvaluator(["RR"]).run(ground_truth_documents=truth, **inputs)["score"] == 0.5


def test_packaged_set() -> None:
    """The name secondpass/demo stands for the folder in the package."""
    labelled = LabelledQueries(dataset="secondpass/demo").run()
    assert len(labelled["query_ids"]) == len(set(labelled["query_ids"])) > 30
    assert all(any((document.score or 0) > 0 for document in truth) for truth in labelled["ground_truth_documents"])


def test_feeds_a_batch_evaluator(folder: Path) -> None:
    """Its outputs connect to the evaluator, which needs only the rankings then; sync and async are equal."""
    pipeline = Pipeline()
    pipeline.add_component("labelled", LabelledQueries(dataset=folder))
    pipeline.add_component("evaluator", SecondPassEvaluator(["RR"]))
    pipeline.connect("labelled.ground_truth_documents", "evaluator.ground_truth_documents")
    pipeline.connect("labelled.query_ids", "evaluator.query_ids")
    rankings = [[Document(id="d1")], [Document(id="x"), Document(id="d3")], [Document(id="d2"), Document(id="d5")]]
    inputs = {"evaluator": {"retrieved_documents": rankings}}
    found = pipeline.run(inputs)
    assert found["evaluator"]["individual_scores"] == [1.0, 0.5, 0.5]
    assert found["evaluator"]["query_ids"] == ["q1", "q2", "q3"]
    assert asyncio.run(pipeline.run_async(inputs)) == found


async def test_async_equals_sync_and_threads_agree(folder: Path) -> None:
    """`run_async` gives what `run` gives, and so do eight threads that are the first to ask."""
    one, every = LabelledQuery(dataset=folder), LabelledQueries(dataset=folder)
    await one.warm_up_async()
    assert await one.run_async(query_id="q2") == one.run(query_id="q2")
    assert await every.run_async() == every.run()
    fresh = LabelledQueries(dataset=folder)
    with ThreadPoolExecutor(8) as pool:
        assert all(found == every.run() for found in pool.map(lambda _: fresh.run(), range(16)))


def test_files_are_read_late(folder: Path) -> None:
    """Making and dumping a component reads nothing; warming up reads and names what is not there."""
    labelled = LabelledQueries(dataset=folder / "absent")
    assert LabelledQueries.from_dict(labelled.to_dict()).dataset == str(folder / "absent")
    with pytest.raises(InvalidInput, match="absent: not a BEIR folder"):
        labelled.warm_up()
    with pytest.raises(InvalidInput, match=r"no qrels/dev\.tsv; its splits are test"):
        LabelledQuery(dataset=folder, split="dev").warm_up()


@pytest.mark.parametrize("component", [LabelledQueries, LabelledQuery])
def test_yaml_round_trip(component: Any) -> None:
    """Every parameter comes back through YAML under the default allow-list."""
    pipeline = Pipeline()
    made = component(queries="q.tsv", qrels="judged.txt", split="dev", relevant_only=True)
    pipeline.add_component("labelled", made)
    again: Any = Pipeline.loads(pipeline.dumps()).get_component("labelled")
    assert again.to_dict() == made.to_dict()
    assert (again.queries, again.qrels, again.split, again.relevant_only) == ("q.tsv", "judged.txt", "dev", True)


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({}, "give one of dataset"),
        ({"dataset": "a", "queries": "b"}, "give one of dataset"),
        ({"queries": "b"}, "qrels is missing"),
        ({"dataset": 1}, "dataset is int"),
        ({"dataset": "a", "split": None}, "split is NoneType"),
        ({"dataset": "a", "relevant_only": 1}, "relevant_only is int"),
    ],
)
def test_bad_parameters_are_named(parameters: dict[str, Any], reason: str) -> None:
    """A parameter that cannot be right is refused when the component is made, with its name."""
    with pytest.raises(InvalidInput, match=reason):
        LabelledQueries(**parameters)
