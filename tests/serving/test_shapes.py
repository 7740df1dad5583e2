"""Cohere's, Jina's and vLLM's shape."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import TypeAdapter, ValidationError

from secondpass import CrossEncoder
from secondpass.serving.fields import TextObject, TextOrObject
from secondpass.serving.problems import Problem
from secondpass.serving.scores import PairScores, TextPairsRequest
from secondpass.serving.settings import Settings
from secondpass.serving.shapes import (
    OpenRerankRequest,
    RankingRequest,
    Request,
    RerankRequest,
    RerankResponse,
    TextsRequest,
    TextsResponse,
    VoyageRequest,
    enveloped,
    json_number,
    shape_of,
)
from secondpass.serving.work import Answer, Work, indices
from secondpass.windows import Passage, Windows
from tests.serving.conftest import Live, running

ANSWER = Answer("m", (0.25, 1.0, 1e-9), (0.0,) * 3, (0.0,) * 3, (1, 0, 2), 7, (), ("w",))
BODY = {"query": "q", "documents": ["a", {"text": 'b"\\\n🎉'}, "c"]}


def test_a_body_becomes_pairs() -> None:
    """Texts alone and in objects; what has no effect is a warning."""
    work = RerankRequest.model_validate(
        BODY | {"model": "x", "max_tokens_per_doc": 9, "rank_fields": ["text"], "priority": 1}
    ).work()
    assert (work.model, work.queries, work.documents) == ("x", ("q",) * 3, ("a", 'b"\\\n🎉', "c"))
    assert work.max_document_tokens == 9
    assert work.warnings == ("unknown fields ignored: priority",)
    assert work.cut("longest_first").windows is None


OWN = Windows(tokens=50, overlap=5, most=9)


@pytest.mark.parametrize(
    ("asked", "own", "read"),
    [
        ({"windows": True}, "longest_first", Windows()),
        ({"windows": {}}, "error", Windows()),
        ({"windows": True}, OWN, OWN),
        ({"windows": {"tokens": 40.0, "most": 3, "select": "bm25"}}, OWN, Windows(tokens=40, most=3, select="bm25")),
        ({"windows": {"aggregate": 2, "borders": "words"}}, "longest_first", Windows(aggregate=2, borders="words")),
        ({"max_chunks_per_doc": 10}, "longest_first", Windows(most=10)),
        ({"max_chunks_per_doc": 2}, OWN, Windows(tokens=50, overlap=5, most=2)),
        ({}, OWN, OWN),
        ({}, "longest_first", None),
        ({"windows": False}, OWN, None),
        ({"max_chunks_per_doc": 1}, OWN, None),
        ({"truncation_side": "left"}, OWN, None),
        ({"truncate_prompt_tokens": 20}, OWN, None),
        ({"truncate_prompt_tokens": -1, "max_tokens_per_doc": 99}, OWN, OWN),
    ],
)
def test_windows_are_read_where_they_are_asked_for(asked: dict[str, object], own: Any, read: Windows | None) -> None:
    """By the request, else by the service; a request that says how a pair is cut is read in one piece."""
    cut = RerankRequest.model_validate(BODY | asked).work().cut(own)
    assert cut.windows == read
    assert (cut.truncation == "windows") == (read is not None)
    assert cut.max_document_tokens == asked.get("max_tokens_per_doc")
    assert own != OWN or read is not None or cut.truncation == "only_document"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"windows": {"tokens": 31}}, "windows.tokens: Input should be greater than or equal to 32"),
        ({"windows": {"tokens": 40, "overlap": 21}}, "windows: overlap=21 is more than half of tokens=40"),
        ({"windows": {"select": "bm25"}}, "windows: select='bm25' chooses among windows, and most=None reads them all"),
        (
            {"windows": {"a secret": 1}},
            "windows: has fields other than tokens, overlap, most, aggregate, borders, select",
        ),
        ({"windows": {"aggregate": 0}}, "windows.aggregate"),
        ({"windows": "yes"}, "windows: Input should be"),
        ({"windows": {}, "max_chunks_per_doc": 3}, "max_chunks_per_doc: windows.most says the same; give one of them"),
        ({"windows": True, "truncation_side": "left"}, "windows: documents are read whole, and another field says how"),
        ({"max_chunks_per_doc": 2, "truncate_prompt_tokens": 9}, "max_chunks_per_doc: documents are read whole"),
        ({"return_passages": True}, "return_passages: documents are read in one piece; ask for windows"),
        ({"return_passages": True, "max_chunks_per_doc": 1}, "return_passages: documents are read in one piece"),
    ],
)
def test_wishes_that_do_not_go_together_are_refused(live: Live, wrong: dict[str, object], said: str) -> None:
    """422 with the field's name, and nothing that a client made up."""
    refused = live.client.post("/v2/rerank", json=BODY | wrong)
    assert (refused.status_code, refused.json()["message"][: len(said)]) == (422, said)
    assert "secret" not in refused.text


