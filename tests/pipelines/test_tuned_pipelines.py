"""Pipelines around tuning: what is taken out of one for that, what is written, and docs/tuning.md as a user runs it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("ir_measures")

from haystack import Document, Pipeline
from haystack_integrations.components.rankers.secondpass import SecondPassTunedRanker

from secondpass import CrossEncoder
from secondpass.calibration import AnswerRule, Calibration
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run as Ranked
from secondpass.evaluation.second_pass import DatasetRequest
from secondpass.fusion import Candidates, Fusion, Tuned
from secondpass.models.identity import marks_of
from secondpass.tuning import tune
from secondpass_pipelines.dataset import run_dataset
from secondpass_pipelines.pipeline_files import pipeline_file
from secondpass_pipelines.tuned_pipelines import for_tuning, write_tuned
from tests.cli.conftest import Run, only_line
from tests.cli.conftest import run as run  # noqa: PLC0414 - a fixture
from tests.cli.test_search import hybrid
from tests.small_collection import write_json_lines
from tests.tiny_models import make_decoder

PAGE = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text(encoding="utf-8")
BOTH = Tuned(
    ("words", "vectors"),
    Fusion("rrf", {"words": 1.0, "vectors": 1.0}),
    Fusion("weighted", {"words": 0.5, "reranker": 0.5}),
    depth=3,
)
JOINED = """
  joiner: {type: haystack.components.joiners.document_joiner.DocumentJoiner, init_parameters: {top_k: 2}}
connections:
  - {sender: joiner, receiver: ranker}
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, tiny_folder: str) -> Write:
    """A `Tuned` put into a pipeline, the hybrid one if no other is named: the file that was written."""

    def written(tuned: Tuned = BOTH, pipeline: str | None = None, **options: object) -> Path:
        source = pipeline or str(hybrid(tmp_path / "hybrid.yaml", tiny_folder))
        given = replace(tuned, model=tiny_folder) if tuned.after is not None else tuned
        (tmp_path / "tuned.json").write_text(json.dumps(given.to_dict()))
        write_tuned(source, tmp_path / "tuned.json", tmp_path / "written.yaml", **options)
        return tmp_path / "written.yaml"

    return written


def test_what_is_tuned_on_is_what_each_retriever_found(beir: Path, tmp_path: Path, tiny_folder: str) -> None:
    """Each list by its component's name, with its scores; the model's logits of all of them, texts and marks.

    A joiner that would leave some out is seen through, and what stands behind the ranker is not asked.
    """
    file = hybrid(tmp_path / "p.yaml", tiny_folder)
    plain = run_dataset(DatasetRequest(str(file), beir, tuning=True))
    assert [run.name for run in (*plain.first, plain.second)] == ["words", "vectors", "ranker"] == list(plain.ms)
    text = (
        file.read_text()
        .replace("connections:\n", JOINED.lstrip("\n"))
        .replace("receiver: ranker.doc", "receiver: joiner.doc")
    )
    file.write_text(text + "  - {sender: ranker.documents, receiver: after.documents}\n".replace("after", "cut"))
    page = yaml.safe_load(file.read_text())
    kind = "haystack_integrations.components.preprocessors.secondpass.prompt_budget.PromptBudget"
    page["components"]["cut"] = {"type": kind, "init_parameters": {"max_tokens": 1}}
    page["components"]["ranker"]["init_parameters"] |= {"score_threshold": 0.9, "top_k": 1, "keep": None}
    file.write_text(yaml.safe_dump(page))
    found = run_dataset(DatasetRequest(str(file), beir, tuning=True))
    assert [dict(run) for run in (*found.first, found.second)] == [dict(run) for run in (*plain.first, plain.second)]
    model = CrossEncoder(tiny_folder)
    assert found.marks == pytest.approx(marks_of(model), abs=1e-6)
    for query, scores in found.second.items():
        assert set(scores) == {name for run in found.first for name in run[query]}
        pairs = [(found.texts[query], found.documents[name].content) for name in scores]
        expected = model.predict(pairs, activation_fct=lambda logits: logits)
        assert list(scores.values()) == pytest.approx(expected.tolist(), abs=1e-4)


def test_questions_without_an_answer_are_asked_where_it_is_tuned(beir: Path, tmp_path: Path, tiny_folder: str) -> None:
    """Their candidates are read as the others' are; evaluation leaves them out."""
    file = str(hybrid(tmp_path / "p.yaml", tiny_folder))
    asked = {tuning: run_dataset(DatasetRequest(file, beir, tuning=tuning)) for tuning in (True, False)}
    assert [list(one.texts) for one in asked.values()] == [["q1", "q2", "q3", "unjudged"], ["q1", "q2", "q3"]]
    assert asked[True].second["unjudged"]
    assert asked[True].qrels["unjudged"] == {"d2": 0}


