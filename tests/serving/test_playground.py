"""The playground without a browser: the files of its page, and what it asks beside the other endpoints."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient
from typer.testing import CliRunner

from secondpass import Cascade, CrossEncoder
from secondpass.cli import app as cli
from secondpass.corpora import HEADER_KEYS, ID_KEYS, TEXT_KEYS
from secondpass.errors import InvalidInput, MissingExtra
from secondpass.explanation import explain
from secondpass.serving import Settings, create_app
from secondpass.serving.playground import FILES, POLICY
from secondpass.serving.settings import ApiKeys
from secondpass.training.negatives.candidates import BM25, indexed
from secondpass.windows import Windows
from tests.serving.conftest import KEY, Held, Live, Serve, running
from tests.tiny_models import make_reranker

DEMO = "secondpass/demo"
QUERY = "I was charged twice"
PAGES = ("/playground", *(f"/playground/{name}" for name in FILES if name != "page.html"))


@pytest.fixture(scope="module")
def play(tiny: CrossEncoder) -> Iterator[Live]:
    """A service with the page over the packaged help centre."""
    with running(Settings(playground=DEMO, max_documents=50, max_characters=5000), {"tiny": tiny}) as live:
        yield live


@pytest.mark.parametrize("path", PAGES)
def test_a_page_may_load_nothing_but_its_own_files(play: Live, path: str) -> None:
    """The policy of every file of it: no other host, no script or style inside, no text as HTML, in nobody's frame."""
    answer = play.client.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert play.client.head(path).status_code == 200