def test_what_may_not_be_cut_is_not_read_in_windows_either(live: Live) -> None:
    """In every shape that can say so; by the service's setting such a request is as without."""
    for path, body in (
        ("/rerank", {"query": "cat", "texts": ["mat"], "truncate": False}),
        ("/rerank", {"query": "cat", "texts": ["mat"], "truncation_direction": "Left"}),
        ("/v1/rerank", {"query": "cat", "documents": ["mat"], "truncation": False}),
        ("/v1/ranking", {"query": {"text": "cat"}, "passages": [{"text": "mat"}], "truncate": "NONE"}),
    ):
        assert live.client.post(path, json=body).status_code == 200
        assert live.client.post(path, json=body | {"windows": True}).json()["message"].startswith("windows: ")
    assert Work(None, ("q",), ("d",), refuse_cuts=True).cut(OWN).truncation == "error"


LONG_TEXT = "dog " * 300
LONG = {"query": "cat", "documents": [LONG_TEXT]}
TEXTS = {"query": "cat", "texts": [LONG_TEXT]}
RANKING = {"query": {"text": "cat"}, "passages": [{"text": LONG_TEXT}]}
SCORING = {"text_1": "cat", "text_2": LONG_TEXT}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/rerank", LONG, 422),
        ("/v1/rerank", LONG | {"max_chunks_per_doc": 1}, 422),
        ("/v1/rerank", LONG | {"top_k": 1}, 422),
        ("/v1/rerank", LONG | {"truncation": None}, 422),
        ("/v1/rerank", LONG | {"truncation": True}, 200),
        ("/v1/rerank", LONG | {"truncate_prompt_tokens": -1}, 200),
        ("/v2/rerank", LONG | {"truncate_prompt_tokens": 20}, 200),
        ("/v2/rerank", LONG | {"truncation_side": "left"}, 200),
        ("/rerank", TEXTS, 422),
        ("/rerank", TEXTS | {"truncate": True}, 200),
        ("/rerank", TEXTS | {"truncation_direction": "Left"}, 200),
        ("/rerank", TEXTS | {"truncate": False, "truncation_direction": "Left"}, 422),
        ("/v1/ranking", RANKING, 422),
        ("/v1/ranking", RANKING | {"truncate": "END"}, 200),
        ("/score", SCORING, 422),
        ("/v1/score", SCORING | {"truncate_prompt_tokens": -1}, 200),
    ],
)
def test_a_request_that_asks_for_cuts_gets_them(strict: Live, path: str, body: dict[str, Any], status: int) -> None:
    """Also where the service refuses them: its rule holds where a request does not say it."""
    answer = strict.client.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers.get("secondpass-truncated") == ("1" if status == 200 else None)


@pytest.fixture(scope="module")
def strict(tiny: CrossEncoder) -> Iterator[Live]:
    """A service that cuts nothing."""
    with running(Settings(truncation="error"), {"tiny": tiny}) as service:
        yield service


def test_a_request_that_allows_cuts_is_read_in_windows_as_any_other() -> None:
    """Where the service says so: nothing of a document is lost then."""
    for asked in ({"truncate_prompt_tokens": -1}, {}):
        assert RerankRequest.model_validate(BODY | asked).work().cut(OWN).windows == OWN
    voyage = VoyageRequest.model_validate(BODY | {"truncation": True}).work()
    assert (voyage.cut(OWN).windows, voyage.cut("longest_first").truncation) == (OWN, "longest_first")