def test_a_tuned_pipeline_orders_as_was_tuned(beir: Path, write: Write) -> None:
    """Over a labelled set its order is that of `Tuned.order` on the lists and logits that are tuned on."""
    given = run_dataset(DatasetRequest(str(write().parent / "hybrid.yaml"), beir, tuning=True))
    found = run_dataset(DatasetRequest(str(write()), beir))
    assert [run.name for run in found.first] == [
        "first pass (words)", "first pass (vectors)", "first pass (words + vectors)",
    ]  # fmt: skip
    for query in found.texts:
        candidates = Candidates.of({run.name: list(run[query].items()) for run in given.first})
        rows = BOTH.to_read(candidates)
        logits = [given.second[query][candidates.ids[row]] for row in rows]
        order = BOTH.order(candidates, rows, logits)
        assert list(found.second[query]) == [one.id for one in order]
        assert list(found.second[query].values()) == pytest.approx([one.score for one in order], abs=1e-5)


def test_plain_haystack_loads_what_was_written(write: Write, tmp_path: Path) -> None:
    """Each retriever connected to its own input, all else kept; the file may stand elsewhere than the process."""
    file = write(depth=7)
    pipeline = Pipeline.loads(file.read_text())
    sockets = {(sender, receiver, data["to_socket"].name) for sender, receiver, data in pipeline.graph.edges(data=True)}
    assert sockets == {
        ("embedder", "vectors", "query_embedding"),
        ("words", "ranker", "words"),
        ("vectors", "ranker", "vectors"),
    }
    assert isinstance(pipeline.get_component("ranker"), SecondPassTunedRanker)
    assert [pipeline.get_component(name).top_k for name in ("words", "vectors")] == [7, 7]


@pytest.mark.parametrize("engine", ["Elasticsearch", "OpenSearch"])
def test_a_hybrid_retriever_finds_as_many_as_in_tuning(write: Write, tmp_path: Path, engine: str) -> None:
    """By each of its two searches; what it keeps of both together stays."""
    page = yaml.safe_load(pipeline_file("rerank_bm25").read_text())
    kind = f"haystack_integrations.components.retrievers.x.{engine}HybridRetriever"
    page["components"]["retriever"] = {"type": kind, "init_parameters": {"top_k": 9, "top_k_bm25": 1}}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(page))
    tuned = Tuned(("retriever",), Fusion("weighted", {"retriever": 1.0}), Fusion("weighted", {"reranker": 1.0}), 5)
    written = yaml.safe_load(write(tuned, str(tmp_path / "both.yaml"), depth=7).read_text())
    settings = written["components"]["retriever"]["init_parameters"]
    assert settings == {"top_k": 9, "top_k_bm25": 7, "top_k_embedding": 7}


def test_a_depth_goes_to_what_finds(write: Write, tmp_path: Path, tiny_folder: str) -> None:
    """And not to what merges behind it and takes none, nor to what cuts there: the file loads."""
    page = yaml.safe_load(hybrid(tmp_path / "other.yaml", tiny_folder).read_text())
    store = page["components"]["words"]["init_parameters"]["document_store"]
    kind = "haystack.components.retrievers.auto_merging_retriever.AutoMergingRetriever"
    page["components"]["merger"] = {"type": kind, "init_parameters": {"document_store": store}}
    kind = "haystack.components.rankers.lost_in_the_middle.LostInTheMiddleRanker"
    page["components"]["cut"] = {"type": kind, "init_parameters": {"top_k": 2}}
    del page["components"]["words"]["init_parameters"]["top_k"]
    words, vectors, ranked = ({"receiver": f"{name}.documents"} for name in ("merger", "cut", "ranker"))
    page["connections"][1:] = [
        {"sender": "words.documents", **words},
        {"sender": "vectors.documents", **vectors},
        {"sender": "merger.documents", **ranked},
        {"sender": "cut.documents", **ranked},
    ]
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(page))
    before, after = Fusion("rrf", {"merger": 1.0, "cut": 1.0}), Fusion("weighted", {"merger": 0.5, "reranker": 0.5})
    tuned = replace(BOTH, first=("merger", "cut"), before=before, after=after)
    pipeline: Any = Pipeline.loads(write(tuned, str(tmp_path / "other.yaml"), depth=7).read_text())
    assert [pipeline.get_component(name).top_k for name in ("words", "vectors", "cut")] == [7, 7, 2]


