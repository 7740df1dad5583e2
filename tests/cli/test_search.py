"""`secondpass search`: runs and figures, what it refuses, and going on after a kill or a failure."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("haystack")
pytest.importorskip("ir_measures")

import ir_measures

from secondpass.calibration import AnswerRule, Calibration
from secondpass.evaluation import Qrels, evaluate
from secondpass.evaluation import Run as TrecRun
from secondpass.evaluation.qrels import read_qrels
from secondpass_pipelines.pipeline_files import JOINER, pipeline_file
from secondpass_pipelines.results import Judge, QueryResult, RankedDocument
from secondpass_pipelines.searching import Searcher
from tests import fork_server
from tests.cli.conftest import BM25, Run, command, figures, only_line, read_run
from tests.small_collection import CORPUS, write_json_lines


@pytest.fixture
def mock_pipeline(tmp_path: Path, tiny_folder: str) -> Path:
    """Mock embedder and BM25, both to the ranker."""
    return hybrid(tmp_path / "hybrid.yaml", tiny_folder)


def hybrid(file: Path, model: str) -> Path:
    """Write a hybrid pipeline whose embedder needs no model."""
    file.write_text(
        f"""
components:
  embedder:
    type: haystack.components.embedders.mock_text_embedder.MockTextEmbedder
    init_parameters: {{dimension: 8, prefix: "query: "}}
  words:
    type: haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever
    init_parameters:
      top_k: 3
      document_store: &store
        type: haystack.document_stores.in_memory.document_store.InMemoryDocumentStore
        init_parameters: {{index: here}}
  vectors:
    type: haystack.components.retrievers.in_memory.embedding_retriever.InMemoryEmbeddingRetriever
    init_parameters: {{top_k: 3, document_store: *store}}
  ranker:
    type: haystack_integrations.components.rankers.secondpass.ranker.SecondPassRanker
    init_parameters: {{model: "{model}", device: cpu}}
connections:
  - {{sender: embedder.embedding, receiver: vectors.query_embedding}}
  - {{sender: words.documents, receiver: ranker.documents}}
  - {{sender: vectors.documents, receiver: ranker.documents}}
"""
    )
    return file


def test_run_and_figures_agree(run: Run, beir: Path, tmp_path: Path, tiny_folder: str) -> None:
    """The run holds every judged query, and the second pass's printed figures are those of that run."""
    output = tmp_path / "run.trec"
    result = run(*BM25, "-c", beir, "--data-queries", "-m", tiny_folder, "-o", output)
    assert result.exit_code == 0, result.output
    ranked = read_run(output.read_text())
    assert list(ranked) == ["q1", "q2", "q3"]
    measured = ir_measures.calc_aggregate(
        [ir_measures.nDCG @ 10, ir_measures.RR @ 10],
        {query: grades for query, grades in read_qrels(beir / "qrels" / "test.tsv").items() if query in ranked},
        list(ir_measures.read_trec_run(output.read_text())),
    )
    printed = figures(result.stdout)
    assert printed["second pass (ranker)"] == pytest.approx(
        (measured[ir_measures.nDCG @ 10], measured[ir_measures.RR @ 10]), abs=5e-5
    )
    # BM25 finds each answer by its words; of q2's two it puts grade 2 first or second.
    assert printed["first pass (retriever)"][1] == 1.0
    assert "3 judged queries of 3" in result.stdout
    assert sorted(file.name for file in tmp_path.iterdir()) == ["beir", "run.retriever.trec", "run.trec"]
    assert f"the first pass is in {tmp_path / 'run.retriever.trec'}" in result.stderr
    first = read_run((tmp_path / "run.retriever.trec").read_text())
    assert {query: set(ids) for query, ids in first.items()} == {query: set(ids) for query, ids in ranked.items()}