PASSAGES = (Passage(0, 1, -1.0, 3, 0.25), None, Passage(2, 4, 2.0, 1, 0.75))
BUDGETED = Answer("m", (0.25, 0.25, 0.75), (0.0,) * 3, (-1.0, -1.0, 2.0), (2, 0, 1), 7, (), (),
                  unscored=frozenset({1}), passages=PASSAGES)  # fmt: skip


@pytest.mark.parametrize("kind", [RerankRequest, VoyageRequest])
def test_passages_and_what_was_not_scored_are_told(kind: type[RerankRequest] | type[VoyageRequest]) -> None:
    """Where they are asked for; a document of which nothing was read has none."""
    body = {"query": "q", "documents": ["abcde", "fgh", "ijklm"], "windows": True}
    told = json.loads(kind.model_validate(body | {"return_passages": True}).render(BUDGETED, "id"))
    assert told.get("results", told.get("data")) == [
        {"index": 2, "relevance_score": 0.75,
         "passage": {"start": 2, "end": 4, "text": "kl", "score": 0.75, "windows": 1}},
        {"index": 0, "relevance_score": 0.25,
         "passage": {"start": 0, "end": 1, "text": "a", "score": 0.25, "windows": 3}},
        {"index": 1, "relevance_score": 0.25, "scored": False},
    ]  # fmt: skip
    billed = {"billed_units": {"search_units": 1}} if kind is RerankRequest else {}
    assert told["meta"] == {"tokens": {"input_tokens": 7}, **billed, "scored": 2, "complete": False}
    bare = json.loads(kind.model_validate(body).render(BUDGETED, "id"))
    assert "passage" not in json.dumps(bare)
    raw = RerankRequest.model_validate(body | {"return_passages": True, "use_activation": False}).render(BUDGETED, "id")
    assert [item.get("passage", {}).get("score") for item in json.loads(raw)["results"]] == [2.0, -1.0, None]
    RerankResponse.model_validate_json(raw)


def test_pairs_that_were_not_scored_are_told() -> None:
    """In vLLM's shape of scores; those that were have no such field."""
    text = TextPairsRequest.model_validate({"text_1": "q", "text_2": ["a", "b", "c"]}).render(BUDGETED, "id")
    assert [item.get("scored") for item in json.loads(text)["data"]] == [None, False, None]
    assert [item.scored for item in PairScores.model_validate_json(text).data] == [None, False, None]


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


def test_vllm_repeats_documents_and_sets_no_limit_by_zero(live: Live) -> None:
    """On its own paths; Cohere's keeps silent, and there 0 is no number of results."""
    for path in ("/v1/rerank", "/rerank"):
        body = BODY | {"top_n": 0, "max_tokens_per_doc": 0, "max_tokens_per_query": 0, "truncate_prompt_tokens": -1}
        results = live.client.post(path, json=body).json()["results"]
        assert {item["index"]: item["document"]["text"] for item in results} == {0: "a", 1: 'b"\\\n🎉', 2: "c"}
        bare = live.client.post(path, json=BODY | {"return_documents": False, "top_n": 2}).json()["results"]
        assert [sorted(item) for item in bare] == [["index", "relevance_score"]] * 2
        alone = live.client.post(path, json=BODY | {"documents": "the mat"}).json()["results"]
        assert [item["document"]["text"] for item in alone] == ["the mat"]
    assert live.client.post("/v2/rerank", json=BODY | {"documents": "the mat"}).status_code == 422
    answer = live.client.post("/v2/rerank", json=BODY).json()
    assert answer["meta"]["billed_units"] == {"search_units": 1}
    cohere = answer["results"]
    assert [sorted(item) for item in cohere] == [["index", "relevance_score"]] * 3
    assert live.client.post("/v2/rerank", json=BODY | {"top_n": 0}).status_code == 422


