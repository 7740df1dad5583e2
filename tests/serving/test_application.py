"""The application for whoever embeds it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.datastructures import Headers

from secondpass import CrossEncoder
from secondpass.calibration import AnswerRule, Calibration
from secondpass.errors import SecondPassError
from secondpass.serving import Settings, bodies, create_app
from secondpass.serving.bodies import ValueCount, check_headers, parse, read_body
from secondpass.serving.problems import Problem
from secondpass.serving.settings import ApiKeys, ModelSource
from secondpass.text import repaired
from tests.serving.conftest import KEY, Held, Live, Serve, running, until


async def test_it_runs_in_any_asgi_server(tiny: CrossEncoder) -> None:
    """Here in none: the client calls it directly, and its lifespan ends the queues."""
    app = create_app(models={"tiny": tiny})
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://x", trust_env=False) as client,
    ):
        answer = await client.post("/score", json={"pairs": [["cat", "mat"]]})
        assert answer.json()["scores"] == pytest.approx([float(tiny.predict(["cat", "mat"]))], abs=1e-6)
    with pytest.raises(SecondPassError, match="closed"):
        app.state.service.models.get(None).shared.submit("cat", ["mat"])


def test_it_loads_the_models_of_its_settings(tiny_folder: str) -> None:
    """Under their names."""
    app = create_app(Settings(models=(ModelSource("mine", tiny_folder),), device="cpu"))
    assert [served.name for served in app.state.service.models] == ["mine"]
    app.state.service.models.close()


SCORING = ("/v2/rerank", "/v1/rerank", "/voyage/v1/rerank", "/rerank", "/v1/ranking", "/score", "/v1/score")
WATCHING = ("/health", "/ready", "/info", "/v1/models", "/metrics")
# What a schema cannot tell: which texts say nothing, to Unicode or to the tokenizer, and lists of one length.
# Which models have a place for an instruction is their matter.
# Which fields on how texts are read go together is a matter of several.
UNTOLD = ("blank", "neither one nor as many", "has no place for one", "windows", "max_chunks_per_doc")
POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
# /v1/score is /score
CASES = [*((path, POSITIVE) for path in SCORING[:-1] + WATCHING), *((path, NEGATIVE) for path in SCORING[:-1])]


@pytest.fixture(scope="module")
def contract(tiny_folder: str) -> Iterator[Any]:
    """The service's own description, behind a key; of a model with a calibration, which any request may ask for."""
    encoder = CrossEncoder(tiny_folder, device="cpu")
    encoder.use_calibration(Calibration("logistic", answers=AnswerRule(0.0, 40, 0.9, 0.9)))
    with running(Settings(keys=ApiKeys([KEY])), {"tiny": encoder}) as live:
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

    @settings(max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def asked(case: Any) -> None:
        response = case.call(headers=headers)
        untold = response.status_code == 422 and any(said in response.text for said in UNTOLD)
        case.validate_response(response, headers=headers, excluded_checks=[positive_data_acceptance] * untold)
        seen[response.status_code] += 1

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
    assert (info["model_sha"], info["model_dtype"]) == (None, "float32")
    assert info["model_type"] == {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
    limits = ("max_concurrent_requests", "max_client_batch_size", "max_batch_requests", "tokenization_workers")
    assert [info[name] for name in limits] == [256, 50, None, 1]
    assert info["max_batch_tokens"] > 128
    assert (info["auto_truncate"], info["sha"], info["docker_label"]) == (True, None, None)
    assert info["limits"]["max_documents"] == 50
    assert (info["models"][0]["precision"], info["models"][0]["dtype"]) == ("fp32", "float32")


def test_models_are_listed_as_openai_lists_them(live: Live) -> None:
    """What llama-index's and langchain's Nvidia rankers ask first: an id each, and `root`, the model's own name."""
    listed = live.client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [(one["id"], one["root"], one["object"]) for one in listed["data"]] == [
        ("tiny", "tiny", "model"), ("other", "other", "model"),
    ]  # fmt: skip
    assert all(one["created"] > 1_700_000_000 and one["owned_by"] == "secondpass" for one in listed["data"])


def test_metrics_are_readable_and_probes_answer(live: Live) -> None:
    """Prometheus' own type."""
    metrics = live.client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "secondpass_requests_total" in metrics.text
    assert live.client.get("/health").json() == {"status": "alive"}
    assert live.client.get("/ready").json() == {"status": "ready"}


BODY = {"query": "where is the cat", "documents": ["the mat", "a dog"]}
TEI = {"query": "where is the cat", "texts": ["the mat", "a dog"]}


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


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("attacker.example", 421), ("attacker.example:8000", 421), ("attacker.example.", 421), ("127.0.0.1.x.io", 421),
        ("localhost.attacker.example", 421), ("[::1].attacker.example", 421), ("127.0.0.1", 200), ("[::1]:80", 200),
        ("LOCALHOST:80", 200), ("app.localhost", 200), ("10.1.2.3:1", 200), ("service", 200),
    ],
)  # fmt: skip
def test_a_page_cannot_reach_the_service_under_its_own_name(live: Live, serve: Serve, host: str, status: int) -> None:
    """Over this machine's address and without keys only an address, localhost or a plain name is a Host."""
    for path in ("/health", "/openapi.json", "/metrics", "/nowhere"):
        answer = live.client.get(path, headers={"Host": host})
        assert (answer.status_code == 421) == (status == 421)
    posted = live.client.post("/v2/rerank", json=BODY, headers={"Host": host})
    assert posted.status_code == status
    if host == "attacker.example":
        assert posted.json()["error_type"] == "host"
        for settings in ({"keys": ApiKeys([KEY])}, {"without_keys": True}):
            assert serve(**settings).client.get("/health", headers={"Host": host}).status_code == 200


