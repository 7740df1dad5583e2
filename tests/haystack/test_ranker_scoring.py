"""Documents beyond the model's window, the time that a call has, scores computed before, and several models."""

import copy
import gc
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack_integrations.common.secondpass.model_lifecycle import shared_cache
from haystack_integrations.components.rankers.secondpass import SecondPassRanker
from haystack_integrations.components.readers.secondpass import SentenceReader

from secondpass import Cascade, CrossEncoder, StoppingRule
from secondpass.activations import IDENTITY
from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.windows import Windows
from tests.tiny_models import make_decoder, make_folder, make_reranker

MakeRanker = Callable[..., SecondPassRanker]
QUERY = "where is the capital of france"
FILLER = "water the tree in the garden. a dog sat on the mat. cook an apple. "
LONG = [
    Document(id="end", content=f"  {FILLER * 20}paris is the capital of france. "),
    Document(id="middle", content=f"{FILLER * 9}the capital is london! {FILLER * 9}", meta={"title": "train " * 90}),
    Document(id="short", content=" the second train to london ", meta={"title": "train"}),
    Document(id="blank", content=None),
]


@pytest.mark.parametrize("scale_score", [True, False])
@pytest.mark.parametrize("windows", [None, {"tokens": 40, "most": 5, "aggregate": 2, "select": "bm25"}])
async def test_a_long_document_is_ranked_by_its_windows(
    make_ranker: MakeRanker, tiny_folder: str, windows: dict[str, Any] | None, scale_score: bool
) -> None:
    """Order, scores and best windows are the engine's own; a passage is a place in the content."""
    ranker = make_ranker(truncation="windows", windows=windows, scale_score=scale_score)
    result = ranker.run(query=QUERY, documents=LONG)
    (ranking,) = CrossEncoder(tiny_folder, device="cpu").rank_many(
        [QUERY],
        [[document.content for document in LONG[:3]]],
        truncation=Windows(**windows or {}),
        activation_fct=None if scale_score else IDENTITY,
    )
    assert [document.id for document in result["documents"]] == [LONG[one.index].id for one in ranking.documents] + [
        "blank"
    ]
    assert [document.score for document in result["documents"][:3]] == [one.score for one in ranking.documents]
    for told, one in zip(result["passages"], ranking.documents, strict=True):
        document, passage = LONG[one.index], one.passage
        assert told == {
            "id": document.id,
            "text": document.content[passage.start : passage.end],
            "start": passage.start,
            "end": passage.end,
            "score": passage.score,
            "windows": passage.windows,
        }
        assert (passage.windows == 1) == (document.id == "short")
    if windows is None:
        assert result["truncated"] == []
    best = await ranker.run_async(query=QUERY, documents=LONG, top_k=1)
    assert best["documents"] == result["documents"][:1]
    assert best["passages"] == result["passages"][:1]


def test_meta_fields_are_no_part_of_a_passage(make_ranker: MakeRanker, tiny_folder: str) -> None:
    """They are read in front of the content; a window that begins in them starts at the content's 0."""
    texts = [f"{document.meta.get('title', '')} - {document.content}" for document in LONG[1:3]]
    (ranking,) = CrossEncoder(tiny_folder, device="cpu").rank_many([QUERY], [texts], truncation="windows")
    ranker = make_ranker(truncation="windows", meta_fields_to_embed=["title"], embedding_separator=" - ")
    result = ranker.run(query=QUERY, documents=LONG[1:3])
    assert [document.score for document in result["documents"]] == [one.score for one in ranking.documents]
    for told, one in zip(result["passages"], ranking.documents, strict=True):
        content = LONG[1 + one.index].content
        before = len(texts[one.index]) - len(content)
        start, end = max(0, one.passage.start - before), max(0, one.passage.end - before)
        assert (told["start"], told["end"], told["text"]) == (start, end, content[start:end])
    (short,) = (told for told in result["passages"] if told["id"] == "short")
    assert (short["start"], short["text"]) == (0, " the second train to london")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"windows": {}}, "windows is for truncation='windows', and truncation is None"),
        ({"truncation": "error", "windows": {"most": 2}}, "windows is for truncation='windows'.* is 'error'"),
        ({"truncation": "windows", "windows": [2]}, "windows is list, not dict"),
        ({"truncation": "windows", "windows": {"size": 2}}, r"windows\['size'\] is none of tokens, overlap"),
        ({"truncation": "windows", "windows": {"most": 0}}, "windows: most=0 is not a positive int"),
        ({"truncation": "windows", "windows": {"borders": ["words"]}}, "windows: borders"),
        ({"truncation": "windows", "windows": {"select": "bm25"}}, "most=None reads them all"),
        ({"budget_ms": 0}, "budget_ms=0 is not above 0"),
        ({"budget_ms": float("inf")}, "budget_ms=inf is not a finite number"),
        ({"model": ["a"]}, "model has 1, and a list is a cascade, which has two at least"),
        ({"model": ["a", 7]}, r"model\[1\] is int, not str or Path"),
        ({"keep": 5}, "keep is for a list of models"),
        ({"model": ["a", "b"], "keep": 0}, "keep must be > 0"),
        ({"model": ["a", "b"], "keep": [5, 5]}, "keep has 2, and 2 models have 1 steps"),
        ({"model": ["a", "b", "c"], "keep": [5, -1]}, r"keep\[1\] must be > 0"),
        ({"model": ["a", "b"], "keep": " "}, "keep is blank"),
        ({"score_cache": " "}, "score_cache is blank"),
        ({"score_cache": {"path": "x"}}, "score_cache is dict"),
        ({"score_cache_mb": 0}, "score_cache_mb must be > 0"),
    ],
)
def test_what_is_refused_at_construction(parameters: dict[str, Any], message: str) -> None:
    """By name, before any model is loaded or any file made."""
    with pytest.raises(InvalidInput, match=message):
        SecondPassRanker(**parameters)