def test_vllm_says_what_is_read_of_long_texts(live: Live, tiny: CrossEncoder) -> None:
    """Tokens of a pair, of a query and of a document, and the end that goes; and whether scores are activated."""
    request = OpenRerankRequest.model_validate(
        BODY | {"truncate_prompt_tokens": 20, "truncation_side": "left", "max_tokens_per_query": 3.0}
        | {"max_tokens_per_doc": 5}
    )  # fmt: skip
    work = request.work()
    assert (work.max_tokens, work.keep_tail, work.max_query_tokens, work.max_document_tokens) == (20, True, 3, 5)
    assert work.warnings == ()
    body = {"query": "where is the cat", "documents": ["the mat " * 9], "truncate_prompt_tokens": 12}
    told = live.client.post("/v1/rerank", json=body).json()
    assert told["usage"]["prompt_tokens"] == 12
    assert told["meta"]["warnings"] == ["cut documents: index 0 (13 tokens; the window has 12)"]
    raw = live.client.post("/v1/rerank", json={"query": "cat", "documents": ["mat"], "use_activation": False}).json()
    (ranking,) = tiny.rank_many(["cat"], [["mat"]])
    assert raw["results"][0]["relevance_score"] == pytest.approx(ranking.documents[0].logit, abs=1e-5)
    both = live.client.post("/v1/rerank", json={"query": "cat", "documents": ["mat"], "return_logits": True}).json()
    assert both["results"][0]["relevance_score"] == pytest.approx(ranking.documents[0].score, abs=1e-5)
    assert both["results"][0]["logit"] == pytest.approx(ranking.documents[0].logit, abs=1e-5)
    for wrong in (0, 7, -2, True, "9", 2**31):
        refused = live.client.post("/v1/rerank", json=BODY | {"truncate_prompt_tokens": wrong})
        assert refused.json()["message"] == "truncate_prompt_tokens: is neither -1 nor a whole number from 8 up"


def test_voyage_is_known_by_its_fields(live: Live) -> None:
    """`top_k` and `truncation` in, `data` with texts as they are out; with `top_n` it is the other shape."""
    body = BODY | {"model": "tiny", "top_k": 2, "truncation": True, "return_documents": True}
    for path in ("/v1/rerank", "/rerank"):
        answer = live.client.post(path, json=body).json()
        whole = live.client.post(path, json=BODY).json()["results"]
        assert answer["object"] == "list"
        assert answer["usage"]["total_tokens"] > 0
        assert answer["data"] == [item | {"document": item["document"]["text"]} for item in whole[:2]]
        assert len(live.client.post(path, json=BODY | {"top_k": None}).json()["data"]) == 3
        assert "results" in live.client.post(path, json=BODY | {"top_k": 1, "top_n": 1}).json()
    own = live.client.post("/voyage/v1/rerank", json=BODY | {"return_documents": True}).json()
    assert own["data"] == [item | {"document": item["document"]["text"]} for item in whole]
    assert live.client.post("/voyage/v1/rerank", json=BODY | {"top_k": 1}).json()["data"] == [
        {name: own["data"][0][name] for name in ("index", "relevance_score")}
    ]
    long = {"query": "cat", "documents": ["dog " * 300], "truncation": False}
    refused = live.client.post("/v1/rerank", json=long)
    assert (refused.status_code, refused.json()["detail"][:20]) == (422, "documents at index 0")
    assert live.client.post("/v1/rerank", json=BODY | {"top_k": 0}).json()["message"].startswith("top_k: ")


def test_vllm_scores_one_with_many_and_each_with_its_own(live: Live, tiny: CrossEncoder) -> None:
    """`text_1` and `text_2` under both paths; errors name them."""
    texts = ["the mat", "a dog", "cat"]
    for path in ("/score", "/v1/score"):
        answer = live.client.post(path, json={"model": "other", "text_1": "where is the cat", "text_2": texts}).json()
        assert (answer["object"], answer["model"]) == ("list", "other")
        assert [(item["index"], item["object"]) for item in answer["data"]] == [(n, "score") for n in range(3)]
        expected = tiny.predict([("where is the cat", text) for text in texts]).tolist()
        assert [item["score"] for item in answer["data"]] == pytest.approx(expected, abs=1e-6)
    each = live.client.post("/score", json={"text_1": texts, "text_2": texts[::-1]}).json()["data"]
    pairs = live.client.post("/score", json={"pairs": list(zip(texts, texts[::-1], strict=True))}).json()["scores"]
    assert [item["score"] for item in each] == pairs
    one = live.client.post("/score", json={"text_1": "cat", "text_2": "mat", "use_activation": False}).json()["data"]
    (ranking,) = tiny.rank_many(["cat"], [["mat"]])
    assert one[0]["score"] == pytest.approx(ranking.documents[0].logit, abs=1e-5)
    for wrong, said in (
        ({"text_1": texts, "text_2": texts[:2]}, "text_1: 3 are neither one nor as many as text_2, which has 2"),
        ({"text_1": ["a", " "], "text_2": ["b", "c"]}, "text_1[1] is blank"),
        ({"text_1": "a", "text_2": ["b", 1]}, "text_2[1]: Input should be a valid string"),
        ({"text_1": "a", "text_2": []}, "text_2: List should have at least 1 item"),
        ({"text_1": "a", "text_2": ["", " "]}, "text_2: every document is blank"),
        ({"text_1": "a"}, "text_2: Field required"),
    ):
        assert live.client.post("/score", json=wrong).json()["message"].startswith(said)