LISTS = b"[]," * 400_000
HOSTILE = {
    "lists": b'{"query":"q","documents":[' + LISTS + b"[]]}",
    "numbers": b'{"query":"q","documents":[' + b"1," * 400_000 + b"1]}",
    "texts": b'{"query":"q","texts":[' + b'"",' * 400_000 + b'""]}',
    "fields": b'{"query":"q","documents":["a"]' + b"".join(b',"f%d":1' % number for number in range(200_000)) + b"}",
    "unknown": b'{"query":"q","documents":["a"],"x":[' + LISTS + b"[]]}",
    "objects": b'{"query":"q","documents":[' + b'{"a":{}},' * 200_000 + b"{}]}",
    "behind an escape": b'{"query":"\\\\\\"","documents":[' + LISTS + b"[]]}",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_body_of_a_million_values_is_never_parsed(live: Live, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """422 for what a parser would make gigabytes of; the key of a text may have as many marks as it likes."""
    monkeypatch.setattr("secondpass.serving.application.parse", lambda body: pytest.fail("parsed"))
    answer = live.client.post("/rerank", content=HOSTILE[kind], headers=JSON)
    assert (answer.status_code, answer.json()["message"]) == (422, "the body has more than 6000 values")


@pytest.mark.parametrize("size", [1, 3, 65_536])
@pytest.mark.parametrize(
    ("body", "most", "is_over"),
    [
        (b'{"query":"' + b'[{,\\"' * 50 + b'"}', 2, False),
        (b'{"query":"' + b"\\\\" * 50 + b'","a":1}', 3, False),
        (b'{"query":"' + b"\\\\" * 50 + b'","a":1}', 2, True),
        (b"[1,2,3]", 4, False),
        (b"[1,2,3]", 3, True),
        (b'"' * 100, 20, True),
    ],
)
def test_values_are_counted_outside_of_texts(body: bytes, most: int, is_over: bool, size: int) -> None:
    """However the body is cut into parts, in the middle of an escape too."""
    count = ValueCount(most)
    for start in range(0, len(body), size):
        count.add(body[start : start + size])
    assert count.is_over is is_over


def test_wrong_documents_are_told_by_the_first(serve: Serve) -> None:
    """A list is counted before it is looked at, and left at its first error; so is an object of many fields."""
    live = serve(max_documents=100_000)
    wrong = live.client.post("/v1/rerank", json={"query": "q", "documents": [1] * 100_000})
    assert wrong.json()["message"] == "documents[0]: is neither a string nor an object with the string 'text'"
    lists = ("documents", "texts", "passages", "pairs", "text_1", "text_2", "queries", "items", "data_1", "data_2")
    for name in (*lists, "rank_fields"):
        many = serve().client.post("/rerank", json={"query": "q", "documents": ["a"], name: [1] * 1001})
        assert many.json()["message"] == f"{name}: 1001 are more than the 1000 that one request may have"
    fields = live.client.post("/score", json={f"f{number}": 1 for number in range(1001)})
    assert fields.json()["message"] == "the body has 1001 fields, more than 1000"


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


def test_swagger_s_pages_are_there_when_asked_for(serve: Serve) -> None:
    """With all that they load, which is the service's own; by default there are none."""
    pytest.importorskip("fastapi_offline", reason="fastapi-offline is not installed")
    client = serve(docs=True, keys=ApiKeys([KEY])).client
    page = client.get("/docs")
    assert page.status_code == 200
    loaded = re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text)
    assert len(loaded) > 1
    for address in (*loaded, "/openapi.json"):
        assert address.startswith("/")
        assert client.get(address).status_code == 200
    assert client.get("/redoc").status_code == 404
    assert client.post("/v2/rerank", json=BODY).status_code == 401


def test_nobody_comes_in_when_all_places_are_taken(serve: Serve, held: Held) -> None:
    """429 with Retry-After, and the service recovers."""
    import threading

    live = serve(max_requests=1)
    answers: list[int] = []
    first = threading.Thread(target=lambda: answers.append(live.client.post("/rerank", json=BODY).status_code))
    first.start()
    assert held.reached.wait(30)
    full = live.client.post("/v1/rerank", json=BODY)
    assert (full.status_code, full.headers["retry-after"]) == (429, "1")
    assert full.json()["error_type"] == "overloaded"
    assert live.client.post("/rerank", json=TEI).json()["error_type"] == "Overloaded"
    assert live.client.get("/ready").status_code == 200
    held.go.set()
    first.join(30)
    assert answers == [200]
    assert live.client.post("/rerank", json=BODY).status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "Expecting property name"),
        (b'{"a":NaN}', "NaN, infinite or too long"),
        (b'{"a":-Infinity}', "NaN, infinite or too long"),
        (b'{"a":' + b"9" * 5000 + b"}", "NaN, infinite or too long"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 50_000 + b'"\\ud800"' + b"}" * 50_000, "nested too deeply"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        (b'"\xed\xa0\x80"', "not UTF-8 at byte 1"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8 at byte 0"),
        ('{"a":1}'.encode("utf-16-be"), "Expecting"),
        ('{"a":1}'.encode("utf-32"), "not UTF-8 at byte 0"),
        (b'{"a":' + b"9" * 401 + b"}", "NaN, infinite or too long"),
        (b'{"a":0.' + b"9" * 399 + b"}", "NaN, infinite or too long"),
        (b"secret words", "Expecting value at line 1 column 1"),
        (b"", "Expecting value"),
    ],
)
def test_what_is_no_json_is_refused_by_its_place(body: bytes, said: str) -> None:
    """400, without the text."""
    with pytest.raises(Problem) as refused:
        parse(body)
    assert refused.value.status == 400
    assert said in refused.value.message
    assert "secret" not in refused.value.message


