"""Rows 18 to 28 of the fault table: logits, scores and orders."""

from __future__ import annotations

import copy
import json
import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from secondpass import CallRecord, CrossEncoder
from secondpass.errors import InvalidInput, NonFiniteScore, SecondPassError
from tests.model_spy import before_forward, not_reached
from tests.tiny_models import ARCHITECTURES, WORDS

QUERY = "how to reset the password"
DOCUMENTS = ["reset the password", "river water", "the cat sat", "a cold river", "house and garden"]
WITH_RIVER = (1, 3)


@pytest.fixture
def poisoned(own_tiny: CrossEncoder) -> CrossEncoder:
    """A model that answers NaN to any text with the word "river"."""
    token = own_tiny.tokenizer.convert_tokens_to_ids("river")
    with torch.no_grad():
        own_tiny.model.get_input_embeddings().weight[token] = float("nan")
    return own_tiny


@pytest.mark.parametrize("batch_size", [1, 32])
def test_row_18_a_score_that_is_no_number_is_refused_with_its_indices(poisoned: CrossEncoder, batch_size: int) -> None:
    """Neither a score nor a place in a ranking: the error names the pairs of the first batch that has any."""
    calls: list[Callable[[], object]] = [
        lambda: poisoned.predict([(QUERY, document) for document in DOCUMENTS], batch_size),
        lambda: poisoned.predict([(QUERY, document) for document in DOCUMENTS], batch_size, activation_fct=nn.Tanh()),
        lambda: poisoned.rank(QUERY, DOCUMENTS, batch_size=batch_size),
        lambda: poisoned.rank_many([QUERY], [DOCUMENTS], batch_size=batch_size),
    ]
    for call in calls:
        with pytest.raises(NonFiniteScore) as caught:
            call()
        assert set(caught.value.indices) <= set(WITH_RIVER)
        assert caught.value.indices
        assert str(list(caught.value.indices)) in str(caught.value)
    assert poisoned.predict((QUERY, DOCUMENTS[0])) > 0


def test_row_18_equal_documents_are_all_named(poisoned: CrossEncoder) -> None:
    """Of documents that are scored once for all, the error names every one."""
    with pytest.raises(NonFiniteScore) as caught:
        poisoned.rank(QUERY, ["cat", "river", "mat", "river"])
    assert sorted(caught.value.indices) == [1, 3]


@pytest.mark.parametrize("infinite", [float("inf"), float("-inf")])
def test_row_18_infinity_is_refused_too(own_tiny: CrossEncoder, infinite: float) -> None:
    """A sigmoid would hide it as 1 or 0."""
    with torch.no_grad():
        own_tiny.model.classifier.bias.fill_(infinite)
    with pytest.raises(NonFiniteScore, match=r"pairs \[0\]"):
        own_tiny.predict((QUERY, "cat"))


def test_row_18_an_activation_that_gives_no_number_is_refused(tiny: CrossEncoder) -> None:
    """The logarithm of a negative number is no score; the error says that it was the activation, and where."""

    def broken(logits: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(len(logits)) == 2, torch.log(-(logits[:, 0] ** 2)), logits[:, 0])

    pairs = [(QUERY, document) for document in DOCUMENTS]
    calls: list[Callable[[], object]] = [
        lambda: tiny.predict(pairs, activation_fct=broken),
        lambda: tiny.rank(QUERY, DOCUMENTS, activation_fct=broken),
        lambda: tiny.rank_many([QUERY], [DOCUMENTS], activation_fct=broken),
    ]
    for call in calls:
        with pytest.raises(NonFiniteScore, match=r"activation .* pairs \[2\]") as caught:
            call()
        assert pickle.loads(pickle.dumps(caught.value)).indices == (2,)  # noqa: S301


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_row_18_an_overflow_in_half_precision_is_repeated_in_float32(
    tiny_model_folder: Callable[..., str], architecture: str
) -> None:
    """The batch gets the float32 score, the record counts the retry, and the model is as it was."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu", automodel_args={"dtype": torch.float16})
    # the feed-forward block of the last layer: our own head is computed in float32 in any case
    *_, down = [module for module in encoder.model.modules() if getattr(module, "in_features", 0) == 64]
    with torch.no_grad():
        down.weight.mul_(60000 / down.weight.abs().max().item())
    before = {name: value.clone() for name, value in encoder.model.named_buffers()} | copy.deepcopy(
        encoder.model.state_dict()
    )
    records: list[CallRecord] = []
    pairs = [(QUERY, document) for document in DOCUMENTS]
    scores = encoder.predict(pairs, activation_fct=nn.Identity(), records=records)
    assert np.isfinite(scores).all()
    assert records[0].retries == 1
    assert records[0].dtype == "float16"
    after = dict(encoder.model.named_buffers()) | encoder.model.state_dict()
    assert all(after[name].dtype == value.dtype and torch.equal(after[name], value) for name, value in before.items())
    encoder.model.float()
    assert scores == pytest.approx(encoder.predict(pairs, activation_fct=nn.Identity()), rel=1e-5, abs=1e-5)


def test_row_18_an_overflow_that_float32_does_not_cure_is_refused(poisoned: CrossEncoder) -> None:
    """One retry, then the error; half precision is back afterwards."""
    poisoned.model.half()
    with pytest.raises(NonFiniteScore):
        poisoned.rank(QUERY, DOCUMENTS)
    assert poisoned.model.dtype == torch.float16


def test_row_19_ties_keep_the_given_order(own_tiny: CrossEncoder) -> None:
    """A model that gives everything the same score leaves the first pass's order alone."""
    with torch.no_grad():
        own_tiny.model.classifier.weight.zero_()
    documents = [*DOCUMENTS, *DOCUMENTS[::-1]]
    assert [hit["corpus_id"] for hit in own_tiny.rank(QUERY, documents, batch_size=3)] == list(range(10))
    ranking = own_tiny.rank_many(["cat", QUERY], [["a"], documents])[1]
    assert [ranked.index for ranked in ranking.documents] == list(range(10))