def test_the_policy_holds_back_what_a_page_could_do() -> None:
    """Each rule stands there; nothing is taken back by a word such as unsafe-inline."""
    rules = dict(rule.strip().split(" ", 1) for rule in POLICY.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert (rules["require-trusted-types-for"], rules["trusted-types"]) == ("'script'", "'none'")
    assert "unsafe" not in POLICY


def test_the_files_name_no_other_host_and_make_no_html_of_texts() -> None:
    """Every file in the folder is served; none has an address, a handler or a style in the page, or writes HTML."""
    folder = files("secondpass") / "playground"
    assert {file.name for file in folder.iterdir()} == set(FILES)
    for name in FILES:
        # the name of SVG's elements is no address that anybody goes to
        text = (folder / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:", text), name
        writes = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function"
        assert not re.search(writes, text), name
        assert len(text.splitlines()) <= 500
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?! type=\"module\" src=)", page)


def test_the_page_knows_the_names_of_columns_that_the_library_knows() -> None:
    """Of a table's first line, which is no document then."""
    text = (files("secondpass") / "playground" / "documents.js").read_text(encoding="utf-8")
    (names,) = re.findall(r"COLUMNS = new Set\((\[.*\])\);", text)
    assert {*json.loads(names)} == {*ID_KEYS, *TEXT_KEYS, *HEADER_KEYS}


def test_the_root_leads_to_the_page(play: Live, live: Live) -> None:
    """Below whatever path a proxy has put the service; without the playground there is no page."""
    assert play.client.get("/").headers["location"] == "playground"
    assert play.client.get("/", follow_redirects=True).text.startswith("<!DOCTYPE html>")
    for path in ("/", "/playground", "/playground/corpus"):
        assert live.client.get(path).status_code == 404
    assert play.client.get("/playground/..%2f..%2fpyproject.toml").status_code == 404


def test_the_first_pass_is_bm25_over_the_corpus(play: Live) -> None:
    """Documents with their texts, best first, none that shares no word with the query; so many as are asked for."""
    documents, index = indexed(Path(DEMO))
    told = play.client.post("/playground/search", json={"query": QUERY, "top_k": 7}).json()
    found = index.found(QUERY, 7)
    assert told["searched"] == len(documents) == 305
    assert [(one["index"], one["id"], one["title"], one["text"]) for one in told["results"]] == [
        (place, documents[place].id, documents[place].title, documents[place].text) for place, _ in found
    ]
    assert [one["score"] for one in told["results"]] == pytest.approx([score for _, score in found], abs=1e-6)
    assert play.client.post("/playground/search", json={"query": "qqqq"}).json()["results"] == []
    # no more than the second pass may be asked for
    many = {"query": "the app and files of mine", "top_k": 999}
    assert len(play.client.post("/playground/search", json=many).json()["results"]) <= 50


def test_the_first_pass_takes_texts_that_come_with_the_query(play: Live) -> None:
    """Those that share no word stand behind, as they were given: the second pass may find what no word tells."""
    texts = ["About trains.", " ", "Charged twice?", "Charged.", "About <b>eggs</b>."]
    told = play.client.post("/playground/search", json={"query": QUERY, "documents": texts}).json()
    assert [one["index"] for one in told["results"]] == [2, 3, 0, 1, 4]
    assert [one["score"] > 0 for one in told["results"]] == [True, True, False, False, False]
    scores = [score for _, score in BM25(texts).found(QUERY, 9)]
    assert [one["score"] for one in told["results"]][:2] == pytest.approx(scores, abs=1e-6)
    assert [*told["results"][0]] == ["index", "score"]


def test_an_explanation_is_that_of_the_library(play: Live, tiny: CrossEncoder) -> None:
    """Of a whole document and of a passage, by the named model, without the texts again."""
    document = "The cat is here. 😀 A dog ran. My mat is gone."
    for passage in (None, [17, 29]):
        told = play.client.post(
            "/playground/explain", json={"query": "cat", "document": document, "passage": passage, "model": "tiny"}
        ).json()
        wanted = explain(tiny, "cat", document, passage=None if passage is None else (17, 29)).to_dict()
        assert told["model"] == "tiny"
        assert "document" not in told
        assert [part["text"] for part in told["sentences"]] == [part["text"] for part in wanted["sentences"]]
        for name in ("sentences", "words", "query_words"):
            mine, theirs = ([part["contribution"] for part in one[name]] for one in (told, wanted))
            assert mine == pytest.approx(theirs, abs=1e-5)
        assert told["additive"]["check"] == wanted["additive"]["check"]


@pytest.mark.parametrize("standing", [None, Windows(tokens=40)])
def test_an_explanation_is_of_what_the_score_is_of(serve: Serve, tiny: CrossEncoder, standing: Windows | None) -> None:
    """A long document is read as /v2/rerank reads it: as the request says, else the service."""
    live = serve(playground=DEMO, truncation=standing)
    document = "The dog ran. " * 99 + "The cat sat on the mat. " + "The dog ran. " * 99
    cases: tuple[tuple[bool | None, Any], ...] = (
        (True, standing or Windows()),
        (False, "only_document"),
        (None, standing),
    )
    for asked, how in cases:
        body = {"query": "cat", "windows": asked}
        told = live.client.post("/playground/explain", json=body | {"document": document}).json()
        wanted = explain(tiny, "cat", document, truncation=how).to_dict()
        assert told["read"] == wanted["read"]
        assert told["logit"] == pytest.approx(wanted["logit"], abs=1e-5)
        scored = live.client.post("/v2/rerank", json=body | {"documents": [document], "return_logits": True}).json()
        assert scored["results"][0]["logit"] == pytest.approx(told["logit"], abs=1e-5)


def test_a_cascade_is_explained_with_its_instruction(tiny: CrossEncoder, tmp_path: Path) -> None:
    """As its last model has scored."""
    judge = CrossEncoder(str(make_reranker(tmp_path / "judge")), device="cpu")
    cascade = Cascade([tiny, judge], instruction="find the animal")
    with running(Settings(playground=DEMO), {"best": cascade}) as live:
        body = {"query": "cat", "model": "best"}
        told = live.client.post("/playground/explain", json=body | {"document": "the mat"}).json()
        scored = live.client.post("/v2/rerank", json=body | {"documents": ["the mat"], "return_logits": True}).json()
    assert scored["results"][0]["logit"] == pytest.approx(told["logit"], abs=1e-4)
    assert told["logit"] != pytest.approx(judge.explain("cat", "the mat").logit, abs=1e-4)


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("search", {"query": " \u200b"}, 422, "query is blank"),
        ("search", {"query": 3}, 422, "query"),
        ("search", {"query": "a" * 5001}, 422, "query has 5001 characters, more than 5000"),
        ("search", {"query": "a", "documents": []}, 422, "documents"),
        ("search", {"query": "a", "documents": [" "]}, 422, "every document is blank"),
        ("search", {"query": "a", "documents": ["b"] * 51}, 422, "documents: 51 are more than the 50"),
        ("search", {"query": "a", "top_k": 0}, 422, "top_k"),
        ("explain", {"query": "a", "document": "b" * 5001}, 422, "document[0] has 5001 characters"),
        ("explain", {"query": "a", "document": ""}, 422, "blank"),
        ("explain", {"query": "a", "document": "b", "model": "none"}, 404, "there is none of this name"),
        ("explain", {"query": "a", "document": "b", "passage": [0, 9]}, 422, "is no part of the document"),
        ("explain", {"query": "a", "document": "b", "passage": [0]}, 422, "passage"),
        ("explain", {"query": "a", "document": "b", "windows": "yes"}, 422, "windows"),
    ],
)
def test_refusals_are_those_of_the_service(play: Live, path: str, body: object, status: int, said: str) -> None:
    """The same bodies, limits and words."""
    answer = play.client.post(f"/playground/{path}", json=body)
    assert (answer.status_code, said in answer.json()["message"]) == (status, True), answer.text
    assert answer.json()["request_id"]


