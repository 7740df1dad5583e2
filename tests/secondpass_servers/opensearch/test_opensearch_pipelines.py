"""The OpenSearch pipelines: loaded as anyone would load them, and run on a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("haystack_integrations.document_stores.opensearch")

from haystack import Pipeline
from haystack.core.errors import PipelineRuntimeError

from secondpass_servers.index import IndexLayout
from secondpass_servers.opensearch.client import Server, create_index
from secondpass_servers.options import EMBEDDER as DEFAULT_MODEL
from tests.secondpass_servers.opensearch.conftest import NOBODY, TEXTS, fill

FOLDER = Path(__file__).parents[3] / "pipelines"
RERANKING = ("rerank_opensearch_bm25", "rerank_opensearch_embedding", "rerank_opensearch_hybrid")
NAMES = (*RERANKING, "index_opensearch")
pytestmark = [
    pytest.mark.filterwarnings("default::DeprecationWarning"),
    pytest.mark.filterwarnings("default::FutureWarning"),
]


def stores(data: Any) -> list[dict[str, Any]]:
    """Parameters of every document store in a pipeline as YAML."""
    if isinstance(data, dict):
        own = [data["init_parameters"]] if str(data.get("type", "")).endswith("OpenSearchDocumentStore") else []
        return own + [found for value in data.values() for found in stores(value)]
    return [found for value in data for found in stores(value)] if isinstance(data, list) else []


@pytest.fixture
def loaded(server: Server, new_name: Callable[[], str], tiny_folder: str) -> Callable[..., Pipeline]:
    """A maker of pipelines on the test's own index, with models that are on this machine."""

    def load(name: str, index: str, embedder: str = "", address: str = server.address) -> Pipeline:
        text = (FOLDER / f"{name}.yaml").read_text()
        for old, new in (
            ("hosts: http://localhost:9200", f"hosts: {address}"),
            ("index: articles", f"index: {index}"),
            (DEFAULT_MODEL, embedder or DEFAULT_MODEL),
            ("secondpass/pocket", tiny_folder),
        ):
            text = text.replace(old, new)
        return Pipeline.loads(text)

    return load


@pytest.mark.parametrize("name", NAMES)
def test_loads_under_the_default_allow_list_and_comes_back(name: str) -> None:
    """Dumped and loaded again it is the same pipeline; nothing is sent by loading."""
    pipeline = Pipeline.loads((FOLDER / f"{name}.yaml").read_text())
    again = Pipeline.loads(pipeline.dumps())
    assert again.to_dict()["components"] == pipeline.to_dict()["components"]


