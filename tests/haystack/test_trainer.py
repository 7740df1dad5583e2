"""Training in pipelines: labelled queries with candidates, and what the trainer learns from them."""

from __future__ import annotations

import asyncio
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ir_measures")
pytest.importorskip("bm25s")

from haystack import Document, Pipeline
from haystack_integrations.components.evaluators.secondpass import LabelledQueries
from haystack_integrations.components.rankers.secondpass import SecondPassRanker
from haystack_integrations.components.trainers.secondpass import CrossEncoderTrainer, LabelledCandidates

from secondpass import CrossEncoder
from secondpass.errors import CheckpointError, InvalidInput, ModelLoadError
from secondpass.training.measuring.before_after import of_folder
from tests.small_collection import CORPUS, write_json_lines
from tests.tiny_models import make_decoder
from tests.toy_task import document

SETTINGS = {"epochs": 8, "tokens_per_step": 300, "learning_rate": 3e-3, "precision": "fp32", "loss": "ranknet"}
Inputs = dict[str, Any]


def labelled(size: int = 24, seed: int = 3) -> Inputs:
    """Queries with one judged and relevant document each (no content), which is among four candidates."""
    rng = random.Random(seed)
    inputs: Inputs = {"queries": [], "query_ids": [], "ground_truth_documents": [], "documents": []}
    for number in range(size):
        found = [Document(id=f"{number}-{place}", content=document(int(place == 2), rng)) for place in range(4)]
        inputs["queries"].append(f"how to reset {number}")
        inputs["query_ids"].append(f"q{number}")
        inputs["ground_truth_documents"].append([Document(id=f"{number}-2", score=2.0)])
        inputs["documents"].append(found)
    return inputs


@pytest.fixture
def make_trainer(tiny_folder: str, tmp_path: Path) -> Any:
    """Make a trainer of the tiny model; keywords go to its constructor."""

    def make(**parameters: Any) -> CrossEncoderTrainer:
        stated = {"model": tiny_folder, "output_dir": tmp_path / "out", "device": "cpu", "settings": dict(SETTINGS)}
        return CrossEncoderTrainer(**{**stated, "dev_share": 0.25, **parameters})

    return make


def test_a_ranker_loads_what_it_trained(make_trainer: Any, tmp_path: Path) -> None:
    """The report is plain, the held-out queries gained, and a ranker orders as the report says."""
    inputs = labelled()
    out = make_trainer().run(**inputs)
    report = out["report"]
    assert report == json.loads(json.dumps(report))
    assert report["queries"] == {"trained": 18, "held_out": 6, "without_relevant": 0}
    assert report["counts"]["groups"] == 18
    assert report["counts"]["documents"] == 4 * 18
    gain = report["dev"]["nDCG@10"]
    assert gain["after"] > gain["before"] + 0.2
    assert gain["low"] <= gain["difference"] <= gain["high"]
    assert report["best_score"] == pytest.approx(gain["after"], abs=1e-9)
    assert out["scores"][0] == {"step": 0, "score": pytest.approx(gain["before"], abs=1e-9)}
    assert out["model"] == str(tmp_path / "out")
    assert "Written by `secondpass train`" in (tmp_path / "out" / "README.md").read_text()
    ranker = SecondPassRanker(model=out["model"], device="cpu", top_k=1)
    first = ranker.run(query=inputs["queries"][0], documents=inputs["documents"][0])["documents"][0]
    assert first.id == "0-2"


def test_a_plain_causal_model_trains_in_the_template_that_is_said(make_trainer: Any, tmp_path: Path) -> None:
    """A ranker of the trained folder needs to be told nothing; untold the model is refused as by a ranker."""
    folder = str(make_decoder(tmp_path / "plain", "qwen3"))
    settings = {**SETTINGS, "max_steps": 1, "lora": {"rank": 2}}
    template = "<|im_start|>{instruction}\n{query}\n{document}<|im_end|>"
    told = {"template": template, "true_token": "yes", "false_token": "no"}
    one = {"model": folder, "dev_share": 0.0, "settings": settings, "instruction": "find it"}
    with pytest.raises(ModelLoadError, match="must be said"):
        make_trainer(**one).run(**labelled(4))
    out = make_trainer(**one, model_kwargs=told).run(**labelled(4))
    trained = CrossEncoder(out["model"], device="cpu")
    given = CrossEncoder(folder, device="cpu", instruction="find it", **told)
    assert trained.takes_instruction
    assert [one.ids.tolist() for one in trained.tokens(["cat"], ["mat"])] == [
        one.ids.tolist() for one in given.tokens(["cat"], ["mat"], instruction="find it")
    ]