@pytest.mark.parametrize(
    ("one", "two"), [("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "documents")]
)
def test_vllm_has_several_names_for_its_two_texts(live: Live, one: str, two: str) -> None:
    """One answer under each; errors name what the client said, and what is not read is a warning."""
    texts = ["the mat", "a dog", "cat"]

    def ask(body: object) -> Any:
        return live.client.post("/v1/score", json=body).json()

    for first in ("cat", texts):
        answer, known = ask({one: first, two: texts}), ask({"text_1": first, "text_2": texts})
        assert answer["data"] == known["data"]
        assert "warnings" not in answer["meta"]
    for wrong, said in (
        ({one: texts, two: texts[:2]}, f"{one}: 3 are neither one nor as many as {two}, which has 2"),
        ({one: ["a", " "], two: ["b", "c"]}, f"{one}[1] is blank"),
        ({one: "a", two: ["b", 1]}, f"{two}[1]: Input should be a valid string"),
        ({one: "a", two: ["", " "]}, f"{two}: every document is blank"),
        ({one: "a"}, "text_2: Field required"),
        ({two: "a"}, "text_1: Field required"),
    ):
        assert ask(wrong)["message"].startswith(said)
    twice = ask({"text_1": "cat", "text_2": "mat", "data_2": "dog"})
    assert twice["meta"]["warnings"] == ["unknown fields ignored: data_2"]
    ours = ask({"pairs": [["cat", "mat"]], "documents": ["dog"]})
    assert (len(ours["scores"]), ours["meta"]["warnings"]) == (1, ["unknown fields ignored: documents"])


PAIRS = [["where is the cat", "the mat"], ["who sat", "a dog"], ["where is the cat", ""]]


def test_scores_come_in_the_order_of_the_pairs(live: Live, tiny: CrossEncoder) -> None:
    """Those of `predict`; logits on demand. A blank document is never relevant, whatever the model says."""
    answer = live.client.post("/score", json={"pairs": PAIRS}).json()
    assert answer["scores"] == pytest.approx([*tiny.predict(PAIRS[:2]).tolist(), 0.0], abs=1e-6)
    assert answer["meta"]["warnings"] == ["blank pairs: index 2"]
    raw = live.client.post("/score", json={"pairs": PAIRS, "raw_scores": True}).json()["scores"]
    logits = [item.logit for query, text in PAIRS[:2] for item in tiny.rank_many([query], [[text]])[0].documents]
    assert raw == pytest.approx([*logits, -100.0], abs=1e-5)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([["a"]], "pairs[0]: is not a list of two strings"),
        ([["a", "b"], ["a", 1]], "pairs[1]: is not a list of two strings"),
        (["ab"], "pairs[0]: is not a list of two strings"),
        ([], "pairs: "),
        ([["a", "b"], [" ", "b"]], "pairs[1][0] is blank"),
        ([["a", " "]], "pairs: every document is blank"),
    ],
)
def test_wrong_pairs_are_named(live: Live, pairs: list[object], said: str) -> None:
    """By index."""
    answer = live.client.post("/score", json={"pairs": pairs})
    assert answer.status_code == 422
    assert said in answer.json()["message"]


ANSWER_PARTS = Answer("m", (0.5,), (0.5,), (0.0,), (0,), 7, (), ())