def test_row_19_saturated_scores_are_told_apart_by_their_logits(own_tiny: CrossEncoder) -> None:
    """When every sigmoid is 1.0 the order is still that of the logits."""
    by_logit = own_tiny.rank(QUERY, DOCUMENTS, activation_fct=nn.Identity())
    with torch.no_grad():
        own_tiny.model.classifier.bias += 40
    saturated = own_tiny.rank(QUERY, DOCUMENTS)
    assert {float(hit["score"]) for hit in saturated} == {1.0}
    assert [hit["corpus_id"] for hit in saturated] == [hit["corpus_id"] for hit in by_logit]
    assert [hit["corpus_id"] for hit in saturated] != list(range(5))


@pytest.mark.parametrize("num_labels", [1, 2])
def test_row_20_one_document_is_ranked_like_any(tiny_model_folder: Callable[..., str], num_labels: int) -> None:
    """No scalar, no lost axis: one document gives a list of one."""
    encoder = CrossEncoder(tiny_model_folder("bert", num_labels), device="cpu")
    rule = None if num_labels == 1 else 1
    for options in ({}, {"convert_to_tensor": True}, {"convert_to_numpy": False}):
        hits = encoder.rank(QUERY, ["cat"], relevance=rule, **options)
        assert [hit["corpus_id"] for hit in hits] == [0]
        assert np.ndim(hits[0]["score"]) == 0
    assert len(encoder.rank_many([QUERY], [["cat"]], relevance=rule)[0].documents) == 1


def _documents(draw: random.Random) -> list[str]:
    return [" ".join(draw.choices(WORDS, k=draw.randrange(1, 60))) for _ in range(24)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("batch_size", "budget"), [(1, None), (3, 90), (32, 200), (7, 100_000)])