def test_what_is_learnt_from(make_trainer: Any) -> None:
    """Judged documents by grade, then the first unjudged candidates that are nothing else by another name."""
    documents = [
        Document(id="same text", content="good answer"),
        Document(id="bad", content="bad answer"),
        Document(id="judged", content="a judged negative"),
        Document(id="bad again", content="bad answer"),
        Document(id="blank", content="  "),
        Document(id="third", content="third answer"),
    ]
    truth = [Document(id="good", content="good answer", score=2.0), Document(id="judged", score=0.0)]
    inputs: Inputs = {"queries": ["q"], "ground_truth_documents": [truth], "documents": [documents]}

    def counts(**parameters: Any) -> dict[str, Any]:
        settings = {**SETTINGS, "max_steps": 1, **parameters.pop("settings", {})}
        trainer = make_trainer(dev_share=0.0, resume=False, settings=settings, **parameters)
        return trainer.run(**inputs)["report"]["counts"]

    everything = counts()
    assert (everything["documents"], everything["histogram"]) == (4, {"0": 3, "2": 1})
    assert counts(negatives_per_query=1)["documents"] == 3
    assert counts(unjudged_as_negatives=False)["documents"] == 2
    assert counts(relevant_from=2, settings={"loss": "binary_cross_entropy"})["histogram"] == {"0": 3, "1": 1}
    with pytest.raises(InvalidInput, match="all 4 labels are 0"):
        counts(relevant_from=3, settings={"loss": "binary_cross_entropy"})


