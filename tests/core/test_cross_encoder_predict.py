"""The public contract of `CrossEncoder.predict`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, NoTokens
from secondpass.merging import SharedReranker
from tests.model_spy import before_forward, inputs_read, not_reached

QUERY = "how to reset the password"
DOCUMENTS = ["the cat sat", "reset the password", "a cold river", "house and garden"]
PAIRS = [(QUERY, document) for document in DOCUMENTS]


@pytest.fixture
def three(tiny_model_folder: Callable[..., str]) -> CrossEncoder:
    """A model with three labels."""
    return CrossEncoder(tiny_model_folder("bert", 3), device="cpu")


@pytest.mark.parametrize("num_labels", [1, 3])
def test_no_pairs(tiny_model_folder: Callable[..., str], num_labels: int) -> None:
    """Empty input gives an empty result of the kind that was asked for."""
    encoder = CrossEncoder(tiny_model_folder("bert", num_labels), device="cpu")
    shape = (0,) if num_labels == 1 else (0, 3)
    with before_forward(encoder, not_reached):
        array, tensor = encoder.predict([]), encoder.predict([], convert_to_tensor=True)
        assert encoder.predict([], convert_to_numpy=False) == []
        assert encoder.predict([], activation_fct=lambda logits: logits / logits.max()).shape == shape
    assert (type(array), array.dtype, array.shape) == (np.ndarray, np.float32, shape)
    assert (type(tensor), tensor.dtype, tensor.shape) == (torch.Tensor, torch.float32, torch.Size(shape))


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("pair", [PAIRS[0], list(PAIRS[0]), np.array(PAIRS[0]), [QUERY]])
def test_a_single_pair_is_unwrapped(tiny_model_folder: Callable[..., str], num_labels: int, pair: Any) -> None:
    """Without the first axis: a float32 scalar or a row; a tensor if so asked, or if neither is."""
    encoder = CrossEncoder(tiny_model_folder("bert", num_labels), device="cpu")
    shape = () if num_labels == 1 else (3,)
    score = encoder.predict(pair)
    assert type(score) is (np.float32 if num_labels == 1 else np.ndarray)
    assert score.shape == shape
    for options in ({"convert_to_tensor": True}, {"convert_to_numpy": False}):
        tensor = encoder.predict(pair, **options)
        assert isinstance(tensor, torch.Tensor)
        assert tensor.shape == shape
    among = encoder.predict([tuple(pair), tuple(pair)])[1]
    assert np.allclose(score, among, atol=1e-6)


@pytest.mark.parametrize("budget", [None, 60_000])
def test_a_pair_without_any_token_is_named(budget: float | None) -> None:
    """Of a template without special tokens, by its place among the pairs given, whatever batch it would be in."""
    encoder = CrossEncoder("secondpass/pocket", device="cpu", template="{query} {document}")
    for pairs, place in (([("", ""), ("a", "b")], 0), ([*PAIRS, ("", ""), ("a", ""), ("", "")], len(PAIRS))):
        with pytest.raises(NoTokens, match=rf"^sentences\[{place}\] has no tokens") as refused:
            encoder.predict(pairs)
        assert refused.value.indices == (place,)
        with SharedReranker(encoder) as shared, pytest.raises(InvalidInput, match=f"^pair {place} has no tokens"):
            shared.submit(*map(list, zip(*pairs, strict=True)), budget_s=budget).result(60)
        with pytest.raises(InvalidInput, match=r"^queries\[0\] is blank"):
            encoder.rank_many([""], [["a", ""]], budget_ms=budget)


def test_single_texts_are_taken(own_tiny: CrossEncoder) -> None:
    """A row of one text is encoded with the template of one text."""
    with inputs_read(own_tiny) as read:
        assert own_tiny.predict([["cat"], ["the mat"]]).shape == (2,)
    assert sorted(read) == sorted(own_tiny.tokenizer(["cat", "the mat"])["input_ids"])


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, np.ndarray),
        ({"convert_to_numpy": False}, list),
        ({"convert_to_tensor": True}, torch.Tensor),
        ({"convert_to_tensor": True, "convert_to_numpy": False}, torch.Tensor),
        ({"convert_to_tensor": True, "convert_to_numpy": True}, torch.Tensor),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_wins_over_an_array_over_a_list(
    tiny_folder: str, options: dict[str, bool], kind: type, dtype: torch.dtype
) -> None:
    """The kind of the result; float32 whatever the weights are."""
    encoder = CrossEncoder(tiny_folder, device="cpu", automodel_args={"dtype": dtype})
    scores = encoder.predict(PAIRS, **options)
    assert type(scores) is kind
    assert len(scores) == 4
    if kind is list:
        assert all(isinstance(score, torch.Tensor) and score.shape == () for score in scores)
        scores = torch.stack(scores)
    assert str(scores.dtype).endswith("float32")


@pytest.mark.parametrize("activation", [torch.Tensor.double, torch.Tensor.half, lambda logits: logits > 0])
def test_scores_are_float32_whatever_an_activation_gives(tiny: CrossEncoder, activation: Any) -> None:
    """As an array, as a tensor and in a list."""
    array = tiny.predict(PAIRS, activation_fct=activation)
    tensor = tiny.predict(PAIRS, activation_fct=activation, convert_to_tensor=True)
    several = tiny.predict(PAIRS, activation_fct=activation, convert_to_numpy=False)
    assert array.dtype == np.float32
    assert {tensor.dtype, *(score.dtype for score in several)} == {torch.float32}
    assert array.tolist() == tensor.tolist() == [score.item() for score in several]


def test_results_belong_to_the_caller(tiny: CrossEncoder) -> None:
    """They can be written to, and enter autograd."""
    array, tensor = tiny.predict(PAIRS), tiny.predict(PAIRS, convert_to_tensor=True)
    array[0] = 7
    (tensor * torch.ones(4, requires_grad=True)).sum().backward()
    assert tiny.predict(PAIRS)[0] < 1


@pytest.mark.parametrize("activation", [None, nn.Tanh()])
def test_softmax_comes_after_the_activation(three: CrossEncoder, activation: nn.Module | None) -> None:
    """Over the labels of each pair."""
    plain = three.predict(PAIRS, activation_fct=activation, convert_to_tensor=True)
    soft = three.predict(PAIRS, activation_fct=activation, apply_softmax=True, convert_to_tensor=True)
    assert torch.allclose(soft, torch.softmax(plain, dim=1))


def test_softmax_does_nothing_to_one_label(tiny: CrossEncoder) -> None:
    """It would turn every score into 1."""
    assert np.array_equal(tiny.predict(PAIRS, apply_softmax=True), tiny.predict(PAIRS))


def test_softmax_takes_two_labels(tiny_model_folder: Callable[..., str]) -> None:
    """Two labels are several."""
    encoder = CrossEncoder(tiny_model_folder("bert", 2), device="cpu")
    assert np.allclose(encoder.predict(PAIRS, apply_softmax=True).sum(axis=1), 1)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
def test_texts_are_stripped(tiny_model_folder: Callable[..., str], architecture: str) -> None:
    """`predict` and `rank` read texts without the white space around them; `rank` returns them as given."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    around = [f" \n{document}\t " for document in DOCUMENTS]
    assert np.array_equal(encoder.predict([(f"  {QUERY}\n", text) for text in around]), encoder.predict(PAIRS))
    hits = encoder.rank(f"\n{QUERY} ", around, return_documents=True)
    plain = encoder.rank(QUERY, DOCUMENTS)
    assert [(hit["corpus_id"], hit["score"]) for hit in hits] == [(hit["corpus_id"], hit["score"]) for hit in plain]
    assert [hit["text"] for hit in hits] == [around[hit["corpus_id"]] for hit in hits]


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_num_workers_is_accepted_without_effect(tiny: CrossEncoder, workers: int) -> None:
    """No process is started: the scores are the same."""
    assert np.array_equal(tiny.predict(PAIRS, num_workers=workers), tiny.predict(PAIRS))
    assert tiny.rank(QUERY, DOCUMENTS, num_workers=workers) == tiny.rank(QUERY, DOCUMENTS)


