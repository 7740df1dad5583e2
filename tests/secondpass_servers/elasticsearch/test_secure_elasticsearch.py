"""An Elasticsearch with TLS and users: API key, password, the wrong ones, and a user without rights."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from elasticsearch import Elasticsearch

from tests.secondpass_servers.elasticsearch.conftest import Run, invoke, only_line
from tests.small_collection import write_beir, write_json_lines

NAME = f"secondpass-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def secured(no_credentials: None, secure_elasticsearch: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The server, with its address and authority in the environment, and no credentials."""
    monkeypatch.setenv("ELASTICSEARCH_URL", secure_elasticsearch.url)
    monkeypatch.setenv("ELASTICSEARCH_CA_FILE", str(secure_elasticsearch.ca_file))
    return secure_elasticsearch


def test_by_api_key(secured: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: str) -> None:
    """create, index and search."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELASTIC_API_KEY", secured.api_key)
    for arguments in (("create", f"{NAME}-a"), ("index", f"{NAME}-a", write_beir(tmp_path / "beir"))):
        done = invoke(*arguments)
        assert done.exit_code == 0, done.output
    found = invoke("search", f"{NAME}-a", "cat", "-m", tiny_folder, "-f", "jsonl")
    assert '"id": "d2"' in found.stdout


def test_by_password_in_the_environment_or_in_the_url(secured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are shown by no message."""
    monkeypatch.setenv("ELASTIC_USERNAME", secured.user)
    monkeypatch.setenv("ELASTIC_PASSWORD", secured.password)
    assert invoke("create", f"{NAME}-b").exit_code == 0
    monkeypatch.delenv("ELASTIC_USERNAME")
    monkeypatch.delenv("ELASTIC_PASSWORD")
    monkeypatch.setenv("ELASTICSEARCH_URL", secured.url.replace("//", f"//{secured.user}:{secured.password}@"))
    again = invoke("create", f"{NAME}-b")
    assert (again.exit_code, "already" in only_line(again)) == (2, True)
    assert secured.password not in again.output


@pytest.mark.parametrize(
    "arguments", [("create", "x"), ("search", "x", "cat"), ("index", "x", "BEIR", "--patience", "1")]
)
def test_wrong_or_no_credentials(
    secured: Any, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """One line that says what to set, at once: waiting would not help."""
    monkeypatch.chdir(tmp_path)
    wanted = [str(write_beir(tmp_path / "b")) if argument == "BEIR" else argument for argument in arguments]
    for variables in (
        {},
        {"ELASTIC_API_KEY": "d3Jvbmc6c2VjcmV0"},
        {"ELASTIC_USERNAME": "eve", "ELASTIC_PASSWORD": "wr0ng"},
    ):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        refused = invoke(*wanted)
        assert refused.exit_code == 1
        assert "valid credentials are needed (401): set ELASTIC_API_KEY" in refused.stderr
        assert not {"d3Jvbmc6c2VjcmV0", "wr0ng"} & set(refused.output.split())
        for name in variables:
            monkeypatch.delenv(name)


def limited_key(secured: Any, *privileges: str) -> str:
    """An API key with these rights on our indexes and no other."""
    rights = {"limited": {"indices": [{"names": [f"{NAME}*"], "privileges": list(privileges)}]}}
    login = (secured.user, secured.password)
    with Elasticsearch(secured.url, basic_auth=login, ca_certs=str(secured.ca_file)) as client:
        return str(client.security.create_api_key(name="limited", role_descriptors=rights).body["encoded"])


def test_the_rights_that_the_docs_name_are_enough(
    secured: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: str
) -> None:
    """A key for each command; one that may only read says what it may not do."""
    monkeypatch.chdir(tmp_path)
    name = f"{NAME}-c"
    corpus = write_json_lines(tmp_path / "c.jsonl", [{"_id": "a", "text": "the cat", "year": 2024}])
    commands = {
        ("create", name): ("create_index",),
        ("index", name, corpus): ("read", "write", "view_index_metadata", "maintenance"),
        ("search", name, "cat", "-m", tiny_folder, "--passages", "--filter", "year >= 2020"): ("read",),
    }
    for arguments, privileges in commands.items():
        monkeypatch.setenv("ELASTIC_API_KEY", limited_key(secured, *privileges))
        done = invoke(*arguments)
        assert done.exit_code == 0, done.output
    reader = limited_key(secured, "read")
    monkeypatch.setenv("ELASTIC_API_KEY", reader)
    refused = invoke("create", f"{NAME}-d")
    assert (refused.exit_code, "not allowed (403)" in only_line(refused)) == (1, True)
    assert reader not in refused.output


@pytest.mark.parametrize("command", ["create", "index"])
def test_an_authority_that_nobody_named(
    secured: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    """A certificate that cannot be checked is not accepted, and the message says which variable mends it, at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ELASTICSEARCH_CA_FILE")
    monkeypatch.setenv("ELASTIC_API_KEY", secured.api_key)
    more = (write_beir(tmp_path / "beir"), "--patience", 1) if command == "index" else ()
    refused = invoke(command, f"{NAME}-d", *more)
    assert (refused.exit_code, "ELASTICSEARCH_CA_FILE" in only_line(refused)) == (1, True)
    assert "nothing got through" not in refused.output


def test_plain_http_to_a_tls_server(secured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong scheme is one line too."""
    monkeypatch.setenv("ELASTICSEARCH_URL", secured.url.replace("https://", "http://"))
    refused = invoke("create", f"{NAME}-e")
    assert refused.exit_code == 1
    assert only_line(refused)


def test_the_shared_server_needs_none_of_it(run: Run, index: str) -> None:
    """A server without security takes a client without credentials."""
    assert run("create", index).exit_code == 0


def test_dense_search_with_the_right_to_read_alone(
    secured: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: str, minilm: str
) -> None:
    """Such a key may not look at mappings; what is no field of embeddings is known all the same."""
    monkeypatch.chdir(tmp_path)
    name = f"{NAME}-e"
    monkeypatch.setenv("ELASTIC_API_KEY", secured.api_key)
    assert invoke("create", name, "--dims", 384).exit_code == 0
    assert invoke("index", name, write_beir(tmp_path / "beir"), "--embedder", minilm).exit_code == 0
    monkeypatch.setenv("ELASTIC_API_KEY", limited_key(secured, "read"))
    search = ("search", name, "cat", "--first", "dense", "--embedder", minilm, "-m", tiny_folder, "-k", 1)
    found = invoke(*search)
    assert found.exit_code == 0, found.output
    refused = invoke(*search, "--vector-field", "content")
    assert (refused.exit_code, "values of the type text" in only_line(refused)) == (2, True)
