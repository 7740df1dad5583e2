"""So many at once, and nobody once the service is leaving."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from secondpass import CrossEncoder
from secondpass.merging import MergedBatch
from secondpass.record import Cut
from secondpass.serving.models import Models
from secondpass.serving.problems import Problem
from secondpass.serving.settings import Settings
from secondpass.serving.telemetry import AT_ONCE, Admission, Facts, JsonLines, Metrics, Turns, log_failure
from secondpass.serving.work import Answer
from tests.serving.conftest import Live, until


def test_places_are_taken_and_given_back() -> None:
    """Also by a request that fails."""
    admission = Admission(1)
    with admission.place():
        with pytest.raises(Problem) as full, admission.place():
            raise AssertionError
        assert (full.value.status, full.value.headers["Retry-After"]) == (429, "1")
    with pytest.raises(KeyError), admission.place():
        raise KeyError
    assert admission.in_flight == 0


def test_draining_takes_nothing_new_and_waits_for_what_is_there() -> None:
    """It ends when nothing is in flight, or at last anyway."""
    admission = Admission(2)
    assert not admission.drained(0, 0)
    with admission.place():
        admission.drain()
        with pytest.raises(Problem) as leaving, admission.place():
            raise AssertionError
        assert (leaving.value.status, leaving.value.headers["Connection"]) == (503, "close")
        assert not admission.drained(0, 1000)
        assert admission.drained(0, 0)
    assert admission.drained(0, 1000)
    assert not admission.drained(1000, 1000)


async def test_requests_begin_a_few_in_each_round_and_in_their_order() -> None:
    """Whatever else the event loop has to do comes between them; one that goes away is passed over."""
    turns, begun, rounds = Turns(), list[int](), list[int]()

    async def request(number: int) -> None:
        await turns.turn()
        begun.append(number)

    tasks = [asyncio.create_task(request(number)) for number in range(100)]
    await asyncio.sleep(0)
    tasks[50].cancel()
    while not all(task.done() for task in tasks):
        before = len(begun)
        await asyncio.sleep(0)
        rounds.append(len(begun) - before)
    assert begun == [number for number in range(100) if number != 50]
    assert max(rounds) <= AT_ONCE
    await turns.turn()


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
    cut = (Cut(0, 0, 3),)
    metrics.scored("a", Answer("a", (0.5,) * 6, (), (), (), 70, cut, (), pairs=5, unscored=frozenset({5})), 0.25)
    metrics.watch("a", MergedBatch(calls=3, pairs=9, tokens=90, seconds=0.1))
    with admission.place():
        shown = samples(metrics.text().decode())
    assert shown["secondpass_requests_total", "/score,200"] == 1
    assert shown["secondpass_problems_total", "overloaded"] == 1
    assert shown["secondpass_request_seconds_sum", "/score"] == 0.5
    assert shown["secondpass_pairs_total", "a"] == 5
    assert shown["secondpass_tokens_total", "a"] == 70
    assert shown["secondpass_cut_pairs_total", "a"] == 1
    assert shown["secondpass_incomplete_answers_total", "a"] == 1
    assert shown["secondpass_round_calls_sum", "a"] == 3
    assert shown["secondpass_round_seconds_sum", "a"] == 0.1
    assert shown["secondpass_model_seconds_sum", "a"] == 0.25
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
    # a line is written when its answer is out
    until(lambda: sum(line["event"] == "request" for line in lines(caplog)) == 3)
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
    assert "test_telemetry.py" in json.dumps(line["at"])
    assert SECRET not in json.dumps(line) + JsonLines().format(record)


def test_the_dashboard_shows_what_the_service_tells(own_tiny: CrossEncoder, tmp_path: Path) -> None:
    """Each metric of deploy/grafana.json is in /metrics with the labels asked for, and each of ours is shown."""
    metrics = Metrics()
    models = Models({"a": own_tiny}, Settings(score_cache=str(tmp_path / "scores")), metrics.watch)
    metrics.follow(Admission(3), models)
    metrics.follow_connections(lambda: 0)
    metrics.answered("/score", 429, 0.0, "overloaded")
    metrics.scored("a", Answer("a", (0.5,), (), (), (), 7, (), (), pairs=1), 0.25)
    metrics.watch("a", MergedBatch(calls=3, pairs=9, tokens=90, seconds=0.1))
    metrics.shadowed("a", "b", "compared", {"first": 1.0})
    families = [*text_string_to_metric_families(metrics.text().decode())]
    there = {sample.name: set(sample.labels) | {"job", "instance"} for each in families for sample in each.samples}
    models.close()
    page = json.loads((Path(__file__).parents[2] / "deploy" / "grafana.json").read_text(encoding="utf-8"))
    charts = [panel for panel in page["panels"] if panel["type"] != "row"]
    asked = [target["expr"] for panel in charts for target in panel["targets"]]
    asked += [one["query"]["query"] for one in page["templating"]["list"] if one["type"] == "query"]
    used = set()
    for expression in asked:
        assert [expression.count(mark) for mark in "({["] == [expression.count(mark) for mark in ")}]"]
        wanted = {label for group in re.findall(r"by \(([\w, ]+)\)", expression) for label in group.split(", ")}
        for name, selected in re.findall(r"\b((?:secondpass|process)_\w+)(?:\{([^}]*)\})?", expression):
            assert name in there, expression
            assert wanted | set(re.findall(r"(\w+)=~?\"", selected)) <= there[name], expression
            used.add(name)
    plain = {re.sub(r"_(bucket|sum|count|created|total)$", "", name) for name in used}
    # of the families: one that nothing above was counted for has no sample
    told = {each.name for each in families if each.name.startswith("secondpass_")}
    assert {re.sub(r"_(bucket|sum|count|created|total)$", "", name) for name in told} - plain == set()
    places = [{(x, y) for x in range(box["x"], box["x"] + box["w"]) for y in range(box["y"], box["y"] + box["h"])}
              for box in (panel["gridPos"] for panel in page["panels"])]  # fmt: skip
    assert len(set().union(*places)) == sum(map(len, places))
    assert len({panel["id"] for panel in page["panels"]}) == len(page["panels"])
