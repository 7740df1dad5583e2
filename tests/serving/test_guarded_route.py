"""The gate: keys, places, sizes, JSON."""

from __future__ import annotations

import json
import socket

import pytest

from secondpass.serving.api_keys import ApiKeys
from tests.serving.conftest import KEY, Held, Live, Serve, until

BODY = {"query": "where is the cat", "documents": ["the mat", "a dog"]}


def test_keys_guard_everything_but_the_probes(serve: Serve) -> None:
    """401 before anything is read; /health and /ready stay open."""
    live = serve(keys=ApiKeys([KEY]))
    for path in ("/v2/rerank", "/v1/rerank", "/rerank", "/v1/ranking", "/score"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
            answer = live.client.post(path, content=b"no json", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "API key" in answer.json()["message"]
    for path in ("/info", "/metrics"):
        assert live.client.get(path).status_code == 401
        assert live.client.get(path, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert live.client.get("/health").status_code == live.client.get("/ready").status_code == 200
    assert live.client.post("/v2/rerank", json=BODY, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_metrics_may_be_open(serve: Serve) -> None:
    """Where it is said; nothing else is."""
    live = serve(keys=ApiKeys([KEY]), open_metrics=True)
    assert live.client.get("/metrics").status_code == 200
    assert live.client.get("/info").status_code == 401


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"", {}, 400),
        (b'{"query": NaN}', {}, 400),
        (b"[" * 50_000, {}, 400),
        (b'"\xff"', {}, 400),
        (b"null", {}, 422),
        (b"[]", {}, 422),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b"{}", {"Content-Encoding": "gzip"}, 415),
        (b'{"query": "' + b"x" * 3000 + b'"}', {}, 413),
    ],
)
def test_bodies_that_cannot_be_meant(serve: Serve, content: bytes, headers: dict[str, str], status: int) -> None:
    """One JSON form for every refusal, without a word of the body."""
    live = serve(max_body_bytes=2000 if status == 413 else 1_000_000)
    answer = live.client.post("/v2/rerank", content=content, headers={"Content-Type": "application/json"} | headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["message"] == answer.json()["detail"]


def test_an_endless_body_is_stopped_while_it_is_sent(serve: Serve) -> None:
    """No length is announced; the answer comes long before the sender is done."""
    live = serve(max_body_bytes=100_000)
    host, port = live.url.removeprefix("http://").split(":")
    head = "POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = 0
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode())
        try:
            while sent < 50_000_000:
                connection.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
                sent += 10_000
        except OSError:
            pass
    assert 100_000 <= sent < 50_000_000
    until(lambda: 'status="413"' in live.client.get("/metrics").text)
    assert live.service.admission.in_flight == 0


def test_a_body_that_never_comes_gives_its_place_back(serve: Serve) -> None:
    """408 after the deadline."""
    live = serve(deadline_s=0.3)
    host, port = live.url.removeprefix("http://").split(":")
    head = "POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 408")
    until(lambda: live.service.admission.in_flight == 0)


def test_the_service_fails_without_telling_texts(serve: Serve, live: Live) -> None:
    """What the model raises is 500 in the usual form, and the next request is answered."""
    broken = serve()
    reranker = broken.service.models.get(None).reranker

    def fail(*given: object) -> None:
        raise RuntimeError("the mat")

    handle = reranker.model.register_forward_pre_hook(fail)
    answer = broken.client.post("/v2/rerank", json=BODY)
    assert answer.status_code == 500
    assert answer.json()["error_type"] == "internal"
    assert "mat" not in answer.text
    handle.remove()
    assert broken.client.post("/v2/rerank", json=BODY).status_code == 200


def test_other_methods_and_paths_answer_in_json(live: Live) -> None:
    """405 with what is allowed, 404; HEAD where GET is."""
    options = live.client.options("/v2/rerank")
    assert (options.status_code, options.headers["allow"]) == (405, "POST")
    assert json.loads(options.content)["error_type"] == "no_endpoint"
    assert live.client.get("/v2/rerank").status_code == 405
    assert live.client.post("/nowhere", json=BODY).status_code == 404
    assert live.client.get("/docs").status_code == 404
    for path in ("/health", "/ready", "/info", "/metrics"):
        head = live.client.head(path)
        assert (head.status_code, head.content) == (200, b"")


def test_nobody_comes_in_when_all_places_are_taken(serve: Serve, held: Held) -> None:
    """429 with Retry-After, and the service recovers."""
    import threading

    live = serve(max_requests=1)
    answers: list[int] = []
    first = threading.Thread(target=lambda: answers.append(live.client.post("/rerank", json=BODY).status_code))
    first.start()
    assert held.reached.wait(30)
    full = live.client.post("/rerank", json=BODY)
    assert (full.status_code, full.headers["retry-after"]) == (429, "1")
    assert full.json()["error_type"] == "overloaded"
    assert live.client.get("/ready").status_code == 200
    held.go.set()
    first.join(30)
    assert answers == [200]
    assert live.client.post("/rerank", json=BODY).status_code == 200
