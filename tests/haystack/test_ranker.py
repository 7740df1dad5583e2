"""What a ranker returns: order, scores, overrides, blank texts, cuts."""

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from haystack import Document
from haystack_integrations.components.rankers.secondpass import SecondPassRanker

from secondpass import CrossEncoder
from secondpass.calibration import AnswerRule, Calibration
from secondpass.errors import InvalidInput

MakeRanker = Callable[..., SecondPassRanker]
QUERY = "where is the capital of france"
UNRANKED = {"truncated": [], "reranked": False, "passages": [], "complete": True, "unscored": 0}
UNRANKED |= {"probabilities": [], "nothing_relevant": None}


def ids(result: dict) -> list[str]:
    """Return the ids of a result in their order."""
    return [document.id for document in result["documents"]]


def scores(result: dict) -> list[float]:
    """Return the scores of a result in their order."""
    return [document.score for document in result["documents"]]


def test_documents_come_back_in_the_order_of_the_models_scores(
    make_ranker: MakeRanker, tiny_folder: str, documents: list[Document]
) -> None:
    """Order and scores are those of the engine on the same texts."""
    result = make_ranker().run(query=QUERY, documents=documents)
    encoder = CrossEncoder(tiny_folder, device="cpu")
    expected = encoder.rank(QUERY, [document.content for document in documents])
    assert ids(result) == [f"d{item['corpus_id']}" for item in expected]
    assert scores(result) == pytest.approx([float(item["score"]) for item in expected], abs=1e-6)
    assert result["reranked"] is True
    assert result["truncated"] == result["passages"] == []
    assert (result["complete"], result["unscored"]) == (True, 0)


def test_row_26_scores_are_python_floats(make_ranker: MakeRanker, documents: list[Document]) -> None:
    """A score can be written as JSON: no numpy or torch scalar reaches a document."""
    for scale in (True, False):
        result = make_ranker().run(query=QUERY, documents=documents, scale_score=scale)
        assert {type(score) for score in scores(result)} == {float}


def test_row_27_given_documents_are_not_changed(make_ranker: MakeRanker, documents: list[Document]) -> None:
    """New scores are on new documents; everything else of a document is kept."""
    before = copy.deepcopy(documents)
    result = make_ranker().run(query=QUERY, documents=documents)
    assert documents == before
    originals = {document.id: document for document in documents}
    for document in result["documents"]:
        assert document is not originals[document.id]
        assert replace(document, score=originals[document.id].score) == originals[document.id]


@pytest.mark.parametrize("empty", [[], (), iter(())])
def test_no_documents_give_an_empty_result_before_any_other_check(empty: object) -> None:
    """Without documents neither query nor limits are looked at, and no model is loaded."""
    ranker = SecondPassRanker(model="/no/such/folder")
    result = ranker.run(query=None, documents=empty, top_k=0)
    assert result == UNRANKED | {"documents": []}


def test_row_16_duplicates_are_ranked_once(make_ranker: MakeRanker, documents: list[Document]) -> None:
    """Of equal ids the one with the highest retrieval score is ranked."""
    twin = Document(id="d1", content="email", score=100.0)
    result = make_ranker().run(query=QUERY, documents=[*documents, twin])
    assert sorted(ids(result)) == [document.id for document in documents]
    assert [document.content for document in result["documents"] if document.id == "d1"] == ["email"]


