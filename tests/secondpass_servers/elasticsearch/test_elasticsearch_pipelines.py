"""The packaged pipelines for Elasticsearch: loaded as anyone would load them, and run on a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from elasticsearch import Elasticsearch
from haystack import Pipeline
from haystack.core.errors import PipelineRuntimeError

from secondpass import CrossEncoder
from secondpass_pipelines.indexing import document_embedders
from secondpass_pipelines.searching import stages_of
from secondpass_servers.elasticsearch.client import create_index
from secondpass_servers.index import IndexLayout
from tests.small_collection import CORPUS, write_beir

FOLDER = Path(__file__).parents[3] / "pipelines"
RERANK = ("rerank_elasticsearch_bm25", "rerank_elasticsearch_embedding", "rerank_elasticsearch_hybrid")
NAMES = ("index_elasticsearch", *RERANK)
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
LOCAL = "http://localhost:9200"
pytestmark = [
    # sentence-transformers and the tokenizers it loads warn about their own settings.
    pytest.mark.filterwarnings("default::DeprecationWarning"),
    pytest.mark.filterwarnings("default::FutureWarning"),
    pytest.mark.filterwarnings("ignore::elasticsearch.exceptions.ElasticsearchWarning"),
]


def loaded(name: str, url: str, index: str, tiny: str, minilm: str = MINILM) -> Pipeline:
    """A packaged pipeline on this server, index and models."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    for old, new in (
        (LOCAL, url),
        ("index: articles", f"index: {index}"),
        ("secondpass/pocket", tiny),
        (MINILM, minilm),
    ):
        text = text.replace(old, new)
    return Pipeline.loads(text)


def stores(value: Any) -> list[dict[str, Any]]:
    """Parameters of every document store in a pipeline's dictionary."""
    if isinstance(value, dict):
        mine = [value["init_parameters"]] if str(value.get("type", "")).endswith("DocumentStore") else []
        return mine + [found for inner in value.values() for found in stores(inner)]
    return []


@pytest.mark.parametrize("name", NAMES)
def test_loads_under_the_default_allow_list_and_round_trips(name: str) -> None:
    """As it is, without any allowed module; dumped and loaded again it is the same."""
    pipeline = Pipeline.loads((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    again = Pipeline.loads(pipeline.dumps())
    assert again.to_dict()["components"] == pipeline.to_dict()["components"]
    assert sorted(map(str, again.to_dict()["connections"])) == sorted(map(str, pipeline.to_dict()["connections"]))


@pytest.mark.parametrize("name", NAMES)
def test_finite_patience_and_no_secret(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every store has a time-out and bounded retries, and a key that stays in the environment."""
    monkeypatch.setenv("ELASTIC_API_KEY", "s3cret")
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    found = stores(yaml.safe_load(text))
    assert found
    for settings in found:
        assert 0 < settings["request_timeout"] <= 60
        assert 0 < settings["max_retries"] <= 5
        assert settings["api_key"] == {"type": "env_var", "env_vars": ["ELASTIC_API_KEY"], "strict": False}
        assert settings["hosts"] == LOCAL
    assert "s3cret" not in Pipeline.loads(text).dumps()


def test_bm25_from_corpus_to_ranking(
    client: Elasticsearch, elasticsearch_url: str, index: str, tiny_folder: str, tiny: CrossEncoder, tmp_path: Path
) -> None:
    """Indexing twice into what `create` made doubles nothing; the other pipeline ranks what it finds."""
    create_index(client, "THE SERVER", IndexLayout(index))
    folder = write_beir(tmp_path / "beir")
    for _ in range(2):
        indexing = loaded("index_elasticsearch", elasticsearch_url, index, tiny_folder)
        assert indexing.run({"reader": {"sources": [str(folder)]}})["writer"] == {"documents_written": len(CORPUS)}
        indexing.close()
    assert client.count(index=index)["count"] == len(CORPUS)
    searching = loaded("rerank_elasticsearch_bm25", elasticsearch_url, index, tiny_folder)
    query = "a train to Paris"
    outputs = searching.run(
        {"retriever": {"query": query}, "ranker": {"query": query}}, include_outputs_from={"retriever"}
    )
    searching.close()
    first = outputs["retriever"]["documents"]
    expected = tiny.rank(query, [document.content for document in first])
    ranked = outputs["ranker"]["documents"]
    assert [document.id for document in ranked] == [first[row["corpus_id"]].id for row in expected]
    assert {"d3", "d4"} <= {document.id for document in ranked}


@pytest.mark.parametrize("name", RERANK[1:])
def test_embeddings(
    name: str, client: Elasticsearch, elasticsearch_url: str, index: str, tiny_folder: str, minilm: str, tmp_path: Path
) -> None:
    """Documents are found by meaning; what two retrievers found is ranked once."""
    create_index(client, "THE SERVER", IndexLayout(index, dims=384))
    searching = loaded(name, elasticsearch_url, index, tiny_folder, minilm)
    (embedder,) = document_embedders(searching)
    indexing = loaded("index_elasticsearch", elasticsearch_url, index, tiny_folder)
    documents = indexing.get_component("reader").run(sources=[write_beir(tmp_path / "beir")])["documents"]
    indexing.get_component("writer").run(documents=embedder.run(documents=documents)["documents"])
    indexing.close()
    stages = stages_of(searching)
    outputs = searching.run(
        stages.inputs("forgot login credentials of a cat", 3, None), include_outputs_from={*stages.first}
    )
    searching.close()
    found = {document.id for stage in stages.first for document in outputs[stage]["documents"]}
    ids = [document.id for document in outputs["ranker"]["documents"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == found
    assert "d1" in ids


def test_a_missing_index_is_made_without_embeddings(
    client: Elasticsearch, elasticsearch_url: str, index: str, tiny_folder: str
) -> None:
    """Haystack's store makes an index that is not there; with our mapping, and empty."""
    searching = loaded("rerank_elasticsearch_bm25", elasticsearch_url, index, tiny_folder)
    found = searching.run({"retriever": {"query": "cat"}, "ranker": {"query": "cat"}})
    searching.close()
    assert found["ranker"]["documents"] == []
    properties = client.indices.get_mapping(index=index).body[index]["mappings"]["properties"]
    assert properties == {"content": {"type": "text"}}


def test_a_dead_server_fails_soon(tiny_folder: str) -> None:
    """The pipeline's error says that the connection failed."""
    searching = loaded("rerank_elasticsearch_bm25", "http://127.0.0.1:9", "articles", tiny_folder)
    with pytest.raises(PipelineRuntimeError, match="Connection refused"):
        searching.run({"retriever": {"query": "cat"}, "ranker": {"query": "cat"}})
