"""What happens when the model fails: an error that says what, or the documents as they were given."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from haystack import Document, Pipeline
from haystack.core.errors import PipelineRuntimeError
from haystack.utils import Secret
from haystack_integrations.components.rankers.secondpass import SecondPassRanker
from safetensors.torch import load_file, save_file

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, ModelLoadError, NonFiniteScore
from secondpass.ranking import Ranking
from tests.tiny_models import make_folder

MakeRanker = Callable[..., SecondPassRanker]
QUERY = "where is the capital of france"
BROKEN_WORD = "apple"
UNRANKED = {"truncated": [], "reranked": False, "passages": [], "complete": False, "unscored": 6}
UNRANKED |= {"probabilities": [], "nothing_relevant": None}


@pytest.fixture(scope="session")
def broken_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a model that gives NaN for every text with the word "apple"."""
    from transformers import AutoTokenizer

    folder = make_folder(tmp_path_factory.mktemp("broken"), "bert")
    token = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(BROKEN_WORD)
    weights = load_file(folder / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("word_embeddings.weight"))
    weights[name][token] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages that were logged as warnings or worse."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_score_that_is_no_number_names_its_document(
    make_ranker: MakeRanker, broken_folder: str, documents: list[Document]
) -> None:
    """NaN is never ranked: the error lists the ids of the documents that got it, counted without blank ones."""
    ranker = make_ranker(model=broken_folder)
    with pytest.raises(NonFiniteScore, match=r"no finite score for the documents 'd3'"):
        ranker.run(query=QUERY, documents=[Document(id="blank"), *documents])
    healthy = [document for document in documents if BROKEN_WORD not in document.content]
    assert ranker.run(query=QUERY, documents=healthy)["reranked"] is True


def test_row_29_a_failure_can_give_the_documents_as_they_were_given(
    make_ranker: MakeRanker, broken_folder: str, documents: list[Document], caplog: pytest.LogCaptureFixture
) -> None:
    """With raise_on_failure=False: every document, its order and its score, no threshold, no top_k, one warning."""
    given = [*documents, Document(id="d0", content="twin", score=0.5), Document(id="blank")]
    ranker = make_ranker(model=broken_folder, raise_on_failure=False, top_k=1, score_threshold=0.999)
    with caplog.at_level(logging.WARNING):
        result = ranker.run(query=QUERY, documents=given)
    assert result == UNRANKED | {"documents": given}
    failed = [message for message in warnings_of(caplog) if "failed" in message]
    assert failed == [
        "Ranking failed (NonFiniteScore: the model gave no finite score for the documents 'd3'): "
        "8 documents are returned as they were given."
    ]
    healthy = ranker.run(query=QUERY, documents=documents[:1], score_threshold=0.0)
    assert healthy["reranked"] is True


def test_a_model_that_cannot_be_loaded_raises_where_it_is_asked_for(tmp_path: Path, documents: list[Document]) -> None:
    """warm_up and run name the folder; a pipeline passes the error on."""
    missing = str(tmp_path / "missing")
    ranker = SecondPassRanker(model=missing)
    with pytest.raises(ModelLoadError, match="missing"):
        ranker.warm_up()
    with pytest.raises(ModelLoadError, match="missing"):
        ranker.run(query=QUERY, documents=documents)


async def test_a_pipeline_answers_without_its_model(
    tmp_path: Path, tiny_folder: str, documents: list[Document], caplog: pytest.LogCaptureFixture
) -> None:
    """With raise_on_failure=False neither warm-up nor run stops a pipeline, and a model that appears is used."""
    folder = tmp_path / "late"
    pipeline = Pipeline()
    pipeline.add_component("ranker", SecondPassRanker(model=str(folder), device="cpu", raise_on_failure=False))
    inputs = {"ranker": {"query": QUERY, "documents": documents}}
    with caplog.at_level(logging.WARNING):
        result = pipeline.run(inputs)["ranker"]
    assert result == UNRANKED | {"documents": documents}
    assert [message.split(":")[0] for message in warnings_of(caplog)] == [
        "The ranking model is not loaded (ModelLoadError",
        "Ranking failed (ModelLoadError",
    ]
    assert (await pipeline.run_async(inputs))["ranker"] == result
    folder.symlink_to(tiny_folder)
    assert pipeline.run(inputs)["ranker"]["reranked"] is True


def test_too_many_documents_are_refused_before_the_model_is_loaded(documents: list[Document]) -> None:
    """max_documents counts ids once."""
    ranker = SecondPassRanker(model="/no/such/folder", max_documents=5)
    with pytest.raises(InvalidInput, match="documents has 6 different ids, more than max_documents=5"):
        ranker.run(query=QUERY, documents=documents)
    with pytest.raises(ModelLoadError):
        ranker.run(query=QUERY, documents=[*documents[:5], *documents[:5]])


def test_a_document_that_does_not_fit_can_be_an_error(make_ranker: MakeRanker, documents: list[Document]) -> None:
    """truncation="error" refuses the call and tells how long the pair is."""
    ranker = make_ranker(truncation="error")
    assert ranker.run(query=QUERY, documents=documents)["reranked"] is True
    with pytest.raises(InvalidInput, match="tokens"):
        ranker.run(query=QUERY, documents=[*documents, Document(id="long", content="tree " * 200)])


