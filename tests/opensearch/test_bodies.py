"""What ML Commons is sent: secrets in one place, times in it, and a script that no text can break."""

from __future__ import annotations

import json

from secondpass_opensearch import bodies
from secondpass_opensearch.service import RerankService

KEYED = RerankService("http://h/v1/rerank", "secret", "", 7)


def test_the_key_is_in_the_credential_only() -> None:
    """OpenSearch encrypts that part and nothing else."""
    body = bodies.connector("x", KEYED)
    assert body.pop("credential") == {"key": "secret"}
    assert "secret" not in json.dumps(body)
    assert body["actions"][0]["headers"]["Authorization"] == "Bearer ${credential.key}"


def test_without_a_key_there_is_no_header() -> None:
    """A connector cannot be without a credential, so it has an unused one."""
    body = bodies.connector("x", RerankService("http://h/v1/rerank"))
    assert "Authorization" not in body["actions"][0]["headers"]
    assert body["credential"] == {"key": bodies.NO_KEY}


def test_times_are_finite() -> None:
    """In seconds; OpenSearch's default is hours."""
    config = bodies.connector("x", KEYED)["client_config"]
    assert (config["read_timeout"], config["connection_timeout"], config["max_retry_times"]) == (7, 7, 0)


def test_a_models_name_cannot_leave_its_string() -> None:
    """Neither the script's nor the JSON's."""
    script = bodies.script("a'b\"c\\d")
    literal = script.split("new StringBuilder('")[1].split("');\n")[0]
    opening = literal.replace("\\'", "'").replace("\\\\", "\\")
    assert json.loads(f'{opening}q"}}}}}}')["parameters"]["body"] == {"model": "a'b\"c\\d", "query": "q"}
    assert "model" not in bodies.script("")


def test_a_search_that_is_reranked() -> None:
    """The text twice: for BM25, and for the second pass."""
    body = bodies.query('a "b"', "content", 3)
    assert body["query"]["match"]["content"]["query"] == body["ext"]["rerank"]["query_context"]["query_text"] == 'a "b"'