def test_top_k_of_the_call_wins_over_that_of_the_component(make_ranker: MakeRanker, documents: list[Document]) -> None:
    """The best top_k are returned; more than there are is all of them."""
    ranker = make_ranker(top_k=4)
    every = ids(ranker.run(query=QUERY, documents=documents, top_k=100))
    assert len(every) == 6
    assert ids(ranker.run(query=QUERY, documents=documents)) == every[:4]
    assert ids(ranker.run(query=QUERY, documents=documents, top_k=1)) == every[:1]


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_must_be_above_zero(make_ranker: MakeRanker, documents: list[Document], top_k: int) -> None:
    """0 is an error and not "take the default", at construction and at run."""
    message = rf"top_k must be > 0, but got {top_k}"
    with pytest.raises(ValueError, match=message):
        make_ranker(top_k=top_k)
    with pytest.raises(ValueError, match=message):
        make_ranker().run(query=QUERY, documents=documents, top_k=top_k)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"top_k": True}, "top_k=True is not a positive int"),
        ({"top_k": 2.0}, "top_k=2.0 is not a positive int"),
        ({"scale_score": 0}, "scale_score is int, not bool"),
        ({"score_threshold": "0.5"}, "score_threshold is str, not float"),
        ({"budget_ms": 0}, "budget_ms=0 is not above 0"),
        ({"budget_ms": "50"}, "budget_ms='50' is not a finite number"),
        ({"score_threshold": float("nan")}, "score_threshold is NaN"),
        ({"query": None}, "query is NoneType, not str"),
        ({"query": ["text"]}, "query is list, not str"),
        ({"documents": "text"}, "documents is str, not a list of Document"),
        ({"documents": [Document(id="a", content="a"), "b"]}, r"documents\[1\] is str, not Document"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused_by_name(argument: dict, message: str) -> None:
    """The error names the argument; no model is loaded to find out."""
    ranker = SecondPassRanker(model="/no/such/folder", raise_on_failure=False)
    with pytest.raises(InvalidInput, match=message):
        ranker.run(**{"query": "text", "documents": [Document(id="a", content="a")]} | argument)


def test_row_23_falsy_overrides_are_honoured(make_ranker: MakeRanker, documents: list[Document]) -> None:
    """scale_score=False and score_threshold=0.0 in a call win over True and 100.0 of the component."""
    ranker = make_ranker(scale_score=True, score_threshold=100.0)
    assert ranker.run(query=QUERY, documents=documents)["documents"] == []
    scaled = ranker.run(query=QUERY, documents=documents, score_threshold=0.0)
    assert len(scaled["documents"]) == 6
    assert max(scores(scaled)) < 1
    logits = ranker.run(query=QUERY, documents=documents, scale_score=False, score_threshold=0.0)
    assert ids(logits) == ids(scaled)
    assert scores(logits) == pytest.approx([math.log(score / (1 - score)) for score in scores(scaled)], rel=1e-4)


def test_the_threshold_includes_its_own_value_and_comes_before_top_k(
    make_ranker: MakeRanker, documents: list[Document]
) -> None:
    """A score equal to the threshold passes; top_k counts what passed."""
    every = make_ranker().run(query=QUERY, documents=documents)
    third = scores(every)[2]
    kept = make_ranker().run(query=QUERY, documents=documents, score_threshold=third)
    assert ids(kept) == ids(every)[:3]
    assert ids(make_ranker().run(query=QUERY, documents=documents, score_threshold=third, top_k=2)) == ids(every)[:2]
    assert ids(make_ranker().run(query=QUERY, documents=documents, score_threshold=third, top_k=5)) == ids(every)[:3]


def test_meta_fields_and_prefixes_are_read_by_the_model(
    make_ranker: MakeRanker, tiny_folder: str, documents: list[Document]
) -> None:
    """What the layout puts together is what is scored, 0 of d0's `place` included."""
    ranker = make_ranker(
        query_prefix="the ",
        query_suffix=" now",
        document_prefix="a ",
        document_suffix=" day",
        meta_fields_to_embed=["place", "absent"],
        embedding_separator=" is ",
    )
    texts = [f"a {index} is {document.content} day" for index, document in enumerate(documents)]
    (ranking,) = CrossEncoder(tiny_folder, device="cpu").rank_many([f"the {QUERY} now"], [texts])
    result = ranker.run(query=QUERY, documents=documents)
    assert ids(result) == [f"d{item.index}" for item in ranking.documents]
    assert scores(result) == [item.score for item in ranking.documents]


def test_row_03_documents_without_text_come_last_without_a_score(
    make_ranker: MakeRanker, documents: list[Document], caplog: pytest.LogCaptureFixture
) -> None:
    """They are not sent to the model, keep their order, and are counted in one warning."""
    blank = [Document(id="none", content=None, score=9.0), Document(id="spaces", content=" \n", score=8.0)]
    ranker = make_ranker(document_prefix="a ", top_k=20)
    with caplog.at_level(logging.WARNING):
        result = ranker.run(query=QUERY, documents=[blank[0], *documents, blank[1]])
    assert ids(result) == [*ids(ranker.run(query=QUERY, documents=documents)), "none", "spaces"]
    assert scores(result)[-2:] == [None, None]
    assert result["reranked"] is True
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert messages == ["2 of 8 documents have no text and are not ranked."]


def test_row_03_documents_without_text_reach_no_threshold(make_ranker: MakeRanker, documents: list[Document]) -> None:
    """A document without a score is dropped as soon as there is a threshold, even minus infinity."""
    result = make_ranker().run(
        query=QUERY, documents=[Document(id="none"), *documents], score_threshold=float("-inf"), scale_score=False
    )
    assert sorted(ids(result)) == [document.id for document in documents]


def test_row_03_only_documents_without_text_are_no_ranking() -> None:
    """Nothing to read means nothing to load; the output says that no model made the order."""
    ranker = SecondPassRanker(model="/no/such/folder", top_k=1)
    result = ranker.run(query=QUERY, documents=[Document(id="b"), Document(id="a", content=" ")])
    assert ids(result) == ["b"]
    assert result["reranked"] is False


def test_a_calibration_tells_what_is_relevant(
    make_ranker: MakeRanker, documents: list[Document], tmp_path: Path
) -> None:
    """Probabilities in the documents' order, what is above one, and no documents where nothing is and that is asked."""
    plain = make_ranker(scale_score=False).run(query=QUERY, documents=documents)
    assert (plain["probabilities"], plain["nothing_relevant"]) == ([], None)
    best = plain["documents"][0].score
    for place, nothing in ((best - 0.01, False), (best + 0.01, True)):
        file = tmp_path / f"{nothing}.json"
        Calibration("logistic", answers=AnswerRule(place, 40, 0.9, 0.9)).save(file)
        found = make_ranker(calibration=file, top_k=4).run(query=QUERY, documents=documents)
        assert found["nothing_relevant"] is nothing
        assert ids(found) == ids(plain)[:4]
        assert [one["id"] for one in found["probabilities"]] == ids(found)
        told = [one["probability"] for one in found["probabilities"]]
        assert told == pytest.approx(scores(found), abs=1e-6)
        assert {tuple(one["interval"]) for one in found["probabilities"]} == {(0.0, 1.0)}
        blank = [*documents, Document(id="blank", content=" ")]
        some = make_ranker(calibration=file).run(query=QUERY, documents=blank, min_probability=told[2])
        assert ids(some) == ids(plain)[:3]
        assert (
            ids(make_ranker(calibration=file, min_probability=told[1]).run(query=QUERY, documents=blank))
            == ids(plain)[:2]
        )
        dropping = make_ranker(calibration=file, when_nothing_relevant="drop")
        assert ids(dropping.run(query=QUERY, documents=documents)) == ([] if nothing else ids(plain))
    Calibration("logistic", answers=AnswerRule(1e9, 40, 0.9, 0.9)).save(file)
    many = [*documents, *(Document(content=f"a dog {number}") for number in range(60))]
    late = make_ranker(calibration=file, when_nothing_relevant="drop").run(query=QUERY, documents=many, budget_ms=0.001)
    assert (late["unscored"] > 0, late["nothing_relevant"], len(late["documents"])) == (True, None, 10)
    assert all(document.meta.keys() == {"place"} for document in found["documents"])
    with pytest.raises(InvalidInput, match=r"min_probability=1\.5 is not from 0 to 1"):
        make_ranker(min_probability=1.5)
    with pytest.raises(InvalidInput, match="when_nothing_relevant='hide' is none of keep, drop"):
        make_ranker(when_nothing_relevant="hide")
    with pytest.raises(InvalidInput, match="cannot be read"):
        make_ranker(calibration="/no/such/file.json").warm_up()


@pytest.mark.parametrize("query", ["", " \t\n"])
def test_row_04_a_blank_query_returns_the_given_order_and_says_so(
    documents: list[Document], query: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Documents come back once per id with their own scores, unranked, even with a prefix; it is logged."""
    ranker = SecondPassRanker(model="/no/such/folder", query_prefix="query: ", top_k=2, score_threshold=0.99)
    with caplog.at_level(logging.WARNING):
        result = ranker.run(query=query, documents=[*documents, documents[0]])
    assert result == UNRANKED | {"documents": documents, "complete": False, "unscored": 6}
    assert "The query is blank: 6 documents are returned unranked." in caplog.text


def test_what_was_cut_is_told_by_document(make_ranker: MakeRanker, documents: list[Document]) -> None:
    """Each document that did not fit is named with the tokens it lost, whether it is returned or not."""
    long = [Document(id="long", content="apple " * 200), Document(id="longer", content="apple " * 300)]
    result = make_ranker(top_k=1).run(query="apple", documents=[long[1], *documents, long[0]])
    room = 128 - 3 - 1
    assert result["truncated"] == [
        {"id": "longer", "query_tokens": 0, "document_tokens": 300 - room, "characters": 0},
        {"id": "long", "query_tokens": 0, "document_tokens": 200 - room, "characters": 0},
    ]


def test_cutting_only_the_document_spares_the_query(make_ranker: MakeRanker) -> None:
    """A long query is cut by "longest_first", and left whole by "only_document" up to half the window."""
    arguments = {"query": "apple " * 62, "documents": [Document(id="long", content="tree " * 61 * 2)]}
    (shared,) = make_ranker().run(**arguments | {"query": "apple " * 100})["truncated"]
    assert shared["query_tokens"] > 0
    (spared,) = make_ranker(truncation="only_document").run(**arguments)["truncated"]
    assert spared["query_tokens"] == 0
    assert spared["document_tokens"] == 61 * 2 + 62 - 125


def test_one_document_is_ranked_like_any(make_ranker: MakeRanker, documents: list[Document]) -> None:
    """A single document has the score that it has among others."""
    result = make_ranker().run(query=QUERY, documents=documents)
    best = result["documents"][0]
    alone = make_ranker().run(query=QUERY, documents=[document for document in documents if document.id == best.id])
    assert scores(alone) == pytest.approx([best.score], abs=1e-6)


def test_broken_unicode_does_not_cost_the_request(make_ranker: MakeRanker, documents: list[Document]) -> None:
    """A lone surrogate in one document or in the query is scored like a replacement character."""
    broken = Document(id="broken", content="apple \ud800 tree")
    repaired = Document(id="broken", content="apple \ufffd tree")
    result = make_ranker().run(query="\udfff " + QUERY, documents=[*documents, broken])
    expected = make_ranker().run(query="\ufffd " + QUERY, documents=[*documents, repaired])
    assert ids(result) == ids(expected)
    assert scores(result) == scores(expected)


def test_the_usage_example_runs(tiny_folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The code in the class's docstring prints two scored documents."""
    code = SecondPassRanker.__doc__.split("```python\n")[1].split("```")[0]
    code = "\n".join(line.removeprefix("    ") for line in code.splitlines())
    assert "SecondPassRanker(top_k=2)" in code
    exec(code.replace("top_k=2", f"model={tiny_folder!r}, top_k=2"), {})  # noqa: S102
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(0 <= float(line.split()[0]) <= 1 for line in lines)
