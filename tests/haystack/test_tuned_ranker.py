"""The tuned ranker: what `secondpass tune` chose, applied to the documents of several retrievers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack_integrations.components.rankers.secondpass import SecondPassRanker, SecondPassTunedRanker

from secondpass import CrossEncoder
from secondpass.calibration import AnswerRule, Calibration
from secondpass.errors import InvalidInput
from secondpass.fusion import Candidates, Fusion, SkipRule, Tuned
from secondpass.models.identity import marks_of
from secondpass.reranker import warn_once

QUERY = "where is the capital of france"
TUNED = Tuned(
    first=("bm25", "dense"),
    before=Fusion("rrf", {"bm25": 1.0, "dense": 1.0}),
    after=Fusion("weighted", {"bm25": 0.2, "dense": 0.1, "reranker": 0.7}),
    depth=3,
)
CALIBRATED = replace(
    TUNED,
    calibration=Calibration("logistic", slope=2.0, intercept=0.5, low=(0.25,), high=(0.75,)),
    calibrated_by=(1.0, 0.5),
)
Make = Callable[..., SecondPassTunedRanker]


@pytest.fixture
def make(tmp_path: Path, tiny_folder: str) -> Make:
    """Write a `Tuned` with a tiny model into a file and make its ranker; keywords go to the constructor."""

    def ranker(what: Tuned = TUNED, **parameters: Any) -> SecondPassTunedRanker:
        named = replace(what, model=tiny_folder) if what.model is None and what.after is not None else what
        (tmp_path / "tuned.json").write_text(json.dumps(named.to_dict()))
        return SecondPassTunedRanker(**{"tuned": tmp_path, "device": "cpu"} | parameters)

    return ranker


@pytest.fixture
def lists(documents: list[Document]) -> dict[str, list[Document]]:
    """Four documents of words, best first, and three of vectors, two of them the same."""
    dense = [replace(documents[place], score=score) for place, score in ((4, 0.9), (1, 0.5), (0, 0.4))]
    return {"bm25": documents[:4], "dense": dense}


def shown(documents: list[Document]) -> list[tuple[str, float]]:
    """Ids and scores."""
    return [(document.id, pytest.approx(document.score, abs=1e-6)) for document in documents]


def test_documents_come_as_was_tuned(make: Make, lists: dict[str, list[Document]], tiny_folder: str) -> None:
    """The order and the scores are those of `Tuned.order` with the model's logits of the documents to read."""
    candidates = Candidates.of({name: [(one.id, one.score) for one in given] for name, given in lists.items()})
    texts = {one.id: one.content for given in lists.values() for one in given}
    rows = TUNED.to_read(candidates)
    pairs = [(QUERY, texts[candidates.ids[row]]) for row in rows]
    logits = CrossEncoder(tiny_folder).predict(pairs, activation_fct=lambda logits: logits)
    expected = TUNED.order(candidates, rows, logits)
    result = make().run(query=QUERY, **lists)
    assert shown(result["documents"]) == [(one.id, one.score) for one in expected]
    assert {name: result[name] for name in result if name != "documents"} == {
        "truncated": [], "reranked": True, "read": 3, "passages": [], "complete": True, "unscored": 0,
        "probabilities": [], "nothing_relevant": None,
    }  # fmt: skip
    assert [one.score for one in lists["bm25"]] == [6.0, 5.0, 4.0, 3.0]
    assert len(make(top_k=2).run(query=QUERY, **lists)["documents"]) == 2
    assert len(make(top_k=2).run(query=QUERY, top_k=4, **lists)["documents"]) == 4


def test_a_list_without_scores_counts_by_its_order(make: Make, lists: dict[str, list[Document]]) -> None:
    """One score that is absent makes its list one of places, as with scores that fall by one."""
    silent = [*lists["bm25"][:3], replace(lists["bm25"][3], score=None)]
    falling = [replace(document, score=float(-place)) for place, document in enumerate(lists["bm25"])]
    found, expected = (make().run(query=QUERY, bm25=given, dense=lists["dense"]) for given in (silent, falling))
    assert shown(found["documents"]) == shown(expected["documents"])


def test_nothing_is_read_where_it_does_not_pay(make: Make, lists: dict[str, list[Document]]) -> None:
    """First passes alone, and queries that are skipped, load no model: a folder that is not there does no harm."""
    alone = make(Tuned(("bm25",), Fusion("weighted", {"bm25": 1.0})))
    alone.warm_up()
    result = alone.run(query=QUERY, bm25=lists["bm25"])
    assert [one.id for one in result["documents"]] == ["d0", "d1", "d2", "d3"]
    assert (result["reranked"], result["read"], result["complete"], result["unscored"]) == (False, 0, True, 0)
    skipping = replace(TUNED, model="not/there", skip=SkipRule(0.5, 0.3, 0.0))
    result = make(skipping).run(query=QUERY, bm25=lists["bm25"], dense=lists["bm25"])
    assert ([one.id for one in result["documents"]], result["reranked"]) == (["d0", "d1", "d2", "d3"], False)