def test_a_retriever_that_is_not_needed_goes(write: Write) -> None:
    """With what only it needs, and its inputs of Hayhooks; the order is then BM25's."""
    names = ("bm25_retriever", "embedding_retriever")
    grades = {f"q{number}": {"a": 1} for number in range(20)}
    lists = [Ranked(name, {query: [(one, 9.0 - row) for row, one in enumerate(found)] for query in grades})
             for name, found in zip(names, ("abcd", "bcxa"), strict=True)]  # fmt: skip
    logits = Ranked("m", {query: [(one, -float(row)) for row, one in enumerate("xbcda")] for query in grades})
    page = yaml.safe_load(write(tune(Qrels(grades), lists, logits, splits=4).tuned, "rerank_hybrid").read_text())
    assert list(page["components"]) == ["bm25_retriever", "ranker"]
    assert page["connections"] == [{"sender": "bm25_retriever.documents", "receiver": "ranker.bm25_retriever"}]
    assert page["inputs"] == {"query": ["bm25_retriever.query", "ranker.query"]}


def test_a_pipeline_reads_as_it_was_tuned(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An instruction of the command is in the pipeline that is written, and is missed where somebody takes it out.

    The model is refused where its logits for the sample pairs are others without it; else the log says it.
    """
    pytest.importorskip("sklearn")
    folder = make_decoder(tmp_path / "Qwen3-Reranker-tiny", "qwen3", length=600)
    few = ("-d", "secondpass/demo", "--limit", "8", "--depth", "4", "--splits", "2", "-o", tmp_path / "tuned")
    told = ("--model", folder, "--instruction", "is it about invoices", "--precision", "fp32")
    found = run("tune", *few, "-p", "rerank_bm25", *told)
    assert found.exit_code == 0, found.output
    file, pipeline = tmp_path / "tuned" / "tuned.json", tmp_path / "tuned" / "pipeline.yaml"
    page = yaml.safe_load(pipeline.read_text())
    given = page["components"]["ranker"]["init_parameters"]
    assert (given["instruction"], given["precision"]) == ("is it about invoices", "fp32")
    tuned = Tuned.from_dict(json.loads(file.read_text()))
    model = CrossEncoder(str(folder), instruction="is it about invoices")
    assert tuned.conditions == model.conditions()
    alone = Fusion("weighted", {"reranker": 1.0})  # whatever won, it reads now
    reading = replace(tuned, after=alone, depth=4, skip=None, calibration=None, model=str(folder))
    file.write_text(json.dumps(reading.to_dict()))
    search = ("search", "-p", pipeline, "-c", "secondpass/demo", "--depth", "4", "-q", "my invoice was paid twice")
    answered = run(*search, "--json")
    assert answered.exit_code == 0, answered.output
    (answer,) = json.loads(answered.stdout)["queries"]
    texts = [one["text"] for one in answer["second"]]
    logits = model.predict([(answer["query"], text) for text in texts], activation_fct=lambda logits: logits)
    assert logits.tolist() == sorted(logits.tolist(), reverse=True)
    del given["instruction"]
    pipeline.write_text(yaml.safe_dump(page))
    without = run(*search)
    refused = "is another model than the one tuned with" in without.stderr
    said = "(prompt '' instead of 'is it about invoices')" if refused else "than those tuned on: prompt\n"
    assert (without.exit_code != 0, said in without.stderr + caplog.text) == (refused, True)


def test_a_pipeline_is_tuned_as_first_passes_are(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    """Documents that are their queries are left out, and what was cut, known before or left out is said."""
    pytest.importorskip("sklearn")
    names = [f"{letter}{letter}" for letter in "abcdefghij"]
    (tmp_path / "qrels").mkdir()
    queries = [{"_id": name, "text": f"word{name} cat"} for name in names]
    answers = [{"_id": f"d{name}", "text": f"word{name} " + "the cat sat on the mat " * 60} for name in names]
    write_json_lines(tmp_path / "queries.jsonl", queries)
    write_json_lines(tmp_path / "corpus.jsonl", [*queries, *answers])
    lines = "".join(f"{name}\td{name}\t1\n" for name in [*names, "lost"])
    (tmp_path / "qrels" / "test.tsv").write_text(lines)
    options = ("tune", "-d", tmp_path, "-p", "rerank_bm25", "-m", "nDCG@1", "--model", tiny_folder, "--splits", "2")
    told = [run(*options, "--depth", "3", "--score-cache", tmp_path / "scores.db", "--json") for _ in range(2)]
    assert [one.exit_code for one in told] == [0, 0], told[0].output
    first = json.loads(told[0].stdout)["outcomes"][0]
    assert (first["name"], first["mean"]) == ("first pass", 1.0)
    for said in (
        "documents whose id is their query's are left out",
        "documents were cut to fit the model",
        "(lost)",
    ):
        assert said in told[0].stderr
    known = "30 of 30 scores of ranker were known, so its milliseconds are fewer"
    assert [known in one.stderr for one in told] == [False, True]


@pytest.mark.parametrize("name", ["evaluate_rerank", "rag_extractive", "rag_rerank", "rerank_elasticsearch_bm25"])
def test_packaged_pipelines_can_be_tuned(write: Write, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was behind the ranker is there and fits its outputs."""
    if "elasticsearch" in name:
        pytest.importorskip("haystack_integrations.document_stores.elasticsearch")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    tuned = Tuned(("retriever",), Fusion("weighted", {"retriever": 1.0}), Fusion("weighted", {"reranker": 1.0}), 5)
    file = write(tuned, name)
    before = yaml.safe_load((Path(__file__).parents[2] / "pipelines" / f"{name}.yaml").read_text())
    after = Pipeline.loads(file.read_text())
    assert set(after.graph.nodes) == set(before["components"])
    assert len(after.graph.edges) == len(before["connections"])


def test_a_tuned_pipeline_refuses_to_answer(
    write: Write, beir: Path, tmp_path: Path, tiny_folder: str, run: Run
) -> None:
    """`ask` gives no answer where the tuned rule says that no document has one, `--no-refuse` asks for one anyway."""
    rule = Calibration("logistic", answers=AnswerRule(1e9, 50, 0.9, 0.9))
    tuned = Tuned(("retriever",), Fusion("weighted", {"retriever": 1.0}), Fusion("weighted", {"reranker": 1.0}), 5,
                  calibration=rule)  # fmt: skip
    source = tmp_path / "rag.yaml"
    source.write_text(pipeline_file("rag_extractive").read_text().replace("secondpass/pocket", tiny_folder))
    file = write(tuned, str(source))
    for options, verdict, answered in (((), True, False), (("--refuse",), True, False), (("--no-refuse",), True, True)):
        found = run("ask", "where is the train", "-p", file, "-c", beir, "--json", *options)
        assert found.exit_code == 0, found.output
        told = json.loads(found.stdout)
        assert (told["nothing_relevant"], bool(told["answers"])) == (verdict, answered), options
    refused = run("ask", "train", "-p", write(replace(tuned, calibration=None), str(source)), "-c", beir, "--refuse")
    assert "no calibration that says when nothing is relevant" in only_line(refused)


def test_a_file_that_moved_is_looked_for_beside_the_pipeline(
    write: Write, beir: Path, tmp_path: Path, run: Run
) -> None:
    """And where it is not there either, the error names it."""
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in (write(), tmp_path / "tuned.json"):
        file.rename(moved / file.name)
    found = run("search", "-p", moved / "written.yaml", "-c", beir, "-q", "train")
    assert found.exit_code == 0, found.output
    (moved / "tuned.json").unlink()
    refused = run("search", "-p", moved / "written.yaml", "-c", beir, "-q", "train")
    assert refused.exit_code == 2
    assert f"{tmp_path / 'tuned.json'} cannot be read" in only_line(refused)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            ("rankers.secondpass.ranker.SecondPassRanker", "rankers.meta_field.MetaFieldRanker"),
            "0 components are a Sec",
        ),
        (("ranker.SecondPassRanker", "tuned_ranker.SecondPassTunedRanker"), "is tuned already"),
        (("receiver: ranker.documents", "receiver: other.documents"), "no component gives 'ranker' documents"),
        (("words", "bm25"), "the first pass 'words' is none of bm25, vectors"),
        (
            ("connections:\n", "connections:\n  - {sender: words}\n"),
            r"connections\[0\] does not say sender and receiver",
        ),
    ],
)
def test_pipelines_that_cannot_be_tuned_are_refused(
    tmp_path: Path, tiny_folder: str, write: Write, changed: tuple[str, str], said: str
) -> None:
    """By what they lack."""
    file = hybrid(tmp_path / "other.yaml", tiny_folder)
    file.write_text(file.read_text().replace(*changed))
    with pytest.raises(InvalidInput, match=said):
        write(pipeline=str(file))