@pytest.mark.parametrize(
    ("labels", "relevance", "message"),
    [(3, None, "num_labels=1"), (3, 3, "label index below 3"), (1, 1, "label index below 1")],
)
def test_a_model_whose_labels_mean_something_else_is_refused(
    tiny_model_folder: Callable[..., str], documents: list[Document], labels: int, relevance: Any, message: str
) -> None:
    """Unless `relevance` says which label means relevance no order is made of them; told when the model is loaded."""
    ranker = SecondPassRanker(model=tiny_model_folder("bert", labels), device="cpu", relevance=relevance)
    with pytest.raises(InvalidInput, match=message):
        ranker.warm_up()
    with pytest.raises(InvalidInput, match=message):
        ranker.run(query=QUERY, documents=documents)


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("relevance", [0, 1, "expected"])
def test_a_model_with_several_labels_ranks_by_a_rule(
    tiny_model_folder: Callable[..., str], documents: list[Document], labels: int, relevance: Any
) -> None:
    """The order of the engine's own `rank` with that rule; scores between 0 and 1, or log-odds and grades."""
    folder = tiny_model_folder("bert", labels)
    encoder = CrossEncoder(folder, device="cpu")
    soft = encoder.predict([(QUERY, document.content) for document in documents], apply_softmax=True)
    grades = soft @ np.arange(labels)
    scaled = grades / (labels - 1) if relevance == "expected" else soft[:, relevance]
    plain = grades if relevance == "expected" else np.log(scaled / (1 - scaled))
    order = [documents[row].id for row in np.argsort(-plain)]
    ranker = SecondPassRanker(model=folder, device="cpu", relevance=relevance)
    for scale, scores in ((True, scaled), (False, plain)):
        found = ranker.run(query=QUERY, documents=documents, scale_score=scale)["documents"]
        assert [document.id for document in found] == order
        assert [document.score for document in found] == pytest.approx(sorted(scores.tolist(), reverse=True), abs=1e-5)


@pytest.mark.parametrize("relevance", [0, "expected"])
def test_a_rule_that_fits_one_label_changes_nothing(
    make_ranker: MakeRanker, documents: list[Document], relevance: Any
) -> None:
    """As in the engine's `rank`."""
    expected = make_ranker().run(query=QUERY, documents=documents)
    assert make_ranker(relevance=relevance).run(query=QUERY, documents=documents) == expected


@pytest.mark.parametrize("wrong", [slice(1, None), [0, 0, 1, 2, 3, 4]])
def test_a_lost_or_doubled_score_is_an_error(
    make_ranker: MakeRanker, documents: list[Document], monkeypatch: pytest.MonkeyPatch, wrong: slice | list[int]
) -> None:
    """An engine that does not give one score to each document is never read as a ranking."""
    ranker = make_ranker()
    with ranker.lent_model() as encoder:
        rank_many = encoder.rank_many

    def broken(*args: object, **options: object) -> list[Ranking]:
        (ranking,) = rank_many(*args, **options)
        items = ranking.documents[wrong] if isinstance(wrong, slice) else [ranking.documents[index] for index in wrong]
        return [replace(ranking, documents=tuple(items))]

    monkeypatch.setattr(encoder, "rank_many", broken)
    with pytest.raises(RuntimeError, match="scores for 6 documents"):
        ranker.run(query=QUERY, documents=documents)


def test_a_missing_token_names_its_variable(tiny_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A strict Secret without its variable fails at load, not at construction."""
    monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
    ranker = SecondPassRanker(model=tiny_folder, token=Secret.from_env_var("NO_SUCH_TOKEN"))
    with pytest.raises(ValueError, match="NO_SUCH_TOKEN"):
        ranker.warm_up()


def test_a_token_is_in_no_message(
    tmp_path: Path, documents: list[Document], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the error of a failed load nor the log of a fallback shows the token."""
    monkeypatch.setenv("HF_TOKEN", "hf_clear")
    with pytest.raises(ModelLoadError) as caught:
        SecondPassRanker(model=str(tmp_path / "missing")).warm_up()
    assert "hf_clear" not in str(caught.value)
    with caplog.at_level(logging.DEBUG):
        SecondPassRanker(model=str(tmp_path / "missing"), raise_on_failure=False).run(query=QUERY, documents=documents)
    assert caplog.records
    assert "hf_clear" not in caplog.text


def test_an_interrupt_is_not_swallowed(
    make_ranker: MakeRanker, documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends a call even with raise_on_failure=False, and the next call works."""
    ranker = make_ranker(raise_on_failure=False)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ranker, "_load", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ranker.run(query=QUERY, documents=documents)
    assert ranker.run(query=QUERY, documents=documents)["reranked"] is True


def test_a_pipeline_wraps_an_error_and_keeps_its_words(make_ranker: MakeRanker, documents: list[Document]) -> None:
    """Inside a pipeline the argument is still named."""
    pipeline = Pipeline()
    pipeline.add_component("ranker", make_ranker())
    with pytest.raises(PipelineRuntimeError, match="top_k must be > 0, but got 0"):
        pipeline.run({"ranker": {"query": QUERY, "documents": documents, "top_k": 0}})
