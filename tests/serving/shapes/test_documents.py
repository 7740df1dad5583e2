"""Cohere's, Jina's and vLLM's shape."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from secondpass.serving.problems import Problem
from secondpass.serving.shapes.documents import RerankRequest, RerankResponse
from secondpass.serving.shapes.parts import Answer
from tests.serving.conftest import Live

ANSWER = Answer("m", (0.25, 1.0, 1e-9), (0.0,) * 3, (0.0,) * 3, (1, 0, 2), 7, (), ("w",))
BODY = {"query": "q", "documents": ["a", {"text": 'b"\\\n🎉'}, "c"]}


def test_a_body_becomes_pairs() -> None:
    """Texts alone and in objects; what has no effect is a warning."""
    work = RerankRequest.model_validate(
        BODY | {"model": "x", "max_tokens_per_doc": 9, "max_chunks_per_doc": 10, "rank_fields": ["text"], "priority": 1}
    ).work()
    assert (work.model, work.queries, work.documents) == ("x", ("q",) * 3, ("a", 'b"\\\n🎉', "c"))
    assert work.max_document_tokens == 9
    assert [warning.split(" ")[0] for warning in work.warnings] == ["unknown", "max_chunks_per_doc"]


def test_an_answer_is_json_with_its_own_numbers() -> None:
    """Best first, floats with a point, whole indices, texts on demand."""
    request = RerankRequest.model_validate(BODY | {"return_documents": True, "top_n": 2})
    text = request.render(ANSWER, "id")
    assert '"relevance_score":1.0,' in text
    answer = RerankResponse.model_validate_json(text)
    assert [(item.index, item.relevance_score) for item in answer.results] == [(1, 1.0), (0, 0.25)]
    assert json.loads(text)["results"][0]["document"] == {"text": 'b"\\\n🎉'}
    assert answer.meta.warnings == ["w"]
    everything = json.loads(RerankRequest.model_validate(BODY | {"top_n": 99}).render(ANSWER, "id"))
    assert everything["results"][2] == {"index": 2, "relevance_score": 0.0}
    assert RerankRequest.model_validate(BODY | {"top_n": 2.0}).top_n == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_n": 0}, {"top_n": True}, {"top_n": "3"}, {"top_n": 1.5}, {"documents": []}, {"documents": "a"},
        {"query": None}, {"query": ["q"]}, {"return_documents": "yes"}, {"max_tokens_per_doc": 0}, {"model": 3},
    ],
)  # fmt: skip
def test_wrong_fields_are_refused(wrong: dict[str, object]) -> None:
    """Types are not guessed."""
    with pytest.raises(ValidationError):
        RerankRequest.model_validate(BODY | wrong)


def test_other_fields_cannot_be_ranked_by() -> None:
    """A clear refusal, not a silent reading of `text`."""
    with pytest.raises(Problem, match="rank_fields"):
        RerankRequest.model_validate(BODY | {"rank_fields": ["title", "text"]}).work()


def test_over_the_wire(live: Live) -> None:
    """Every path of this shape, a named model, an unknown one, an error with its index."""
    for path in ("/v2/rerank", "/v1/rerank", "/rerank"):
        answer = live.client.post(path, json=BODY | {"model": "other", "return_documents": True}).json()
        assert answer["model"] == "other"
        assert sorted(item["index"] for item in answer["results"]) == [0, 1, 2]
        unknown = live.client.post(path, json=BODY | {"model": "nope"})
        assert unknown.status_code == 404
        assert "there is tiny, other" in unknown.json()["message"]
        wrong = live.client.post(path, json={"query": "a", "documents": ["secret", 3]})
        assert wrong.status_code == 422
        assert wrong.json()["message"] == "documents[1]: is neither a string nor an object with the string 'text'"