def test_documents_of_another_socket_are_refused_before_any_work(beir: Path, tmp_path: Path, tiny_folder: str) -> None:
    """A router's, say, also beside its `documents`."""
    file = hybrid(tmp_path / "other.yaml", tiny_folder)
    link = "  - {sender: words.documents, receiver: ranker.documents}\n"
    file.write_text(file.read_text().replace(link, link.replace("words.documents", "words.unmatched") + link))
    with pytest.raises(InvalidInput, match=r"'ranker' has documents of 'words\.unmatched': tuning takes 'documents'"):
        run_dataset(DatasetRequest(str(file), beir, tuning=True))


def test_a_probability_that_was_not_fitted_goes(
    write: Write, tmp_path: Path, tiny_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And is said: the ranker would refuse it. Joiners in a circle are seen through as well."""
    file = hybrid(tmp_path / "other.yaml", tiny_folder)
    circle = JOINED.lstrip("\n") + "  - {sender: joiner, receiver: joiner}\n"
    file.write_text(file.read_text().replace("cpu}", "cpu, min_probability: 0.5}").replace("connections:\n", circle))
    assert "min_probability" not in write(pipeline=str(file)).read_text()
    assert "'ranker' has min_probability=0.5: left out" in capsys.readouterr().err
    kept = write(replace(BOTH, calibration=Calibration("logistic")), str(file)).read_text()
    assert ("min_probability: 0.5" in kept, capsys.readouterr().err) == (True, "")


def test_what_a_tuned_ranker_does_not_take_goes(
    write: Write, tmp_path: Path, tiny_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parameters, connections and inputs, and each is said; one that has the ranker's usual value goes unsaid."""
    page = yaml.safe_load(hybrid(tmp_path / "other.yaml", tiny_folder).read_text())
    page["components"]["ranker"]["init_parameters"] |= {
        "score_threshold": 0.3, "max_documents": 500, "scale_score": True, "calibration": None, "top_k": 4,
    }  # fmt: skip
    route = {"condition": "{{ True }}", "output": "{{ least }}", "output_name": "least", "output_type": "float"}
    kind = "haystack.components.routers.conditional_router.ConditionalRouter"
    page["components"]["limit"] = {"type": kind, "init_parameters": {"routes": [route]}}
    page["connections"].append({"sender": "limit.least", "receiver": "ranker.score_threshold"})
    page["inputs"] = {
        "query": ["embedder.text", "words.query", "ranker.query"],
        "scaled": ["ranker.scale_score"],
        "least": ["limit.least"],
    }
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(page))
    tuning = for_tuning(page, tmp_path / "other.yaml")
    assert tuning["components"].keys() == {"embedder", "words", "vectors", "ranker"}
    file = write(pipeline=str(tmp_path / "other.yaml"))
    told = [line.partition(" has ")[2].partition(": left out")[0] for line in capsys.readouterr().err.splitlines()]
    assert sorted(told) == [
        "limit.least connected to ranker.score_threshold",
        "max_documents=500",
        "ranker.scale_score in inputs",
        "score_threshold=0.3",
    ]
    written = yaml.safe_load(file.read_text())
    assert written["components"].keys() == {"embedder", "words", "vectors", "ranker"}
    assert written["components"]["ranker"]["init_parameters"].keys() == {"tuned", "top_k", "device"}
    assert written["inputs"] == {"query": page["inputs"]["query"]}
    assert Pipeline.loads(file.read_text()).get_component("ranker").top_k == 4  # type: ignore[attr-defined]