@pytest.mark.parametrize("wrong", [nn.Identity(), -1, None, True])
def test_what_is_no_number_of_workers_is_refused(tiny: CrossEncoder, wrong: Any) -> None:
    """In the order of sentence-transformers 4 to 5 an activation stands there: it is not left out in silence."""
    for call in (
        lambda: tiny.predict(PAIRS, 32, False, wrong),
        lambda: tiny.predict([], 32, False, wrong),
        lambda: tiny.rank(QUERY, DOCUMENTS, None, False, 32, False, wrong),
    ):
        with pytest.raises(InvalidInput, match="num_workers="):
            call()


@pytest.mark.parametrize("wrong", [0, -1, True, 2.0, None, "8"])
def test_a_batch_size_that_is_no_positive_int_is_refused(tiny: CrossEncoder, wrong: Any) -> None:
    """The message names the argument and its value."""
    for call in (
        lambda: tiny.predict(PAIRS, batch_size=wrong),
        lambda: tiny.rank(QUERY, DOCUMENTS, batch_size=wrong),
        lambda: tiny.rank_many([QUERY], [DOCUMENTS], batch_size=wrong),
    ):
        with pytest.raises(InvalidInput, match=f"batch_size={wrong!r} is not a positive int"):
            call()


@pytest.mark.parametrize("option", ["max_batch_tokens", "max_documents", "max_length"])
@pytest.mark.parametrize("wrong", [0, -1, True, 2.5, "8"])
def test_a_limit_that_is_no_positive_int_is_refused(tiny_folder: str, option: str, wrong: Any) -> None:
    """A limit of nothing is a mistake, not a request for the default."""
    with pytest.raises(InvalidInput, match=f"{option}={wrong!r} is not a positive int"):
        CrossEncoder(tiny_folder, device="cpu", **{option: wrong})


