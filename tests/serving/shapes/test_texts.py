"""text-embeddings-inference's shape."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from secondpass.serving.problems import Problem
from secondpass.serving.shapes.parts import Answer
from secondpass.serving.shapes.texts import TextsRequest, TextsResponse, shape_of
from tests.serving.conftest import Live

ANSWER = Answer("m", (9.0, 9.0), (0.25, 0.75), (-1.5, 2.0), (1, 0), 7, (), ())
BODY = {"query": "q", "texts": ["a", "b"]}


def test_a_body_becomes_pairs() -> None:
    """Sides in either spelling; no truncation means refusal."""
    work = TextsRequest.model_validate(BODY | {"truncate": False, "truncation_direction": "Left"}).work()
    assert (work.documents, work.keep_tail, work.refuse_cuts, work.field) == (("a", "b"), True, True, "texts")
    assert TextsRequest.model_validate(BODY | {"truncation_direction": "right"}).work().keep_tail is False
    assert TextsRequest.model_validate(BODY | {"truncate": True}).work().refuse_cuts is False


def test_the_answer_is_a_bare_list_without_other_fields() -> None:
    """The sigmoid, or the logits; texts on demand only."""
    assert (
        TextsRequest.model_validate(BODY).render(ANSWER, "id") == '[{"index":1,"score":0.75},{"index":0,"score":0.25}]'
    )
    raw = TextsRequest.model_validate(BODY | {"raw_scores": True, "top_n": 1, "return_text": True}).render(ANSWER, "id")
    assert json.loads(raw) == [{"index": 1, "score": 2.0, "text": "b"}]
    assert TextsResponse.model_validate_json(raw).root[0].text == "b"


def test_both_shapes_at_once_are_refused() -> None:
    """Which one would be guessed."""
    assert (shape_of(BODY), shape_of({"documents": []}), shape_of([])) == (
        "texts-shape", "documents-shape", "documents-shape",
    )  # fmt: skip
    with pytest.raises(Problem, match="not both"):
        TextsRequest.model_validate(BODY | {"documents": ["a"]}).work()
    with pytest.raises(ValidationError):
        TextsRequest.model_validate(BODY | {"truncation_direction": "Up"})


def test_over_the_wire(live: Live) -> None:
    """A pair that would be cut is refused where it may not be; the same from the left is scored."""
    long = {"query": "cat", "texts": ["mat", "dog " * 300 + "cat"]}
    assert live.client.post("/rerank", json=long).status_code == 200
    refused = live.client.post("/rerank", json=long | {"truncate": False})
    assert refused.status_code == 422
    assert refused.json()["error"] == "texts: 1 are longer than the model's window of 128 tokens"
    short = live.client.post("/rerank", json={"query": "cat", "texts": ["mat"], "truncate": False})
    assert list(short.json()[0]) == ["index", "score"]
    right, left = (
        live.client.post("/rerank", json=long | {"truncation_direction": side, "raw_scores": True}).json()
        for side in ("Right", "Left")
    )
    assert {item["index"]: item["score"] for item in right} != {item["index"]: item["score"] for item in left}
    wrong = live.client.post("/rerank", json={"query": "cat", "texts": ["mat", None]})
    assert wrong.json()["error"] == "texts[1]: Input should be a valid string"
