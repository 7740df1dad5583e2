"""What `secondpass elasticsearch` has of its own; tests/searching has what both engines share."""

from __future__ import annotations

import json

import httpx
import pytest

from secondpass import CrossEncoder
from secondpass_servers.elasticsearch.client import Similarity, creation
from secondpass_servers.index import IndexLayout
from tests.secondpass_servers.elasticsearch.conftest import invoke, only_line
from tests.secondpass_servers.elasticsearch.inference_module import InferenceModule
from tests.secondpass_servers.elasticsearch.live_app import serving

PASSWORD = "s3cret-password"  # noqa: S105
DEAD = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "x", "--dims", "3", "--similarity", "euclid"), "euclid"),
        (("connect", "rerank:8000"), "the service's address"),
        (("connect", "http://h:1", "--id", "A B"), "inference id"),
        (("disconnect", "--url", f"http://u:{PASSWORD}@h:1"), "--url holds a user or a password"),
    ],
)
def test_refusals(no_credentials: None, arguments: tuple[str, ...], words: str) -> None:
    """One line, exit code 2, no secret."""
    refused = invoke(*arguments)
    assert refused.exit_code == 2
    assert words in only_line(refused)
    assert PASSWORD not in refused.output


@pytest.mark.parametrize(
    "arguments",
    [("connect", "http://rerank:8000"), ("disconnect",)],
)
def test_a_dead_server(no_credentials: None, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    """One line with the host, without what was in the URL, exit code 1."""
    monkeypatch.setenv("ELASTICSEARCH_URL", DEAD.replace("//", f"//elastic:{PASSWORD}@"))
    failed = invoke(*arguments)
    assert (failed.exit_code, only_line(failed)) == (
        1,
        f"secondpass: Elasticsearch {DEAD}: cannot be reached (Connection refused)",
    )


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
    from secondpass.serving.application import create_app
    from secondpass.serving.settings import ApiKeys, Settings

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


@pytest.mark.parametrize("trouble", ["", "too many documents", "another key", "gone"])
@pytest.mark.parametrize("choice", [(), ("--on-failure", "error"), ("--on-failure", "first-pass")], ids=str)
def test_a_search_that_the_service_refuses(
    no_credentials: None, monkeypatch: pytest.MonkeyPatch, tiny: CrossEncoder, choice: tuple[str, ...], trouble: str
) -> None:
    """The printed search, sent as it stands: our order; without us an error, or the first pass if so chosen."""
    pytest.importorskip("fastapi")
    from secondpass.serving.application import create_app
    from secondpass.serving.settings import ApiKeys, Settings

    module = InferenceModule()
    texts = ["a hat", "the cat sat on the mat", "cats and dogs"]
    module.hits = [{"_id": text, "_score": 9.0 - n, "_source": {"content": text}} for n, text in enumerate(texts)]
    monkeypatch.setenv("SECONDPASS_API_KEY", key := "a-key-of-the-tests-0123456789")
    settings = Settings(keys=ApiKeys([key]), max_documents=2 if trouble == "too many documents" else 10)
    with serving(create_app(settings, {"tiny": tiny})) as service, serving(module.app()) as url:
        monkeypatch.setenv("ELASTICSEARCH_URL", url)
        connected = invoke("connect", service, "--index", "articles", *choice)
        assert connected.exit_code == 0, connected.output
        held = module.endpoints["secondpass"]["service_settings"]
        if trouble == "another key":
            held["secret_parameters"]["api_key"] = "one-that-the-service-forgot"
        if trouble == "gone":
            held["url"] = "http://127.0.0.1:9/v2/rerank"
        search = connected.stdout.partition("POST /articles/_search\n")[2]
        answer = httpx.post(f"{url}/articles/_search", content=search)
    ours = [texts[row["corpus_id"]] for row in tiny.rank("your question", texts)]
    if trouble and "first-pass" not in choice:
        assert (answer.status_code, answer.json()["error"]["phase"]) == (500, "rank-feature")
    else:
        assert [hit["_id"] for hit in answer.json()["hits"]["hits"]] == (texts if trouble else ours)


def test_the_key_of_the_service_must_fit_a_header(no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused without showing it."""
    monkeypatch.setenv("SECONDPASS_API_KEY", "kéy\n2")
    refused = invoke("connect", "http://rerank:8000", "--dry-run")
    assert (refused.exit_code, "SECONDPASS_API_KEY holds a character" in only_line(refused)) == (2, True)
    assert "kéy" not in refused.output


def test_similarities_are_those_of_the_index() -> None:
    """Each one that the option offers is asked for as it stands."""
    for similarity in Similarity:
        body = creation(IndexLayout("articles", dims=3), similarity.value).body
        assert body["mappings"]["properties"]["embedding"]["similarity"] == similarity.value
