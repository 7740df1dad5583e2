"""`secondpass search`: pipelines over corpora, runs and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from secondpass.evaluation.qrels import read_qrels
from tests.cli.conftest import BM25, Run, figures, read_run
from tests.small_collection import CORPUS, write_json_lines

pytest.importorskip("haystack")
ir_measures = pytest.importorskip("ir_measures")


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
    assert sorted(file.name for file in tmp_path.iterdir()) == ["beir", "run.trec"]


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
    assert {tuple(line.split()[:2]) for line in shown[2:]} <= {(str(a), str(b)) for a in range(6) for b in range(6)}
    assert "(no document found)" in run(*BM25, "-c", beir, "-m", tiny_folder, "-q", "xylophone").stdout