@pytest.mark.parametrize("text", ["x", r"\ud800", "x" * 70_000, "[{" * 500], ids=("short", "lone", "long", "brackets"))
def test_nesting_has_one_bound_whatever_else_is_in_the_body(text: str) -> None:
    """200 lists or objects in one another; brackets in texts are none."""
    for opens, closes in (("[", "]"), ('{"a":', "}")):
        assert parse(f'{opens * 200}"{text}"{closes * 200}'.encode())
        assert parse(f"[{','.join([opens + '1' + closes] * 500)}]".encode())
        with pytest.raises(Problem, match="nested too deeply"):
            parse(f'{opens * 201}"{text}"{closes * 201}'.encode())


def _mended(value: Any) -> Any:
    """Without lone surrogates, at every depth."""
    if isinstance(value, dict):
        return {repaired(name): _mended(item) for name, item in value.items()}
    return (
        [_mended(item) for item in value]
        if isinstance(value, list)
        else (repaired(value) if isinstance(value, str) else value)
    )


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES, st.booleans(), st.none() | st.integers(0, 200), st.sampled_from(['"', "\\", ",", "x", "\n", "]"]))
@settings(max_examples=300, deadline=None, database=None)
def test_what_is_read_in_pieces_is_what_is_read_at_once(value: Any, ascii: bool, place: int | None, put: str) -> None:
    """Values, and the places of errors, wherever a text is cut; what is wrong in a text is told first."""
    body = json.dumps(value, ensure_ascii=ascii)
    if place is not None:
        body = body[:place] + put + body[place + 1 :]

    def read(how: Callable[[str], Any]) -> Any:
        try:
            return how(body)
        except json.JSONDecodeError as error:
            return error.msg, error.pos

    tiny = re.compile(bodies.PIECE.pattern.replace("{1,64}", "{1,2}").replace("{0,1024}", "{0,1}"), re.DOTALL)
    once = read(lambda text: _mended(json.loads(text)))
    for piece in (bodies.PIECE, tiny):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bodies, "PIECE", piece)
            found = read(bodies._read_in_pieces)
        in_text = isinstance(found, tuple) and found[0].startswith(("Unterminated", "Invalid"))
        assert isinstance(once, tuple) if in_text else found == once