def test_headers_and_json_are_asked_as_everywhere(play: Live) -> None:
    """A page of another site cannot post here, and what is no JSON is told."""
    plain = play.client.post("/playground/search", content='{"query": "a"}', headers={"Content-Type": "text/plain"})
    assert plain.status_code == 415
    broken = play.client.post("/playground/search", content="{", headers={"Content-Type": "application/json"})
    assert broken.status_code == 400
    assert play.client.get("/playground", headers={"Host": "evil.example"}).status_code == 421


def test_with_keys_the_page_is_open_and_its_questions_are_not(serve: Serve) -> None:
    """Whoever opens a page has no header for a key; the files hold nothing of the service."""
    live = serve(playground=DEMO, keys=ApiKeys([KEY]))
    assert [live.client.get(path).status_code for path in PAGES] == [200] * len(PAGES)
    assert live.client.get("/playground/corpus").status_code == 401
    assert live.client.post("/playground/search", json={"query": "a"}).status_code == 401
    assert live.client.post("/playground/explain", json={"query": "a", "document": "b"}).status_code == 401
    key = {"Authorization": f"Bearer {KEY}"}
    assert live.client.get("/playground/corpus", headers=key).json()["documents"] == 305


def test_nothing_is_waited_for_beyond_the_deadline(serve: Serve, held: Held) -> None:
    """An explanation by a model that is busy is late, and the first pass does not wait behind it."""
    live = serve(playground=DEMO, deadline_s=2.0)
    answer = live.client.post("/playground/explain", json={"query": "a", "document": "b"})
    assert (answer.status_code, answer.json()["error_type"]) == (504, "deadline")
    assert live.client.post("/playground/search", json={"query": QUERY}).status_code == 200


