"""`secondpass index`, `search` and `evaluate` over an index that lives in a real server."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("ir_measures")

from secondpass_pipelines.pipeline_files import pipeline_file
from secondpass_pipelines.searching import Searcher
from tests.cli.conftest import figures, only_line, read_run
from tests.small_collection import CORPUS, write_json_lines

Run = Callable[..., Any]
TITLES = {"elasticsearch": "Elasticsearch", "opensearch": "OpenSearch"}


@pytest.fixture
def run() -> Run:
    """The program in this process."""
    from typer.testing import CliRunner

    from secondpass.cli import app

    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@dataclass
class Engine:
    """A server, an index name of the test's own, and the names of its packaged pipelines."""

    name: str
    url: str
    index: str
    client: Any

    @property
    def indexing(self) -> tuple[str, ...]:
        return ("index", "-p", f"index_{self.name}", "--index", self.index)

    @property
    def searching(self) -> str:
        return f"rerank_{self.name}_bm25"

    def search(self, model: str) -> tuple[str, ...]:
        return ("search", "-p", self.searching, "--index", self.index, "-m", model)

    def evaluate(self, beir: Path, model: str) -> tuple[str | Path, ...]:
        named = ("evaluate", "-p", f"rerank_{self.name}_bm25", "--index", self.index, "--model", model)
        return (*named, "-d", beir, "-m", "nDCG@10")


def client_of(name: str, url: str) -> Any:
    """The engine's own client."""
    if name == "elasticsearch":
        from elasticsearch import Elasticsearch

        return Elasticsearch(url, request_timeout=60)
    from opensearchpy import OpenSearch

    return OpenSearch(url, timeout=60)


