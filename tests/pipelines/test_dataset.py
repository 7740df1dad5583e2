"""run_dataset: both passes over a BEIR folder as runs, and going on after a kill."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ir_measures")

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from secondpass.errors import InvalidInput, SecondPassError
from secondpass.evaluation.measures import evaluate
from secondpass.evaluation.qrels import JudgedQueries, Qrels
from secondpass.evaluation.runs import read_run
from secondpass.evaluation.second_pass import DatasetRequest
from secondpass_pipelines.dataset import not_indexed, run_dataset
from secondpass_pipelines.pipeline_files import JOINER, RANKER
from secondpass_pipelines.searching import Searcher
from tests.cli.test_search import hybrid, wait_for_lines
from tests.small_collection import CORPUS, write_json_lines

FIRST, SECOND = "first pass (retriever)", "second pass (ranker)"


@pytest.mark.parametrize("pipeline", ["evaluate_rerank", "rerank_bm25"])
def test_both_passes(beir: Path, tiny_folder: str, pipeline: str) -> None:
    """Both runs have every judged query and the same candidates, with or without evaluators in the pipeline."""
    found = run_dataset(DatasetRequest(pipeline, beir, model=tiny_folder))
    (first,) = found.first
    assert (first.name, found.second.name) == (FIRST, SECOND)
    assert list(first) == list(found.second) == list(found.texts) == ["q1", "q2", "q3"]
    assert found.texts["q2"] == "train to the capital of France"
    assert all(set(first[query]) == set(found.second[query]) for query in first)
    scores = [score for score in found.second["q2"].values() if score is not None]
    assert len(scores) == len(first["q2"]) > 1
    assert scores == sorted(scores, reverse=True)
    # "unjudged" has a judgement of grade 0: it is not asked, and a report can count it.
    assert set(found.qrels) == {"q1", "q2", "q3", "unjudged"}
    assert evaluate(found.qrels, first, ["RR@10"]).means["RR@10"] == 1.0
    assert evaluate(found.qrels, first, ["RR@10"]).coverage.without_relevant == ("unjudged",)
    assert list(found.ms) == [FIRST, SECOND]
    assert all(ms > 0 for ms in found.ms.values())
    assert (found.cut, found.not_reranked, found.model) == (0, 0, tiny_folder)
    assert found.measures == (("nDCG@10", "RR@10", "AP", "R@100") if pipeline == "evaluate_rerank" else ())


def test_limit_depth_and_top_k(beir: Path, tiny_folder: str) -> None:
    """A limit cuts queries and judgements, depth the first pass only, top_k the second only; by default all return."""
    found = run_dataset(DatasetRequest("rerank_bm25", beir, limit=2, depth=4, model=tiny_folder))
    assert list(found.second) == list(found.qrels) == list(found.texts) == ["q1", "q2"]
    assert [len(run["q2"]) for run in (*found.first, found.second)] == [4, 4]
    cut = run_dataset(DatasetRequest("rerank_bm25", beir, top_k=1, model=tiny_folder))
    assert [len(run["q2"]) for run in (*cut.first, cut.second)] == [5, 1]


def test_ten_of_the_pipeline_do_not_cut_the_second_pass(tmp_path: Path, tiny_folder: str) -> None:
    """A ranker that returns 10 in production returns all of its 12 candidates here."""
    (tmp_path / "qrels").mkdir()
    write_json_lines(tmp_path / "corpus.jsonl", [{"_id": f"d{n}", "text": "the cat sat"} for n in range(12)])
    write_json_lines(tmp_path / "queries.jsonl", [{"_id": "q", "text": "cat"}])
    (tmp_path / "qrels" / "test.tsv").write_text("q\td11\t1\n")
    found = run_dataset(DatasetRequest("rerank_bm25", tmp_path, model=tiny_folder))
    assert len(found.first[0]["q"]) == len(found.second["q"]) == 12


def test_two_retrievers_have_a_run_of_the_candidates(beir: Path, tmp_path: Path, tiny_folder: str) -> None:
    """Where the ranker joins two lists, the last first pass has what it was given: each document once."""
    found = run_dataset(DatasetRequest(str(hybrid(tmp_path / "hybrid.yaml", tiny_folder)), beir, depth=2))
    assert [run.name for run in found.first] == [
        "first pass (words)",
        "first pass (vectors)",
        "first pass (words + vectors)",
    ]
    words, vectors, candidates = found.first
    for query in found.texts:
        assert list(candidates[query]) == list(dict.fromkeys((*words[query], *vectors[query])))
        assert set(candidates[query]) == set(found.second[query])
    assert max(len(ranking) for ranking in candidates.values()) > 2
    assert found.ms["first pass (words + vectors)"] == pytest.approx(
        found.ms["first pass (words)"] + found.ms["first pass (vectors)"]
    )


def pipeline_text(model: str, **ranker: Any) -> str:
    """BM25 and a ranker."""
    settings = ", ".join(f"{name}: {value}" for name, value in ranker.items())
    return f"""
