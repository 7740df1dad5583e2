"""One line a request, without texts."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from secondpass.serving.request_log import Facts, JsonLines, log_failure
from tests.serving.conftest import Live

SECRET = "zebra7531"  # noqa: S105


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """What was logged, as the service writes it."""
    return [json.loads(JsonLines().format(record)) for record in caplog.records]


def test_a_request_is_logged_with_counts_and_without_texts(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    """Neither query, documents, unknown names, paths, headers nor parameters of the client."""
    with caplog.at_level(logging.INFO, "secondpass.serving"):
        body = {"query": f"the {SECRET}", "documents": [f"a {SECRET}", "cat " * 300], SECRET: 1}
        live.client.post(f"/v2/rerank?x={SECRET}", json=body, headers={"X-Request-ID": "my-id.1"})
        live.client.post("/score", json={"pairs": [[SECRET]]}, headers={"User-Agent": SECRET})
        live.client.request("PROPFIND", f"/{SECRET}", headers={"X-Request-ID": f"{SECRET} {SECRET}"})
    text = json.dumps(lines(caplog)) + caplog.text
    assert SECRET not in text.lower()
    first, second, third = [line for line in lines(caplog) if line["event"] == "request"]
    assert first.pop("time")
    assert float(str(first.pop("ms"))) > 0
    tokens = first.pop("tokens")
    assert first == {
        "level": "info", "event": "request", "request_id": "my-id.1", "method": "POST", "path": "/v2/rerank",
        "status": 200, "model": "tiny", "pairs": 2, "cut": 1,
    }  # fmt: skip
    assert int(str(tokens)) > 128
    assert (second["status"], second["reason"], second["path"]) == (422, "invalid", "/score")
    assert (third["status"], third["path"], third["method"]) == (404, "other", "PROPFIND")


def test_request_ids_are_echoed_when_they_are_harmless(live: Live) -> None:
    """Else there is a new one; Cohere's answers carry it as their id."""
    body = {"query": "cat", "documents": ["mat"]}
    answer = live.client.post("/v1/rerank", json=body, headers={"X-Request-ID": "abc:1"})
    assert answer.headers["x-request-id"] == answer.json()["id"] == "abc:1"
    for wrong in ("x" * 129, "a b", 'a"b', ""):
        given = live.client.get("/health", headers={"X-Request-ID": wrong}).headers["x-request-id"]
        assert given != wrong
        assert len(given) == 32
    assert live.client.get("/nowhere").headers["x-request-id"]


def test_an_unforeseen_error_is_told_by_its_places(caplog: pytest.LogCaptureFixture) -> None:
    """Its message may hold a text."""
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        log_failure(Facts("id"), error)
        record = logging.LogRecord("x", logging.ERROR, "p", 1, "broken", (), sys.exc_info())
    (line,) = lines(caplog)
    assert (line["error"], line["request_id"]) == ("ValueError", "id")
    assert "test_request_log.py" in json.dumps(line["at"])
    assert SECRET not in json.dumps(line) + JsonLines().format(record)