def test_fields_of_documents_count(make: Make, documents: list[Document]) -> None:
    """By their `meta`; one that a document lacks is unknown, and one that is no number is refused by name."""
    tuned = Tuned(("bm25",), Fusion("weighted", {"bm25": 0.0, "likes": 1.0}), fields=("likes",))
    known = [replace(one, meta={"likes": likes}) for one, likes in zip(documents, (1, 5, None, 2.5), strict=False)]
    result = make(tuned).run(query=QUERY, bm25=[*known, documents[5]])
    assert [one.id for one in result["documents"]] == ["d1", "d3", "d0", "d2", "d5"]
    with pytest.raises(InvalidInput, match=r"document 'd5': meta\['likes'\]='many' is not a finite number"):
        make(tuned).run(query=QUERY, bm25=[*known, replace(documents[5], meta={"likes": "many"})])


def test_probabilities_are_those_of_the_fusion(make: Make, lists: dict[str, list[Document]]) -> None:
    """Of what was read, by the number that was calibrated, with their intervals; `min_probability` keeps the likely."""
    result = make(CALIBRATED).run(query=QUERY, **lists)
    logits = make_logits(make(CALIBRATED), result["documents"][:3])
    for one, logit, document in zip(result["probabilities"], logits, result["documents"], strict=False):
        odds = 2.0 * (document.score + 0.5 * logit) + 0.5
        assert one == {"id": document.id, "probability": pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-5),
                       "interval": [0.25, 0.75]}  # fmt: skip
    assert len(result["probabilities"]) == 3 < len(result["documents"])
    second = sorted(one["probability"] for one in result["probabilities"])[1]
    kept = make(CALIBRATED, min_probability=second).run(query=QUERY, **lists)
    assert [one["probability"] >= second for one in kept["probabilities"]] == [True, True]
    assert len(kept["documents"]) == 2
    assert len(make(CALIBRATED).run(query=QUERY, min_probability=0.0, **lists)["documents"]) == 3


def make_logits(ranker: SecondPassTunedRanker, documents: list[Document]) -> list[float]:
    """The bare model's."""
    model = SecondPassRanker(model=ranker.to_dict()["init_parameters"]["model"] or ranker._tuned.model, device="cpu")
    found = {one.id: one.score for one in model.run(query=QUERY, documents=documents, scale_score=False)["documents"]}
    return [found[document.id] for document in documents]


@pytest.mark.parametrize(("least", "nothing"), [(1e9, True), (-1e9, False)])
def test_where_nothing_is_relevant_documents_can_be_dropped(
    make: Make, lists: dict[str, list[Document]], least: float, nothing: bool
) -> None:
    """The verdict is told; "drop" gives no documents then, and has those queries read that tuning skips."""
    rule = replace(CALIBRATED.calibration, answers=AnswerRule(least, 50, 0.9, 0.9))
    tuned = replace(CALIBRATED, calibration=rule, skip=SkipRule(0.0, 0.5, 0.0))
    assert make(tuned).run(query=QUERY, **lists)["nothing_relevant"] is None
    result = make(tuned, when_nothing_relevant="drop").run(query=QUERY, **lists)
    assert (result["nothing_relevant"], result["read"], result["documents"] == []) == (nothing, 3, nothing)
    assert make(replace(tuned, skip=None)).run(query=QUERY, **lists)["documents"]
    assert make(tuned).has_answer_rule()
    assert not make(CALIBRATED).has_answer_rule()


def test_another_model_than_the_one_tuned_with_is_refused(
    make: Make, lists: dict[str, list[Document]], tiny_folder: str, make_ranker: Any
) -> None:
    """By its logits for sample pairs, when it is loaded."""
    with make_ranker().lent_model() as model:
        own = marks_of(model)
    assert make(replace(TUNED, marks=own)).run(query=QUERY, **lists)["read"] == 3
    with pytest.raises(InvalidInput, match="is another model than the one tuned with"):
        make(replace(TUNED, marks=own[::-1])).warm_up()


