"""Counters count what happened."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from secondpass import CrossEncoder
from secondpass.merging import MergedBatch
from secondpass.serving.admission import Admission
from secondpass.serving.metrics import Metrics
from secondpass.serving.models import Models
from secondpass.serving.settings import Settings


def samples(text: str) -> dict[tuple[str, str], float]:
    """Values by name and labels, without buckets."""
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def test_counts_are_shown(tiny: CrossEncoder) -> None:
    """Requests by path and status, pairs by model, what waits as it is now."""
    metrics, admission = Metrics(), Admission(3)
    models = Models({"a": tiny}, Settings(), metrics.watch)
    metrics.follow(admission, models)
    metrics.answered("/score", 200, 0.5, None)
    metrics.answered("/score", 429, 0.0, "overloaded")
    metrics.scored("a", 5, 70, 1)
    metrics.watch("a", MergedBatch(calls=3, pairs=9, tokens=90, seconds=0.1))
    with admission.place():
        shown = samples(metrics.text().decode())
    assert shown["secondpass_requests_total", "/score,200"] == 1
    assert shown["secondpass_problems_total", "overloaded"] == 1
    assert shown["secondpass_request_seconds_sum", "/score"] == 0.5
    assert shown["secondpass_pairs_total", "a"] == 5
    assert shown["secondpass_tokens_total", "a"] == 70
    assert shown["secondpass_cut_pairs_total", "a"] == 1
    assert shown["secondpass_round_calls_sum", "a"] == 3
    assert shown["secondpass_requests_in_flight", ""] == 1
    assert shown["secondpass_waiting_pairs", "a"] == 0
    assert shown["process_resident_memory_bytes", ""] > 0
    models.close()


def test_a_service_without_a_token_cache_shows_none(own_tiny: CrossEncoder) -> None:
    """With one, what was found in it and what was not."""
    for size, shown in ((0, None), (1, 0.0)):
        metrics = Metrics()
        models = Models({"a": own_tiny}, Settings(token_cache_mb=size), metrics.watch)
        metrics.follow(Admission(3), models)
        counts = samples(metrics.text().decode())
        assert counts.get(("secondpass_token_cache_documents_total", "hit")) == shown
        models.close()


def test_registries_are_apart() -> None:
    """Two services in one process do not count for each other."""
    Metrics().answered("/score", 200, 0.5, None)
    assert ("secondpass_requests_total", "/score,200") not in samples(Metrics().text().decode())