MANY = [Document(id=str(place), content=f"the dog {place} sat", score=100.0 - place) for place in range(60)]


async def test_what_a_budget_leaves_follows_in_the_given_order(make_ranker: MakeRanker) -> None:
    """Without a score, before the blank ones; the outputs count them, and a threshold does not make them vanish."""
    given = [Document(id="blank"), *MANY]
    ranker = make_ranker(top_k=100, budget_ms=0.001)
    for result in (
        ranker.run(query=QUERY, documents=given),
        await make_ranker(top_k=100).run_async(query=QUERY, documents=given, budget_ms=0.001),
        ranker.run(query=QUERY, documents=given, score_threshold=float("-inf")),
    ):
        places = [int(document.id) for document in result["documents"] if document.id != "blank"]
        count = len(MANY) - result["unscored"]
        assert 0 < count < len(MANY)
        assert (result["complete"], result["reranked"]) == (False, True)
        assert sorted(places[:count]) == list(range(count))
        assert places[count:] == list(range(count, len(MANY)))
        scores = [document.score for document in result["documents"]]
        assert scores[:count] == sorted(scores[:count], reverse=True)
        assert set(scores[count:]) == {None}
    strict = ranker.run(query=QUERY, documents=given, score_threshold=2.0, top_k=5)
    assert [int(document.id) for document in strict["documents"]] == sorted(int(d.id) for d in strict["documents"])
    assert [document.score for document in strict["documents"]] == [None] * 5


def test_a_budget_that_is_enough_changes_nothing(make_ranker: MakeRanker) -> None:
    """That of the call wins over that of the component."""
    expected = make_ranker(top_k=100).run(query=QUERY, documents=MANY)
    found = make_ranker(top_k=100, budget_ms=0.001).run(query=QUERY, documents=MANY, budget_ms=600_000.0)
    assert [document.id for document in found["documents"]] == [document.id for document in expected["documents"]]
    assert [one.score for one in found["documents"]] == pytest.approx([one.score for one in expected["documents"]])
    assert (found["complete"], found["unscored"]) == (True, 0)


def test_scores_are_kept_between_components_and_starts(
    make_ranker: MakeRanker, tiny_folder: str, tmp_path: Path
) -> None:
    """Components that name one file share it, in this process and as copies; the answers are the same to the bit."""
    path = tmp_path / "made" / "scores.db"
    ranker = make_ranker(score_cache=path, score_cache_mb=2, truncation="windows", top_k=99)
    assert not path.exists()
    expected = ranker.run(query=QUERY, documents=LONG)
    cache = shared_cache(str(path), 2)
    assert (cache.path, len(cache), cache.hits, cache.misses) == (path, 3, 0, 3)
    pipeline = Pipeline()
    pipeline.add_component("ranker", ranker)
    ranker.close()
    others = [pickle.loads(pickle.dumps(ranker)), copy.deepcopy(ranker)]  # noqa: S301
    for again in (ranker, *others, Pipeline.loads(pipeline.dumps()).get_component("ranker")):
        assert again.run(query=QUERY, documents=LONG) == expected
    assert (cache.hits, cache.misses) == (12, 3)
    reader = SentenceReader(model=tiny_folder, device="cpu", score_cache=str(path), score_cache_mb=2)
    answers = reader.run(query=QUERY, documents=LONG[2:])
    found = cache.misses
    assert found > 3
    assert copy.copy(reader).run(query=QUERY, documents=LONG[2:]) == answers
    assert cache.misses == found