def test_what_is_read_otherwise_than_in_tuning_is_said(
    make: Make, lists: dict[str, list[Document]], make_ranker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, by its names; and where logits for the sample pairs are others because of it, the refusal says what."""
    with make_ranker().lent_model() as model:
        tuned = replace(TUNED, marks=marks_of(model), conditions=model.conditions())
        other = replace(tuned, marks=marks_of(model)[::-1])
    warn_once.cache_clear()
    assert make(tuned).run(query=QUERY, **lists)["read"] == 3
    assert "read otherwise" not in caplog.text
    otherwise = make(tuned, truncation="only_document", query_prefix="find: ")
    for _ in range(2):
        otherwise.run(query=QUERY, **lists)
    assert caplog.text.count("pairs are read otherwise than those tuned on: truncation, template\n") == 1
    said = r"than the one tuned with: .* \(truncation 'only_document' instead of 'longest_first'\)"
    with pytest.raises(InvalidInput, match=said):
        make(other, truncation="only_document").warm_up()


def test_a_failure_can_give_the_order_of_the_first_passes(make: Make, lists: dict[str, list[Document]]) -> None:
    """With `raise_on_failure=False`; what was not read is counted, and no verdict is told."""
    broken = replace(CALIBRATED, model="not/there")
    result = make(broken, raise_on_failure=False, min_probability=0.9).run(query=QUERY, **lists)
    assert [one.id for one in result["documents"]] == ["d0", "d1", "d4", "d2", "d3"]
    assert (result["reranked"], result["read"], result["unscored"], result["complete"]) == (False, 0, 3, False)
    with pytest.raises(Exception, match="not/there"):
        make(broken).run(query=QUERY, **lists)


def test_blank_texts_are_not_read(make: Make, lists: dict[str, list[Document]]) -> None:
    """A blank query keeps the order of the first passes; a document without text stays behind those that are read."""
    assert make().run(query=" ", **lists)["read"] == 0
    blank = {
        **lists,
        "bm25": [replace(lists["bm25"][0], content=None), *lists["bm25"][1:]],
        "dense": lists["dense"][:2],
    }
    result = make().run(query=QUERY, **blank)
    assert ([one.id for one in result["documents"]][2], result["read"], result["unscored"]) == ("d0", 2, 0)
    assert make().run(query=QUERY, bm25=[], dense=[])["documents"] == []
    silent = {"bm25": [blank["bm25"][0]], "dense": []}
    for asked, many in ((QUERY, 0), (" ", 1)):
        result = make(CALIBRATED).run(query=asked, min_probability=0.1, **silent)
        assert (len(result["documents"]), result["read"]) == (many, 0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bm25": []}, "dense is missing: the documents of a first pass that was tuned with; those are bm25, dense"),
        ({"bm25": [], "dense": [], "more": []}, "more is no first pass that was tuned with; those are bm25, dense"),
        ({"bm25": ["text"], "dense": []}, r"bm25\[0\] is str, not Document"),
        ({"bm25": [], "dense": [], "top_k": 0}, "top_k must be > 0"),
        ({"bm25": [], "dense": [], "min_probability": 0.5}, "min_probability=0.5: no probabilities were fitted"),
    ],
)
def test_wrong_inputs_are_refused(make: Make, given: dict[str, Any], said: str) -> None:
    """By name and index."""
    with pytest.raises(InvalidInput, match=said):
        make().run(query=QUERY, **given)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"tuned": "/not/there.json"}, "tuned: /not/there.json cannot be read .*`secondpass tune` writes it"),
        ({"tuned": __file__}, "is no JSON"),
        ({"top_k": 0}, "top_k must be > 0"),
        ({"min_probability": 2}, "min_probability=2 is not from 0 to 1"),
        ({"min_probability": 0.5}, "min_probability=0.5: no probabilities were fitted for"),
        ({"when_nothing_relevant": "cry"}, "when_nothing_relevant"),
        ({"batch_size": 0}, "batch_size must be > 0"),
        ({"keep": 10}, "keep is no parameter of SecondPassTunedRanker"),
        ({"model": ["a", "b"]}, "model is list, not str or Path"),
    ],
)
def test_wrong_parameters_are_refused(make: Make, parameters: dict[str, Any], said: str) -> None:
    """By name, and a file by its path."""
    with pytest.raises(InvalidInput, match=said):
        make(**parameters)


@pytest.mark.parametrize(
    ("tuned", "said"),
    [
        (replace(TUNED, first=("query", "bm25", "dense")), "has a first pass named 'query', which is another input"),
        (replace(TUNED, model=" "), "model is blank"),
    ],
)
def test_a_file_that_cannot_be_applied_is_refused(make: Make, tuned: Tuned, said: str) -> None:
    """When the component is made."""
    with pytest.raises(InvalidInput, match=said):
        make(tuned)


async def test_in_a_pipeline_file_each_retriever_has_its_own_input(
    make: Make, lists: dict[str, list[Document]], tmp_path: Path
) -> None:
    """Dumped and loaded under the default allow-list it does the same, awaited too; a copy is no part of it."""
    ranker = make(meta_fields_to_embed=["place"], batch_size=2, top_k=4)
    expected = make(meta_fields_to_embed=["place"], top_k=4).run(query=QUERY, **lists)
    pipeline = Pipeline()
    pipeline.add_component("ranker", ranker)
    again = Pipeline.loads(pipeline.dumps())
    assert again.to_dict() == pipeline.to_dict()
    assert {name for name, socket in again.inputs()["ranker"].items() if socket["is_mandatory"]} == {
        "query", "bm25", "dense",
    }  # fmt: skip
    assert again.run({"ranker": {"query": QUERY, **lists}})["ranker"] == expected
    assert await ranker.run_async(query=QUERY, **lists) == expected
    ranker.close()
    Pipeline().add_component("copied", copy.deepcopy(ranker))
