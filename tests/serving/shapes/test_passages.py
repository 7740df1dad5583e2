"""Nvidia's shape."""

from __future__ import annotations

import json

from secondpass import CrossEncoder
from secondpass.serving.shapes.parts import Answer
from secondpass.serving.shapes.passages import RankingRequest
from tests.serving.conftest import Live

BODY = {"query": {"text": "where is the cat"}, "passages": [{"text": "the mat"}, {"text": "a dog"}]}


def test_passages_become_pairs_and_logits_come_back() -> None:
    """NONE refuses cuts."""
    request = RankingRequest.model_validate(BODY | {"truncate": "NONE"})
    assert request.work().refuse_cuts
    assert request.work().documents == ("the mat", "a dog")
    answer = Answer("m", (0.0,) * 2, (0.0,) * 2, (-3.0, 2.0), (1, 0), 7, (), ())
    assert json.loads(request.render(answer, "id")) == {
        "rankings": [{"index": 1, "logit": 2.0}, {"index": 0, "logit": -3.0}]
    }


def test_over_the_wire(live: Live, tiny: CrossEncoder) -> None:
    """The order in process; errors by their place."""
    rankings = live.client.post("/v1/ranking", json=BODY | {"model": "tiny"}).json()["rankings"]
    (ranking,) = tiny.rank_many(["where is the cat"], [["the mat", "a dog"]])
    assert [item["index"] for item in rankings] == [item.index for item in ranking.documents]
    assert all(abs(item["logit"] - got.logit) < 1e-5 for item, got in zip(rankings, ranking.documents, strict=True))
    plain = live.client.post("/v1/ranking", json=BODY | {"query": "cat"})
    assert plain.status_code == 422
    assert plain.json()["message"].startswith("query: ")
    blank = live.client.post("/v1/ranking", json=BODY | {"query": {"text": ""}})
    assert blank.json()["message"] == "query is blank"