def test_scores_are_kept_in_memory(make_ranker: MakeRanker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as a component has its model; no file is made."""
    monkeypatch.chdir(tmp_path)
    rankers = [make_ranker(score_cache=":memory:", score_cache_mb=3) for _ in range(2)]
    for ranker in rankers:
        ranker.run(query=QUERY, documents=LONG)
        assert [len(shared_cache(":memory:", 3)), *tmp_path.iterdir()] == [3]
    assert shared_cache(":memory:", 3).hits == 3
    for ranker in rankers:
        ranker.close()
    gc.collect()
    assert len(shared_cache(":memory:", 3)) == 0


def test_a_cache_that_cannot_be_is_told_when_it_is_opened(make_ranker: MakeRanker, tmp_path: Path) -> None:
    """At the warm-up, with its path; without `raise_on_failure` the documents come back as they were."""
    with pytest.raises(InvalidInput, match=str(tmp_path)):
        make_ranker(score_cache=str(tmp_path)).warm_up()
    lenient = make_ranker(score_cache=str(tmp_path), raise_on_failure=False)
    assert lenient.run(query=QUERY, documents=MANY)["documents"] == MANY


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make another random model."""
    return str(make_folder(tmp_path_factory.mktemp("larger"), "bert", seed=5))


@pytest.mark.parametrize("scale_score", [True, False])
async def test_a_list_of_models_is_a_cascade(
    make_ranker: MakeRanker, tiny_folder: str, larger: str, tmp_path: Path, scale_score: bool
) -> None:
    """Each ranks the best of the one before it, so many as `keep` says, by a number or by the rule in a file."""
    cascade = Cascade([CrossEncoder(name, device="cpu") for name in (tiny_folder, larger)], 4)
    cascade.save(tmp_path / "rule.json")
    (ranking,) = cascade.rank_many(
        [QUERY], [[document.content for document in MANY]], activation_fct=None if scale_score else IDENTITY
    )
    expected = [(MANY[one.index].id, one.score) for one in ranking.documents[:9]]
    models = [tiny_folder, Path(larger)]
    given = {"model": models, "top_k": 9, "scale_score": scale_score}
    ranker = make_ranker(**given, keep=4)
    pipeline = Pipeline()
    pipeline.add_component("ranker", ranker)
    rankers = [ranker, Pipeline.loads(pipeline.dumps()).get_component("ranker"), pickle.loads(pickle.dumps(ranker))]  # noqa: S301
    rankers += [make_ranker(**given, keep=[4]), make_ranker(**given, keep=tmp_path / "rule.json")]
    for same in rankers:
        found = await same.run_async(query=QUERY, documents=MANY)
        assert [(document.id, document.score) for document in found["documents"]] == expected
    hurried = ranker.run(query=QUERY, documents=MANY, budget_ms=0.001)
    assert (hurried["complete"], hurried["unscored"] > 0) == (False, True)
    ranker.close()
    assert ranker.run(query=QUERY, documents=MANY)["documents"] == found["documents"]


@pytest.mark.parametrize("keep", [4, StoppingRule(3, 0.5)])
def test_a_file_has_the_windows_of_a_cascade(
    make_ranker: MakeRanker, tiny_folder: str, larger: str, tmp_path: Path, keep: Any
) -> None:
    """In which its rule was measured, if it has one."""
    names, texts = [tiny_folder, larger], [document.content for document in MANY]
    cascade = Cascade(names, keep, device="cpu", max_length=[12, None])
    cascade.save(tmp_path / "rule.json")
    (ranking,) = cascade.rank_many([QUERY], [texts], activation_fct=IDENTITY, batch_size=16)
    ranker = make_ranker(model=names, top_k=9, scale_score=False, keep=tmp_path / "rule.json")
    found = ranker.run(query=QUERY, documents=MANY)["documents"]
    assert [(one.id, one.score) for one in found] == [(MANY[one.index].id, one.score) for one in ranking.documents[:9]]
    with ranker.lent_model() as model:
        assert [one.window for one in model.models] == [12, cascade.models[1].window]


def test_a_cascade_reads_windows_and_keeps_scores(
    make_ranker: MakeRanker, tiny_folder: str, larger: str, tmp_path: Path
) -> None:
    """Every model of it."""
    path = tmp_path / "scores.db"
    ranker = make_ranker(model=[tiny_folder, larger], keep=2, truncation="windows", score_cache=path)
    found = ranker.run(query=QUERY, documents=LONG)
    assert [told["windows"] > 1 for told in found["passages"]].count(True) == 2
    cache = shared_cache(str(path), 256)
    assert (cache.hits, cache.misses) == (0, 5)
    assert ranker.run(query=QUERY, documents=LONG) == found
    assert (cache.hits, cache.misses) == (5, 5)


def test_an_instruction_goes_to_the_models_of_a_cascade_that_take_one(
    make_ranker: MakeRanker, tiny_folder: str, tmp_path: Path, documents: list[Document]
) -> None:
    """That of the component, or of the call."""
    judge = str(make_reranker(tmp_path / "judge"))
    cascade = Cascade([CrossEncoder(name, device="cpu") for name in (tiny_folder, judge)], 3)
    ranker = make_ranker(model=[tiny_folder, judge], keep=3, instruction="find a cat", scale_score=False)
    for said, wish in ((None, "find a cat"), ("find a dog", "find a dog")):
        texts = [document.content for document in documents]
        (ranking,) = cascade.rank_many([QUERY], [texts], activation_fct=IDENTITY, instruction=wish)
        found = ranker.run(query=QUERY, documents=documents, instruction=said)["documents"]
        assert [document.score for document in found] == [one.score for one in ranking.documents]


def test_the_scores_of_a_cascade_are_on_the_scale_of_its_last_model(
    make_ranker: MakeRanker, tiny_folder: str, tmp_path: Path
) -> None:
    """zerank's own sigmoid, for documents that only the model before has scored too."""
    told: dict[str, Any] = {"template": "zerank", "true_token": "yes"}
    CrossEncoder(str(make_decoder(tmp_path / "plain", "qwen3")), device="cpu", **told).save(str(tmp_path / "judge"))
    names = [tiny_folder, str(tmp_path / "judge")]
    cascade = Cascade([CrossEncoder(name, device="cpu") for name in names], 3)
    texts = [document.content for document in MANY]
    (ranking,) = cascade.rank_many([QUERY], [texts], activation_fct=cascade.own_activation)
    found = make_ranker(model=names, keep=3, top_k=len(MANY)).run(query=QUERY, documents=MANY)["documents"]
    assert [one.id for one in found] == [MANY[one.index].id for one in ranking.documents]
    assert [one.score for one in found] == pytest.approx([one.score for one in ranking.documents], abs=1e-6)
    alone = cascade.models[1].predict([(QUERY, document.content) for document in found[:3]])
    assert [one.score for one in found[:3]] == pytest.approx(alone.tolist(), abs=1e-5)


@pytest.mark.parametrize("several_first", [True, False])
def test_a_relevance_is_for_the_models_of_a_cascade_with_several_labels(
    make_ranker: MakeRanker,
    tiny_folder: str,
    tiny_model_folder: Callable[..., str],
    documents: list[Document],
    several_first: bool,
) -> None:
    """Whichever stands where; the last model's scores are those it has alone."""
    names = [tiny_model_folder("bert", 3), tiny_folder]
    names = names if several_first else names[::-1]
    found = make_ranker(model=names, relevance=1, scale_score=False).run(query=QUERY, documents=documents)
    alone = make_ranker(model=names[-1], relevance=None if several_first else 1, scale_score=False)
    assert found["documents"] == alone.run(query=QUERY, documents=documents)["documents"]
    with pytest.raises(InvalidInput, match="relevance=1 is neither"):
        make_ranker(model=[tiny_folder, tiny_folder], relevance=1).warm_up()


def test_models_that_make_no_cascade_are_refused_when_they_are_loaded(
    make_ranker: MakeRanker, tiny_folder: str, tiny_model_folder: Callable[..., str], tmp_path: Path
) -> None:
    """Labels without a rule, grades on two scales, a file that is not there."""
    several = tiny_model_folder("bert", 3)
    with pytest.raises(InvalidInput, match="num_labels=1"):
        make_ranker(model=[several, tiny_folder]).warm_up()
    with pytest.raises(InvalidInput, match="other numbers of labels"):
        make_ranker(model=[tiny_folder, several], relevance="expected").warm_up()
    with pytest.raises(InvalidInput, match="has no place for one"):
        make_ranker(model=[tiny_folder, tiny_folder], instruction="find a cat").warm_up()
    with pytest.raises(ModelLoadError, match=r"rule\.json"):
        make_ranker(model=[tiny_folder, tiny_folder], keep=str(tmp_path / "rule.json")).warm_up()
