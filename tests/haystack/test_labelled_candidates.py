"""LabelledCandidates: labelled queries with what BM25 finds, all with their texts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ir_measures")
pytest.importorskip("bm25s")

from haystack import Pipeline
from haystack_integrations.components.evaluators.secondpass import LabelledQueries
from haystack_integrations.components.trainers.secondpass import LabelledCandidates

from secondpass.errors import InvalidInput
from secondpass.training.measuring.before_after import of_folder
from tests.small_collection import CORPUS, write_json_lines


def test_queries_judgements_and_candidates(beir: Path) -> None:
    """The labels are those of LabelledQueries, with contents; candidates are BM25's, in its order."""
    found = LabelledCandidates(dataset=beir, split="test", top_k=3).run()
    labels = LabelledQueries(dataset=beir).run()
    assert (found["queries"], found["query_ids"]) == (labels["queries"], labels["query_ids"])
    contents = {row["_id"]: f"{row['title']} {row['text']}".strip() for row in CORPUS}
    for ours, theirs in zip(found["ground_truth_documents"], labels["ground_truth_documents"], strict=True):
        assert [(document.id, document.score) for document in ours] == [(one.id, one.score) for one in theirs]
        assert all(document.content == contents[document.id] for document in ours)
    first = of_folder(beir, measures=["AP"], depth=3).first
    assert first is not None
    for query, documents in zip(found["query_ids"], found["documents"], strict=True):
        assert {document.id: document.score for document in documents} == dict(first[query])
        assert all(document.content == contents[document.id] for document in documents)


def test_files_give_what_the_folder_gives(beir: Path) -> None:
    """A file each of queries, judgements and documents is read alike."""
    files = {"queries": beir / "queries.jsonl", "qrels": beir / "qrels" / "test.tsv", "corpus": beir / "corpus.jsonl"}
    assert LabelledCandidates(**files).run() == LabelledCandidates(dataset=beir, split="test").run()


def test_a_judged_document_that_the_corpus_lacks(beir: Path) -> None:
    """It comes without content, for the trainer to tell."""
    write_json_lines(beir / "corpus.jsonl", CORPUS[1:])
    found = LabelledCandidates(dataset=beir, split="test").run()
    assert [(document.id, document.content) for document in found["ground_truth_documents"][0]] == [("d1", None)]


async def test_async_equals_sync_and_threads_agree(beir: Path) -> None:
    """`run_async` gives what `run` gives, and so do threads that are the first to ask."""
    component = LabelledCandidates(dataset=beir, split="test")
    await component.warm_up_async()
    assert await component.run_async() == component.run()
    fresh = LabelledCandidates(dataset=beir, split="test")
    with ThreadPoolExecutor(4) as pool:
        assert all(found == component.run() for found in pool.map(lambda _: fresh.run(), range(8)))


def test_yaml_round_trip_reads_nothing() -> None:
    """Every parameter comes back through YAML; files are read late."""
    made = LabelledCandidates(queries="q.tsv", qrels="j.txt", corpus="c.jsonl", split="dev", top_k=7)
    pipeline = Pipeline()
    pipeline.add_component("labelled", made)
    again: Any = Pipeline.loads(pipeline.dumps()).get_component("labelled")
    assert again.to_dict() == made.to_dict()
    assert (again.queries, again.qrels, again.corpus, again.top_k) == ("q.tsv", "j.txt", "c.jsonl", 7)
    with pytest.raises(InvalidInput, match=r"q\.tsv: no such file|j\.txt: no such file"):
        again.warm_up()


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({}, "give one of dataset"),
        ({"queries": "q", "qrels": "j"}, "corpus is missing"),
        ({"dataset": "a", "top_k": 0}, "top_k must be > 0"),
        ({"dataset": "a", "corpus": 1}, "corpus is int"),
    ],
)
def test_bad_parameters_are_named(parameters: dict[str, Any], reason: str) -> None:
    """A parameter that cannot be right is refused when the component is made."""
    with pytest.raises(InvalidInput, match=reason):
        LabelledCandidates(**parameters)