def test_row_21_batches_change_no_ranking(
    tiny_model_folder: Callable[..., str], architecture: str, batch_size: int, budget: int | None
) -> None:
    """Whatever the size of a batch: the same order, scores within 1e-5."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    documents = _documents(random.Random(1))
    expected = encoder.rank(QUERY, documents)
    encoder.max_batch_tokens = budget
    made = encoder.rank(QUERY, documents, batch_size=batch_size)
    assert [hit["corpus_id"] for hit in made] == [hit["corpus_id"] for hit in expected]
    assert [hit["score"] for hit in made] == pytest.approx([hit["score"] for hit in expected], abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_row_21_the_order_of_the_documents_changes_no_ranking(tiny: CrossEncoder, seed: int) -> None:
    """Shuffled documents come back in the same order, with the same scores within 1e-5."""
    draw = random.Random(seed)
    documents = _documents(draw)
    expected = tiny.rank(QUERY, documents, return_documents=True)
    draw.shuffle(documents)
    made = tiny.rank(QUERY, documents, return_documents=True)
    assert [hit["text"] for hit in made] == [hit["text"] for hit in expected]
    assert [hit["score"] for hit in made] == pytest.approx([hit["score"] for hit in expected], abs=1e-5)
    assert [documents[hit["corpus_id"]] for hit in made] == [hit["text"] for hit in made]


@pytest.mark.parametrize("top_k", [0, -1, True, False, 1.0, "3"])
def test_row_22_a_top_k_that_counts_nothing_is_refused(own_tiny: CrossEncoder, top_k: Any) -> None:
    """Zero, negative, bool or no int: refused before the model is asked, also without documents."""
    with before_forward(own_tiny, not_reached):
        for call in (
            lambda: own_tiny.rank(QUERY, DOCUMENTS, top_k=top_k),
            lambda: own_tiny.rank(QUERY, [], top_k=top_k),
            lambda: own_tiny.rank_many([QUERY], [DOCUMENTS], top_k=top_k),
        ):
            with pytest.raises(InvalidInput, match=f"top_k={top_k!r} is not a positive int"):
                call()


@pytest.mark.parametrize("top_k", [None, 1, 3, 5, 6, 10**9, np.int64(2)])
def test_row_22_a_top_k_beyond_the_documents_gives_all(tiny: CrossEncoder, top_k: Any) -> None:
    """The best `top_k` of the whole ranking."""
    whole = tiny.rank(QUERY, DOCUMENTS)
    assert tiny.rank(QUERY, DOCUMENTS, top_k=top_k) == whole[:top_k]
    ranking = tiny.rank_many([QUERY], [DOCUMENTS], top_k=top_k)[0]
    assert [ranked.index for ranked in ranking.documents] == [hit["corpus_id"] for hit in whole[:top_k]]


@pytest.mark.parametrize("num_labels", [2, 3])
def test_row_24_several_labels_need_a_rule(tiny_model_folder: Callable[..., str], num_labels: int) -> None:
    """Which label is relevance is not guessed; the message is the seed's, with what to do."""
    encoder = CrossEncoder(tiny_model_folder("bert", num_labels), device="cpu")
    with pytest.raises(ValueError, match=r"CrossEncoder\.rank\(\) only works for models with num_labels=1.*relevance="):
        encoder.rank(QUERY, DOCUMENTS)
    for label in range(num_labels):
        hits = encoder.rank(QUERY, DOCUMENTS, relevance=label)
        logits = encoder.predict([(QUERY, document) for document in DOCUMENTS], apply_softmax=True)
        assert [hit["corpus_id"] for hit in hits] == np.argsort(-logits[:, label]).tolist()
        assert [hit["score"] for hit in hits] == pytest.approx(sorted(logits[:, label], reverse=True), abs=1e-6)
    with pytest.raises(InvalidInput, match=f"relevance={num_labels} is neither"):
        encoder.rank(QUERY, DOCUMENTS, relevance=num_labels)


@pytest.mark.parametrize("rows", [slice(0, -1), slice(0, 0), [0, 1, 2, 3, 4, 4]])
def test_row_25_a_model_that_gives_another_number_of_scores_is_refused(own_tiny: CrossEncoder, rows: Any) -> None:
    """Scores are never paired off with the documents that happen to be there."""

    def drop(module: object, args: object, output: Any) -> Any:
        output.logits = output.logits[rows]
        return output

    own_tiny.model.register_forward_hook(drop)
    with pytest.raises(SecondPassError, match=r"logits of shape .* for 5 pairs"):
        own_tiny.rank(QUERY, DOCUMENTS)


def test_row_27_the_callers_objects_are_left_alone(tiny: CrossEncoder) -> None:
    """Documents, pairs and options are read, never changed."""
    documents, pairs = [" cat ", "mat\n"], [[" a ", "b "], [" c", "d"]]
    tiny.rank(QUERY, documents, return_documents=True)
    tiny.predict(pairs)
    assert documents == [" cat ", "mat\n"]
    assert pairs == [[" a ", "b "], [" c", "d"]]


def test_row_28_a_ranking_is_valid_json(tiny: CrossEncoder) -> None:
    """Scores and logits of `rank_many` are finite Python floats."""
    ranking = tiny.rank_many([QUERY], [DOCUMENTS])[0]
    values: Iterator[float] = (value for ranked in ranking.documents for value in (ranked.score, ranked.logit))
    assert all(type(value) is float for value in values)
    text = json.dumps([(ranked.index, ranked.score) for ranked in ranking.documents], allow_nan=False)
    assert json.loads(text)[0][1] == ranking.documents[0].score
