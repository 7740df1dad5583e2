"""Where the environment points the stores of a pipeline file."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("haystack")

from secondpass.errors import InvalidInput
from secondpass_pipelines.stores import (
    ELASTICSEARCH,
    OPENSEARCH,
    engine_of,
    point_stores,
    shown,
)


def components(kind: str, **settings: Any) -> dict[str, Any]:
    """Two retrievers of one store, as a YAML anchor gives them, and one deeper down."""
    store = {"type": kind, "init_parameters": {"hosts": "http://old:9200", "index": "old", **settings}}
    return {
        "words": {"type": "x", "init_parameters": {"document_store": store}},
        "vectors": {"type": "y", "init_parameters": {"document_store": store, "nested": [{"inner": dict(store)}]}},
    }


def settings_of(parts: dict[str, Any]) -> list[dict[str, Any]]:
    """The store's settings wherever it stands."""
    vectors = parts["vectors"]["init_parameters"]
    stores = [parts["words"]["init_parameters"]["document_store"], vectors["document_store"]]
    return [store["init_parameters"] for store in [*stores, vectors["nested"][0]["inner"]]]


@pytest.mark.parametrize(
    ("kind", "variable", "login"),
    [
        (ELASTICSEARCH, "ELASTICSEARCH_URL", {"basic_auth": ("someone", "s3cret")}),
        (OPENSEARCH, "OPENSEARCH_URL", {"http_auth": ["someone", "s3cret"]}),
    ],
)
def test_hosts_and_index_are_replaced_everywhere(kind: str, variable: str, login: dict[str, Any]) -> None:
    """Credentials leave the URL; what else is stated stays."""
    parts = components(kind, timeout=7)
    point_stores(parts, None, {variable: "http://someone:s3cret@new:9201", "SECONDPASS_INDEX": "new"})
    expected = {"hosts": "http://new:9201", "index": "new", "timeout": 7, **login}
    assert settings_of(parts) == [expected] * 3


def test_the_option_comes_before_the_variable() -> None:
    """And without any of them nothing changes."""
    parts = components(OPENSEARCH)
    point_stores(parts, "option", {"SECONDPASS_INDEX": "variable", "ELASTICSEARCH_URL": "http://other:1"})
    assert settings_of(parts) == [{"hosts": "http://old:9200", "index": "option"}] * 3
    same = components(ELASTICSEARCH)
    point_stores(same, None, {})
    assert same == components(ELASTICSEARCH)


def test_an_api_key_is_left_to_the_file_s_secret() -> None:
    """A user's name beside it is not used."""
    parts = components(ELASTICSEARCH)
    known = {"ELASTICSEARCH_URL": "http://new:9200", "ELASTIC_API_KEY": "k", "ELASTIC_USERNAME": "u"}
    point_stores(parts, None, known | {"ELASTIC_PASSWORD": "p"})
    assert settings_of(parts)[0] == {"hosts": "http://new:9200", "index": "old"}


def test_an_index_without_a_server_is_refused_and_the_variable_is_not() -> None:
    """The variable may be set for other pipelines."""
    parts = {"r": {"type": "x", "init_parameters": {"document_store": {"type": "InMemory"}}}, "odd": None}
    point_stores(parts, None, {"SECONDPASS_INDEX": "docs"})
    with pytest.raises(InvalidInput, match="--index docs: the pipeline has no store of"):
        point_stores(parts, "docs", {})


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        ("http://user:pw@host:9200/", "http://host:9200"),
        ("user:pw@host:9200", "host:9200"),
        ([{"host": "a", "port": 1, "http_auth": "user:pw"}, "https://b/p/"], "a:1,https://b/p"),
        (None, "localhost:9200"),
        ("http://[broken", "(a host that cannot be read)"),
    ],
)
def test_hosts_are_shown_without_credentials(hosts: Any, text: str) -> None:
    """In every form that the clients take."""
    assert shown(hosts) == text


def test_other_stores_have_no_engine() -> None:
    """Nor has anything else."""
    assert [engine_of(value) for value in ({}, None, [], {"type": "x"})] == [None] * 4
    assert engine_of({"type": OPENSEARCH}) == "OpenSearch"