def test_queries_without_texts_are_left_out_and_told(make_trainer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A query whose relevant document was neither given nor found with its text cannot be learnt from."""
    inputs = labelled(6)
    inputs["ground_truth_documents"][4] = [Document(id="elsewhere")]
    inputs["ground_truth_documents"][5] = [Document(id="5-2", score=0.0)]
    out = make_trainer(dev_share=0.0).run(**inputs)
    assert out["report"]["queries"] == {"trained": 4, "held_out": 0, "without_relevant": 2}
    assert (out["report"]["dev"], out["scores"], out["report"]["best_score"]) == ({}, [], None)
    assert "2 queries have no relevant document with a text and are left out; 1 judged documents" in caplog.text


def test_meta_fields_are_read(make_trainer: Any, tmp_path: Path) -> None:
    """A document is the text that the ranker will read: meta values, separator, content."""
    from haystack_integrations.common.secondpass.documents import TextLayout
    from haystack_integrations.components.trainers.secondpass.trainer import graded_queries

    truth = [[Document(id="a", content="text", meta={"title": "Title"})]]
    found = graded_queries(["q"], truth, None, None, TextLayout(meta_fields=["title"], separator=" | "))
    assert found.kept[0].judged[0].text == "Title | text"


def test_it_goes_on_and_begins_anew(make_trainer: Any) -> None:
    """The same inputs again find the finished run; other inputs are refused, unless it begins anew."""
    first = make_trainer().run(**labelled())
    again = make_trainer().run(**labelled())
    assert (first["report"]["resumed_from"], again["report"]["resumed_from"]) == (None, first["report"]["steps"])
    assert again["scores"] == first["scores"]
    with pytest.raises(CheckpointError, match="belongs to another run"):
        make_trainer().run(**labelled(seed=4))
    assert make_trainer(resume=False).run(**labelled(seed=4))["report"]["resumed_from"] is None


def test_async_equals_sync_in_a_pipeline(make_trainer: Any, tmp_path: Path) -> None:
    """In a pipeline, dumped and loaded, both ways of running give the same scores and weights."""
    pipeline = Pipeline()
    pipeline.add_component("trainer", make_trainer(output_dir=tmp_path / "one"))
    text = pipeline.dumps()
    one = pipeline.run({"trainer": labelled()})["trainer"]
    two = asyncio.run(Pipeline.loads(text.replace("/one", "/two")).run_async({"trainer": labelled()}))["trainer"]
    assert one["scores"] == two["scores"]
    pairs = [("how to reset", "the password"), ("how to reset", "a cat")]
    scores = [CrossEncoder(out["model"], device="cpu").predict(pairs).tolist() for out in (one, two)]
    assert scores[0] == scores[1]


def test_yaml_round_trip(tmp_path: Path) -> None:
    """Every parameter comes back through YAML under the default allow-list; making and dumping writes nothing."""
    parameters = {
        "model": "some/model",
        "output_dir": str(tmp_path / "out"),
        "settings": {"loss": "lambda_loss", "loss_options": {"k": 5}, "lora": {"rank": 4, "targets": ["query"]}},
        "dev_share": 0.3,
        "unjudged_as_negatives": False,
        "negatives_per_query": 3,
        "relevant_from": 2,
        "meta_fields_to_embed": ["title"],
        "embedding_separator": " ",
        "max_length": 64,
        "device": "cpu",
        "token": None,
        "resume": False,
        "card": False,
        "show_progress_bar": True,
        "instruction": "find it",
        "model_kwargs": {"template": "{query} {document}", "true_token": "yes", "revision": "1"},
    }
    made = CrossEncoderTrainer(**parameters)
    pipeline = Pipeline()
    pipeline.add_component("trainer", made)
    again: Any = Pipeline.loads(pipeline.dumps()).get_component("trainer")
    assert again.to_dict()["init_parameters"] == parameters
    assert list(tmp_path.iterdir()) == []
    data = made.to_dict()
    data["init_parameters"]["output_dir"] = {"type": "haystack.dataclasses.document.Document"}
    with pytest.raises(InvalidInput, match="output_dir is an object"):
        CrossEncoderTrainer.from_dict(data)


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"settings": {"epoch": 3}}, "epoch is unknown; did you mean epochs?"),
        ({"settings": {"epochs": "3"}}, "epochs is '3', not a whole number"),
        ({"settings": {"epochs": 0}}, "epochs=0 is not a positive int"),
        ({"settings": {"loss": "listnett"}}, "did you mean listnet?"),
        ({"settings": {"loss": "cross_entropy"}}, "is for classes"),
        ({"settings": [1]}, "settings is list"),
        ({"settings": {1: 2}}, "1 is unknown"),
        ({"dev_share": 1.0}, "dev_share=1.0"),
        ({"dev_share": -0.1}, "dev_share=-0.1"),
        ({"dev_share": "a"}, "dev_share is str"),
        ({"output_dir": ""}, "output_dir is blank"),
        ({"output_dir": None}, "output_dir is NoneType"),
        ({"negatives_per_query": 0}, "negatives_per_query must be > 0"),
        ({"relevant_from": 0}, "relevant_from must be > 0"),
        ({"unjudged_as_negatives": 1}, "unjudged_as_negatives is int"),
        ({"token": "secret"}, "token is str"),
        ({"model": 3}, "model is int"),
        ({"model_kwargs": {"template": 3}}, "model_kwargs['template'] cannot be 3"),
    ],
)
def test_bad_parameters_are_named(make_trainer: Any, parameters: dict[str, Any], reason: str) -> None:
    """A parameter that cannot be right is refused when the component is made."""
    with pytest.raises(InvalidInput) as refused:
        make_trainer(**parameters)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"queries": []}, "queries is empty"),
        ({"queries": "q"}, "queries is str, not a list"),
        ({"queries": ["q", " "]}, "queries[1] is blank"),
        ({"queries": [3]}, "queries[0] is int, not str"),
        ({"ground_truth_documents": []}, "ground_truth_documents has 0 entries, queries 1"),
        ({"ground_truth_documents": [Document(id="a")]}, "ground_truth_documents[0] is Document, not a list"),
        ({"ground_truth_documents": [["a"]]}, "ground_truth_documents[0][0] is str"),
        ({"ground_truth_documents": [[Document(id="a", content="x", score=0.5)]]}, "has score 0.5"),
        ({"ground_truth_documents": [[Document(id="a", content="x", score=0.0)]]}, "no relevant document with a text"),
        ({"documents": [[], []]}, "documents has 2 entries, queries 1"),
        ({"documents": [[1]]}, "documents[0][0] is int"),
        ({"query_ids": ["a", "b"]}, "query_ids has 2 entries, queries 1"),
        ({"query_ids": [1]}, "query_ids[0] is int"),
        ({"documents": None}, "all 1 labels are 1"),
    ],
)
def test_bad_inputs_are_named(make_trainer: Any, tmp_path: Path, inputs: Inputs, reason: str) -> None:
    """An input of a wrong form, or nothing to learn from, is refused by name and index; nothing is written."""
    good: Inputs = {"queries": ["q"], "ground_truth_documents": [[Document(id="a", content="x")]]}
    trainer = make_trainer(dev_share=0.0, settings={})
    with pytest.raises(InvalidInput) as refused:
        trainer.run(**(good | inputs))
    assert reason in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_ids_that_repeat(make_trainer: Any) -> None:
    """Two queries of one id would be one."""
    inputs = labelled(2) | {"query_ids": ["a", "a"]}
    with pytest.raises(InvalidInput, match="query_ids has 'a' twice"):
        make_trainer().run(**inputs)


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


def test_a_querys_own_document_is_no_candidate_of_a_folder(beir: Path) -> None:
    """Where a query is a document (equal ids) it finds itself first; another one takes its place."""
    before = LabelledCandidates(dataset=beir, split="test", top_k=2).run()["documents"][0]
    with (beir / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "q1", "text": "reset my password"}\n')
    after = LabelledCandidates(dataset=beir, split="test", top_k=2).run()["documents"][0]
    assert [document.id for document in after] == [document.id for document in before]


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
def test_bad_parameters_of_labelled_candidates_are_named(parameters: dict[str, Any], reason: str) -> None:
    """A parameter that cannot be right is refused when the component is made."""
    with pytest.raises(InvalidInput, match=reason):
        LabelledCandidates(**parameters)