def test_a_text_may_stand_alone_or_in_an_object() -> None:
    """Other fields of the object do not count."""
    either, only_object = TypeAdapter(TextOrObject), TypeAdapter(TextObject)
    assert either.validate_python("a") == either.validate_python({"text": "a", "title": "b"}) == "a"
    assert only_object.validate_python({"text": "a"}) == "a"
    wrong_ones: tuple[object, ...] = (1, None, [], {}, {"text": None}, {"text": 1}, b"a", True)
    for wrong in wrong_ones:
        with pytest.raises(ValidationError, match="neither a string nor an object"):
            either.validate_python(wrong)


def test_unknown_fields_are_named_when_they_have_names() -> None:
    """Null is as good as absent; what is no name could be a text and is only counted."""
    assert Request.model_validate({"priority": None}).unknown() == ()
    assert Request.model_validate({"b": 1, "a": 2}).unknown() == ("unknown fields ignored: a, b",)
    assert Request.model_validate({"a secret sentence": 1}).unknown() == ("unknown fields ignored: 1",)


def test_numbers_are_shortened_for_a_sentence() -> None:
    """Called what they are, twenty, and how many more."""
    assert (indices([0]), indices([1, 2])) == ("index 0", "indices 1, 2")
    assert indices(range(23)).endswith("19 and 3 more")