@pytest.mark.parametrize("unit", ["x", "\\n", "\\ud83d\\ude00", "\u0300", "\\u0300x", "\\ud800", '\\"'])
def test_nothing_that_is_read_at_once_is_long(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While C code reads, nobody else runs: a text, or a name, of megabytes is read in pieces."""
    longest, loads = 0, json.loads

    def watched(text: str, **options: Any) -> Any:
        nonlocal longest
        longest = max(longest, len(text))
        return loads(text, **options)

    monkeypatch.setattr("secondpass.serving.bodies.json.loads", watched)
    text = unit * 300_000
    value = parse(f'{{"a": ["{text}"], "{text}": 1}}'.encode())
    monkeypatch.undo()
    expected = loads(f'"{text}"').replace("\ud800", "\ufffd")
    assert value == {"a": [expected], expected: 1}
    assert longest < 70_000


def test_lone_surrogates_are_replaced_and_pairs_joined() -> None:
    """As the engine does in process, at any depth and in names."""
    body = rb'{"a\ud800": ["\ud83d\ude00", {"b": "x\udc00"}], "n": 1, "t": true}'
    value = parse(body)
    assert value == {"a�": ["😀", {"b": "x�"}], "n": 1, "t": True}
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    assert parse(b'"\\\\ud800"') == "\\ud800"
    assert parse(rb'"\udc00\ud83d\ud83d\ude00\ude00\u0000\ud800"') == "\ufffd\ufffd😀\ufffd\0\ufffd"
    began = time.process_time()
    assert parse(b'"' + rb"\ud800x" * 1_400_000 + b'"') == "\ufffdx" * 1_400_000
    assert time.process_time() - began < 0.5


JSON = {"content-type": "application/json"}
JSON_RAW = [(b"content-type", b"application/json")]


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "application/vnd.x+json", "Application/JSON"]
)
def test_json_is_taken(kind: str) -> None:
    """With parameters and suffixes."""
    check_headers(Headers({"content-type": kind}), 10)


@pytest.mark.parametrize("coding", [["identity"], ["Identity", " identity ,identity"], [""]])
def test_a_body_that_is_not_encoded_is_taken(coding: list[str]) -> None:
    """However often that is said."""
    check_headers(Headers(raw=[*JSON_RAW, *((b"content-encoding", value.encode()) for value in coding)]), 10)


@pytest.mark.parametrize("coding", [["gzip"], ["identity", "gzip"], ["identity, GZip"], ["", "br"], ["identity gzip"]])
def test_an_encoded_body_is_refused(coding: list[str]) -> None:
    """Wherever in the list, and in whichever of several headers, the coding is named."""
    with pytest.raises(Problem, match="without Content-Encoding") as refused:
        check_headers(Headers(raw=[*JSON_RAW, *((b"content-encoding", value.encode()) for value in coding)]), 10)
    assert refused.value.status == 415


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        (JSON | {"content-length": "11"}, 413),
        (JSON | {"content-length": "9" * 5000}, 413),
    ],
)
def test_what_the_headers_tell_is_refused_unread(headers: dict[str, str], status: int) -> None:
    """Other types, too many bytes."""
    with pytest.raises(Problem) as refused:
        check_headers(Headers(headers), 10)
    assert refused.value.status == status


def giving(*messages: dict[str, Any]) -> tuple[Callable[[], Awaitable[dict[str, Any]]], list[dict[str, Any]]]:
    """A `receive` that gives these messages and then nothing for ever, and what is left of them."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive, left


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    """A message with a part of the body."""
    return {"type": "http.request", "body": body, "more_body": more}


async def test_parts_are_joined() -> None:
    """Empty ones too."""
    receive, _ = giving(part(b"ab"), part(b""), part(b"c", more=False))
    assert await read_body(receive, 3, 5) == b"abc"


async def test_reading_stops_at_the_limit() -> None:
    """Not after the whole body has come."""
    receive, left = giving(*[part(b"x" * 10)] * 100)
    with pytest.raises(Problem) as refused:
        await read_body(receive, 25, 5)
    assert refused.value.status == 413
    assert refused.value.headers == {"Connection": "close"}
    assert len(left) == 97


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    """408."""
    receive, _ = giving(part(b"x"))
    with pytest.raises(Problem) as refused:
        await read_body(receive, 25, 0.01)
    assert refused.value.status == 408


async def test_a_body_that_pauses_is_not_waited_for() -> None:
    """408 long before the deadline."""
    receive, _ = giving(part(b"x"))
    with pytest.raises(Problem, match="nothing of the body came") as refused:
        await read_body(receive, 25, 60, pause_s=0.01)
    assert refused.value.status == 408


async def test_a_client_that_goes_ends_reading() -> None:
    """499."""
    receive, _ = giving(part(b"x"), {"type": "http.disconnect"})
    with pytest.raises(Problem) as refused:
        await read_body(receive, 25, 5)
    assert refused.value.status == 499