def test_training_mode_is_left(own_tiny: CrossEncoder) -> None:
    """A model in training mode is put into evaluation mode: no dropout in scores, and it stays there."""
    own_tiny.model.train()
    first, second = own_tiny.predict(PAIRS), own_tiny.predict(PAIRS)
    assert np.array_equal(first, second)
    assert not own_tiny.model.training


@pytest.mark.parametrize(
    ("level", "asked", "shown"),
    [
        (logging.INFO, None, True),
        (logging.DEBUG, None, True),
        (logging.WARNING, None, False),
        (logging.INFO + 5, None, False),
        (logging.INFO, False, False),
        (logging.WARNING, True, True),
    ],
)
def test_the_progress_bar_follows_the_logger(
    own_tiny: CrossEncoder, capsys: pytest.CaptureFixture[str], level: int, asked: bool | None, shown: bool
) -> None:
    """None shows it at INFO and DEBUG only; True and False decide by themselves; it goes to stderr."""
    logger = logging.getLogger("secondpass")
    before = logger.level
    logger.setLevel(level)
    own_tiny.max_batch_tokens = sum(map(len, own_tiny.tokens(*zip(*PAIRS, strict=True)))) - 1
    try:
        own_tiny.predict(PAIRS, show_progress_bar=asked)
        by_predict = capsys.readouterr()
        own_tiny.rank(QUERY, DOCUMENTS, show_progress_bar=asked)
        by_rank = capsys.readouterr()
    finally:
        logger.setLevel(before)
    for captured in (by_predict, by_rank):
        assert captured.out == ""
        assert ("Batches" in captured.err) is shown
        assert ("2/2" in captured.err) is shown


class Nothing(nn.Sequential):
    """Changes nothing and, having no members, is falsy."""


@pytest.mark.parametrize("falsy", [nn.Sequential(), Nothing()])
def test_a_falsy_activation_is_applied(tiny: CrossEncoder, falsy: nn.Module) -> None:
    """What is given is given: only None is the model's own."""
    logits = tiny.predict(PAIRS, activation_fct=nn.Identity())
    assert not falsy
    assert np.array_equal(tiny.predict(PAIRS, activation_fct=falsy), logits)
    hits = tiny.rank(QUERY, DOCUMENTS, activation_fct=falsy)
    assert sorted(float(hit["score"]) for hit in hits) == sorted(logits.tolist())
    (ranking,) = tiny.rank_many([QUERY], [DOCUMENTS], activation_fct=falsy)
    assert [item.score for item in ranking.documents] == [item.logit for item in ranking.documents]
    own = CrossEncoder(tiny.config.name_or_path or tiny.tokenizer.name_or_path, default_activation_function=falsy)
    assert np.allclose(own.predict(PAIRS), logits, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 33, 100])
def test_a_score_goes_by_its_pair_and_not_by_the_size_of_the_call(tiny: CrossEncoder, size: int) -> None:
    """Equal pairs of any number have one score."""
    one = tiny.predict(PAIRS[:1])
    assert tiny.predict(PAIRS[:1] * size).tolist() == one.tolist() * size