components:
  retriever:
    type: haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever
    init_parameters:
      document_store: {{type: haystack.document_stores.in_memory.document_store.InMemoryDocumentStore}}
  ranker:
    type: haystack_integrations.components.rankers.secondpass.ranker.SecondPassRanker
    init_parameters: {{model: "{model}", {settings}}}
connections:
  - {{sender: retriever.documents, receiver: ranker.documents}}
"""


def test_ranker_that_keeps_the_order_has_exactly_no_gain(beir: Path, tmp_path: Path) -> None:
    """When no model can rank, both runs are equal, every value too, and the queries are counted."""
    file = tmp_path / "broken.yaml"
    file.write_text(pipeline_text(str(tmp_path / "absent"), raise_on_failure="false"))
    found = run_dataset(DatasetRequest(str(file), beir))
    measures = ["nDCG@10", "RR@10", "AP", "P@1"]
    first, second = (evaluate(found.qrels, run, measures) for run in (found.first[0], found.second))
    assert (first.values, first.means) == (second.values, second.means)
    assert found.not_reranked == 3


def test_cut_documents_are_counted(beir: Path, tmp_path: Path, tiny_folder: str) -> None:
    """Every document that was too long for the model counts, over all queries."""
    write_json_lines(beir / "corpus.jsonl", [*CORPUS, {"_id": "long", "text": "password train account " * 90}])
    file = tmp_path / "p.yaml"
    file.write_text(pipeline_text(tiny_folder))
    assert run_dataset(DatasetRequest(str(file), beir)).cut == 3


def test_a_relevant_document_is_absent_where_no_store_has_it() -> None:
    """Of several stores none need have all; one that two have counts once. Where none has any, they are refused."""
    stores = [InMemoryDocumentStore() for _ in range(3)]
    for store, ids in zip(stores, ("ab", "bc", ""), strict=True):
        store.write_documents([Document(id=one, content="the cat") for one in ids])
    pipeline = Pipeline()
    for number, store in enumerate(stores):
        pipeline.add_component(f"retriever{number}", InMemoryBM25Retriever(store))
    for relevant, missing in (("abc", 0), ("abcde", 2), ("axy", 2)):
        queries = JudgedQueries({"q": "cat"}, Qrels({"q": dict.fromkeys(relevant, 1)}))
        assert not_indexed(pipeline, queries) == missing
    with pytest.raises(InvalidInput, match="none of the 2 relevant documents is in InMemoryDocumentStore, "):
        not_indexed(pipeline, JudgedQueries({"q": "cat"}, Qrels({"q": {"x": 1, "y": 1}})))


def test_the_ranker_is_the_second_pass_whatever_follows(beir: Path, tmp_path: Path, tiny_folder: str) -> None:
    """What reorders, cuts or reads its documents is left out; a joiner with others' documents is the last word."""
    file = tmp_path / "p.yaml"
    file.write_text(pipeline_text(tiny_folder))
    plain = run_dataset(DatasetRequest(str(file), beir, top_k=2))
    middle = "haystack.components.rankers.lost_in_the_middle.LostInTheMiddleRanker"
    page = pipeline_text(tiny_folder) + "  - {sender: ranker.documents, receiver: middle.documents}\n"
    file.write_text(page.replace("connections:", f"  middle: {{type: {middle}, init_parameters: {{}}}}\nconnections:"))
    packaged = ("rag_extractive", "rag_rerank")
    for pipeline, model in ((str(file), None), *((name, tiny_folder) for name in packaged)):
        found = run_dataset(DatasetRequest(pipeline, beir, top_k=2, model=model))
        assert [run.name for run in (*found.first, found.second)] == [FIRST, SECOND]
        assert [list(found.second[query]) for query in found.texts] == [
            list(plain.second[query]) for query in plain.texts
        ]
    page = page.replace("connections:", f"  middle: {{type: {JOINER}, init_parameters: {{}}}}\nconnections:")
    file.write_text(page + "  - {sender: retriever.documents, receiver: middle.documents}\n")
    assert run_dataset(DatasetRequest(str(file), beir)).second.name == "second pass (middle)"


def test_a_top_k_that_nothing_takes_is_refused(beir: Path, tmp_path: Path) -> None:
    """By a pipeline that ends in what is no ranker of ours."""
    budget = "haystack_integrations.components.preprocessors.secondpass.prompt_budget.PromptBudget"
    file = tmp_path / "p.yaml"
    file.write_text(pipeline_text("x").replace(RANKER, budget).replace('model: "x",', "max_tokens: 9"))
    with pytest.raises(InvalidInput, match="--top-k 3: 'ranker', which gives the answer, takes no top_k"):
        run_dataset(DatasetRequest(str(file), beir, top_k=3))


def test_only_one_pass_is_refused(beir: Path, tmp_path: Path) -> None:
    """A pipeline that only retrieves has no second pass to evaluate; the message names what there is."""
    file = tmp_path / "one.yaml"
    text = pipeline_text("x")
    file.write_text(text[: text.index("  ranker:")])
    with pytest.raises(InvalidInput, match="only 'retriever' gives documents"):
        run_dataset(DatasetRequest(str(file), beir))