@pytest.fixture(params=["elasticsearch", "opensearch"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Each engine in turn, by its variable of the environment; the index goes with the test."""
    url = request.getfixturevalue(f"{request.param}_url")
    monkeypatch.setenv(f"{request.param.upper()}_URL", url)
    monkeypatch.delenv("SECONDPASS_INDEX", raising=False)
    client = client_of(request.param, url)
    made = Engine(request.param, url, f"test-search-{uuid.uuid4().hex}", client)
    yield made
    client.options(ignore_status=404).indices.delete(index=made.index) if made.name == "elasticsearch" else (
        client.indices.delete(index=made.index, ignore=[404])
    )
    client.close()


def test_index_search_and_evaluate(run: Run, engine: Engine, beir: Path, tiny_folder: str, tmp_path: Path) -> None:
    """An indexing pipeline fills the index once; the same figures come from it as from a search that indexes."""
    filled = run(*engine.indexing, "-c", beir, "--batch", 2)
    assert filled.exit_code == 0, filled.output
    assert filled.stdout.startswith("5 documents indexed in ")
    assert f"{engine.url.split('//')[1]}/{engine.index}" in filled.stdout
    again = run(*engine.indexing, "-c", beir)
    assert again.exit_code == 2
    assert f"{engine.index} holds 5 documents already" in only_line(again)
    assert run(*engine.indexing, "-c", beir, "--add").exit_code == 0

    output = tmp_path / "as_it_is.trec"
    searched = run(*engine.search(tiny_folder), "--dataset", beir, "-o", output)
    assert searched.exit_code == 0, searched.output
    assert list(read_run(output.read_text())) == ["q1", "q2", "q3"]
    assert figures(searched.stdout)["first pass (retriever)"][1] > 0.5
    refused = run(*engine.search(tiny_folder), "-c", beir, "--data-queries")
    assert refused.exit_code == 2
    assert "holds 5 documents already: leave --corpus away to search them" in only_line(refused)
    added = run(*engine.search(tiny_folder), "-c", beir, "--data-queries", "--add")
    # Documents that were written over count in BM25's statistics until the server merges them away.
    second = figures(searched.stdout)["second pass (ranker)"]
    assert figures(added.stdout)["second pass (ranker)"] == second

    judged = run(*engine.evaluate(beir, tiny_folder), "--indexed")
    assert judged.exit_code == 0, judged.output
    assert "Note:" not in judged.stdout
    assert f" to {second[0]:.3f} " in judged.stdout


def test_questions_are_answered_from_an_index(
    run: Run, engine: Engine, beir: Path, tmp_path: Path, tiny_folder: str
) -> None:
    """Of what it holds already. A corpus goes among that where --add says so, and nowhere else."""
    parts = {name: yaml.safe_load(pipeline_file(name).read_text()) for name in ("rag_extractive", engine.searching)}
    asking, searching = parts.values()
    asking["components"]["retriever"] = searching["components"]["retriever"]
    asking["components"]["ranker"]["init_parameters"]["model"] = tiny_folder
    (tmp_path / "ask.yaml").write_text(yaml.safe_dump(asking))
    ask = ("ask", "-p", tmp_path / "ask.yaml", "--index", engine.index, "a train to paris")
    more = write_json_lines(tmp_path / "more.jsonl", [{"_id": "more", "text": "Another train goes to Rome."}])
    filled = run(*ask, "-c", beir)
    assert filled.exit_code == 0, filled.output
    refused = run(*ask, "-c", more)
    assert refused.exit_code == 2
    assert "holds 5 documents already: leave --corpus away to search them" in only_line(refused)
    for options, count in (((), 5), (("-c", more, "--add"), 6)):
        answered = run(*ask, *options)
        assert answered.exit_code == 0, answered.output
        engine.client.indices.refresh(index=engine.index)
        assert engine.client.count(index=engine.index)["count"] == count
    # more words than the server takes, of which the reader gets all
    long = run(*ask[:-1], "a train to paris " + " ".join(f"word{number}" for number in range(3_000)))
    assert long.exit_code == 0, long.output


def test_judged_documents_that_are_not_indexed_are_counted(
    run: Run, engine: Engine, beir: Path, tiny_folder: str, tmp_path: Path
) -> None:
    """Some: a note. All: it is another collection, and nothing is asked."""
    partly = write_json_lines(tmp_path / "partly.jsonl", CORPUS[:3])
    assert run(*engine.indexing, "-c", partly).exit_code == 0
    judged = run(*engine.evaluate(beir, tiny_folder), "--indexed")
    assert judged.exit_code == 0, judged.output
    assert "Note: 2 relevant documents are not in the index, so no pass can find them." in judged.stdout
    (beir / "qrels" / "test.tsv").write_text("q1\td5\t1\nq2\tnone\t1\n")
    other = run(*engine.evaluate(beir, tiny_folder), "--indexed")
    assert other.exit_code == 2
    assert f"none of the 2 relevant documents is in {TITLES[engine.name]} {engine.url}/{engine.index}" in only_line(
        other
    )


def test_a_refused_search_is_refused_again(
    run: Run, engine: Engine, beir: Path, tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it left in OUTPUT.partial lets no documents into a filled index; a search that began to index goes on."""
    run(*engine.indexing, "-c", beir)
    searched = (*engine.search(tiny_folder), "-c", beir, "--data-queries", "-o", tmp_path / "x.trec")
    for _ in range(2):
        refused = run(*searched)
        assert refused.exit_code == 2
        assert f"{engine.index} holds 5 documents already" in only_line(refused)
    engine.client.indices.delete(index=engine.index)
    with monkeypatch.context() as patched:
        patched.setattr(Searcher, "answer", lambda *_: 1 / 0)
        assert run(*searched).exit_code != 0
    whole = run(*searched)
    assert whole.exit_code == 0, whole.output
    assert list(read_run((tmp_path / "x.trec").read_text())) == ["q1", "q2", "q3"]


@pytest.mark.parametrize("own", [["keyword", "content"], None])
def test_the_fields_that_an_index_searches_stay(
    run: Run, engine: Engine, tmp_path: Path, own: list[str] | None
) -> None:
    """Those that somebody gave it before the first document; where nobody did it is the content."""
    stated = {} if own is None else {"index.query.default_field": own}
    engine.client.indices.create(index=engine.index, body={"settings": stated})
    corpus = write_json_lines(tmp_path / "c.jsonl", [{"_id": "a", "text": "the cat", "keyword": "animal"}])
    filled = run(*engine.indexing, "-c", corpus)
    assert filled.exit_code == 0, filled.output
    (found,) = dict(engine.client.indices.get_settings(index=engine.index)).values()
    assert found["settings"]["index"]["query"]["default_field"] == (own or ["content"])


def test_an_empty_index_is_not_searched(run: Run, engine: Engine, tiny_folder: str) -> None:
    """There would be no documents, and no hint why."""
    engine.client.indices.create(index=engine.index)
    result = run(*engine.search(tiny_folder), "-q", "cat")
    assert result.exit_code == 2
    assert f"{engine.index} holds no documents: give --corpus, or index them first" in only_line(result)


def test_long_queries_are_cut_for_the_server_alone(run: Run, engine: Engine, beir: Path, tiny_folder: str) -> None:
    """1,024 clauses are the most that it takes; the ranker reads the whole query, and a note says so."""
    run(*engine.indexing, "-c", beir)
    words = "train to paris " + " ".join(f"word{number}" for number in range(3_000))
    result = run(*engine.search(tiny_folder), "-q", words, "-f", "json")
    assert result.exit_code == 0, result.output
    (answer,) = json.loads(result.stdout)["queries"]
    assert answer["query"] == words
    assert answer["shortened"] is True
    assert answer["first"]["retriever"][0]["id"] == "d4"
    assert "1 queries were cut to 1,024 words for retrieval; the ranker read them whole" in result.stderr


@pytest.mark.parametrize("engine", ["elasticsearch"], indirect=True)
@pytest.mark.parametrize("source", [{"id": "n"}, {"id": "n", "content": None}, {"id": "n", "content": " "}])
def test_documents_without_text_are_ranked_and_counted(
    run: Run, engine: Engine, beir: Path, tiny_folder: str, source: dict[str, Any]
) -> None:
    """A missing field, null or blank: found by another field, scored like an empty text, and told of."""
    run(*engine.indexing, "-c", beir)
    engine.client.indices.put_settings(index=engine.index, body={"index.query.default_field": "*"})
    engine.client.index(index=engine.index, id="n", refresh=True, document={**source, "keyword": "xylophone"})
    result = run(*engine.search(tiny_folder), "-q", "xylophone", "-f", "json")
    assert result.exit_code == 0, result.output
    (answer,) = json.loads(result.stdout)["queries"]
    assert [hit["id"] for hit in answer["second"]] == ["n"]
    assert answer["textless"] == 1
    assert "1 documents were ranked without any text" in result.stderr


def test_a_window_that_the_server_does_not_give_is_told(run: Run, engine: Engine, beir: Path, tiny_folder: str) -> None:
    """10,000 candidates at most; fewer candidates than wanted answers are told too."""
    run(*engine.indexing, "-c", beir)
    result = run(*engine.search(tiny_folder), "-q", "cat", "--depth", 20_000)
    assert result.exit_code != 0
    assert "Result window is too large" in only_line(result)
    assert engine.index in only_line(result)
    few = run(*engine.search(tiny_folder), "-q", "cat", "--depth", 2, "-k", 5)
    assert few.exit_code == 0, few.output
    assert "the first pass gives 2 documents at most, so no query gets the 5 asked for" in few.stderr


@pytest.mark.parametrize("name", ["elasticsearch", "opensearch"])
@pytest.mark.parametrize("what", ["search", "add", "index", "evaluate"])
def test_a_dead_server_is_one_line_without_credentials(
    run: Run, name: str, what: str, beir: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engine, host and index, and why."""
    monkeypatch.setenv(f"{name.upper()}_URL", "http://someone:s3cret@127.0.0.1:9")
    engine = Engine(name, "", "docs", None)
    arguments = {
        "search": (*engine.search(tiny_folder), "-q", "cat"),
        "add": (*engine.search(tiny_folder), "-q", "cat", "-c", beir, "--add"),
        "index": (*engine.indexing, "-c", beir),
        "evaluate": (*engine.evaluate(beir, tiny_folder), "--indexed"),
    }
    result = run(*arguments[what])
    assert result.exit_code == 1
    line = only_line(result)
    assert "http://127.0.0.1:9/docs" in line
    assert "cannot be reached" in line
    assert "s3cret" not in result.output
    assert "someone" not in result.output


def test_a_name_for_an_index_needs_a_server(run: Run, beir: Path) -> None:
    """A store in memory has no index to choose."""
    result = run("search", "-p", "rerank_bm25", "-c", beir, "-q", "cat", "--index", "docs")
    assert result.exit_code == 2
    assert "--index docs: the pipeline has no store of Elasticsearch or OpenSearch" in only_line(result)


@pytest.mark.parametrize("name", [pytest.param("elasticsearch", marks=pytest.mark.stacks), "opensearch"])
def test_a_server_that_dies_while_it_is_searched(
    run: Run,
    name: str,
    request: pytest.FixtureRequest,
    beir: Path,
    tiny_folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line, what was answered is kept, and with the server back the same command goes on."""
    with request.getfixturevalue(f"own_{name}")() as server:
        monkeypatch.setenv(f"{name.upper()}_URL", server.url)
        engine = Engine(name, server.url, "docs", None)
        filled = run(*engine.indexing, "-c", beir)
        assert filled.exit_code == 0, filled.output
        real, asked = Searcher.answer, []

        def answer(self: Searcher, query_id: str, query: str) -> Any:
            asked.append(query_id)
            if len(asked) == 2:
                server.kill()
            return real(self, query_id, query)

        monkeypatch.setattr(Searcher, "answer", answer)
        command = (*engine.search(tiny_folder), "--dataset", beir, "-o", tmp_path / "x.trec")
        failed = run(*command)
        assert failed.exit_code == 1
        assert "query 'q2' failed: " in only_line(failed)
        assert f"{server.url}/docs" in only_line(failed)
        assert len((tmp_path / "x.trec.partial").read_text().splitlines()) == 2
        server.start()
        done = run(*command)
        assert done.exit_code == 0, done.output
        assert asked == ["q1", "q2", "q2", "q3"]
        assert list(read_run((tmp_path / "x.trec").read_text())) == ["q1", "q2", "q3"]