def test_from_a_log_of_clicks_to_a_tuned_pipeline_in_three_commands(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's code and commands as they stand there, one after the other, in an empty folder."""
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    log, applied = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(log, {})  # noqa: S102 - our own page
    block = re.search(r"```\n(secondpass label.*?)```", PAGE, re.DOTALL)
    assert block is not None
    commands = block.group(1).splitlines()
    assert len(commands) == 3
    for command in commands:
        result = run(*shlex.split(command)[1:])
        assert result.exit_code == 0, f"{command}: {result.output}"
    (best,) = [line for line in result.output.splitlines() if line.split()[:1] == ["1"]]
    assert "billing-duplicate-payments" in best
    exec(applied, {})  # noqa: S102 - our own page
    assert capsys.readouterr().out.splitlines()[-2].startswith("invoice-paid-twice")
    pipeline = Pipeline.loads(Path("tuned/pipeline.yaml").read_text())
    assert pipeline.get_component("retriever").top_k == 20
    store = pipeline.get_component("retriever").document_store
    store.write_documents([Document(id="a", content="Invoices that were paid twice are returned.")])
    query = "my invoice was paid twice"
    found = pipeline.run({"retriever": {"query": query}, "ranker": {"query": query}})["ranker"]
    assert ([one.id for one in found["documents"]], found["read"]) == (["a"], 1)