def test_the_page_is_told_what_is_searched(tiny: CrossEncoder, tmp_path: Path) -> None:
    """A name that does not tell where the file lies, and queries where the corpus has some."""
    file = tmp_path / "help.jsonl"
    rows = [
        {"id": 1, "text": "A \ud800cat."},
        {"id": 2, "text": " "},
        {"id": 3, "title": "T", "text": "A cat and a dog."},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with running(Settings(playground=str(file)), {"tiny": tiny}) as live:
        assert live.client.get("/playground/corpus").json() == {"name": "help.jsonl", "documents": 2, "examples": []}
        told = live.client.post("/playground/search", json={"query": "cat"}).json()
        assert [one["text"] for one in told["results"]] == ["A \ufffdcat.", "A cat and a dog."]


def test_a_packaged_corpus_has_queries(play: Live) -> None:
    """The first of its file."""
    told = play.client.get("/playground/corpus").json()
    assert (told["name"], len(told["examples"])) == (DEMO, 6)
    assert told["examples"][0] == "I was charged twice, how do I get my money back"


def test_a_corpus_that_cannot_be_had_is_refused_at_the_start(tiny: CrossEncoder, tmp_path: Path) -> None:
    """Before a model is loaded."""
    (tmp_path / "blank.jsonl").write_text('{"id": 1, "text": " "}\n')
    with pytest.raises(InvalidInput, match="no document in it has text"):
        create_app(Settings(playground=str(tmp_path / "blank.jsonl")), {"tiny": tiny})
    with pytest.raises(InvalidInput, match="no such file"):
        create_app(Settings(playground=str(tmp_path / "none.jsonl")))


def test_without_bm25s_it_says_what_to_install(tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, not at the first query."""
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingExtra, match=r'pip install "secondpass\[eval\]"'):
        create_app(Settings(playground=DEMO), {"tiny": tiny})


def test_requests_are_counted_by_their_path(play: Live) -> None:
    """Pages too."""
    play.client.get("/playground/page.css")
    play.client.post("/playground/search", json={"query": QUERY})
    told = play.client.get("/metrics").text
    for path in ("/playground/page.css", "/playground/search"):
        assert f'secondpass_requests_total{{path="{path}",status="200"}}' in told


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", ["/playground/search", "/playground/explain"])
def test_the_endpoints_keep_their_contract(play: Live, path: str, mode: GenerationMode) -> None:
    """Valid requests are answered as declared, invalid ones refused as declared."""
    schema = schemathesis.openapi.from_url(f"{play.url}/openapi.json")
    (operation,) = [found.ok() for found in schema.get_all_operations() if found.ok().path == path]
    seen: set[int] = set()

    @settings(max_examples=15, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def asked(case: object) -> None:
        response = case.call()  # type: ignore[attr-defined]
        # which texts are blank, which names models have and where a document ends no schema tells
        untold = response.status_code in (404, 422)
        case.validate_response(response, excluded_checks=[positive_data_acceptance] * untold)  # type: ignore[attr-defined]
        seen.add(response.status_code)

    asked()
    assert max(seen) < 500


def test_the_page_of_docs_does_what_it_says(play: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its requests are answered, its commands are understood, and its Python makes a service with the page."""
    page = Path(__file__).parents[2].joinpath("docs", "playground.md").read_text(encoding="utf-8")
    asked = re.findall(r"curl localhost:8000(/\S+)(?: -H '\S+ \S+' -d '(.*?)')?$", page, re.DOTALL | re.MULTILINE)
    assert [path for path, _ in asked] == ["/playground/search", "/playground/explain", "/playground/corpus"]
    for path, body in asked:
        answer = play.client.post(path, json=json.loads(body)) if body else play.client.get(path)
        assert answer.status_code == 200, answer.text
    seen: list[Settings] = []
    monkeypatch.setattr("secondpass.serving.server.serve", seen.append)
    for line in re.findall(r"^secondpass (.*)$", page, re.MULTILINE):
        assert CliRunner().invoke(cli, line.split()).exit_code == 0, line
    assert [(one.playground, len(one.models), one.port) for one in seen] == [
        (DEMO, 1, 8000),
        ("help_centre.jsonl", 2, 8000),
        ("my_beir_folder", 1, 9000),
    ]
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102 - our own page
    with TestClient(names["app"], "http://localhost") as client:  # type: ignore[arg-type]
        assert client.get("/playground").status_code == 200
        assert client.get("/playground/corpus").json()["documents"] == 305