def test_refusals_come_before_any_work(beir: Path, tmp_path: Path, tiny_folder: str) -> None:
    """No folder, no split, or ids that a TREC run cannot hold: named, and nothing is left behind."""
    with pytest.raises(InvalidInput, match="absent: not a BEIR folder"):
        run_dataset(DatasetRequest("rerank_bm25", tmp_path / "absent"))
    with pytest.raises(InvalidInput, match=r"no qrels/dev\.tsv"):
        run_dataset(DatasetRequest("rerank_bm25", beir, split="dev"))
    write_json_lines(beir / "queries.jsonl", [{"_id": "a b", "text": "cat"}])
    (beir / "qrels" / "test.tsv").write_text("a b\td1\t1\n")
    request = DatasetRequest("rerank_bm25", beir, model=tiny_folder, output=tmp_path / "x.trec")
    with pytest.raises(InvalidInput, match="'a b' cannot stand in a TREC run"):
        run_dataset(request)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["beir"]


def test_output_is_both_passes(beir: Path, tmp_path: Path, tiny_folder: str) -> None:
    """The file holds the second pass's run, one beside it the first pass's, and nothing partial is left."""
    output = tmp_path / "run.trec"
    found = run_dataset(DatasetRequest("evaluate_rerank", beir, model=tiny_folder, output=output))
    written = read_run(output)
    assert {query: list(ranking) for query, ranking in written.items()} == {
        query: list(ranking) for query, ranking in found.second.items()
    }
    assert sorted(file.name for file in tmp_path.iterdir()) == ["beir", "run.retriever.trec", "run.trec"]
    first = read_run(tmp_path / "run.retriever.trec")
    assert {query: list(ranking) for query, ranking in first.items()} == {
        query: list(ranking) for query, ranking in found.first[0].items()
    }


def test_a_judged_query_without_text_is_in_no_figure(beir: Path, tiny_folder: str) -> None:
    """It was not asked, so it does not count as an empty ranking."""
    with (beir / "qrels" / "test.tsv").open("a") as qrels:
        qrels.write("lost\td1\t1\n")
    found = run_dataset(DatasetRequest("rerank_bm25", beir, model=tiny_folder))
    assert found.unasked == ("lost",)
    assert evaluate(found.qrels, found.first[0], ["RR@10"]).coverage.measured == 3


KILLED = """
import sys
from pathlib import Path
from secondpass_pipelines.dataset import run_dataset
from secondpass.evaluation.second_pass import DatasetRequest
pipeline, dataset, model, output = sys.argv[1:]
run_dataset(DatasetRequest(pipeline, Path(dataset), depth=50, model=model, output=Path(output)))
"""


def test_killed_run_goes_on(tmp_path: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle and started again it asks only what is left; its runs are those of an undisturbed one."""
    import secondpass

    demo = Path(str(secondpass.__file__)).parent / "demo"
    output, partial = tmp_path / "killed.trec", tmp_path / "killed.trec.partial"
    command = [sys.executable, "-c", KILLED, "evaluate_rerank", str(demo), tiny_folder, str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for_lines(partial, 4, process)
        process.kill()
    assert not output.exists()
    answered = partial.read_bytes().count(b"\n") - 1
    assert 0 < answered < 40
    asked: list[str] = []
    real = Searcher.answer

    def heard(self: Searcher, query_id: str, query: str) -> Any:
        asked.append(query_id)
        return real(self, query_id, query)

    monkeypatch.setattr(Searcher, "answer", heard)
    resumed = run_dataset(DatasetRequest("evaluate_rerank", demo, depth=50, model=tiny_folder, output=output))
    assert len(asked) == len(resumed.texts) - answered
    monkeypatch.undo()
    whole = run_dataset(
        DatasetRequest("evaluate_rerank", demo, depth=50, model=tiny_folder, output=tmp_path / "whole.trec")
    )
    assert output.read_bytes() == (tmp_path / "whole.trec").read_bytes()
    for one, other in zip((*resumed.first, resumed.second), (*whole.first, whole.second), strict=True):
        assert {query: list(ranking.items()) for query, ranking in one.items()} == {
            query: list(ranking.items()) for query, ranking in other.items()
        }
    assert not partial.exists()


def test_partial_file_of_a_search_is_refused(beir: Path, tmp_path: Path, tiny_folder: str) -> None:
    """What was begun with another top_k (a search has the ranker's own) is not gone on with."""
    request = DatasetRequest("rerank_bm25", beir, model=str(tmp_path / "absent"), output=tmp_path / "x.trec")
    with pytest.raises(SecondPassError):
        run_dataset(request)
    assert (tmp_path / "x.trec.partial").exists()
    with pytest.raises(InvalidInput, match="was begun with another top-k"):
        run_dataset(DatasetRequest("rerank_bm25", beir, top_k=3, model=request.model, output=request.output))


def test_entry_point_is_light() -> None:
    """The module that the command line loads imports neither Haystack nor torch by itself."""
    code = "import sys\nimport secondpass_pipelines.dataset\nprint('haystack' in sys.modules, 'torch' in sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False", "False"]
