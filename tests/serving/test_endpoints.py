"""What OpenAPI says is what happens: schemathesis makes requests of every kind, and nothing is a 5xx or undeclared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation.modes import GenerationMode

from secondpass import CrossEncoder
from secondpass.serving.api_keys import ApiKeys
from secondpass.serving.settings import Settings
from tests.serving.conftest import KEY, Live, Serve, running

SCORING = ("/v2/rerank", "/v1/rerank", "/rerank", "/v1/ranking", "/score")
WATCHING = ("/health", "/ready", "/info", "/metrics")
POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
CASES = [*((path, POSITIVE) for path in SCORING + WATCHING), *((path, NEGATIVE) for path in SCORING)]


@pytest.fixture(scope="module")
def contract(tiny: CrossEncoder) -> Iterator[Any]:
    """The service's own description, behind a key."""
    with running(Settings(keys=ApiKeys([KEY])), {"tiny": tiny}) as live:
        yield schemathesis.openapi.from_url(f"{live.url}/openapi.json")


@pytest.mark.parametrize(("path", "mode"), CASES)
def test_the_service_keeps_its_contract(contract: Any, path: str, mode: GenerationMode) -> None:
    """Valid requests are answered as declared, invalid ones refused as declared."""
    (operation,) = [found.ok() for found in contract.get_all_operations() if found.ok().path == path]
    seen: Counter[int] = Counter()
    headers = {"Authorization": f"Bearer {KEY}"}
    if mode is POSITIVE:
        # A deadline of a millisecond is valid and ends in 504, which is no fault.
        headers["Secondpass-Deadline-Ms"] = "60000"

    @settings(max_examples=50, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def asked(case: Any) -> None:
        seen[case.call_and_validate(headers=headers).status_code] += 1

    asked()
    assert seen
    assert max(seen) < 500
    assert mode is NEGATIVE or seen[200]


def test_every_status_is_declared(live: Live) -> None:
    """With bodies; keys appear where there are keys."""
    described = live.client.get("/openapi.json").json()
    post = described["paths"]["/v2/rerank"]["post"]
    assert set(post["responses"]) == {"200", "400", "404", "408", "413", "415", "422", "429", "500", "503", "504"}
    assert "security" not in post
    assert set(described["paths"]) == {*SCORING, *WATCHING}


def test_keys_are_declared_where_they_are_asked(serve: Serve) -> None:
    """Not for the probes."""
    paths = serve(keys=ApiKeys([KEY])).client.get("/openapi.json").json()["paths"]
    assert paths["/v2/rerank"]["post"]["security"]
    assert "401" in paths["/info"]["get"]["responses"]
    assert "security" not in paths["/health"]["get"]


def test_info_tells_models_and_limits(live: Live) -> None:
    """Names as text-embeddings-inference has them too."""
    info = live.client.get("/info").json()
    assert [model["name"] for model in info["models"]] == ["tiny", "other"]
    assert (info["model_id"], info["max_input_length"]) == ("tiny", 128)
    assert info["limits"]["max_documents"] == 50
    assert (info["models"][0]["precision"], info["models"][0]["dtype"]) == ("fp32", "float32")


def test_metrics_are_readable_and_probes_answer(live: Live) -> None:
    """Prometheus' own type."""
    metrics = live.client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "secondpass_requests_total" in metrics.text
    assert live.client.get("/health").json() == {"status": "alive"}
    assert live.client.get("/ready").json() == {"status": "ready"}