@pytest.mark.parametrize("name", NAMES)
def test_credentials_come_from_the_environment_and_time_is_finite(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No value of a secret is in the file or in a dump."""
    monkeypatch.setenv("OPENSEARCH_USERNAME", "joe")
    monkeypatch.setenv("OPENSEARCH_PASSWORD", "a-secret")
    pipeline = Pipeline.loads((FOLDER / f"{name}.yaml").read_text())
    assert "a-secret" not in pipeline.dumps()
    held = stores(yaml.safe_load(pipeline.dumps()))
    assert held
    for parameters in held:
        assert [auth["env_vars"] for auth in parameters["http_auth"]] == [
            ["OPENSEARCH_USERNAME"],
            ["OPENSEARCH_PASSWORD"],
        ]
        assert not any(auth["strict"] for auth in parameters["http_auth"])
        assert 0 < parameters["timeout"] <= 60
        assert 0 < parameters["max_retries"] <= 3


def test_a_corpus_in_and_an_answer_out(
    loaded: Callable[..., Pipeline], new_name: Callable[[], str], tmp_path: Path, server: Server
) -> None:
    """index_opensearch and rerank_opensearch_bm25, with an index that the store makes; twice is once."""
    corpus, index = tmp_path / "corpus.jsonl", new_name()
    corpus.write_text("".join(json.dumps({"_id": id_, "text": text}) + "\n" for id_, text in TEXTS.items()))
    for _ in range(2):
        pipeline = loaded("index_opensearch", index)
        assert pipeline.run({"reader": {"sources": [str(corpus)]}})["writer"]["documents_written"] == 4
        pipeline.close()
    with server.client() as client:
        assert "knn" not in client.indices.get(index=index)[index]["settings"]["index"]
    answer = run_of(loaded("rerank_opensearch_bm25", index), "a train to the capital")
    assert "train" in [document.id for document in answer]
    scores = [document.score for document in answer]
    assert scores == sorted(scores, reverse=True)


def run_of(pipeline: Pipeline, query: str, **inputs: Any) -> list[Any]:
    """Documents that a pipeline gives for a query."""
    asked = {"ranker": {"query": query}}
    for name in ("retriever", "bm25_retriever"):
        if name in pipeline.graph.nodes and "query" in pipeline.inputs().get(name, {}):
            asked[name] = {"query": query, **inputs}
    if "text_embedder" in pipeline.graph.nodes:
        asked["text_embedder"] = {"text": query}
    try:
        documents: list[Any] = pipeline.run(asked)["ranker"]["documents"]
        return documents
    finally:
        pipeline.close()


def test_bm25_reads_the_content_of_any_index(
    loaded: Callable[..., Pipeline], new_name: Callable[[], str], server: Server
) -> None:
    """Also of one that somebody else made: a word in the metadata or the id finds nothing; filters work."""
    index = new_name()
    with server.client() as client:
        client.indices.create(index=index)
    fill(server, index, TEXTS, title="zebra", year=1999)
    assert run_of(loaded("rerank_opensearch_bm25", index), "zebra") == []
    only = {"field": "meta.year", "operator": "==", "value": 1999}
    none = {"field": "meta.year", "operator": "==", "value": 2000}
    assert len(run_of(loaded("rerank_opensearch_bm25", index), "Paris", filters=only)) == 1
    assert run_of(loaded("rerank_opensearch_bm25", index), "Paris", filters=none) == []


@pytest.mark.parametrize("name", RERANKING[1:])
def test_vectors(
    loaded: Callable[..., Pipeline],
    new_name: Callable[[], str],
    server: Server,
    minilm: str,
    name: str,
) -> None:
    """On an index that the command made and filled; a document that both retrievers found comes once."""
    from secondpass_servers.commands import embedding_of

    index = new_name()
    create_index(server, IndexLayout(index, dims=384, replicas=0))
    for (id_, text), vector in zip(TEXTS.items(), embedding_of(minilm).embed(list(TEXTS.values())), strict=True):
        fill(server, index, {id_: text}, embedding=vector)
    answer = run_of(loaded(name, index, minilm), "forgot login credentials of the account")
    ids = [document.id for document in answer]
    assert sorted(ids) == sorted(TEXTS)
    assert all(document.embedding is None for document in answer)
    scores = [document.score for document in answer]
    assert scores == sorted(scores, reverse=True)


def test_the_store_makes_an_index_with_vectors(
    loaded: Callable[..., Pipeline],
    new_name: Callable[[], str],
    server: Server,
    minilm: str,
) -> None:
    """With the engine that needs no native library."""
    index = new_name()
    assert run_of(loaded("rerank_opensearch_embedding", index, minilm), "x") == []
    with server.client() as client:
        field = client.indices.get_mapping(index=index)[index]["mappings"]["properties"]["embedding"]
    assert field["method"]["engine"] == "lucene"


def test_a_dead_server_ends_the_run(loaded: Callable[..., Pipeline]) -> None:
    """Soon, and with the address in the error."""
    with pytest.raises(PipelineRuntimeError, match=r"127\.0\.0\.1"):
        run_of(loaded("rerank_opensearch_bm25", "x", address=NOBODY), "Paris")