def test_each_first_pass_has_a_run(run: Run, beir: Path, tmp_path: Path, mock_pipeline: Path) -> None:
    """Two retrievers: a run of each, and one of the candidates that the ranker got, each document once."""
    result = run("search", "-p", mock_pipeline, "-c", beir, "--data-queries", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    words, vectors, both, second = (
        read_run((tmp_path / name).read_text()) for name in ("out.words", "out.vectors", "out.words+vectors", "out")
    )
    for query, ids in both.items():
        assert ids == list(dict.fromkeys((*words[query], *vectors[query])))
        assert set(ids) == set(second[query])


def test_passages_of_long_documents(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    """`rerank_long` reads them whole: JSON has the best passage of each by its place, and the table shows it."""
    filler = "water the tree in the garden. " * 50
    rows = [{"_id": "long", "text": f"{filler}the cat sat on the mat."}, {"_id": "short", "text": "a cat and a dog"}]
    corpus = write_json_lines(tmp_path / "corpus.jsonl", rows)
    common = ("search", "-p", "rerank_long", "-c", corpus, "-m", tiny_folder, "-q", "the cat", "-f")
    (answer,) = json.loads(run(*common, "json").stdout)["queries"]
    passages = {found["id"]: found["passage"] for found in answer["second"]}
    for found in answer["second"]:
        place = passages[found["id"]]
        assert place["text"] == found["text"][place["start"] : place["end"]]
        assert (place["windows"] > 1, len(place["text"]) < len(found["text"])) == (found["id"] == "long",) * 2
    table = run(*common, "table").stdout
    assert all(place["text"][:20] in table for place in passages.values())


def test_probabilities_by_a_file(run: Run, beir: Path, tmp_path: Path, tiny_folder: str) -> None:
    """With --calibration each document has one, through OUTPUT.partial too, whose calibration is no other's.

    The table has them, what is less probable is left out, and without a calibration that is refused.
    """
    own, other = tmp_path / "own.json", tmp_path / "other.json"
    rule = AnswerRule(1e9, 50, 0.9, 0.9)
    Calibration("logistic", slope=2.0, low=(0.25,), high=(0.75,), answers=rule).save(own)
    Calibration("logistic", slope=3.0).save(other)
    common = (*BM25, "-c", beir, "-m", tiny_folder, "-q", "the second account in paris")
    shown = run(*common, "--calibration", own, "--json")
    assert "1 of 1 queries have nothing relevant, by the model's calibration" in shown.stderr
    (answer,) = json.loads(shown.stdout)["queries"]
    assert answer["nothing_relevant"] is True
    assert [one["probability_interval"] for one in answer["second"]] == [[0.25, 0.75]] * 5
    assert not any("probability" in one for one in answer["first"]["retriever"])
    run(*common, "--calibration", own, "-o", tmp_path / "out.json")
    (kept,) = json.loads((tmp_path / "out.json").read_text())["queries"]
    assert {**kept, "ms": None} == {**answer, "ms": None}
    chances = [one["probability"] for one in answer["second"]]
    table = run(*common, "--calibration", own).stdout.splitlines()
    assert table[1].split()[:4] == ["rank", "was", "score", "probability"]
    assert [row.split()[3] for row in table[2:]] == [f"{chance:.3f}" for chance in chances]
    (fewer,) = json.loads(run(*common, "--calibration", own, "--min-probability", chances[1], "--json").stdout)[
        "queries"
    ]
    assert fewer["second"] == answer["second"][:2]
    refused = run(*common, "--min-probability", "0.5")
    assert refused.exit_code
    assert "min_probability needs a model with a calibration" in only_line(refused)
    absent = (*common[:-4], "-m", tmp_path / "absent", "-q", "a", "-o", tmp_path / "x.trec", "--calibration")
    assert run(*absent, own).exit_code == 1
    assert "was begun with another calibration" in only_line(run(*absent, other))
    own.write_text("{}")
    assert "has version None" in only_line(run(*common, "--calibration", own))


def test_a_ranker_whose_time_is_up(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    """What it has not scored follows without a score; it is counted in JSON and said at the end."""
    rows = [{"_id": str(place), "text": f"the dog {place} sat"} for place in range(50)]
    corpus = write_json_lines(tmp_path / "corpus.jsonl", rows)
    file = tmp_path / "hurried.yaml"
    file.write_text(pipeline_file("rerank_long").read_text().replace("top_k: 10", "top_k: 50\n      budget_ms: 0.001"))
    result = run("search", "-p", file, "-c", corpus, "-m", tiny_folder, "-q", "the dog", "-f", "json")
    (answer,) = json.loads(result.stdout)["queries"]
    unscored = answer["unscored"]
    assert 0 < unscored < 50
    assert [found["score"] is None for found in answer["second"]] == [False] * (50 - unscored) + [True] * unscored
    assert not any("passage" in found for found in answer["second"][-unscored:])
    assert f"{unscored} documents were not scored in time: they follow the others" in result.stderr


def test_one_component_is_no_second_pass(run: Run, beir: Path, tmp_path: Path) -> None:
    """A retriever alone is the first pass, in the figures too, and a single run is written."""
    file = tmp_path / "bm25.yaml"
    store = "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore"
    retriever = "haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever"
    file.write_text(f"components:\n  retriever:\n    type: {retriever}\n    init_parameters:\n"
                    f"      document_store: {{type: {store}}}\nconnections: []\n")  # fmt: skip
    result = run("search", "-p", file, "-c", beir, "--data-queries", "-o", tmp_path / "x.trec")
    assert result.exit_code == 0, result.output
    assert list(figures(result.stdout)) == ["first pass (retriever)"]
    assert "first pass is in" not in result.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == ["beir", "bm25.yaml", "x.trec"]


def test_queries_that_are_documents_and_queries_without_text(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    """ArguAna's kind: BEIR's figures by default for its folder, the plain ones by choice; what is left out is said."""
    (tmp_path / "qrels").mkdir()
    texts = {"a": "the cat sat", "b": "the cat sat on", "c": "a train to paris", "d": "a train to the capital"}
    rows = [{"_id": name, "text": text} for name, text in texts.items()]
    write_json_lines(tmp_path / "corpus.jsonl", rows)
    queries = write_json_lines(tmp_path / "queries.jsonl", [rows[0], rows[2]])
    qrels = tmp_path / "qrels" / "test.tsv"
    qrels.write_text("a\tb\t1\nc\td\t1\nlost\ta\t1\n")
    first = "first pass (retriever)"

    def searched(*arguments: str | Path) -> tuple[float, str]:
        result = run(*BM25, "-c", tmp_path, "-m", tiny_folder, *arguments)
        assert result.exit_code == 0, result.output
        assert "1 judged queries have no text, so they are left out (lost)" in result.stderr
        assert "2 judged queries of 2" in result.stdout
        return figures(result.stdout)[first][0], result.stderr

    beir, said = searched("--data-queries")
    assert beir == 1.0
    assert "documents whose id is their query's are left out of the figures, as BEIR does" in said
    for options in (("--data-queries", "--keep-identical-ids"), ("--queries", queries, "--qrels", qrels)):
        plain, said = searched(*options)
        assert plain == pytest.approx(0.6309, abs=5e-5)
        assert "as BEIR does" not in said
    assert searched("--queries", queries, "--qrels", qrels, "--ignore-identical-ids")[0] == 1.0


def test_first_pass_is_what_the_ranker_got(run: Run, beir: Path, tiny_folder: str) -> None:
    """JSON output has the first pass's order beside the second's, the same documents, and the texts of the second."""
    options = (*BM25, "-c", beir, "-m", tiny_folder, "-f", "json", "-q", "the train to paris")
    found = json.loads(run(*options).stdout)
    (answer,) = found["queries"]
    first, second = answer["first"]["retriever"], answer["second"]
    assert first[0]["id"] == "d4"
    assert {hit["id"] for hit in first} == {hit["id"] for hit in second}
    assert [hit["score"] for hit in second] == sorted((hit["score"] for hit in second), reverse=True)
    content = {row["_id"]: f"{row['title']} {row['text']}".strip() for row in CORPUS}
    assert all(hit["text"] == content[hit["id"]] for hit in second)
    assert set(answer["ms"]) == {"retriever", "ranker"}


def test_metadata_is_in_the_answers(run: Run, tmp_path: Path, mock_pipeline: Path) -> None:
    """JSON has a hit's metadata under "meta", as the servers' commands do, and none where there is none."""
    meta = {"year": 2020, "tags": ["a", "b"], "of": {"lang": "en"}}
    file = write_json_lines(tmp_path / "c.jsonl", [{"_id": "a", "text": "cat", **meta}, {"_id": "b", "text": "cat"}])
    run("search", "-p", mock_pipeline, "-c", file, "-q", "cat", "-o", tmp_path / "o.json")
    (answer,) = json.loads((tmp_path / "o.json").read_text())["queries"]
    assert {hit["id"]: hit.get("meta") for hit in answer["second"]} == {"a": meta, "b": None}
    assert not any("meta" in hit for ranking in answer["first"].values() for hit in ranking)


def test_depth_and_top_k_reach_their_own_stage(run: Run, beir: Path, tiny_folder: str) -> None:
    """--depth cuts the first pass only and --top-k the second only."""
    options = (*BM25, "-c", beir, "-m", tiny_folder, "-f", "json", "-q", "the second account in paris")

    def sizes(*more: str) -> tuple[int, int]:
        (answer,) = json.loads(run(*options, *more).stdout)["queries"]
        return len(answer["first"]["retriever"]), len(answer["second"])

    assert sizes() == (5, 5)
    assert sizes("--depth", "4") == (4, 4)
    assert sizes("--top-k", "2") == (5, 2)
    assert sizes("--depth", "4", "--top-k", "1") == (4, 1)


def test_hybrid_measures_each_retriever_and_ranks_a_document_once(run: Run, beir: Path, mock_pipeline: Path) -> None:
    """With two retrievers both have figures, and what both found is ranked once."""
    result = run("search", "-p", mock_pipeline, "-c", beir, "--data-queries", "-f", "json")
    assert result.exit_code == 0, result.output
    assert list(figures(result.stderr)) == ["first pass (words)", "first pass (vectors)", "second pass (ranker)"]
    found = json.loads(result.stdout)
    assert [row["stage"] for row in found["figures"]][-1] == "ranker"
    for answer in found["queries"]:
        ids = [hit["id"] for hit in answer["second"]]
        either = {hit["id"] for hits in answer["first"].values() for hit in hits}
        assert len(ids) == len(set(ids))
        assert set(ids) == either


def test_documents_are_embedded_as_queries_are(beir: Path, mock_pipeline: Path) -> None:
    """The document embedder is the text embedder's sibling with the same parameters, and embeds title and text."""
    from haystack.components.embedders import MockDocumentEmbedder, MockTextEmbedder

    from secondpass.corpora import read_corpus
    from secondpass_pipelines.indexing import document_embedders, index
    from secondpass_pipelines.pipeline_files import load_pipeline

    pipeline = load_pipeline(mock_pipeline)
    (embedder,) = document_embedders(pipeline)
    assert isinstance(embedder, MockDocumentEmbedder)
    assert (embedder.dimension, embedder.prefix) == (8, "query: ")
    index(pipeline, read_corpus(beir), lambda count: None)
    words: Any = pipeline.get_component("words")
    stored = words.document_store.filter_documents()
    expected = MockTextEmbedder(dimension=8, prefix="query: ")
    assert len(stored) == len(CORPUS)
    for document, row in zip(stored, CORPUS, strict=True):
        assert document.content == f"{row['title']} {row['text']}".strip()
        assert document.embedding == expected.run(document.content)["embedding"]


def inside_one(file: Path, **depths: list[str]) -> Path:
    """The hybrid pipeline with its first pass inside one component, and the depths that this takes."""
    page = yaml.safe_load(file.read_text())
    ranker = page["components"].pop("ranker")
    inner = {
        "components": page["components"] | {"joiner": {"type": JOINER, "init_parameters": {}}},
        "connections": [
            {end: link[end].replace("ranker", "joiner") for end in ("sender", "receiver")}
            for link in page["connections"]
        ],
    }
    settings = {
        "pipeline": inner,
        "input_mapping": {"query": ["embedder.text", "words.query"], **depths},
        "output_mapping": {"joiner.documents": "documents"},
    }
    kind = "haystack.core.super_component.super_component.SuperComponent"
    parts = {"both": {"type": kind, "init_parameters": settings}, "ranker": ranker}
    links = [{"sender": "both.documents", "receiver": "ranker.documents"}]
    file.write_text(yaml.safe_dump({"components": parts, "connections": links}))
    return file


def test_a_first_pass_inside_one_component_is_seen(run: Run, beir: Path, mock_pipeline: Path) -> None:
    """Documents are embedded for the embedder in it, and a depth reaches each of its retrievers, or is refused."""
    from secondpass.corpora import read_corpus
    from secondpass_pipelines.indexing import index
    from secondpass_pipelines.pipeline_files import load_pipeline
    from secondpass_pipelines.stores import document_stores

    file = inside_one(mock_pipeline, top_k_bm25=["words.top_k"], top_k_embedding=["vectors.top_k"])
    pipeline = load_pipeline(file)
    index(pipeline, read_corpus(beir), lambda count: None)
    stored = [document for store in document_stores(pipeline) for document in store.filter_documents()]
    assert {document.id for document in stored} == {row["_id"] for row in CORPUS}
    assert all(len(document.embedding) == 8 for document in stored)
    options = ("search", "-c", beir, "-f", "json", "-q", "the second account in paris", "-p")

    def found(*more: str) -> int:
        result = run(*options, file, *more)
        assert result.exit_code == 0, result.output
        (answer,) = json.loads(result.stdout)["queries"]
        assert {hit["id"] for hit in answer["first"]["both"]} == {hit["id"] for hit in answer["second"]}
        return len(answer["first"]["both"])

    assert 3 <= found() <= 5
    assert found("--depth", "5") == 5
    assert 1 <= found("--depth", "1") <= 2
    without = run(*options, inside_one(hybrid(file, "secondpass/pocket")), "--depth", "2")
    assert without.exit_code == 2
    assert "--depth 2: no component of the first pass takes a top_k" in only_line(without)


def test_corpora_of_one_process_do_not_mix(run: Run, tmp_path: Path, mock_pipeline: Path) -> None:
    """A second search in a process does not find what the first one put into a store of the same index."""
    for name in ("first", "second"):
        file = write_json_lines(tmp_path / f"{name}.jsonl", [{"_id": name, "text": "the cat"}])
        result = run("search", "-p", mock_pipeline, "-c", file, "-q", "cat", "-f", "trec")
        assert list(read_run(result.stdout).values()) == [[name]]


def test_queries_without_a_find_count_as_zero(run: Run, beir: Path, tmp_path: Path, tiny_folder: str) -> None:
    """A judged query that finds nothing counts 0 in the mean, and an unjudged one does not count."""
    queries = tmp_path / "q.tsv"
    queries.write_text("q1\treset my password\nq3\txylophone\nother\tcat\n")
    options = ("--queries", queries, "--qrels", beir / "qrels" / "test.tsv")
    result = run(*BM25, "-c", beir, "-m", tiny_folder, *options)
    assert figures(result.stdout)["first pass (retriever)"] == (0.5, 0.5)
    assert "2 judged queries of 3" in result.stdout


def test_limit_measures_only_what_was_asked(run: Run, beir: Path, tiny_folder: str) -> None:
    """--limit asks the first queries and takes the mean over them alone."""
    result = run(*BM25, "-c", beir, "-m", tiny_folder, "--data-queries", "--limit", "1")
    assert "1 judged queries of 1" in result.stdout
    assert figures(result.stdout)["first pass (retriever)"] == (1.0, 1.0)


def test_tables(run: Run, beir: Path, tiny_folder: str) -> None:
    """A single query prints a table with each document's rank in the first pass; nothing found says so."""
    shown = run(*BM25, "-c", beir, "-m", tiny_folder, "-q", "bank account").stdout.splitlines()
    assert shown[0] == "bank account"
    assert shown[1].split() == ["rank", "was", "score", "id", "text"]
    ranks, before = zip(*(line.split()[:2] for line in shown[2:]), strict=True)
    assert list(ranks) == sorted(before) == [str(place + 1) for place in range(len(ranks))]
    assert "(no document found)" in run(*BM25, "-c", beir, "-m", tiny_folder, "-q", "xylophone").stdout


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "give one of --query, --queries and --data-queries"),
        (("-q", "a", "--data-queries"), "give one of --query, --queries and --data-queries"),
        (("-q", "a", "--qrels", "x"), "--qrels needs query ids"),
        (("-q", " "), "--query is blank"),
        (("--data-queries", "--split", "dev"), "no qrels/dev.tsv; its splits are test"),
        (("-q", "a", "-o", "x.trec", "-f", "table"), "--format table is for the terminal"),
        (("-q", "a", "-o", "/dev/null/x.trec"), "/dev/null/x.trec: there is no folder /dev/null"),
        (("-q", "a", "-o", "."), ".: is a folder, not a file"),
        (("--queries", "absent.tsv"), "absent.tsv: no such file"),
        (("-q", "a", "-p", "nonsense"), "the packaged ones are evaluate_rerank, "),
        (("-q", "a", "--index", "docs"), "--index docs: the pipeline has no store of Elasticsearch or OpenSearch"),
    ],
)
def test_refusals(run: Run, beir: Path, options: tuple[str, ...], reason: str) -> None:
    """What cannot be searched is refused in one line with exit code 2."""
    result = run(*BM25, "-c", beir, *options)
    assert result.exit_code == 2
    assert reason in only_line(result)


def test_bad_corpus_is_named_before_anything_is_done(run: Run, beir: Path, tmp_path: Path) -> None:
    """A bad corpus line is named by file and number, and no output or partial file is left."""
    with (beir / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "d1", "text": "again"}\n')
    result = run(*BM25, "-c", beir, "-q", "a", "-o", tmp_path / "x.trec")
    assert result.exit_code == 2
    assert "corpus.jsonl:6: id 'd1' was given before" in only_line(result)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["beir"]


def test_ids_that_no_run_can_hold(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    """A document id with a space is refused for a TREC run before the first query, and is fine in JSON."""
    file = write_json_lines(tmp_path / "c.jsonl", [{"_id": "a b", "text": "the cat"}])
    options = (*BM25, "-c", file, "-m", tiny_folder, "-q", "cat")
    refused = run(*options, "-f", "trec")
    assert refused.exit_code == 2
    assert "'a b' cannot stand in a TREC run" in only_line(refused)
    assert json.loads(run(*options, "-f", "json").stdout)["queries"][0]["second"][0]["id"] == "a b"


@pytest.mark.parametrize(
    ("yaml", "reason"),
    [
        ("a: [", "not a YAML file that can be read"),
        ("- a", "not a Haystack pipeline"),
        ("components: {x: {type: os.path.join}}", "cannot be loaded"),
        ("components: {x: {type: haystack.no.Such}}", "cannot be loaded"),
        (
            "components: {r: {type: haystack_integrations.components.rankers.secondpass.ranker.SecondPassRanker,"
            " init_parameters: {top_k: 0}}}",
            "top_k",
        ),
        (
            "components: {r: {type: haystack_integrations.components.rankers.secondpass.ranker.SecondPassRanker}}",
            "'documents', which a search has not got",
        ),
        ("components: {j: {type: haystack.components.joiners.branch.BranchJoiner, init_parameters: {type_: str}}}",
         "none does"),
    ],
)  # fmt: skip
def test_bad_pipelines_are_named(run: Run, beir: Path, tmp_path: Path, yaml: str, reason: str) -> None:
    """A file that is no pipeline, or not one that can search, is refused in one line with exit code 2."""
    (tmp_path / "p.yaml").write_text(yaml)
    result = run("search", "-p", tmp_path / "p.yaml", "-c", beir, "-q", "a")
    assert result.exit_code == 2
    assert reason in only_line(result)


def test_model_that_cannot_be_loaded(run: Run, beir: Path, tmp_path: Path) -> None:
    """A ranker's model that is not there is one line and exit code 1."""
    result = run(*BM25, "-c", beir, "-q", "a", "-m", tmp_path / "absent")
    assert result.exit_code == 1
    assert "absent" in only_line(result)


def test_missing_haystack_is_one_line(run: Run, beir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Haystack the commands say what to install, with exit code 1."""
    monkeypatch.setitem(sys.modules, "haystack", None)
    for arguments in ((*BM25, "-c", beir, "-q", "a"), ("demo",)):
        result = run(*arguments)
        assert result.exit_code == 1
        assert only_line(result).endswith('pip install "secondpass[haystack]"')


def test_figures_are_trec_evals(monkeypatch: pytest.MonkeyPatch) -> None:
    """nDCG@10 and MRR@10 of a search are ir_measures' own to the last digits, though it need not be installed."""
    draw = random.Random(7)
    grades = {
        str(query): {f"d{place}": draw.choice((-1, 0, 0, 1, 2, 30)) for place in range(draw.randint(1, 30))} | {"x": 1}
        for query in range(60)
    }
    orders = {query: draw.sample([*judged, *"abc"], draw.randint(0, len(judged))) for query, judged in grades.items()}
    names = {"nDCG@10": "nDCG@10", "MRR@10": "RR@10"}
    rankings = {query: [(document, None) for document in order] for query, order in orders.items()}
    wanted = evaluate(Qrels(grades), TrecRun("", rankings), names.values()).values
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    judge = Judge(Qrels(grades))
    for query, order in orders.items():
        ranked = tuple(RankedDocument(name, None) for name in order)
        judge.add(QueryResult(query, "", {}, ranked, {"last": 1.0}), "last")
    (quality,) = judge.qualities()
    for name, theirs in names.items():
        assert quality.values[name] == pytest.approx(wanted[theirs], rel=0, abs=1e-12)


def test_commands_are_light() -> None:
    """The module of the commands imports neither Haystack nor torch by itself."""
    code = "import sys, importlib.util\nimport secondpass_pipelines.commands\nprint('haystack' in sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((*BM25, "-q", "a"), "InMemoryDocumentStore holds no documents: give --corpus, or index them first"),
        ((*BM25, "--data-queries"), "--data-queries needs a BEIR folder: give --dataset, or --corpus"),
        ((*BM25, "-q", "a", "--add"), "--add is for --corpus"),
        ((*BM25, "-q", "a", "--dataset", "x"), "give one of --query, --queries and --data-queries"),
        (("evaluate", "--qrels", "x", "-r", "y", "--indexed"), "--indexed goes with --pipeline"),
        (("evaluate", "-p", "x", "-d", "y", "--indexed", "--add"), "give either --indexed or --add"),
        (("evaluate", "-p", "rerank_bm25", "-d", "BEIR", "--indexed"), "InMemoryDocumentStore holds no documents"),
    ],
)
def test_stores_as_they_are(run: Run, beir: Path, arguments: tuple[str, ...], reason: str) -> None:
    """What makes no sense without a corpus, or without a server, is refused in one line."""
    result = run(*(str(beir) if argument == "BEIR" else argument for argument in arguments))
    assert result.exit_code == 2
    assert reason in only_line(result)


def test_a_failing_query_is_named_and_keeps_the_others(
    run: Run, beir: Path, tmp_path: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a query fails, it is named with the reason, exit code 1, and the answers before it are kept."""
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    real = InMemoryDocumentStore.bm25_retrieval

    def fails(self: Any, query: str, **rest: Any) -> Any:
        if query.startswith("train"):
            raise RuntimeError("the disk is gone")
        return real(self, query=query, **rest)

    monkeypatch.setattr(InMemoryDocumentStore, "bm25_retrieval", fails)
    options = (*BM25, "-c", beir, "-m", tiny_folder, "--data-queries", "-o", tmp_path / "x.trec")
    failed = run(*options)
    assert failed.exit_code == 1
    assert only_line(failed) == "secondpass: query 'q2' failed: the disk is gone"
    assert len((tmp_path / "x.trec.partial").read_text().splitlines()) == 2
    assert not (tmp_path / "x.trec").exists()
    monkeypatch.undo()
    assert run(*options).exit_code == 0
    assert list(read_run((tmp_path / "x.trec").read_text())) == ["q1", "q2", "q3"]


@pytest.fixture(scope="module")
def demo_folder() -> Path:
    """The packaged corpus: enough queries to be killed among."""
    import secondpass

    return Path(str(secondpass.__file__)).parent / "demo"


def test_the_packaged_corpus_by_name(run: Run, demo_folder: Path, tmp_path: Path, tiny_folder: str) -> None:
    """secondpass/demo stands for the packaged folder wherever a command asks for a corpus, a dataset or judgements."""
    demo = "secondpass/demo"
    search = (*BM25, "--data-queries", "--limit", 1, "-m", tiny_folder, "--depth", 5)
    for given in (demo, demo_folder):
        run_file = tmp_path / f"{len(str(given))}.trec"
        assert run(*search, "-c", given, "-o", run_file).exit_code == 0
        assert run(*search, "-d", given, "-c", given, "-f", "trec").exit_code == 0
    one, other = (tmp_path / f"{len(str(given))}.trec" for given in (demo, demo_folder))
    assert one.read_bytes() == other.read_bytes()
    for options in (
        ("evaluate", "--qrels", demo, "--run", one),
        ("evaluate", "-p", "rerank_bm25", "-d", demo, "--limit", 1, "--depth", 5, "--model", tiny_folder),
        ("mine", "-d", demo, "--split", "test", "-o", tmp_path / "groups.jsonl"),
        ("mine", "--corpus", demo, "--queries", demo_folder / "queries.jsonl", "--qrels",
         demo_folder / "qrels" / "test.tsv", "-o", tmp_path / "more.jsonl"),
        ("ask", "how do I reset my password", "-c", demo),
        ("rank", "password", "-d", demo, "-k", 1, "-m", tiny_folder),
    ):  # fmt: skip
        result = run(*options)
        assert result.exit_code == 0, result.output


def test_killed_search_goes_on(run: Run, demo_folder: Path, tmp_path: Path, tiny_folder: str) -> None:
    """A search killed in the middle and started again writes, byte for byte, the run of an undisturbed one."""
    options = (*BM25, "-c", demo_folder, "--data-queries", "-m", tiny_folder, "--depth", "50")
    output = tmp_path / "killed.trec"
    partial = tmp_path / "killed.trec.partial"
    with fork_server.Popen(command(*options, "-o", output), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for_lines(partial, 4, process)
        process.kill()
    assert not output.exists()
    kept = partial.read_bytes()
    # The kill may fall into the writing of a line.
    partial.write_bytes(kept[:-7])
    answered = kept[:-7].count(b"\n") - 1
    assert 0 < answered < 40
    resumed = run(*options, "-o", output)
    assert resumed.exit_code == 0, resumed.output
    whole = run(*options, "-o", tmp_path / "whole.trec")
    assert output.read_bytes() == (tmp_path / "whole.trec").read_bytes()
    assert figures(resumed.stdout) == figures(whole.stdout)
    assert not partial.exists()


def wait_for_lines(file: Path, count: int, process: fork_server.Popen) -> None:
    """Wait until a file has so many lines."""
    until = time.monotonic() + 240
    while time.monotonic() < until and process.poll() is None:
        if file.exists() and file.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{file} did not get {count} lines: {process.poll()}")


def test_answered_queries_are_not_asked_again(
    run: Run, beir: Path, tmp_path: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partial file that holds every answer becomes the output without a query being asked."""
    from secondpass_pipelines.search_run import ResultWriter

    output = tmp_path / "x.trec"
    options = (*BM25, "-c", beir, "--data-queries", "-m", tiny_folder, "-o", output)
    with monkeypatch.context() as patched:
        patched.setattr(ResultWriter, "write", lambda self, answers, figures: list(answers) and 1 / 0)
        assert run(*options).exit_code == 1
    assert not output.exists()
    monkeypatch.setattr(Searcher, "answer", lambda *_: 1 / 0)
    assert run(*options).exit_code == 0
    assert list(read_run(output.read_text())) == ["q1", "q2", "q3"]


@pytest.mark.parametrize(
    ("other", "what"),
    [(("--depth", "2"), "depth"), (("--top-k", "2"), "top-k"), (("-m", "elsewhere"), "model"), ((), "corpus")],
)
def test_partial_of_another_search_is_refused(
    run: Run, beir: Path, tmp_path: Path, other: tuple[str, ...], what: str
) -> None:
    """A partial file is continued only with the settings and corpus it was begun with; the message names the change."""
    output = tmp_path / "x.trec"
    options = (*BM25, "-c", beir, "--data-queries", "-o", output)
    failed = run(*options, "-m", tmp_path / "absent")
    assert failed.exit_code == 1
    assert (tmp_path / "x.trec.partial").exists()
    if what == "corpus":
        write_json_lines(beir / "corpus.jsonl", [*CORPUS, {"_id": "new", "text": "x"}])
    result = run(*options, "-m", tmp_path / "absent", *other)
    assert result.exit_code == 2
    assert f"was begun with another {what};" in only_line(result)


@pytest.mark.parametrize("what", ["weights", "calibration"])
def test_a_model_that_was_trained_anew_is_another(
    run: Run, beir: Path, tmp_path: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """In a folder of the same name, as is another calibration in a file of the same name."""
    folder, fitted, pipeline = tmp_path / "model", tmp_path / "fitted.json", tmp_path / "p.yaml"
    shutil.copytree(tiny_folder, folder)
    Calibration("logistic", slope=1.0).save(fitted)
    page = pipeline_file("rerank_bm25").read_text()
    pipeline.write_text(page.replace("model: secondpass/pocket", f"model: {folder}\n      calibration: {fitted}"))
    options = ("search", "-p", pipeline, "-c", beir, "--data-queries", "-o", tmp_path / "x.trec")
    with monkeypatch.context() as patched:
        patched.setattr(Searcher, "answer", lambda *_: 1 / 0)
        assert run(*options).exit_code == 1
    if what == "weights":
        weights = folder / "model.safetensors"
        stored = bytearray(weights.read_bytes())
        stored[-1] ^= 1
        weights.write_bytes(stored)
    else:
        Calibration("logistic", slope=2.0).save(fitted)
    result = run(*options)
    assert result.exit_code == 2
    assert f"was begun with another {what} of {folder if what == 'weights' else fitted};" in only_line(result)


def test_foreign_and_locked_partials_are_refused(run: Run, beir: Path, tmp_path: Path) -> None:
    """A partial file of another program is not touched, and one that a running search writes is refused."""
    import fcntl

    partial = tmp_path / "x.trec.partial"
    partial.write_text("my notes\n")
    options = (*BM25, "-c", beir, "--data-queries", "-o", tmp_path / "x.trec")
    assert "was begun by something else" in only_line(run(*options))
    assert partial.read_text() == "my notes\n"
    with partial.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another search is writing it" in only_line(run(*options))