def test_usage_and_meta() -> None:
    """Tokens, and warnings when there are any."""
    around = json.loads(enveloped(ANSWER_PARTS, "id", "scores", ()))
    assert around["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert around["meta"] == {"tokens": {"input_tokens": 7}}


BODY_PASSAGES = {"query": {"text": "where is the cat"}, "passages": [{"text": "the mat"}, {"text": "a dog"}]}


def test_passages_become_pairs_and_logits_come_back() -> None:
    """NONE refuses cuts."""
    request = RankingRequest.model_validate(BODY_PASSAGES | {"truncate": "NONE"})
    assert request.work().refuse_cuts
    assert request.work().documents == ("the mat", "a dog")
    answer = Answer("m", (0.0,) * 2, (0.0,) * 2, (-3.0, 2.0), (1, 0), 7, (), ())
    assert json.loads(request.render(answer, "id")) == {
        "rankings": [{"index": 1, "logit": 2.0}, {"index": 0, "logit": -3.0}]
    }


def test_over_the_wire_of_passages(live: Live, tiny: CrossEncoder) -> None:
    """The order in process; errors by their place."""
    rankings = live.client.post("/v1/ranking", json=BODY_PASSAGES | {"model": "tiny"}).json()["rankings"]
    (ranking,) = tiny.rank_many(["where is the cat"], [["the mat", "a dog"]])
    assert [item["index"] for item in rankings] == [item.index for item in ranking.documents]
    assert all(abs(item["logit"] - got.logit) < 1e-5 for item, got in zip(rankings, ranking.documents, strict=True))
    hosted = live.client.post("/v1/retrieval/nvidia/a-model/reranking", json=BODY_PASSAGES | {"top_k": 1})
    assert hosted.json()["rankings"] == rankings[:1]
    assert live.client.post("/v1/ranking", json=BODY_PASSAGES | {"top_k": 0}).json()["message"].startswith("top_k: ")
    plain = live.client.post("/v1/ranking", json=BODY_PASSAGES | {"query": "cat"})
    assert plain.status_code == 422
    assert plain.json()["message"].startswith("query: ")
    blank = live.client.post("/v1/ranking", json=BODY_PASSAGES | {"query": {"text": ""}})
    assert blank.json()["message"] == "query is blank"


ANSWER_TEXTS = Answer("m", (9.0, 9.0), (0.25, 0.75), (-1.5, 2.0), (1, 0), 7, (), ())
BODY_TEXTS = {"query": "q", "texts": ["a", "b"]}


def test_a_body_becomes_pairs_of_texts() -> None:
    """Sides in either spelling; no truncation means refusal."""
    work = TextsRequest.model_validate(BODY_TEXTS | {"truncate": False, "truncation_direction": "Left"}).work()
    assert (work.documents, work.keep_tail, work.refuse_cuts, work.field) == (("a", "b"), True, True, "texts")
    assert TextsRequest.model_validate(BODY_TEXTS | {"truncation_direction": "right"}).work().keep_tail is False
    assert TextsRequest.model_validate(BODY_TEXTS | {"truncate": True}).work().refuse_cuts is False


def test_the_answer_is_a_bare_list_without_other_fields() -> None:
    """The sigmoid, or the logits; texts on demand only."""
    assert (
        TextsRequest.model_validate(BODY_TEXTS).render(ANSWER_TEXTS, "id")
        == '[{"index":1,"score":0.75},{"index":0,"score":0.25}]'
    )
    raw = TextsRequest.model_validate(BODY_TEXTS | {"raw_scores": True, "top_n": 1, "return_text": True}).render(
        ANSWER_TEXTS, "id"
    )
    assert json.loads(raw) == [{"index": 1, "score": 2.0, "text": "b"}]
    assert TextsResponse.model_validate_json(raw).root[0].text == "b"


def test_both_shapes_at_once_are_refused() -> None:
    """Which one would be guessed."""
    assert (shape_of(BODY_TEXTS), shape_of({"documents": []}), shape_of([])) == (
        "texts-shape", "documents-shape", "documents-shape",
    )  # fmt: skip
    with pytest.raises(Problem, match="not both"):
        TextsRequest.model_validate(BODY_TEXTS | {"documents": ["a"]}).work()
    with pytest.raises(ValidationError):
        TextsRequest.model_validate(BODY_TEXTS | {"truncation_direction": "Up"})


def test_errors_are_those_of_text_embeddings_inference(live: Live) -> None:
    """Where the body is in its shape or was not read; no texts at all are 400 there, and 422 everywhere else."""
    for body, status, kind in (
        ({"query": "cat", "texts": []}, 400, "Empty"),
        ({"query": "cat", "texts": [1]}, 422, "Validation"),
        ({"query": " ", "texts": ["a"]}, 422, "Validation"),
        ({"query": "cat", "documents": []}, 422, "invalid"),
    ):
        refused = live.client.post("/rerank", json=body)
        assert (refused.status_code, refused.json()["error_type"]) == (status, kind)
    assert live.client.post("/rerank", content=b"{", headers={"Content-Type": "text/plain"}).json()["error_type"] == (
        "Validation"
    )
    assert live.client.post("/v1/rerank", json={"query": "q", "documents": []}).status_code == 422


def test_over_the_wire_of_texts(live: Live) -> None:
    """A pair that would be cut is refused where it may not be; the same from the left is scored."""
    long = {"query": "cat", "texts": ["mat", "dog " * 300 + "cat"]}
    assert live.client.post("/rerank", json=long).status_code == 200
    refused = live.client.post("/rerank", json=long | {"truncate": False})
    assert refused.status_code == 422
    assert refused.json()["error"] == "texts at index 1: longer than the model's window of 128 tokens"
    short = live.client.post("/rerank", json={"query": "cat", "texts": ["mat"], "truncate": False})
    assert list(short.json()[0]) == ["index", "score"]
    right, left = (
        live.client.post("/rerank", json=long | {"truncation_direction": side, "raw_scores": True}).json()
        for side in ("Right", "Left")
    )
    assert {item["index"]: item["score"] for item in right} != {item["index"]: item["score"] for item in left}
    wrong = live.client.post("/rerank", json={"query": "cat", "texts": ["mat", None]})
    assert wrong.json()["error"] == "texts[1]: Input should be a valid string"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (1.0, "1.0"), (0.0, "0.0"), (-0.0, "0.0"), (-1e-12, "0.0"), (0.93, "0.93"), (4.2e-6, "0.0000042"),
        (0.6231455039478934, "0.6231455"), (-12.5, "-12.5"), (0.99999999, "1.0"), (100.0, "100.0"),
    ],
)  # fmt: skip
def test_numbers_are_plain(value: float, written: str) -> None:
    """A point, no exponent, at most seven decimals."""
    assert json_number(value) == written


@given(some.floats(width=32, allow_nan=False, allow_infinity=False))
def test_any_float32_is_a_short_json_float(value: float) -> None:
    """It reads back as a float within the rounding, in at most 18 characters."""
    written = json_number(value)
    read = json.loads(written)
    assert type(read) is float
    assert len(written) <= 18
    assert read == pytest.approx(value, rel=1e-7, abs=5.1e-8)
    assert abs(value) >= 1e9 or re.fullmatch(r"-?\d+\.\d{1,7}", written)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_json_has_not_is_refused(value: float) -> None:
    """Never NaN."""
    with pytest.raises(ValueError, match="not finite"):
        json_number(value)
