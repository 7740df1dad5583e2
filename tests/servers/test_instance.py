"""Servers of a test's own: who runs them, where they listen, what a kill leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from tests.servers.fixtures import OwnServer, absent
from tests.servers.installing import installation
from tests.servers.instance import Server
from tests.servers.problems import NoServer
from tests.servers.sources import tell


def processes(launcher: int | None) -> list[psutil.Process]:
    """The launcher, where there is one, and the server: of another user than root, on loopback only."""
    assert launcher is not None
    first = psutil.Process(launcher)
    running = [first, *first.children(recursive=True)]
    assert all(process.uids().effective != 0 for process in running)
    listening = [c.laddr.ip for process in running for c in process.net_connections() if c.status == "LISTEN"]
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    return running


@pytest.mark.stacks
def test_a_killed_server_comes_back_with_its_documents(own_elasticsearch: OwnServer) -> None:
    """After a kill -9 the same address has the same documents.

    In every run `secondpass_servers/indexing/test_killed.py` does so under a run that writes.
    """
    index = f"t-{uuid.uuid4().hex}"
    with own_elasticsearch() as server:
        running = processes(server.pid)
        document = f"{server.url}/{index}/_doc/1"
        assert httpx.put(document, json={"text": "kept"}, trust_env=False, timeout=60).status_code == 201
        server.kill()
        assert server.pid is None
        assert not any(process.is_running() for process in running)
        with pytest.raises(httpx.TransportError):
            httpx.get(server.url, trust_env=False)
        server.start()
        found = httpx.get(document, trust_env=False, timeout=60).json()
        assert found["_source"] == {"text": "kept"}
        running = processes(server.pid)
    assert not any(process.is_running() for process in running)
    assert not server.folder.exists()


def test_elasticsearch_has_the_english_analyser(elasticsearch_url: str) -> None:
    """With stemming and stop words: by our plugin here, by the module of that name on a full server."""
    asked = {"analyzer": "english", "text": "The running cats"}
    answer = httpx.post(f"{elasticsearch_url}/_analyze", json=asked, trust_env=False, timeout=60).json()
    assert [token["token"] for token in answer["tokens"]] == ["run", "cat"]


def test_elasticsearch_answers_who_it_is(elasticsearch_url: str) -> None:
    """The clients ask for it, and refuse to work without the header."""
    answer = httpx.get(elasticsearch_url, trust_env=False, timeout=60)
    assert answer.headers["x-elastic-product"] == "Elasticsearch"
    assert answer.json()["version"]["build_flavor"] == "default"
    assert int(answer.json()["version"]["number"].split(".")[0]) >= 8
    assert httpx.head(elasticsearch_url, trust_env=False, timeout=60).status_code == 200


def test_opensearch_has_what_the_stack_needs(opensearch_url: str) -> None:
    """Plugins, the English analyser, scripts, k-NN by Lucene, deleting by query."""
    with httpx.Client(base_url=opensearch_url, trust_env=False, timeout=60) as asking:
        plugins = {row["component"] for row in asking.get("/_cat/plugins?format=json").json()}
        assert plugins >= {"opensearch-knn", "opensearch-ml", "opensearch-neural-search"}
        tokens = asking.post("/_analyze", json={"analyzer": "english", "text": "The running cats"}).json()["tokens"]
        assert [token["token"] for token in tokens] == ["run", "cat"]
        index = f"t-{uuid.uuid4().hex}"
        method = {"name": "hnsw", "engine": "lucene", "space_type": "l2"}
        vector = {"type": "knn_vector", "dimension": 2, "method": method}
        body = {"settings": {"index.knn": True}, "mappings": {"properties": {"v": vector, "n": {"type": "integer"}}}}
        assert asking.put(f"/{index}", json=body).status_code == 200
        try:
            for n, place in enumerate([[0, 0], [1, 1], [5, 5]]):
                asking.put(f"/{index}/_doc/{n}?refresh=true", json={"v": place, "n": n}).raise_for_status()
            near = {"query": {"knn": {"v": {"vector": [4, 4], "k": 1}}}}
            assert [hit["_id"] for hit in asking.post(f"/{index}/_search", json=near).json()["hits"]["hits"]] == ["2"]
            script = {"query": {"script": {"script": "doc['n'].value % 2 == 1"}}}
            assert [hit["_id"] for hit in asking.post(f"/{index}/_search", json=script).json()["hits"]["hits"]] == ["1"]
            gone = asking.post(f"/{index}/_delete_by_query", json={"query": {"range": {"n": {"gte": 1}}}})
            assert gone.json()["deleted"] == 2
        finally:
            asking.delete(f"/{index}")


@pytest.fixture(scope="module")
def home() -> Path:
    """An installation of Elasticsearch."""
    try:
        return installation("elasticsearch", tell)
    except NoServer as missing:
        absent(missing)


def test_a_server_that_does_not_start_says_why(home: Path) -> None:
    """Its own last words are in the one line, and nothing is left of it."""
    server = Server("elasticsearch", home)
    settings = server.folder / "config" / "elasticsearch.yml"
    told = json.loads(settings.read_text(encoding="utf-8")) | {"no.such.setting": 1}
    settings.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(NoServer, match=r"ended while starting: .*no\.such\.setting"), server:
        pass
    assert not server.folder.exists()
    assert server.pid is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change users")
def test_a_closed_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that the server's user cannot enter would end in words of Java; so it is refused before anything runs."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv("SECONDPASS_SERVERS", str(closed / "servers"))
    with pytest.raises(NoServer, match=f"may not enter {closed}$"):
        installation("elasticsearch", tell)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_stops_and_removes_the_server(home: Path) -> None:
    """`python -m tests.servers start` prints the address, lives until Ctrl-C, and leaves nothing."""
    command = [sys.executable, "-m", "tests.servers", "start", "elasticsearch"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, start_new_session=True) as shown:
        try:
            assert shown.stdout is not None
            name, url = shown.stdout.readline().strip().split("=", 1)
            assert name == "export ELASTICSEARCH_URL"
            assert httpx.get(url, trust_env=False, timeout=60).status_code == 200
            (guard,) = psutil.Process(shown.pid).children()
            (launcher,) = guard.children()
            running = [guard, *processes(launcher.pid)]
            assert len(running) >= 2
            os.killpg(shown.pid, 2)
            assert shown.wait(timeout=120) == 0
        finally:
            shown.kill()
    assert not any(process.is_running() for process in running)
    with pytest.raises(httpx.TransportError):
        httpx.get(url, trust_env=False)
